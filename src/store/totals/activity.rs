//! The running totals of one key.

use super::Count;
use crate::time::Timestamp;

/// The totals of one key that change with each batch. The running hour and day are kept here until
/// they end, so that a batch costs one write per key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Activity {
    /// When the key was last admitted.
    pub(crate) last_used_at: Option<Timestamp>,
    pub(crate) all_time: Count,
    pub(crate) hour: Running,
    pub(crate) day: Running,
}

/// The running hour or day, as a number since the Unix epoch, and its count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) period: u64,
    pub(crate) count: Count,
}

/// An hour or day that is over, and its count.
pub(in crate::store) type Ended = (u64, Count);

impl Activity {
    /// Notes a use. A known time ahead of `now` comes from a wrong clock and is replaced.
    pub(in crate::store) fn use_at(&mut self, at: Timestamp, now: Timestamp) {
        let known = self.last_used_at.filter(|known| *known <= now);
        self.last_used_at = known.max(Some(at));
    }
}

impl Running {
    /// Merges `count` into the running period by `merge`. A later period takes the place of the running
    /// one. Returns the count that belongs to an ended period.
    pub(in crate::store) fn merge(
        &mut self,
        period: u64,
        count: Count,
        merge: fn(&mut Count, Count),
    ) -> Option<Ended> {
        if period < self.period {
            return Some((period, count));
        }
        if period == self.period {
            merge(&mut self.count, count);
            return None;
        }
        let ended = std::mem::replace(self, Self { period, count });
        (ended.count != Count::default()).then_some((ended.period, ended.count))
    }
}
