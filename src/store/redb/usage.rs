//! Raw usage: one row a request, packed into blocks.
//!
//! Each batch appends its rows to the growing block as one piece. A full block replaces its pieces, so
//! that a commit of ten requests costs few bytes, and a thousand requests take no more space than their
//! blocks.

use std::ops::{ControlFlow, Range};

use redb::{ReadTransaction, ReadableTable, Table, WriteTransaction};

use super::rows::missing;
use super::tables::{USAGE_BLOCKS, USAGE_OPEN, USAGE_TIMES};
use crate::model::{KeyId, Usage};
use crate::store::codec::usage_block::{TimeRange, UsageBlockReader, UsageBlockWriter};
use crate::store::{StoreError, UsageBatch};
use crate::time::Timestamp;

/// The growing block.
pub(super) struct OpenBlock {
    writer: UsageBlockWriter,
    /// The number of bytes in [`USAGE_OPEN`].
    saved: usize,
    /// The number of pieces there.
    pieces: u64,
}

struct Tables<'txn> {
    open: Table<'txn, u64, &'static [u8]>,
    blocks: Table<'txn, u64, &'static [u8]>,
    times: Table<'txn, u64, (u64, u64)>,
}

/// Appends the events of a batch to the growing block. `current` is the block after the last commit;
/// `None` reads it from the file. Returns the block in its state after `txn` commits.
pub(super) fn add(
    txn: &WriteTransaction,
    current: Option<OpenBlock>,
    batch: &UsageBatch,
) -> Result<OpenBlock, StoreError> {
    let mut tables = Tables {
        open: txn.open_table(USAGE_OPEN)?,
        blocks: txn.open_table(USAGE_BLOCKS)?,
        times: txn.open_table(USAGE_TIMES)?,
    };
    let mut block = match current {
        Some(block) => block,
        None => OpenBlock::resume(&tables.open)?,
    };
    for (event, path) in batch.events_with_paths() {
        if !block.writer.has_room() {
            block.seal(&mut tables)?;
        }
        block.writer.push(event, path)?;
    }
    block.save(&mut tables.open)?;
    Ok(block)
}

/// Returns at most `limit` rows since `from`, in the order of recording.
pub(super) fn since(
    txn: &ReadTransaction,
    key: Option<KeyId>,
    from: Timestamp,
    limit: usize,
) -> Result<Vec<Usage>, StoreError> {
    let mut found = Vec::new();
    let range = from..Timestamp::MAX;
    each_block(txn, &range, |block| {
        for row in UsageBlockReader::new(block) {
            let (event, path) = row?;
            if found.len() == limit {
                return Ok(ControlFlow::Break(()));
            }
            if event.at >= from && key.is_none_or(|key| event.key_id == key) {
                found.push(event.to_usage(path));
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

/// Calls `read` for the blocks that may have rows in a range of times, in the order of recording, until
/// it breaks.
pub(super) fn each_block(
    txn: &ReadTransaction,
    range: &Range<Timestamp>,
    mut read: impl FnMut(&[u8]) -> Result<ControlFlow<()>, StoreError>,
) -> Result<(), StoreError> {
    numbered_blocks(txn, 0, range, |_, block| read(block))
}

/// Like [`each_block`], from the block with the number `first` on, with the number of each block. The
/// growing block has the number that it will have when it is full.
pub(super) fn numbered_blocks(
    txn: &ReadTransaction,
    first: u64,
    range: &Range<Timestamp>,
    mut read: impl FnMut(u64, &[u8]) -> Result<ControlFlow<()>, StoreError>,
) -> Result<(), StoreError> {
    let blocks = txn.open_table(USAGE_BLOCKS)?;
    for row in txn.open_table(USAGE_TIMES)?.range(first..)? {
        let (number, times) = row?;
        let (earliest, latest) = times.value();
        if latest < range.start.unix_millis() || earliest > range.end.unix_millis() {
            continue;
        }
        let block = blocks.get(number.value())?;
        let block = block.ok_or_else(|| missing("a block of usage"))?;
        if read(number.value(), block.value())?.is_break() {
            return Ok(());
        }
    }
    let last = blocks.last()?.map(|(number, _)| number.value());
    let (open, _) = pieces(&txn.open_table(USAGE_OPEN)?)?;
    read(last.map_or(0, |last| last + 1), &open).map(drop)
}

/// Returns a time since which all rows are kept, except for rows of wrong clocks; `None` without rows.
pub(super) fn first_time(txn: &ReadTransaction) -> Result<Option<Timestamp>, StoreError> {
    if let Some(row) = txn.open_table(USAGE_TIMES)?.iter()?.next() {
        let (_, times) = row?;
        return Ok(Some(Timestamp::from_unix_millis(times.value().0)));
    }
    let (open, _) = pieces(&txn.open_table(USAGE_OPEN)?)?;
    let mut rows = UsageBlockReader::new(&open);
    let first = rows.next_indexed().transpose()?;
    Ok(first.map(|row| row.at))
}

impl OpenBlock {
    /// Continues the block whose pieces are in `open`.
    pub(super) fn resume(
        open: &impl ReadableTable<u64, &'static [u8]>,
    ) -> Result<Self, StoreError> {
        let (bytes, pieces) = pieces(open)?;
        Ok(Self {
            saved: bytes.len(),
            pieces,
            writer: UsageBlockWriter::resume(bytes)?,
        })
    }

    /// Returns `None` while the block is empty.
    pub(super) fn times(&self) -> Option<TimeRange> {
        self.writer.times()
    }

    /// Writes the bytes that are not in the file yet, as a piece.
    fn save(&mut self, open: &mut Table<'_, u64, &'static [u8]>) -> Result<(), StoreError> {
        let bytes = self.writer.bytes();
        if let Some(piece @ [_, ..]) = bytes.get(self.saved..) {
            open.insert(self.pieces, piece)?;
            self.saved = bytes.len();
            self.pieces += 1;
        }
        Ok(())
    }

    /// Replaces the pieces by the whole block, and starts a new block.
    fn seal(&mut self, tables: &mut Tables<'_>) -> Result<(), StoreError> {
        if let Some(times) = self.writer.times() {
            let last = tables.blocks.last()?.map(|(number, _)| number.value());
            let number = last.map_or(0, |last| last + 1);
            let times = (times.first.unix_millis(), times.last.unix_millis());
            tables.blocks.insert(number, self.writer.bytes())?;
            tables.times.insert(number, times)?;
        }
        if self.pieces > 0 {
            tables.open.retain(|_, _| false)?;
        }
        self.writer.clear();
        self.saved = 0;
        self.pieces = 0;
        Ok(())
    }
}

/// Returns the bytes of the growing block and the number of pieces.
fn pieces(open: &impl ReadableTable<u64, &'static [u8]>) -> Result<(Vec<u8>, u64), StoreError> {
    let mut bytes = Vec::new();
    let mut count = 0;
    for row in open.iter()? {
        let (number, piece) = row?;
        if number.value() != count {
            return Err(missing("a piece of a block of usage"));
        }
        bytes.extend_from_slice(piece.value());
        count += 1;
    }
    Ok((bytes, count))
}
