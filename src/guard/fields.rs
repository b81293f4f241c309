//! Header fields with the state of a limit.

use std::fmt::Write;
use std::time::Duration;

use crate::counter::Rule;
use crate::limit::Period;

/// The four header fields of a limit, their values concatenated.
pub(crate) struct LimitFields {
    pub(crate) text: String,
    /// The end of each value in the text.
    pub(crate) ends: [usize; 4],
}

impl LimitFields {
    pub(crate) const NAMES: [&str; 4] = [
        "X-RateLimit-Limit",
        "X-RateLimit-Remaining",
        "RateLimit-Policy",
        "RateLimit",
    ];

    /// `reset` is `None` if waiting does not help.
    pub(super) fn new(rule: &Rule, remaining: u64, reset: Option<Duration>) -> Self {
        let limit = rule.limit.amount.get();
        let (window, most) = match rule.limit.period {
            // A hit counts from the end of its grain, so that a reset may be later than one window.
            Period::Sliding(length) => (Some(length.seconds()), length.seconds()),
            // Days and months vary in length, and `w` is optional.
            _ => (None, u64::MAX),
        };
        let reset = reset.map(|reset| whole_seconds(reset).min(most));
        let mut text = String::with_capacity(112);
        let mut ends = [0; 4];
        push_number(&mut text, limit);
        ends[0] = text.len();
        push_number(&mut text, remaining);
        ends[1] = text.len();
        // Writing to a `String` never fails.
        let _ = write!(text, r#""{rule}""#);
        let name = ends[1]..text.len();
        push_parameter(&mut text, ";q=", Some(limit));
        push_parameter(&mut text, ";w=", window);
        ends[2] = text.len();
        text.extend_from_within(name);
        push_parameter(&mut text, ";r=", Some(remaining));
        push_parameter(&mut text, ";t=", reset);
        ends[3] = text.len();
        Self { text, ends }
    }

    /// Returns the names and values.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let starts = std::iter::once(0).chain(self.ends);
        let values = starts
            .zip(self.ends)
            .map(|(start, end)| &self.text[start..end]);
        Self::NAMES.into_iter().zip(values)
    }
}

fn push_parameter(text: &mut String, name: &str, value: Option<u64>) {
    if let Some(value) = value {
        text.push_str(name);
        push_number(text, value);
    }
}

/// Appends a number in decimal digits.
pub(crate) fn push_number(text: &mut String, number: u64) {
    text.push_str(itoa::Buffer::new().format(number));
}

pub(super) fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}
