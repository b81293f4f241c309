//! Opening of a guard from a path and a configuration.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Guard;
use super::active_locks::ActiveLocks;
use super::backends;
use super::cached_key::GrantBackends;
use super::config::Config;
use super::key_cache::KeyCache;
use super::key_cache::fingerprint::Fingerprinter;
use super::legacy;
use super::policy_reloader::{PolicyHandle, PolicyReloader};
use super::proxies::Proxies;
use super::recorder::{EventSource, Outlet, Recorder, UrgentEvents, Writer, WriterState};
use super::revisions::Revisions;
use super::secret_file::find_secret;
use super::secret_review;
use super::storage::{Storage, exposure_warning};
use super::warnings::{WarningKind, Warnings};
use crate::model::KeyHasher;
use crate::policy::{self, CompiledPolicy, InvalidPolicy};
use crate::store::copy::CopyProgress;
use crate::store::{LegacyKeys, OpenError, StoreError};

impl Guard {
    pub(crate) fn open(file: &Path, config: Config) -> Result<Self, OpenError> {
        config.validate().map_err(OpenError::Config)?;
        let storage = Storage::of(file)?.followed()?;
        let exposure = exposure_warning(&storage);
        let shown = storage.shown();
        let policy = compiled_policy(&config).map_err(OpenError::Policy)?;
        let clock = config.clock.clone();
        let secret = find_secret(&storage, config.secret.clone())?;
        let limiter = backends::limiter(&config, &secret, !storage.is_server())?;
        let store = backends::store(&storage, &config, &secret)?;
        let warnings = Arc::new(Warnings::logged_by(config.warning_log()));
        if let Some(text) = &exposure {
            warnings.add_of(WarningKind::Exposure, text);
        }
        let legacy = legacy::hasher(&config);
        // What cannot be read is reported when it is needed.
        let has_legacy_keys = || {
            store
                .has_legacy_keys(LegacyKeys::Sample(legacy::SAMPLE), clock.timestamp())
                .unwrap_or(false)
        };
        if legacy.is_none() && has_legacy_keys() {
            warnings.add_of(WarningKind::LegacySecret, legacy::MISSING_SECRET);
        }
        let locks = Arc::new(ActiveLocks::new(&config, Arc::clone(&warnings)));
        backends::load(&*store, &locks, &*limiter, &clock)
            .map_err(|error| unreadable(&shown, error))?;
        let recorder = Recorder::new(
            clock.clone(),
            config.record_usage,
            config.usage_queue_capacity,
            config.usage_sink.is_some(),
        );
        let recorder = Arc::new(recorder.with_log(config.log.has_output()));
        let policy_handle = Arc::new(PolicyHandle::new(policy));
        let revisions = Arc::new(Revisions::new());
        let policy_reloader = Arc::new(PolicyReloader::new(
            Arc::clone(&policy_handle),
            Arc::clone(&revisions),
            Arc::clone(&warnings),
            config.policy_file.clone(),
        ));
        let io_error = |source| OpenError::Io {
            path: shown.clone(),
            source,
        };
        if config.reload_on_hangup {
            policy_reloader.listen().map_err(io_error)?;
        }
        backends::follow(
            &*store,
            Arc::clone(&revisions),
            Arc::clone(&locks),
            clock.clone(),
        );
        let fingerprinter =
            Fingerprinter::random().map_err(|error| io_error(std::io::Error::other(error)))?;
        let backends = Arc::new(GrantBackends {
            recorder,
            limiter: Arc::new(limiter),
            rate_limit_headers: config.rate_limit_headers,
        });
        store.send_events_to(config.webhooks.clone());
        let urgent_events = Arc::<UrgentEvents>::default();
        let has_webhooks = !config.webhooks.is_empty();
        let events = has_webhooks.then(|| {
            EventSource::new(
                Arc::clone(&store),
                Arc::clone(&policy_handle),
                Arc::clone(&revisions),
                Arc::clone(&urgent_events),
                config.quota_time_zone.clone(),
            )
        });
        let writer = Writer {
            backends: Arc::clone(&backends),
            store: Arc::clone(&store) as _,
            locks: Arc::clone(&locks),
            warnings: Arc::clone(&warnings),
            policy_reloader: Arc::clone(&policy_reloader),
            retention: config.usage_retention,
            outlet: Outlet::new(
                config.usage_sink.clone(),
                config.usage_queue_capacity,
                config.usage_sink_only,
            ),
            events,
            state: WriterState::new(config.log.clone()),
        };
        let writer = writer.spawn().map_err(io_error)?;
        Ok(Self {
            hasher: KeyHasher::new(&secret),
            legacy,
            #[cfg(feature = "http")]
            admin_keys: super::admin_keys::AdminKeys::new(&config, &secret),
            #[cfg(feature = "http")]
            id: super::GuardId::new(),
            key_cache: KeyCache::new(config.key_cache_capacity, fingerprinter),
            revisions,
            backends,
            locks,
            warnings,
            secret_problems: secret_review::problems(&config, &secret, std::env::args_os()),
            proxies: Proxies::default(),
            policy_handle,
            policy_reloader,
            store,
            clock,
            key_header: config.key_header.as_str().into(),
            config,
            usage_turn: Mutex::default(),
            backup_turn: Mutex::default(),
            backup_progress: CopyProgress::default(),
            #[cfg(feature = "serve")]
            urgent_events,
            writer: Mutex::new(writer),
            socket_server: Mutex::new(None),
        })
    }
}

fn compiled_policy(config: &Config) -> Result<CompiledPolicy, InvalidPolicy> {
    CompiledPolicy::new(match &config.policy_file {
        Some(file) => policy::read(file)?,
        None => config.policy.clone(),
    })
}

/// The error for rows that cannot be read while a store is opened.
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
