//! Opening and creating a data file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use redb::StorageBackend;
use redb::backends::FileBackend;

use super::engine::{Engine, Session};
use super::file::DataFile;
use super::identity::Identity;
use super::open_error::{OpenError, damaged, database_error, io_error};
use super::{NONSENSE, RedbStore};
use crate::model::Fingerprint;
use crate::store::batches::Batches;
use crate::store::codec::frame::{self, Unreadable};
use crate::store::codec::{self, Counters, Lifetime, Record, TopKeys, meta};
use crate::sys::AtomicFile;
use crate::time::{Clock, Timestamp};

impl RedbStore {
    /// Opens the data file at `path`, or creates it, with the secret of this `fingerprint`.
    ///
    /// A file that is refused keeps every byte. One that is accepted is made private to its owner
    /// if it was not. A new one takes its name when it is complete, so that a kill at any moment
    /// leaves either a whole data file there or none.
    pub(crate) fn open(
        path: &Path,
        fingerprint: Fingerprint,
        clock: &Clock,
        cache_bytes: usize,
    ) -> Result<Self, OpenError> {
        Self::open_on(path, fingerprint, clock, cache_bytes, |file| file)
    }

    /// As [`RedbStore::open`], over what `disk` makes of the file.
    pub(super) fn open_on<D: StorageBackend>(
        path: &Path,
        fingerprint: Fingerprint,
        clock: &Clock,
        cache_bytes: usize,
        disk: impl Fn(FileBackend) -> D,
    ) -> Result<Self, OpenError> {
        let opening = Opening {
            path,
            fingerprint,
            cache_bytes,
            disk,
        };
        let created = match Self::exists(path)? {
            true => None,
            false => opening.create(clock.timestamp())?,
        };
        let (session, identity) = match created {
            Some(created) => created,
            None => opening.open_existing()?,
        };
        let engine = Engine::new(session, identity, clock.clone(), cache_bytes);
        let engine = engine.map_err(|error| damaged(path, error))?;
        let batches = Batches::new().map_err(|error| io_error(path, io::Error::other(error)))?;
        Ok(Self {
            engine: Arc::new(engine),
            open_block: Mutex::new(None),
            batches: Mutex::new(batches),
        })
    }

    /// Whether there is a data file at `path`. Anything else there is refused.
    pub(crate) fn exists(path: &Path) -> Result<bool, OpenError> {
        // Looked at before it is opened: opening a pipe or a device can have effects of its own.
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

struct Opening<'a, F> {
    path: &'a Path,
    fingerprint: Fingerprint,
    cache_bytes: usize,
    disk: F,
}

impl<D: StorageBackend, F: Fn(FileBackend) -> D> Opening<'_, F> {
    fn open_existing(&self) -> Result<(Session, Identity), OpenError> {
        let path = self.path;
        let file = OpenOptions::new().read(true).write(true).open(path);
        let file = file.map_err(|error| io_error(path, error))?;
        let privacy = file.try_clone().map_err(|error| io_error(path, error))?;
        let (disk, identity) = self.disk(file)?;
        let staged = DataFile::staged(disk);

        let session = catching_panics(path, || {
            let session = self.open_session(staged.clone())?;
            verify_secret(path, &session, self.fingerprint)?;
            Ok(session)
        })?;
        make_private(&privacy);
        staged.publish().map_err(|error| io_error(path, error))?;
        Ok((session, identity))
    }

    /// Creates the data file; `None` if meanwhile somebody else did.
    fn create(&self, now: Timestamp) -> Result<Option<(Session, Identity)>, OpenError> {
        let path = self.path;
        let mut draft = AtomicFile::new(path).map_err(|error| io_error(path, error))?;
        let file = draft.file().try_clone();
        let (disk, identity) = self.disk(file.map_err(|error| io_error(path, error))?)?;
        let file = DataFile::published(disk).map_err(|error| io_error(path, error))?;
        let session = self.open_session(file)?;
        write_first_rows(&session, self.fingerprint, now).map_err(|error| OpenError::Io {
            path: path.into(),
            source: io::Error::other(error),
        })?;
        match draft.take_name(path) {
            Ok(()) => Ok(Some((session, identity))),
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

    fn open_session(&self, file: DataFile) -> Result<Session, OpenError> {
        Session::open(file, self.cache_bytes).map_err(|error| database_error(self.path, error))
    }
}

/// How every SQLite database begins.
const SQLITE: &[u8] = b"SQLite format 3\0";

/// That the file is one of ours and of a format that we read.
fn verify_preamble(path: &Path, file: &File) -> Result<(), OpenError> {
    let mut start = Vec::new();
    file.take(frame::PREAMBLE_LEN as u64)
        .read_to_end(&mut start)
        .map_err(|error| io_error(path, error))?;
    frame::read_preamble(&start).map_err(|unreadable| match unreadable {
        Unreadable::Foreign if start.starts_with(SQLITE) => {
            OpenError::SqliteDatabase { path: path.into() }
        }
        Unreadable::Foreign => OpenError::NotADataFile { path: path.into() },
        Unreadable::Damaged => damaged(path, "its first bytes are not as they were written"),
        Unreadable::Newer(found) => OpenError::NewerFormat {
            path: path.into(),
            found,
            supported: codec::FORMAT,
        },
        Unreadable::Older(found) => OpenError::OlderFormat {
            path: path.into(),
            found,
            supported: codec::FORMAT,
        },
    })
}

/// That the file was made with this secret.
fn verify_secret(
    path: &Path,
    session: &Session,
    fingerprint: Fingerprint,
) -> Result<(), OpenError> {
    let read = session.begin_read().map_err(|error| damaged(path, error))?;
    let meta = read.open_table(codec::META);
    let meta = meta.map_err(|error| damaged(path, error))?;
    let secret = meta
        .get(meta::SECRET)
        .map_err(|error| damaged(path, error))?;
    match secret {
        Some(secret) if secret.value() == fingerprint.0 => Ok(()),
        Some(_) => Err(OpenError::WrongSecret { path: path.into() }),
        None => Err(damaged(path, "it names no secret")),
    }
}

fn write_first_rows(
    session: &Session,
    fingerprint: Fingerprint,
    now: Timestamp,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut write = session.begin_write()?;
    write.set_quick_repair(true);
    {
        let mut meta = write.open_table(codec::META)?;
        meta.insert(meta::SECRET, fingerprint.0.as_slice())?;
        meta.insert(meta::CREATED, now.unix_millis().to_le_bytes().as_slice())?;
        meta.insert(meta::COUNTERS, Counters::default().encode()?.as_slice())?;
        meta.insert(meta::LIFETIME, Lifetime::default().encode()?.as_slice())?;
        meta.insert(meta::TOP_KEYS, TopKeys::default().encode()?.as_slice())?;
        // All tables exist from the start, so that a reader never meets an absent one.
        write.open_table(codec::ORGS)?;
        write.open_table(codec::ORG_NAMES)?;
        write.open_table(codec::ORG_SKELETONS)?;
        write.open_table(codec::KEYS)?;
        write.open_table(codec::ORG_KEYS)?;
        write.open_table(codec::CREDENTIALS)?;
        write.open_table(codec::KEY_CREDENTIALS)?;
        write.open_table(codec::ACTIVITY)?;
        write.open_table(codec::KEY_HOURS)?;
        write.open_table(codec::KEY_DAYS)?;
        write.open_table(codec::MINUTES)?;
        write.open_table(codec::USAGE_OPEN)?;
        write.open_table(codec::USAGE_BLOCKS)?;
        write.open_table(codec::USAGE_SPANS)?;
        write.open_table(codec::LOCKS)?;
        write.open_table(codec::BALANCES)?;
        write.open_table(codec::WINDOWS)?;
        write.open_table(codec::NETWORKS)?;
        write.open_table(codec::SHADOWED)?;
        write.open_table(codec::AUDIT)?;
        write.open_table(codec::DONE)?;
    }
    write.commit()?;
    Ok(())
}

/// Takes the rights of everybody but the owner. Where that is not ours to change, because somebody
/// else owns the file or the disk knows no modes, the file is used as it was set up.
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

/// redb trusts the pages of a file and may panic.
fn catching_panics<T>(
    path: &Path,
    open: impl FnOnce() -> Result<T, OpenError>,
) -> Result<T, OpenError> {
    // Whatever a panic leaves half-done is dropped with the database.
    catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|_| Err(damaged(path, NONSENSE)))
}
