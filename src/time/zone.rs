//! Time zones, and the ends of days and months in them.

use std::fmt;
use std::str::FromStr;

use jiff::tz;

use crate::input::{InvalidInput, try_from_text};
use crate::time::Timestamp;

/// An IANA time zone.
///
/// ```
/// use keyguard::TimeZone;
/// assert_eq!("Europe/Berlin".parse::<TimeZone>().unwrap().to_string(), "Europe/Berlin");
/// assert!("Europe/Atlantis".parse::<TimeZone>().is_err());
/// ```
#[derive(Clone, Debug)]
pub struct TimeZone(pub(super) Option<tz::TimeZone>);

impl TimeZone {
    /// The zone of the system. If it cannot be determined, times of day are rejected.
    pub fn system() -> Self {
        Self(tz::TimeZone::try_system().ok())
    }

    /// Coordinated Universal Time.
    pub fn utc() -> Self {
        Self(Some(tz::TimeZone::UTC))
    }

    /// Whether the zone is known.
    pub(crate) fn is_known(&self) -> bool {
        self.0.is_some()
    }

    /// The first instant after the day of `now`. An unknown zone is treated as UTC.
    pub(crate) fn end_of_day(&self, now: Timestamp) -> Timestamp {
        self.start_of(now, |date| date.tomorrow())
    }

    /// The first instant after the month of `now`.
    pub(crate) fn end_of_month(&self, now: Timestamp) -> Timestamp {
        self.start_of(now, |date| date.last_of_month().tomorrow())
    }

    /// The first instant of the day that `next` computes from the day of `now`; [`Timestamp::MAX`]
    /// beyond the calendar.
    fn start_of(
        &self,
        now: Timestamp,
        next: impl FnOnce(jiff::civil::Date) -> Result<jiff::civil::Date, jiff::Error>,
    ) -> Timestamp {
        let zone = self.0.clone().unwrap_or(tz::TimeZone::UTC);
        let start = || {
            let millis = i64::try_from(now.unix_millis()).ok()?;
            let now = jiff::Timestamp::from_millisecond(millis).ok()?;
            let day = next(zone.to_datetime(now).date()).ok()?;
            let start = zone.to_timestamp(day.at(0, 0, 0, 0)).ok()?;
            u64::try_from(start.as_millisecond()).ok()
        };
        start().map_or(Timestamp::MAX, Timestamp::from_unix_millis)
    }
}

impl FromStr for TimeZone {
    type Err = InvalidInput;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let zone = tz::TimeZone::get(text);
        zone.map(|zone| Self(Some(zone))).map_err(|_| {
            InvalidInput::of(
                "time_zone",
                text,
                "is not an IANA time zone such as `Europe/Berlin` or `UTC`",
            )
        })
    }
}

try_from_text!(TimeZone);

impl fmt::Display for TimeZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self
            .0
            .as_ref()
            .map(|zone| zone.iana_name().unwrap_or("local"));
        f.write_str(name.unwrap_or("unknown"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APIA: &str = "Pacific/Apia";
    const BERLIN: &str = "Europe/Berlin";
    const HAVANA: &str = "America/Havana";
    const KOLKATA: &str = "Asia/Kolkata";
    const NEW_YORK: &str = "America/New_York";

    fn end_of_day(zone: &str, now: &str) -> String {
        let zone: TimeZone = zone.parse().unwrap();
        zone.end_of_day(now.parse().unwrap()).to_string()
    }

    fn end_of_month(zone: &str, now: &str) -> String {
        let zone: TimeZone = zone.parse().unwrap();
        zone.end_of_month(now.parse().unwrap()).to_string()
    }

    #[test]
    fn days_end_by_time_zone() {
        for (zone, now, end) in [
            ("UTC", "2026-02-28T00:00:00Z", "2026-03-01T00:00:00Z"),
            ("UTC", "2026-02-28T23:59:59.999Z", "2026-03-01T00:00:00Z"),
            (KOLKATA, "2026-02-28T18:29:59Z", "2026-02-28T18:30:00Z"),
            // Days of 23 and of 25 hours.
            (BERLIN, "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"),
            (BERLIN, "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
            // A day that begins at 01:00, and a skipped day.
            (HAVANA, "2026-03-07T12:00:00Z", "2026-03-08T05:00:00Z"),
            (APIA, "2011-12-30T09:00:00Z", "2011-12-30T10:00:00Z"),
        ] {
            assert_eq!(end_of_day(zone, now), end, "{zone} {now}");
        }
    }

    #[test]
    fn months_end_by_time_zone() {
        for (zone, now, end) in [
            ("UTC", "2028-02-28T23:59:59Z", "2028-03-01T00:00:00Z"),
            ("UTC", "2028-02-29T23:59:59.999Z", "2028-03-01T00:00:00Z"),
            ("UTC", "2026-12-31T12:00:00Z", "2027-01-01T00:00:00Z"),
            (NEW_YORK, "2026-11-01T03:59:59Z", "2026-11-01T04:00:00Z"),
            (NEW_YORK, "2026-11-01T04:00:00Z", "2026-12-01T05:00:00Z"),
        ] {
            assert_eq!(end_of_month(zone, now), end, "{zone} {now}");
        }
    }

    #[test]
    fn the_last_month_has_no_end() {
        assert_eq!(TimeZone::utc().end_of_month(Timestamp::MAX), Timestamp::MAX);
    }
}
