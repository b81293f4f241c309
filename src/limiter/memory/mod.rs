//! Counters in the memory of this process.

mod addresses;
mod decision;
#[cfg(all(test, loom))]
mod interleavings;
mod sets;
#[cfg(test)]
mod tests;

use std::num::NonZeroU32;
use std::sync::Arc;

use self::addresses::{AddressTable, LockedAddress};
use self::decision::LockedCounters;
pub(crate) use self::sets::CounterSet;
use self::sets::{LockedSets, SHARDS, SetTable};
use super::{
    Admission, AttachError, CounterSets, Demand, LimitState, Limiter, Receipt, SavedWindows,
    Subjects, indexed, is_skipped,
};
use crate::counter::{
    CounterId, Counters, PlainRules, SavedCounter, SavedIpWindow, SubjectId, Time,
};
#[cfg(feature = "redis")]
use crate::counter::{CounterMut, Rule};
#[cfg(feature = "redis")]
use crate::limit::Balance;
use crate::limit::Period;
use crate::net::IpKey;
use crate::store::StoreError;
use crate::sys::sync::Mutex;
use crate::sys::{Deadline, MaybeReady};
use crate::time::{Clock, Moment, TimeZone};

/// A limiter for one process. Exact, as each decision is made under the locks of its counters.
pub(crate) struct MemoryLimiter {
    clock: Clock,
    /// The time zone of days and months.
    zone: TimeZone,
    sets: SetTable,
    changed: Mutex<Vec<Arc<CounterSet>>>,
    addresses: AddressTable,
}

impl MemoryLimiter {
    /// A limiter for at most `capacity` keys and organizations at a time, and some `addresses`.
    pub(crate) fn new(clock: Clock, zone: TimeZone, capacity: usize, addresses: usize) -> Self {
        Self {
            clock,
            zone,
            sets: SetTable::new(capacity),
            changed: Mutex::default(),
            addresses: AddressTable::new(addresses),
        }
    }

    /// Reads the clock. Called under the lock of the counters that use the time, so that it never
    /// runs backwards for them.
    #[inline]
    fn time(&self) -> Time<'_> {
        Time {
            now: self.clock.now(),
            clock: &self.clock,
            zone: &self.zone,
        }
    }
}

impl Limiter for MemoryLimiter {
    fn attach(
        &self,
        id: SubjectId,
        seed: &mut dyn FnMut() -> Result<Vec<SavedCounter>, StoreError>,
    ) -> Result<Arc<CounterSet>, AttachError> {
        let restore = || Ok(Counters::restored(seed()?, self.time()));
        self.sets.attach(id, &self.clock, restore)
    }

    #[inline(always)]
    fn admit<'a>(&'a self, demand: Demand<'a>, _: &'a Deadline) -> MaybeReady<'a, Admission> {
        MaybeReady::Now(self.admit_now(demand))
    }

    #[inline(always)]
    fn admit_plain(
        &self,
        sets: CounterSets<'_>,
        rules: &PlainRules,
        cost: NonZeroU32,
    ) -> Option<Admission> {
        match (rules.all(), sets.org) {
            ([], _) => return None,
            ([rule], None) => {
                let mut counters = sets.key.lock();
                if let Some(window) = counters.only_window(*rule) {
                    let now = self.clock.now();
                    return Some(decision::admit_by_window(window, *rule, cost, now));
                }
            }
            _ => {}
        }
        self.admit_by_windows(sets, rules, cost)
    }

    fn states(&self, demand: Demand<'_>) -> Vec<(LimitState, Moment)> {
        match demand.subjects {
            Subjects::Key(sets) => {
                let locked = self.lock(sets);
                decision::states(locked, demand.rules, demand.cost, self.time())
            }
            Subjects::Address(ip_key) => {
                let (locked, time) = self.lock_address(ip_key, demand);
                decision::states(locked, demand.rules, demand.cost, time)
            }
        }
    }

    fn has_room(&self, demand: Demand<'_>) -> bool {
        let Subjects::Address(ip_key) = demand.subjects else {
            return true;
        };
        let (mut locked, _) = self.lock_address(ip_key, demand);
        locked.has_room(demand.rules, &mut None, |rule| rule.limit.shadow)
    }

    fn settle(&self, demand: Demand<'_>, at: Moment, receipt: &Receipt, actual: u64) {
        let Subjects::Key(sets) = demand.subjects else {
            return;
        };
        let reserved = demand.cost.get();
        let mut locked = self.lock(sets);
        let time = self.time();
        for (index, rule) in indexed(demand.rules) {
            if is_skipped(receipt, index) {
                continue;
            }
            // After a reset, hits of that time may be those of other requests.
            let is_reset = self.sets.last_reset(sets.of(rule)) >= at;
            let actual = match is_reset {
                true => actual.max(reserved.into()),
                false => actual,
            };
            let mut counter = locked.counter(rule);
            if counter.settle(time, rule, at, reserved, actual) {
                locked.note_changed(rule);
            }
        }
    }

    fn release(&self, demand: Demand<'_>, receipt: &Receipt) {
        let Subjects::Key(sets) = demand.subjects else {
            return;
        };
        let mut locked = self.lock(sets);
        for (index, rule) in indexed(demand.rules) {
            if rule.limit.period == Period::Concurrent && !is_skipped(receipt, index) {
                locked.counter(rule).release();
            }
        }
    }

    fn reset(&self, demand: Demand<'_>) -> Result<(), StoreError> {
        let sets = match demand.subjects {
            Subjects::Key(sets) => sets,
            Subjects::Address(ip_key) => {
                self.addresses.remove(ip_key);
                return Ok(());
            }
        };
        let mut locked = self.lock(sets);
        let now = self.clock.now();
        for (_, rule) in indexed(demand.rules) {
            self.sets.note_reset(sets.of(rule), now);
            if locked.counter(rule).reset() {
                locked.note_changed(rule);
            }
        }
        Ok(())
    }

    fn take_changed(&self) -> Vec<Arc<CounterSet>> {
        std::mem::take(&mut *self.changed.lock())
    }

    fn return_changed(&self, sets: Vec<Arc<CounterSet>>) {
        for set in sets {
            if set.return_balances() {
                self.changed.lock().push(set);
            }
        }
    }

    fn windows(&self, part: usize) -> Option<SavedWindows> {
        let sets = self.sets.windows(part, || self.time())?;
        let ip_windows = self.addresses.windows(part, SHARDS, &self.clock);
        Some(SavedWindows { sets, ip_windows })
    }

    fn used(&self, id: SubjectId, each: &mut dyn FnMut(&CounterId, u64)) {
        if let Some(set) = self.sets.find(id) {
            set.lock().used(self.time(), each);
        }
    }

    fn restore(&self, saved: Vec<SavedIpWindow>) {
        self.addresses.restore(saved, &self.clock);
    }

    fn sweep(&self) {
        let part = self.sets.sweep(&self.clock);
        self.addresses.sweep(part, SHARDS, &self.clock);
    }
}

impl MemoryLimiter {
    /// [`Limiter::admit`], which never waits here.
    #[inline(always)]
    pub(super) fn admit_now(&self, demand: Demand<'_>) -> Admission {
        match demand.subjects {
            Subjects::Key(sets) => self.admit_key(sets, demand),
            Subjects::Address(ip_key) => self.admit_address(ip_key, demand),
        }
    }

    #[inline(never)]
    fn admit_key(&self, sets: CounterSets<'_>, demand: Demand<'_>) -> Admission {
        let locked = self.lock(sets);
        decision::admit(locked, demand.rules, demand.cost, self.time())
    }

    #[inline(never)]
    fn admit_by_windows(
        &self,
        sets: CounterSets<'_>,
        rules: &PlainRules,
        cost: NonZeroU32,
    ) -> Option<Admission> {
        let mut locked = self.lock(sets);
        let now = self.clock.now();
        let windows = locked.windows_of(rules)?;
        Some(decision::admit_by_windows(windows, cost, now))
    }

    /// A function of its own, to keep the stack frame for keys small.
    #[inline(never)]
    fn admit_address(&self, ip_key: IpKey, demand: Demand<'_>) -> Admission {
        let (locked, time) = self.lock_address(ip_key, demand);
        decision::admit(locked, demand.rules, demand.cost, time)
    }

    #[inline(always)]
    fn lock<'a>(&'a self, sets: CounterSets<'a>) -> LockedSets<'a> {
        LockedSets::lock(sets, &self.changed)
    }

    fn lock_address(&self, ip_key: IpKey, demand: Demand<'_>) -> (LockedAddress<'_>, Time<'_>) {
        let time = || self.time();
        self.addresses.lock(ip_key, demand.rules, demand.cost, time)
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
        let mut locked = self.lock(sets);
        let balance = |(_, rule): (usize, &Rule)| match locked.counter(rule) {
            CounterMut::Balance(balance, _) => *balance,
            _ => Balance::default(),
        };
        indexed(demand.rules).map(balance).collect()
    }

    /// Counts a request that another server admitted, so that this process knows the counts when
    /// that server is unavailable. Takes over its `balances`, which are to be stored.
    pub(super) fn record_admitted(
        &self,
        demand: Demand<'_>,
        receipt: &Receipt,
        balances: impl Fn(usize) -> Balance,
    ) {
        let Demand { rules, cost, .. } = demand;
        match demand.subjects {
            Subjects::Key(sets) => {
                let locked = self.lock(sets);
                decision::record_admitted(locked, rules, cost, self.time(), receipt, balances);
            }
            Subjects::Address(ip_key) => {
                let (locked, time) = self.lock_address(ip_key, demand);
                decision::record_admitted(locked, rules, cost, time, receipt, balances);
            }
        }
    }
}
