//! The negative cache: hashes without a key, so that guesses do not reach the server.

use std::collections::HashSet;
use std::time::Duration;

use foldhash::quality::RandomState;
use parking_lot::Mutex;

use crate::model::HashedKey;
use crate::sys::Instant;

const CAPACITY: usize = 65_536;

/// How long entries are valid after the last contact with the server.
const VALID_FOR: Duration = Duration::from_secs(3);

type Hashes = HashSet<HashedKey, RandomState>;

#[derive(Default)]
pub(super) struct NegativeCache(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// Incremented by every applied change.
    epoch: u64,
    confirmed_at: Option<Instant>,
    /// When the younger half is full, it replaces the older half.
    young: Hashes,
    old: Hashes,
}

impl NegativeCache {
    /// Whether the hash is known to have no key.
    pub(super) fn is_absent(&self, hash: &HashedKey) -> bool {
        let inner = self.0.lock();
        inner
            .confirmed_at
            .is_some_and(|at| at.elapsed() < VALID_FOR)
            && (inner.young.contains(hash) || inner.old.contains(hash))
    }

    /// A version for a later comparison.
    pub(super) fn epoch(&self) -> u64 {
        self.0.lock().epoch
    }

    /// Adds an absent hash, unless something changed since the query began.
    pub(super) fn note_absent(&self, hash: HashedKey, epoch: u64) {
        let mut inner = self.0.lock();
        if inner.epoch != epoch {
            return;
        }
        if inner.young.len() >= CAPACITY / 2 {
            inner.old = std::mem::take(&mut inner.young);
        }
        inner.young.insert(hash);
    }

    /// Invalidates the entries: results of running queries may be outdated.
    pub(super) fn invalidate(&self) {
        let mut inner = self.0.lock();
        inner.epoch += 1;
        inner.young.clear();
        inner.old.clear();
    }

    /// Notes that all changes up to `at` are applied.
    pub(super) fn confirm_until(&self, at: Instant) {
        self.0.lock().confirmed_at = Some(at);
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
        let cache = NegativeCache::default();
        let epoch = cache.epoch();
        cache.note_absent(hash(1), epoch);
        assert!(!cache.is_absent(&hash(1)), "no contact yet");
        cache.confirm_until(Instant::now());
        assert!(cache.is_absent(&hash(1)));
        cache.invalidate();
        assert!(!cache.is_absent(&hash(1)));
        cache.note_absent(hash(1), epoch);
        assert!(!cache.is_absent(&hash(1)));
    }

    #[test]
    fn the_cache_is_bounded_and_contains_the_latest_half() {
        let cache = NegativeCache::default();
        let latest = 3 * CAPACITY + CAPACITY / 4;
        for n in 0..latest {
            cache.note_absent(hash(n), 0);
        }
        let inner = cache.0.lock();
        assert!(inner.young.len() + inner.old.len() <= CAPACITY);
        drop(inner);
        // Entries are valid for seconds, and the loop may take longer on a busy machine.
        cache.confirm_until(Instant::now());
        let latest_half = latest - CAPACITY / 2..latest;
        assert!(
            latest_half
                .step_by(1_000)
                .all(|n| cache.is_absent(&hash(n)))
        );
    }
}
