//! Opening a guard together with the socket to manage it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::KeyGuard;
use crate::guard::{Config, Guard, Storage};
use crate::store::copy::CopyProgress;
use crate::store::{FileCopy, OpenError, RedbStore, Verification};

impl KeyGuard {
    /// Opens a data file, and creates it if it is absent. With the feature `postgres`, opens a
    /// database at a URL such as `postgres://user:password@host/database`, which any number of
    /// processes may share. The URL takes the parameters of [libpq], such as `sslrootcert`.
    ///
    /// [libpq]: https://www.postgresql.org/docs/current/libpq-connect.html
    ///
    /// ```no_run
    /// use keyguard::{Config, KeyGuard};
    ///
    /// let kg = KeyGuard::open("keyguard.redb", Config::default().default_rate_limit_per_minute(120))?;
    /// # Ok::<(), keyguard::OpenError>(())
    /// ```
    ///
    /// The file is private to the user (mode 0600). It is locked until the last clone of the guard
    /// and the last of its `Admin` handles are dropped; until then, the command line reaches it
    /// through a socket beside it (see [`Config::socket`]).
    ///
    /// # The secret
    ///
    /// Keys are hashed under a secret. It is, in this order: the one of `config`; the environment
    /// variable `KEYGUARD_SECRET`; the file `<data file>.secret`. If none of these exists and the data
    /// file is absent, the secret file is created with a random secret and mode 0600.
    ///
    /// A secret file is refused if
    ///
    /// - other users may read or change it;
    /// - it, or a symbolic link to it, belongs to a user other than this one, root or the owner of the
    ///   data file (accepted only if others cannot create files in its directory);
    /// - it is larger than 65,536 bytes;
    /// - it is neither a file nor a pipe.
    ///
    /// If the data file is a symbolic link, this applies to its target.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong with a setting, the secret or the file, and what to do. A
    /// file that is refused is left unchanged.
    pub fn open(file: impl AsRef<Path>, config: Config) -> Result<Self, OpenError> {
        let file = file.as_ref();
        let guard = Self {
            inner: Arc::new(Guard::open(file, config)?),
        };
        listen(&guard.inner, file)?;
        Ok(guard)
    }

    /// Reads all of a data file that no process holds, and returns what is damaged. Needs no secret, and
    /// changes nothing. [`Admin::verify`](crate::Admin::verify) does the same for a file that is open.
    ///
    /// ```
    /// # use keyguard::{Config, KeyGuard};
    /// # let dir = tempfile::tempdir()?;
    /// # let file = dir.path().join("keyguard.redb");
    /// # drop(KeyGuard::open(&file, Config::new("a long random secret"))?);
    /// let found = KeyGuard::verify(&file)?;
    /// assert!(found.is_sound(), "{:?}", found.damage);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`OpenError`] if nothing can be read: the file is not a data file or is open elsewhere, or the damage
    /// is in its header or the root of its tables.
    pub fn verify(file: impl AsRef<Path>) -> Result<Verification, OpenError> {
        RedbStore::verify_file(&data_file(file.as_ref())?)
    }

    /// Writes a copy of a data file that no process holds at a new path, and reads it back. Needs no secret, and
    /// no right to write the file.
    ///
    /// [`Admin::backup`](crate::Admin::backup) does the same for a file that is open, and says more.
    ///
    /// # Errors
    /// [`OpenError`] if the file cannot be read, or more is damaged than
    /// [blocks of requests](FileCopy::lost_blocks) and totals; [`OpenError::NotWritten`] if there is a file at the new path or
    /// it cannot be written.
    pub fn backup(file: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<FileCopy, OpenError> {
        Self::backup_with(file.as_ref(), to.as_ref(), &CopyProgress::default())
    }

    pub(crate) fn backup_with(
        file: &Path,
        to: &Path,
        progress: &CopyProgress,
    ) -> Result<FileCopy, OpenError> {
        RedbStore::back_up_file(&data_file(file)?, to, progress)
    }

    /// Writes a copy of a backup at the path of an absent data file. Does the same as [`Self::backup`] but for the
    /// owner of the new file: in a process of root, it is the owner of the directory.
    ///
    /// # Errors
    /// Like [`Self::backup`].
    pub fn restore(backup: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<FileCopy, OpenError> {
        Self::restore_with(backup.as_ref(), to.as_ref(), &CopyProgress::default())
    }

    pub(crate) fn restore_with(
        backup: &Path,
        to: &Path,
        progress: &CopyProgress,
    ) -> Result<FileCopy, OpenError> {
        RedbStore::restore_file(&data_file(backup)?, to, progress)
    }

    /// Returns the space of deleted rows to the disk: puts a copy in the place of a data file that no process holds.
    /// Needs no secret, and as much free space as the copy takes.
    ///
    /// Without it, the space is used again for new rows.
    ///
    /// # Errors
    /// Like [`Self::backup`]. A damaged file is left as it is.
    pub fn compact(file: impl AsRef<Path>) -> Result<FileCopy, OpenError> {
        Self::compact_with(file.as_ref(), &CopyProgress::default())
    }

    pub(crate) fn compact_with(
        file: &Path,
        progress: &CopyProgress,
    ) -> Result<FileCopy, OpenError> {
        RedbStore::compact_file(&data_file(file)?, progress)
    }
}

/// Returns the path of a data file, or of the target of a symbolic link.
fn data_file(file: &Path) -> Result<PathBuf, OpenError> {
    match Storage::of(file)?.followed()? {
        Storage::File(file) => Ok(file.into_owned()),
        server => Err(OpenError::IsDatabase {
            storage: server.shown(),
        }),
    }
}

#[cfg(unix)]
fn listen(guard: &Arc<Guard>, file: &Path) -> Result<(), OpenError> {
    use std::io::ErrorKind;

    use crate::admin::SocketServer;

    if !guard.config().socket || guard.store().is_remote() {
        return Ok(());
    }
    match SocketServer::bind(file, guard) {
        Ok(server) => guard.keep_socket_server(Box::new(server)),
        Err(source) if source.kind() == ErrorKind::AlreadyExists => {
            let path = file.into();
            return Err(OpenError::Socket { path, source });
        }
        Err(error) => guard.warnings().add(&format!(
            "the command line cannot manage this process, because its socket cannot be created: {error}"
        )),
    }
    Ok(())
}

#[cfg(not(unix))]
fn listen(_: &Arc<Guard>, _: &Path) -> Result<(), OpenError> {
    Ok(())
}
