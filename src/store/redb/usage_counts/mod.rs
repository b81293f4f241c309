//! Counting requests: totals of keys and minutes, and individual requests.

mod page;
mod rows;

use std::ops::{ControlFlow, Range};

use foldhash::quality::RandomState;
use hashbrown::HashSet;
use redb::ReadTransaction;

use super::tables::{ACTIVITY, KEY_DAYS, KEY_HOURS, MINUTES, ORG_KEYS};
use super::usage::{SkippedBlocks, each_block, first_time};
use crate::model::{KeyId, UsageFilter, UsageQuery};
use crate::store::codec::Record;
use crate::store::totals::Activity;
use crate::store::usage_counts::{QueryTimer, UsageCounts, UsageGroups, UsagePart, UsagePlan};
use crate::store::{Count, Minute, StoreError, Tally};
use crate::time::Timestamp;

pub(super) use self::page::page;

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;

pub(super) fn count(
    txn: &ReadTransaction,
    query: &UsageQuery,
    now: Timestamp,
    skipped: &SkippedBlocks,
) -> Result<UsageCounts, StoreError> {
    let plan = UsagePlan::new(query, now, first_time(txn, skipped)?);
    let mut counting = Counting {
        txn,
        skipped,
        keys: KeyScope::read(txn, &query.filter)?,
        groups: UsageGroups::new(query),
        timer: QueryTimer::start(),
    };
    loop {
        for part in &plan.parts {
            counting.add(part)?;
        }
        if !counting.groups.needs_recount() {
            return Ok(counting.groups.finish(&plan));
        }
    }
}

struct Counting<'q> {
    txn: &'q ReadTransaction,
    skipped: &'q SkippedBlocks,
    keys: KeyScope,
    groups: UsageGroups<'q>,
    timer: QueryTimer,
}

impl Counting<'_> {
    fn add(&mut self, part: &UsagePart) -> Result<(), StoreError> {
        match part {
            UsagePart::Minutes(minutes) => self.add_minutes(minutes),
            UsagePart::KeyHours(hours) => self.add_hours(hours),
            UsagePart::KeyDays(days) => self.add_days(days),
            UsagePart::KeyTotals => self.each_activity(|groups, key, activity| {
                groups.add_period(key, 0, HOUR, activity.all_time);
            }),
            UsagePart::Rows(range) => self.add_rows(range),
        }
    }

    fn add_minutes(&mut self, minutes: &Range<Minute>) -> Result<(), StoreError> {
        for row in self.txn.open_table(MINUTES)?.range(minutes.clone())? {
            let (minute, tally) = row?;
            let tally = Tally::decode(tally.value())?;
            self.groups.add_minute(minute.value(), &tally);
        }
        Ok(())
    }

    /// Adds ended hours, and those that are running or were the last of a key.
    fn add_hours(&mut self, hours: &Range<u64>) -> Result<(), StoreError> {
        let table = self.txn.open_table(KEY_HOURS)?;
        if let KeyScope::One(key) = self.keys {
            let mut next = (hours.start, key.0);
            // The rows of other keys are skipped.
            while next.0 < hours.end
                && let Some(row) = table.range(next..(hours.end, 0))?.next()
            {
                self.timer.tick()?;
                let (place, count) = row?;
                let (hour, found) = place.value();
                if found == key.0 {
                    let count = Count::decode(count.value())?;
                    self.groups.add_period(key, hour, HOUR, count);
                }
                next = (hour.saturating_add(u64::from(found >= key.0)), key.0);
            }
        } else {
            for row in table.range((hours.start, 0)..(hours.end, 0))? {
                self.timer.tick()?;
                let (place, count) = row?;
                let (hour, key) = place.value();
                if self.keys.contains(KeyId(key)) {
                    let count = Count::decode(count.value())?;
                    self.groups.add_period(KeyId(key), hour, HOUR, count);
                }
            }
        }
        self.each_activity(|groups, key, Activity { hour, .. }| {
            if hours.contains(&hour.period) {
                groups.add_period(key, hour.period, HOUR, hour.count);
            }
        })
    }

    /// Adds ended days, and those that are running or were the last of a key.
    fn add_days(&mut self, days: &Range<u64>) -> Result<(), StoreError> {
        let table = self.txn.open_table(KEY_DAYS)?;
        for range in self.keys.ranges(days) {
            for row in table.range(range)? {
                self.timer.tick()?;
                let (place, count) = row?;
                let (key, day) = place.value();
                if days.contains(&day) {
                    let count = Count::decode(count.value())?;
                    self.groups.add_period(KeyId(key), day, DAY, count);
                }
            }
        }
        self.each_activity(|groups, key, Activity { day, .. }| {
            if days.contains(&day.period) {
                groups.add_period(key, day.period, DAY, day.count);
            }
        })
    }

    /// Calls `add` with the activity of each key that is counted.
    fn each_activity(
        &mut self,
        add: impl Fn(&mut UsageGroups<'_>, KeyId, Activity),
    ) -> Result<(), StoreError> {
        let table = self.txn.open_table(ACTIVITY)?;
        for range in self.keys.id_ranges() {
            for row in table.range(range)? {
                self.timer.tick()?;
                let (key, activity) = row?;
                let activity = Activity::decode(activity.value())?;
                add(&mut self.groups, KeyId(key.value()), activity);
            }
        }
        Ok(())
    }

    fn add_rows(&mut self, range: &Range<Timestamp>) -> Result<(), StoreError> {
        each_block(self.txn, range, self.skipped, |block| {
            self.timer.check()?;
            rows::add(block, range, &self.keys, &mut self.groups)?;
            Ok(ControlFlow::Continue(()))
        })
    }
}

/// The keys whose requests are counted.
enum KeyScope {
    All,
    One(KeyId),
    /// Those of an organization.
    Of(HashSet<KeyId, RandomState>),
}

impl KeyScope {
    fn read(txn: &ReadTransaction, filter: &UsageFilter) -> Result<Self, StoreError> {
        let Some(org) = filter.org else {
            return Ok(filter.key.map_or(Self::All, Self::One));
        };
        let table = txn.open_table(ORG_KEYS)?;
        if let Some(key) = filter.key {
            return Ok(match table.get((org.0, key.0))? {
                Some(_) => Self::One(key),
                None => Self::Of(HashSet::default()),
            });
        }
        let mut keys = HashSet::default();
        for row in table.range((org.0, 0)..=(org.0, u64::MAX))? {
            keys.insert(KeyId(row?.0.value().1));
        }
        Ok(Self::Of(keys))
    }

    fn contains(&self, key: KeyId) -> bool {
        match self {
            Self::All => true,
            Self::One(one) => key == *one,
            Self::Of(keys) => keys.contains(&key),
        }
    }

    /// The ranges of ids of the keys.
    fn id_ranges(&self) -> Vec<Range<u64>> {
        let all = 0..u64::MAX;
        let one = |key: &KeyId| key.0..key.0.saturating_add(1);
        match self {
            Self::All => vec![all],
            Self::One(key) => vec![one(key)],
            Self::Of(keys) => keys.iter().map(one).collect(),
        }
    }

    /// The ranges of (key, period) with all rows of the keys in these periods.
    fn ranges(&self, periods: &Range<u64>) -> Vec<Range<(u64, u64)>> {
        let in_periods = |ids: Range<u64>| match self {
            Self::All => (ids.start, 0)..(ids.end, 0),
            _ => (ids.start, periods.start)..(ids.start, periods.end),
        };
        self.id_ranges().into_iter().map(in_periods).collect()
    }
}
