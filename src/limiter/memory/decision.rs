//! The decision over locked counters, the same for all subjects.

use std::num::NonZeroU32;

use super::super::{
    Admission, LimitState, Receipt, Rules, indexed, is_skipped, mark_skipped, rule_at, slowest,
};
use crate::counter::{CounterMut, PlainRule, Rule, Time};
#[cfg(feature = "redis")]
use crate::limit::Balance;
use crate::limit::{Period, SlidingLog};
use crate::time::Moment;

/// The counters of one decision, under their locks.
pub(super) trait LockedCounters {
    /// Returns the counter of a rule; an empty substitute if it is absent.
    fn counter(&mut self, rule: &Rule) -> CounterMut<'_>;

    /// Whether several subjects share the counter of a rule.
    fn is_shared(&mut self, rule: &Rule) -> bool;

    /// Creates absent counters. Adds the rules that `may_skip` selects to the receipt if there is no
    /// room for their counters. Returns false, and creates none, if there is no room for the others.
    fn create(
        &mut self,
        rules: Rules<'_>,
        receipt: &mut Receipt,
        may_skip: fn(&Rule) -> bool,
    ) -> bool;

    /// Notes that the balance of a rule is to be stored.
    fn note_changed(&mut self, rule: &Rule);
}

/// See [`Limiter::admit`](super::Limiter::admit).
#[inline(always)]
pub(super) fn admit(
    mut counters: impl LockedCounters,
    rules: Rules<'_>,
    cost: NonZeroU32,
    time: Time<'_>,
) -> Admission {
    let mut receipt = Receipt::None;
    let mut refusing = None;
    for (index, rule) in indexed(rules) {
        let takes = rule.limit.period.takes(cost);
        let mut counter = counters.counter(rule);
        let is_first_change = counter.refresh(time, rule);
        let remaining = counter.remaining(time, rule);
        if remaining < takes.get().into() {
            if rule.limit.shadow {
                mark_skipped(&mut receipt, index);
            } else {
                let state = LimitState {
                    rule: index,
                    at: time.now,
                    remaining,
                    resets_at: counter.resets_at(time, rule),
                };
                let retry_at = counter.retry_at(time, rule, takes);
                refusing = slowest(refusing.into_iter().chain([(state, retry_at)]));
            }
        }
        if is_first_change {
            counters.note_changed(rule);
        }
    }
    if let Some((state, retry_at)) = refusing {
        let rule = rule_at(rules, state.rule);
        return match rule.is_some_and(|rule| counters.is_shared(rule)) {
            true => Admission::RefusedShared(state, retry_at),
            false => Admission::Refused(state, retry_at),
        };
    }
    if !counters.create(rules, &mut receipt, |rule| rule.limit.shadow) {
        return Admission::Full;
    }
    let mut tightest = LimitState::unlimited(time.now);
    for (index, rule) in indexed(rules) {
        if is_skipped(&receipt, index) {
            continue;
        }
        let mut counter = counters.counter(rule);
        let is_first_change = counter.consume(time, rule, rule.limit.period.takes(cost));
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
        if is_first_change {
            counters.note_changed(rule);
        }
    }
    Admission::Admitted(tightest, receipt)
}

/// [`admit`] by one plain rule, as for most keys.
#[inline(always)]
pub(super) fn admit_by_window(
    window: &mut SlidingLog,
    rule: PlainRule,
    cost: NonZeroU32,
    now: Moment,
) -> Admission {
    let amount = rule.amount;
    let used = u64::from(window.used_at(now));
    let used_after = used + u64::from(cost.get());
    let is_admitted = used_after <= amount;
    if is_admitted {
        window.consume(now, cost);
    }
    let state = LimitState {
        rule: 0,
        at: now,
        remaining: amount.saturating_sub(if is_admitted { used_after } else { used }),
        resets_at: window.oldest_leaves_at(now),
    };
    match is_admitted {
        true => Admission::Admitted(state, None),
        false => Admission::Refused(state, window.retry_at(now, amount, cost)),
    }
}

/// The windows of a subject, and the rule of each.
pub(super) struct Windows<'a> {
    pub(super) windows: &'a mut [SlidingLog],
    pub(super) rules: &'a [PlainRule],
}

/// [`admit`] by plain rules.
#[inline(always)]
pub(super) fn admit_by_windows(
    mut subjects: [Windows<'_>; 2],
    cost: NonZeroU32,
    now: Moment,
) -> Admission {
    let mut refusing = None;
    let mut index = 0;
    for Windows { windows, rules } in &mut subjects {
        for (window, rule) in windows.iter_mut().zip(*rules) {
            let used = u64::from(window.used_at(now));
            if used + u64::from(cost.get()) > rule.amount {
                let state = LimitState {
                    rule: index,
                    at: now,
                    remaining: rule.amount.saturating_sub(used),
                    resets_at: window.oldest_leaves_at(now),
                };
                let retry_at = window.retry_at(now, rule.amount, cost);
                refusing = slowest(refusing.into_iter().chain([(state, retry_at)]));
            }
            index += 1;
        }
    }
    if let Some((state, retry_at)) = refusing {
        return Admission::Refused(state, retry_at);
    }
    let mut tightest = LimitState::unlimited(now);
    let mut index = 0;
    for Windows { windows, rules } in &mut subjects {
        for (window, rule) in windows.iter_mut().zip(*rules) {
            window.consume(now, cost);
            let remaining = rule.amount - u64::from(window.used());
            if remaining < tightest.remaining {
                tightest = LimitState {
                    rule: index,
                    at: now,
                    remaining,
                    resets_at: window.oldest_leaves_at(now),
                };
            }
            index += 1;
        }
    }
    Admission::Admitted(tightest, None)
}

/// See [`Limiter::states`](super::Limiter::states).
pub(super) fn states(
    mut counters: impl LockedCounters,
    rules: Rules<'_>,
    cost: NonZeroU32,
    time: Time<'_>,
) -> Vec<(LimitState, Moment)> {
    let state = |(index, rule): (usize, &Rule)| {
        let takes = rule.limit.period.takes(cost);
        let mut counter = counters.counter(rule);
        let is_first_change = counter.refresh(time, rule);
        let remaining = counter.remaining(time, rule);
        let retry_at = match remaining >= takes.get().into() {
            true => time.now,
            false => counter.retry_at(time, rule, takes),
        };
        let state = LimitState {
            rule: index,
            at: time.now,
            remaining,
            resets_at: counter.resets_at(time, rule),
        };
        if is_first_change {
            counters.note_changed(rule);
        }
        (state, retry_at)
    };
    indexed(rules).map(state).collect()
}

/// Counts a request that another server admitted, and takes over its balances.
#[cfg(feature = "redis")]
pub(super) fn record_admitted(
    mut counters: impl LockedCounters,
    rules: Rules<'_>,
    cost: NonZeroU32,
    time: Time<'_>,
    receipt: &Receipt,
    balances: impl Fn(usize) -> Balance,
) {
    let mut receipt = receipt.clone();
    counters.create(rules, &mut receipt, |_| true);
    for (index, rule) in indexed(rules) {
        let mut counter = counters.counter(rule);
        if let CounterMut::Balance(balance, changed) = counter {
            *balance = balances(index);
            if !std::mem::replace(changed, true) {
                counters.note_changed(rule);
            }
        } else if !is_skipped(&receipt, index) {
            counter.charge(time, rule.limit.period.takes(cost));
        }
    }
}
