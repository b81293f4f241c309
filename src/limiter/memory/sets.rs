//! The counter sets of keys and organizations.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use parking_lot::Mutex;

use super::super::{AttachError, CounterSets, Receipt, Rules};
use super::decision::{LockedCounters, Windows};
use crate::counter::{
    CounterMut, Counters, PlainRules, Rule, SavedCounter, Subject, SubjectId, Time,
};
use crate::store::StoreError;
use crate::sys::sync::{self, MutexGuard};
use crate::time::{Clock, Moment};

/// Shards of the table, each with its own lock. It is taken when a key is loaded, not per request.
pub(super) const SHARDS: usize = 256;

/// How long a table without an idle set is considered full, in nanoseconds.
const FULL_FOR: u64 = 100_000_000;

/// The counters of a key or an organization. Decisions read the counters only, so they come first.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct CounterSet {
    counters: sync::Mutex<Counters>,
    id: SubjectId,
}

impl CounterSet {
    pub(crate) fn id(&self) -> SubjectId {
        self.id
    }

    #[inline(always)]
    pub(super) fn lock(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock()
    }

    /// Returns all balances for the store, and marks them as unchanged.
    pub(crate) fn take_balances(&self) -> Vec<SavedCounter> {
        self.counters.lock().take_balances()
    }

    /// Marks the balances as changed. Returns whether none was.
    pub(super) fn return_balances(&self) -> bool {
        self.counters.lock().return_balances()
    }
}

/// A bounded table of the counter sets in use. A set stays as long as it has handles or counts
/// anything.
pub(super) struct SetTable {
    capacity: usize,
    len: AtomicUsize,
    shards: Box<[Mutex<HashTable<Arc<CounterSet>>>]>,
    hasher: RandomState,
    /// When counters of each shard were last reset.
    resets: Box<[AtomicU64]>,
    next_sweep: AtomicUsize,
    /// Until when the table is considered full, in nanoseconds of the clock.
    full_until: AtomicU64,
}

impl SetTable {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            len: AtomicUsize::new(0),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
            resets: (0..SHARDS).map(|_| AtomicU64::new(0)).collect(),
            next_sweep: AtomicUsize::new(0),
            full_until: AtomicU64::new(0),
        }
    }

    fn hash(&self, id: SubjectId) -> u64 {
        self.hasher.hash_one(id)
    }

    pub(super) fn attach(
        &self,
        id: SubjectId,
        clock: &Clock,
        restore: impl FnOnce() -> Result<Counters, StoreError>,
    ) -> Result<Arc<CounterSet>, AttachError> {
        let hash = self.hash(id);
        let shard = &self.shards[hash as usize % SHARDS];
        if let Some(set) = shard.lock().find(hash, |set| set.id == id) {
            return Ok(Arc::clone(set));
        }
        self.make_room(clock);
        let mut shard = shard.lock();
        // Another thread may have been faster.
        if let Some(set) = shard.find(hash, |set| set.id == id) {
            return Ok(Arc::clone(set));
        }
        if self.len.fetch_add(1, Ordering::Relaxed) >= self.capacity {
            self.len.fetch_sub(1, Ordering::Relaxed);
            return Err(AttachError::Full);
        }
        // Restored under the lock of the shard: no other handle can consume from, store and drop
        // the same set between the read of the stored state and its use.
        let counters = restore().map_err(|error| {
            self.len.fetch_sub(1, Ordering::Relaxed);
            AttachError::Seed(error)
        })?;
        let set = Arc::new(CounterSet {
            id,
            counters: sync::Mutex::new(counters),
        });
        shard.insert_unique(hash, Arc::clone(&set), |set| self.hash(set.id));
        Ok(set)
    }

    /// Returns the set of a subject, if it is in use.
    pub(super) fn find(&self, id: SubjectId) -> Option<Arc<CounterSet>> {
        let hash = self.hash(id);
        let shard = self.shards[hash as usize % SHARDS].lock();
        shard.find(hash, |set| set.id == id).cloned()
    }

    /// Frees idle sets until there is room for one more. If there are none, the table is considered
    /// full for a while, so that further attempts cost no time.
    fn make_room(&self, clock: &Clock) {
        let is_full = || self.len.load(Ordering::Relaxed) >= self.capacity;
        let now = clock.now().nanos();
        if !is_full() || now < self.full_until.load(Ordering::Relaxed) {
            return;
        }
        for _ in 0..SHARDS {
            self.sweep(clock);
            if !is_full() {
                return;
            }
        }
        self.full_until.store(now + FULL_FOR, Ordering::Relaxed);
    }

    /// Frees idle counter sets of the next shard that have no handles. Returns the index of the shard.
    pub(super) fn sweep(&self, clock: &Clock) -> usize {
        let index = self.next_sweep.fetch_add(1, Ordering::Relaxed) % SHARDS;
        let mut shard = self.shards[index].lock();
        let (before, now) = (shard.len(), clock.now());
        shard.retain(|set| {
            // Handles are created under this lock only.
            Arc::get_mut(set).is_none_or(|set| !set.counters.get_mut().is_idle(now))
        });
        self.len.fetch_sub(before - shard.len(), Ordering::Relaxed);
        if shard.len() < shard.capacity() / 4 {
            shard.shrink_to_fit(|set| self.hash(set.id));
        }
        index
    }

    /// Returns the windows with hits of a shard; `None` after the last shard.
    pub(super) fn windows<'a>(
        &self,
        shard: usize,
        time: impl Fn() -> Time<'a>,
    ) -> Option<Vec<(SubjectId, Vec<SavedCounter>)>> {
        let shard = self.shards.get(shard)?.lock();
        let windows = shard.iter().map(|set| {
            let mut counters = set.counters.lock();
            (set.id, counters.windows(time()))
        });
        Some(windows.filter(|(_, windows)| !windows.is_empty()).collect())
    }

    /// When a set, or another of its shard, was last reset.
    pub(super) fn last_reset(&self, set: &CounterSet) -> Moment {
        Moment::from_nanos(self.reset_of(set).load(Ordering::Relaxed))
    }

    pub(super) fn note_reset(&self, set: &CounterSet, now: Moment) {
        self.reset_of(set).store(now.nanos(), Ordering::Relaxed);
    }

    fn reset_of(&self, set: &CounterSet) -> &AtomicU64 {
        &self.resets[self.hash(set.id) as usize % SHARDS]
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }
}

impl<'a> CounterSets<'a> {
    /// Returns the set that counts for a rule.
    pub(super) fn of(self, rule: &Rule) -> &'a Arc<CounterSet> {
        match (rule.subject, self.org) {
            (Subject::Org, Some(org)) => org,
            _ => self.key,
        }
    }
}

/// The counter sets of one decision, locked. The key is always locked first.
pub(super) struct LockedSets<'a> {
    sets: CounterSets<'a>,
    key: MutexGuard<'a, Counters>,
    org: Option<MutexGuard<'a, Counters>>,
    changed: &'a sync::Mutex<Vec<Arc<CounterSet>>>,
    /// The likely positions of the next counters, as rules come in the same order each time.
    hints: (usize, usize),
}

impl<'a> LockedSets<'a> {
    /// Sets with changed balances are added to `changed`.
    #[inline]
    pub(super) fn lock(
        sets: CounterSets<'a>,
        changed: &'a sync::Mutex<Vec<Arc<CounterSet>>>,
    ) -> Self {
        Self {
            sets,
            key: sets.key.lock(),
            org: sets.org.map(|org| org.lock()),
            changed,
            hints: (0, 0),
        }
    }

    /// Returns the windows of plain rules; `None` if one of the rules has no window yet.
    #[inline(always)]
    pub(super) fn windows_of<'s>(&'s mut self, rules: &'s PlainRules) -> Option<[Windows<'s>; 2]> {
        let (of_key, of_org) = rules.by_subject();
        let windows_of_org = match &mut self.org {
            Some(org) => org.windows_of(of_org)?,
            None if of_org.is_empty() => &mut [],
            None => return None,
        };
        let windows = |windows, rules| Windows { windows, rules };
        Some([
            windows(self.key.windows_of(of_key)?, of_key),
            windows(windows_of_org, of_org),
        ])
    }
}

impl LockedCounters for LockedSets<'_> {
    #[inline(always)]
    fn counter(&mut self, rule: &Rule) -> CounterMut<'_> {
        match (rule.subject, &mut self.org) {
            (Subject::Org, Some(org)) => org.get(rule, &mut self.hints.1),
            _ => self.key.get(rule, &mut self.hints.0),
        }
    }

    fn is_shared(&mut self, _: &Rule) -> bool {
        false
    }

    /// Restarts the search for counters at the first rule. All counters exist.
    #[inline(always)]
    fn create(&mut self, _: Rules<'_>, _: &mut Receipt, _: fn(&Rule) -> bool) -> bool {
        self.hints = (0, 0);
        true
    }

    #[cold]
    fn note_changed(&mut self, rule: &Rule) {
        self.changed.lock().push(Arc::clone(self.sets.of(rule)));
    }
}
