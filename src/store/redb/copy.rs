//! Copying all rows of a data file to a new one: from one state, without free space between, and read back.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use redb::backends::FileBackend;
use redb::{
    AccessGuard, Key, ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition,
    TableHandle, Value, WriteTransaction,
};

use super::catching_panics;
use super::engine::{OpenDatabase, Snapshot};
use super::file::DataFile;
use super::repair::{self, ReadableRows};
use super::tables::{self, TableVisitor, USAGE_BLOCKS, USAGE_OPEN, USAGE_TIMES};
use super::usage::{BlockNumber, GROWING, NEXT_NUMBER, SkippedBlocks};
use super::verify::{self, snapshot_lost};
use crate::store::StoreError;
use crate::store::copy::{CopyError, CopyProgress, FileCopy};
use crate::sys::AtomicFile;

/// The cache of the new database. What does not fit is written before the end of the transaction.
const CACHE: usize = 32 << 20;
/// The most damaged blocks of requests that a copy omits. Each one starts it again.
const MOST_LOST: u64 = 100;

/// A complete copy that has no name yet.
pub(super) struct NewCopy {
    file: AtomicFile,
    copied: FileCopy,
    /// Keeps the file locked: unlocked files without a name are removed.
    _data: DataFile,
}

/// Fails if there is a file at `to`.
pub(super) fn require_free(to: &Path) -> Result<(), CopyError> {
    match to.try_exists().map_err(CopyError::Target)? {
        true => Err(CopyError::Target(exists())),
        false => Ok(()),
    }
}

/// Copies the database that `open` opens to a new file in the directory of `to`. Requests in damaged blocks are
/// omitted, and of a database at rest totals and windows that cannot be read; other damage fails the copy.
pub(super) fn copy(
    open: impl Fn() -> Result<Snapshot, StoreError>,
    to: &Path,
    progress: &CopyProgress,
) -> Result<NewCopy, CopyError> {
    let omitted = OmittedRows::default();
    let mut lost_blocks = 0;
    loop {
        let snapshot = open().map_err(CopyError::Source)?;
        let new = NewFile::create(to)?;
        omitted.blocks.begin();
        let rows = match new.fill(&snapshot, &omitted, progress) {
            Err(CopyError::Source(StoreError::Damaged(_))) if !snapshot.is_pinned() => {
                return Err(CopyError::Source(snapshot_lost()));
            }
            Err(CopyError::Source(StoreError::Damaged(problem))) => {
                let skipped = omitted.blocks.skip_damaged();
                match skipped.filter(|_| lost_blocks < MOST_LOST) {
                    Some(NEXT_NUMBER) => {}
                    Some(_) => lost_blocks += 1,
                    // The rows that can be read may be others in the next snapshot.
                    None if !snapshot.is_at_rest() => {
                        return Err(CopyError::Source(StoreError::Damaged(problem)));
                    }
                    None => {
                        let found = omitted.totals.find_current(&open);
                        if !found.map_err(CopyError::Source)? {
                            return Err(CopyError::Source(StoreError::Damaged(problem)));
                        }
                    }
                }
                continue;
            }
            rows => rows?,
        };
        let (mut file, data) = new.read_back(rows, progress)?;
        let bytes = file.file().metadata().map_err(CopyError::Target)?.len();
        let set_aside = snapshot.database.read(repair::names_set_aside);
        let set_aside = set_aside.map_err(CopyError::Source)?;
        let copied = FileCopy {
            rows,
            bytes,
            lost_blocks,
            lost_totals: omitted.totals.lost(tables::is_of_totals),
            lost_windows: omitted.totals.lost(tables::is_of_windows),
            tables_set_aside: set_aside.len() as u64,
        };
        return Ok(NewCopy {
            file,
            copied,
            _data: data,
        });
    }
}

impl NewCopy {
    /// Like [`Self::take_name`]. If this process is of root, the copy belongs to the owner of its directory, whose
    /// process shall open it.
    pub(super) fn take_name_for_owner_of_directory(self, to: &Path) -> Result<FileCopy, CopyError> {
        let given = self.file.give_to_owner_of_directory();
        given.map_err(CopyError::Target)?;
        self.take_name(to)
    }

    /// Gives the copy its name, which must be free.
    pub(super) fn take_name(self, to: &Path) -> Result<FileCopy, CopyError> {
        let taken = self.file.take_name(to);
        taken.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => CopyError::Target(exists()),
            _ => CopyError::Target(error),
        })?;
        Ok(self.copied)
    }

    /// Puts the copy in the place of the original. Requests and totals that can perhaps be read at another time are
    /// not given up.
    pub(super) fn replace(self, original: &Path) -> Result<FileCopy, CopyError> {
        let FileCopy {
            lost_blocks,
            lost_totals,
            ..
        } = self.copied;
        if lost_blocks > 0 || lost_totals > 0 {
            let problem = format!(
                "{lost_blocks} blocks of requests and rows of {lost_totals} tables of totals cannot be read"
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
pub(super) struct NewFile {
    file: AtomicFile,
    data: DataFile,
    database: OpenDatabase,
}

impl NewFile {
    pub(super) fn create(to: &Path) -> Result<Self, CopyError> {
        let mut file = AtomicFile::new(to).map_err(CopyError::Target)?;
        let backend = file.file().try_clone().map_err(CopyError::Target)?;
        let backend = FileBackend::new(backend).map_err(target)?;
        let data = DataFile::published(backend).map_err(CopyError::Target)?;
        let database = OpenDatabase::open(data.clone(), CACHE).map_err(target)?;
        Ok(Self {
            file,
            data,
            database,
        })
    }

    /// Writes all rows of a database in one transaction. Returns their number.
    pub(super) fn fill(
        &self,
        snapshot: &Snapshot,
        omitted: &OmittedRows,
        progress: &CopyProgress,
    ) -> Result<u64, CopyError> {
        let mut to = self.database.begin_write().map_err(target)?;
        to.set_quick_repair(true);
        let rows = snapshot.database.read(|from| {
            let rows = Rows {
                from,
                to: &to,
                totals: &omitted.totals,
                progress,
                copied: 0,
            };
            Ok(rows.copy_all(&omitted.blocks))
        });
        let rows = rows.map_err(CopyError::Source)??;
        to.commit().map_err(target)?;
        Ok(rows)
    }

    /// Closes the database, and reads all of the file. It stays locked.
    pub(super) fn read_back(
        self,
        rows: u64,
        progress: &CopyProgress,
    ) -> Result<(AtomicFile, DataFile), CopyError> {
        let Self {
            file,
            data,
            database,
        } = self;
        drop(database);
        let open = || {
            let written = data.read_only(progress.cancel_flag());
            let database = catching_panics(|| Ok(OpenDatabase::open(written, verify::CACHE)?))?;
            Ok(Snapshot::at_rest(database))
        };
        let found = verify::verify_at_rest(open).map_err(target)?;
        match found.is_sound() && found.rows == rows {
            true => Ok((file, data)),
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
    totals: &'a DamagedTotals,
    progress: &'a CopyProgress,
    copied: u64,
}

impl Rows<'_> {
    fn copy_all(mut self, skipped: &SkippedBlocks) -> Result<u64, CopyError> {
        self.progress
            .begin(self.total().map_err(CopyError::Source)?);
        // First what may have to start again.
        self.copy_usage(skipped)?;
        tables::visit_all(&mut self)?;
        Ok(self.copied)
    }

    /// Returns the number of rows of all tables.
    fn total(&self) -> Result<u64, StoreError> {
        let mut total = 0;
        for table in self.from.list_tables()? {
            let readable = self.totals.begin(table.name());
            let is_lost = readable.is_some_and(ReadableRows::is_empty);
            if !is_lost && repair::original_name(table.name()).is_none() {
                total += self.from.open_untyped_table(table)?.len()?;
            }
        }
        self.totals.end();
        Ok(total)
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
        let next_number_row = block(&blocks, NEXT_NUMBER, skipped)?;
        if next > 0 || next_number_row.is_some() {
            let next_number_row = next_number_row.unwrap_or_else(|| next.to_le_bytes().to_vec());
            let next_number_row = next_number_row.as_slice();
            block_copies
                .insert(NEXT_NUMBER, next_number_row)
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

impl TableVisitor for Rows<'_> {
    type Error = CopyError;

    /// Copies a table, unless [`Rows::copy_usage`] does.
    fn visit<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
        _: impl Fn(K::SelfType<'_>) -> Option<String>,
    ) -> Result<(), CopyError> {
        if [USAGE_OPEN.name(), USAGE_BLOCKS.name(), USAGE_TIMES.name()].contains(&table.name()) {
            return Ok(());
        }
        let mut copies = self.to.open_table(table).map_err(target)?;
        let readable = self.totals.begin(table.name());
        if readable.is_some_and(ReadableRows::is_empty) {
            return Ok(());
        }
        let rows = self.from.open_table(table).map_err(source)?;
        let mut add = |row: Result<(AccessGuard<'_, K>, AccessGuard<'_, V>), _>| {
            let (key, value) = row.map_err(source)?;
            copies.insert(key.value(), value.value()).map_err(target)?;
            self.copied += 1;
            self.progress.add(1)
        };
        match readable {
            None => rows.iter().map_err(source)?.try_for_each(&mut add)?,
            Some(readable) => {
                let mut rows = readable.read(&rows).map_err(source)?;
                rows.try_for_each(&mut add)?;
            }
        }
        self.totals.end();
        Ok(())
    }
}

/// What a copy omits because it cannot be read.
#[derive(Default)]
pub(super) struct OmittedRows {
    blocks: SkippedBlocks,
    totals: DamagedTotals,
}

/// The tables of totals and windows of which a copy omits what cannot be read.
#[derive(Default)]
struct DamagedTotals {
    /// Which rows can be read, by the name of the table.
    found: RefCell<BTreeMap<String, ReadableRows>>,
    /// The table of these that is being read.
    current: RefCell<Option<String>>,
}

impl DamagedTotals {
    /// Begins to read a table. Returns which of its rows can be read; `None` for all.
    fn begin(&self, table: &str) -> Option<ReadableRows> {
        let is_replaceable = tables::is_replaceable(table);
        *self.current.borrow_mut() = is_replaceable.then(|| table.to_owned());
        self.found.borrow().get(table).copied()
    }

    fn end(&self) {
        self.current.take();
    }

    /// Finds what can be read of the table that could not be read as a whole. Returns false if it is none of
    /// these, was found before, or can be read again.
    fn find_current(
        &self,
        open: impl Fn() -> Result<Snapshot, StoreError>,
    ) -> Result<bool, StoreError> {
        let Some(table) = self.current.take() else {
            return Ok(false);
        };
        let mut search = ReadableSearch {
            table: &table,
            open,
            readable: None,
        };
        tables::visit_all(&mut search)?;
        Ok(search.readable.is_some_and(|readable| {
            let before = self.found.borrow_mut().insert(table, readable);
            before.is_none()
        }))
    }

    /// The number of such tables that lack rows.
    fn lost(&self, is_such: fn(&str) -> bool) -> u64 {
        let found = self.found.borrow();
        found.keys().filter(|table| is_such(table)).count() as u64
    }
}

/// The search for the rows of one table that can be read.
struct ReadableSearch<'a, F> {
    table: &'a str,
    open: F,
    /// `None` for all.
    readable: Option<ReadableRows>,
}

impl<F: Fn() -> Result<Snapshot, StoreError>> TableVisitor for ReadableSearch<'_, F> {
    type Error = StoreError;

    fn visit<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
        _: impl Fn(K::SelfType<'_>) -> Option<String>,
    ) -> Result<(), StoreError> {
        if table.name() == self.table {
            self.readable = ReadableRows::of(table, &self.open)?;
        }
        Ok(())
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
