//! Verification and backups of the open data file.

use std::path::Path;

use super::{Admin, AdminError};
use crate::store::copy::CopyError;
use crate::store::{FileCopy, Verification};

impl Admin {
    /// Reads all of the data file from the disk, and returns what is damaged. Changes wait for a moment at the
    /// start and after each damaged part; checks do not wait.
    ///
    /// # Errors
    /// [`AdminError::Damaged`] if nothing can be read, and [`AdminError::Unavailable`] while changes are refused
    /// or with a database of another server.
    pub fn verify(&self) -> Result<Verification, AdminError> {
        Ok(self.guard.store().verify()?)
    }

    /// Writes a copy of the data file at a new path, while requests and changes go on. Returns when all of the
    /// copy is on disk and was read back.
    ///
    /// The copy is a data file of its own, in the state of one moment after the call: usage that was recorded
    /// before is in it. It has the same secret, which is not in it. Space that deleted rows took is not copied.
    /// Meanwhile changes take new space in the original. A second backup waits for the first.
    ///
    /// ```
    /// # use keyguard::{Config, KeyGuard};
    /// # let dir = tempfile::tempdir()?;
    /// # let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::new("a long random secret"))?;
    /// let backup = dir.path().join("backup.redb");
    /// kg.admin().backup(&backup)?;
    ///
    /// let restored = KeyGuard::open(&backup, Config::new("a long random secret"))?;
    /// assert_eq!(restored.admin().stats()?.organizations, 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`AdminError::BackupNotWritten`] if there is a file at the path or it cannot be written,
    /// [`AdminError::Damaged`] if more is damaged than [blocks of requests](FileCopy::lost_blocks) and totals, and
    /// [`AdminError::Unavailable`] while changes are refused or with a database of another server.
    pub fn backup(&self, to: impl AsRef<Path>) -> Result<FileCopy, AdminError> {
        let _turn = self.guard.backup_turn();
        self.store_usage()?;
        let (to, progress) = (to.as_ref(), self.guard.backup_progress());
        let copied = self.guard.store().backup(to, progress);
        progress.end();
        copied.map_err(|error| match error {
            CopyError::Source(error) => error.into(),
            CopyError::Target(source) => AdminError::BackupNotWritten {
                path: to.into(),
                source,
            },
        })
    }

    /// Returns the fraction of the rows that the backup in progress has copied, from 0 to 1; `None` without one.
    /// At 1 the copy is read back.
    pub fn backup_progress(&self) -> Option<f64> {
        self.guard.backup_progress().fraction()
    }
}
