//! Counters in the memory of this process.

use std::hash::BuildHasher;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use parking_lot::{Mutex, MutexGuard};
use smallvec::SmallVec;

use super::networks::IpCounters;
use super::{
    Admission, AttachError, CounterSets, Demand, IpRule, LimitState, Limiter, Receipt, Rules,
    SavedWindows, Subjects, deny_in_shadow, indexed, is_shadow_denied, slowest,
};
use crate::counter::{CounterMut, Counters, SavedCounter, SavedIpCounters, Time};
use crate::counter::{Rule, Subject, SubjectId};
#[cfg(feature = "redis")]
use crate::limit::Balance;
use crate::limit::Period;
use crate::store::StoreError;
use crate::sys::{Deadline, MaybeReady};
use crate::time::TimeZone;
use crate::time::{Clock, Moment};

/// Locks of the table of groups. They are taken when a key is read from the file, not per request.
const SHARDS: usize = 256;

/// How long a table in which every group counts is taken to be full, in nanoseconds.
const FULL_FOR: u64 = 100_000_000;

/// The counters of a key or an organization. Whoever decides often holds on to the handle.
#[derive(Debug)]
pub(crate) struct CounterSet {
    id: SubjectId,
    counters: Mutex<Counters>,
}

impl CounterSet {
    pub(crate) fn id(&self) -> SubjectId {
        self.id
    }

    /// All balances, to be stored; none of them counts as changed from now on.
    pub(crate) fn take_balances(&self) -> Vec<SavedCounter> {
        self.counters.lock().take_balances()
    }
}

/// A limiter for one process: exact, because each decision is made under the lock of its group.
pub(crate) struct MemoryLimiter {
    clock: Clock,
    capacity: usize,
    len: AtomicUsize,
    shards: Box<[Mutex<HashTable<Arc<CounterSet>>>]>,
    hasher: RandomState,
    /// Where days and months end.
    zone: TimeZone,
    changed: Mutex<Vec<Arc<CounterSet>>>,
    /// When counters of a shard were last reset.
    resets: Box<[AtomicU64]>,
    next_sweep: AtomicUsize,
    /// Until when there is no use in looking for room, in nanoseconds of the clock.
    full_until: AtomicU64,
    networks: IpCounters,
}

impl MemoryLimiter {
    /// A limiter that keeps counters of at most `capacity` groups, and of some `networks`.
    pub(crate) fn new(clock: Clock, zone: TimeZone, capacity: usize, networks: usize) -> Self {
        Self {
            clock,
            zone,
            capacity,
            len: AtomicUsize::new(0),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
            changed: Mutex::default(),
            resets: (0..SHARDS).map(|_| AtomicU64::new(0)).collect(),
            next_sweep: AtomicUsize::new(0),
            full_until: AtomicU64::new(0),
            networks: IpCounters::new(networks),
        }
    }

    fn hash(&self, id: SubjectId) -> u64 {
        self.hasher.hash_one(id)
    }

    /// To be called under the lock of what is then looked at, so that time never runs backwards
    /// there.
    #[inline]
    fn time(&self) -> Time<'_> {
        Time {
            now: self.clock.now(),
            clock: &self.clock,
            zone: &self.zone,
        }
    }

    fn reset_at(&self, group: &CounterSet) -> &AtomicU64 {
        &self.resets[self.hash(group.id) as usize % SHARDS]
    }

    /// Frees groups that count nothing until there is room for one more, if that can be had. Where
    /// it cannot, newcomers are not looked at again for a while, so that they cost no time.
    fn make_room(&self) {
        let is_full = || self.len.load(Ordering::Relaxed) >= self.capacity;
        let now = self.clock.now().nanos();
        if !is_full() || now < self.full_until.load(Ordering::Relaxed) {
            return;
        }
        for _ in 0..SHARDS {
            self.sweep();
            if !is_full() {
                return;
            }
        }
        self.full_until.store(now + FULL_FOR, Ordering::Relaxed);
    }

    /// Drops the groups of a shard that nobody holds and that count nothing.
    fn sweep_shard(&self, shard: &mut HashTable<Arc<CounterSet>>) {
        let before = shard.len();
        let now = self.clock.now();
        shard.retain(|group| {
            // A group that somebody holds is not unique, and new handles are made under this lock.
            Arc::get_mut(group).is_none_or(|group| !group.counters.get_mut().is_idle(now))
        });
        self.len.fetch_sub(before - shard.len(), Ordering::Relaxed);
        if shard.len() < shard.capacity() / 4 {
            shard.shrink_to_fit(|group| self.hash(group.id));
        }
    }
}

impl Limiter for MemoryLimiter {
    fn attach(
        &self,
        id: SubjectId,
        seed: &mut dyn FnMut() -> Result<Vec<SavedCounter>, StoreError>,
    ) -> Result<Arc<CounterSet>, AttachError> {
        let hash = self.hash(id);
        let shard = &self.shards[hash as usize % SHARDS];
        if let Some(group) = shard.lock().find(hash, |group| group.id == id) {
            return Ok(Arc::clone(group));
        }
        self.make_room();
        let mut shard = shard.lock();
        // Another thread may have been faster.
        if let Some(group) = shard.find(hash, |group| group.id == id) {
            return Ok(Arc::clone(group));
        }
        if self.len.fetch_add(1, Ordering::Relaxed) >= self.capacity {
            self.len.fetch_sub(1, Ordering::Relaxed);
            return Err(AttachError::Full);
        }
        // Read under the lock of the shard: no other handle can consume from, store and drop the
        // same group between this reading and its use.
        let saved = seed().map_err(|error| {
            self.len.fetch_sub(1, Ordering::Relaxed);
            AttachError::Seed(error)
        })?;
        let group = Arc::new(CounterSet {
            id,
            counters: Mutex::new(Counters::restored(saved, self.time())),
        });
        shard.insert_unique(hash, Arc::clone(&group), |group| self.hash(group.id));
        Ok(group)
    }

    #[inline]
    fn admit<'a>(&'a self, demand: Demand<'a>, _: &'a Deadline) -> MaybeReady<'a, Admission> {
        MaybeReady::Now(self.take(demand))
    }

    fn states(&self, demand: Demand<'_>) -> Vec<(LimitState, Moment)> {
        let Demand {
            subjects,
            rules,
            cost,
        } = demand;
        let sets = match subjects {
            Subjects::Key(sets) => sets,
            Subjects::Address(address) => {
                return self
                    .networks
                    .levels(address, &ip_rules(rules), cost, &self.clock);
            }
        };
        let mut locked = LockedSets::lock(sets);
        let time = self.time();
        let of = |(index, rule): (usize, &Rule)| {
            let takes = rule.limit.period.takes(cost);
            let mut counter = locked.counter(rule);
            let remaining = counter.remaining(time, rule);
            let retry_at = if remaining >= takes.get().into() {
                time.now
            } else {
                counter.retry_at(time, rule, takes)
            };
            let state = LimitState {
                rule: index,
                at: time.now,
                remaining,
                resets_at: counter.resets_at(time, rule),
            };
            (state, retry_at)
        };
        indexed(rules).map(of).collect()
    }

    fn settle(&self, demand: Demand<'_>, at: Moment, receipt: &Receipt, actual: u64) {
        let Subjects::Key(sets) = demand.subjects else {
            return;
        };
        let reserved = demand.cost.get();
        let mut locked = LockedSets::lock(sets);
        let time = self.time();
        for (index, rule) in indexed(demand.rules) {
            if is_shadow_denied(receipt, index) {
                continue;
            }
            let reset_at = self.reset_at(sets.of(rule)).load(Ordering::Relaxed);
            // Hits of that time may be those of others since a reset.
            let actual = if reset_at >= at.nanos() {
                actual.max(reserved.into())
            } else {
                actual
            };
            let mut counter = locked.counter(rule);
            if counter.settle(time, rule, at, reserved, actual) {
                self.note_changed(sets, rule);
            }
        }
    }

    fn release(&self, demand: Demand<'_>, receipt: &Receipt) {
        let Subjects::Key(sets) = demand.subjects else {
            return;
        };
        let mut locked = LockedSets::lock(sets);
        for (index, rule) in indexed(demand.rules) {
            if rule.limit.period == Period::Concurrent && !is_shadow_denied(receipt, index) {
                locked.counter(rule).release();
            }
        }
    }

    fn reset(&self, demand: Demand<'_>) -> Result<(), StoreError> {
        let sets = match demand.subjects {
            Subjects::Key(sets) => sets,
            Subjects::Address(address) => {
                self.networks.forget(address);
                return Ok(());
            }
        };
        let mut locked = LockedSets::lock(sets);
        let now = self.time().now.nanos();
        for (_, rule) in indexed(demand.rules) {
            self.reset_at(sets.of(rule)).store(now, Ordering::Relaxed);
            if locked.counter(rule).reset() {
                self.note_changed(sets, rule);
            }
        }
        Ok(())
    }

    fn take_changed(&self) -> Vec<Arc<CounterSet>> {
        std::mem::take(&mut *self.changed.lock())
    }

    fn return_changed(&self, groups: Vec<Arc<CounterSet>>) {
        for group in groups {
            let is_new = group.counters.lock().return_balances();
            if is_new {
                self.changed.lock().push(group);
            }
        }
    }

    fn windows(&self, part: usize) -> Option<SavedWindows> {
        let mut saved = SavedWindows::default();
        for set in self.shards.get(part)?.lock().iter() {
            let windows = set.counters.lock().windows(self.time());
            if !windows.is_empty() {
                saved.sets.push((set.id, windows));
            }
        }
        if part == 0 {
            saved.addresses = self.networks.windows(&self.clock);
        }
        Some(saved)
    }

    fn restore(&self, saved: Vec<SavedIpCounters>) {
        self.networks.restore(saved, &self.clock);
    }

    fn sweep(&self) {
        let at = self.next_sweep.fetch_add(1, Ordering::Relaxed) % SHARDS;
        self.sweep_shard(&mut self.shards[at].lock());
    }
}

impl MemoryLimiter {
    /// [`Limiter::admit`], which never waits here.
    #[inline]
    pub(super) fn take(&self, demand: Demand<'_>) -> Admission {
        let Demand { rules, cost, .. } = demand;
        match demand.subjects {
            Subjects::Key(sets) => self.take_from(sets, rules, cost),
            Subjects::Address(address) => {
                self.networks
                    .hit(address, &ip_rules(rules), cost, &self.clock)
            }
        }
    }

    #[inline(always)]
    fn take_from(&self, sets: CounterSets<'_>, rules: Rules<'_>, cost: NonZeroU32) -> Admission {
        let mut locked = LockedSets::lock(sets);
        let time = self.time();
        let mut receipt = Receipt::None;
        let refusing = indexed(rules).filter_map(|(index, rule)| {
            let takes = rule.limit.period.takes(cost);
            let mut counter = locked.counter(rule);
            let remaining = counter.remaining(time, rule);
            if remaining >= takes.get().into() {
                return None;
            }
            if rule.limit.shadow {
                deny_in_shadow(&mut receipt, index);
                return None;
            }
            let state = LimitState {
                rule: index,
                at: time.now,
                remaining,
                resets_at: counter.resets_at(time, rule),
            };
            Some((state, counter.retry_at(time, rule, takes)))
        });
        if let Some((state, retry_at)) = slowest(refusing) {
            return Admission::Refused(state, retry_at);
        }
        let mut tightest = LimitState::unlimited(time.now);
        locked.next = (0, 0);
        for (index, rule) in indexed(rules) {
            if !is_shadow_denied(&receipt, index) {
                let mut counter = locked.counter(rule);
                if counter.record(time, rule, rule.limit.period.takes(cost)) {
                    self.note_changed(sets, rule);
                }
                let is_shown = !rule.limit.shadow && rule.limit.period != Period::Concurrent;
                let remaining = counter.remaining(time, rule);
                if is_shown && remaining < tightest.remaining {
                    tightest = LimitState {
                        rule: index,
                        at: time.now,
                        remaining,
                        resets_at: counter.resets_at(time, rule),
                    };
                }
            }
        }
        Admission::Admitted(tightest, receipt)
    }

    #[cold]
    fn note_changed(&self, sets: CounterSets<'_>, rule: &Rule) {
        self.changed.lock().push(Arc::clone(sets.of(rule)));
    }
}

#[cfg(feature = "redis")]
impl MemoryLimiter {
    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(super) fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// Returns the balance of each rule; the default for rules that have none.
    pub(super) fn balances(&self, demand: Demand<'_>) -> Vec<Balance> {
        let Subjects::Key(sets) = demand.subjects else {
            return vec![Balance::default(); indexed(demand.rules).count()];
        };
        let mut locked = LockedSets::lock(sets);
        let balance = |(_, rule): (usize, &Rule)| match locked.counter(rule) {
            CounterMut::Balance(balance, _) => *balance,
            _ => Balance::default(),
        };
        indexed(demand.rules).map(balance).collect()
    }

    /// Counts a request that another server admitted, so that this process knows the counts when
    /// that server is unavailable. Takes over its `balances`, and marks them as changed.
    pub(super) fn record_admitted(
        &self,
        demand: Demand<'_>,
        receipt: &Receipt,
        balances: impl Fn(usize) -> Balance,
    ) {
        let Demand { rules, cost, .. } = demand;
        let sets = match demand.subjects {
            Subjects::Key(sets) => sets,
            Subjects::Address(address) => {
                return self
                    .networks
                    .record(address, &ip_rules(rules), cost, receipt, &self.clock);
            }
        };
        let mut locked = LockedSets::lock(sets);
        let time = self.time();
        for (index, rule) in indexed(rules) {
            let mut counter = locked.counter(rule);
            if let CounterMut::Balance(balance, changed) = counter {
                *balance = balances(index);
                if !std::mem::replace(changed, true) {
                    self.note_changed(sets, rule);
                }
            } else if !is_shadow_denied(receipt, index) {
                counter.remaining(time, rule);
                counter.record(time, rule, rule.limit.period.takes(cost));
            }
        }
    }
}

fn ip_rules<'a>(rules: Rules<'a>) -> SmallVec<[IpRule<'a>; 4]> {
    let rules = indexed(rules).map(|(_, rule)| IpRule {
        counts: &rule.counts,
        limit: rule.limit,
    });
    rules.collect()
}

impl<'a> CounterSets<'a> {
    /// Returns the set that counts for a rule.
    fn of(self, rule: &Rule) -> &'a Arc<CounterSet> {
        match (rule.subject, self.org) {
            (Subject::Org, Some(org)) => org,
            _ => self.key,
        }
    }
}

/// The counter sets of one decision, locked. The key's is locked first, always.
struct LockedSets<'a> {
    key: MutexGuard<'a, Counters>,
    org: Option<MutexGuard<'a, Counters>>,
    /// The likely positions of the next counters, as rules come in the same order each time.
    next: (usize, usize),
}

impl<'a> LockedSets<'a> {
    #[inline]
    fn lock(sets: CounterSets<'a>) -> Self {
        Self {
            key: sets.key.counters.lock(),
            org: sets.org.map(|org| org.counters.lock()),
            next: (0, 0),
        }
    }

    #[inline(always)]
    fn counter(&mut self, rule: &Rule) -> CounterMut<'_> {
        match (rule.subject, &mut self.org) {
            (Subject::Org, Some(org)) => org.of(rule, &mut self.next.1),
            _ => self.key.of(rule, &mut self.next.0),
        }
    }
}

#[cfg(test)]
mod tests;
