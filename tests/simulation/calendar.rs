//! The calendar of Berlin, counted day by day.

pub(crate) const HOUR: u64 = 3_600_000;
pub(crate) const DAY: u64 = 24 * HOUR;

/// A date, and the number of its day since 1970-01-01.
#[derive(Clone, Copy)]
struct Date {
    day: u64,
    year: u64,
    month: u64,
    day_of_month: u64,
}

/// The first instant after the day of `now`, in milliseconds since the Unix epoch.
pub(crate) fn end_of_day(now: u64) -> u64 {
    start_of(local_date(now).day + 1)
}

/// The first instant after the month of `now`, in milliseconds since the Unix epoch.
pub(crate) fn end_of_month(now: u64) -> u64 {
    let date = local_date(now);
    start_of(date.day + days_in(date.year, date.month) - date.day_of_month + 1)
}

fn local_date(now: u64) -> Date {
    date((now + offset(now)) / DAY)
}

/// The instant at which a local day starts. Clocks do not change at midnight.
fn start_of(local_day: u64) -> u64 {
    let starts = [HOUR, 2 * HOUR].map(|offset| (offset, local_day * DAY - offset));
    let is_right = |(before_utc, start): &&(u64, u64)| offset(*start) == *before_utc;
    starts.iter().find(is_right).unwrap().1
}

/// How far local time is ahead of UTC: two hours from 1 o'clock UTC on the last Sunday of March until
/// 1 o'clock UTC on the last Sunday of October, else one.
fn offset(now: u64) -> u64 {
    let today = date(now / DAY);
    let is_summer = match today.month {
        4..=9 => true,
        3 => now >= last_sunday(today) * DAY + HOUR,
        10 => now < last_sunday(today) * DAY + HOUR,
        _ => false,
    };
    if is_summer { 2 * HOUR } else { HOUR }
}

/// The last Sunday of the month of a date. The day 0 was a Thursday.
fn last_sunday(date: Date) -> u64 {
    let last = date.day + days_in(date.year, date.month) - date.day_of_month;
    last - (last + 4) % 7
}

fn date(day: u64) -> Date {
    let (mut year, mut month, mut rest) = (1970, 1, day);
    while rest >= 365 + u64::from(is_leap(year)) {
        rest -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    while rest >= days_in(year, month) {
        rest -= days_in(year, month);
        month += 1;
    }
    Date {
        day,
        year,
        month,
        day_of_month: rest + 1,
    }
}

fn days_in(year: u64, month: u64) -> u64 {
    match month {
        2 => 28 + u64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400)
}

#[test]
fn days_and_months_end_at_local_midnight() {
    for (now, day, month) in [
        (
            "2026-01-15T12:00:00Z",
            "2026-01-15T23:00:00Z",
            "2026-01-31T23:00:00Z",
        ),
        (
            "2026-01-15T23:00:00Z",
            "2026-01-16T23:00:00Z",
            "2026-01-31T23:00:00Z",
        ),
        // A day of 23 hours, and one of 25.
        (
            "2026-03-28T23:00:00Z",
            "2026-03-29T22:00:00Z",
            "2026-03-31T22:00:00Z",
        ),
        (
            "2026-10-24T22:00:00Z",
            "2026-10-25T23:00:00Z",
            "2026-10-31T23:00:00Z",
        ),
        (
            "2028-02-28T23:00:00Z",
            "2028-02-29T23:00:00Z",
            "2028-02-29T23:00:00Z",
        ),
        (
            "2027-12-31T22:59:59Z",
            "2027-12-31T23:00:00Z",
            "2027-12-31T23:00:00Z",
        ),
    ] {
        let [now, day, month] = [now, day, month].map(|text| {
            let timestamp: keyguard::Timestamp = text.parse().unwrap();
            timestamp.unix_millis()
        });
        assert_eq!((end_of_day(now), end_of_month(now)), (day, month));
    }
}
