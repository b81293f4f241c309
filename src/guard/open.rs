//! Opening: from a path and settings to a guard that decides.

use std::io::{ErrorKind, Write};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::Inner;
use super::backends::{self, Place};
use super::config::Config;
use super::legacy;
use super::lockouts::Lockouts;
use super::policies::{InForce, Policies};
use super::recorder::{Outlet, Recorder, Writer};
use super::residents::{Backends, Residents, Revisions};
use crate::access;
use crate::draft::Draft;
use crate::key::KeyHasher;
use crate::secret::Secret;
use crate::store::{OpenError, RedbStore, StoreError};

const SECRET_VARIABLE: &str = "KEYGUARD_SECRET";

impl Inner {
    pub(super) fn open(file: &Path, config: Config) -> Result<Self, OpenError> {
        config.validate().map_err(OpenError::Config)?;
        let place = Place::of(file)?;
        let shown = place.shown();
        let policy = match &config.policy_file {
            Some(file) => access::read(file).map_err(OpenError::Policy)?,
            None => config.policy.clone(),
        };
        let clock = config.clock.clone();
        let secret = find_secret(&place, config.secret.clone())?;
        let limiter = backends::limiter(&config, &secret)?;
        let store = backends::store(&place, &config, &secret)?;
        let lockouts = Lockouts::new(
            config.locked_addresses,
            NonZeroU32::new(config.ip_block_threshold).unwrap_or(NonZeroU32::MIN),
            config.time_zone.clone(),
        );
        let lockouts = backends::load_locks(lockouts, &*store, &clock);
        let lockouts = Arc::new(lockouts.map_err(|error| unreadable(&shown, error))?);
        let recorder = Arc::new(Recorder::new(
            clock.clone(),
            config.record_usage,
            config.usage_queue,
        ));
        let networks = store
            .networks()
            .map_err(|error| unreadable(&shown, error))?;
        limiter.restore_networks(networks);
        let in_force = Arc::new(InForce::new(policy));
        let revisions = Arc::new(Revisions::new());
        let policies = Arc::new(Policies::new(
            Arc::clone(&in_force),
            Arc::clone(&revisions),
            Arc::clone(&lockouts),
            config.policy_file.clone(),
        ));
        let io_error = |source| OpenError::Io {
            path: shown.clone(),
            source,
        };
        if config.reload_on_hangup {
            policies.listen().map_err(io_error)?;
        }
        backends::follow(
            &*store,
            Arc::clone(&revisions),
            Arc::clone(&lockouts),
            clock.clone(),
        );
        let backends = Arc::new(Backends { recorder, limiter });
        let writer = Writer::spawn(
            Arc::clone(&backends),
            Arc::clone(&store),
            Arc::clone(&lockouts),
            Arc::clone(&policies),
            config.usage_retention,
            Outlet::new(config.usage_sink.clone(), config.usage_queue),
        )
        .map_err(io_error)?;
        Ok(Self {
            hasher: KeyHasher::new(&secret),
            legacy: legacy::hasher(&config),
            #[cfg(feature = "http")]
            admin_keys: super::actor::AdminKeys::new(&config, &secret),
            #[cfg(feature = "http")]
            id: super::GuardId::new(),
            #[cfg(feature = "http")]
            mounts: super::Mounts::default(),
            residents: Residents::new(config.resident_keys),
            revisions,
            backends,
            lockouts,
            in_force,
            policies,
            store,
            clock,
            key_header: config.key_header.clone(),
            config,
            writer: Mutex::new(Some(writer)),
            companion: Mutex::new(None),
        })
    }
}

/// Rows that cannot be read while a file is opened.
fn unreadable(file: &Path, error: StoreError) -> OpenError {
    match error {
        StoreError::Unavailable(source) => OpenError::Io {
            path: file.into(),
            source: std::io::Error::other(source),
        },
        error => OpenError::Damaged {
            path: file.into(),
            source: error.into(),
        },
    }
}

/// The secret given, or of the environment, or beside the data file, or, for a new data file, new.
fn find_secret(place: &Place<'_>, explicit: Option<Secret>) -> Result<Secret, OpenError> {
    let (secret, place) = if let Some(secret) = explicit {
        (secret, "the configuration".to_owned())
    } else if let Some(text) = std::env::var_os(SECRET_VARIABLE) {
        let secret = Secret::from(text.into_encoded_bytes());
        (secret, format!("the variable {SECRET_VARIABLE}"))
    } else if let Place::File(file) = place {
        let path = secret_path(file);
        (secret_beside(file, &path)?, format!("`{}`", path.display()))
    } else {
        return Err(OpenError::Server {
            server: "PostgreSQL",
            problem: format!(
                "no secret is given, and there is no file beside a server to look for it; set \
                 {SECRET_VARIABLE}, or give it in the configuration"
            ),
        });
    };
    if secret.is_blank() {
        return Err(OpenError::BlankSecret { place });
    }
    Ok(secret)
}

/// The secret of a data file that may be held by another process. None is made.
#[cfg(feature = "cli")]
pub(crate) fn existing_secret(file: &Path, explicit: Option<Secret>) -> Result<Secret, OpenError> {
    let beside = secret_path(file);
    let place = Place::of(file)?;
    if !place.is_server()
        && explicit.is_none()
        && std::env::var_os(SECRET_VARIABLE).is_none()
        && !beside.exists()
    {
        return Err(OpenError::MissingSecret {
            path: file.into(),
            secret_file: beside,
        });
    }
    find_secret(&place, explicit)
}

fn secret_beside(file: &Path, path: &Path) -> Result<Secret, OpenError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Secret::from(bytes.trim_ascii().to_vec())),
        Err(source) if source.kind() != ErrorKind::NotFound => Err(OpenError::SecretFile {
            path: path.into(),
            source,
        }),
        Err(_) if RedbStore::exists(file)? => Err(OpenError::MissingSecret {
            path: file.into(),
            secret_file: path.into(),
        }),
        Err(_) => create_secret(path),
    }
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
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let bytes = std::fs::read(path).map_err(failed)?;
            Ok(Secret::from(bytes.trim_ascii().to_vec()))
        }
        Err(error) => Err(failed(error)),
    }
}
