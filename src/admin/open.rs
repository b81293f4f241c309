//! Opening a guard together with the socket to manage it.

use std::path::Path;

#[cfg(unix)]
use crate::guard::Storage;
use crate::guard::{Config, KeyGuard};
use crate::store::OpenError;

impl KeyGuard {
    /// Opens a data file, or creates it if it is absent; or, with the feature `postgres`, a database
    /// at a URL such as `postgres://user:password@host/database`, for any number of processes. Its
    /// parameters are those of the [URLs of PostgreSQL], `sslrootcert` among them.
    ///
    /// [URLs of PostgreSQL]: https://www.postgresql.org/docs/current/libpq-connect.html
    ///
    /// The file is private to the user (mode
    /// 0600) and held until the last clone of the guard is dropped. Until then, the command line
    /// reaches it through a socket beside it: see [`Config::socket`].
    ///
    /// The secret is, in this order: the one of `config`; the environment variable
    /// `KEYGUARD_SECRET`; the content of the file named as the data file with `.secret` appended.
    /// Where none of these is found and there is no data file either, that secret file is created,
    /// with a random secret and mode 0600. A secret file that other users may read or change is
    /// refused, as is one, or a symbolic link to one, of a user who is neither this one nor the data
    /// file's owner (where others cannot make files in its directory) nor root; one above 65,536 bytes; and what is neither a file nor a pipe. Of a
    /// symbolic link to a data file, all this concerns the file that it leads to.
    ///
    /// # Errors
    /// [`OpenError`] says what is wrong with the setting, the secret or the file, and what to do.
    /// A file that is refused is left as it was, to the byte.
    pub fn open(file: impl AsRef<Path>, config: Config) -> Result<Self, OpenError> {
        let file = file.as_ref();
        let guard = Self::without_socket(file, config)?;
        listen(&guard, file)?;
        Ok(guard)
    }
}

#[cfg(unix)]
fn listen(guard: &KeyGuard, file: &Path) -> Result<(), OpenError> {
    use super::socket::Listener;
    use std::io::ErrorKind;

    if !guard.inner.config().socket || Storage::of(file)?.is_server() {
        return Ok(());
    }
    match Listener::bind(file, &guard.inner) {
        Ok(listener) => guard.inner.accompany(Box::new(listener)),
        Err(source) if source.kind() == ErrorKind::AlreadyExists => {
            let path = file.into();
            return Err(OpenError::Socket { path, source });
        }
        Err(error) => guard.inner.warn(&format!(
            "the command line cannot reach this process, because no socket can be made for it: \
             {error}"
        )),
    }
    Ok(())
}

#[cfg(not(unix))]
fn listen(_: &KeyGuard, _: &Path) -> Result<(), OpenError> {
    Ok(())
}
