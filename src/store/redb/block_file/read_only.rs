//! Access to a file that is not written.

use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use crate::store::copy::cancelled;

/// A file that refuses all writes. Other readers may lock it at the same time, and a writer may not.
#[derive(Debug)]
pub(in crate::store::redb) struct ReadOnlyFile {
    file: Arc<dyn StorageBackend>,
    /// Whether this process has locked the file already, and unlocks it later.
    is_locked: bool,
    /// Whether all reads fail from now on.
    is_cancelled: Arc<AtomicBool>,
}

impl ReadOnlyFile {
    /// Returns a file that was opened for reading. It is locked when redb locks it.
    pub(in crate::store::redb) fn of(file: FileBackend) -> Self {
        Self {
            file: Arc::new(file),
            is_locked: false,
            is_cancelled: Arc::default(),
        }
    }

    /// Returns a file that a [`BlockFile`](super::BlockFile) has locked.
    pub(super) fn locked(file: Arc<dyn StorageBackend>, is_cancelled: Arc<AtomicBool>) -> Self {
        Self {
            file,
            is_locked: true,
            is_cancelled,
        }
    }
}

impl StorageBackend for ReadOnlyFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match self.is_cancelled.load(Ordering::Relaxed) {
            true => Err(cancelled()),
            false => self.file.read(offset, out),
        }
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(read_only())
    }

    fn sync_data(&self) -> io::Result<()> {
        Err(read_only())
    }

    fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(read_only())
    }

    fn close(&self) -> io::Result<()> {
        match self.is_locked {
            true => Ok(()),
            false => self.file.close(),
        }
    }

    /// Locks against writers only: an exclusive lock needs the right to write.
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.try_lock_shared_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        match self.is_locked {
            true => Ok(true),
            false => self.file.try_lock_shared_range(start, end),
        }
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.lock_shared_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        match self.is_locked {
            true => Ok(()),
            false => self.file.lock_shared_range(start, end),
        }
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        match self.is_locked {
            true => Ok(()),
            false => self.file.unlock_range(start, end),
        }
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        match self.is_locked {
            true => Ok(false),
            false => self.file.query_lock_range(start, end),
        }
    }
}

fn read_only() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "the file is read-only")
}
