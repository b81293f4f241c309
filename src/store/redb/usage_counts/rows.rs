//! Counting the rows of a block by indices of its dictionaries: what a filter accepts, and to which group
//! a row belongs, is decided once per entry instead of once per row.

use std::ops::Range;

use super::KeyScope;
use crate::model::{UsageFilter, UsageGroup, UsageQuery};
use crate::store::codec::usage_block::{IndexedRow, UsageBlockReader};
use crate::store::usage_counts::{GroupValue, UsageGroups};
use crate::store::{Count, StoreError};
use crate::time::Timestamp;

/// Adds the rows of a block that are in a range of times and that the query asks for.
pub(super) fn add(
    block: &[u8],
    range: &Range<Timestamp>,
    keys: &KeyScope,
    groups: &mut UsageGroups<'_>,
) -> Result<(), StoreError> {
    let UsageQuery { by, filter, .. } = groups.query();
    let mut reader = UsageBlockReader::new(block);
    let mut accepted = Accepted::default();
    let mut counts = BlockCounts::new(*by);
    while let Some(row) = reader.next_indexed() {
        let row = row?;
        accepted.extend(&reader, filter, keys)?;
        if !is_within(range, row.at) {
            continue;
        }
        if let Some(errors) = accepted.errors(row) {
            let count = Count {
                requests: 1,
                errors,
            };
            counts.add(row, count, groups);
        }
    }
    counts.finish(&reader, groups)
}

/// [`Timestamp::MAX`] stands for no end.
fn is_within(range: &Range<Timestamp>, at: Timestamp) -> bool {
    at >= range.start && (at < range.end || range.end == Timestamp::MAX)
}

/// The entries of the dictionaries whose rows are counted.
#[derive(Default)]
struct Accepted {
    keys: Vec<bool>,
    paths: Vec<bool>,
    ips: Vec<bool>,
    /// The errors in a row: 0 or 1; `None` if it is not counted.
    outcomes: Vec<Option<u64>>,
}

impl Accepted {
    /// Adds the entries that are new.
    #[inline]
    fn extend(
        &mut self,
        reader: &UsageBlockReader<'_>,
        filter: &UsageFilter,
        keys: &KeyScope,
    ) -> Result<(), StoreError> {
        while let Some(key) = reader.key(self.keys.len()) {
            self.keys.push(keys.contains(key));
        }
        while let Some(path) = reader.path(self.paths.len()) {
            let accepts = |path: &[u8]| {
                let filter = filter.path.as_ref();
                filter.is_none_or(|filter| filter.accepts(&String::from_utf8_lossy(path)))
            };
            self.paths.push(accepts(path));
        }
        while let Some(ip) = reader.ip(self.ips.len()) {
            let ips = filter.ips.as_ref();
            self.ips.push(ips.is_none_or(|ips| ips.contains(ip)));
        }
        while let Some(outcome) = reader.outcome(self.outcomes.len()) {
            let outcome = outcome?;
            let is_accepted = filter.accepts_outcome(outcome.status, outcome.refused);
            let is_error = outcome.refused.is_some() || outcome.status >= 400;
            self.outcomes.push(is_accepted.then_some(is_error.into()));
        }
        Ok(())
    }

    /// Returns the errors in a row; `None` if it is not counted.
    #[inline]
    fn errors(&self, row: IndexedRow) -> Option<u64> {
        let is_accepted = |list: &[bool], index: usize| list.get(index) == Some(&true);
        let is_counted = is_accepted(&self.keys, row.key)
            && is_accepted(&self.paths, row.path)
            && is_accepted(&self.ips, row.ip);
        let errors = self.outcomes.get(row.outcome).copied().flatten();
        errors.filter(|_| is_counted)
    }
}

/// The counts of a block.
struct BlockCounts {
    by: UsageGroup,
    /// By an index of a dictionary.
    by_index: Vec<Count>,
    /// The number of the period of the last row, and its count so far.
    period: (u64, Count),
}

impl BlockCounts {
    fn new(by: UsageGroup) -> Self {
        Self {
            by,
            by_index: Vec::new(),
            period: Default::default(),
        }
    }

    #[inline]
    fn add(&mut self, row: IndexedRow, count: Count, groups: &mut UsageGroups<'_>) {
        let index = match self.by {
            UsageGroup::Key => row.key,
            UsageGroup::Path => row.path,
            UsageGroup::Ip => row.ip,
            UsageGroup::Status | UsageGroup::Reason => row.outcome,
            UsageGroup::Minute | UsageGroup::Hour | UsageGroup::Day => {
                return self.add_to_period(row.at, count, groups);
            }
        };
        if index >= self.by_index.len() {
            self.by_index.resize(index + 1, Count::default());
        }
        if let Some(sum) = self.by_index.get_mut(index) {
            sum.add(count);
        }
    }

    fn add_to_period(&mut self, at: Timestamp, count: Count, groups: &mut UsageGroups<'_>) {
        let unit = self.by.period_millis().unwrap_or(1);
        let period = at.unix_millis() / unit;
        if period != self.period.0 {
            self.end_period(groups);
            self.period.0 = period;
        }
        self.period.1.add(count);
    }

    fn end_period(&mut self, groups: &mut UsageGroups<'_>) {
        let unit = self.by.period_millis().unwrap_or(1);
        let (period, count) = std::mem::take(&mut self.period);
        groups.add(groups.start_of(period * unit), count);
    }

    fn finish(
        mut self,
        reader: &UsageBlockReader<'_>,
        groups: &mut UsageGroups<'_>,
    ) -> Result<(), StoreError> {
        self.end_period(groups);
        for (index, count) in self.by_index.iter().enumerate() {
            if count.requests > 0 {
                groups.add(group_of(reader, self.by, index)?, *count);
            }
        }
        Ok(())
    }
}

/// The group of an index.
fn group_of(
    reader: &UsageBlockReader<'_>,
    by: UsageGroup,
    index: usize,
) -> Result<GroupValue, StoreError> {
    let outcome = || reader.outcome(index).transpose();
    let group = match by {
        UsageGroup::Key => reader.key(index).map(GroupValue::Key),
        UsageGroup::Path => reader.path(index).map(|path| {
            let path = String::from_utf8_lossy(path);
            GroupValue::Path(path.into_owned())
        }),
        UsageGroup::Ip => reader.ip(index).map(GroupValue::Ip),
        UsageGroup::Status => outcome()?.map(|outcome| GroupValue::Status(outcome.status)),
        UsageGroup::Reason => outcome()?.map(|outcome| GroupValue::Reason(outcome.refused)),
        UsageGroup::Minute | UsageGroup::Hour | UsageGroup::Day => None,
    };
    group.ok_or_else(|| StoreError::damaged("a block of usage has no such entry"))
}
