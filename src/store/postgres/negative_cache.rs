//! The negative cache: hashes without a key, so that guesses do not reach the server.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;
use parking_lot::Mutex;

use crate::model::HashedKey;

/// Capacity.
const MOST: usize = 65_536;

/// How long entries are valid after the last contact with the server.
const BELIEVED: Duration = Duration::from_secs(3);

type Hashes = HashSet<HashedKey, RandomState>;

#[derive(Default)]
pub(super) struct NegativeCache(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// Incremented by every applied change.
    epoch: u64,
    heard: Option<Instant>,
    /// When the younger half is full, it replaces the older half.
    young: Hashes,
    old: Hashes,
}

impl NegativeCache {
    /// Whether the hash is known to have no key.
    pub(super) fn is_absent(&self, hash: &HashedKey) -> bool {
        let inner = self.0.lock();
        inner.heard.is_some_and(|heard| heard.elapsed() < BELIEVED)
            && (inner.young.contains(hash) || inner.old.contains(hash))
    }

    /// A version for a later comparison.
    pub(super) fn epoch(&self) -> u64 {
        self.0.lock().epoch
    }

    /// Adds an absent hash, unless something changed since the query began.
    pub(super) fn note_absent(&self, hash: HashedKey, asked_in: u64) {
        let mut inner = self.0.lock();
        if inner.epoch != asked_in {
            return;
        }
        if inner.young.len() >= MOST / 2 {
            inner.old = std::mem::take(&mut inner.young);
        }
        inner.young.insert(hash);
    }

    /// Invalidates the entries: results of running queries may be outdated.
    pub(super) fn changed(&self) {
        let mut inner = self.0.lock();
        inner.epoch += 1;
        inner.young.clear();
        inner.old.clear();
    }

    /// Notes that all changes up to `at` are applied.
    pub(super) fn heard(&self, at: Instant) {
        self.0.lock().heard = Some(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: usize) -> HashedKey {
        HashedKey(*blake3::hash(&n.to_le_bytes()).as_bytes())
    }

    #[test]
    fn changes_invalidate_pending_results() {
        let lookups = NegativeCache::default();
        let epoch = lookups.epoch();
        lookups.note_absent(hash(1), epoch);
        assert!(!lookups.is_absent(&hash(1)), "nothing was heard yet");
        lookups.heard(Instant::now());
        assert!(lookups.is_absent(&hash(1)));
        lookups.changed();
        assert!(!lookups.is_absent(&hash(1)));
        lookups.note_absent(hash(1), epoch);
        assert!(!lookups.is_absent(&hash(1)));
    }

    #[test]
    fn the_cache_is_bounded() {
        let lookups = NegativeCache::default();
        lookups.heard(Instant::now());
        for n in 0..3 * MOST {
            lookups.note_absent(hash(n), 0);
        }
        let inner = lookups.0.lock();
        assert!(inner.young.len() + inner.old.len() <= MOST);
        drop(inner);
        assert!(lookups.is_absent(&hash(3 * MOST - 1)));
    }
}
