//! Counters in the memory of this process.

mod sets;
#[cfg(test)]
mod tests;

use std::num::NonZeroU32;
use std::sync::Arc;

use parking_lot::Mutex;
use smallvec::SmallVec;

pub(crate) use self::sets::CounterSet;
use self::sets::{LockedSets, SHARDS, SetTable};
use super::networks::IpCounters;
use super::{
    Admission, AttachError, CounterSets, Demand, IpRule, LimitState, Limiter, Receipt, Rules,
    SavedWindows, Subjects, deny_in_shadow, indexed, is_shadow_denied, slowest,
};
#[cfg(feature = "redis")]
use crate::counter::CounterMut;
use crate::counter::{Counters, Rule, SavedCounter, SavedIpCounters, SubjectId, Time};
#[cfg(feature = "redis")]
use crate::limit::Balance;
use crate::limit::Period;
use crate::store::StoreError;
use crate::sys::{Deadline, MaybeReady};
use crate::time::TimeZone;
use crate::time::{Clock, Moment};

/// A limiter for one process. Exact, as each decision is made under the locks of its counters.
pub(crate) struct MemoryLimiter {
    clock: Clock,
    /// The time zone of days and months.
    zone: TimeZone,
    sets: SetTable,
    changed: Mutex<Vec<Arc<CounterSet>>>,
    networks: IpCounters,
}

impl MemoryLimiter {
    /// A limiter for at most `capacity` keys and organizations at a time, and some `addresses`.
    pub(crate) fn new(clock: Clock, zone: TimeZone, capacity: usize, addresses: usize) -> Self {
        Self {
            clock,
            zone,
            sets: SetTable::new(capacity),
            changed: Mutex::default(),
            networks: IpCounters::new(addresses),
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

    #[inline]
    fn admit<'a>(&'a self, demand: Demand<'a>, _: &'a Deadline) -> MaybeReady<'a, Admission> {
        MaybeReady::Now(self.take(demand))
    }

    fn states(&self, demand: Demand<'_>) -> Vec<(LimitState, Moment)> {
        let Demand {
            subjects,
            rules,
            cost,
        } = demand;
        let sets = match subjects {
            Subjects::Key(sets) => sets,
            Subjects::Address(address) => {
                return self
                    .networks
                    .levels(address, &ip_rules(rules), cost, &self.clock);
            }
        };
        let mut locked = LockedSets::lock(sets);
        let time = self.time();
        let of = |(index, rule): (usize, &Rule)| {
            let takes = rule.limit.period.takes(cost);
            let mut counter = locked.counter(rule);
            let remaining = counter.remaining(time, rule);
            let retry_at = if remaining >= takes.get().into() {
                time.now
            } else {
                counter.retry_at(time, rule, takes)
            };
            let state = LimitState {
                rule: index,
                at: time.now,
                remaining,
                resets_at: counter.resets_at(time, rule),
            };
            (state, retry_at)
        };
        indexed(rules).map(of).collect()
    }

    fn has_room(&self, demand: Demand<'_>) -> bool {
        match demand.subjects {
            Subjects::Key(_) => true,
            Subjects::Address(address) => {
                let rules = ip_rules(demand.rules);
                self.networks
                    .has_room(address, &rules, demand.cost, &self.clock)
            }
        }
    }

    fn settle(&self, demand: Demand<'_>, at: Moment, receipt: &Receipt, actual: u64) {
        let Subjects::Key(sets) = demand.subjects else {
            return;
        };
        let reserved = demand.cost.get();
        let mut locked = LockedSets::lock(sets);
        let time = self.time();
        for (index, rule) in indexed(demand.rules) {
            if is_shadow_denied(receipt, index) {
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
                self.note_changed(sets, rule);
            }
        }
    }

    fn release(&self, demand: Demand<'_>, receipt: &Receipt) {
        let Subjects::Key(sets) = demand.subjects else {
            return;
        };
        let mut locked = LockedSets::lock(sets);
        for (index, rule) in indexed(demand.rules) {
            if rule.limit.period == Period::Concurrent && !is_shadow_denied(receipt, index) {
                locked.counter(rule).release();
            }
        }
    }

    fn reset(&self, demand: Demand<'_>) -> Result<(), StoreError> {
        let sets = match demand.subjects {
            Subjects::Key(sets) => sets,
            Subjects::Address(address) => {
                self.networks.forget(address);
                return Ok(());
            }
        };
        let mut locked = LockedSets::lock(sets);
        let now = self.clock.now();
        for (_, rule) in indexed(demand.rules) {
            self.sets.note_reset(sets.of(rule), now);
            if locked.counter(rule).reset() {
                self.note_changed(sets, rule);
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
        let addresses = match part {
            0 => self.networks.windows(&self.clock),
            _ => Vec::new(),
        };
        Some(SavedWindows { sets, addresses })
    }

    fn restore(&self, saved: Vec<SavedIpCounters>) {
        self.networks.restore(saved, &self.clock);
    }

    fn sweep(&self) {
        let shard = self.sets.sweep(&self.clock);
        self.networks.sweep(shard, SHARDS, &self.clock);
    }
}

impl MemoryLimiter {
    /// [`Limiter::admit`], which never waits here.
    #[inline]
    pub(super) fn take(&self, demand: Demand<'_>) -> Admission {
        let Demand { rules, cost, .. } = demand;
        match demand.subjects {
            Subjects::Key(sets) => self.take_from(sets, rules, cost),
            Subjects::Address(address) => {
                self.networks
                    .hit(address, &ip_rules(rules), cost, &self.clock)
            }
        }
    }

    #[inline(always)]
    fn take_from(&self, sets: CounterSets<'_>, rules: Rules<'_>, cost: NonZeroU32) -> Admission {
        let mut locked = LockedSets::lock(sets);
        let time = self.time();
        let mut receipt = Receipt::None;
        let refusing = indexed(rules).filter_map(|(index, rule)| {
            let takes = rule.limit.period.takes(cost);
            let mut counter = locked.counter(rule);
            let remaining = counter.remaining(time, rule);
            if remaining >= takes.get().into() {
                return None;
            }
            if rule.limit.shadow {
                deny_in_shadow(&mut receipt, index);
                return None;
            }
            let state = LimitState {
                rule: index,
                at: time.now,
                remaining,
                resets_at: counter.resets_at(time, rule),
            };
            Some((state, counter.retry_at(time, rule, takes)))
        });
        if let Some((state, retry_at)) = slowest(refusing) {
            return Admission::Refused(state, retry_at);
        }
        let mut tightest = LimitState::unlimited(time.now);
        locked.rewind();
        for (index, rule) in indexed(rules) {
            if !is_shadow_denied(&receipt, index) {
                let mut counter = locked.counter(rule);
                if counter.record(time, rule, rule.limit.period.takes(cost)) {
                    self.note_changed(sets, rule);
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

    #[cold]
    fn note_changed(&self, sets: CounterSets<'_>, rule: &Rule) {
        self.changed.lock().push(Arc::clone(sets.of(rule)));
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
        let mut locked = LockedSets::lock(sets);
        let balance = |(_, rule): (usize, &Rule)| match locked.counter(rule) {
            CounterMut::Balance(balance, _) => *balance,
            _ => Balance::default(),
        };
        indexed(demand.rules).map(balance).collect()
    }

    /// Counts a request that another server admitted, so that this process knows the counts when
    /// that server is unavailable. Takes over its `balances`, and marks them as changed.
    pub(super) fn record_admitted(
        &self,
        demand: Demand<'_>,
        receipt: &Receipt,
        balances: impl Fn(usize) -> Balance,
    ) {
        let Demand { rules, cost, .. } = demand;
        let sets = match demand.subjects {
            Subjects::Key(sets) => sets,
            Subjects::Address(address) => {
                return self
                    .networks
                    .record(address, &ip_rules(rules), cost, receipt, &self.clock);
            }
        };
        let mut locked = LockedSets::lock(sets);
        let time = self.time();
        for (index, rule) in indexed(rules) {
            let mut counter = locked.counter(rule);
            if let CounterMut::Balance(balance, changed) = counter {
                *balance = balances(index);
                if !std::mem::replace(changed, true) {
                    self.note_changed(sets, rule);
                }
            } else if !is_shadow_denied(receipt, index) {
                counter.remaining(time, rule);
                counter.record(time, rule, rule.limit.period.takes(cost));
            }
        }
    }
}

fn ip_rules<'a>(rules: Rules<'a>) -> SmallVec<[IpRule<'a>; 4]> {
    let rules = indexed(rules).map(|(_, rule)| IpRule {
        counts: &rule.counts,
        limit: rule.limit,
    });
    rules.collect()
}
