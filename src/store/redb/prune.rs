//! Deleting data past its retention, a bounded amount at a time.

use redb::{ReadTransaction, ReadableTable, WriteTransaction};

use super::tables::{
    COMPLETED_REQUESTS, EVENT_MARKS, KEY_HOURS, MINUTES, USAGE_BLOCKS, USAGE_OPEN, USAGE_TIMES,
};
use super::usage::OpenBlock;
use super::{audit, outbox};
use crate::store::{StoreError, retention};
use crate::time::Timestamp;

const MOST_ROWS: usize = retention::MOST_PRUNED as usize;

/// Rows to delete.
#[derive(Default)]
pub(super) struct Due {
    pub(super) blocks: Vec<u64>,
    /// Those of `blocks` that cannot be read, and therefore not be deleted. They are forgotten.
    pub(super) damaged_blocks: Vec<u64>,
    pub(super) open_block: bool,
    minutes: Vec<u64>,
    key_hours: Vec<(u64, u64)>,
    requests: Vec<[u8; 32]>,
    event_marks: Vec<String>,
}

impl Due {
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
            && !self.open_block
            && self.minutes.is_empty()
            && self.key_hours.is_empty()
            && self.requests.is_empty()
            && self.event_marks.is_empty()
    }
}

/// Finds what to delete. Reads the oldest rows of each table, and no block but the growing one.
pub(super) fn due(
    txn: &ReadTransaction,
    open_block: Option<&OpenBlock>,
    raw_before: Timestamp,
    now: Timestamp,
) -> Result<Due, StoreError> {
    let mut due = Due::default();
    // Looks behind a block that stays: a row from a clock that was ahead must not keep later blocks.
    for row in txn.open_table(USAGE_TIMES)?.iter()?.take(MOST_ROWS) {
        let (number, times) = row?;
        if times.value().1 < raw_before.unix_millis() {
            due.blocks.push(number.value());
        }
    }
    let times = match open_block {
        Some(block) => block.times(),
        None => OpenBlock::resume(&txn.open_table(USAGE_OPEN)?)?.times(),
    };
    due.open_block = times.is_some_and(|times| times.last < raw_before);

    let minutes = txn.open_table(MINUTES)?;
    for row in minutes
        .range(..retention::first_minute(now))?
        .take(MOST_ROWS)
    {
        due.minutes.push(row?.0.value());
    }
    let key_hours = txn.open_table(KEY_HOURS)?;
    for row in key_hours
        .range(..(retention::first_hour(now), 0))?
        .take(MOST_ROWS)
    {
        due.key_hours.push(row?.0.value());
    }
    due.requests = audit::expired_requests(txn, now, MOST_ROWS)?;
    due.event_marks = outbox::ended_marks(txn, now, MOST_ROWS)?;
    Ok(due)
}

pub(super) fn delete(txn: &WriteTransaction, due: &Due) -> Result<(), StoreError> {
    let mut blocks = txn.open_table(USAGE_BLOCKS)?;
    let mut times = txn.open_table(USAGE_TIMES)?;
    for number in &due.blocks {
        if !due.damaged_blocks.contains(number) {
            blocks.remove(number)?;
        }
        times.remove(number)?;
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
    let mut requests = txn.open_table(COMPLETED_REQUESTS)?;
    for name in &due.requests {
        requests.remove(name)?;
    }
    let mut marks = txn.open_table(EVENT_MARKS)?;
    for text in &due.event_marks {
        marks.remove(text.as_str())?;
    }
    Ok(())
}
