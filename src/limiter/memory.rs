//! Counters in the memory of this process.

use std::hash::BuildHasher;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use parking_lot::Mutex;

use super::networks::Networks;
use super::{AttachError, GroupId, Level, Limiter, NetworkCounter, Outcome};
use crate::clock::{Clock, Moment, Timestamp};
use crate::network::Network;
use crate::policy::{Rule, Span, WindowLength};
use crate::quota::QuotaUse;
use crate::store::StoreError;
use crate::window::SlidingLog;

/// Locks of the table of groups. They are taken when a key is read from the file, not per request.
const SHARDS: usize = 256;

/// How long a table in which every group counts is taken to be full, in nanoseconds.
const FULL_FOR: u64 = 100_000_000;

/// The counters of a key or an organization. Whoever decides often holds on to the handle.
#[derive(Debug)]
pub(crate) struct Group {
    id: GroupId,
    counters: Mutex<Counters>,
}

impl Group {
    pub(crate) fn id(&self) -> GroupId {
        self.id
    }

    /// The level of the quota, to be stored; it no longer counts as consumed from.
    pub(crate) fn settle_quota(&self) -> Option<QuotaUse> {
        let mut counters = self.counters.lock();
        let quota = counters.quota()?;
        quota.consumed = false;
        Some(quota.level)
    }
}

/// A limiter for one process: exact, because each decision is made under the lock of its group.
pub(crate) struct MemoryLimiter {
    clock: Clock,
    capacity: usize,
    len: AtomicUsize,
    shards: Box<[Mutex<HashTable<Arc<Group>>>]>,
    hasher: RandomState,
    consumed: Mutex<Vec<Arc<Group>>>,
    next_sweep: AtomicUsize,
    /// Until when there is no use in looking for room, in nanoseconds of the clock.
    full_until: AtomicU64,
    networks: Networks,
}

impl MemoryLimiter {
    /// A limiter that keeps counters of at most `capacity` groups, and of some `networks`.
    pub(crate) fn new(clock: Clock, capacity: usize, networks: usize) -> Self {
        Self {
            clock,
            capacity,
            len: AtomicUsize::new(0),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
            consumed: Mutex::default(),
            next_sweep: AtomicUsize::new(0),
            full_until: AtomicU64::new(0),
            networks: Networks::new(networks),
        }
    }

    fn hash(&self, id: GroupId) -> u64 {
        self.hasher.hash_one(id)
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
    fn sweep_shard(&self, shard: &mut HashTable<Arc<Group>>) {
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
        id: GroupId,
        seed: &mut dyn FnMut() -> Result<QuotaUse, StoreError>,
    ) -> Result<Arc<Group>, AttachError> {
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
        let level = seed().map_err(|error| {
            self.len.fetch_sub(1, Ordering::Relaxed);
            AttachError::Seed(error)
        })?;
        let group = Arc::new(Group {
            id,
            counters: Mutex::new(Counters::seeded(level)),
        });
        shard.insert_unique(hash, Arc::clone(&group), |group| self.hash(group.id));
        Ok(group)
    }

    #[inline]
    fn admit(&self, group: &Arc<Group>, rules: &[Rule], cost: NonZeroU32) -> Outcome {
        let mut counters = group.counters.lock();
        let now = self.clock.now();
        let time = Time {
            now,
            clock: &self.clock,
        };
        let mut slowest: Option<(Level, Moment)> = None;
        for (index, rule) in rules.iter().enumerate() {
            let counter = counters.of(rule.span);
            let remaining = counter.remaining(time, rule);
            if remaining >= cost.get().into() {
                continue;
            }
            let room_at = counter.room_at(time, rule, cost);
            if slowest.is_none_or(|(_, latest)| room_at > latest) {
                let level = Level {
                    rule: index,
                    at: now,
                    remaining,
                    grows_at: counter.grows_at(time),
                };
                slowest = Some((level, room_at));
            }
        }
        if let Some((level, room_at)) = slowest {
            return Outcome::Refused(level, room_at);
        }
        let (mut tightest, mut least) = (0, u64::MAX);
        for (index, rule) in rules.iter().enumerate() {
            let counter = counters.of(rule.span);
            if counter.record(now, cost) {
                self.consumed.lock().push(Arc::clone(group));
            }
            let remaining = counter.remaining(time, rule);
            if remaining < least {
                (tightest, least) = (index, remaining);
            }
        }
        Outcome::Admitted(Level {
            rule: tightest,
            at: now,
            remaining: least,
            grows_at: counters.of(rules[tightest].span).grows_at(time),
        })
    }

    fn levels(&self, group: &Group, rules: &[Rule], cost: NonZeroU32) -> Vec<(Level, Moment)> {
        let mut counters = group.counters.lock();
        let time = Time {
            now: self.clock.now(),
            clock: &self.clock,
        };
        let of = |(index, rule): (usize, &Rule)| {
            let counter = counters.of(rule.span);
            let remaining = counter.remaining(time, rule);
            let room_at = if remaining >= cost.get().into() {
                time.now
            } else {
                counter.room_at(time, rule, cost)
            };
            let level = Level {
                rule: index,
                at: time.now,
                remaining,
                grows_at: counter.grows_at(time),
            };
            (level, room_at)
        };
        rules.iter().enumerate().map(of).collect()
    }

    fn take_consumed(&self) -> Vec<Arc<Group>> {
        std::mem::take(&mut *self.consumed.lock())
    }

    fn return_consumed(&self, groups: Vec<Arc<Group>>) {
        for group in groups {
            let to_list = {
                let mut counters = group.counters.lock();
                let quota = counters.quota();
                quota.is_some_and(|quota| !std::mem::replace(&mut quota.consumed, true))
            };
            if to_list {
                self.consumed.lock().push(group);
            }
        }
    }

    fn hit(&self, counter: NetworkCounter<'_>, rule: Rule) -> Outcome {
        self.networks.hit(counter, rule, &self.clock)
    }

    fn forget(&self, network: Network) {
        self.networks.forget(network);
    }

    fn sweep(&self) {
        let at = self.next_sweep.fetch_add(1, Ordering::Relaxed) % SHARDS;
        self.sweep_shard(&mut self.shards[at].lock());
    }
}

/// One reading of the clock, in both of its forms.
#[derive(Clone, Copy)]
struct Time<'a> {
    now: Moment,
    clock: &'a Clock,
}

impl Time<'_> {
    fn timestamp(self) -> Timestamp {
        self.clock.timestamp_at(self.now)
    }

    fn after(self, wait: Duration) -> Moment {
        let wait = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        Moment::from_nanos(self.now.nanos().saturating_add(wait))
    }
}

/// The counters of a group, one for each span. Most groups have one, which is kept inline.
#[derive(Debug)]
enum Counters {
    One(Counter),
    Several(Vec<Counter>),
}

impl Counters {
    fn seeded(level: QuotaUse) -> Self {
        if level == QuotaUse::default() {
            return Self::One(Counter::new(Span::Sliding(WindowLength::MINUTE)));
        }
        Self::One(Counter::Month(Quota {
            level,
            consumed: false,
        }))
    }

    /// The counter over `span`, made if it is not there.
    #[inline]
    fn of(&mut self, span: Span) -> &mut Counter {
        let index = match &*self {
            Self::One(counter) if counter.is_over(span) => 0,
            _ => self.find_or_add(span),
        };
        &mut self.all()[index]
    }

    /// The index of the counter over `span`.
    #[cold]
    fn find_or_add(&mut self, span: Span) -> usize {
        let found = self.all().iter().position(|counter| counter.is_over(span));
        found.unwrap_or_else(|| self.add(Counter::new(span)))
    }

    #[inline]
    fn all(&mut self) -> &mut [Counter] {
        match self {
            Self::One(counter) => std::slice::from_mut(counter),
            Self::Several(counters) => counters,
        }
    }

    /// Returns its index.
    fn add(&mut self, counter: Counter) -> usize {
        let mut counters = match std::mem::replace(self, Self::Several(Vec::new())) {
            Self::One(first) => vec![first],
            Self::Several(counters) => counters,
        };
        counters.push(counter);
        let index = counters.len() - 1;
        *self = Self::Several(counters);
        index
    }

    fn quota(&mut self) -> Option<&mut Quota> {
        self.all().iter_mut().find_map(|counter| match counter {
            Counter::Month(quota) => Some(quota),
            Counter::Window(_) => None,
        })
    }

    fn is_idle(&mut self, now: Moment) -> bool {
        let mut all = self.all().iter_mut();
        all.all(|counter| counter.is_idle(now))
    }
}

#[derive(Debug)]
enum Counter {
    Window(SlidingLog),
    Month(Quota),
}

#[derive(Debug, Default)]
struct Quota {
    level: QuotaUse,
    /// Consumed from since the level was last stored.
    consumed: bool,
}

impl Counter {
    fn new(span: Span) -> Self {
        match span {
            Span::Sliding(length) => Self::Window(SlidingLog::new(length)),
            Span::Month => Self::Month(Quota::default()),
        }
    }

    #[inline]
    fn is_over(&self, span: Span) -> bool {
        match (self, span) {
            (Self::Window(log), Span::Sliding(length)) => log.length() == length,
            (Self::Month(_), Span::Month) => true,
            _ => false,
        }
    }

    #[inline]
    fn used_at(&mut self, time: Time<'_>) -> u64 {
        match self {
            Self::Window(log) => log.used_at(time.now).into(),
            Self::Month(quota) => quota.level.used_at(time.timestamp()),
        }
    }

    #[inline]
    fn remaining(&mut self, time: Time<'_>, rule: &Rule) -> u64 {
        rule.limit.saturating_sub(self.used_at(time))
    }

    /// Returns true if this is the first consumption from a quota since it was last stored.
    #[inline]
    fn record(&mut self, now: Moment, cost: NonZeroU32) -> bool {
        match self {
            Self::Window(log) => {
                log.record(now, cost);
                false
            }
            Self::Month(quota) => {
                quota.level.record(cost.get().into());
                !std::mem::replace(&mut quota.consumed, true)
            }
        }
    }

    /// When some of what is used comes back.
    #[inline]
    fn grows_at(&mut self, time: Time<'_>) -> Moment {
        match self {
            Self::Window(log) => log.oldest_leaves_at(time.now),
            Self::Month(quota) => time.after(quota.level.renews_in(time.timestamp())),
        }
    }

    /// When there is room for `cost`, as there is not now.
    fn room_at(&mut self, time: Time<'_>, rule: &Rule, cost: NonZeroU32) -> Moment {
        match self {
            Self::Window(log) => log.room_at(time.now, rule.limit, cost),
            Self::Month(_) => self.grows_at(time),
        }
    }

    /// Whether dropping the counter loses nothing.
    fn is_idle(&mut self, now: Moment) -> bool {
        match self {
            Self::Window(log) => log.used_at(now) == 0,
            Self::Month(quota) => !quota.consumed,
        }
    }
}

#[cfg(test)]
mod tests;
