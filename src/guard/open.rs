//! Opening: from a path and settings to a guard that decides.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::Inner;
use super::config::Config;
use super::recorder::{Recorder, Writer};
use super::residents::{Residents, Revisions};
use crate::draft::Draft;
use crate::key::KeyHasher;
use crate::limiter::{Limiter, MemoryLimiter};
use crate::secret::Secret;
use crate::store::{OpenError, RedbStore, Store};

const SECRET_VARIABLE: &str = "KEYGUARD_SECRET";

impl Inner {
    pub(super) fn open(file: &Path, config: Config) -> Result<Self, OpenError> {
        config.validate().map_err(OpenError::Config)?;
        let clock = config.clock.clone();
        let secret = find_secret(file, config.secret.clone())?;
        let store: Arc<dyn Store> = Arc::new(RedbStore::open(
            file,
            secret.fingerprint(),
            clock.timestamp(),
            config.file_cache_bytes,
        )?);
        let limiter: Arc<dyn Limiter> =
            Arc::new(MemoryLimiter::new(clock.clone(), config.limited_keys));
        let recorder = Arc::new(Recorder::new(
            clock.clone(),
            config.record_usage,
            config.usage_queue,
        ));
        let writer = Writer::spawn(
            Arc::clone(&recorder),
            Arc::clone(&store),
            Arc::clone(&limiter),
            config.usage_retention,
        )
        .map_err(|source| OpenError::Io {
            path: file.into(),
            source,
        })?;
        Ok(Self {
            hasher: KeyHasher::new(&secret),
            residents: Residents::new(config.resident_keys),
            revisions: Revisions::new(),
            limiter,
            recorder,
            store,
            clock,
            key_header: config.key_header.clone(),
            config,
            writer: Mutex::new(Some(writer)),
        })
    }
}

/// The secret given, or of the environment, or beside the data file, or, for a new data file, new.
fn find_secret(file: &Path, explicit: Option<Secret>) -> Result<Secret, OpenError> {
    let path = secret_path(file);
    let from_environment = || std::env::var(SECRET_VARIABLE).ok().map(Secret::from);
    let secret = match explicit.or_else(from_environment) {
        Some(secret) => secret,
        None => match std::fs::read(&path) {
            Ok(bytes) => Secret::from(bytes.trim_ascii().to_vec()),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(OpenError::SecretFile {
                    path,
                    source: error,
                });
            }
            Err(_) if RedbStore::exists(file)? => {
                return Err(OpenError::MissingSecret {
                    path: file.into(),
                    secret_file: path,
                });
            }
            Err(_) => create_secret(&path)?,
        },
    };
    if secret.is_blank() {
        return Err(OpenError::BlankSecret);
    }
    Ok(secret)
}

/// `keyguard.redb` → `keyguard.redb.secret`
fn secret_path(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".secret");
    name.into()
}

/// Makes a random secret and its file, private from the start and whole or not there at all; if
/// another process is faster, its secret is taken.
fn create_secret(path: &Path) -> Result<Secret, OpenError> {
    let failed = |source| OpenError::SecretFile {
        path: path.into(),
        source,
    };
    let secret = Secret::generate().map_err(|error| failed(std::io::Error::other(error)))?;
    let mut bytes = Zeroizing::new(secret.expose().to_vec());
    bytes.push(b'\n');
    let written = Draft::new(path).and_then(|mut draft| {
        draft.file().write_all(&bytes)?;
        draft.take_name(path)
    });
    match written {
        Ok(()) => Ok(secret),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let bytes = std::fs::read(path).map_err(failed)?;
            Ok(Secret::from(bytes.trim_ascii().to_vec()))
        }
        Err(error) => Err(failed(error)),
    }
}
