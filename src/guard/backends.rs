//! Selection of the backends: a data file or PostgreSQL, memory or Redis.

use std::sync::Arc;

use super::active_locks::ActiveLocks;
use super::config::Config;
use super::revisions::Revisions;
use super::storage::Storage;
use crate::input::InvalidInput;
#[cfg(feature = "redis")]
use crate::limiter::RedisLimiter;
use crate::limiter::{AnyLimiter, Limiter, MemoryLimiter};
use crate::model::Secret;
use crate::store::{ChangeEvent, OpenError, RedbStore, Store, StoreError};
#[cfg(feature = "postgres")]
use crate::store::{PostgresOptions, PostgresStore};
use crate::time::Clock;

pub(super) fn store(
    storage: &Storage<'_>,
    config: &Config,
    secret: &Secret,
) -> Result<Arc<dyn Store>, OpenError> {
    match storage {
        Storage::File(file) => {
            let (fingerprint, cache) = (secret.fingerprint(), config.file_cache_bytes);
            Ok(Arc::new(RedbStore::open(
                file,
                fingerprint,
                &config.clock,
                cache,
            )?))
        }
        #[cfg(feature = "postgres")]
        Storage::Postgres(url) => {
            let url = String::from_utf8_lossy(url.expose());
            let options = PostgresOptions {
                deadline: config.backend_deadline,
                connections: config.max_database_connections,
                stale_for: config.max_key_staleness,
                clock: config.clock.clone(),
            };
            let store = PostgresStore::open(&url, secret.fingerprint(), options)?;
            Ok(Arc::new(store))
        }
        #[cfg(not(feature = "postgres"))]
        Storage::Postgres(_) => Err(missing("postgres", "postgres")),
    }
}

/// With `leads_clock`, the clock follows the calendar of the limiter's server.
#[cfg_attr(not(feature = "redis"), allow(unused_variables))]
pub(super) fn limiter(
    config: &Config,
    secret: &Secret,
    leads_clock: bool,
) -> Result<AnyLimiter, OpenError> {
    let memory = MemoryLimiter::new(
        config.clock.clone(),
        config.quota_time_zone.clone(),
        config.max_tracked_keys,
        config.max_tracked_ips,
    );
    let Some(url) = &config.redis_url else {
        return Ok(AnyLimiter::Memory(memory));
    };
    let url = String::from_utf8_lossy(url.expose());
    match redis_scheme(&url) {
        #[cfg(feature = "redis")]
        Some(_) => {
            let (deadline, fallback) = (config.backend_deadline, config.limiter_fallback);
            let limiter = RedisLimiter::open(&url, secret, deadline, fallback, memory)?;
            if leads_clock {
                limiter.sync_clock();
            }
            Ok(AnyLimiter::Redis(limiter))
        }
        #[cfg(not(feature = "redis"))]
        Some(scheme) => Err(missing(scheme, "redis")),
        None => {
            let problem = "starts with none of `redis://`, `rediss://`, `redis+cluster://`, \
                `rediss+cluster://`, `redis+sentinel://`, `rediss+sentinel://`";
            Err(OpenError::Config(InvalidInput::new("redis_url", problem)))
        }
    }
}

/// Returns the scheme of a URL of Redis: `redis` or `rediss`, alone or with `+cluster` or `+sentinel`.
fn redis_scheme(url: &str) -> Option<&str> {
    let (scheme, _) = url.split_once("://")?;
    let (client, topology) = scheme.split_once('+').unwrap_or((scheme, ""));
    let is_known =
        matches!(client, "redis" | "rediss") && matches!(topology, "" | "cluster" | "sentinel");
    is_known.then_some(scheme)
}

#[cfg(not(all(feature = "redis", feature = "postgres")))]
fn missing(scheme: &str, feature: &'static str) -> OpenError {
    OpenError::MissingFeature {
        scheme: scheme.to_owned(),
        feature,
    }
}

/// Loads the stored locks and the counters of addresses. If a server is unavailable, its locks follow
/// later, with its changes.
pub(super) fn load(
    store: &dyn Store,
    locks: &ActiveLocks,
    limiter: &dyn Limiter,
    clock: &Clock,
) -> Result<(), StoreError> {
    match store.locks() {
        Ok(stored) => locks.replace_all(stored, Vec::new(), clock.timestamp()),
        Err(StoreError::Unavailable(_)) if store.is_remote() => {}
        Err(error) => return Err(error),
    }
    limiter.restore(store.ip_windows()?);
    Ok(())
}

/// Applies the changes of other processes.
pub(super) fn follow(
    store: &dyn Store,
    revisions: Arc<Revisions>,
    locks: Arc<ActiveLocks>,
    clock: Clock,
) {
    store.subscribe(Box::new(move |change| match change {
        ChangeEvent::Key(id) => revisions.key_changed(id),
        ChangeEvent::Org(id) => revisions.org_changed(id),
        ChangeEvent::Locks(changes) => locks.apply(changes, clock.timestamp()),
        ChangeEvent::AllLocks {
            locks: stored,
            except,
        } => locks.replace_all(stored, except, clock.timestamp()),
        ChangeEvent::Everything => revisions.everything_changed(),
    }));
}
