//! Counters in the memory of this process.

use std::hash::BuildHasher;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use parking_lot::Mutex;

use super::{AttachError, GroupId, Level, Limiter, Outcome};
use crate::clock::{Clock, Moment, Timestamp};
use crate::policy::{Rule, Span};
use crate::quota::QuotaUse;
use crate::store::StoreError;
use crate::window::SlidingLog;

/// Locks of the table of groups. They are taken when a key is read from the file, not per request.
const SHARDS: usize = 256;

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
    pub(crate) fn settle_quota(&self) -> QuotaUse {
        let mut counters = self.counters.lock();
        let quota = counters.quota();
        quota.consumed = false;
        quota.level
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
}

impl MemoryLimiter {
    /// A limiter that keeps counters of at most `capacity` groups.
    pub(crate) fn new(clock: Clock, capacity: usize) -> Self {
        Self {
            clock,
            capacity,
            len: AtomicUsize::new(0),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
            consumed: Mutex::default(),
            next_sweep: AtomicUsize::new(0),
        }
    }

    fn hash(&self, id: GroupId) -> u64 {
        self.hasher.hash_one(id)
    }

    /// Frees groups that count nothing until there is room for one more, if that can be had.
    fn make_room(&self) {
        for _ in 0..SHARDS {
            if self.len.load(Ordering::Relaxed) < self.capacity {
                return;
            }
            self.sweep();
        }
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
        let mut slowest: Option<Level> = None;
        for rule in rules {
            let counter = counters.of(rule.span);
            if counter.has_room(time, rule.limit, cost) {
                continue;
            }
            let level = counter.level(time, rule, cost);
            if slowest.is_none_or(|slowest| level.room_at > slowest.room_at) {
                slowest = Some(level);
            }
        }
        if let Some(level) = slowest {
            return Outcome::Refused(now, level);
        }
        let mut tightest: Option<Level> = None;
        for rule in rules {
            let counter = counters.of(rule.span);
            if counter.record(now, cost) {
                self.consumed.lock().push(Arc::clone(group));
            }
            let level = counter.level(time, rule, cost);
            if tightest.is_none_or(|tightest| level.remaining < tightest.remaining) {
                tightest = Some(level);
            }
        }
        let unlimited = || Level {
            rule: Rule {
                limit: u64::MAX,
                span: Span::Month,
            },
            remaining: u64::MAX,
            grows_at: now,
            room_at: now,
        };
        Outcome::Admitted(now, tightest.unwrap_or_else(unlimited))
    }

    fn levels(&self, group: &Group, rules: &[Rule], cost: NonZeroU32) -> (Moment, Vec<Level>) {
        let mut counters = group.counters.lock();
        let now = self.clock.now();
        let time = Time {
            now,
            clock: &self.clock,
        };
        let level = |rule: &Rule| counters.of(rule.span).level(time, rule, cost);
        (now, rules.iter().map(level).collect())
    }

    fn take_consumed(&self) -> Vec<Arc<Group>> {
        std::mem::take(&mut *self.consumed.lock())
    }

    fn return_consumed(&self, groups: Vec<Arc<Group>>) {
        for group in groups {
            let already_listed = {
                let mut counters = group.counters.lock();
                std::mem::replace(&mut counters.quota().consumed, true)
            };
            if !already_listed {
                self.consumed.lock().push(group);
            }
        }
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

/// The counters of a group: the one for its first span inline, as most groups have no other.
#[derive(Debug)]
struct Counters {
    counter: Counter,
    next: Option<Box<Counters>>,
}

impl Counters {
    fn seeded(level: QuotaUse) -> Self {
        let window = Counter::new(Span::Sliding(crate::policy::WindowLength::MINUTE));
        let quota = Counter::Month(Quota {
            level,
            consumed: false,
        });
        let next = (level != QuotaUse::default()).then(|| {
            Box::new(Self {
                counter: quota,
                next: None,
            })
        });
        Self {
            counter: window,
            next,
        }
    }

    /// The counter over `span`, made if it is not there.
    #[inline]
    fn of(&mut self, span: Span) -> &mut Counter {
        let mut at = self;
        while !at.counter.is_over(span) {
            at = at.next.get_or_insert_with(|| {
                Box::new(Self {
                    counter: Counter::new(span),
                    next: None,
                })
            });
        }
        &mut at.counter
    }

    fn quota(&mut self) -> &mut Quota {
        let mut at = self;
        loop {
            if let Counter::Month(quota) = &mut at.counter {
                return quota;
            }
            at = at.next.get_or_insert_with(|| {
                Box::new(Self {
                    counter: Counter::new(Span::Month),
                    next: None,
                })
            });
        }
    }

    fn is_idle(&mut self, now: Moment) -> bool {
        self.counter.is_idle(now) && self.next.as_mut().is_none_or(|next| next.is_idle(now))
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
    fn has_room(&mut self, time: Time<'_>, limit: u64, cost: NonZeroU32) -> bool {
        self.used_at(time).saturating_add(cost.get().into()) <= limit
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

    #[inline]
    fn level(&mut self, time: Time<'_>, rule: &Rule, cost: NonZeroU32) -> Level {
        let remaining = rule.limit.saturating_sub(self.used_at(time));
        let (grows_at, room_at) = match self {
            Self::Window(log) => (
                log.oldest_leaves_at(time.now),
                log.room_at(time.now, rule.limit, cost),
            ),
            Self::Month(quota) => {
                let renews_at = time.after(quota.level.renews_in(time.timestamp()));
                let has_room = remaining >= u64::from(cost.get());
                (renews_at, if has_room { time.now } else { renews_at })
            }
        };
        Level {
            rule: *rule,
            remaining,
            grows_at,
            room_at,
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
