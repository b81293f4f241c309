//! Limits that are known to have no room, so that nobody needs to be asked about them.

use std::hash::BuildHasher;
use std::num::NonZeroU32;
use std::time::Duration;

use foldhash::quality::RandomState;
use parking_lot::Mutex;

use super::LimitState;
use crate::limit::{Limit, Period};
use crate::time::Moment;

/// Parts of the table, each with a lock of its own. All of one group is in one part.
const PARTS: usize = 1_024;

/// How many refusals a part remembers.
const PLACES: usize = 64;

/// For how long a refusal is taken from memory. Room that is made elsewhere is announced; this is for
/// an announcement that is lost.
const TRUSTED_FOR: Duration = Duration::from_secs(1);

/// A bounded table of refusals.
pub(super) struct Exhausted {
    parts: Box<[Mutex<Part>]>,
    hasher: RandomState,
}

#[derive(Default)]
struct Part {
    /// Counts how often something was forgotten.
    forgotten: u64,
    known: Vec<Known>,
}

/// The demand of a request on one group.
#[derive(Clone, Copy)]
pub(super) struct Wish {
    cost: NonZeroU32,
    /// A hash of the group.
    group: u64,
    /// A hash of all limits that it must pass, and of the keys of their counters.
    limits: u64,
    /// [`Part::forgotten`] when it was asked for.
    forgotten: u64,
}

/// A refusal, by the limit that takes longest to have room.
#[derive(Clone, Copy)]
pub(super) struct Refusal {
    pub(super) wish: Wish,
    /// The place of the limit among those that are asked for.
    pub(super) rule: usize,
    pub(super) limit: Limit,
    pub(super) level: LimitState,
    pub(super) retry_at: Moment,
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
        (wish.group, wish.limits) == (self.wish.group, self.wish.limits)
            && (wish.cost == self.wish.cost
                || wish.cost > self.wish.cost && cost <= self.others_have)
    }

    /// When there is room for `cost`, which is no less than what was refused: a time after which
    /// that is sure, if nothing is admitted meanwhile.
    fn room_at_for(&self, cost: NonZeroU32, now: Moment) -> Moment {
        if cost == self.wish.cost {
            return self.retry_at;
        }
        match self.limit.period {
            // A hit counts from the later end of its grain.
            Period::Sliding(length) => now.plus(Duration::from_nanos(
                length.nanos().saturating_add(length.grain_nanos()),
            )),
            Period::Credits(Some(refill)) => {
                let more = u64::from(cost.get() - self.wish.cost.get());
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

impl Default for Exhausted {
    fn default() -> Self {
        Self {
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
        }
    }
}

impl Exhausted {
    /// `group` names the group, `limits` are those that a request must pass, each with the key of its
    /// counter.
    pub(super) fn wish<'a>(
        &self,
        cost: NonZeroU32,
        group: &str,
        limits: impl Iterator<Item = (&'a str, Limit)>,
    ) -> Wish {
        let group = self.hasher.hash_one(group);
        Wish {
            cost,
            group,
            limits: limits.fold(0, |hash, limit| self.hasher.hash_one((hash, limit))),
            forgotten: self.part(group).lock().forgotten,
        }
    }

    /// The limit that is known to refuse this now, and when it has room.
    pub(super) fn find(&self, wish: Wish, now: Moment) -> Option<(LimitState, Moment)> {
        let part = self.part(wish.group).lock();
        let mut known = part.known.iter();
        let known = known.find(|known| now < known.until && known.refusal.covers(wish))?;
        let Refusal { rule, level, .. } = known.refusal;
        let level = LimitState {
            rule,
            at: now,
            remaining: 0,
            resets_at: level.resets_at,
        };
        Some((level, known.refusal.room_at_for(wish.cost, now)))
    }

    /// Remembers a refusal, unless room was made since it was asked for. Only a limit that nothing is
    /// left of is remembered, so that what is shown of it stays true.
    pub(super) fn note(&self, refusal: Refusal) {
        let Refusal {
            wish, limit, level, ..
        } = refusal;
        // A slot may be free again at any time.
        if limit.period == Period::Concurrent || level.remaining > 0 {
            return;
        }
        let until = level.resets_at.min(level.at.plus(TRUSTED_FOR));
        let mut part = self.part(wish.group).lock();
        if part.forgotten != wish.forgotten {
            return;
        }
        let known = Known { refusal, until };
        match part.place_for(wish) {
            Some(place) => *place = known,
            None => part.known.push(known),
        }
    }

    /// Room was made for a group.
    pub(super) fn forget(&self, group: &str) {
        let group = self.hasher.hash_one(group);
        let mut part = self.part(group).lock();
        part.forgotten += 1;
        part.known.retain(|known| known.refusal.wish.group != group);
    }

    /// Room may have been made for any group.
    pub(super) fn forget_all(&self) {
        for part in &self.parts {
            let mut part = part.lock();
            part.forgotten += 1;
            part.known = Vec::new();
        }
    }

    fn part(&self, group: u64) -> &Mutex<Part> {
        // There are parts, so that there is one.
        &self.parts[group as usize % self.parts.len()]
    }
}

impl Part {
    /// The place of what was known of the same limits, or, in a full part, of what ends first.
    fn place_for(&mut self, wish: Wish) -> Option<&mut Known> {
        let is_same = |known: &Known| {
            (known.refusal.wish.group, known.refusal.wish.limits) == (wish.group, wish.limits)
        };
        if let Some(at) = self.known.iter().position(is_same) {
            return self.known.get_mut(at);
        }
        let is_full = self.known.len() >= PLACES;
        let places = self.known.iter_mut().filter(|_| is_full);
        places.min_by_key(|known| known.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(table: &Exhausted, group: &str, limit: &str) -> Refusal {
        let limit = limit.parse().unwrap();
        Refusal {
            wish: table.wish(NonZeroU32::MIN, group, [("key", limit)].into_iter()),
            rule: 0,
            limit,
            level: LimitState {
                rule: 0,
                at: Moment::default(),
                remaining: 0,
                resets_at: Moment::NEVER,
            },
            retry_at: Moment::NEVER,
            others_have: 0,
        }
    }

    fn is_known(table: &Exhausted, refusal: &Refusal) -> bool {
        table.find(refusal.wish, Moment::default()).is_some()
    }

    #[test]
    fn a_refusal_that_was_on_its_way_when_room_was_made_is_not_believed() {
        let table = Exhausted::default();
        let early = refusal(&table, "a", "1/min");
        table.note(early);
        assert!(is_known(&table, &early));
        table.forget("b");
        assert!(is_known(&table, &early), "of another group");
        table.forget("a");
        assert!(!is_known(&table, &early));
        table.note(early);
        assert!(!is_known(&table, &early), "asked for before there was room");
        let late = refusal(&table, "a", "1/min");
        table.note(late);
        assert!(is_known(&table, &late));
        table.forget_all();
        assert!(!is_known(&table, &late));
    }

    #[test]
    fn any_number_of_refusals_takes_bounded_room_and_the_latest_is_known() {
        let table = Exhausted::default();
        for n in 0..2 * PARTS * PLACES {
            let refusal = refusal(&table, &n.to_string(), "1/min");
            table.note(refusal);
            assert!(is_known(&table, &refusal), "{n}");
        }
        for n in 1..200 {
            table.note(refusal(&table, "one", &format!("{n}/min")));
        }
        let longest = table.parts.iter().map(|part| part.lock().known.len()).max();
        assert!(longest <= Some(PLACES), "{longest:?}");
    }
}
