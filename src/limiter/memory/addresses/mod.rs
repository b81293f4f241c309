//! Windows of addresses, in bounded memory whatever the traffic.
//!
//! All windows of an address are one entry of a set-associative table. A full set evicts whole
//! entries, the emptiest first; never one that refuses or that counts failures above half the
//! threshold, and never one that is fuller than the newcomer. If nothing can be evicted, the
//! newcomers of the set share windows of up to [`WAYS`] times each limit: those that fill the table
//! can neither lock them out nor make them unlimited.
//!
//! Each set has room for a number of windows. Further ones, of an address that is alone in its set or
//! shared, come from one reserve of the table. A request that needs more than the reserve has left is
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

use self::reserve::{LockedSet, Reserve};
use self::set::{Allocation, Set, WAYS};
use self::window::{AddressWindow, empty_log};
use super::super::{Receipt, Rules};
use super::decision::LockedCounters;
use crate::counter::{CounterMut, Rule, SavedIpWindow, Time};
use crate::limit::{SlidingLog, WindowLength};
use crate::net::IpKey;
use crate::time::Clock;

#[derive(Debug)]
pub(super) struct AddressTable {
    sets: Box<[Mutex<Set>]>,
    reserve: Reserve,
    hasher: RandomState,
}

impl AddressTable {
    /// A table of about `capacity` addresses, and at most twice as many.
    pub(super) fn new(capacity: usize) -> Self {
        let sets = (capacity / WAYS).next_power_of_two();
        Self {
            sets: (0..sets).map(|_| Mutex::default()).collect(),
            reserve: Reserve::new(sets),
            hasher: RandomState::default(),
        }
    }

    /// Locks the windows of an address for one decision. Reads the time under the lock.
    pub(super) fn lock<'t>(
        &self,
        ip_key: IpKey,
        rules: Rules<'_>,
        cost: NonZeroU32,
        time: impl FnOnce() -> Time<'t>,
    ) -> (LockedAddress<'_>, Time<'t>) {
        let mut set = self.lock_set(ip_key);
        let time = time();
        let locked = LockedAddress {
            allocation: set.allocate(ip_key, rules, cost, time.now),
            set,
            cost,
            empty: SlidingLog::new(WindowLength::MINUTE),
        };
        (locked, time)
    }

    /// Locks the only set that can contain an address.
    fn lock_set(&self, ip_key: IpKey) -> LockedSet<'_> {
        let index = self.hasher.hash_one(ip_key) as usize & (self.sets.len() - 1);
        self.reserve.lock(&self.sets[index])
    }

    pub(super) fn remove(&self, ip_key: IpKey) {
        self.lock_set(ip_key).remove(ip_key);
    }

    /// Frees idle windows in one of `parts` of the table.
    pub(super) fn sweep(&self, part: usize, parts: usize, clock: &Clock) {
        for set in self.part(part, parts) {
            let mut set = self.reserve.lock(set);
            set.remove_idle(clock.now());
        }
    }

    /// Returns the windows with hits, except shared ones, in one of `parts` of the table.
    pub(super) fn windows(&self, part: usize, parts: usize, clock: &Clock) -> Vec<SavedIpWindow> {
        let mut saved = Vec::new();
        for set in self.part(part, parts) {
            let mut set = self.reserve.lock(set);
            let windows = set.windows(clock.now());
            saved.extend(windows.map(|(ip_key, window)| window.saved(ip_key, clock)));
        }
        saved
    }

    fn part(&self, part: usize, parts: usize) -> impl Iterator<Item = &Mutex<Set>> {
        self.sets.iter().skip(part).step_by(parts)
    }

    /// Restores windows, as far as there is room for them.
    pub(super) fn restore(&self, saved: Vec<SavedIpWindow>, clock: &Clock) {
        let now = clock.now();
        let restored = saved.into_iter();
        let mut restored: Vec<(IpKey, AddressWindow)> = restored
            .map(|saved| (saved.ip_key, AddressWindow::restored(saved, now, clock)))
            .filter(|(_, window)| window.used() > 0)
            .collect();
        // The fullest first, so that none of them finds its set full of emptier ones.
        restored.sort_by_key(|(_, window)| std::cmp::Reverse(window.fullness()));
        for (ip_key, window) in restored {
            let mut set = self.lock_set(ip_key);
            let (allocation, excess) = set.allocate_restored(ip_key, &window, now);
            if set.reserve(excess) {
                set.insert_restored(&allocation, window, now);
            }
        }
    }
}

/// The windows of an address for one decision, with its set locked.
pub(super) struct LockedAddress<'a> {
    set: LockedSet<'a>,
    allocation: Allocation,
    cost: NonZeroU32,
    /// The substitute for an absent window.
    empty: SlidingLog,
}

impl LockedAddress<'_> {
    /// Whether there is room for absent windows: in the set, or reserved for it by this call. Adds
    /// the rules that `may_skip` selects to the receipt if there is no room for theirs.
    pub(super) fn has_room(
        &mut self,
        rules: Rules<'_>,
        receipt: &mut Receipt,
        may_skip: fn(&Rule) -> bool,
    ) -> bool {
        let excess = self.set.excess_after(&self.allocation, rules, receipt);
        if self.set.reserve(excess) {
            return true;
        }
        self.set
            .skip_absent(&self.allocation, rules, receipt, may_skip);
        let excess = self.set.excess_after(&self.allocation, rules, receipt);
        self.set.reserve(excess)
    }
}

impl LockedCounters for LockedAddress<'_> {
    fn counter(&mut self, rule: &Rule) -> CounterMut<'_> {
        let (log, is_shared) = match self.set.find(&self.allocation, rule) {
            Some((window, is_shared)) => (&mut window.log, is_shared),
            None => {
                self.empty = empty_log(rule);
                (&mut self.empty, self.allocation.is_shared)
            }
        };
        match is_shared {
            true => CounterMut::SharedWindow(log, WAYS as u64),
            false => CounterMut::Window(log),
        }
    }

    fn is_shared(&mut self, rule: &Rule) -> bool {
        matches!(self.counter(rule), CounterMut::SharedWindow(..))
    }

    fn create(
        &mut self,
        rules: Rules<'_>,
        receipt: &mut Receipt,
        may_skip: fn(&Rule) -> bool,
    ) -> bool {
        let has_room = self.has_room(rules, receipt, may_skip);
        if has_room {
            self.set
                .insert_absent(&self.allocation, rules, receipt, self.cost);
        }
        has_room
    }

    /// Windows of addresses have no balance.
    fn note_changed(&mut self, _: &Rule) {}
}
