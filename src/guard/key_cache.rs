//! A bounded cache of keys, and the revisions that invalidate it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::fields::RateLimitHeaders;
use super::recorder::Recorder;
use crate::counter::Rule;
use crate::limiter::{CounterSet, CounterSets, Limiter, Subjects};
use crate::model::HashedKey;
use crate::model::{Key, KeyId, Org, OrgId};
use crate::time::Timestamp;

/// A key at one state of the store. Fields that decisions read are adjacent in memory.
#[derive(Debug)]
pub(crate) struct CachedKey {
    pub(super) hash: HashedKey,
    pub(super) revision: Revision,
    pub(super) key_id: KeyId,
    pub(super) org_id: OrgId,
    pub(super) is_active: bool,
    pub(super) is_org_active: bool,
    /// When the key or its text expires; [`Timestamp::MAX`] for never.
    pub(super) expires_at: Timestamp,
    /// When to read the key again, because an override ends; [`Timestamp::MAX`] for never.
    pub(super) reload_at: Timestamp,
    pub(super) counters: Arc<CounterSet>,
    /// `None` if the organization has no limits.
    pub(super) org_counters: Option<Arc<CounterSet>>,
    /// The rules of the key and of its organization.
    pub(super) rules: SmallVec<[Rule; 1]>,
    /// Whether a rule limits the requests in flight.
    pub(super) limits_concurrency: bool,
    /// Whether only some addresses may use the key.
    pub(super) is_ip_restricted: bool,
    pub(super) backends: Arc<GrantBackends>,
    pub(super) record: Box<KeyRecord>,
}

/// The parts of a guard that a grant uses after the decision.
pub(crate) struct GrantBackends {
    pub(super) recorder: Arc<Recorder>,
    pub(super) limiter: Arc<dyn Limiter>,
    pub(super) rate_limit_headers: RateLimitHeaders,
}

impl fmt::Debug for GrantBackends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrantBackends").finish_non_exhaustive()
    }
}

impl CachedKey {
    pub(super) fn subjects(&self) -> Subjects<'_> {
        Subjects::Key(CounterSets {
            key: &self.counters,
            org: self.org_counters.as_ref(),
            org_id: self.org_id,
        })
    }
}

/// The whole key and its organization, which few decisions read.
#[derive(Debug)]
pub(crate) struct KeyRecord {
    pub(super) key: Key,
    pub(super) org: Org,
}

/// Ways of a set. With their tags they fill two cache lines.
const WAYS: usize = 11;

/// A set-associative cache of [`CachedKey`]s by the hash of their key. A look-up locks one set and,
/// if it succeeds, accesses only that set and the key.
pub(super) struct KeyCache {
    sets: Box<[Set]>,
    capacity: usize,
    len: AtomicUsize,
}

/// Aligned to two cache lines, so that sets do not share one.
#[derive(Default)]
#[repr(align(128))]
struct Set(Mutex<Ways>);

/// In this order the lock, all tags and the first ways share a cache line. The first ways fill up first.
#[derive(Default)]
#[repr(C)]
struct Ways {
    /// Some bits of each hash, so that few other keys are compared in vain.
    tags: [u16; WAYS],
    /// The ways that were used since the hand last passed, one bit each.
    used: u16,
    /// Where the search for a way to evict continues (the CLOCK algorithm).
    hand: u8,
    keys: [Option<Arc<CachedKey>>; WAYS],
}

impl KeyCache {
    /// Creates a cache of at most `capacity` keys.
    pub(super) fn new(capacity: usize) -> Self {
        // A set is a third full on average, so that hardly any set overflows before the cache is full.
        let sets = (capacity / 4).next_power_of_two();
        Self {
            sets: (0..sets).map(|_| Set::default()).collect(),
            capacity,
            len: AtomicUsize::new(0),
        }
    }

    #[inline]
    pub(super) fn get(&self, hash: &HashedKey) -> Option<Arc<CachedKey>> {
        let (at, tag) = self.position(hash);
        let mut ways = self.sets[at].0.lock();
        let way = ways.find(tag, hash)?;
        ways.used |= 1 << way;
        ways.keys[way].clone()
    }

    /// Inserts `key`, replacing an earlier state of the same key.
    pub(super) fn insert(&self, key: Arc<CachedKey>) {
        let (at, tag) = self.position(&key.hash);
        let set = &self.sets[at].0;
        let is_full = self.len.load(Ordering::Relaxed) >= self.capacity;
        if is_full && set.lock().find(tag, &key.hash).is_none() {
            self.evict_near(at);
        }
        let mut ways = set.lock();
        let way = ways
            .find(tag, &key.hash)
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

    /// Returns the set and the tag of a hash. The hash is keyed, so that clients cannot aim at a set.
    #[inline]
    fn position(&self, hash: &HashedKey) -> (usize, u16) {
        let short = hash.short();
        (short as usize & (self.sets.len() - 1), (short >> 48) as u16)
    }
}

impl Ways {
    #[inline]
    fn find(&self, tag: u16, hash: &HashedKey) -> Option<usize> {
        (0..WAYS).find(|&way| {
            self.tags[way] == tag && self.keys[way].as_ref().is_some_and(|key| key.hash == *hash)
        })
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

/// The number of counters for all keys, and for all organizations.
const REVISIONS: usize = 4_096;

/// Counts changes to keys and organizations, so that a state that was read before a change is known to
/// be outdated. Many ids share a counter: a change to one of them makes the others load again.
pub(super) struct Revisions {
    all: AtomicU32,
    keys: Box<[AtomicU32]>,
    orgs: Box<[AtomicU32]>,
}

/// The counters of one key and its organization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Revision {
    key: u32,
    org: u32,
}

impl Revisions {
    pub(super) fn new() -> Self {
        let counters = || (0..REVISIONS).map(|_| AtomicU32::new(0)).collect();
        Self {
            all: AtomicU32::new(0),
            keys: counters(),
            orgs: counters(),
        }
    }

    /// The number of all changes.
    pub(super) fn all(&self) -> u32 {
        self.all.load(Ordering::SeqCst)
    }

    #[inline]
    pub(super) fn of(&self, key: KeyId, org: OrgId) -> Revision {
        Revision {
            key: slot(&self.keys, key.0).load(Ordering::SeqCst),
            org: slot(&self.orgs, org.0).load(Ordering::SeqCst),
        }
    }

    /// Call once a change to the key is durable, before it is acknowledged.
    pub(super) fn key_changed(&self, id: KeyId) {
        self.changed(slot(&self.keys, id.0));
    }

    /// Call once a change to the organization is durable, before it is acknowledged.
    pub(super) fn org_changed(&self, id: OrgId) {
        self.changed(slot(&self.orgs, id.0));
    }

    /// Call once something has changed that concerns every key.
    pub(super) fn everything_changed(&self) {
        self.keys.iter().for_each(|counter| self.changed(counter));
    }

    /// Increments `all` first, so that no thread sees the new counter of the id and the old `all`.
    fn changed(&self, counter: &AtomicU32) {
        self.all.fetch_add(1, Ordering::SeqCst);
        counter.fetch_add(1, Ordering::SeqCst);
    }
}

#[inline]
fn slot(counters: &[AtomicU32], id: u64) -> &AtomicU32 {
    &counters[id as usize % REVISIONS]
}

#[cfg(test)]
mod tests;
