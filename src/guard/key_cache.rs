//! A bounded cache of keys, and the revisions that invalidate it.

pub(super) mod fingerprint;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use smallvec::SmallVec;

use self::fingerprint::{Fingerprint, Fingerprinter};
use super::fields::RateLimitHeaders;
use super::recorder::Recorder;
use crate::counter::Rule;
use crate::limiter::{AnyLimiter, CounterSet, CounterSets, Subjects};
use crate::model::{Key, KeyId, Org, OrgId};
use crate::time::Timestamp;

/// A key at one state of the store. Fields that decisions read come first and in this order, so that they
/// share few cache lines.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct CachedKey {
    /// The fingerprint of the text that it was found by.
    pub(super) fingerprint: Fingerprint,
    pub(super) freshness: Freshness,
    pub(super) is_active: bool,
    pub(super) is_org_active: bool,
    /// Whether only some addresses may use the key.
    pub(super) is_ip_restricted: bool,
    /// Whether a rule limits the requests in flight.
    pub(super) limits_concurrency: bool,
    pub(super) counters: Arc<CounterSet>,
    /// `None` if the organization has no limits.
    pub(super) org_counters: Option<Arc<CounterSet>>,
    /// When the key or its text expires; [`Timestamp::MAX`] for never.
    pub(super) expires_at: Timestamp,
    /// When to read the key again, because an override ends; [`Timestamp::MAX`] for never.
    pub(super) reload_at: Timestamp,
    /// The rules of the key and of its organization.
    pub(super) rules: SmallVec<[Rule; 1]>,
    pub(super) key_id: KeyId,
    pub(super) org_id: OrgId,
    pub(super) backends: Arc<GrantBackends>,
    pub(super) record: Box<KeyRecord>,
}

/// The parts of a guard that a grant uses after the decision.
pub(crate) struct GrantBackends {
    pub(super) recorder: Arc<Recorder>,
    pub(super) limiter: Arc<AnyLimiter>,
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

/// A set-associative cache of [`CachedKey`]s by the fingerprint of their text. A look-up locks one set and,
/// if it succeeds, accesses only that set and the key.
pub(super) struct KeyCache {
    fingerprinter: Fingerprinter,
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
        }
    }

    /// Returns the fingerprint of a text, which has at most [`fingerprint::MAX_LEN`] bytes. Longer texts
    /// have that of no text, by which no key is found.
    #[inline(always)]
    pub(super) fn fingerprint(&self, text: &[u8]) -> Fingerprint {
        self.fingerprinter.of(text).unwrap_or_default()
    }

    #[inline]
    pub(super) fn get(&self, fingerprint: &Fingerprint) -> Option<Arc<CachedKey>> {
        let (at, tag) = self.position(fingerprint);
        let mut ways = self.sets[at].0.lock();
        let way = ways.find(tag, fingerprint)?;
        ways.used |= 1 << way;
        ways.keys[way].clone()
    }

    /// Inserts `key`, replacing an earlier state of the same key.
    pub(super) fn insert(&self, key: Arc<CachedKey>) {
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

/// The number of counters for all keys, and for all organizations.
const REVISIONS: usize = 4_096;

/// Counts changes to keys and organizations, so that a state that was read before a change is known to
/// be outdated. Many ids share a counter: a change to one of them makes the others load again.
pub(super) struct Revisions {
    /// Counts every change twice, before and after the counter of its id.
    all: AtomicU64,
    keys: Box<[AtomicU32]>,
    orgs: Box<[AtomicU32]>,
}

/// The counters of one key and its organization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Revision {
    key: u32,
    org: u32,
}

/// The revision that a cached key was read at.
#[derive(Debug)]
pub(super) struct Freshness {
    /// The number of all changes when the key was last known to be current.
    checked_at: AtomicU64,
    revision: Revision,
}

impl Revisions {
    pub(super) fn new() -> Self {
        let counters = || (0..REVISIONS).map(|_| AtomicU32::new(0)).collect();
        Self {
            all: AtomicU64::new(0),
            keys: counters(),
            orgs: counters(),
        }
    }

    /// The number of all changes, begun and completed.
    pub(super) fn all(&self) -> u64 {
        self.all.load(Ordering::SeqCst)
    }

    fn of(&self, key: KeyId, org: OrgId) -> Revision {
        Revision {
            key: slot(&self.keys, key.0).load(Ordering::SeqCst),
            org: slot(&self.orgs, org.0).load(Ordering::SeqCst),
        }
    }

    /// Returns the freshness of a key that was read when [`Revisions::all`] was `read_at`. Outdated if it
    /// changed since.
    pub(super) fn freshness(&self, read_at: u64, key: KeyId, org: OrgId) -> Freshness {
        Freshness {
            checked_at: AtomicU64::new(read_at),
            revision: self.of(key, org),
        }
    }

    /// Whether a key is as the last change left it. If nothing changed since this was last asked, one
    /// counter tells so.
    #[inline(always)]
    pub(super) fn is_current(&self, freshness: &Freshness, key: KeyId, org: OrgId) -> bool {
        let all = self.all();
        freshness.checked_at.load(Ordering::Relaxed) == all
            || self.is_current_after_changes(freshness, all, key, org)
    }

    /// The counter of a changed id is incremented before `all` for the second time. So if the counters of
    /// the key are unchanged, all changes until `all` concern others.
    #[cold]
    fn is_current_after_changes(
        &self,
        freshness: &Freshness,
        all: u64,
        key: KeyId,
        org: OrgId,
    ) -> bool {
        let is_current = freshness.revision == self.of(key, org);
        if is_current {
            freshness.checked_at.store(all, Ordering::Relaxed);
        }
        is_current
    }

    /// Call once a change to the key is durable, before it is acknowledged.
    pub(super) fn key_changed(&self, id: KeyId) {
        self.changed(std::slice::from_ref(slot(&self.keys, id.0)));
    }

    /// Call once a change to the organization is durable, before it is acknowledged.
    pub(super) fn org_changed(&self, id: OrgId) {
        self.changed(std::slice::from_ref(slot(&self.orgs, id.0)));
    }

    /// Call once something has changed that concerns every key.
    pub(super) fn everything_changed(&self) {
        self.changed(&self.keys);
    }

    /// Increments `all` first, so that no thread sees a new counter and the old `all`, and last, so that
    /// no thread takes an old counter for current at the new `all`.
    fn changed(&self, counters: &[AtomicU32]) {
        self.all.fetch_add(1, Ordering::SeqCst);
        for counter in counters {
            counter.fetch_add(1, Ordering::SeqCst);
        }
        self.all.fetch_add(1, Ordering::SeqCst);
    }
}

#[inline]
fn slot(counters: &[AtomicU32], id: u64) -> &AtomicU32 {
    &counters[id as usize % REVISIONS]
}

#[cfg(test)]
mod tests;
