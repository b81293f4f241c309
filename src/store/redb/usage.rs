//! Raw usage: one row a request, packed into blocks.
//!
//! Each batch adds its rows to the growing block as one piece of it. Once the block is full its
//! pieces make way for the whole, so that ten requests a second cost some bytes a commit and a
//! thousand take no more room than their blocks.

use redb::{ReadTransaction, ReadableTable, Table, WriteTransaction};

use super::rows::missing;
use crate::model::{KeyId, Usage};
use crate::store::codec::block::{BlockReader, BlockWriter, Period};
use crate::store::codec::{USAGE_BLOCKS, USAGE_OPEN, USAGE_SPANS};
use crate::store::{StoreError, UsageBatch};
use crate::time::Timestamp;

/// The growing block.
pub(super) struct OpenBlock {
    writer: BlockWriter,
    /// How many of its bytes are in [`USAGE_OPEN`].
    saved: usize,
    /// In how many pieces.
    pieces: u64,
}

struct Tables<'txn> {
    open: Table<'txn, u64, &'static [u8]>,
    blocks: Table<'txn, u64, &'static [u8]>,
    spans: Table<'txn, u64, (u64, u64)>,
}

/// Adds the events of a batch to the growing block: `continued`, if it is what the last committed
/// transaction left, or else what is in the file. Returns the block as it is once `txn` commits.
pub(super) fn add(
    txn: &WriteTransaction,
    continued: Option<OpenBlock>,
    batch: &UsageBatch,
) -> Result<OpenBlock, StoreError> {
    let mut tables = Tables {
        open: txn.open_table(USAGE_OPEN)?,
        blocks: txn.open_table(USAGE_BLOCKS)?,
        spans: txn.open_table(USAGE_SPANS)?,
    };
    let mut block = match continued {
        Some(block) => block,
        None => OpenBlock::resume(&tables.open)?,
    };
    let mut paths = batch.paths.as_slice();
    for event in &batch.events {
        let (path, rest) = paths.split_at(paths.len().min(event.path_len.into()));
        paths = rest;
        if !block.writer.has_room() {
            block.seal(&mut tables)?;
        }
        block.writer.push(event, path);
    }
    block.save(&mut tables.open)?;
    Ok(block)
}

/// Rows from `from` on, in the order in which they were recorded.
pub(super) fn since(
    txn: &ReadTransaction,
    key: Option<KeyId>,
    from: Timestamp,
    limit: usize,
) -> Result<Vec<Usage>, StoreError> {
    let mut found = Vec::new();
    let mut search = |block: &[u8]| {
        for row in BlockReader::new(block) {
            let row = row?;
            if found.len() == limit {
                return Ok(false);
            }
            if row.at >= from && key.is_none_or(|key| row.key_id == key) {
                found.push(row.to_usage());
            }
        }
        Ok::<_, StoreError>(true)
    };
    let blocks = txn.open_table(USAGE_BLOCKS)?;
    for row in txn.open_table(USAGE_SPANS)?.iter()? {
        let (number, period) = row?;
        if period.value().1 < from.unix_millis() {
            continue;
        }
        let block = blocks.get(number.value())?;
        let block = block.ok_or_else(|| missing("a block of usage"))?;
        if !search(block.value())? {
            return Ok(found);
        }
    }
    search(&pieces(&txn.open_table(USAGE_OPEN)?)?.0)?;
    Ok(found)
}

impl OpenBlock {
    /// Goes on with the block whose pieces are in `open`.
    pub(super) fn resume(
        open: &impl ReadableTable<u64, &'static [u8]>,
    ) -> Result<Self, StoreError> {
        let (bytes, pieces) = pieces(open)?;
        Ok(Self {
            saved: bytes.len(),
            pieces,
            writer: BlockWriter::resume(bytes)?,
        })
    }

    /// `None` while it is empty.
    pub(super) fn span(&self) -> Option<Period> {
        self.writer.span()
    }

    /// Writes the bytes that are not in the file yet.
    fn save(&mut self, open: &mut Table<'_, u64, &'static [u8]>) -> Result<(), StoreError> {
        let bytes = self.writer.bytes();
        if let Some(piece @ [_, ..]) = bytes.get(self.saved..) {
            open.insert(self.pieces, piece)?;
            self.saved = bytes.len();
            self.pieces += 1;
        }
        Ok(())
    }

    /// Puts the whole block in the place of its pieces and starts a new one.
    fn seal(&mut self, tables: &mut Tables<'_>) -> Result<(), StoreError> {
        if let Some(period) = self.writer.span() {
            let last = tables.blocks.last()?.map(|(number, _)| number.value());
            let number = last.map_or(0, |last| last + 1);
            let period = (period.first.unix_millis(), period.last.unix_millis());
            tables.blocks.insert(number, self.writer.bytes())?;
            tables.spans.insert(number, period)?;
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

/// The bytes of the growing block and in how many pieces they are.
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
