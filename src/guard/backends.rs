//! Which backends a guard stands on: a data file or PostgreSQL, memory or Redis.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::config::Config;
use super::lockouts::Lockouts;
use super::residents::Revisions;
use crate::clock::Clock;
#[cfg(feature = "redis")]
use crate::limiter::RedisLimiter;
use crate::limiter::{Limiter, MemoryLimiter};
use crate::policy::InvalidInput;
use crate::secret::Secret;
use crate::store::{Change, OpenError, RedbStore, Store, StoreError};
#[cfg(feature = "postgres")]
use crate::store::{PostgresOptions, PostgresStore};

/// Where organizations and keys are.
pub(crate) enum Place<'f> {
    File(&'f Path),
    #[cfg_attr(not(feature = "postgres"), allow(dead_code))]
    Postgres(&'f str),
}

impl<'f> Place<'f> {
    /// What is meant by a path, which may be a URL.
    pub(crate) fn of(path: &'f Path) -> Self {
        let url = path.to_str().filter(|url| postgres_scheme(url).is_some());
        url.map_or(Self::File(path), Self::Postgres)
    }

    pub(crate) fn is_server(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }

    /// A name for errors: a URL may hold a password.
    pub(crate) fn shown(&self) -> PathBuf {
        match self {
            Self::File(path) => path.into(),
            Self::Postgres(_) => "postgres:".into(),
        }
    }
}

fn postgres_scheme(url: &str) -> Option<&str> {
    let (scheme, _) = url.split_once("://")?;
    matches!(scheme, "postgres" | "postgresql").then_some(scheme)
}

pub(super) fn store(
    place: &Place<'_>,
    config: &Config,
    secret: &Secret,
) -> Result<Arc<dyn Store>, OpenError> {
    let now = config.clock.timestamp();
    match place {
        Place::File(file) => {
            let (fingerprint, cache) = (secret.fingerprint(), config.file_cache_bytes);
            Ok(Arc::new(RedbStore::open(file, fingerprint, now, cache)?))
        }
        #[cfg(feature = "postgres")]
        Place::Postgres(url) => {
            let options = PostgresOptions {
                deadline: config.backend_deadline,
                connections: config.database_connections,
                stale_for: config.keys_stale_for,
                now,
            };
            let store = PostgresStore::open(url, secret.fingerprint(), options)?;
            Ok(Arc::new(store))
        }
        #[cfg(not(feature = "postgres"))]
        Place::Postgres(url) => Err(missing(postgres_scheme(url).unwrap_or(url), "postgres")),
    }
}

pub(super) fn limiter(config: &Config, secret: &Secret) -> Result<Arc<dyn Limiter>, OpenError> {
    let memory = MemoryLimiter::new(
        config.clock.clone(),
        config.quota_time_zone.clone(),
        config.limited_keys,
        config.counted_addresses,
    );
    let Some(url) = &config.redis_url else {
        return Ok(Arc::new(memory));
    };
    let url = String::from_utf8_lossy(url.expose());
    let scheme = redis_scheme(&url).ok_or_else(|| {
        let problem = "starts with none of `redis://`, `rediss://`, `redis+cluster://`, \
            `rediss+cluster://`, `redis+sentinel://`, `rediss+sentinel://`";
        OpenError::Config(InvalidInput::new("redis_url", problem))
    })?;
    redis_limiter(&url, scheme, config, secret, memory)
}

/// `redis` or `rediss`, alone or with what the servers are together.
fn redis_scheme(url: &str) -> Option<&str> {
    let (scheme, _) = url.split_once("://")?;
    let (client, together) = scheme.split_once('+').unwrap_or((scheme, ""));
    let is_known =
        matches!(client, "redis" | "rediss") && matches!(together, "" | "cluster" | "sentinel");
    is_known.then_some(scheme)
}

#[cfg(feature = "redis")]
fn redis_limiter(
    url: &str,
    _: &str,
    config: &Config,
    secret: &Secret,
    memory: MemoryLimiter,
) -> Result<Arc<dyn Limiter>, OpenError> {
    let (deadline, fallback) = (config.backend_deadline, config.limits_fallback);
    let limiter = RedisLimiter::open(url, secret, deadline, fallback, memory)?;
    Ok(Arc::new(limiter))
}

#[cfg(not(feature = "redis"))]
fn redis_limiter(
    _: &str,
    scheme: &str,
    _: &Config,
    _: &Secret,
    _: MemoryLimiter,
) -> Result<Arc<dyn Limiter>, OpenError> {
    Err(missing(scheme, "redis"))
}

#[cfg(not(all(feature = "redis", feature = "postgres")))]
fn missing(scheme: &str, feature: &'static str) -> OpenError {
    OpenError::MissingFeature {
        scheme: scheme.to_owned(),
        feature,
    }
}

/// The locks of a store. Those of a server that cannot be reached yet come later, with its changes.
pub(super) fn load_locks(
    lockouts: Lockouts,
    store: &dyn Store,
    clock: &Clock,
) -> Result<Lockouts, StoreError> {
    match store.locks() {
        Ok(locks) => lockouts.load(locks, clock.timestamp()),
        Err(StoreError::Unavailable(_)) if store.asks_others() => {}
        Err(error) => return Err(error),
    }
    Ok(lockouts)
}

/// Puts in force what others change in the store.
pub(super) fn follow(
    store: &dyn Store,
    revisions: Arc<Revisions>,
    lockouts: Arc<Lockouts>,
    clock: Clock,
) {
    store.follow(Box::new(move |change| match change {
        Change::Key(id) => revisions.key_changed(id),
        Change::Org(id) => revisions.org_changed(id),
        Change::Locks(changes) => lockouts.adopt(changes, clock.timestamp()),
        Change::Everything => revisions.everything_changed(),
    }));
}
