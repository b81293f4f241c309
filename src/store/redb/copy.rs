//! Copying all rows of a data file to a new one: from one state, without free space between, and read back.

use std::io;
use std::path::Path;

use redb::backends::FileBackend;
use redb::{
    Key, ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, TableHandle,
    Value, WriteTransaction,
};

use super::RedbStore;
use super::engine::{OpenDatabase, Snapshot};
use super::file::DataFile;
use super::tables::{
    ACTIVITY, AUDIT, BALANCES, COMPLETED_REQUESTS, CREDENTIALS, DELIVERIES, DUE_DELIVERIES,
    EVENT_MARKS, EXPIRIES, IP_WINDOWS, KEY_CREDENTIALS, KEY_DAYS, KEY_HOURS, KEY_PREFIXES, KEYS,
    LOCKS, META, MINUTES, ORG_KEYS, ORG_NAMES, ORG_SKELETONS, ORGS, SHADOW_DENIED, USAGE_BLOCKS,
    USAGE_OPEN, USAGE_TIMES, WINDOWS,
};
use super::usage::{BEHIND_ALL, BlockNumber, GROWING, SET_ASIDE, SkippedBlocks};
use super::verify::snapshot_lost;
use crate::store::copy::{CopyError, CopyProgress, FileCopy};
use crate::store::{StoreError, with_causes};
use crate::sys::AtomicFile;

/// The cache of the new database. What does not fit is written before the end of the transaction.
const CACHE: usize = 32 << 20;
/// The most damaged blocks of requests that a copy omits. Each one starts it again.
const MOST_LOST: u64 = 100;

/// A complete copy that has no name yet.
pub(super) struct NewCopy {
    pub(super) file: AtomicFile,
    pub(super) copied: FileCopy,
}

/// Fails if there is a file at `to`.
pub(super) fn require_free(to: &Path) -> Result<(), CopyError> {
    match to.try_exists().map_err(CopyError::Target)? {
        true => Err(CopyError::Target(exists())),
        false => Ok(()),
    }
}

/// Copies the database that `open` opens to a new file in the directory of `to`. Requests in damaged blocks are
/// omitted; other damage fails the copy.
pub(super) fn copy(
    open: impl Fn() -> Result<Snapshot, StoreError>,
    to: &Path,
    progress: &CopyProgress,
) -> Result<NewCopy, CopyError> {
    let skipped = SkippedBlocks::default();
    let mut lost_blocks = 0;
    loop {
        let snapshot = open().map_err(CopyError::Source)?;
        let new = NewFile::create(to)?;
        skipped.begin();
        let rows = match new.fill(&snapshot, &skipped, progress) {
            Err(CopyError::Source(StoreError::Damaged(_))) if !snapshot.is_pinned() => {
                return Err(CopyError::Source(snapshot_lost()));
            }
            Err(CopyError::Source(StoreError::Damaged(problem))) => {
                match skipped.skip_damaged().filter(|_| lost_blocks < MOST_LOST) {
                    Some(BEHIND_ALL) => {}
                    Some(_) => lost_blocks += 1,
                    None => return Err(CopyError::Source(StoreError::Damaged(problem))),
                }
                continue;
            }
            rows => rows?,
        };
        // It cannot be cancelled from here on.
        progress.add(0)?;
        let mut file = new.read_back(rows)?;
        let bytes = file.file().metadata().map_err(CopyError::Target)?.len();
        let copied = FileCopy {
            rows,
            bytes,
            lost_blocks,
        };
        return Ok(NewCopy { file, copied });
    }
}

impl NewCopy {
    /// Gives the copy its name, which must be free.
    pub(super) fn take_name(self, to: &Path) -> Result<FileCopy, CopyError> {
        let taken = self.file.take_name(to);
        taken.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => CopyError::Target(exists()),
            _ => CopyError::Target(error),
        })?;
        Ok(self.copied)
    }

    /// Puts the copy in the place of the original. Requests that can perhaps be read at another time are not
    /// given up.
    pub(super) fn replace(self, original: &Path) -> Result<FileCopy, CopyError> {
        if self.copied.lost_blocks > 0 {
            let problem = format!(
                "{} blocks of requests cannot be read",
                self.copied.lost_blocks
            );
            return Err(CopyError::Source(StoreError::Damaged(problem)));
        }
        self.file.replace(original).map_err(CopyError::Target)?;
        Ok(self.copied)
    }
}

fn exists() -> io::Error {
    let problem = "a file is there already; give another path, or move it away";
    io::Error::new(io::ErrorKind::AlreadyExists, problem)
}

/// A new data file under a temporary name.
struct NewFile<'a> {
    to: &'a Path,
    file: AtomicFile,
    database: OpenDatabase,
}

impl<'a> NewFile<'a> {
    fn create(to: &'a Path) -> Result<Self, CopyError> {
        let mut file = AtomicFile::new(to).map_err(CopyError::Target)?;
        let backend = file.file().try_clone().map_err(CopyError::Target)?;
        let backend = FileBackend::new(backend).map_err(target)?;
        let data = DataFile::published(backend).map_err(CopyError::Target)?;
        let database = OpenDatabase::open(data, CACHE).map_err(target)?;
        Ok(Self { to, file, database })
    }

    /// Writes all rows of a database in one transaction. Returns their number.
    fn fill(
        &self,
        snapshot: &Snapshot,
        skipped: &SkippedBlocks,
        progress: &CopyProgress,
    ) -> Result<u64, CopyError> {
        let mut to = self.database.begin_write().map_err(target)?;
        to.set_quick_repair(true);
        let rows = snapshot.database.read(|from| {
            let rows = Rows {
                from,
                to: &to,
                progress,
                copied: 0,
            };
            Ok(rows.copy_all(skipped))
        });
        let rows = rows.map_err(CopyError::Source)??;
        to.commit().map_err(target)?;
        Ok(rows)
    }

    /// Closes the file, and reads all of it.
    fn read_back(self, rows: u64) -> Result<AtomicFile, CopyError> {
        let Self {
            to,
            mut file,
            database,
        } = self;
        drop(database);
        let opened = file.file().try_clone().map_err(CopyError::Target)?;
        let found = RedbStore::verify_opened(to, opened)
            .map_err(|error| CopyError::Target(io::Error::other(with_causes(&error))))?;
        match found.is_sound() && found.rows == rows {
            true => Ok(file),
            false => Err(CopyError::Target(io::Error::other(format!(
                "the disk returns {} of {rows} rows that were written",
                found.rows
            )))),
        }
    }
}

/// The rows of one database on their way to another.
struct Rows<'a> {
    from: &'a ReadTransaction,
    to: &'a WriteTransaction,
    progress: &'a CopyProgress,
    copied: u64,
}

impl Rows<'_> {
    fn copy_all(mut self, skipped: &SkippedBlocks) -> Result<u64, CopyError> {
        self.progress
            .begin(self.total().map_err(CopyError::Source)?);
        // First what may have to start again.
        self.copy_usage(skipped)?;
        self.copy(META)?;
        self.copy(ORGS)?;
        self.copy(ORG_NAMES)?;
        self.copy(ORG_SKELETONS)?;
        self.copy(KEYS)?;
        self.copy(EXPIRIES)?;
        self.copy(KEY_PREFIXES)?;
        self.copy(ORG_KEYS)?;
        self.copy(CREDENTIALS)?;
        self.copy(KEY_CREDENTIALS)?;
        self.copy(ACTIVITY)?;
        self.copy(KEY_HOURS)?;
        self.copy(KEY_DAYS)?;
        self.copy(MINUTES)?;
        self.copy(LOCKS)?;
        self.copy(BALANCES)?;
        self.copy(WINDOWS)?;
        self.copy(IP_WINDOWS)?;
        self.copy(SHADOW_DENIED)?;
        self.copy(AUDIT)?;
        self.copy(COMPLETED_REQUESTS)?;
        self.copy(DELIVERIES)?;
        self.copy(DUE_DELIVERIES)?;
        self.copy(EVENT_MARKS)?;
        Ok(self.copied)
    }

    /// Returns the number of rows of all tables.
    fn total(&self) -> Result<u64, StoreError> {
        let mut total = 0;
        for table in self.from.list_tables()? {
            if !table.name().starts_with(SET_ASIDE) {
                total += self.from.open_untyped_table(table)?.len()?;
            }
        }
        Ok(total)
    }

    fn copy<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
    ) -> Result<(), CopyError> {
        let rows = self.from.open_table(table).map_err(source)?;
        let mut copies = self.to.open_table(table).map_err(target)?;
        for row in rows.iter().map_err(source)? {
            let (key, value) = row.map_err(source)?;
            copies.insert(key.value(), value.value()).map_err(target)?;
            self.add(1)?;
        }
        Ok(())
    }

    /// Copies requests, without the blocks that cannot be read.
    fn copy_usage(&mut self, skipped: &SkippedBlocks) -> Result<(), CopyError> {
        let blocks = self.from.open_table(USAGE_BLOCKS).map_err(source)?;
        let times = self.from.open_table(USAGE_TIMES).map_err(source)?;
        let mut block_copies = self.to.open_table(USAGE_BLOCKS).map_err(target)?;
        let mut time_copies = self.to.open_table(USAGE_TIMES).map_err(target)?;
        let mut next = 0;
        for row in times.iter().map_err(source)? {
            let (number, times) = row.map_err(source)?;
            let number = number.value();
            next = number + 1;
            if let Some(block) = block(&blocks, number, skipped)? {
                let block = block.as_slice();
                block_copies.insert(number, block).map_err(target)?;
                time_copies.insert(number, times.value()).map_err(target)?;
                self.add(2)?;
            }
        }
        // Perhaps a higher number, after retention.
        let behind_all = block(&blocks, BEHIND_ALL, skipped)?;
        if next > 0 || behind_all.is_some() {
            let behind_all = behind_all.unwrap_or_else(|| next.to_le_bytes().to_vec());
            let behind_all = behind_all.as_slice();
            block_copies
                .insert(BEHIND_ALL, behind_all)
                .map_err(target)?;
            self.add(1)?;
        }
        let mut growing = self.to.open_table(USAGE_OPEN).map_err(target)?;
        let pieces = self.growing_block(skipped).map_err(CopyError::Source)?;
        for (number, piece) in (0_u64..).zip(&pieces) {
            growing.insert(number, piece.as_slice()).map_err(target)?;
            self.add(1)?;
        }
        Ok(())
    }

    /// Returns the pieces of the growing block; none if it cannot be read.
    fn growing_block(&self, skipped: &SkippedBlocks) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut pieces = Vec::new();
        skipped.unless(GROWING, || {
            for row in self.from.open_table(USAGE_OPEN)?.iter()? {
                pieces.push(row?.1.value().to_vec());
            }
            Ok(false)
        })?;
        Ok(pieces)
    }

    fn add(&mut self, rows: u64) -> Result<(), CopyError> {
        self.copied += rows;
        self.progress.add(rows)
    }
}

/// Returns a block of usage; `None` if it is absent or cannot be read.
fn block(
    blocks: &impl ReadableTable<u64, &'static [u8]>,
    number: BlockNumber,
    skipped: &SkippedBlocks,
) -> Result<Option<Vec<u8>>, CopyError> {
    let mut found = None;
    let read = skipped.unless(number, || {
        found = blocks.get(number)?.map(|block| block.value().to_vec());
        Ok(false)
    });
    read.map_err(CopyError::Source)?;
    Ok(found)
}

fn source(error: impl Into<StoreError>) -> CopyError {
    CopyError::Source(error.into())
}

fn target(error: impl Into<StoreError>) -> CopyError {
    CopyError::Target(io::Error::other(error.into().cause()))
}
