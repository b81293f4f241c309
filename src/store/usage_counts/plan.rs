//! Which totals and individual requests a query reads.

use std::ops::Range;

use crate::model::{UsageGroup, UsageQuery};
use crate::store::{Minute, retention};
use crate::time::Timestamp;

/// What is read to answer a query. Each request is in one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UsagePlan {
    /// The range of times that the parts cover. [`Timestamp::MAX`] stands for no end.
    pub(crate) since: Timestamp,
    pub(crate) until: Timestamp,
    pub(crate) parts: Vec<UsagePart>,
}

/// A range of totals or of individual requests. The ranges of periods are numbers since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UsagePart {
    /// The totals of minutes, which include refusals without a known key.
    Minutes(Range<Minute>),
    /// The totals of keys by hour.
    KeyHours(Range<u64>),
    /// The totals of keys by day.
    KeyDays(Range<u64>),
    /// The totals of keys of all time.
    KeyTotals,
    /// Single requests.
    Rows(Range<Timestamp>),
}

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

impl UsagePlan {
    /// Makes a plan at the time `now`. Single requests are complete from `first_row` on; there are none
    /// before.
    pub(crate) fn new(query: &UsageQuery, now: Timestamp, first_row: Option<Timestamp>) -> Self {
        let (since, until) = (query.since, query.until);
        let is_kept = |first: u64, unit: u64| since.unix_millis() / unit >= first;
        if is_in_minutes(query) && is_kept(retention::first_minute(now), MINUTE) {
            let minutes = outer(since, until, MINUTE);
            return Self::whole(minutes, MINUTE, UsagePart::Minutes);
        }
        if !is_in_key_totals(query) {
            // Nothing was recorded before the first row.
            let since = first_row.map_or(since, |first| first.max(since).min(until));
            return Self {
                since,
                until,
                parts: vec![UsagePart::Rows(since..until)],
            };
        }
        let is_unbounded = since == Timestamp::default() && until == Timestamp::MAX;
        let first_hour = retention::first_hour(now);
        match query.by {
            UsageGroup::Key if is_unbounded => Self {
                since,
                until,
                parts: vec![UsagePart::KeyTotals],
            },
            UsageGroup::Hour if !is_kept(first_hour, HOUR) => {
                let since = at(first_hour, HOUR).min(until);
                Self::whole(outer(since, until, HOUR), HOUR, UsagePart::KeyHours)
            }
            _ if is_kept(first_hour, HOUR) => {
                Self::of_periods(since..until, HOUR, UsagePart::KeyHours, first_row)
            }
            _ => Self::of_periods(since..until, DAY, UsagePart::KeyDays, first_row),
        }
    }

    /// The totals of whole periods.
    fn whole(periods: Range<u64>, unit: u64, part: fn(Range<u64>) -> UsagePart) -> Self {
        Self {
            since: at(periods.start, unit),
            until: at(periods.end, unit),
            parts: vec![part(periods)],
        }
    }

    /// The totals of whole periods, and individual requests at both ends of a range. Where individual requests are
    /// no longer kept, the whole period counts.
    fn of_periods(
        range: Range<Timestamp>,
        unit: u64,
        part: fn(Range<u64>) -> UsagePart,
        first_row: Option<Timestamp>,
    ) -> Self {
        let is_kept = |since: Timestamp| first_row.is_some_and(|first| first <= since);
        let outer = outer(range.start, range.end, unit);
        let inner = range.start.unix_millis().div_ceil(unit)..match range.end {
            Timestamp::MAX => u64::MAX,
            end => end.unix_millis() / unit,
        };
        if inner.start > inner.end {
            // Both ends are in one period.
            return match is_kept(range.start) {
                false => Self::whole(outer, unit, part),
                true => Self {
                    since: range.start,
                    until: range.end,
                    parts: vec![UsagePart::Rows(range)],
                },
            };
        }
        let (mut periods, mut covered, mut rows) = (inner.clone(), range.clone(), Vec::new());
        let head = range.start..at(inner.start, unit);
        let tail = at(inner.end, unit)..range.end;
        if is_kept(head.start) {
            rows.push(head);
        } else {
            periods.start = outer.start;
            covered.start = at(outer.start, unit);
        }
        if is_kept(tail.start) {
            rows.push(tail);
        } else {
            periods.end = outer.end;
            covered.end = at(outer.end, unit);
        }
        let rows = rows.into_iter().filter(|rows| rows.start < rows.end);
        let periods = Some(periods).filter(|periods| periods.start < periods.end);
        Self {
            since: covered.start,
            until: covered.end,
            parts: periods
                .map(part)
                .into_iter()
                .chain(rows.map(UsagePart::Rows))
                .collect(),
        }
    }

    /// Whether refusals without a known key are counted.
    pub(super) fn includes_keyless(&self) -> bool {
        matches!(self.parts.as_slice(), [UsagePart::Minutes(_)])
    }
}

/// Whether the totals of minutes can answer a query. They know neither keys nor responses.
fn is_in_minutes(query: &UsageQuery) -> bool {
    use UsageGroup::{Day, Hour, Minute, Reason};

    query.filter.is_of_reason_only() && matches!(query.by, Minute | Hour | Day | Reason)
}

/// Whether the totals of keys can answer a query. They know no reasons.
fn is_in_key_totals(query: &UsageQuery) -> bool {
    let filter = &query.filter;
    let is_known = !filter.is_of_rows_only() && !filter.is_of_refusals();
    is_known
        && matches!(
            query.by,
            UsageGroup::Hour | UsageGroup::Day | UsageGroup::Key
        )
}

/// The periods that a range of times touches.
fn outer(since: Timestamp, until: Timestamp, unit: u64) -> Range<u64> {
    let end = match until {
        Timestamp::MAX => u64::MAX,
        until => until.unix_millis().div_ceil(unit),
    };
    since.unix_millis() / unit..end
}

/// The start of a period.
fn at(period: u64, unit: u64) -> Timestamp {
    Timestamp::from_unix_millis(period.saturating_mul(unit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{KeyId, Reason};

    /// 2023-01-16T00:00:00Z
    const MIDNIGHT: u64 = 1_673_827_200_000;
    const NOW: Timestamp = Timestamp::from_unix_millis(MIDNIGHT + 12 * HOUR + 30 * MINUTE);

    fn ago(millis: u64) -> Timestamp {
        Timestamp::from_unix_millis(NOW.unix_millis() - millis)
    }

    fn plan(query: &UsageQuery) -> UsagePlan {
        UsagePlan::new(query, NOW, Some(ago(30 * DAY)))
    }

    fn hour(number: u64) -> u64 {
        MIDNIGHT / HOUR + number
    }

    #[test]
    fn ends_of_a_range_are_read_from_single_requests() {
        let query = UsageQuery::by(UsageGroup::Key);
        let since = query.clone().since(ago(2 * HOUR));
        assert_eq!(
            plan(&since).parts,
            [
                UsagePart::KeyHours(hour(11)..u64::MAX),
                UsagePart::Rows(ago(2 * HOUR)..at(hour(11), HOUR)),
            ]
        );
        assert_eq!(plan(&since).since, ago(2 * HOUR));
        let both = since.until(ago(15 * MINUTE));
        assert_eq!(
            plan(&both).parts,
            [
                UsagePart::KeyHours(hour(11)..hour(12)),
                UsagePart::Rows(ago(2 * HOUR)..at(hour(11), HOUR)),
                UsagePart::Rows(at(hour(12), HOUR)..ago(15 * MINUTE)),
            ]
        );
        let within = query.since(ago(20 * MINUTE)).until(ago(MINUTE));
        assert_eq!(
            plan(&within).parts,
            [UsagePart::Rows(ago(20 * MINUTE)..ago(MINUTE))]
        );
    }

    #[test]
    fn whole_periods_count_where_single_requests_are_not_kept() {
        let query = UsageQuery::by(UsageGroup::Key);
        let since = query.clone().since(ago(2 * HOUR));
        let whole = UsagePlan::new(&since, NOW, None);
        assert_eq!(whole.parts, [UsagePart::KeyHours(hour(10)..u64::MAX)]);
        assert_eq!(whole.since, at(hour(10), HOUR));
        assert_eq!(whole.until, Timestamp::MAX);
        let within = query.since(ago(20 * MINUTE)).until(ago(MINUTE));
        let whole = UsagePlan::new(&within, NOW, Some(ago(MINUTE)));
        assert_eq!(whole.parts, [UsagePart::KeyHours(hour(12)..hour(13))]);
        assert_eq!(
            (whole.since, whole.until),
            (at(hour(12), HOUR), at(hour(13), HOUR))
        );
    }

    #[test]
    fn ranges_of_whole_periods_read_no_single_requests() {
        let query = UsageQuery::by(UsageGroup::Hour).key_id(KeyId(1));
        let query = query.since(at(hour(3), HOUR)).until(at(hour(5), HOUR));
        assert_eq!(plan(&query).parts, [UsagePart::KeyHours(hour(3)..hour(5))]);
    }

    #[test]
    fn totals_are_read_as_long_as_they_are_kept() {
        let query = UsageQuery::by(UsageGroup::Key);
        assert_eq!(plan(&query).parts, [UsagePart::KeyTotals]);
        let by_day = UsageQuery::by(UsageGroup::Day).since(ago(91 * DAY));
        let days = MIDNIGHT / DAY - 91..u64::MAX;
        assert_eq!(plan(&by_day).parts, [UsagePart::KeyDays(days)]);
        let by_hour = UsageQuery::by(UsageGroup::Hour);
        assert_eq!(
            plan(&by_hour).parts,
            [UsagePart::KeyHours(hour(12) - 90 * 24..u64::MAX)]
        );
    }

    #[test]
    fn minutes_answer_what_depends_on_time_and_reason_only() {
        for by in [UsageGroup::Minute, UsageGroup::Hour, UsageGroup::Reason] {
            let query = UsageQuery::by(by).since(ago(47 * HOUR)).refused();
            assert!(plan(&query).includes_keyless(), "{by}");
            assert!(!plan(&query.key_id(KeyId(1))).includes_keyless(), "{by}");
        }
        let query = UsageQuery::by(UsageGroup::Minute).since(ago(90_000));
        let query = query.until(ago(30_000)).reason(Reason::UnknownKey);
        let plan = plan(&query);
        assert_eq!((plan.since, plan.until), (ago(2 * MINUTE), NOW));
    }

    #[test]
    fn everything_else_is_read_from_single_requests() {
        let old = UsageQuery::by(UsageGroup::Reason).since(ago(3 * DAY));
        assert_eq!(
            plan(&old).parts,
            [UsagePart::Rows(ago(3 * DAY)..Timestamp::MAX)]
        );
        let by_ip = UsageQuery::by(UsageGroup::Ip);
        let from_the_first = UsagePart::Rows(ago(30 * DAY)..Timestamp::MAX);
        assert_eq!(plan(&by_ip).parts, std::slice::from_ref(&from_the_first));
        let refused = UsageQuery::by(UsageGroup::Key).refused();
        assert_eq!(plan(&refused).parts, [from_the_first]);
    }
}
