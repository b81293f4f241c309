//! The blocks of the database in a file, with checksums.

mod load;
mod read_only;
mod tables;

use std::io;
use std::ops::{Bound, Range};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;
use redb::{BackendError, StorageBackend};
use smallvec::SmallVec;

pub(super) use self::read_only::ReadOnlyFile;

use self::load::{Loaded, load};
use self::tables::Tables;
use crate::store::codec::FORMAT;
use crate::store::codec::data_file::{
    BLOCK, ChecksumTable, DATABASE_HEADER, FRONT, HEADERS, Header, PREAMBLE, SECTOR, file_len,
    preamble, runs,
};

/// The storage of redb on a file with the layout of [`data_file`](crate::store::codec::data_file).
///
/// redb trusts what it reads: on an altered byte it may overwrite data in use, or panic, even while
/// unwinding, which aborts the process. Reading an altered block therefore fails with
/// [`io::ErrorKind::InvalidData`], after which redb does no more work on the file.
///
/// A sync first makes the blocks and their checksums durable, and then the header that refers to them.
#[derive(Debug)]
pub(super) struct BlockFile {
    file: Arc<dyn StorageBackend>,
    /// `None` before it is read, which is after redb has locked the file. Never locked during I/O later.
    state: Mutex<Option<State>>,
    /// Held from the start to the end of a sync, at whose end the file may be truncated, and while the file
    /// grows.
    syncing: Mutex<()>,
    /// The last failed change, unless a later state is on disk.
    failed: Mutex<Option<Failed>>,
}

#[derive(Debug)]
struct State {
    /// The next header.
    header: Header,
    /// The last header that is known to be on disk.
    synced: Header,
    /// The index in [`HEADERS`] of `synced`.
    pair: usize,
    tables: Tables,
    /// Whether a header was written and synced since the file was opened or rolled back. Before, the header
    /// that was read may be in the cache of the system only, and a later one may be on disk.
    is_settled: bool,
    /// Whether blocks or the length changed since the last sync.
    is_dirty: bool,
}

#[derive(Clone, Debug)]
enum Failed {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

/// The work of a sync.
struct SyncPlan {
    tables: Vec<tables::TablePage>,
    is_dirty: bool,
    header: Option<Header>,
}

impl BlockFile {
    /// Returns the storage on a file that starts with a preamble.
    pub(super) fn existing(file: impl StorageBackend) -> Self {
        Self::from_parts(Arc::new(file), None)
    }

    /// Returns the storage on an empty file.
    pub(super) fn new(file: impl StorageBackend) -> io::Result<Self> {
        file.set_len(FRONT)?;
        file.write(0, &preamble(FORMAT))?;
        let header = Header::default();
        for at in HEADERS {
            file.write(at, &header.seal())?;
        }
        file.sync_data()?;
        let mut state = State::from(Loaded {
            header,
            pair: 0,
            tables: Tables::default(),
        });
        state.is_settled = true;
        Ok(Self::from_parts(Arc::new(file), Some(state)))
    }

    fn from_parts(file: Arc<dyn StorageBackend>, state: Option<State>) -> Self {
        Self {
            file,
            state: Mutex::new(state),
            syncing: Mutex::new(()),
            failed: Mutex::new(None),
        }
    }

    /// Returns the file for another reader in this process, whose reads fail after `is_cancelled` is set.
    pub(super) fn read_only(&self, is_cancelled: Arc<AtomicBool>) -> ReadOnlyFile {
        ReadOnlyFile::locked(Arc::clone(&self.file), is_cancelled)
    }

    /// Restores the state of the last synced header, after a failed write or sync. All later writes are in
    /// blocks that this header does not refer to. The system may discard them although its cache still shows
    /// them.
    ///
    /// Writes nothing, unlike [`Self::settle`]. Fails if the file does not contain that header, because
    /// another program has written the file.
    pub(super) fn roll_back(&self) -> io::Result<()> {
        self.check()?;
        if let Some(state) = &mut *self.state.lock() {
            state.roll_back();
        }
        Ok(())
    }

    /// Fails with [`io::ErrorKind::InvalidData`] if another program has truncated the file or overwritten
    /// its header.
    pub(super) fn check(&self) -> io::Result<()> {
        // No header may be written meanwhile.
        let _syncing = self.syncing.lock();
        let synced = self
            .state
            .lock()
            .as_ref()
            .map(|state| (state.synced.clone(), state.pair));
        let Some((header, pair)) = synced else {
            return Ok(());
        };
        let is_kept = self.file.len()? >= file_len(header.blocks)
            && read_header(&*self.file, pair)? == Some(header);
        is_kept.then_some(()).ok_or_else(|| invalid(OVERWRITTEN))
    }

    /// Writes the first bytes again if another program or the disk altered them, and the header is that of this file.
    /// Returns whether it did.
    pub(super) fn restore_preamble(&self) -> io::Result<bool> {
        let mut found = [0; PREAMBLE];
        self.file.read(0, &mut found)?;
        if found == preamble(FORMAT) {
            return Ok(false);
        }
        self.check()?;
        let _syncing = self.syncing.lock();
        self.file.write(0, &preamble(FORMAT))?;
        self.file.sync_data()?;
        Ok(true)
    }

    /// Writes and syncs the header that [`Self::roll_back`] restored, in place of a later one that may be
    /// on disk.
    ///
    /// Then repeats the failed change, to which the header does not refer: this succeeds only when the
    /// file can grow and be written again.
    pub(super) fn settle(&self) -> io::Result<()> {
        self.settle_header()?;
        let _syncing = self.syncing.lock();
        let failed = self.failed.lock().clone();
        if let Some(failed) = failed {
            match failed {
                Failed::Write(offset, bytes) => {
                    // The file ends with a whole block at any moment.
                    self.lengthen(offset + bytes.len() as u64)?;
                    self.file.write(offset, &bytes)?;
                }
                Failed::SetLen(len) => self.lengthen(len)?,
            }
            self.file.sync_data()?;
            *self.failed.lock() = None;
        }
        Ok(())
    }

    /// Writes and syncs the last header again, before the first other write. Afterwards both of its copies
    /// are on disk, and no later header is.
    ///
    /// Before, writes a table that was rebuilt: other writes may change blocks from which it was computed.
    fn settle_header(&self) -> io::Result<()> {
        if self.with_state(|state| state.is_settled)? {
            return Ok(());
        }
        let _syncing = self.syncing.lock();
        let rebuilt = |state: &mut State| state.tables.rebuilt_page(state.synced.generation);
        if let Some(page) = self.with_state(rebuilt)? {
            self.file.write(page.offset, &page.bytes)?;
            self.file.sync_data()?;
            self.with_state(|state| state.tables.note_rebuilt_on_disk())?;
        }
        match self.with_state(|state| (!state.is_settled).then(|| state.settling_header()))? {
            Some(header) => self.write_header(header),
            None => Ok(()),
        }
    }

    /// Writes and syncs a header, of which everything that it refers to is on disk.
    fn write_header(&self, header: Header) -> io::Result<()> {
        let pair = self.with_state(|state| 1 - state.pair)?;
        self.file.write(HEADERS[pair], &header.seal())?;
        self.file.sync_data()?;
        let len = self.with_state(|state| {
            state.commit(header, pair);
            file_len(state.header.blocks.max(state.synced.blocks))
        })?;
        // The blocks that no header refers to any more.
        if self.file.len()? > len {
            self.file.set_len(len)?;
        }
        Ok(())
    }

    /// Makes the file at least this long.
    fn lengthen(&self, len: u64) -> io::Result<()> {
        match self.file.len()? < len {
            true => self.file.set_len(len),
            false => Ok(()),
        }
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write(offset, bytes).inspect_err(|_| {
            *self.failed.lock() = Some(Failed::Write(offset, bytes.to_vec()));
        })
    }

    fn with_state<T>(&self, work: impl FnOnce(&mut State) -> T) -> io::Result<T> {
        let mut state = self.state.lock();
        Ok(match &mut *state {
            Some(state) => work(state),
            None => work(state.insert(load(&*self.file)?.into())),
        })
    }

    /// Returns the index of the first block of a range of blocks, which must be within the file.
    fn first_block(&self, offset: u64, len: usize) -> io::Result<u64> {
        let (first, count) = (offset / BLOCK as u64, len / BLOCK);
        let is_whole =
            offset.is_multiple_of(BLOCK as u64) && len.is_multiple_of(BLOCK) && first > 0;
        if !is_whole {
            return Err(unaligned());
        }
        let blocks = self.with_state(|state| state.header.blocks)?;
        let is_inside = first
            .checked_add(count as u64)
            .is_some_and(|end| end <= blocks);
        is_inside
            .then_some(first)
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

impl State {
    fn roll_back(&mut self) {
        let sequence = self.header.sequence;
        self.header = Header {
            sequence,
            ..self.synced.clone()
        };
        self.tables.roll_back();
        self.is_settled = false;
        self.is_dirty = false;
    }

    /// Returns the last header again.
    fn settling_header(&mut self) -> Header {
        self.header.sequence += 1;
        Header {
            sequence: self.header.sequence,
            ..self.synced.clone()
        }
    }

    fn plan_sync(&mut self) -> SyncPlan {
        let tables = self.tables.write_changes(self.header.sequence + 1);
        let is_dirty = std::mem::take(&mut self.is_dirty) || !tables.is_empty();
        let header = (!self.header.selects_the_state_of(&self.synced)).then(|| self.next_header());
        SyncPlan {
            tables,
            is_dirty,
            header,
        }
    }

    fn next_header(&mut self) -> Header {
        self.header.sequence += 1;
        Header {
            generation: self.header.sequence,
            digest: self.tables.digest(self.header.blocks),
            ..self.header.clone()
        }
    }

    /// Notes that a header is on disk.
    fn commit(&mut self, header: Header, pair: usize) {
        if header.generation > self.synced.generation {
            self.tables.commit_written();
        }
        self.tables.drop_beyond(header.blocks);
        self.synced = header;
        self.pair = pair;
        self.is_settled = true;
    }
}

impl From<Loaded> for State {
    fn from(loaded: Loaded) -> Self {
        Self {
            header: loaded.header.clone(),
            synced: loaded.header,
            pair: loaded.pair,
            tables: loaded.tables,
            is_settled: false,
            is_dirty: false,
        }
    }
}

impl StorageBackend for BlockFile {
    fn len(&self) -> io::Result<u64> {
        self.with_state(|state| state.header.blocks * BLOCK as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if let Some(range) = in_header(offset, out.len()) {
            return self.with_state(|state| out.copy_from_slice(&state.header.database[range]));
        }
        let first = self.first_block(offset, out.len())?;
        let checksums: SmallVec<[u32; 4]> = self.with_state(|state| {
            let blocks = (first..).take(out.len() / BLOCK);
            blocks.map(|block| state.tables.get(block)).collect()
        })?;
        let mut rest = &mut *out;
        for run in runs(first, checksums.len()) {
            let (part, after) = rest.split_at_mut(run.len);
            self.file.read(run.offset, part)?;
            rest = after;
        }
        let blocks = out.chunks_exact(BLOCK).zip(checksums);
        for (index, (block, checksum)) in (first..).zip(blocks) {
            if ChecksumTable::checksum_of(block) != checksum {
                return Err(invalid(format!("block {index} was altered")));
            }
        }
        Ok(())
    }

    /// The header is written by the next sync.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if let Some(range) = in_header(offset, data.len()) {
            return self.with_state(|state| state.header.database[range].copy_from_slice(data));
        }
        let first = self.first_block(offset, data.len())?;
        self.settle_header()?;
        let mut rest = data;
        for run in runs(first, data.len() / BLOCK) {
            let (part, after) = rest.split_at(run.len);
            self.write_at(run.offset, part)?;
            rest = after;
        }
        self.with_state(|state| {
            for (index, block) in (first..).zip(data.chunks_exact(BLOCK)) {
                state.tables.set(index, ChecksumTable::checksum_of(block));
            }
            state.is_dirty = true;
        })
    }

    /// A shorter file is truncated when no header refers to the end any more.
    fn set_len(&self, len: u64) -> io::Result<()> {
        if !len.is_multiple_of(BLOCK as u64) {
            return Err(unaligned());
        }
        let blocks = len / BLOCK as u64;
        self.settle_header()?;
        let _syncing = self.syncing.lock();
        let len = file_len(blocks);
        self.lengthen(len).inspect_err(|_| {
            *self.failed.lock() = Some(Failed::SetLen(len));
        })?;
        self.with_state(|state| {
            state.tables.resize(state.header.blocks, blocks);
            state.header.blocks = blocks;
            state.is_dirty = true;
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.with_state(|state| state.tables.has_changes())? {
            self.settle_header()?;
        }
        let _syncing = self.syncing.lock();
        let plan = self.with_state(State::plan_sync)?;
        for page in plan.tables {
            self.write_at(page.offset, &page.bytes)?;
        }
        if plan.is_dirty || plan.header.is_none() {
            self.file.sync_data()?;
        }
        if let Some(header) = plan.header {
            self.write_header(header)?;
            // What was written since in the same place may be in use now.
            *self.failed.lock() = None;
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

/// Whether a file has valid copies of both headers, whatever its first bytes are.
pub(super) fn has_headers(file: &dyn StorageBackend) -> io::Result<bool> {
    if file.len()? < FRONT {
        return Ok(false);
    }
    Ok(read_header(file, 0)?.is_some() && read_header(file, 1)?.is_some())
}

/// Returns the latest header of a pair with a valid copy.
fn read_header(file: &dyn StorageBackend, pair: usize) -> io::Result<Option<Header>> {
    let mut latest: Option<Header> = None;
    for copy in 0..2 {
        let mut bytes = [0; SECTOR];
        file.read(HEADERS[pair] + copy * BLOCK as u64, &mut bytes)?;
        let found = Header::unseal(&bytes);
        latest = latest
            .into_iter()
            .chain(found)
            .max_by_key(|header| header.sequence);
    }
    Ok(latest)
}

/// Returns the range within the database's header, if it is there. All other accesses are whole blocks.
fn in_header(offset: u64, len: usize) -> Option<Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(len)?;
    (end <= DATABASE_HEADER).then_some(start..end)
}

fn unaligned() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        "length is not a multiple of 4,096 bytes",
    )
}

/// The problem of a file that another program has changed.
const OVERWRITTEN: &str = "the data file was truncated or overwritten by another program; \
    stop this process and restore the file from a backup";

fn invalid(problem: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.into())
}

#[cfg(test)]
mod tests;
