//! The keys that are kept in memory: a bounded cache over the store, and what makes it forget.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::recorder::Recorder;
use crate::counter::Rule;
use crate::limiter::{CounterSet, CounterSets, Limiter, Subjects};
use crate::model::HashedKey;
use crate::model::{Key, KeyId, Org, OrgId};
use crate::time::Timestamp;

/// A known key at one state of the store: beside each other all that a decision reads.
#[derive(Debug)]
pub(crate) struct CachedKey {
    pub(super) hash: HashedKey,
    pub(super) revision: Revision,
    pub(super) key_id: KeyId,
    pub(super) org_id: OrgId,
    pub(super) is_active: bool,
    pub(super) is_org_active: bool,
    /// From when on the key or its text is refused; [`Timestamp::MAX`] for never.
    pub(super) expires_at: Timestamp,
    /// When to read the key again, because an override ends; [`Timestamp::MAX`] for never.
    pub(super) reload_at: Timestamp,
    pub(super) group: Arc<CounterSet>,
    /// Where the organization has limits.
    pub(super) org_group: Option<Arc<CounterSet>>,
    /// Those of the key and those of its organization.
    pub(super) rules: SmallVec<[Rule; 1]>,
    /// Whether requests in flight are counted.
    pub(super) counts_in_flight: bool,
    /// Whether it is accepted from some addresses only.
    pub(super) is_bound: bool,
    pub(super) backends: Arc<Backends>,
    pub(super) about: Box<About>,
}

/// What outlives a decision: where a grant reports to.
pub(crate) struct Backends {
    pub(super) recorder: Arc<Recorder>,
    pub(super) limiter: Arc<dyn Limiter>,
}

impl fmt::Debug for Backends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backends").finish_non_exhaustive()
    }
}

impl CachedKey {
    pub(super) fn subjects(&self) -> Subjects<'_> {
        Subjects::Key(CounterSets {
            key: &self.group,
            org: self.org_group.as_ref(),
            org_id: self.org_id,
        })
    }
}

/// What decisions rarely read.
#[derive(Debug)]
pub(crate) struct About {
    pub(super) key: Key,
    pub(super) org: Org,
}

/// Ways of a set: as many as fill two cache lines together with their tags.
const WAYS: usize = 11;

/// A set-associative cache of [`CachedKey`]s by the hash of their key. A look-up takes the lock of one
/// set and, for a key that is there, touches nothing but that set and the caller.
pub(super) struct KeyCache {
    sets: Box<[Set]>,
    capacity: usize,
    len: AtomicUsize,
}

/// Two cache lines of its own, so that neighbours do not slow each other down.
#[derive(Default)]
#[repr(align(128))]
struct Set(Mutex<Ways>);

/// In this order the lock, all tags and the first ways, which fill up first, share a cache line.
#[derive(Default)]
#[repr(C)]
struct Ways {
    /// Bits of each hash, to look at few callers in vain.
    tags: [u16; WAYS],
    /// The ways that were used since the hand last passed, one bit each.
    used: u16,
    /// Where the search for a way to give up goes on (the CLOCK algorithm).
    hand: u8,
    callers: [Option<Arc<CachedKey>>; WAYS],
}

impl KeyCache {
    /// A cache of at most `capacity` callers.
    pub(super) fn new(capacity: usize) -> Self {
        // Filled to a third on average, so that hardly a set overflows before the whole does.
        let sets = (capacity / 4).next_power_of_two();
        Self {
            sets: (0..sets).map(|_| Set::default()).collect(),
            capacity,
            len: AtomicUsize::new(0),
        }
    }

    #[inline]
    pub(super) fn get(&self, hash: &HashedKey) -> Option<Arc<CachedKey>> {
        let (at, tag) = self.place(hash);
        let mut ways = self.sets[at].0.lock();
        let way = ways.find(tag, hash)?;
        ways.used |= 1 << way;
        ways.callers[way].clone()
    }

    /// Keeps `caller`, in place of an earlier state of the same key if there is one.
    pub(super) fn insert(&self, caller: Arc<CachedKey>) {
        let (at, tag) = self.place(&caller.hash);
        let set = &self.sets[at].0;
        let is_full = self.len.load(Ordering::Relaxed) >= self.capacity;
        if is_full && set.lock().find(tag, &caller.hash).is_none() {
            self.evict_near(at);
        }
        let mut ways = set.lock();
        let way = ways
            .find(tag, &caller.hash)
            .or_else(|| ways.free())
            .unwrap_or_else(|| ways.victim());
        ways.tags[way] = tag;
        ways.used &= !(1 << way);
        if ways.callers[way].replace(caller).is_none() {
            self.len.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Gives up one caller in the first set from `at` on that holds any.
    fn evict_near(&self, at: usize) {
        for step in 0..self.sets.len() {
            let mut ways = self.sets[(at + step) & (self.sets.len() - 1)].0.lock();
            if ways.callers.iter().any(Option::is_some) {
                let way = ways.victim();
                ways.callers[way] = None;
                self.len.fetch_sub(1, Ordering::Relaxed);
                return;
            }
        }
    }

    /// The hash is keyed: nobody without the secret can aim at a set.
    #[inline]
    fn place(&self, hash: &HashedKey) -> (usize, u16) {
        let short = hash.short();
        (short as usize & (self.sets.len() - 1), (short >> 48) as u16)
    }
}

impl Ways {
    #[inline]
    fn find(&self, tag: u16, hash: &HashedKey) -> Option<usize> {
        (0..WAYS).find(|&way| {
            self.tags[way] == tag
                && self.callers[way]
                    .as_ref()
                    .is_some_and(|caller| caller.hash == *hash)
        })
    }

    fn free(&self) -> Option<usize> {
        self.callers.iter().position(Option::is_none)
    }

    /// An occupied way, of those not used for longest. There is one.
    fn victim(&mut self) -> usize {
        loop {
            let way = usize::from(self.hand);
            self.hand = (self.hand + 1) % WAYS as u8;
            let used = self.used & (1 << way) != 0;
            self.used &= !(1 << way);
            if !used && self.callers[way].is_some() {
                return way;
            }
        }
    }
}

/// How many counters stand for all keys, and for all organizations.
const REVISIONS: usize = 4_096;

/// Counts the changes to keys and organizations, so that what was read before a change is known to
/// be old after it. Many ids share a counter; a change to one of them costs the others a reading of
/// the file.
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

    /// Counts every change to anything.
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

    /// To be called once a change to the key is durable and before it is acknowledged.
    pub(super) fn key_changed(&self, id: KeyId) {
        self.changed(slot(&self.keys, id.0));
    }

    /// To be called once a change to the organization is durable and before it is acknowledged.
    pub(super) fn org_changed(&self, id: OrgId) {
        self.changed(slot(&self.orgs, id.0));
    }

    /// To be called once what holds for every key has changed.
    pub(super) fn everything_changed(&self) {
        self.keys.iter().for_each(|counter| self.changed(counter));
    }

    /// `all` first: who sees the counter of the id raised then also sees that something changed.
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
