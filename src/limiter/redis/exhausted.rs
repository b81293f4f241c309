//! A cache of limits that are known to be exhausted, so that Redis is not called for them.

use std::hash::BuildHasher;
use std::num::NonZeroU32;
use std::time::Duration;

use foldhash::quality::RandomState;
use parking_lot::Mutex;

use super::super::LimitState;
use crate::limit::{Limit, Period};
use crate::time::Moment;

/// Shards of the cache, each with its own lock. All entries of a group are in one shard.
const SHARDS: usize = 1_024;

/// The capacity of a shard.
const ENTRIES: usize = 64;

/// The lifetime of an entry. New room is announced; this is for an announcement that is lost.
const LIFETIME: Duration = Duration::from_secs(1);

/// A bounded cache of exhausted limits.
pub(super) struct ExhaustedLimits {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
}

#[derive(Default)]
struct Shard {
    /// The number of invalidations so far.
    generation: u64,
    entries: Vec<CachedLimit>,
}

#[derive(Clone, Copy)]
struct CachedLimit {
    exhausted: ExhaustedLimit,
    expires_at: Moment,
}

/// Identifies a demand on the counters of a group.
#[derive(Clone, Copy)]
pub(super) struct DemandKey {
    cost: NonZeroU32,
    /// A hash of the group.
    group: u64,
    /// A hash of all limits and the keys of their counters.
    limits: u64,
    /// [`Shard::generation`] when the demand was made.
    generation: u64,
}

/// The limit that refused a demand: of those without room, the one that takes longest to have room.
#[derive(Clone, Copy)]
pub(super) struct ExhaustedLimit {
    pub(super) key: DemandKey,
    pub(super) limit: Limit,
    pub(super) state: LimitState,
    pub(super) retry_at: Moment,
    /// The least room of the other limits.
    pub(super) others_have: u64,
}

impl DemandKey {
    fn is_same_limits(self, other: Self) -> bool {
        (self.group, self.limits) == (other.group, other.limits)
    }
}

impl ExhaustedLimit {
    /// Whether this limit refuses a demand, and the others do not.
    fn refuses(&self, demand: DemandKey) -> bool {
        let cost = u64::from(demand.cost.get());
        self.key.is_same_limits(demand)
            && (demand.cost == self.key.cost
                || demand.cost > self.key.cost && cost <= self.others_have)
    }

    /// Returns a time at which there is room for `cost` if nothing is admitted meanwhile. `cost` is
    /// at least the cost that was refused.
    fn retry_at_for(&self, cost: NonZeroU32, now: Moment) -> Moment {
        if cost == self.key.cost {
            return self.retry_at;
        }
        match self.limit.period {
            // A hit counts from the later end of its grain.
            Period::Sliding(length) => now.plus(Duration::from_nanos(
                length.nanos().saturating_add(length.grain_nanos()),
            )),
            Period::Credits(Some(refill)) => {
                let more = u64::from(cost.get() - self.key.cost.get());
                let times = more.div_ceil(refill.amount.get().into());
                let millis = times.saturating_mul(refill.millis.get());
                self.retry_at.plus(Duration::from_millis(millis))
            }
            Period::Day | Period::Month | Period::Credits(None) | Period::Concurrent => {
                self.retry_at
            }
        }
    }
}

impl Default for ExhaustedLimits {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
        }
    }
}

impl ExhaustedLimits {
    /// Returns the key of a demand on a group. `limits` are all its limits, each with the key of its
    /// counter.
    pub(super) fn key<'a>(
        &self,
        cost: NonZeroU32,
        group: &str,
        limits: impl Iterator<Item = (&'a str, Limit)>,
    ) -> DemandKey {
        let group = self.hasher.hash_one(group);
        DemandKey {
            cost,
            group,
            limits: limits.fold(0, |hash, limit| self.hasher.hash_one((hash, limit))),
            generation: self.shard(group).lock().generation,
        }
    }

    /// Returns the state of the limit that is known to refuse a demand, and when it has room.
    pub(super) fn get(&self, demand: DemandKey, now: Moment) -> Option<(LimitState, Moment)> {
        let shard = self.shard(demand.group).lock();
        let mut entries = shard.entries.iter();
        let is_match =
            |entry: &&CachedLimit| now < entry.expires_at && entry.exhausted.refuses(demand);
        let exhausted = entries.find(is_match)?.exhausted;
        let state = LimitState {
            at: now,
            remaining: 0,
            ..exhausted.state
        };
        Some((state, exhausted.retry_at_for(demand.cost, now)))
    }

    /// Adds a limit of which nothing remains, unless its group was invalidated since the demand was
    /// made.
    pub(super) fn insert(&self, exhausted: ExhaustedLimit) {
        let ExhaustedLimit {
            key, limit, state, ..
        } = exhausted;
        // A slot may become free at any time.
        if limit.period == Period::Concurrent || state.remaining > 0 {
            return;
        }
        let expires_at = state.resets_at.min(state.at.plus(LIFETIME));
        let mut shard = self.shard(key.group).lock();
        if shard.generation == key.generation {
            shard.insert(CachedLimit {
                exhausted,
                expires_at,
            });
        }
    }

    /// Removes the entries of a group, which may have room again.
    pub(super) fn invalidate(&self, group: &str) {
        let group = self.hasher.hash_one(group);
        let mut shard = self.shard(group).lock();
        shard.generation += 1;
        shard
            .entries
            .retain(|entry| entry.exhausted.key.group != group);
    }

    /// Removes all entries.
    pub(super) fn invalidate_all(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.generation += 1;
            shard.entries = Vec::new();
        }
    }

    fn shard(&self, group: u64) -> &Mutex<Shard> {
        // There is at least one shard.
        &self.shards[group as usize % self.shards.len()]
    }
}

impl Shard {
    /// Replaces the entry for the same limits or, in a full shard, the one that expires first.
    fn insert(&mut self, new: CachedLimit) {
        let key = new.exhausted.key;
        let same = |entry: &CachedLimit| entry.exhausted.key.is_same_limits(key);
        let old = match self.entries.iter().position(same) {
            Some(index) => self.entries.get_mut(index),
            None if self.entries.len() < ENTRIES => None,
            None => self.entries.iter_mut().min_by_key(|entry| entry.expires_at),
        };
        match old {
            Some(old) => *old = new,
            None => self.entries.push(new),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exhausted(cache: &ExhaustedLimits, group: &str, limit: &str) -> ExhaustedLimit {
        let limit = limit.parse().unwrap();
        ExhaustedLimit {
            key: cache.key(NonZeroU32::MIN, group, [("key", limit)].into_iter()),
            limit,
            state: LimitState {
                rule: 0,
                at: Moment::default(),
                remaining: 0,
                resets_at: Moment::NEVER,
            },
            retry_at: Moment::NEVER,
            others_have: 0,
        }
    }

    fn contains(cache: &ExhaustedLimits, exhausted: &ExhaustedLimit) -> bool {
        cache.get(exhausted.key, Moment::default()).is_some()
    }

    #[test]
    fn a_refusal_that_was_in_progress_during_an_invalidation_is_not_inserted() {
        let cache = ExhaustedLimits::default();
        let early = exhausted(&cache, "a", "1/min");
        cache.insert(early);
        assert!(contains(&cache, &early));
        cache.invalidate("b");
        assert!(contains(&cache, &early), "of another group");
        cache.invalidate("a");
        assert!(!contains(&cache, &early));
        cache.insert(early);
        assert!(!contains(&cache, &early), "demanded before there was room");
        let late = exhausted(&cache, "a", "1/min");
        cache.insert(late);
        assert!(contains(&cache, &late));
        cache.invalidate_all();
        assert!(!contains(&cache, &late));
    }

    #[test]
    fn the_cache_is_bounded_and_contains_the_latest_entry() {
        let cache = ExhaustedLimits::default();
        for n in 0..2 * SHARDS * ENTRIES {
            let exhausted = exhausted(&cache, &n.to_string(), "1/min");
            cache.insert(exhausted);
            assert!(contains(&cache, &exhausted), "{n}");
        }
        for n in 1..200 {
            cache.insert(exhausted(&cache, "one", &format!("{n}/min")));
        }
        let sizes = cache.shards.iter().map(|shard| shard.lock().entries.len());
        let largest = sizes.max();
        assert!(largest <= Some(ENTRIES), "{largest:?}");
    }

    #[test]
    fn a_full_shard_replaces_the_entry_that_expires_first() {
        let cache = ExhaustedLimits::default();
        let entry = |number: usize| {
            let mut entry = exhausted(&cache, "one", &format!("{}/min", number + 1));
            // All within the lifetime.
            let order = (number * 7) % ENTRIES;
            entry.state.resets_at = Moment::default().plus(Duration::from_millis(order as u64 + 1));
            entry
        };
        (0..ENTRIES).for_each(|number| cache.insert(entry(number)));
        cache.insert(exhausted(&cache, "one", "1000/min"));
        for number in 0..ENTRIES {
            assert_eq!(contains(&cache, &entry(number)), number != 0, "{number}");
        }
    }
}
