//! Windows over networks: bounded whatever the traffic.
//!
//! All windows and failure counters of a network are one entry of a set-associative table. A set
//! that is full evicts whole entries, emptiest first; never one that refuses or that holds failures
//! above half the threshold, and never one that is fuller than the newcomer. Where nothing can be
//! evicted, the newcomers of the set are counted together, up to [`WAYS`] times each limit: so they
//! are neither locked out by those that fill the table nor unlimited.

mod set;
#[cfg(test)]
mod tests;
mod window;

use std::hash::BuildHasher;
use std::num::NonZeroU32;

use foldhash::quality::RandomState;
use parking_lot::Mutex;

use self::set::{Set, WAYS};
use self::window::Window;
use super::{Admission, IpRule, LimitState, Receipt, deny_in_shadow, is_shadow_denied};
use crate::counter::SavedIpCounters;
use crate::net::IpKey;
use crate::time::{Clock, Moment};

#[derive(Debug)]
pub(super) struct IpCounters {
    sets: Box<[Mutex<Set>]>,
    hasher: RandomState,
}

impl IpCounters {
    /// A table of some `capacity` networks, never of more than twice as many.
    pub(super) fn new(capacity: usize) -> Self {
        let sets = (capacity / WAYS).next_power_of_two();
        Self {
            sets: (0..sets).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
        }
    }

    pub(super) fn hit(
        &self,
        network: IpKey,
        rules: &[IpRule<'_>],
        cost: NonZeroU32,
        clock: &Clock,
    ) -> Admission {
        let mut set = self.set(network).lock();
        let now = clock.now();
        let place = set.place(network, rules, cost, now);
        let mut slowest: Option<(LimitState, Moment, bool)> = None;
        let mut receipt = Receipt::None;
        for (index, rule) in rules.iter().enumerate() {
            let (level, retry_at, is_shared) = set.level(&place, index, rule, cost, now);
            if retry_at <= now {
                continue;
            }
            if rule.limit.shadow {
                deny_in_shadow(&mut receipt, index);
            } else if slowest.is_none_or(|(_, latest, _)| retry_at > latest) {
                slowest = Some((level, retry_at, is_shared));
            }
        }
        match slowest {
            Some((level, retry_at, false)) => return Admission::Refused(level, retry_at),
            Some((level, retry_at, true)) => return Admission::RefusedShared(level, retry_at),
            None => {}
        }
        set.record(&place, rules, &receipt, cost, now);
        let mut tightest = LimitState::unlimited(now);
        for (index, rule) in rules.iter().enumerate() {
            if rule.limit.shadow || is_shadow_denied(&receipt, index) {
                continue;
            }
            let (level, ..) = set.level(&place, index, rule, cost, now);
            if level.remaining < tightest.remaining {
                tightest = level;
            }
        }
        Admission::Admitted(tightest, receipt)
    }

    /// Counts what was admitted elsewhere.
    #[cfg(feature = "redis")]
    pub(super) fn record(
        &self,
        network: IpKey,
        rules: &[IpRule<'_>],
        cost: NonZeroU32,
        receipt: &Receipt,
        clock: &Clock,
    ) {
        let mut set = self.set(network).lock();
        let now = clock.now();
        let place = set.place(network, rules, cost, now);
        set.record(&place, rules, receipt, cost, now);
    }

    pub(super) fn levels(
        &self,
        network: IpKey,
        rules: &[IpRule<'_>],
        cost: NonZeroU32,
        clock: &Clock,
    ) -> Vec<(LimitState, Moment)> {
        let mut set = self.set(network).lock();
        let now = clock.now();
        let place = set.place(network, rules, cost, now);
        let levels = rules.iter().enumerate().map(|(index, rule)| {
            let (level, retry_at, _) = set.level(&place, index, rule, cost, now);
            (level, retry_at)
        });
        levels.collect()
    }

    pub(super) fn forget(&self, network: IpKey) {
        self.set(network).lock().forget(network);
    }

    /// The windows that hold hits, without those that several networks share.
    pub(super) fn windows(&self, clock: &Clock) -> Vec<SavedIpCounters> {
        let mut saved = Vec::new();
        for set in &self.sets {
            let mut set = set.lock();
            let now = clock.now();
            saved.extend(set.windows(now).map(|(n, window)| window.saved(n, clock)));
        }
        saved
    }

    pub(super) fn restore(&self, saved: Vec<SavedIpCounters>, clock: &Clock) {
        let now = clock.now();
        let restored = saved.into_iter();
        let mut restored: Vec<(IpKey, Window)> = restored
            .map(|saved| (saved.network, Window::restored(saved, now, clock)))
            .filter(|(_, window)| window.used() > 0)
            .collect();
        // The fullest first: none of them may be without a place because of emptier ones.
        restored.sort_by_key(|(_, window)| std::cmp::Reverse(window.fullness()));
        for (network, window) in restored {
            self.set(network).lock().add(network, window, now);
        }
    }

    /// The one set that a network can be in.
    fn set(&self, network: IpKey) -> &Mutex<Set> {
        &self.sets[self.hasher.hash_one(network) as usize & (self.sets.len() - 1)]
    }
}
