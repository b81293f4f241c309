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
        let limit = rule.limit.amount;
        let (window, most) = match rule.limit.period {
            // A hit counts from the end of its grain, so that a reset may be later than one window.
            Period::Sliding(length) => (Some(length.seconds()), length.seconds()),
            // Days and months vary in length, and `w` is optional.
            _ => (None, u64::MAX),
        };
        let mut fields = Self {
            text: String::with_capacity(112),
            ends: [0; 4],
        };
        fields.write(0, |text| write!(text, "{limit}"));
        fields.write(1, |text| write!(text, "{remaining}"));
        fields.write(2, |text| {
            write!(text, r#""{rule}";q={limit}"#)?;
            window.map_or(Ok(()), |window| write!(text, ";w={window}"))
        });
        fields.write(3, |text| {
            write!(text, r#""{rule}";r={remaining}"#)?;
            reset.map_or(Ok(()), |reset| {
                write!(text, ";t={}", whole_seconds(reset).min(most))
            })
        });
        fields
    }

    /// Writing to a `String` never fails.
    #[inline]
    fn write(&mut self, field: usize, write: impl FnOnce(&mut String) -> std::fmt::Result) {
        let _ = write(&mut self.text);
        self.ends[field] = self.text.len();
    }

    /// Returns the names and values.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&'static str, String)> {
        let starts = std::iter::once(0).chain(self.ends);
        let values = starts
            .zip(self.ends)
            .map(|(start, end)| &self.text[start..end]);
        Self::NAMES
            .into_iter()
            .zip(values)
            .map(|(name, value)| (name, value.to_owned()))
    }
}

pub(super) fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}
