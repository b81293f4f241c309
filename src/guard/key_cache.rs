//! A bounded cache of keys.

pub(super) mod fingerprint;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use self::fingerprint::{Fingerprint, Fingerprinter};
use super::cached_key::CachedKey;
use super::revisions::Revisions;
use crate::sys::sync::Mutex;
use crate::sys::sync::atomic::{AtomicUsize, Ordering};

/// Ways of a set. With their tags they fill two cache lines.
const WAYS: usize = 11;

/// A set-associative cache of [`CachedKey`]s by the fingerprint of their text. A look-up locks one set and,
/// if it succeeds, accesses only that set and the key.
pub(super) struct KeyCache {
    fingerprinter: Fingerprinter,
    sets: Box<[Set]>,
    capacity: usize,
    len: AtomicUsize,
    misses: Misses,
}

/// The number of reads of keys that were not in the cache. Shares no cache line with what every look-up reads.
#[derive(Default)]
#[repr(align(128))]
struct Misses(AtomicU64);

/// Aligned to two cache lines, so that sets do not share one.
#[derive(Default)]
#[repr(align(128))]
struct Set(Mutex<Ways>);

/// In this order the lock, all tags and the first ways share a cache line. The first ways fill up first.
#[derive(Default)]
#[repr(C)]
struct Ways {
    /// Some bits of each fingerprint, so that few other keys are compared in vain.
    tags: [u16; WAYS],
    /// The ways that were used since the hand last passed, one bit each.
    used: u16,
    /// Where the search for a way to evict continues (the CLOCK algorithm).
    hand: u8,
    keys: [Option<Arc<CachedKey>>; WAYS],
}

impl KeyCache {
    /// Creates a cache of at most `capacity` keys.
    pub(super) fn new(capacity: usize, fingerprinter: Fingerprinter) -> Self {
        // A set is a third full on average, so that hardly any set overflows before the cache is full.
        let sets = (capacity / 4).next_power_of_two();
        Self {
            fingerprinter,
            sets: (0..sets).map(|_| Set::default()).collect(),
            capacity,
            len: AtomicUsize::new(0),
            misses: Misses::default(),
        }
    }

    /// Returns the fingerprint of a text, which has at most [`fingerprint::MAX_LEN`] bytes. Longer texts
    /// have that of no text, by which no key is found.
    #[inline(always)]
    pub(super) fn fingerprint(&self, text: &[u8]) -> Fingerprint {
        self.fingerprinter.of(text).unwrap_or_default()
    }

    /// Returns the key with a fingerprint, if it is current. `is_current` reads the key before its reference is
    /// counted: processors begin no later read until an atomic operation is done.
    #[inline]
    pub(super) fn get(
        &self,
        fingerprint: &Fingerprint,
        is_current: impl FnOnce(&CachedKey) -> bool,
    ) -> Option<Arc<CachedKey>> {
        let (at, tag) = self.position(fingerprint);
        let mut ways = self.sets[at].0.lock();
        let way = ways.find(tag, fingerprint)?;
        let key = ways.keys[way].as_ref().filter(|key| is_current(key))?;
        let key = Arc::clone(key);
        ways.used |= 1 << way;
        Some(key)
    }

    /// Reads a key and inserts it. `read` gets the number of all changes before it.
    pub(super) async fn load<E>(
        &self,
        revisions: &Revisions,
        read: impl AsyncFnOnce(u64) -> Result<Option<CachedKey>, E>,
    ) -> Result<Option<Arc<CachedKey>>, E> {
        self.misses.0.fetch_add(1, Ordering::Relaxed);
        let read_at = revisions.all();
        let Some(key) = read(read_at).await? else {
            return Ok(None);
        };
        let key = Arc::new(key);
        // A state that was read before a change must not be cached after it: the change has already
        // outdated the cache.
        if revisions.all() == read_at {
            self.insert(Arc::clone(&key));
        }
        Ok(Some(key))
    }

    /// The number of keys in the cache.
    #[cfg(any(feature = "metrics", feature = "serve"))]
    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// The number of reads of keys that were not in the cache.
    #[cfg(any(feature = "metrics", feature = "serve"))]
    pub(super) fn misses(&self) -> u64 {
        self.misses.0.load(Ordering::Relaxed)
    }

    /// Inserts `key`, replacing an earlier state of the same key.
    fn insert(&self, key: Arc<CachedKey>) {
        let (at, tag) = self.position(&key.fingerprint);
        let set = &self.sets[at].0;
        let is_full = self.len.load(Ordering::Relaxed) >= self.capacity;
        if is_full && set.lock().find(tag, &key.fingerprint).is_none() {
            self.evict_near(at);
        }
        let mut ways = set.lock();
        let way = ways
            .find(tag, &key.fingerprint)
            .or_else(|| ways.free())
            .unwrap_or_else(|| ways.victim());
        ways.tags[way] = tag;
        ways.used &= !(1 << way);
        if ways.keys[way].replace(key).is_none() {
            self.len.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Evicts one key from the first non-empty set from `at` on.
    fn evict_near(&self, at: usize) {
        for step in 0..self.sets.len() {
            let mut ways = self.sets[(at + step) & (self.sets.len() - 1)].0.lock();
            if ways.keys.iter().any(Option::is_some) {
                let way = ways.victim();
                ways.keys[way] = None;
                self.len.fetch_sub(1, Ordering::Relaxed);
                return;
            }
        }
    }

    /// Returns the set and the tag of a fingerprint, which clients cannot predict.
    #[inline(always)]
    fn position(&self, fingerprint: &Fingerprint) -> (usize, u16) {
        let (set, tag) = fingerprint.position();
        (set & (self.sets.len() - 1), tag)
    }
}

impl Ways {
    #[inline(always)]
    fn find(&self, tag: u16, fingerprint: &Fingerprint) -> Option<usize> {
        let is_found = |key: &Arc<CachedKey>| key.fingerprint == *fingerprint;
        (0..WAYS)
            .find(|&way| self.tags[way] == tag && self.keys[way].as_ref().is_some_and(is_found))
    }

    fn free(&self) -> Option<usize> {
        self.keys.iter().position(Option::is_none)
    }

    /// Returns an occupied way that was not used recently. The set must not be empty.
    fn victim(&mut self) -> usize {
        loop {
            let way = usize::from(self.hand);
            self.hand = (self.hand + 1) % WAYS as u8;
            let used = self.used & (1 << way) != 0;
            self.used &= !(1 << way);
            if !used && self.keys[way].is_some() {
                return way;
            }
        }
    }
}

#[cfg(all(test, loom))]
mod interleavings;
#[cfg(test)]
mod tests;
