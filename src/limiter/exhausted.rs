//! Limits that are known to have no room, so that nobody needs to be asked about them.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::num::NonZeroU32;
use std::time::Duration;

use foldhash::quality::RandomState;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::Level;
use crate::clock::Moment;
use crate::limit::{Limit, Span};

/// How many are remembered at most.
const CAPACITY: usize = 65_536;

/// Of how many kinds of requests the refusals by one limit are remembered.
const KINDS: usize = 8;

/// For how long a refusal is taken from memory: another node may make room before that is due.
const TRUSTED_FOR: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Exhausted {
    known: Mutex<HashMap<String, SmallVec<[Known; 1]>, RandomState>>,
    hasher: RandomState,
}

/// What a request asks for.
#[derive(Clone, Copy)]
pub(super) struct Wish {
    pub(super) cost: NonZeroU32,
    /// All limits that it must pass: see [`Exhausted::hash`].
    pub(super) limits: u64,
}

/// A refusal, by the limit that takes longest to have room.
#[derive(Clone, Copy)]
pub(super) struct Refusal {
    pub(super) wish: Wish,
    pub(super) limit: Limit,
    pub(super) level: Level,
    pub(super) room_at: Moment,
    /// What each of the other limits has room for at least.
    pub(super) others_have: u64,
}

#[derive(Clone, Copy)]
struct Known {
    refusal: Refusal,
    until: Moment,
}

impl Refusal {
    /// Whether the limit refuses this too, and the others do not.
    fn covers(&self, wish: Wish) -> bool {
        let cost = u64::from(wish.cost.get());
        wish.limits == self.wish.limits
            && (wish.cost == self.wish.cost
                || wish.cost > self.wish.cost && cost <= self.others_have)
    }

    /// When there is room for `cost`, which is no less than what was refused: a time after which
    /// that is sure, if nothing is admitted meanwhile.
    fn room_at(&self, cost: NonZeroU32, now: Moment) -> Moment {
        if cost == self.wish.cost {
            return self.room_at;
        }
        match self.limit.span {
            // A hit counts from the later end of its grain.
            Span::Sliding(length) => now.plus(Duration::from_nanos(
                length.nanos().saturating_add(length.grain_nanos()),
            )),
            Span::Credits(Some(refill)) => {
                let more = u64::from(cost.get() - self.wish.cost.get());
                let times = more.div_ceil(refill.amount.get().into());
                let millis = times.saturating_mul(refill.millis.get());
                self.room_at.plus(Duration::from_millis(millis))
            }
            Span::Day | Span::Month | Span::Credits(None) | Span::Concurrent => self.room_at,
        }
    }
}

impl Exhausted {
    /// Tells sets of limits, each with the key of its counter, from each other.
    pub(super) fn hash<'a>(&self, limits: impl Iterator<Item = (&'a str, Limit)>) -> u64 {
        limits.fold(0, |hash, limit| self.hasher.hash_one((hash, limit)))
    }

    /// When the limit of this key grows and when it has room, if it is known to have none now.
    pub(super) fn find(&self, key: &str, wish: Wish, now: Moment) -> Option<(Moment, Moment)> {
        let mut all = self.known.lock();
        let known = all.get_mut(key)?;
        known.retain(|known| now < known.until);
        if known.is_empty() {
            all.remove(key);
            return None;
        }
        let mut refusals = known.iter().map(|known| known.refusal);
        let refusal = refusals.find(|refusal| refusal.covers(wish))?;
        Some((refusal.level.grows_at, refusal.room_at(wish.cost, now)))
    }

    /// Remembers a refusal. Only a limit that nothing is left of is remembered, so that what is shown
    /// of it stays true.
    pub(super) fn note(&self, key: &str, refusal: Refusal) {
        let Refusal { limit, level, .. } = refusal;
        // A slot may be free again at any time.
        if limit.span == Span::Concurrent || level.remaining > 0 {
            return;
        }
        let until = level.grows_at.min(level.at.plus(TRUSTED_FOR));
        let mut all = self.known.lock();
        if all.len() >= CAPACITY {
            all.retain(|_, known| known.iter().any(|known| known.until > level.at));
        }
        if all.len() >= CAPACITY {
            return;
        }
        let known = all.entry(key.to_owned()).or_default();
        known.retain(|known| {
            known.refusal.wish.limits != refusal.wish.limits && known.until > level.at
        });
        if known.len() < KINDS {
            known.push(Known { refusal, until });
        }
    }

    /// Forgets all whose key starts so.
    pub(super) fn forget_all(&self, start: &str) {
        self.known.lock().retain(|key, _| !key.starts_with(start));
    }

    /// Something was given back.
    pub(super) fn forget(&self, key: &str) {
        self.known.lock().remove(key);
    }
}
