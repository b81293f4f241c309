//! Keys that the Python package issued: found by its hash, and from then on by ours.
//!
//! Only a guard with [`Config::legacy_secret`](super::Config::legacy_secret) looks for them.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;

use super::Guard;
use super::config::Config;
use super::credential::bearer_token;
use super::key_cache::CachedKey;
use super::request::Headers;
use crate::model::HashedKey;
use crate::model::LegacyHasher;
use crate::model::Reason;
use crate::net::ClientIp;
use crate::store::{AuditContext, Rehash, Store, StoreError};
use crate::sys::Deadline;
use crate::time::Timestamp;

#[cfg(feature = "legacy")]
pub(super) fn hasher(config: &Config) -> Option<LegacyHasher> {
    config.legacy_secret.clone().map(LegacyHasher::new)
}

#[cfg(not(feature = "legacy"))]
pub(super) fn hasher(_: &Config) -> Option<LegacyHasher> {
    None
}

impl Guard {
    /// The key that the Python package issued and stored as `old`. From now on it is to be found by `hash`.
    pub(super) async fn load_legacy(
        &self,
        hash: HashedKey,
        old: HashedKey,
        deadline: &Deadline,
    ) -> Result<Option<Arc<CachedKey>>, Reason> {
        let caller = self.load_stored(hash, &old, deadline).await?;
        if caller.is_some() {
            self.recorder().rehashing.add(Rehash { old, new: hash });
        }
        Ok(caller)
    }

    /// A bearer token that is not formed like one of our keys, if the Python package may have issued it.
    #[inline]
    pub(super) fn legacy_bearer<'h, H: Headers + ?Sized>(
        &self,
        headers: &'h H,
    ) -> Option<&'h [u8]> {
        self.legacy.as_ref()?;
        bearer_token(headers)
    }
}

/// Credentials that wait to be stored under our hash.
#[derive(Debug, Default)]
pub(super) struct Rehashing(Mutex<Vec<Rehash>>);

impl Rehashing {
    /// More than these wait until they are found the next time.
    const MOST: usize = 4_096;

    fn add(&self, job: Rehash) {
        let mut waiting = self.0.lock();
        if waiting.len() < Self::MOST && !waiting.contains(&job) {
            waiting.push(job);
        }
    }

    /// Stores all that wait, and keeps them if that fails.
    pub(super) fn store(&self, store: &dyn Store, now: Timestamp) -> Result<(), StoreError> {
        let jobs = std::mem::take(&mut *self.0.lock());
        if jobs.is_empty() {
            return Ok(());
        }
        let stored = store.rehash(&jobs, &audit(now));
        if stored.is_err() {
            jobs.into_iter().for_each(|job| self.add(job));
        }
        stored
    }
}

fn audit(at: Timestamp) -> AuditContext {
    AuditContext {
        at,
        actor: "program".to_owned(),
        ip: ClientIp::LOCAL,
        action: "rehash_key",
        subject: None,
        details: Value::Object(serde_json::Map::new()),
        idempotency_key: None,
    }
}
