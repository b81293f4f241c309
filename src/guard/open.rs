//! Opening: from a path and settings to a guard that decides.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Guard;
#[cfg(unix)]
use super::backends::is_server;
use super::backends::{self, Storage};
use super::config::Config;
use super::key_cache::{Backends, KeyCache, Revisions};
use super::legacy;
use super::lockouts::Lockouts;
use super::policy_reloader::{PolicyHandle, PolicyReloader};
use super::proxies::Proxies;
use super::recorder::{Outlet, Recorder, Writer};
use super::secret_file::{find_secret, followed};
use crate::model::KeyHasher;
use crate::policy;
use crate::store::{OpenError, StoreError};

impl Guard {
    pub(crate) fn open(file: &Path, config: Config) -> Result<Self, OpenError> {
        config.validate().map_err(OpenError::Config)?;
        let file = match Storage::of(file)? {
            Storage::File(file) => &followed(file)?,
            Storage::Postgres(_) => file,
        };
        let place = Storage::of(file)?;
        let exposure = exposure_of(file);
        let shown = place.shown();
        let policy = match &config.policy_file {
            Some(file) => policy::read(file).map_err(OpenError::Policy)?,
            None => config.policy.clone(),
        };
        let clock = config.clock.clone();
        let secret = find_secret(&place, config.secret.clone())?;
        let limiter = backends::limiter(&config, &secret, !place.is_server())?;
        let store = backends::store(&place, &config, &secret)?;
        let lockouts = Lockouts::new(
            config.max_locks,
            NonZeroU32::new(config.ip_block_threshold).unwrap_or(NonZeroU32::MIN),
            config.time_zone.clone(),
        )
        .logged_by(config.on_warning);
        exposure.iter().for_each(|text| lockouts.warn(text));
        let lockouts = backends::load_locks(lockouts, &*store, &clock);
        let lockouts = Arc::new(lockouts.map_err(|error| unreadable(&shown, error))?);
        let recorder = Recorder::new(
            clock.clone(),
            config.record_usage,
            config.usage_queue_capacity,
        )
        .with_sink(config.usage_sink.is_some());
        let recorder = Arc::new(recorder);
        let networks = store
            .ip_counters()
            .map_err(|error| unreadable(&shown, error))?;
        limiter.restore(networks);
        let policy_handle = Arc::new(PolicyHandle::new(policy));
        let revisions = Arc::new(Revisions::new());
        let policies = Arc::new(PolicyReloader::new(
            Arc::clone(&policy_handle),
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
            Outlet::new(
                config.usage_sink.clone(),
                config.usage_queue_capacity,
                config.usage_sink_only,
            ),
        )
        .map_err(io_error)?;
        Ok(Self {
            hasher: KeyHasher::new(&secret),
            legacy: legacy::hasher(&config),
            #[cfg(feature = "http")]
            admin_keys: super::admin_keys::AdminKeys::new(&config, &secret),
            #[cfg(feature = "http")]
            id: super::GuardId::new(),
            key_cache: KeyCache::new(config.key_cache_capacity),
            revisions,
            backends,
            lockouts,
            proxies: Proxies::default(),
            policy_handle,
            policies,
            store,
            clock,
            key_header: config.key_header.clone(),
            config,
            writer: Mutex::new(Some(writer)),
            socket_server: Mutex::new(None),
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

/// What lets other users read or change a data file, before opening it makes it private.
#[cfg(unix)]
pub(crate) fn exposure_of(file: &Path) -> Option<String> {
    use crate::sys::ownership::data_file_exposure;

    if is_server(file) {
        return None;
    }
    let file = followed(file).ok()?;
    let found = std::fs::metadata(&file).ok()?;
    let exposure = data_file_exposure(&file, &found)?;
    let (file, problem, command) = (file.display(), exposure.problem, exposure.command);
    Some(format!(
        "the data file `{file}` was not private when it was opened: {problem}; run `{command}`"
    ))
}

#[cfg(not(unix))]
pub(crate) fn exposure_of(_: &Path) -> Option<String> {
    None
}
