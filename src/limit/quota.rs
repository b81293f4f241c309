//! Consumption of calendar quotas and credits.

use std::time::Duration;

use crate::limit::{Period, Refill};
use crate::time::{TimeZone, Timestamp};

/// The amount used in a day, in a month or of credits, and a time: the end of the day or month, or
/// the start of the refill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Balance {
    used: u64,
    at: Timestamp,
}

/// Maximum length of a day, including days on which clocks are set back.
const LONGEST_DAY: Duration = Duration::from_secs(26 * 3_600);
const LONGEST_MONTH: Duration = Duration::from_secs(31 * 86_400 + 2 * 3_600);

impl Balance {
    pub(crate) const fn stored(used: u64, at: Timestamp) -> Self {
        Self { used, at }
    }

    pub(crate) const fn used(self) -> u64 {
        self.used
    }

    pub(crate) const fn at(self) -> Timestamp {
        self.at
    }

    /// The amount used at `now`, after starting a new day or month or returning credits that are due.
    ///
    /// Setting the clock back does not return anything twice. A time that lies more than one period
    /// ahead is from a wrong clock and is moved back, so that it delays nothing by more than one
    /// period.
    #[inline]
    pub(crate) fn used_at(&mut self, now: Timestamp, period: Period, zone: &TimeZone) -> u64 {
        match period {
            Period::Credits(Some(refill)) if self.used > 0 => self.return_credits(now, refill),
            Period::Day if now >= self.at => *self = Self::stored(0, zone.end_of_day(now)),
            Period::Month if now >= self.at => *self = Self::stored(0, zone.end_of_month(now)),
            Period::Day if self.at > Self::latest(now, period) => self.at = zone.end_of_day(now),
            Period::Month if self.at > Self::latest(now, period) => {
                self.at = zone.end_of_month(now)
            }
            _ => {}
        }
        self.used
    }

    /// The latest valid time of a balance at `now`. Later times are from a wrong clock.
    pub(crate) fn latest(now: Timestamp, period: Period) -> Timestamp {
        match period {
            Period::Day => now.plus(LONGEST_DAY),
            Period::Month => now.plus(LONGEST_MONTH),
            _ => now,
        }
    }

    /// The refill starts when the first credit is spent.
    fn return_credits(&mut self, now: Timestamp, refill: Refill) {
        self.at = self.at.min(now);
        let (every, amount) = (refill.millis.get(), u64::from(refill.amount.get()));
        let times = now.unix_millis().saturating_sub(self.at.unix_millis()) / every;
        self.used = self.used.saturating_sub(times.saturating_mul(amount));
        let passed = Duration::from_millis(times.saturating_mul(every));
        self.at = self.at.plus(passed);
    }

    /// Must be called after [`Balance::used_at`] with the same time.
    pub(crate) fn consume(&mut self, now: Timestamp, period: Period, cost: u64) {
        if self.used == 0 && matches!(period, Period::Credits(_)) {
            self.at = now;
        }
        self.used = self.used.saturating_add(cost);
    }

    /// Whether consumption at `then` still counts.
    pub(crate) fn includes(&self, then: Timestamp, period: Period, zone: &TimeZone) -> bool {
        match period {
            Period::Day => zone.end_of_day(then) >= self.at,
            Period::Month => zone.end_of_month(then) >= self.at,
            _ => true,
        }
    }

    pub(crate) fn refund(&mut self, cost: u64) {
        self.used = self.used.saturating_sub(cost);
    }

    /// The time until some of the amount is returned; `None` for never.
    pub(crate) fn resets_in(&self, now: Timestamp, period: Period) -> Option<Duration> {
        self.returns_in(now, period, 1)
    }

    /// The time until `cost` fits under `limit`; `None` for never.
    pub(crate) fn retry_in(
        &self,
        now: Timestamp,
        period: Period,
        limit: u64,
        cost: u64,
    ) -> Option<Duration> {
        let excess = self.used.saturating_add(cost).saturating_sub(limit);
        self.returns_in(now, period, excess.max(1))
    }

    fn returns_in(&self, now: Timestamp, period: Period, amount: u64) -> Option<Duration> {
        match period {
            Period::Credits(Some(refill)) => {
                let times = amount.div_ceil(refill.amount.get().into());
                let wait = Duration::from_millis(times.saturating_mul(refill.millis.get()));
                Some(self.at.plus(wait).since(now))
            }
            Period::Credits(None) => None,
            _ => Some(self.at.since(now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn period(limit: &str) -> Period {
        limit.parse::<crate::limit::Limit>().unwrap().period
    }

    #[test]
    fn setting_the_clock_back_returns_nothing_twice() {
        let utc = TimeZone::utc();
        for period in [Period::Day, Period::Month, period("9 credits +1/s")] {
            let mut quota = Balance::default();
            quota.used_at(at("2026-06-01T00:00:00Z"), period, &utc);
            quota.consume(at("2026-06-01T00:00:00Z"), period, 5);
            let before = at("2026-05-31T00:00:00Z");
            assert_eq!(quota.used_at(before, period, &utc), 5, "{period:?}");
        }
    }

    #[test]
    fn a_time_ahead_moves_back_to_the_current_period() {
        let utc = TimeZone::utc();
        let (now, ahead) = (at("2026-06-10T12:00:00Z"), at("2027-06-10T12:00:00Z"));
        for (period, wait) in [
            (Period::Day, Duration::from_secs(12 * 3_600)),
            (Period::Month, Duration::from_secs(20 * 86_400 + 12 * 3_600)),
            (period("9 credits +1/h"), Duration::from_secs(3_600)),
        ] {
            let mut quota = Balance::default();
            quota.used_at(ahead, period, &utc);
            quota.consume(ahead, period, 5);
            assert_eq!(quota.used_at(now, period, &utc), 5, "{period:?}");
            assert_eq!(quota.resets_in(now, period), Some(wait), "{period:?}");
            assert!(
                quota.used_at(now.plus(wait), period, &utc) < 5,
                "{period:?}"
            );
        }
    }
}
