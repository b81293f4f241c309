//! How long totals are kept.

use super::Minute;
use crate::time::Timestamp;

/// The retention of totals per minute: 48 hours.
const MINUTES_KEPT: u64 = 48 * 60;
/// The retention of totals per key and hour: 90 days.
const HOURS_KEPT: u64 = 90 * 24;

/// The most rows of a table that one pruning deletes, so that it stays short.
pub(super) const MOST_PRUNED: u32 = 10_000;

/// The first minute whose totals are kept.
pub(crate) fn first_minute(now: Timestamp) -> Minute {
    now.minute().saturating_sub(MINUTES_KEPT)
}

/// The first hour, since the Unix epoch, whose totals of keys are kept.
pub(crate) fn first_hour(now: Timestamp) -> u64 {
    now.hour().saturating_sub(HOURS_KEPT)
}
