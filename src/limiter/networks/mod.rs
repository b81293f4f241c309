//! Windows over networks: bounded whatever the traffic.
//!
//! All windows and failure counters of a network are one entry of a set-associative table. A set
//! that is full evicts whole entries, emptiest first; never one that refuses or that holds failures
//! above half the threshold, and never one that is fuller than the newcomer. Where nothing can be
//! evicted, the newcomers of the set are counted together, up to [`WAYS`] times each limit: so they
//! are neither locked out by those that fill the table nor unlimited.
//!
//! A set has room for some windows of its own; what it needs beyond them, of a network that is alone in
//! it or shared, comes from one reserve of the table. A request that needs more than is left there is
//! refused, and nothing is evicted for it.

mod entry;
mod reserve;
mod set;
#[cfg(test)]
mod tests;
mod window;

use std::hash::BuildHasher;
use std::num::NonZeroU32;

use foldhash::quality::RandomState;
use parking_lot::Mutex;

use self::reserve::{Locked, Reserve};
use self::set::{Place, Set, WAYS};
use self::window::Window;
use super::{Admission, IpRule, LimitState, Receipt, deny_in_shadow, is_shadow_denied};
use crate::counter::SavedIpCounters;
use crate::net::IpKey;
use crate::time::{Clock, Moment};

#[derive(Debug)]
pub(super) struct IpCounters {
    sets: Box<[Mutex<Set>]>,
    reserve: Reserve,
    hasher: RandomState,
}

impl IpCounters {
    /// A table of some `capacity` networks, never of more than twice as many.
    pub(super) fn new(capacity: usize) -> Self {
        let sets = (capacity / WAYS).next_power_of_two();
        Self {
            sets: (0..sets).map(|_| Mutex::default()).collect(),
            reserve: Reserve::new(sets),
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
        let mut set = self.lock(network);
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
        if !has_room(&mut set, &place, rules, &mut receipt) {
            return Admission::Full;
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
        let mut set = self.lock(network);
        let now = clock.now();
        let place = set.place(network, rules, cost, now);
        let beyond = set.beyond_after(&place, rules, receipt);
        if set.take(beyond) {
            return set.record(&place, rules, receipt, cost, now);
        }
        let mut receipt = receipt.clone();
        set.deny_new_in_shadow(&place, rules, &mut receipt, |_| true);
        set.record(&place, rules, &receipt, cost, now);
    }

    /// Whether there is room to count a request that no rule refuses. Counts nothing.
    pub(super) fn has_room(
        &self,
        network: IpKey,
        rules: &[IpRule<'_>],
        cost: NonZeroU32,
        clock: &Clock,
    ) -> bool {
        let mut set = self.lock(network);
        let place = set.place(network, rules, cost, clock.now());
        has_room(&mut set, &place, rules, &mut Receipt::None)
    }

    pub(super) fn levels(
        &self,
        network: IpKey,
        rules: &[IpRule<'_>],
        cost: NonZeroU32,
        clock: &Clock,
    ) -> Vec<(LimitState, Moment)> {
        let mut set = self.lock(network);
        let now = clock.now();
        let place = set.place(network, rules, cost, now);
        let levels = rules.iter().enumerate().map(|(index, rule)| {
            let (level, retry_at, _) = set.level(&place, index, rule, cost, now);
            (level, retry_at)
        });
        levels.collect()
    }

    pub(super) fn forget(&self, network: IpKey) {
        self.lock(network).forget(network);
    }

    /// Frees the memory of windows without hits in one of so many `parts` of the table.
    pub(super) fn sweep(&self, part: usize, parts: usize, clock: &Clock) {
        for set in self.sets.iter().skip(part).step_by(parts) {
            let mut set = self.reserve.lock(set);
            set.forget_idle(clock.now());
        }
    }

    /// The windows that hold hits, without those that several networks share.
    pub(super) fn windows(&self, clock: &Clock) -> Vec<SavedIpCounters> {
        let mut saved = Vec::new();
        for set in &self.sets {
            let mut set = self.reserve.lock(set);
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
        // The fullest first: none of them may be without a place because of emptier ones. Those that
        // there is no room for are left out.
        restored.sort_by_key(|(_, window)| std::cmp::Reverse(window.fullness()));
        for (network, window) in restored {
            let mut set = self.lock(network);
            let (place, beyond) = set.place_stored(network, &window, now);
            if set.take(beyond) {
                set.add(&place, window, now);
            }
        }
    }

    /// The one set that a network can be in.
    fn lock(&self, network: IpKey) -> Locked<'_> {
        let index = self.hasher.hash_one(network) as usize & (self.sets.len() - 1);
        self.reserve.lock(&self.sets[index])
    }
}

/// Whether a set has room for the windows that a request makes, or takes it from the reserve. Rules in
/// shadow mode are passed over where there is none for theirs.
fn has_room(
    set: &mut Locked<'_>,
    place: &Place,
    rules: &[IpRule<'_>],
    receipt: &mut Receipt,
) -> bool {
    let beyond = set.beyond_after(place, rules, receipt);
    if set.take(beyond) {
        return true;
    }
    set.deny_new_in_shadow(place, rules, receipt, |rule| rule.limit.shadow);
    let beyond = set.beyond_after(place, rules, receipt);
    set.take(beyond)
}
