//! Counters in the memory of this process.

use std::hash::BuildHasher;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use parking_lot::{Mutex, MutexGuard};

use super::networks::IpCounters;
use super::{
    Admission, AdmittedRequest, AttachError, CounterSets, IpRule, LimitState, Limiter, Receipt,
    Rules, deny_in_shadow, is_shadow_denied,
};
use crate::counter::{CounterMut, Counters, SavedCounter, SavedIpCounters, Time};
use crate::counter::{Rule, Subject, SubjectId};
#[cfg(feature = "redis")]
use crate::limit::Balance;
use crate::limit::Period;
use crate::net::IpKey;
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
    fn admit_now(
        &self,
        groups: CounterSets<'_>,
        rules: Rules<'_>,
        cost: NonZeroU32,
    ) -> Option<Admission> {
        Some(self.take(groups, rules, cost))
    }

    fn admit<'a>(
        &'a self,
        groups: CounterSets<'a>,
        rules: Rules<'a>,
        cost: NonZeroU32,
        _: &'a Deadline,
    ) -> MaybeReady<'a, Admission> {
        MaybeReady::Now(self.take(groups, rules, cost))
    }

    fn levels(
        &self,
        groups: CounterSets<'_>,
        rules: Rules<'_>,
        cost: NonZeroU32,
    ) -> Vec<(LimitState, Moment)> {
        let mut held = Held::lock(groups);
        let time = self.time();
        let of = |(index, rule): (usize, &Rule)| {
            let takes = rule.limit.period.takes(cost);
            let mut counter = held.counter(rule);
            let remaining = counter.remaining(time, rule);
            let retry_at = if remaining >= takes.get().into() {
                time.now
            } else {
                counter.retry_at(time, rule, takes)
            };
            let level = LimitState {
                rule: index,
                at: time.now,
                remaining,
                resets_at: counter.resets_at(time, rule),
            };
            (level, retry_at)
        };
        indexed(rules).map(of).collect()
    }

    fn settle(
        &self,
        groups: CounterSets<'_>,
        rules: Rules<'_>,
        admission: AdmittedRequest<'_>,
        actual: u64,
    ) {
        let AdmittedRequest { at, cost, receipt } = admission;
        let mut held = Held::lock(groups);
        let time = self.time();
        for (index, rule) in indexed(rules) {
            if is_shadow_denied(receipt, index) {
                continue;
            }
            let reset_at = self.reset_at(groups.of(rule)).load(Ordering::Relaxed);
            // Hits of that time may be those of others since a reset.
            let actual = if reset_at >= at.nanos() {
                actual.max(cost.get().into())
            } else {
                actual
            };
            let mut counter = held.counter(rule);
            if counter.settle(time, rule, at, cost.get(), actual) {
                self.to_be_stored(groups, rule);
            }
        }
    }

    fn release(&self, groups: CounterSets<'_>, rules: Rules<'_>, receipt: &Receipt) {
        let mut held = Held::lock(groups);
        for (index, rule) in indexed(rules) {
            if rule.limit.period == Period::Concurrent && !is_shadow_denied(receipt, index) {
                held.counter(rule).release();
            }
        }
    }

    fn reset(&self, groups: CounterSets<'_>, rules: Rules<'_>) -> Result<(), StoreError> {
        let mut held = Held::lock(groups);
        let now = self.time().now.nanos();
        for (_, rule) in indexed(rules) {
            self.reset_at(groups.of(rule)).store(now, Ordering::Relaxed);
            if held.counter(rule).reset() {
                self.to_be_stored(groups, rule);
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

    fn windows(&self, part: usize) -> Option<Vec<(SubjectId, Vec<SavedCounter>)>> {
        let mut all = Vec::new();
        for group in self.shards.get(part)?.lock().iter() {
            let windows = group.counters.lock().windows(self.time());
            if !windows.is_empty() {
                all.push((group.id, windows));
            }
        }
        Some(all)
    }

    fn hit_now(&self, network: IpKey, rules: &[IpRule<'_>], cost: NonZeroU32) -> Option<Admission> {
        Some(self.networks.hit(network, rules, cost, &self.clock))
    }

    fn hit<'a>(
        &'a self,
        network: IpKey,
        rules: &'a [IpRule<'a>],
        cost: NonZeroU32,
        _: &'a Deadline,
    ) -> MaybeReady<'a, Admission> {
        MaybeReady::Now(self.networks.hit(network, rules, cost, &self.clock))
    }

    fn network_levels(
        &self,
        network: IpKey,
        rules: &[IpRule<'_>],
        cost: NonZeroU32,
    ) -> Vec<(LimitState, Moment)> {
        self.networks.levels(network, rules, cost, &self.clock)
    }

    fn network_windows(&self) -> Vec<SavedIpCounters> {
        self.networks.windows(&self.clock)
    }

    fn restore_networks(&self, saved: Vec<SavedIpCounters>) {
        self.networks.restore(saved, &self.clock);
    }

    fn forget(&self, network: IpKey) -> Result<(), StoreError> {
        self.networks.forget(network);
        Ok(())
    }

    fn sweep(&self) {
        let at = self.next_sweep.fetch_add(1, Ordering::Relaxed) % SHARDS;
        self.sweep_shard(&mut self.shards[at].lock());
    }
}

impl MemoryLimiter {
    /// [`Limiter::admit`], which here never has to ask.
    #[inline(always)]
    pub(super) fn take(
        &self,
        groups: CounterSets<'_>,
        rules: Rules<'_>,
        cost: NonZeroU32,
    ) -> Admission {
        let mut held = Held::lock(groups);
        let time = self.time();
        let mut slowest: Option<(LimitState, Moment)> = None;
        let mut receipt = Receipt::None;
        for (index, rule) in indexed(rules) {
            let takes = rule.limit.period.takes(cost);
            let mut counter = held.counter(rule);
            let remaining = counter.remaining(time, rule);
            if remaining < takes.get().into() {
                if rule.limit.shadow {
                    deny_in_shadow(&mut receipt, index);
                } else {
                    let retry_at = counter.retry_at(time, rule, takes);
                    if slowest.is_none_or(|(_, latest)| retry_at > latest) {
                        let level = LimitState {
                            rule: index,
                            at: time.now,
                            remaining,
                            resets_at: counter.resets_at(time, rule),
                        };
                        slowest = Some((level, retry_at));
                    }
                }
            }
        }
        if let Some((level, retry_at)) = slowest {
            return Admission::Refused(level, retry_at);
        }
        let mut tightest = LimitState::unlimited(time.now);
        held.next = (0, 0);
        for (index, rule) in indexed(rules) {
            if !is_shadow_denied(&receipt, index) {
                let mut counter = held.counter(rule);
                if counter.record(time, rule, rule.limit.period.takes(cost)) {
                    self.to_be_stored(groups, rule);
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
}

#[cfg(feature = "redis")]
impl MemoryLimiter {
    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(super) fn zone(&self) -> &TimeZone {
        &self.zone
    }

    pub(super) fn take_hit(
        &self,
        network: IpKey,
        rules: &[IpRule<'_>],
        cost: NonZeroU32,
    ) -> Admission {
        self.networks.hit(network, rules, cost, &self.clock)
    }

    /// The balance of each rule that has one.
    pub(super) fn balances(
        &self,
        groups: CounterSets<'_>,
        rules: Rules<'_>,
    ) -> Vec<Option<Balance>> {
        let mut held = Held::lock(groups);
        let balance = |(_, rule): (usize, &Rule)| match held.counter(rule) {
            CounterMut::Balance(balance, _) => Some(*balance),
            _ => None,
        };
        indexed(rules).map(balance).collect()
    }

    /// Counts what another server has admitted, so that this process admits no more by itself when
    /// that is gone. Balances are taken over as they are there; they are to be stored.
    pub(super) fn take_over(
        &self,
        groups: CounterSets<'_>,
        rules: Rules<'_>,
        cost: NonZeroU32,
        receipt: &Receipt,
        balances: impl Fn(usize) -> Balance,
    ) {
        let mut held = Held::lock(groups);
        let time = self.time();
        for (index, rule) in indexed(rules) {
            let mut counter = held.counter(rule);
            if let CounterMut::Balance(balance, changed) = counter {
                *balance = balances(index);
                if !std::mem::replace(changed, true) {
                    self.to_be_stored(groups, rule);
                }
            } else if !is_shadow_denied(receipt, index) {
                counter.remaining(time, rule);
                counter.record(time, rule, rule.limit.period.takes(cost));
            }
        }
    }

    /// As [`MemoryLimiter::take_over`], of windows over a network.
    pub(super) fn take_hit_over(
        &self,
        network: IpKey,
        rules: &[IpRule<'_>],
        cost: NonZeroU32,
        receipt: &Receipt,
    ) {
        self.networks
            .record(network, rules, cost, receipt, &self.clock);
    }
}

impl MemoryLimiter {
    #[cold]
    fn to_be_stored(&self, groups: CounterSets<'_>, rule: &Rule) {
        self.changed.lock().push(Arc::clone(groups.of(rule)));
    }
}

impl<'a> CounterSets<'a> {
    /// Whose counters a rule goes by.
    fn of(self, rule: &Rule) -> &'a Arc<CounterSet> {
        match (rule.subject, self.org) {
            (Subject::Org, Some(org)) => org,
            _ => self.key,
        }
    }
}

/// The counters of one decision, locked: always the key's first.
struct Held<'a> {
    key: MutexGuard<'a, Counters>,
    org: Option<MutexGuard<'a, Counters>>,
    /// Where the next counters are likely to be, as rules come in one order.
    next: (usize, usize),
}

impl<'a> Held<'a> {
    #[inline]
    fn lock(groups: CounterSets<'a>) -> Self {
        Self {
            key: groups.key.counters.lock(),
            org: groups.org.map(|org| org.counters.lock()),
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

#[inline(always)]
pub(super) fn indexed<'a>(rules: Rules<'a>) -> impl Iterator<Item = (usize, &'a Rule)> {
    rules.iter().copied().flatten().enumerate()
}

#[cfg(test)]
mod tests;
