//! Deleting what is past its retention, a bounded amount at a time.

use redb::{ReadTransaction, ReadableTable, WriteTransaction};

use super::audit;
use super::usage::OpenBlock;
use crate::store::StoreError;
use crate::store::codec::{DONE, KEY_HOURS, MINUTES, USAGE_BLOCKS, USAGE_OPEN, USAGE_SPANS};
use crate::time::Timestamp;

/// For how many minutes totals of minutes are kept: 48 hours.
const MINUTES_KEPT: u64 = 48 * 60;
/// For how many hours totals of a key's hours are kept: 90 days.
const HOURS_KEPT: u64 = 90 * 24;

/// The most rows that one call deletes from a table.
const MOST_ROWS: usize = 10_000;

/// What to delete.
#[derive(Default)]
pub(super) struct Due {
    blocks: Vec<u64>,
    pub(super) open_block: bool,
    minutes: Vec<u64>,
    key_hours: Vec<(u64, u64)>,
    done: Vec<[u8; 32]>,
}

impl Due {
    pub(super) fn is_nothing(&self) -> bool {
        self.blocks.is_empty()
            && !self.open_block
            && self.minutes.is_empty()
            && self.key_hours.is_empty()
            && self.done.is_empty()
    }
}

/// Looks at the oldest rows of each table and reads no block but the growing one.
pub(super) fn due(
    txn: &ReadTransaction,
    open_block: Option<&OpenBlock>,
    raw_before: Timestamp,
    now: Timestamp,
) -> Result<Due, StoreError> {
    let mut due = Due::default();
    // Not only up to the first block that stays: one row from a clock that ran ahead must not keep
    // every later block.
    for row in txn.open_table(USAGE_SPANS)?.iter()?.take(MOST_ROWS) {
        let (number, period) = row?;
        if period.value().1 < raw_before.unix_millis() {
            due.blocks.push(number.value());
        }
    }
    let period = match open_block {
        Some(block) => block.span(),
        None => OpenBlock::resume(&txn.open_table(USAGE_OPEN)?)?.span(),
    };
    due.open_block = period.is_some_and(|period| period.last < raw_before);

    let first_kept = now.minute().saturating_sub(MINUTES_KEPT);
    let minutes = txn.open_table(MINUTES)?.range(..first_kept)?;
    for row in minutes.take(MOST_ROWS) {
        due.minutes.push(row?.0.value());
    }
    let first_kept = (now.hour().saturating_sub(HOURS_KEPT), 0);
    let key_hours = txn.open_table(KEY_HOURS)?.range(..first_kept)?;
    for row in key_hours.take(MOST_ROWS) {
        due.key_hours.push(row?.0.value());
    }
    due.done = audit::over(txn, now, MOST_ROWS)?;
    Ok(due)
}

pub(super) fn delete(txn: &WriteTransaction, due: &Due) -> Result<(), StoreError> {
    let mut blocks = txn.open_table(USAGE_BLOCKS)?;
    let mut spans = txn.open_table(USAGE_SPANS)?;
    for number in &due.blocks {
        blocks.remove(number)?;
        spans.remove(number)?;
    }
    if due.open_block {
        txn.open_table(USAGE_OPEN)?.retain(|_, _| false)?;
    }
    let mut minutes = txn.open_table(MINUTES)?;
    for minute in &due.minutes {
        minutes.remove(minute)?;
    }
    let mut key_hours = txn.open_table(KEY_HOURS)?;
    for hour in &due.key_hours {
        key_hours.remove(hour)?;
    }
    let mut done = txn.open_table(DONE)?;
    for name in &due.done {
        done.remove(name)?;
    }
    Ok(())
}
