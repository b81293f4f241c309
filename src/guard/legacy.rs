//! Keys that the Python package issued: found by its hash, then stored under ours.
//!
//! Only a guard with [`Config::legacy_secret`](super::Config::legacy_secret) accepts them.

use parking_lot::Mutex;
use serde_json::json;

use super::config::Config;
use crate::model::LegacyHasher;
use crate::store::{AuditContext, Rehash, StoreError, UsageStore};
use crate::time::Timestamp;

#[cfg(feature = "legacy")]
pub(super) fn hasher(config: &Config) -> Option<LegacyHasher> {
    config.legacy_secret.clone().map(LegacyHasher::new)
}

#[cfg(not(feature = "legacy"))]
pub(super) fn hasher(_: &Config) -> Option<LegacyHasher> {
    None
}

/// A warning: keys of the Python package are refused.
pub(crate) const MISSING_SECRET: &str = "keys were imported from the Python package, and its secret is not \
    configured: they are refused, and their clients are locked out as if they guessed keys; give the secret in the \
    variable KEYGUARD_LEGACY_SECRET, in the file of --legacy-secret-file, or by `Config::legacy_secret` (feature \
    `legacy`)";

/// A warning: malformed keys are refused, and may be keys of the Python package.
pub(crate) const UNUSED_SECRET: &str = "keys were imported from the Python package, none of them was ever accepted, and \
    malformed keys were refused: the secret of the package that is configured may be wrong; `keyguard check` with the \
    text of an imported key shows whether it is";

/// The number of credentials that are examined when a guard opens: all of a small file, and enough of a large
/// one to find keys of the Python package if they are at least 5 % of all.
pub(super) const SAMPLE: usize = 100;

/// Credentials to be stored under our hash.
#[derive(Debug, Default)]
pub(super) struct Rehashing(Mutex<Vec<Rehash>>);

impl Rehashing {
    /// Further credentials are dropped and added again when they are used again.
    const MOST: usize = 4_096;

    pub(super) fn add(&self, job: Rehash) {
        let mut waiting = self.0.lock();
        if waiting.len() < Self::MOST && !waiting.contains(&job) {
            waiting.push(job);
        }
    }

    /// Stores all credentials, and keeps them if that fails.
    pub(super) fn store(&self, store: &dyn UsageStore, now: Timestamp) -> Result<(), StoreError> {
        let jobs = std::mem::take(&mut *self.0.lock());
        if jobs.is_empty() {
            return Ok(());
        }
        let audit = AuditContext::of_program(now, "rehash_key", json!({}));
        let stored = store.rehash(&jobs, &audit);
        if stored.is_err() {
            jobs.into_iter().for_each(|job| self.add(job));
        }
        stored
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::HashedKey;

    #[test]
    fn waiting_credentials_are_bounded_and_each_is_there_once() {
        let rehashing = Rehashing::default();
        let job = |number: usize| {
            let hash = |text: &[u8]| HashedKey(*blake3::hash(text).as_bytes());
            Rehash {
                old: hash(&number.to_le_bytes()),
                new: hash(&number.to_be_bytes()),
            }
        };
        for number in (0..Rehashing::MOST + 9).chain(0..9) {
            rehashing.add(job(number));
        }
        let waiting = rehashing.0.lock();
        assert_eq!(waiting.len(), Rehashing::MOST);
        assert!(
            waiting
                .iter()
                .enumerate()
                .all(|(at, waiting)| *waiting == job(at))
        );
    }
}
