//! Opening and creating a data file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use redb::backends::FileBackend;
use redb::{DatabaseError, StorageBackend, StorageError};

use super::block_file::{self, ReadOnlyFile};
use super::copy::NewCopy;
use super::engine::{Engine, OpenDatabase, Snapshot};
use super::file::DataFile;
use super::identity::Identity;
use super::lock_holder::lock_holder;
use super::tables::{self, META, meta};
use super::{PANICKED, RedbStore, catching_panics, copy, repair, verify};
use crate::model::Fingerprint;
use crate::store::batch_id::BatchIds;
use crate::store::codec::FORMAT;
use crate::store::codec::data_file::{PREAMBLE, Unreadable, read_preamble};
use crate::store::copy::{CopyError, CopyProgress, FileCopy};
use crate::store::{OpenError, StoreError, Verification};
use crate::sys::AtomicFile;
use crate::time::{Clock, Timestamp};

impl RedbStore {
    /// Opens or creates the data file at `path`, for the secret of this `fingerprint`.
    ///
    /// A refused file is not changed. An accepted file is made private to its owner. A new file gets its
    /// name when it is complete, so that a kill at any moment leaves a complete data file or none.
    pub(crate) fn open(
        path: &Path,
        fingerprint: Fingerprint,
        clock: &Clock,
        cache_bytes: usize,
    ) -> Result<Self, OpenError> {
        Self::open_on(path, fingerprint, clock, cache_bytes, |file| file)
    }

    /// Like [`RedbStore::open`], on the backend that `disk` returns for the file.
    pub(super) fn open_on<D: StorageBackend>(
        path: &Path,
        fingerprint: Fingerprint,
        clock: &Clock,
        cache_bytes: usize,
        disk: impl Fn(FileBackend) -> D,
    ) -> Result<Self, OpenError> {
        let opening = Opening {
            path,
            cache_bytes,
            disk,
        };
        let created = match Self::exists(path)? {
            true => None,
            false => opening.create(fingerprint, clock.timestamp())?,
        };
        let (database, identity) = match created {
            Some(created) => created,
            None => opening.open_existing(fingerprint)?,
        };
        let engine = Engine::new(database, identity, clock.clone(), cache_bytes);
        let engine = engine.map_err(|error| damaged(path, error))?;
        let set_aside = engine.read(repair::replaced);
        let set_aside = set_aside.map_err(|error| damaged(path, error))?;
        let batch_ids = BatchIds::new().map_err(|error| io_error(path, io::Error::other(error)))?;
        Ok(Self {
            engine: Arc::new(engine),
            open_block: Mutex::new(None),
            batch_ids: Mutex::new(batch_ids),
            damaged_usage: Mutex::default(),
            met_damage: Mutex::default(),
            set_aside: Mutex::new(set_aside),
            webhooks: ArcSwap::default(),
            dropped_deliveries: AtomicU64::new(0),
        })
    }

    /// Verifies a data file that no process holds, without the secret. Changes nothing.
    pub(crate) fn verify_file(path: &Path) -> Result<Verification, OpenError> {
        FileAtRest::open_to_read(path)?.verify()
    }

    /// Copies a data file that no process changes to a new one, without the secret.
    pub(crate) fn back_up_file(
        from: &Path,
        to: &Path,
        progress: &CopyProgress,
    ) -> Result<FileCopy, OpenError> {
        Self::copy_file(from, to, progress, NewCopy::take_name)
    }

    /// Like [`Self::back_up_file`]. If this process is of root, the copy belongs to the owner of its directory.
    pub(crate) fn restore_file(
        from: &Path,
        to: &Path,
        progress: &CopyProgress,
    ) -> Result<FileCopy, OpenError> {
        Self::copy_file(
            from,
            to,
            progress,
            NewCopy::take_name_for_owner_of_directory,
        )
    }

    fn copy_file(
        from: &Path,
        to: &Path,
        progress: &CopyProgress,
        take_name: impl FnOnce(NewCopy, &Path) -> Result<FileCopy, CopyError>,
    ) -> Result<FileCopy, OpenError> {
        let file = FileAtRest::open_to_read(from)?;
        let copied = copy::require_free(to)
            .and_then(|()| copy::copy(|| file.snapshot(), to, progress))
            .and_then(|new| take_name(new, to));
        copied.map_err(|error| copy_error(from, to, error))
    }

    /// Puts a copy without free space in the place of a data file that no process holds.
    pub(crate) fn compact_file(
        path: &Path,
        progress: &CopyProgress,
    ) -> Result<FileCopy, OpenError> {
        let file = FileAtRest::open_to_replace(path)?;
        let replaced =
            copy::copy(|| file.snapshot(), path, progress).and_then(|new| new.replace(path));
        replaced.map_err(|error| copy_error(path, path, error))
    }

    /// Returns whether there is a data file at `path`. Fails if there is anything else.
    pub(crate) fn exists(path: &Path) -> Result<bool, OpenError> {
        // Checked before opening: opening a pipe or a device can have side effects.
        let metadata = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            metadata => metadata.map_err(|error| io_error(path, error))?,
        };
        if !metadata.is_file() {
            return Err(OpenError::NotAFile { path: path.into() });
        }
        if metadata.len() == 0 {
            return Err(OpenError::Empty { path: path.into() });
        }
        let file = File::open(path).map_err(|error| io_error(path, error))?;
        verify_preamble(path, &file).map(|()| true)
    }
}

/// A data file that this process has locked and does not change.
struct FileAtRest<'a> {
    path: &'a Path,
    file: DataFile,
}

impl<'a> FileAtRest<'a> {
    /// Other processes may read the file, too. Needs no right to write it.
    fn open_to_read(path: &'a Path) -> Result<Self, OpenError> {
        Self::open(path, |path| File::open(path), ReadOnlyFile::of)
    }

    /// No other process may use the file.
    fn open_to_replace(path: &'a Path) -> Result<Self, OpenError> {
        Self::open(path, open_file, |file| file)
    }

    fn open<D: StorageBackend>(
        path: &'a Path,
        open: impl Fn(&Path) -> io::Result<File>,
        disk: impl Fn(FileBackend) -> D,
    ) -> Result<Self, OpenError> {
        let opening = Opening {
            path,
            cache_bytes: verify::CACHE,
            disk,
        };
        for _ in 0..MOST_REPLACEMENTS {
            if !RedbStore::exists(path)? {
                return Err(io_error(path, io::ErrorKind::NotFound.into()));
            }
            let file = open(path).map_err(|error| io_error(path, error))?;
            let (file, database, identity) = opening.open_staged(file)?;
            drop(database);
            // Another one may have taken its place before it was locked.
            if identity.check().is_ok() {
                return Ok(Self { path, file });
            }
        }
        Err(replaced(path))
    }

    fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let file = self.file.reopened().map_err(StorageError::Io)?;
        let database = catching_panics(|| Ok(OpenDatabase::open(file, verify::CACHE)?))?;
        Ok(Snapshot::at_rest(database))
    }

    fn verify(&self) -> Result<Verification, OpenError> {
        let found = verify::verify_at_rest(|| self.snapshot());
        found.map_err(|error| unreadable(self.path, error))
    }
}

/// The most times that a file is opened because another one has taken its place.
const MOST_REPLACEMENTS: usize = 3;

struct Opening<'a, F> {
    path: &'a Path,
    cache_bytes: usize,
    disk: F,
}

impl<D: StorageBackend, F: Fn(FileBackend) -> D> Opening<'_, F> {
    fn open_existing(
        &self,
        fingerprint: Fingerprint,
    ) -> Result<(OpenDatabase, Identity), OpenError> {
        for _ in 0..MOST_REPLACEMENTS {
            if let Some(opened) = self.open_unless_replaced(fingerprint)? {
                return Ok(opened);
            }
        }
        Err(replaced(self.path))
    }

    /// Opens the file. Returns `None` if another one took its place before it was locked, as at the end of a
    /// compaction.
    fn open_unless_replaced(
        &self,
        fingerprint: Fingerprint,
    ) -> Result<Option<(OpenDatabase, Identity)>, OpenError> {
        let path = self.path;
        let file = open_file(path).map_err(|error| io_error(path, error))?;
        let privacy = file.try_clone().map_err(|error| io_error(path, error))?;
        let (staged, database, identity) = self.open_staged(file)?;
        if identity.check().is_err() {
            return Ok(None);
        }
        without_panics(path, || verify_secret(path, &database, fingerprint))?;
        make_private(&privacy);
        staged.publish().map_err(|error| io_error(path, error))?;
        Ok(Some((database, identity)))
    }

    /// Opens the database. The file is not changed before it is published.
    fn open_staged(&self, file: File) -> Result<(DataFile, OpenDatabase, Identity), OpenError> {
        let (disk, identity) = self.disk(file)?;
        let staged = DataFile::staged(disk);
        let database = without_panics(self.path, || self.open_database(staged.clone()))?;
        Ok((staged, database, identity))
    }

    /// Creates the data file. Returns `None` if another process created it meanwhile.
    fn create(
        &self,
        fingerprint: Fingerprint,
        now: Timestamp,
    ) -> Result<Option<(OpenDatabase, Identity)>, OpenError> {
        let path = self.path;
        let mut new = AtomicFile::new(path).map_err(|error| io_error(path, error))?;
        let file = new.file().try_clone();
        let (disk, identity) = self.disk(file.map_err(|error| io_error(path, error))?)?;
        let file = DataFile::published(disk).map_err(|error| io_error(path, error))?;
        let database = self.open_database(file)?;
        write_first_rows(&database, fingerprint, now).map_err(|error| OpenError::Io {
            path: path.into(),
            source: io::Error::other(error),
        })?;
        match new.take_name(path) {
            Ok(()) => Ok(Some((database, identity))),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(io_error(path, error)),
        }
    }

    fn disk(&self, file: File) -> Result<(D, Identity), OpenError> {
        let failed = |error| io_error(self.path, error);
        let identity = Identity::new(self.path, &file).map_err(failed)?;
        let backend = FileBackend::new(file).map_err(io::Error::other);
        Ok(((self.disk)(backend.map_err(failed)?), identity))
    }

    fn open_database(&self, file: DataFile) -> Result<OpenDatabase, OpenError> {
        OpenDatabase::open(file, self.cache_bytes).map_err(|error| database_error(self.path, error))
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// Turns a panic of redb into an error. The database is dropped with anything half-done.
fn without_panics<T>(
    path: &Path,
    work: impl FnOnce() -> Result<T, OpenError>,
) -> Result<T, OpenError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(damaged(path, PANICKED)))
}

/// The first bytes of every SQLite database.
const SQLITE: &[u8] = b"SQLite format 3\0";

/// Fails unless the file is a data file of the current format.
fn verify_preamble(path: &Path, file: &File) -> Result<(), OpenError> {
    let mut start = Vec::new();
    file.take(PREAMBLE as u64)
        .read_to_end(&mut start)
        .map_err(|error| io_error(path, error))?;
    read_preamble(&start).map_err(|unreadable| match unreadable {
        Unreadable::Foreign if is_ours(path).unwrap_or(false) => {
            damaged(path, "its first bytes were altered")
        }
        Unreadable::Foreign if start.starts_with(SQLITE) => {
            OpenError::SqliteDatabase { path: path.into() }
        }
        Unreadable::Foreign => OpenError::NotADataFile { path: path.into() },
        Unreadable::Damaged => damaged(path, "its first bytes were altered"),
        Unreadable::Newer(found) => OpenError::NewerFormat {
            path: path.into(),
            found,
            supported: FORMAT,
        },
        Unreadable::Older(found) => OpenError::OlderFormat {
            path: path.into(),
            found,
            supported: FORMAT,
        },
    })
}

/// Whether a file that starts like another one has the headers of a data file. Needs no right to write it.
fn is_ours(path: &Path) -> io::Result<bool> {
    let file = FileBackend::new(File::open(path)?).map_err(io::Error::other)?;
    block_file::has_headers(&file)
}

/// Fails unless the file was created with this secret.
fn verify_secret(
    path: &Path,
    database: &OpenDatabase,
    fingerprint: Fingerprint,
) -> Result<(), OpenError> {
    let read = database
        .begin_read()
        .map_err(|error| damaged(path, error))?;
    let meta = read.open_table(META);
    let meta = meta.map_err(|error| damaged(path, error))?;
    let secret = meta
        .get(meta::SECRET)
        .map_err(|error| damaged(path, error))?;
    match secret {
        Some(secret) if secret.value() == fingerprint.0 => Ok(()),
        Some(_) => Err(OpenError::WrongSecret { path: path.into() }),
        None => Err(damaged(path, "the fingerprint of its secret is missing")),
    }
}

fn write_first_rows(
    database: &OpenDatabase,
    fingerprint: Fingerprint,
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut id = [0; 4];
    getrandom::fill(&mut id).map_err(|error| StoreError::Unavailable(error.into()))?;
    let mut write = database.begin_write()?;
    write.set_quick_repair(true);
    tables::create(&write)?;
    {
        let mut meta = write.open_table(META)?;
        meta.insert(meta::SECRET, fingerprint.0.as_slice())?;
        meta.insert(meta::FILE_ID, id.as_slice())?;
        meta.insert(meta::CREATED, now.unix_millis().to_le_bytes().as_slice())?;
    }
    write.commit()?;
    Ok(())
}

/// Removes the permissions of all users but the owner. Ignores a failure, of a file of another owner or
/// a disk without permissions.
#[cfg(unix)]
fn make_private(file: &File) {
    use std::os::unix::fs::PermissionsExt;

    if let Ok(metadata) = file.metadata() {
        let mode = metadata.permissions().mode();
        if mode & 0o077 != 0 {
            let _ = file.set_permissions(fs::Permissions::from_mode(mode & 0o700));
        }
    }
}

#[cfg(not(unix))]
fn make_private(_: &File) {}

fn damaged(path: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> OpenError {
    OpenError::Damaged {
        path: path.into(),
        source: source.into(),
    }
}

fn replaced(path: &Path) -> OpenError {
    let problem = "other programs replace it again and again";
    io_error(path, io::Error::other(problem))
}

fn unreadable(path: &Path, error: StoreError) -> OpenError {
    match error {
        StoreError::Damaged(problem) => damaged(path, problem),
        error => io_error(path, io::Error::other(error)),
    }
}

fn copy_error(from: &Path, to: &Path, error: CopyError) -> OpenError {
    match error {
        CopyError::Source(error) => unreadable(from, error),
        CopyError::Target(source) => OpenError::NotWritten {
            path: to.into(),
            source,
        },
    }
}

fn io_error(path: &Path, source: io::Error) -> OpenError {
    let path = path.into();
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            OpenError::ReadOnly { path, source }
        }
        _ => OpenError::Io { path, source },
    }
}

fn database_error(path: &Path, error: DatabaseError) -> OpenError {
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            OpenError::InUse {
                path: path.into(),
                holder: lock_holder(path),
            }
        }
        DatabaseError::Storage(StorageError::Io(error)) => match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => damaged(path, error),
            _ => io_error(path, error),
        },
        error => damaged(path, error),
    }
}
