//! What is known of keys that are not there, so that guesses do not reach the server.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;
use parking_lot::Mutex;

use crate::model::HashedKey;

/// How many hashes are remembered at most.
const MOST: usize = 65_536;

/// For how long after the server was last heard a hash counts as absent.
const BELIEVED: Duration = Duration::from_secs(3);

type Hashes = HashSet<HashedKey, RandomState>;

#[derive(Default)]
pub(super) struct NegativeCache(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// Counts the changes that were applied.
    epoch: u64,
    heard: Option<Instant>,
    /// The younger half makes way for a new one when it is full, and becomes the older.
    young: Hashes,
    old: Hashes,
}

impl NegativeCache {
    /// Whether there certainly is no such key.
    pub(super) fn is_absent(&self, hash: &HashedKey) -> bool {
        let inner = self.0.lock();
        inner.heard.is_some_and(|heard| heard.elapsed() < BELIEVED)
            && (inner.young.contains(hash) || inner.old.contains(hash))
    }

    /// To be compared with that of later.
    pub(super) fn epoch(&self) -> u64 {
        self.0.lock().epoch
    }

    /// Remembers what was not found, unless something has changed since it was asked for.
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

    /// Something was changed: what is being asked for now may be out of date when it comes.
    pub(super) fn changed(&self) {
        let mut inner = self.0.lock();
        inner.epoch += 1;
        inner.young.clear();
        inner.old.clear();
    }

    /// All changes up to `at` were applied.
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
    fn what_was_asked_before_a_change_is_not_believed_after_it() {
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
    fn any_number_of_guesses_takes_bounded_room() {
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
