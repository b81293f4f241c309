//! Counts by group, in bounded memory.

use foldhash::quality::RandomState;
use hashbrown::HashMap;

use super::{UsageCounts, UsagePlan};
use crate::model::{KeyId, Reason, UsageGroup, UsageQuery};
use crate::net::ClientIp;
use crate::store::{Count, Minute, Tally};
use crate::time::Timestamp;

/// What the requests of a group have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum GroupValue {
    /// The start of a period.
    Start(Timestamp),
    Key(KeyId),
    Path(String),
    Status(u16),
    Ip(ClientIp),
    /// `None` for requests that were not refused.
    Reason(Option<Reason>),
}

/// The counts of a query by group.
///
/// Memory is bounded for any number of groups. If there are more groups than fit, counting finds out
/// which ones have many requests (by the algorithm of Misra and Gries), and a second count makes
/// their numbers exact. Groups with few requests are then missing from the rows, but not from the total.
pub(crate) struct UsageGroups<'q> {
    query: &'q UsageQuery,
    /// The number of groups that are kept when there are more than twice as many.
    capacity: usize,
    counts: HashMap<GroupValue, Count, RandomState>,
    total: Count,
    /// Every group with more requests is among the counted ones.
    missed: u64,
    /// Whether only the groups of the first count are counted.
    is_recount: bool,
}

/// At most twice as many groups take about 50 MiB, if they are long paths.
const CAPACITY: usize = 65_536;

impl<'q> UsageGroups<'q> {
    pub(crate) fn new(query: &'q UsageQuery) -> Self {
        Self::with_capacity(query, CAPACITY)
    }

    fn with_capacity(query: &'q UsageQuery, capacity: usize) -> Self {
        Self {
            query,
            capacity,
            counts: HashMap::default(),
            total: Count::default(),
            missed: 0,
            is_recount: false,
        }
    }

    pub(crate) fn query(&self) -> &'q UsageQuery {
        self.query
    }

    /// Adds requests to a group.
    pub(crate) fn add(&mut self, group: GroupValue, count: Count) {
        if count == Count::default() {
            return;
        }
        self.total.add(count);
        if self.is_recount {
            if let Some(sum) = self.counts.get_mut(&group) {
                sum.add(count);
            }
            return;
        }
        self.counts.entry(group).or_default().add(count);
        if self.counts.len() > 2 * self.capacity {
            self.drop_small();
        }
    }

    /// Adds the requests of a key in a period of `unit` milliseconds.
    pub(crate) fn add_period(&mut self, key: KeyId, period: u64, unit: u64, count: Count) {
        let group = match self.query.by {
            UsageGroup::Key => GroupValue::Key(key),
            _ => self.start_of(period.saturating_mul(unit)),
        };
        self.add(group, count);
    }

    /// Adds the total of a minute, without what the filter excludes.
    pub(crate) fn add_minute(&mut self, minute: Minute, tally: &Tally) {
        let UsageQuery { by, filter, .. } = self.query;
        let start = self.start_of(minute.saturating_mul(60_000));
        let mut refused = Count::default();
        for (code, requests) in (0..).zip(tally.refused) {
            let reason = Reason::from_code(code);
            if requests == 0 || !filter.accepts_reason(reason) {
                continue;
            }
            let count = Count {
                requests,
                errors: requests,
            };
            refused.add(count);
            if *by == UsageGroup::Reason {
                self.add(GroupValue::Reason(reason), count);
            }
        }
        let of_refusals = filter.is_of_refusals();
        match by {
            UsageGroup::Reason if of_refusals => {}
            UsageGroup::Reason => {
                let admitted = Count {
                    requests: tally.count.requests.saturating_sub(refused.requests),
                    errors: tally.count.errors.saturating_sub(refused.errors),
                };
                self.add(GroupValue::Reason(None), admitted);
            }
            _ if of_refusals => self.add(start, refused),
            _ => self.add(start, tally.count),
        }
    }

    /// The period of a time in milliseconds since the Unix epoch.
    pub(crate) fn start_of(&self, millis: u64) -> GroupValue {
        let unit = self.query.by.period_millis().unwrap_or(1);
        GroupValue::Start(Timestamp::from_unix_millis(millis / unit * unit))
    }

    /// Subtracts from every group as many requests as leave `capacity` groups, and drops the empty ones. A
    /// dropped group thus had no more requests than were subtracted in all.
    fn drop_small(&mut self) {
        let mut requests: Vec<u64> = self.counts.values().map(|count| count.requests).collect();
        let at = requests.len().saturating_sub(self.capacity);
        let (_, &mut least, _) = requests.select_nth_unstable(at);
        self.missed = self.missed.saturating_add(least);
        self.counts.retain(|_, count| {
            count.requests = count.requests.saturating_sub(least);
            count.requests > 0
        });
    }

    /// Whether the same requests must be added a second time. Prepares for that.
    pub(crate) fn needs_recount(&mut self) -> bool {
        if self.is_recount || self.missed == 0 {
            return false;
        }
        self.is_recount = true;
        self.total = Count::default();
        self.counts
            .values_mut()
            .for_each(|count| *count = Count::default());
        true
    }

    pub(crate) fn finish(self, plan: &UsagePlan) -> UsageCounts {
        let mut rows: Vec<_> = self.counts.into_iter().collect();
        rows.retain(|(_, count)| count.requests > self.missed);
        in_order(self.query, &mut rows);
        plan.counts(self.total, rows)
    }
}

/// Sorts the rows of a query and cuts them: the latest periods in order, or the groups with the most
/// requests, by descending requests.
pub(crate) fn in_order(query: &UsageQuery, rows: &mut Vec<(GroupValue, Count)>) {
    if query.by.period_millis().is_some() {
        rows.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        rows.drain(..rows.len().saturating_sub(query.limit));
        return;
    }
    rows.sort_unstable_by(|(one, of_one), (other, of_other)| {
        let by_requests = of_other.requests.cmp(&of_one.requests);
        by_requests.then_with(|| one.cmp(other))
    });
    rows.truncate(query.limit);
}

impl UsagePlan {
    /// Returns the counts of the planned range.
    pub(crate) fn counts(&self, total: Count, rows: Vec<(GroupValue, Count)>) -> UsageCounts {
        UsageCounts {
            since: Some(self.since).filter(|since| *since > Timestamp::default()),
            until: Some(self.until).filter(|until| *until < Timestamp::MAX),
            includes_keyless: self.includes_keyless(),
            total,
            rows,
            omitted_blocks: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    fn one(errors: u64) -> Count {
        Count {
            requests: 1,
            errors,
        }
    }

    fn count(requests: &[(u16, u64)], capacity: usize, limit: usize) -> UsageCounts {
        let query = UsageQuery::by(UsageGroup::Status).limit(limit);
        let mut groups = UsageGroups::with_capacity(&query, capacity);
        let plan = UsagePlan::new(&query, Timestamp::MAX, None);
        loop {
            for &(status, errors) in requests {
                groups.add(GroupValue::Status(status), one(errors));
                assert!(groups.counts.len() <= 2 * capacity);
            }
            if !groups.needs_recount() {
                return groups.finish(&plan);
            }
        }
    }

    fn naive(requests: &[(u16, u64)]) -> Vec<(GroupValue, Count)> {
        let mut counts: BTreeMap<u16, Count> = BTreeMap::new();
        for &(status, errors) in requests {
            counts.entry(status).or_default().add(one(errors));
        }
        let mut rows: Vec<_> = counts.into_iter().collect();
        rows.sort_by_key(|(status, count)| (std::cmp::Reverse(count.requests), *status));
        let rows = rows.into_iter();
        rows.map(|(status, count)| (GroupValue::Status(status), count))
            .collect()
    }

    proptest! {
        #[test]
        fn rows_are_exact_and_the_most_used_for_any_capacity(
            requests in prop::collection::vec((0..60_u16, 0..2_u64), 0..600),
            heavy in 0..60_u16,
            capacity in 1..30_usize,
        ) {
            let more = requests.iter().map(|_| (heavy, 1));
            let requests: Vec<_> = requests.iter().copied().chain(more).collect();
            let expected = naive(&requests);
            let counts = count(&requests, capacity, 1_000);
            prop_assert_eq!(counts.total.requests, requests.len() as u64);
            prop_assert_eq!(&counts.rows[..], &expected[..counts.rows.len()]);
            // A group with more than its share is never missing.
            let share = requests.len() as u64 / capacity as u64;
            let must = expected.iter().filter(|(_, count)| count.requests > share).count();
            prop_assert!(counts.rows.len() >= must, "{} of {must}", counts.rows.len());
        }
    }

    #[test]
    fn limit_keeps_the_most_used_groups_and_the_latest_periods() {
        let requests = [(200, 0), (404, 1), (200, 0), (500, 1)];
        let rows = count(&requests, 10, 2).rows;
        assert_eq!(rows, naive(&requests)[..2]);

        let query = UsageQuery::by(UsageGroup::Hour).limit(2);
        let mut groups = UsageGroups::new(&query);
        for hour in [7, 9, 8] {
            groups.add_period(KeyId(1), hour, 3_600_000, one(0));
        }
        let plan = UsagePlan::new(&query, Timestamp::default(), None);
        let start = |hour: u64| GroupValue::Start(Timestamp::from_unix_millis(hour * 3_600_000));
        let counts = groups.finish(&plan);
        assert_eq!(counts.rows, [(start(8), one(0)), (start(9), one(0))]);
        assert_eq!(counts.total.requests, 3);
    }

    #[test]
    fn minutes_count_admitted_requests_apart_from_refusals() {
        let mut tally = Tally {
            count: Count {
                requests: 10,
                errors: 4,
            },
            ..Tally::default()
        };
        tally.refused[Reason::UnknownKey as usize] = 2;
        tally.refused[Reason::RateLimited as usize] = 1;
        let rows = |query: UsageQuery| {
            let mut groups = UsageGroups::new(&query);
            groups.add_minute(61, &tally);
            let plan = UsagePlan::new(&query, Timestamp::default(), None);
            groups.finish(&plan).rows
        };
        let refused = |reason, requests| {
            let errors = requests;
            (GroupValue::Reason(Some(reason)), Count { requests, errors })
        };
        let admitted = Count {
            requests: 7,
            errors: 1,
        };
        let by_reason = UsageQuery::by(UsageGroup::Reason);
        assert_eq!(
            rows(by_reason.clone()),
            [
                (GroupValue::Reason(None), admitted),
                refused(Reason::UnknownKey, 2),
                refused(Reason::RateLimited, 1),
            ]
        );
        let limited = by_reason.reason(Reason::RateLimited);
        assert_eq!(rows(limited), [refused(Reason::RateLimited, 1)]);
        let hour = GroupValue::Start(Timestamp::from_unix_millis(3_600_000));
        let all = Count {
            requests: 3,
            errors: 3,
        };
        let by_hour = UsageQuery::by(UsageGroup::Hour).refused();
        assert_eq!(rows(by_hour), [(hour, all)]);
    }
}
