//! The length of a sliding window.

use std::num::NonZeroU64;

use crate::input::InvalidInput;

/// The length of a sliding window and its grain.
///
/// The grain is `max(1 ms, length / 60,000)`, so a window never has more than about 60,000 distinct
/// times, whatever its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WindowLength {
    nanos: NonZeroU64,
}

const SHORTEST_GRAIN: u64 = 1_000_000;

impl WindowLength {
    pub(crate) const MINUTE: Self = Self::seconds_long(60);
    pub(crate) const HOUR: Self = Self::seconds_long(3_600);

    const fn seconds_long(seconds: u64) -> Self {
        match NonZeroU64::new(seconds * 1_000_000_000) {
            Some(nanos) => Self { nanos },
            None => unreachable!(),
        }
    }

    /// Checks that a window is 1 ms to 366 days long.
    pub(crate) fn new(length: std::time::Duration) -> Result<Self, InvalidInput> {
        const LONGEST: std::time::Duration = std::time::Duration::from_secs(366 * 86_400);
        let nanos = u64::try_from(length.as_nanos())
            .ok()
            .and_then(NonZeroU64::new);
        match nanos {
            Some(nanos) if nanos.get() >= 1_000_000 && length <= LONGEST => Ok(Self { nanos }),
            _ => Err(InvalidInput::new(
                "window",
                "expected a window of 1 ms to 366 days",
            )),
        }
    }

    pub(crate) const fn nanos(self) -> u64 {
        self.nanos.get()
    }

    #[inline]
    pub(crate) const fn grain_nanos(self) -> u64 {
        // Divides for windows above a minute only.
        if self.nanos() <= 60_000 * SHORTEST_GRAIN {
            SHORTEST_GRAIN
        } else {
            self.nanos().div_ceil(60_000)
        }
    }

    /// The number of whole grains in `nanos`.
    #[inline]
    pub(crate) const fn grains(self, nanos: u64) -> u64 {
        match self.grain_nanos() {
            // A constant divisor for all windows up to a minute.
            SHORTEST_GRAIN => nanos / SHORTEST_GRAIN,
            grain => nanos / grain,
        }
    }

    /// Whole seconds, rounded up, as in header fields.
    pub(crate) const fn seconds(self) -> u64 {
        self.nanos().div_ceil(1_000_000_000)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_grain_follows_the_window() {
        let grain = |secs| {
            WindowLength::new(Duration::from_secs(secs))
                .unwrap()
                .grain_nanos()
        };
        assert_eq!(grain(1), 1_000_000);
        assert_eq!(grain(60), 1_000_000);
        assert_eq!(grain(3_600), 60_000_000);
        assert_eq!(
            WindowLength::MINUTE,
            WindowLength::new(Duration::from_secs(60)).unwrap()
        );
    }

    #[test]
    fn a_window_has_bounds() {
        assert!(WindowLength::new(Duration::from_micros(999)).is_err());
        assert!(WindowLength::new(Duration::from_secs(366 * 86_400 + 1)).is_err());
    }
}
