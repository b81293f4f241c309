//! Header fields with the state of a limit.

use std::ops::Range;
use std::time::Duration;

use crate::counter::Rule;
use crate::limit::Period;

/// The header fields that tell clients about limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RateLimitHeaders {
    /// The fields of both other sets.
    #[default]
    Both,
    /// `X-RateLimit-Limit` and `X-RateLimit-Remaining`.
    XRateLimit,
    /// `RateLimit-Policy` and `RateLimit`, of draft-ietf-httpapi-ratelimit-headers-10.
    Ietf,
    /// No fields.
    None,
}

/// The header fields of a limit, their values concatenated.
pub(crate) struct LimitFields {
    pub(crate) text: String,
    /// The end of each value in the text.
    pub(crate) ends: [usize; 4],
    /// The indexes of the fields to send; the values of others are empty.
    pub(crate) sent: Range<usize>,
}

impl LimitFields {
    pub(crate) const NAMES: [&str; 4] = [
        "X-RateLimit-Limit",
        "X-RateLimit-Remaining",
        "RateLimit-Policy",
        "RateLimit",
    ];

    /// `reset` is `None` if waiting does not help.
    pub(super) fn new(
        headers: RateLimitHeaders,
        rule: &Rule,
        remaining: u64,
        reset: Option<Duration>,
    ) -> Option<Self> {
        let sent = match headers {
            RateLimitHeaders::Both => 0..4,
            RateLimitHeaders::XRateLimit => 0..2,
            RateLimitHeaders::Ietf => 2..4,
            RateLimitHeaders::None => return None,
        };
        let mut fields = Self {
            text: String::with_capacity(112),
            ends: [0; 4],
            sent,
        };
        if fields.sent.start == 0 {
            fields.write_x_rate_limit(rule, remaining);
        }
        if fields.sent.end == 4 {
            fields.write_ietf(rule, remaining, reset);
        }
        Some(fields)
    }

    fn write_x_rate_limit(&mut self, rule: &Rule, remaining: u64) {
        push_number(&mut self.text, rule.limit.amount.get());
        self.ends[0] = self.text.len();
        push_number(&mut self.text, remaining);
        self.ends[1] = self.text.len();
    }

    fn write_ietf(&mut self, rule: &Rule, remaining: u64, reset: Option<Duration>) {
        let (window, most) = match rule.limit.period {
            // A hit counts from the end of its grain, so that a reset may be later than one window.
            Period::Sliding(length) => (Some(length.seconds()), length.seconds()),
            // Days and months vary in length, and `w` is optional.
            _ => (None, u64::MAX),
        };
        let reset = reset.map(|reset| whole_seconds(reset).min(most));
        let text = &mut self.text;
        let start = text.len();
        text.push('"');
        rule.push_name(text);
        text.push('"');
        let name = start..text.len();
        push_parameter(text, ";q=", Some(rule.limit.amount.get()));
        push_parameter(text, ";w=", window);
        self.ends[2] = text.len();
        text.extend_from_within(name);
        push_parameter(text, ";r=", Some(remaining));
        push_parameter(text, ";t=", reset);
        self.ends[3] = text.len();
    }

    /// Returns the names and values.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let value = |index: usize| {
            let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
            &self.text[start..self.ends[index]]
        };
        let sent = self.sent.clone();
        sent.map(move |index| (Self::NAMES[index], value(index)))
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
