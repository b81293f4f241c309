//! Counters in Redis, which several processes share.
//!
//! Each decision is one run of a script, which reads and updates all counters of a group atomically,
//! by the clock of the server. While Redis is unavailable, a [`Fallback`] decides.

mod client;
mod exhausted;
#[cfg(all(fuzzing, feature = "_fuzz"))]
#[path = "../../../fuzz/entry/redis.rs"]
pub(super) mod fuzz;
mod names;
mod script;
mod server;
mod slots;
#[cfg(test)]
mod tests;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use self::client::{Announcements, Client, NoReply, unusable};
use self::exhausted::{DemandKey, ExhaustedLimit, ExhaustedLimits};
use self::names::{Names, counter_name, group_of, index_name};
use self::script::{Action, Calendar, CounterArgs, CounterReply, ScriptCall, ScriptReply, signed};
use self::server::Servers;
use super::{
    Admission, AttachError, CounterSet, Demand, Fallback, LimitState, Limiter, LimiterStatus,
    MemoryLimiter, Receipt, Remarks, Rules, SavedWindows, Subjects, indexed, is_skipped,
    mark_skipped, rule_at, slowest,
};
use crate::counter::{Events, Rule, SavedCounter, SavedIpWindow, SubjectId};
use crate::limit::Period;
use crate::model::{Area, BackendHealth, Condition, Secret};
use crate::store::{OpenError, StoreError};
use crate::sys::{Deadline, MaybeReady, block_on};
use crate::time::{Clock, Moment, TimeZone};

pub(crate) struct RedisLimiter {
    client: Client,
    names: Names,
    clock: Clock,
    zone: TimeZone,
    fallback: Fallback,
    /// The counters as this process knows them. They decide while Redis is unavailable.
    local: MemoryLimiter,
    exhausted: Arc<ExhaustedLimits>,
    fallbacks: AtomicU64,
}

impl RedisLimiter {
    pub(crate) fn open(
        url: &str,
        secret: &Secret,
        timeout: Duration,
        fallback: Fallback,
        local: MemoryLimiter,
    ) -> Result<Self, OpenError> {
        let servers = Servers::parse(url).map_err(|error| unusable(error.to_string()))?;
        let node = getrandom::u64().map_err(|error| unusable(error.to_string()))?;
        let names = Names::new(secret);
        let exhausted = Arc::<ExhaustedLimits>::default();
        let announcements = Announcements {
            channel: names.channel(),
            exhausted: Arc::clone(&exhausted),
        };
        let client = Client::open(servers, format!("{node:016x}"), timeout, announcements)?;
        Ok(Self {
            client,
            names,
            clock: local.clock().clone(),
            zone: local.zone().clone(),
            fallback,
            local,
            exhausted,
            fallbacks: AtomicU64::new(0),
        })
    }

    /// Makes the clock follow that of Redis.
    pub(crate) fn sync_clock(&self) {
        self.client.sync_clock(&self.clock);
        let called_at = self.clock.now();
        if let Ok(reply) = self.peek(0, Vec::new()) {
            reply.sync(&self.clock, called_at);
        }
    }

    fn call(&self, action: Action, cost: i64, counters: Vec<CounterArgs>) -> ScriptCall {
        ScriptCall {
            now: self.clock.manual_micros(),
            ..ScriptCall::new(action, cost, counters)
        }
    }

    fn peek(&self, cost: i64, counters: Vec<CounterArgs>) -> Result<ScriptReply, NoReply> {
        let call = self.call(Action::Peek, cost, counters);
        block_on(self.client.send(call, &Deadline::default())?.get())
    }

    /// Returns the counters of a demand, with their balances as this process knows them. The index
    /// of the counters of an address comes last.
    fn counters(&self, demand: Demand<'_>, admitted_at: Moment) -> Vec<CounterArgs> {
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
            CounterArgs::new(key, rule.limit, balance.unwrap_or_default(), calendar)
        };
        let mut counters: Vec<_> = indexed(rules).map(counter).collect();
        if let Subjects::Address(_) = subjects {
            counters.push(CounterArgs::index(index_name(&group), &counters));
        }
        counters
    }

    /// Returns the key of a demand in the cache of exhausted limits; `None` if it is not to be used:
    /// while announcements of room are not received, and for failed authentications, as what was
    /// counted before an unblock must not lead to the next lock.
    fn cache_key(&self, demand: Demand<'_>, counters: &[CounterArgs]) -> Option<DemandKey> {
        let is_of_failures = |rule: &Rule| matches!(rule.events, Events::AuthFailures(_));
        let mut rules = indexed(demand.rules);
        if !self.client.is_subscribed() || rules.any(|(_, rule)| is_of_failures(rule)) {
            return None;
        }
        let group = group_of(&counters.first()?.key);
        let keys = counters.iter().map(|counter| &*counter.key);
        let limits = indexed(demand.rules).map(|(_, rule)| rule.limit);
        Some(self.exhausted.key(demand.cost, group, keys.zip(limits)))
    }

    fn cached_refusal(&self, demand: Demand<'_>, key: DemandKey) -> Option<Admission> {
        let (state, retry_at) = self.exhausted.get(key, self.clock.now())?;
        let rule = rule_at(demand.rules, state.rule)?;
        (!rule.limit.shadow).then_some(Admission::Refused(state, retry_at))
    }

    /// Decides by a reply, and updates the local counters and the cache. Without a reply for all rules,
    /// decides without Redis.
    fn conclude(
        &self,
        demand: Demand<'_>,
        reply: Result<ScriptReply, NoReply>,
        key: Option<DemandKey>,
    ) -> Admission {
        let rules = indexed(demand.rules).count();
        let Some(reply) = reply.ok().filter(|reply| reply.counters.len() >= rules) else {
            return self.fall_back(demand);
        };
        let admission = admission(&reply, demand.rules, self.clock.now());
        match &admission {
            Admission::Admitted(_, receipt) => {
                let balance = |index: usize| reply.counters[index].balance;
                self.local.record_admitted(demand, receipt, balance);
            }
            Admission::Refused(state, retry_at) => {
                if let (Some(key), Some(rule)) = (key, rule_at(demand.rules, state.rule)) {
                    self.exhausted.insert(ExhaustedLimit {
                        key,
                        limit: rule.limit,
                        state: *state,
                        retry_at: *retry_at,
                        others_have: room_of_others(&reply, demand.rules, state.rule),
                    });
                }
            }
            Admission::RefusedShared(..) | Admission::Full | Admission::Undecided => {}
        }
        admission
    }

    /// Decides without Redis.
    fn fall_back(&self, demand: Demand<'_>) -> Admission {
        self.fallbacks.fetch_add(1, Ordering::Relaxed);
        match self.fallback {
            Fallback::Local => self.local.admit_now(demand),
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

    fn remote_states(&self, demand: Demand<'_>) -> Result<Vec<(LimitState, Moment)>, NoReply> {
        let counters = self.counters(demand, self.clock.now());
        let reply = self.peek(signed(demand.cost), counters)?;
        let now = self.clock.now();
        let states = indexed(demand.rules).map(|(index, _)| {
            let counter = reply.counters.get(index).ok_or(NoReply)?;
            Ok((state(index, counter, now), after(now, counter.retry_in)))
        });
        states.collect()
    }

    /// Invalidates the cache for the group of these counters.
    fn invalidate(&self, counters: &[CounterArgs]) {
        if let Some(counter) = counters.first() {
            self.exhausted.invalidate(group_of(&counter.key));
        }
    }
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
        let key = self.cache_key(demand, &counters);
        if let Some(refusal) = key.and_then(|key| self.cached_refusal(demand, key)) {
            return MaybeReady::Now(refusal);
        }
        let call = self.call(Action::Admit, signed(demand.cost), counters);
        let Ok(pending) = self.client.send(call, deadline) else {
            return MaybeReady::Now(self.fall_back(demand));
        };
        MaybeReady::later(async move { self.conclude(demand, pending.get().await, key) })
    }

    fn states(&self, demand: Demand<'_>) -> Vec<(LimitState, Moment)> {
        let states = self.remote_states(demand);
        states.unwrap_or_else(|NoReply| self.local.states(demand))
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
            .filter(|(index, _)| !is_skipped(receipt, *index))
            .map(|(_, counter)| counter)
            .collect();
        let more = i64::try_from(actual).unwrap_or(i64::MAX) - signed(demand.cost);
        // A charge may make another limit refuse for longer.
        if more != 0 {
            self.invalidate(&counters);
        }
        // The next reply brings the balances.
        self.client.post(ScriptCall {
            admitted_at,
            ..self.call(Action::Settle, more, counters)
        });
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
            rule.limit.period == Period::Concurrent && !is_skipped(receipt, *index)
        });
        let slots = taken
            .map(|(_, rule)| CounterArgs::slots(counter_name(&group, demand.subjects, rule)))
            .collect();
        self.client.post(self.call(Action::Release, 0, slots));
    }

    fn reset(&self, demand: Demand<'_>) -> Result<(), StoreError> {
        let (action, counters) = match demand.subjects {
            Subjects::Key(_) => (Action::Reset, self.counters(demand, self.clock.now())),
            Subjects::Address(_) => {
                let index = index_name(&self.names.group(demand.subjects));
                (Action::Forget, vec![CounterArgs::index(index, &[])])
            }
        };
        self.invalidate(&counters);
        self.local.reset(demand)?;
        let call = self.call(action, 0, counters.clone());
        let pending = self.client.send_with_admin_timeout(call);
        let reply = pending.and_then(|pending| block_on(pending.get()));
        // Removes refusals of the meantime too.
        self.invalidate(&counters);
        match reply {
            Ok(_) => Ok(()),
            Err(NoReply) => Err(StoreError::Unavailable(
                "Redis did not reply; its counters may not be reset; try again".into(),
            )),
        }
    }

    fn take_changed(&self) -> Vec<Arc<CounterSet>> {
        self.local.take_changed()
    }

    fn return_changed(&self, sets: Vec<Arc<CounterSet>>) {
        self.local.return_changed(sets);
    }

    /// Windows stay in Redis.
    fn windows(&self, _: usize) -> Option<SavedWindows> {
        None
    }

    fn restore(&self, _: Vec<SavedIpWindow>) {}

    fn sweep(&self) {
        self.local.sweep();
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn status(&self) -> LimiterStatus {
        let (outage, eviction) = (self.client.outage(), self.client.eviction_warning());
        let failures = self.client.failures();
        let fallbacks = self.fallbacks.load(Ordering::Relaxed);
        let mut conditions = Vec::new();
        if let Some(outage) = &outage {
            let meanwhile = match self.fallback {
                Fallback::Local => "this process enforces limits by itself until it is back",
                Fallback::Deny => "requests with limits are refused until it is back",
                Fallback::Allow => "limits are not enforced until it is back",
            };
            let problem = format!("Redis is unavailable ({outage}); {meanwhile}");
            conditions.push(Condition::new(Area::Redis, problem));
        }
        if let Some(eviction) = &eviction {
            let problem = format!("Redis may evict counters: {eviction}");
            conditions.push(Condition::new(Area::Redis, problem));
        }
        if fallbacks > 0 {
            let problem = format!(
                "{fallbacks} decisions were made without Redis ({failures} calls failed or timed out)"
            );
            conditions.push(Condition::new(Area::Redis, problem));
        }
        let problem = outage.map(|outage| outage.to_string()).or(eviction);
        let health = BackendHealth {
            server: "redis",
            is_up: problem.is_none(),
            problem,
            failures,
            fallbacks,
        };
        LimiterStatus {
            health: Some(health),
            conditions,
        }
    }
}

/// Evaluates the reply to [`Action::Admit`].
fn admission(reply: &ScriptReply, rules: Rules<'_>, now: Moment) -> Admission {
    let counters = indexed(rules).zip(&reply.counters);
    if !reply.is_admitted {
        let refusing = counters
            .filter(|((_, rule), counter)| !rule.limit.shadow && !counter.has_room())
            .map(|((index, _), counter)| {
                (state(index, counter, now), after(now, counter.retry_in))
            });
        return match slowest(refusing) {
            Some((state, retry_at)) => Admission::Refused(state, retry_at),
            None => Admission::Undecided,
        };
    }
    let mut tightest = LimitState::unlimited(now);
    let mut receipt = Some(Box::new(Remarks {
        remote_at: Some(reply.at),
        ..Remarks::default()
    }));
    for ((index, rule), counter) in counters {
        if !counter.has_room() {
            mark_skipped(&mut receipt, index);
        } else if !rule.limit.shadow
            && rule.limit.period != Period::Concurrent
            && counter.remaining < tightest.remaining
        {
            tightest = state(index, counter, now);
        }
    }
    Admission::Admitted(tightest, receipt)
}

/// Returns the least room of all enforced rules but one.
fn room_of_others(reply: &ScriptReply, rules: Rules<'_>, but: usize) -> u64 {
    let all = indexed(rules).zip(&reply.counters);
    let others = all.filter(|((index, rule), _)| *index != but && !rule.limit.shadow);
    let room = others.map(|((_, rule), counter)| match rule.limit.period {
        // A request takes one slot, whatever it costs.
        Period::Concurrent if counter.remaining > 0 => u64::MAX,
        _ => counter.remaining,
    });
    room.min().unwrap_or(u64::MAX)
}

fn state(index: usize, counter: &CounterReply, now: Moment) -> LimitState {
    LimitState {
        rule: index,
        at: now,
        remaining: counter.remaining,
        resets_at: after(now, counter.resets_in),
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

/// Returns when Redis admitted a request, by its clock.
fn remote_at(receipt: &Receipt) -> Option<u64> {
    receipt.as_ref().and_then(|remarks| remarks.remote_at)
}

fn has_balance(rule: &Rule) -> bool {
    matches!(
        rule.limit.period,
        Period::Day | Period::Month | Period::Credits(_)
    )
}
