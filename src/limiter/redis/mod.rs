//! Counters in Redis, which several processes share.
//!
//! Each decision is one run of a script, which reads and changes all counters of a group at once, by
//! the clock of the server. While Redis cannot be asked, a [`Fallback`] decides.

mod call;
mod link;
mod names;
mod server;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use self::call::{Action, Answer, Calendar, Call, Counter, CounterReply, signed};
use self::link::{Failed, Hearing, Link, unusable};
use self::names::{Names, counter_name, group_of, hex, index_name};
use self::server::Servers;
use super::exhausted::{Exhausted, Refusal, Wish};
use super::{
    Admission, AttachError, CounterSet, Demand, Fallback, LimitState, Limiter, LimiterStatus,
    MemoryLimiter, Receipt, Remarks, Rules, SavedWindows, Subjects, deny_in_shadow, indexed,
    is_shadow_denied, rule_at, slowest,
};
use crate::counter::{Counts, Rule, SavedCounter, SavedIpCounters, SubjectId};
use crate::limit::Period;
use crate::model::BackendHealth;
use crate::model::Secret;
use crate::store::{OpenError, StoreError};
use crate::sys::{Deadline, MaybeReady, block_on};
use crate::time::TimeZone;
use crate::time::{Clock, Moment};

pub(crate) struct RedisLimiter {
    link: Link,
    names: Names,
    clock: Clock,
    zone: TimeZone,
    fallback: Fallback,
    /// What is known of groups here: their balances, and all counters while Redis cannot be asked.
    local: MemoryLimiter,
    exhausted: Arc<Exhausted>,
    fallen_back: AtomicU64,
}

/// The largest number that the script is told.
const MOST: i64 = 1 << 53;

impl RedisLimiter {
    pub(crate) fn open(
        url: &str,
        secret: &Secret,
        deadline: Duration,
        fallback: Fallback,
        local: MemoryLimiter,
    ) -> Result<Self, OpenError> {
        let servers = Servers::at(url).map_err(|error| unusable(error.to_string()))?;
        let mut node = [0; 8];
        getrandom::fill(&mut node).map_err(|error| unusable(error.to_string()))?;
        let names = Names::new(secret);
        let exhausted = Arc::<Exhausted>::default();
        let hearing = Hearing {
            channel: names.channel(),
            exhausted: Arc::clone(&exhausted),
        };
        let link = Link::open(servers, hex(&node), deadline, hearing)?;
        Ok(Self {
            link,
            names,
            clock: local.clock().clone(),
            zone: local.zone().clone(),
            fallback,
            local,
            exhausted,
            fallen_back: AtomicU64::new(0),
        })
    }

    /// Has the clock follow the calendar of Redis.
    pub(crate) fn lead_clock(&self) {
        self.link.lead(&self.clock);
        let asked = self.clock.now();
        if let Ok(answer) = self.ask_now(Action::Look, 0, Vec::new()) {
            answer.lead(&self.clock, asked);
        }
    }

    fn call(&self, action: Action, cost: i64, counters: Vec<Counter>) -> Call {
        Call {
            action,
            now: self.clock.manual_micros(),
            cost,
            admitted_at: 0,
            counters,
        }
    }

    /// Returns the counters of a demand, with their balances as far as this process knows them. For
    /// an address the index of its counters comes last.
    fn counters(&self, demand: Demand<'_>, admitted_at: Moment) -> Vec<Counter> {
        let Demand {
            subjects, rules, ..
        } = demand;
        let calendar = Calendar {
            now: self.clock.timestamp(),
            admitted_at: self.clock.timestamp_at(admitted_at),
            zone: &self.zone,
        };
        let group = self.names.group(subjects);
        let has_balances = indexed(rules).any(|(_, rule)| has_balance(rule));
        let balances = has_balances.then(|| self.local.balances(demand));
        let counter = |(index, rule): (usize, &Rule)| {
            let balance = balances.as_ref().map(|balances| balances[index]);
            let key = counter_name(&group, subjects, rule);
            Counter::new(key, rule.limit, balance.unwrap_or_default(), calendar)
        };
        let mut counters: Vec<_> = indexed(rules).map(counter).collect();
        if let Subjects::Address(_) = subjects {
            counters.push(Counter::index(index_name(&group), &counters));
        }
        counters
    }

    /// Returns the identity under which a refusal of a demand is cached; `None` if it is not:
    /// nothing is cached while announcements of room are not received, nor are failed
    /// authentications, as a lock must not result from what was before an unlock.
    fn wish(&self, demand: Demand<'_>, counters: &[Counter]) -> Option<Wish> {
        let is_strike = |rule: &Rule| matches!(rule.counts, Counts::Strikes(_));
        if !self.link.hears() || indexed(demand.rules).any(|(_, rule)| is_strike(rule)) {
            return None;
        }
        let group = group_of(&counters.first()?.key);
        let keys = counters.iter().map(|counter| &*counter.key);
        let limits = indexed(demand.rules).map(|(_, rule)| rule.limit);
        Some(self.exhausted.wish(demand.cost, group, keys.zip(limits)))
    }

    /// Returns a cached refusal.
    fn known_refusal(&self, demand: Demand<'_>, wish: Wish) -> Option<Admission> {
        let (state, retry_at) = self.exhausted.find(wish, self.clock.now())?;
        let rule = rule_at(demand.rules, state.rule)?;
        (!rule.limit.shadow).then_some(Admission::Refused(state, retry_at))
    }

    /// Evaluates an answer, and updates what this process knows of the counters.
    fn conclude(&self, demand: Demand<'_>, answer: &Answer, wish: Option<Wish>) -> Admission {
        let admission = admission(answer, demand.rules, self.clock.now());
        match &admission {
            Admission::Admitted(_, receipt) => {
                let balance = |index: usize| answer.standings[index].balance;
                self.local.record_admitted(demand, receipt, balance);
            }
            Admission::Refused(state, retry_at) => {
                if let (Some(wish), Some(rule)) = (wish, rule_at(demand.rules, state.rule)) {
                    self.exhausted.note(Refusal {
                        wish,
                        rule: state.rule,
                        limit: rule.limit,
                        level: *state,
                        retry_at: *retry_at,
                        others_have: room_of_others(answer, demand.rules, state.rule),
                    });
                }
            }
            Admission::RefusedShared(..) | Admission::Undecided => {}
        }
        admission
    }

    /// For who can wait.
    fn ask_now(&self, action: Action, cost: i64, counters: Vec<Counter>) -> Result<Answer, Failed> {
        let call = self.call(action, cost, counters);
        block_on(self.link.ask(call, &Deadline::default())?.answer())
    }

    /// For an administrator, who waits longer and is told if it was in vain.
    fn ask_patiently(&self, action: Action, counters: Vec<Counter>) -> Result<(), StoreError> {
        let asked = self.link.ask_patiently(self.call(action, 0, counters));
        match asked.and_then(|asked| block_on(asked.answer())) {
            Ok(_) => Ok(()),
            Err(Failed) => Err(StoreError::Unavailable(
                "Redis does not answer: what it has counted may still count; try again".into(),
            )),
        }
    }

    /// Decides without Redis.
    fn fall_back(&self, demand: Demand<'_>) -> Admission {
        self.fallen_back.fetch_add(1, Ordering::Relaxed);
        match self.fallback {
            Fallback::Local => self.local.take(demand),
            Fallback::Allow => {
                let remarks = Remarks {
                    is_uncounted: true,
                    ..Remarks::default()
                };
                let state = LimitState::unlimited(self.clock.now());
                Admission::Admitted(state, Some(Box::new(remarks)))
            }
            Fallback::Deny => Admission::Undecided,
        }
    }

    fn remote_states(&self, demand: Demand<'_>) -> Result<Vec<(LimitState, Moment)>, Failed> {
        let counters = self.counters(demand, self.clock.now());
        let answer = self.ask_now(Action::Look, signed(demand.cost), counters)?;
        let now = self.clock.now();
        let states = indexed(demand.rules).map(|(index, _)| {
            let reply = answer.standings.get(index).ok_or(Failed)?;
            Ok((state(index, reply, now), after(now, reply.room_in)))
        });
        states.collect()
    }

    fn forget_exhausted(&self, counters: &[Counter]) {
        if let Some(counter) = counters.first() {
            self.exhausted.forget(group_of(&counter.key));
        }
    }
}

/// Evaluates the answer to [`Action::Admit`].
fn admission(answer: &Answer, rules: Rules<'_>, now: Moment) -> Admission {
    let replies = indexed(rules).zip(&answer.standings);
    if !answer.is_admitted {
        let refusing = replies
            .filter(|((_, rule), reply)| !rule.limit.shadow && !reply.has_room())
            .map(|((index, _), reply)| (state(index, reply, now), after(now, reply.room_in)));
        return match slowest(refusing) {
            Some((state, retry_at)) => Admission::Refused(state, retry_at),
            None => Admission::Undecided,
        };
    }
    let mut tightest = LimitState::unlimited(now);
    let mut receipt = Some(Box::new(Remarks {
        remote_at: Some(answer.at),
        ..Remarks::default()
    }));
    for ((index, rule), reply) in replies {
        if !reply.has_room() {
            deny_in_shadow(&mut receipt, index);
        } else if !rule.limit.shadow
            && rule.limit.period != Period::Concurrent
            && reply.remaining < tightest.remaining
        {
            tightest = state(index, reply, now);
        }
    }
    Admission::Admitted(tightest, receipt)
}

/// Returns how much all enforced rules but one have room for.
fn room_of_others(answer: &Answer, rules: Rules<'_>, but: usize) -> u64 {
    let all = indexed(rules).zip(&answer.standings);
    let others = all.filter(|((index, rule), _)| *index != but && !rule.limit.shadow);
    let room = others.map(|((_, rule), reply)| match rule.limit.period {
        // A request takes one slot, whatever it costs.
        Period::Concurrent if reply.remaining > 0 => u64::MAX,
        _ => reply.remaining,
    });
    room.min().unwrap_or(u64::MAX)
}

fn state(index: usize, reply: &CounterReply, now: Moment) -> LimitState {
    LimitState {
        rule: index,
        at: now,
        remaining: reply.remaining,
        resets_at: after(now, reply.grows_in),
    }
}

fn after(now: Moment, micros: Option<u64>) -> Moment {
    micros.map_or(Moment::NEVER, |micros| {
        now.plus(Duration::from_micros(micros))
    })
}

fn is_uncounted(receipt: &Receipt) -> bool {
    receipt.as_ref().is_some_and(|remarks| remarks.is_uncounted)
}

/// When Redis has admitted a request, by its clock.
fn remote_at(receipt: &Receipt) -> Option<u64> {
    receipt.as_ref().and_then(|remarks| remarks.remote_at)
}

fn has_balance(rule: &Rule) -> bool {
    matches!(
        rule.limit.period,
        Period::Day | Period::Month | Period::Credits(_)
    )
}

impl Limiter for RedisLimiter {
    fn attach(
        &self,
        id: SubjectId,
        seed: &mut dyn FnMut() -> Result<Vec<SavedCounter>, StoreError>,
    ) -> Result<Arc<CounterSet>, AttachError> {
        self.local.attach(id, seed)
    }

    fn admit<'a>(
        &'a self,
        demand: Demand<'a>,
        deadline: &'a Deadline,
    ) -> MaybeReady<'a, Admission> {
        let counters = self.counters(demand, self.clock.now());
        let wish = self.wish(demand, &counters);
        if let Some(refusal) = wish.and_then(|wish| self.known_refusal(demand, wish)) {
            return MaybeReady::Now(refusal);
        }
        let call = self.call(Action::Admit, signed(demand.cost), counters);
        let Ok(asked) = self.link.ask(call, deadline) else {
            return MaybeReady::Now(self.fall_back(demand));
        };
        MaybeReady::later(async move {
            match asked.answer().await {
                Ok(answer) if answer.standings.len() >= indexed(demand.rules).count() => {
                    self.conclude(demand, &answer, wish)
                }
                _ => self.fall_back(demand),
            }
        })
    }

    fn states(&self, demand: Demand<'_>) -> Vec<(LimitState, Moment)> {
        let states = self.remote_states(demand);
        states.unwrap_or_else(|Failed| self.local.states(demand))
    }

    fn settle(&self, demand: Demand<'_>, at: Moment, receipt: &Receipt, actual: u64) {
        if is_uncounted(receipt) {
            return;
        }
        self.local.settle(demand, at, receipt, actual);
        let Some(admitted_at) = remote_at(receipt) else {
            return;
        };
        let counters = self.counters(demand, at).into_iter().enumerate();
        let counters: Vec<_> = counters
            .filter(|(index, _)| !is_shadow_denied(receipt, *index))
            .map(|(_, counter)| counter)
            .collect();
        let more = i64::try_from(actual).unwrap_or(i64::MAX) - signed(demand.cost);
        // What takes more may make another limit refuse for longer.
        if more != 0 {
            self.forget_exhausted(&counters);
        }
        // More than the script can count exactly counts as no more than that.
        let more = more.min(MOST);
        let call = Call {
            admitted_at,
            ..self.call(Action::Settle, more, counters)
        };
        // Balances are known again from the next answer.
        self.link.tell(call);
    }

    fn release(&self, demand: Demand<'_>, receipt: &Receipt) {
        if is_uncounted(receipt) {
            return;
        }
        self.local.release(demand, receipt);
        if remote_at(receipt).is_none() {
            return;
        }
        let group = self.names.group(demand.subjects);
        let taken = indexed(demand.rules).filter(|(index, rule)| {
            rule.limit.period == Period::Concurrent && !is_shadow_denied(receipt, *index)
        });
        let counters =
            taken.map(|(_, rule)| Counter::slots(counter_name(&group, demand.subjects, rule)));
        self.link
            .tell(self.call(Action::Release, 0, counters.collect()));
    }

    fn reset(&self, demand: Demand<'_>) -> Result<(), StoreError> {
        let (action, counters) = match demand.subjects {
            Subjects::Key(_) => (Action::Reset, self.counters(demand, self.clock.now())),
            Subjects::Address(_) => {
                let group = self.names.group(demand.subjects);
                (
                    Action::Forget,
                    vec![Counter::index(index_name(&group), &[])],
                )
            }
        };
        self.forget_exhausted(&counters);
        self.local.reset(demand)?;
        let answer = self.ask_patiently(action, counters.clone());
        // Nor what was refused meanwhile.
        self.forget_exhausted(&counters);
        answer
    }

    fn take_changed(&self) -> Vec<Arc<CounterSet>> {
        self.local.take_changed()
    }

    fn return_changed(&self, groups: Vec<Arc<CounterSet>>) {
        self.local.return_changed(groups);
    }

    /// Windows stay in Redis.
    fn windows(&self, _: usize) -> Option<SavedWindows> {
        None
    }

    fn restore(&self, _: Vec<SavedIpCounters>) {}

    fn sweep(&self) {
        self.local.sweep();
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn status(&self) -> LimiterStatus {
        let (trouble, evicting) = (self.link.trouble(), self.link.evicting_warning());
        let fallbacks = self.fallen_back.load(Ordering::Relaxed);
        let failures = self.link.failed();
        let mut warnings = Vec::new();
        if let Some(trouble) = &trouble {
            let meanwhile = match self.fallback {
                Fallback::Local => "this process enforces limits by itself meanwhile",
                Fallback::Deny => "requests that it would decide are refused meanwhile",
                Fallback::Allow => "limits are not enforced meanwhile",
            };
            warnings.push(format!("Redis cannot be asked: {trouble}; {meanwhile}"));
        }
        if let Some(evicting) = &evicting {
            warnings.push(format!("Redis may lose limits: {evicting}"));
        }
        if fallbacks > 0 {
            warnings.push(format!(
                "{fallbacks} decisions were made without Redis ({failures} calls failed or came late)"
            ));
        }
        let problem = trouble.map(|trouble| trouble.to_string()).or(evicting);
        let health = BackendHealth {
            server: "redis",
            is_up: problem.is_none(),
            problem,
            failures,
            fallbacks,
        };
        LimiterStatus {
            health: Some(health),
            warnings,
        }
    }
}
