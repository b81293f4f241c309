//! Readings of the monotonic clock.

use std::time::Duration;

/// A monotonic time in nanoseconds. Clocks start at [`Moment::START`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(pub(super) u64);

impl Moment {
    pub(crate) const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Later than every other moment.
    pub(crate) const NEVER: Self = Self(u64::MAX);

    /// The start of every clock. Late enough that every window can begin before it.
    pub(super) const START: Self = Self(400 * 86_400 * 1_000_000_000);

    pub(crate) const fn nanos(self) -> u64 {
        self.0
    }

    /// This moment moved later by `by`.
    pub(crate) fn plus(self, by: Duration) -> Self {
        let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(by))
    }

    /// This moment moved earlier by `by`.
    pub(crate) fn minus(self, by: Duration) -> Self {
        let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(by))
    }

    /// Time since `earlier`; zero if `earlier` is later.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
