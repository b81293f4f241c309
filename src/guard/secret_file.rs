//! The secret of a data file, and the file that stores it.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::storage::Storage;
use crate::model::Secret;
use crate::store::{OpenError, RedbStore};
use crate::sys::AtomicFile;

const SECRET_VARIABLE: &str = "KEYGUARD_SECRET";

/// The largest size of a secret in a file.
const MAX_SECRET_BYTES: u64 = 65_536;

/// Returns the explicit secret, or that of the environment, or that in the file beside the data file, which
/// is created for a new data file.
pub(super) fn find_secret(
    storage: &Storage<'_>,
    explicit: Option<Secret>,
) -> Result<Secret, OpenError> {
    let (secret, source) = if let Some(secret) = explicit {
        (secret, "the configuration".to_owned())
    } else if let Some(text) = std::env::var_os(SECRET_VARIABLE) {
        let secret = Secret::from(text.into_encoded_bytes());
        (secret, format!("the variable {SECRET_VARIABLE}"))
    } else if let Storage::File(file) = storage {
        let path = secret_path(file);
        (secret_beside(file, &path)?, format!("`{}`", path.display()))
    } else {
        return Err(OpenError::Server {
            server: "PostgreSQL",
            problem: format!(
                "no secret: a PostgreSQL database has no secret file; set {SECRET_VARIABLE} or \
                 `Config::new(secret)`"
            ),
        });
    };
    if secret.is_blank() {
        return Err(OpenError::BlankSecret { origin: source });
    }
    Ok(secret)
}

/// Returns the secret of a data file that another process may hold. Creates none.
#[cfg(feature = "cli")]
pub(crate) fn existing_secret(file: &Path, explicit: Option<Secret>) -> Result<Secret, OpenError> {
    let storage = Storage::of(file)?.followed()?;
    let is_given = explicit.is_some() || std::env::var_os(SECRET_VARIABLE).is_some();
    if let Storage::File(file) = &storage
        && !is_given
        && !secret_path(file).exists()
    {
        return Err(OpenError::MissingSecret {
            path: file.to_path_buf(),
            secret_file: secret_path(file),
        });
    }
    find_secret(&storage, explicit)
}

/// Returns the path of the secret: `keyguard.redb` → `keyguard.redb.secret`.
pub(crate) fn secret_path(file: &Path) -> PathBuf {
    beside(file, ".secret")
}

/// Returns the path of the secret of webhooks: `keyguard.redb` → `keyguard.redb.webhook-secret`.
#[cfg(feature = "cli")]
pub(crate) fn webhook_secret_path(file: &Path) -> PathBuf {
    beside(file, ".webhook-secret")
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn secret_beside(file: &Path, path: &Path) -> Result<Secret, OpenError> {
    match read_secret(path, file) {
        Err(OpenError::SecretFile { source, .. }) if source.kind() == ErrorKind::NotFound => {
            match RedbStore::exists(file)? {
                true => Err(OpenError::MissingSecret {
                    path: file.into(),
                    secret_file: path.into(),
                }),
                false => write_secret(path, file, Secret::generate()),
            }
        }
        read => read,
    }
}

fn secret_file_error(path: &Path) -> impl Fn(io::Error) -> OpenError {
    move |source| OpenError::SecretFile {
        path: path.into(),
        source,
    }
}

/// Reads a secret from a file or a pipe that only its owner may access. The owner of the file, and of a
/// link to it, must be this user, root, or the owner of the data file at `data`.
pub(crate) fn read_secret(path: &Path, data: &Path) -> Result<Secret, OpenError> {
    let failed = secret_file_error(path);
    let file = open_private(path, data)?;
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(MAX_SECRET_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(&failed)?;
    if bytes.len() as u64 > MAX_SECRET_BYTES {
        let problem = format!("it is longer than {MAX_SECRET_BYTES} bytes");
        return Err(failed(io::Error::other(problem)));
    }
    Ok(Secret::from(bytes.trim_ascii().to_vec()))
}

#[cfg(unix)]
fn open_private(path: &Path, data: &Path) -> Result<File, OpenError> {
    use std::fs::Metadata;

    use crate::sys::ownership::{exposure, open_verified, owner_of};

    let owner = owner_of(data);
    let verify = |found: &Metadata| match exposure(path, found, owner) {
        Some(exposure) => Err(OpenError::ExposedSecret {
            path: path.into(),
            problem: exposure.problem,
            command: exposure.command,
        }),
        None => Ok(()),
    };
    open_verified(path, verify, secret_file_error(path))
}

#[cfg(not(unix))]
fn open_private(path: &Path, _: &Path) -> Result<File, OpenError> {
    File::open(path).map_err(secret_file_error(path))
}

/// Creates the file of a generated secret, private from the start and written atomically. If another process is
/// faster, its secret is used.
pub(crate) fn write_secret(
    path: &Path,
    data: &Path,
    generated: io::Result<Secret>,
) -> Result<Secret, OpenError> {
    let failed = secret_file_error(path);
    let secret = generated.map_err(&failed)?;
    let mut bytes = Zeroizing::new(secret.expose().to_vec());
    bytes.push(b'\n');
    let written = AtomicFile::new(path).and_then(|mut file| {
        file.file().write_all(&bytes)?;
        file.take_name(path)
    });
    match written {
        Ok(()) => Ok(secret),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => read_secret(path, data),
        Err(error) => Err(failed(error)),
    }
}
