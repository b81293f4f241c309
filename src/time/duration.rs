//! Durations and lock durations as text.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::civil::{Date, Time};
use jiff::tz;

use crate::input::{InvalidInput, deserialize_from_text, try_from_text};
use crate::time::{TimeZone, Timestamp};

/// The duration of a lock: a fixed duration, or until the next occurrence of a time of day.
///
/// A fixed duration is a number of seconds, or a sum of weeks, days, hours, minutes and seconds, from 1
/// second to 3,650 days in total. A time of day is written with 12 or 24 hours and means its next
/// occurrence in [`Config::time_zone`](crate::Config::time_zone).
///
/// ```
/// use std::time::Duration;
/// use keyguard::LockDuration;
///
/// for text in ["3600", "1 hour", "60 minutes", "3600s", "1h"] {
///     assert_eq!(text.parse(), LockDuration::try_from(Duration::from_secs(3_600)));
/// }
/// assert_eq!("4:00 PM".parse::<LockDuration>(), "16:00".parse());
/// assert!("4pmish".parse::<LockDuration>().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockDuration(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Fixed(Duration),
    Until(Time),
}

const LONGEST: Duration = Duration::from_secs(3_650 * 86_400);

/// Longest first, the order in which they are written.
const UNITS: [(u64, &str, &[&str]); 5] = [
    (604_800, "week", &["w", "week", "weeks"]),
    (86_400, "day", &["d", "day", "days"]),
    (3_600, "hour", &["h", "hr", "hrs", "hour", "hours"]),
    (60, "minute", &["m", "min", "mins", "minute", "minutes"]),
    (1, "second", &["s", "sec", "secs", "second", "seconds"]),
];

impl LockDuration {
    /// The length of a fixed duration; `None` for a time of day.
    pub(crate) fn length(self) -> Option<Duration> {
        match self.0 {
            Kind::Fixed(duration) => Some(duration),
            Kind::Until(_) => None,
        }
    }

    /// The end of a lock that starts at `now`. A time of day skipped by a clock change means the
    /// time after the jump; of one that occurs twice, the next occurrence counts.
    pub(crate) fn ends_at(
        self,
        now: Timestamp,
        zone: &TimeZone,
    ) -> Result<Timestamp, InvalidInput> {
        match self.0 {
            Kind::Fixed(duration) => Ok(now.plus(duration)),
            Kind::Until(time) => next(time, now, zone),
        }
    }
}

fn next(time: Time, now: Timestamp, zone: &TimeZone) -> Result<Timestamp, InvalidInput> {
    let zone = zone.0.as_ref().ok_or_else(|| {
        InvalidInput::new(
            "duration",
            "is a time of day, but the system's time zone is unknown; set the time zone, or give a \
             duration such as `1 hour`",
        )
    })?;
    let beyond = |_| {
        InvalidInput::new(
            "duration",
            "ends after the year 9999; expected an earlier time",
        )
    };
    let millis = i64::try_from(now.unix_millis()).unwrap_or(i64::MAX);
    let now = jiff::Timestamp::from_millisecond(millis).map_err(beyond)?;
    let mut day = zone.to_datetime(now).date();
    loop {
        if let Some(found) = first_after(now, day, time, zone).map_err(beyond)? {
            let millis = u64::try_from(found.as_millisecond()).unwrap_or(0);
            return Ok(Timestamp::from_unix_millis(millis));
        }
        day = day.tomorrow().map_err(beyond)?;
    }
}

/// The next instant after `now` at which clocks show `time` on that day.
fn first_after(
    now: jiff::Timestamp,
    day: Date,
    time: Time,
    zone: &tz::TimeZone,
) -> Result<Option<jiff::Timestamp>, jiff::Error> {
    let local = day.to_datetime(time);
    let ambiguous = zone.to_ambiguous_timestamp(local);
    let times = match ambiguous.offset() {
        // The first instant after the skipped hour: under the offset after the jump, the skipped
        // time lies before it.
        tz::AmbiguousOffset::Gap { .. } => {
            let before = ambiguous.earlier()?;
            let jump = zone.following(before).next().map(|jump| jump.timestamp());
            vec![jump.unwrap_or(before)]
        }
        _ => vec![ambiguous.earlier()?, ambiguous.later()?],
    };
    Ok(times.into_iter().find(|found| *found > now))
}

/// A duration of 1 second to 3,650 days.
impl TryFrom<Duration> for LockDuration {
    type Error = InvalidInput;

    fn try_from(duration: Duration) -> Result<Self, Self::Error> {
        bounded("duration", duration).map(|duration| Self(Kind::Fixed(duration)))
    }
}

impl FromStr for LockDuration {
    type Err = InvalidInput;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let given = text;
        let text = text.trim_ascii().to_ascii_lowercase();
        if let Some(time) = time_of_day(&text) {
            return Ok(Self(Kind::Until(time)));
        }
        let duration = parse_duration(&text).ok_or_else(|| {
            InvalidInput::of(
                "duration",
                given,
                "is neither a duration such as `3600`, `90s`, `30 minutes`, `1h 30m` or `1 day` nor a \
                 time of day such as `4 PM`, `4:00 PM` or `16:00`",
            )
        })?;
        Self::try_from(duration)
    }
}

deserialize_from_text!(LockDuration);
try_from_text!(LockDuration);

/// Parses a duration of 1 second to 3,650 days, with the units of [`LockDuration`].
pub(crate) fn parse_bounded(field: &'static str, text: &str) -> Result<Duration, InvalidInput> {
    let duration = parse_duration(&text.trim_ascii().to_ascii_lowercase());
    duration.filter(is_within_bounds).ok_or_else(|| {
        InvalidInput::of(
            field,
            text,
            "is not a duration from 1 second to 3650 days, such as `90s`, `30 minutes` or `1 day`",
        )
    })
}

/// Parses an argument of the command line by [`parse_bounded`].
#[cfg(feature = "cli")]
pub(crate) fn duration_argument(text: &str) -> Result<Duration, String> {
    parse_bounded("duration", text).map_err(|error| error.to_string())
}

fn is_within_bounds(duration: &Duration) -> bool {
    (Duration::from_secs(1)..=LONGEST).contains(duration)
}

/// Checks that a duration is 1 second to 3,650 days long.
fn bounded(field: &'static str, duration: Duration) -> Result<Duration, InvalidInput> {
    is_within_bounds(&duration)
        .then_some(duration)
        .ok_or_else(|| InvalidInput::new(field, "is not between 1 second and 3650 days"))
}

/// Parses a duration. Returns `None` if the text is not one; saturates on overflow.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let mut rest = text;
    let mut units = UNITS.iter();
    let mut total = 0_u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, after) = rest.split_at(digits);
        let after = after.trim_start_matches(' ');
        let letters = after
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(after.len());
        let (name, after) = after.split_at(letters);
        // Each unit at most once, larger units first.
        let (seconds, ..) = units.find(|(_, _, names)| names.contains(&name))?;
        if number.is_empty() {
            return None;
        }
        let number: u64 = number.parse().unwrap_or(u64::MAX);
        total = total.saturating_add(number.saturating_mul(*seconds));
        rest = after.trim_start_matches(' ');
    }
    (!text.is_empty()).then_some(Duration::from_secs(total))
}

/// `16:00`, `16:00:30`, `4:00 pm`, `4 pm`, `4pm`.
fn time_of_day(text: &str) -> Option<Time> {
    let (clock, afternoon) = match (text.strip_suffix("am"), text.strip_suffix("pm")) {
        (Some(clock), _) => (clock.trim_end(), Some(false)),
        (_, Some(clock)) => (clock.trim_end(), Some(true)),
        _ => (text, None),
    };
    let mut parts = clock.split(':');
    let mut number = |most_digits: std::ops::RangeInclusive<usize>| {
        let part = parts.next()?;
        let is_number =
            most_digits.contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| part.parse::<i8>().ok()).flatten()
    };
    let hour = number(1..=2)?;
    let colons = clock.matches(':').count();
    let minute = if colons > 0 { number(2..=2)? } else { 0 };
    let second = if colons > 1 { number(2..=2)? } else { 0 };
    let hour = match afternoon {
        Some(afternoon) if (1..=12).contains(&hour) => hour % 12 + if afternoon { 12 } else { 0 },
        None if colons > 0 => hour,
        _ => return None,
    };
    if colons > 2 || second > 59 {
        return None;
    }
    Time::new(hour, minute, second, 0).ok()
}

/// Durations are written in weeks, days, hours, minutes and seconds. The output can be parsed again.
impl fmt::Display for LockDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let duration = match self.0 {
            Kind::Until(time) => return write!(f, "{}", time.strftime("%H:%M:%S")),
            Kind::Fixed(duration) => duration,
        };
        let mut rest = duration.as_secs();
        let mut separator = "";
        for (seconds, name, _) in UNITS {
            let count = rest / seconds;
            if count > 0 {
                let plural = if count == 1 { "" } else { "s" };
                write!(f, "{separator}{count} {name}{plural}")?;
                separator = " ";
            }
            rest %= seconds;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Option<u64> {
        match text.parse::<LockDuration>().ok()?.0 {
            Kind::Fixed(duration) => Some(duration.as_secs()),
            Kind::Until(_) => None,
        }
    }

    /// Checks the ends of locks in a zone: the text, the start, and the end.
    #[track_caller]
    fn check_ends(zone: &str, locks: &[(&str, &str, &str)]) {
        let zone = zone.parse().unwrap();
        for (text, start, end) in locks {
            let duration: LockDuration = text.parse().unwrap();
            let found = duration.ends_at(start.parse().unwrap(), &zone).unwrap();
            assert_eq!(found.to_string(), *end, "{text} at {start}");
        }
    }

    #[test]
    fn common_spellings_of_durations_parse() {
        for (text, expected) in [
            ("3600", 3_600),
            (" 90s ", 90),
            ("90 s", 90),
            ("1 hour", 3_600),
            ("2 Hours", 7_200),
            ("30 minutes", 1_800),
            ("15min", 900),
            ("1 day", 86_400),
            ("7d", 604_800),
            ("1h 30m", 5_400),
            ("1h30m", 5_400),
            ("1 week", 604_800),
            ("3650 days", 315_360_000),
        ] {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn invalid_durations_are_rejected() {
        for text in [
            "",
            " ",
            "0",
            "0s",
            "-1",
            "-1h",
            "1.5h",
            "1e3",
            "4pmish",
            "25:00",
            "24:00",
            "13 PM",
            "0 PM",
            "16:60",
            "16:00:60",
            "16:0",
            "1:2:3:4",
            "h",
            "hour",
            "1 fortnight",
            "1m 1h",
            "1h 1h",
            "1h30",
            "3651 days",
            "99999999999999999999",
            "99999999999999999999d",
            "+5",
            "１ hour",
            "4:00 XM",
            "noon",
            "1\u{a0}hour",
            "16:00 PM",
            "::",
            "pm",
            "next week",
        ] {
            let parsed = text.parse::<LockDuration>();
            assert!(parsed.is_err(), "{text}: {parsed:?}");
        }
    }

    #[test]
    fn durations_have_bounds() {
        for duration in [
            Duration::ZERO,
            Duration::from_millis(999),
            LONGEST + Duration::from_nanos(1),
        ] {
            assert!(LockDuration::try_from(duration).is_err(), "{duration:?}");
        }
        for duration in [Duration::from_secs(1), LONGEST] {
            assert!(LockDuration::try_from(duration).is_ok(), "{duration:?}");
        }
    }

    #[test]
    fn common_spellings_of_times_parse() {
        for (text, expected) in [
            ("16:00", "16:00:00"),
            ("4:00 PM", "16:00:00"),
            ("4 PM", "16:00:00"),
            ("4pm", "16:00:00"),
            ("04:05 am", "04:05:00"),
            ("12 AM", "00:00:00"),
            ("12 PM", "12:00:00"),
            ("12:30 am", "00:30:00"),
            ("0:00", "00:00:00"),
            ("16:00:30", "16:00:30"),
        ] {
            assert_eq!(
                text.parse::<LockDuration>().unwrap().to_string(),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn displayed_durations_parse_back() {
        for text in [
            "1 second",
            "1 week 1 day 1 hour 1 minute 1 second",
            "521 weeks",
            "23:59:59",
        ] {
            let time: LockDuration = text.parse().unwrap();
            assert_eq!(time.to_string(), text);
        }
    }

    #[test]
    fn a_time_of_day_means_its_next_occurrence() {
        let locks = [
            // 15:59, 16:00 and 16:01 in summer.
            ("4 PM", "2026-07-01T13:59:00Z", "2026-07-01T14:00:00Z"),
            ("4 PM", "2026-07-01T14:00:00Z", "2026-07-02T14:00:00Z"),
            ("4 PM", "2026-07-01T14:01:00Z", "2026-07-02T14:00:00Z"),
            ("00:30", "2026-12-31T23:15:00Z", "2026-12-31T23:30:00Z"),
        ];
        check_ends("Europe/Berlin", &locks);
    }

    #[test]
    fn days_with_clock_changes_have_other_lengths() {
        let locks = [
            // 08:00 on the day before and after each change.
            ("8:00", "2026-03-07T13:00:00Z", "2026-03-08T12:00:00Z"),
            ("8:00", "2026-10-31T12:00:00Z", "2026-11-01T13:00:00Z"),
            // Fixed durations ignore clock changes.
            ("1 day", "2026-03-07T13:00:00Z", "2026-03-08T13:00:00Z"),
        ];
        check_ends("America/New_York", &locks);
    }

    #[test]
    fn a_skipped_time_moves_to_the_end_of_the_jump() {
        let locks = [
            ("2:30", "2026-03-28T22:00:00Z", "2026-03-29T01:00:00Z"),
            ("2:30", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"),
        ];
        check_ends("Europe/Berlin", &locks);
    }

    /// Regression: the first skipped moment was moved to the next day.
    #[test]
    fn the_instant_of_a_jump_is_not_moved() {
        let locks = [
            ("2:00 AM", "2026-03-08T06:00:00Z", "2026-03-08T07:00:00Z"),
            ("2:00:01", "2026-03-08T06:00:00Z", "2026-03-08T07:00:00Z"),
            ("2:59:59", "2026-03-08T06:59:59Z", "2026-03-08T07:00:00Z"),
            ("3:00 AM", "2026-03-08T06:00:00Z", "2026-03-08T07:00:00Z"),
            ("2:00 AM", "2026-03-08T07:00:00Z", "2026-03-09T06:00:00Z"),
        ];
        check_ends("America/New_York", &locks);
        let locks = [
            ("12:00 AM", "2026-09-06T03:00:00Z", "2026-09-06T04:00:00Z"),
            ("00:30", "2026-09-06T03:00:00Z", "2026-09-06T04:00:00Z"),
        ];
        check_ends("America/Santiago", &locks);
        // A jump of half an hour, and a skipped day.
        let locks = [("2:15", "2026-10-03T15:00:00Z", "2026-10-03T15:30:00Z")];
        check_ends("Australia/Lord_Howe", &locks);
        let locks = [("12:00", "2011-12-30T00:00:00Z", "2011-12-30T10:00:00Z")];
        check_ends("Pacific/Apia", &locks);
    }

    #[test]
    fn a_repeated_time_means_its_next_occurrence() {
        let locks = [
            ("2:30", "2026-10-24T22:00:00Z", "2026-10-25T00:30:00Z"),
            ("2:30", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"),
            ("2:30", "2026-10-25T01:30:00Z", "2026-10-26T01:30:00Z"),
        ];
        check_ends("Europe/Berlin", &locks);
    }

    #[test]
    fn an_unknown_zone_rejects_times_of_day_only() {
        let zone = TimeZone(None);
        let ends = |text: &str| {
            text.parse::<LockDuration>()
                .unwrap()
                .ends_at(Timestamp::default(), &zone)
        };
        assert!(ends("16:00").unwrap_err().to_string().contains("time zone"));
        assert_eq!(ends("1s"), Ok(Timestamp::from_unix_millis(1_000)));
    }
}
