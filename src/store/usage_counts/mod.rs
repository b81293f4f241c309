//! Counting recorded requests by a group: from totals where these suffice, else from individual requests.
//!
//! [`UsagePlan`] says what is read for a [`UsageQuery`](crate::model::UsageQuery), and [`UsageGroups`]
//! counts it in bounded memory. A backend reads the parts of the plan.

mod groups;
mod plan;

use std::time::{Duration, Instant};

#[cfg(feature = "postgres")]
pub(crate) use self::groups::in_order;
pub(crate) use self::groups::{GroupValue, UsageGroups};
pub(crate) use self::plan::{UsagePart, UsagePlan};
use super::{Count, StoreError};
use crate::model::Usage;
use crate::time::Timestamp;

/// The longest time that a query takes.
pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(10);

/// The counts of the requests that a query asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UsageCounts {
    /// The counted range of times; `None` for no bound. It is wider than that of the query where totals
    /// of whole periods are counted.
    pub(crate) since: Option<Timestamp>,
    pub(crate) until: Option<Timestamp>,
    /// Whether refusals without a known key are counted.
    pub(crate) includes_keyless: bool,
    /// The sum over all groups.
    pub(crate) total: Count,
    /// Periods in order, or other groups by descending requests.
    pub(crate) rows: Vec<(GroupValue, Count)>,
    /// Damaged blocks of requests that are not counted.
    pub(crate) omitted_blocks: u64,
}

/// Some of the individual requests that a query asks for, in the order of recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UsagePage {
    pub(crate) rows: Vec<Usage>,
    /// Where the next page begins; `None` at the end. A page before the end may have no rows.
    pub(crate) next: Option<u64>,
}

/// Ends a query that takes too long.
pub(crate) struct QueryTimer {
    ends_at: Instant,
    ticks: u32,
}

impl QueryTimer {
    pub(crate) fn start() -> Self {
        Self {
            ends_at: Instant::now() + TIME_LIMIT,
            ticks: 0,
        }
    }

    /// Fails with [`StoreError::TooMuchUsage`] if the time is over.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        match Instant::now() < self.ends_at {
            true => Ok(()),
            false => Err(StoreError::TooMuchUsage),
        }
    }

    /// Like [`QueryTimer::check`], for a piece of work so short that only some calls read the clock.
    pub(crate) fn tick(&mut self) -> Result<(), StoreError> {
        self.ticks = self.ticks.wrapping_add(1);
        match self.ticks % 4_096 {
            0 => self.check(),
            _ => Ok(()),
        }
    }
}
