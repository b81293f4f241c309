//! Header fields that say how a limit stands.

use std::fmt::Write;
use std::time::Duration;

use crate::counter::Rule;
use crate::limit::Period;

/// The four fields of a limit, their values one behind the other.
pub(crate) struct LimitFields {
    pub(crate) text: String,
    /// Where each value ends.
    pub(crate) ends: [usize; 4],
}

impl LimitFields {
    pub(crate) const NAMES: [&str; 4] = [
        "X-RateLimit-Limit",
        "X-RateLimit-Remaining",
        "RateLimit-Policy",
        "RateLimit",
    ];

    /// `reset` is `None` where waiting does not help.
    pub(super) fn new(rule: &Rule, remaining: u64, reset: Option<Duration>) -> Self {
        let limit = rule.limit.amount;
        let (window, most) = match rule.limit.period {
            // A hit counts from the later end of its grain; the fields show whole windows.
            Period::Sliding(length) => (Some(length.seconds()), length.seconds()),
            // Days and months differ in length, and `w` is optional.
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

    /// Text takes whatever is written to it.
    #[inline]
    fn write(&mut self, field: usize, write: impl FnOnce(&mut String) -> std::fmt::Result) {
        let _ = write(&mut self.text);
        self.ends[field] = self.text.len();
    }

    /// Names and values.
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
