//! Raw usage: one row a request, packed into blocks.
//!
//! Each batch appends its rows to the growing block as one piece. A full block replaces its pieces, so
//! that a commit of ten requests costs few bytes, and a thousand requests take no more space than their
//! blocks.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};

use redb::{ReadTransaction, ReadableTable, Table, TableDefinition, TableHandle, WriteTransaction};

use super::repair::set_aside;
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

/// A full block, or the growing one, which has the number after all others.
pub(super) type BlockNumber = u64;
pub(super) const GROWING: BlockNumber = u64::MAX - 1;

/// The damaged blocks that a reading omits.
#[derive(Default)]
pub(super) struct SkippedBlocks {
    numbers: RefCell<BTreeSet<BlockNumber>>,
    /// The block that is being read.
    current: Cell<Option<BlockNumber>>,
    /// Those that the current reading has omitted.
    omitted: RefCell<BTreeSet<BlockNumber>>,
}

impl SkippedBlocks {
    /// Skips these full blocks. Another block grows in the place of a damaged growing one.
    pub(super) fn of(mut numbers: BTreeSet<BlockNumber>) -> Self {
        numbers.remove(&GROWING);
        Self {
            numbers: numbers.into(),
            current: Cell::default(),
            omitted: RefCell::default(),
        }
    }

    pub(super) fn begin(&self) {
        self.current.set(None);
        self.omitted.borrow_mut().clear();
    }

    /// The number of blocks that the reading has omitted.
    pub(super) fn omitted(&self) -> u64 {
        self.omitted.borrow().len() as u64
    }

    /// Skips the block that could not be read. Returns its number, or `None` if the damage is not in a block
    /// that was not skipped before.
    pub(super) fn skip_damaged(&self) -> Option<BlockNumber> {
        let damaged = self.current.take()?;
        self.numbers.borrow_mut().insert(damaged).then_some(damaged)
    }

    /// Reads a block by `read`, unless it is skipped. Returns whether it is the last to read.
    pub(super) fn unless(
        &self,
        number: BlockNumber,
        read: impl FnOnce() -> Result<bool, StoreError>,
    ) -> Result<bool, StoreError> {
        if self.numbers.borrow().contains(&number) {
            self.omitted.borrow_mut().insert(number);
            return Ok(false);
        }
        self.current.set(Some(number));
        let is_last = read()?;
        self.current.set(None);
        Ok(is_last)
    }
}

/// Returns at most `limit` rows since `from`, in the order of recording.
pub(super) fn since(
    txn: &ReadTransaction,
    key: Option<KeyId>,
    from: Timestamp,
    limit: usize,
    skipped: &SkippedBlocks,
) -> Result<Vec<Usage>, StoreError> {
    let mut found = Vec::new();
    let range = from..Timestamp::MAX;
    each_block(txn, &range, skipped, |block| {
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
    skipped: &SkippedBlocks,
    mut read: impl FnMut(&[u8]) -> Result<ControlFlow<()>, StoreError>,
) -> Result<(), StoreError> {
    numbered_blocks(txn, 0, range, skipped, |_, block| read(block))
}

/// Like [`each_block`], from the block with the number `first` on, with the number of each block. The
/// growing block has the number that it will have when it is full.
pub(super) fn numbered_blocks(
    txn: &ReadTransaction,
    first: u64,
    range: &Range<Timestamp>,
    skipped: &SkippedBlocks,
    mut read: impl FnMut(u64, &[u8]) -> Result<ControlFlow<()>, StoreError>,
) -> Result<(), StoreError> {
    let blocks = txn.open_table(USAGE_BLOCKS)?;
    for row in txn.open_table(USAGE_TIMES)?.range(first..)? {
        let (number, times) = row?;
        let (earliest, latest) = times.value();
        if latest < range.start.unix_millis() || earliest > range.end.unix_millis() {
            continue;
        }
        let number = number.value();
        let is_last = skipped.unless(number, || {
            let block = blocks.get(number)?;
            let block = block.ok_or_else(|| missing("a block of usage"))?;
            Ok(read(number, block.value())?.is_break())
        })?;
        if is_last {
            return Ok(());
        }
    }
    let number = next_number(&blocks)?;
    skipped.unless(GROWING, || {
        let (open, _) = pieces(&txn.open_table(USAGE_OPEN)?)?;
        Ok(read(number, &open)?.is_break())
    })?;
    Ok(())
}

/// Returns a time since which all rows are kept, except for rows of wrong clocks; `None` without rows.
pub(super) fn first_time(
    txn: &ReadTransaction,
    skipped: &SkippedBlocks,
) -> Result<Option<Timestamp>, StoreError> {
    if let Some(row) = txn.open_table(USAGE_TIMES)?.iter()?.next() {
        let (_, times) = row?;
        return Ok(Some(Timestamp::from_unix_millis(times.value().0)));
    }
    let mut first = None;
    skipped.unless(GROWING, || {
        let (open, _) = pieces(&txn.open_table(USAGE_OPEN)?)?;
        let mut rows = UsageBlockReader::new(&open);
        first = rows.next_indexed().transpose()?.map(|row| row.at);
        Ok(false)
    })?;
    Ok(first)
}

/// Begins a new growing block in place of a damaged one.
pub(super) fn replace_growing_block(txn: &WriteTransaction) -> Result<(), StoreError> {
    set_aside(txn, USAGE_OPEN).map(drop)
}

/// How to go on adding blocks after damage in the tables of full blocks.
pub(super) struct BlockRepair {
    /// Whether [`USAGE_BLOCKS`] is damaged where blocks are added.
    pub(super) blocks: bool,
    /// Whether [`USAGE_TIMES`] is damaged.
    pub(super) times: bool,
    pub(super) readable: Vec<BlockNumber>,
    pub(super) unreadable: Vec<BlockNumber>,
    /// The number of the next block.
    pub(super) next: BlockNumber,
}

/// Replaces the damaged tables by new ones of all blocks that can be read.
pub(super) fn repair_blocks(
    txn: &WriteTransaction,
    repair: &BlockRepair,
) -> Result<(), StoreError> {
    let found = match repair.blocks {
        true => set_aside(txn, USAGE_BLOCKS)?,
        false => USAGE_BLOCKS.name().to_owned(),
    };
    if repair.times {
        set_aside(txn, USAGE_TIMES)?;
    }
    let mut times = txn.open_table(USAGE_TIMES)?;
    for number in &repair.unreadable {
        times.remove(number)?;
    }
    let mut new = match repair.blocks {
        true => Some(txn.open_table(USAGE_BLOCKS)?),
        false => None,
    };
    let found = txn.open_table(TableDefinition::<u64, &'static [u8]>::new(&found))?;
    for number in &repair.readable {
        let Some(block) = found.get(number)? else {
            continue;
        };
        if repair.times
            && let Some(range) = UsageBlockWriter::resume(block.value().to_vec())?.times()
        {
            times.insert(number, milliseconds(range))?;
        }
        if let Some(blocks) = &mut new {
            blocks.insert(number, block.value())?;
        }
    }
    if let Some(blocks) = &mut new {
        blocks.insert(NEXT_NUMBER, repair.next.to_le_bytes().as_slice())?;
    }
    Ok(())
}

fn milliseconds(times: TimeRange) -> (u64, u64) {
    (times.first.unix_millis(), times.last.unix_millis())
}

/// Returns the numbers of all full blocks.
pub(super) fn block_numbers(txn: &ReadTransaction) -> Result<Vec<BlockNumber>, StoreError> {
    let times = txn.open_table(USAGE_TIMES)?;
    times.iter()?.map(|row| Ok(row?.0.value())).collect()
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
            let number = next_number(&tables.blocks)?;
            tables.blocks.insert(number, self.writer.bytes())?;
            let next = (number + 1).to_le_bytes();
            tables.blocks.insert(NEXT_NUMBER, next.as_slice())?;
            tables.times.insert(number, milliseconds(times))?;
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

/// The key of the row that contains the number of the next block. As the last row it keeps redb from reading the page
/// of the last block, which may be damaged, in order to add another.
pub(super) const NEXT_NUMBER: BlockNumber = u64::MAX;

pub(super) fn next_number(
    blocks: &impl ReadableTable<u64, &'static [u8]>,
) -> Result<BlockNumber, StoreError> {
    let Some(row) = blocks.get(NEXT_NUMBER)? else {
        return Ok(0);
    };
    let number = row.value().try_into().map(u64::from_le_bytes);
    number.map_err(|_| StoreError::damaged("the number of the next block of usage is invalid"))
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
