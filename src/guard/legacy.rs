//! Keys that the ancestor issued: found by its hash, and from then on by ours.
//!
//! Only a guard with [`Config::legacy_secret`](super::Config::legacy_secret) looks for them.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;

use super::Inner;
use super::config::Config;
use super::credential::bearer_token;
use super::request::Headers;
use super::residents::Caller;
use super::visit::Visit;
use crate::client_ip::ClientIp;
use crate::clock::Timestamp;
use crate::key::HashedKey;
use crate::legacy::LegacyHasher;
use crate::record::Reason;
use crate::store::{Act, Rehash, Store, StoreError};
use crate::waiting::Patience;

#[cfg(feature = "legacy")]
pub(super) fn hasher(config: &Config) -> Option<LegacyHasher> {
    config.legacy_secret.clone().map(LegacyHasher::new)
}

#[cfg(not(feature = "legacy"))]
pub(super) fn hasher(_: &Config) -> Option<LegacyHasher> {
    None
}

impl Inner {
    /// The key whose text, which is not formed like one of ours, has this `hash`, if the ancestor
    /// issued it. Once it was found by the ancestor's hash, it is to be found by ours.
    #[cold]
    pub(super) async fn load_legacy(
        &self,
        hash: HashedKey,
        text: &[u8],
        patience: &Patience,
    ) -> Result<Option<Arc<Caller>>, Reason> {
        let Some(legacy) = &self.legacy else {
            return Ok(None);
        };
        // In a box, so that decisions that need none of it stay small.
        Box::pin(self.load_by(legacy, hash, text, patience)).await
    }

    async fn load_by(
        &self,
        legacy: &LegacyHasher,
        hash: HashedKey,
        text: &[u8],
        patience: &Patience,
    ) -> Result<Option<Arc<Caller>>, Reason> {
        if let Some(caller) = self.load_stored(hash, &hash, patience).await? {
            return Ok(Some(caller));
        }
        let old = legacy.hash(text);
        let caller = self.load_stored(hash, &old, patience).await?;
        if caller.is_some() {
            self.recorder().rehashing.add(Rehash { old, new: hash });
        }
        Ok(caller)
    }

    /// The key that a bearer token is which is not formed like one of ours, if the ancestor issued
    /// it. Any other token belongs to the application and presents nothing.
    #[inline]
    pub(super) async fn legacy_bearer<H: Headers + ?Sized>(
        &self,
        visit: &Visit<'_, '_, H>,
    ) -> Result<Option<Arc<Caller>>, Reason> {
        if self.legacy.is_none() {
            return Ok(None);
        }
        let Some(token) = bearer_token(visit.request.headers) else {
            return Ok(None);
        };
        match self.recognise(token) {
            Ok(caller) => Ok(Some(caller)),
            Err(hash) => self.load_legacy(hash, token, &visit.patience).await,
        }
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
        let stored = store.rehash(&jobs, &act(now));
        if stored.is_err() {
            jobs.into_iter().for_each(|job| self.add(job));
        }
        stored
    }
}

fn act(at: Timestamp) -> Act {
    Act {
        at,
        actor: "program".to_owned(),
        ip: ClientIp::LOCAL,
        action: "rehash_key",
        subject: None,
        details: Value::Object(serde_json::Map::new()),
        once: None,
    }
}
