//! Calendar quotas: how much of a month's allowance is used.

use std::time::Duration;

use time::{Date, Month, OffsetDateTime, Time};

use crate::clock::Timestamp;

/// A calendar month in UTC, counted from January of year 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CalendarMonth(pub(crate) u32);

impl CalendarMonth {
    pub(crate) fn of(at: Timestamp) -> Self {
        let date = at.to_utc();
        // A timestamp lies between the years 1970 and 9999.
        Self(date.year() as u32 * 12 + u32::from(u8::from(date.month())) - 1)
    }

    /// The first instant of this month.
    fn start(self) -> Timestamp {
        let month = Month::try_from((self.0 % 12 + 1) as u8).unwrap_or(Month::January);
        Date::from_calendar_date((self.0 / 12) as i32, month, 1).map_or(Timestamp::MAX, |date| {
            OffsetDateTime::new_utc(date, Time::MIDNIGHT).into()
        })
    }

    /// The first instant that no longer belongs to this month.
    fn end(self) -> Timestamp {
        Self(self.0 + 1).start()
    }
}

/// What has been consumed of a monthly quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct QuotaUse {
    pub(crate) month: CalendarMonth,
    pub(crate) used: u64,
}

impl QuotaUse {
    /// Starts anew if `now` lies in a later month, and returns what this month has used.
    /// A calendar that was set back does not give a month's allowance a second time.
    pub(crate) fn used_at(&mut self, now: Timestamp) -> u64 {
        let month = CalendarMonth::of(now);
        if month > self.month {
            *self = Self { month, used: 0 };
        }
        self.used
    }

    pub(crate) fn record(&mut self, cost: u64) {
        self.used += cost;
    }

    /// How long after `now` the quota starts anew.
    pub(crate) fn renews_in(&self, now: Timestamp) -> Duration {
        self.month.end().since(now)
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    fn at(time: OffsetDateTime) -> Timestamp {
        time.into()
    }

    #[test]
    fn a_month_ends_where_the_calendar_says() {
        let mut quota = QuotaUse::default();
        assert_eq!(quota.used_at(at(datetime!(2028-02-28 23:59:59 UTC))), 0);
        quota.record(7);
        assert_eq!(quota.used_at(at(datetime!(2028-02-29 23:59:59.999 UTC))), 7);
        assert_eq!(
            quota.renews_in(at(datetime!(2028-02-29 23:59:59 UTC))),
            Duration::from_secs(1)
        );
        assert_eq!(quota.used_at(at(datetime!(2028-03-01 0:00 UTC))), 0);
    }

    #[test]
    fn a_year_ends_too() {
        let december = CalendarMonth::of(at(datetime!(2026-12-31 12:00 UTC)));
        assert_eq!(december.end(), at(datetime!(2027-01-01 0:00 UTC)));
        assert_eq!(
            december.end().since(december.start()),
            Duration::from_secs(31 * 86_400)
        );
    }

    #[test]
    fn a_calendar_set_back_gives_nothing_twice() {
        let mut quota = QuotaUse::default();
        quota.used_at(at(datetime!(2026-06-01 0:00 UTC)));
        quota.record(5);
        assert_eq!(quota.used_at(at(datetime!(2026-05-31 0:00 UTC))), 5);
    }
}
