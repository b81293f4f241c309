//! Counters in Redis, which several processes share.
//!
//! Each decision is one run of a script, which reads and changes all counters of a group at once, by
//! the clock of the server. While Redis cannot be asked, a [`Fallback`] decides.

mod call;
mod link;
mod server;
/// Servers to be thrown away.
#[cfg(test)]
#[path = "../../../tests/common/redis.rs"]
pub(super) mod server_for_tests;
#[cfg(test)]
mod tests;

use std::fmt::Write;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use smallvec::SmallVec;

use self::call::{Action, Answer, Calendar, Call, Counter, LockStatus, signed};
use self::link::{Failed, Hearing, Link, unusable};
use self::server::Servers;
use super::exhausted::{Exhausted, Refusal, Wish};
use super::memory::indexed;
use super::{
    Admission, AdmittedRequest, AttachError, CounterSet, CounterSets, Fallback, IpRule, LimitState,
    Limiter, MemoryLimiter, Receipt, Remarks, Rules, is_shadow_denied,
};
use crate::counter::{Counts, SavedCounter, SavedIpCounters};
use crate::counter::{Rule, Subject, SubjectId};
use crate::limit::Balance;
use crate::limit::{Limit, Period};
use crate::lockout::AuthFailure;
use crate::model::BackendHealth;
use crate::model::Secret;
use crate::net::IpKey;
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

    /// The counters that rules go by, with the balances that are known of them here.
    fn counters(
        &self,
        groups: CounterSets<'_>,
        rules: Rules<'_>,
        admitted_at: Moment,
    ) -> Vec<Counter> {
        let calendar = Calendar {
            now: self.clock.timestamp(),
            admitted_at: self.clock.timestamp_at(admitted_at),
            zone: &self.zone,
        };
        let has_balances = indexed(rules).any(|(_, rule)| has_balance(rule));
        let seeds = has_balances.then(|| self.local.balances(groups, rules));
        indexed(rules)
            .map(|(index, rule)| {
                let seed = seeds.as_ref().and_then(|seeds| seeds[index]);
                let key = self.names.of_rule(groups, rule);
                Counter::new(key, rule.limit, seed.unwrap_or_default(), calendar)
            })
            .collect()
    }

    fn network_counters(&self, network: IpKey, rules: &[IpRule<'_>]) -> Vec<Counter> {
        let now = self.clock.timestamp();
        let calendar = Calendar {
            now,
            admitted_at: now,
            zone: &self.zone,
        };
        let counter = |rule: &IpRule<'_>| {
            let key = self.names.of_network(network, rule);
            Counter::new(key, rule.limit, Balance::default(), calendar)
        };
        let mut counters: Vec<_> = rules.iter().map(counter).collect();
        counters.push(Counter::index(self.names.of_all(network), &counters));
        counters
    }

    /// What refusals are remembered by, if they are: only while it is announced where there is room
    /// again.
    fn wish(&self, wanted: &Wanted) -> Option<Wish> {
        if !wanted.is_remembered || !self.link.hears() {
            return None;
        }
        let group = group_of(&wanted.counters.first()?.key);
        let keys = wanted.counters.iter().map(|counter| &*counter.key);
        let limits = wanted.limits.iter().copied();
        Some(self.exhausted.wish(wanted.cost, group, keys.zip(limits)))
    }

    /// A refusal that needs no asking.
    fn known_refusal(&self, wanted: &Wanted, wish: Wish) -> Option<Admission> {
        let (level, retry_at) = self.exhausted.find(wish, self.clock.now())?;
        let limit = wanted.limits.get(level.rule)?;
        (!limit.shadow).then_some(Admission::Refused(level, retry_at))
    }

    /// Asks for what is wanted; what is `admitted` is told before it is returned. `otherwise` decides
    /// if there is no answer.
    fn ask_for<'a>(
        &'a self,
        wanted: Wanted,
        deadline: &Deadline,
        admitted: impl FnOnce(&Answer, &Receipt) + Send + 'a,
        otherwise: impl FnOnce() -> Admission + Send + 'a,
    ) -> MaybeReady<'a, Admission> {
        let wish = self.wish(&wanted);
        if let Some(refusal) = wish.and_then(|wish| self.known_refusal(&wanted, wish)) {
            return MaybeReady::Now(refusal);
        }
        let Wanted {
            counters,
            limits,
            cost,
            ..
        } = wanted;
        let call = self.call(Action::Admit, signed(cost), counters);
        let Ok(asked) = self.link.ask(call, deadline) else {
            return MaybeReady::Now(self.fall_back(otherwise));
        };
        MaybeReady::later(async move {
            let Ok(answer) = asked.answer().await else {
                return self.fall_back(otherwise);
            };
            if answer.standings.len() < limits.len() {
                return self.fall_back(otherwise);
            }
            let outcome = outcome(&answer, &limits, self.clock.now());
            match &outcome {
                Admission::Admitted(_, receipt) => admitted(&answer, receipt),
                Admission::Refused(level, retry_at) => {
                    let refusal = |wish| Refusal {
                        wish,
                        rule: level.rule,
                        limit: limits[level.rule],
                        level: *level,
                        retry_at: *retry_at,
                        others_have: room_of_others(&answer, &limits, level.rule),
                    };
                    if let Some(refusal) = wish.map(refusal) {
                        self.exhausted.note(refusal);
                    }
                }
                Admission::RefusedShared(..) | Admission::Undecided => {}
            }
            outcome
        })
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

    fn fall_back(&self, decide: impl FnOnce() -> Admission) -> Admission {
        self.fallen_back.fetch_add(1, Ordering::Relaxed);
        match self.fallback {
            Fallback::Local => decide(),
            Fallback::Allow => {
                let remarks = Remarks {
                    is_uncounted: true,
                    ..Remarks::default()
                };
                let level = LimitState::unlimited(self.clock.now());
                Admission::Admitted(level, Some(Box::new(remarks)))
            }
            Fallback::Deny => Admission::Undecided,
        }
    }

    fn levels_of(
        &self,
        counters: Vec<Counter>,
        count: usize,
        cost: NonZeroU32,
    ) -> Result<Vec<(LimitState, Moment)>, Failed> {
        let answer = self.ask_now(Action::Look, signed(cost), counters)?;
        let now = self.clock.now();
        let standings = answer.standings.iter().take(count).enumerate();
        let levels: Vec<_> = standings
            .map(|(index, lock_status)| {
                (
                    level(index, lock_status, now),
                    after(now, lock_status.room_in),
                )
            })
            .collect();
        if levels.len() == count {
            Ok(levels)
        } else {
            Err(Failed)
        }
    }

    fn forget_exhausted(&self, counters: &[Counter]) {
        if let Some(counter) = counters.first() {
            self.exhausted.forget(group_of(&counter.key));
        }
    }
}

/// What a request takes, and of which counters.
struct Wanted {
    counters: Vec<Counter>,
    limits: SmallVec<[Limit; 4]>,
    cost: NonZeroU32,
    /// Whether what is refused once may be refused again without asking.
    is_remembered: bool,
}

/// What an answer decides.
fn outcome(answer: &Answer, limits: &[Limit], now: Moment) -> Admission {
    let standings = answer.standings.iter().zip(limits).enumerate();
    let has_room = |lock_status: &LockStatus| lock_status.room_in == Some(0);
    if !answer.is_admitted {
        let refusing =
            standings.filter(|(_, (lock_status, limit))| !limit.shadow && !has_room(lock_status));
        let slowest = refusing.max_by_key(|(index, (lock_status, _))| {
            (after(now, lock_status.room_in), std::cmp::Reverse(*index))
        });
        return match slowest {
            Some((index, (lock_status, _))) => Admission::Refused(
                level(index, lock_status, now),
                after(now, lock_status.room_in),
            ),
            None => Admission::Undecided,
        };
    }
    let mut tightest = LimitState::unlimited(now);
    let mut remarks = Remarks {
        remote_at: Some(answer.at),
        ..Remarks::default()
    };
    for (index, (lock_status, limit)) in standings {
        if !has_room(lock_status) {
            remarks
                .shadow_denied
                .push(u16::try_from(index).unwrap_or(u16::MAX));
        } else if !limit.shadow
            && limit.period != Period::Concurrent
            && lock_status.remaining < tightest.remaining
        {
            tightest = level(index, lock_status, now);
        }
    }
    Admission::Admitted(tightest, Some(Box::new(remarks)))
}

/// What all enforced limits but one have room for.
fn room_of_others(answer: &Answer, limits: &[Limit], but: usize) -> u64 {
    let all = answer.standings.iter().zip(limits).enumerate();
    let others = all.filter(|(index, (_, limit))| *index != but && !limit.shadow);
    let room = others.map(|(_, (lock_status, limit))| match limit.period {
        // A request takes one slot, whatever it costs.
        Period::Concurrent if lock_status.remaining > 0 => u64::MAX,
        _ => lock_status.remaining,
    });
    room.min().unwrap_or(u64::MAX)
}

fn level(index: usize, lock_status: &LockStatus, now: Moment) -> LimitState {
    LimitState {
        rule: index,
        at: now,
        remaining: lock_status.remaining,
        resets_at: after(now, lock_status.grows_in),
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

    fn admit_now(&self, _: CounterSets<'_>, _: Rules<'_>, _: NonZeroU32) -> Option<Admission> {
        None
    }

    fn admit<'a>(
        &'a self,
        groups: CounterSets<'a>,
        rules: Rules<'a>,
        cost: NonZeroU32,
        deadline: &'a Deadline,
    ) -> MaybeReady<'a, Admission> {
        let wanted = Wanted {
            counters: self.counters(groups, rules, self.clock.now()),
            limits: indexed(rules).map(|(_, rule)| rule.limit).collect(),
            cost,
            is_remembered: true,
        };
        let take_over = move |answer: &Answer, receipt: &Receipt| {
            let balance = |index: usize| answer.standings[index].balance;
            self.local.take_over(groups, rules, cost, receipt, balance);
        };
        let locally = move || self.local.take(groups, rules, cost);
        self.ask_for(wanted, deadline, take_over, locally)
    }

    fn levels(
        &self,
        groups: CounterSets<'_>,
        rules: Rules<'_>,
        cost: NonZeroU32,
    ) -> Vec<(LimitState, Moment)> {
        let counters = self.counters(groups, rules, self.clock.now());
        let levels = self.levels_of(counters, indexed(rules).count(), cost);
        levels.unwrap_or_else(|Failed| self.local.levels(groups, rules, cost))
    }

    fn settle(
        &self,
        groups: CounterSets<'_>,
        rules: Rules<'_>,
        admission: AdmittedRequest<'_>,
        actual: u64,
    ) {
        if is_uncounted(admission.receipt) {
            return;
        }
        self.local.settle(groups, rules, admission, actual);
        let Some(admitted_at) = remote_at(admission.receipt) else {
            return;
        };
        let counters = self
            .counters(groups, rules, admission.at)
            .into_iter()
            .enumerate();
        let counters: Vec<_> = counters
            .filter(|(index, _)| !is_shadow_denied(admission.receipt, *index))
            .map(|(_, counter)| counter)
            .collect();
        let more = i64::try_from(actual).unwrap_or(i64::MAX) - signed(admission.cost);
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

    fn release(&self, groups: CounterSets<'_>, rules: Rules<'_>, receipt: &Receipt) {
        if is_uncounted(receipt) {
            return;
        }
        self.local.release(groups, rules, receipt);
        if remote_at(receipt).is_none() {
            return;
        }
        let taken = indexed(rules).filter(|(index, rule)| {
            rule.limit.period == Period::Concurrent && !is_shadow_denied(receipt, *index)
        });
        let counters = taken.map(|(_, rule)| Counter::slots(self.names.of_rule(groups, rule)));
        self.link
            .tell(self.call(Action::Release, 0, counters.collect()));
    }

    fn reset(&self, groups: CounterSets<'_>, rules: Rules<'_>) -> Result<(), StoreError> {
        let counters = self.counters(groups, rules, self.clock.now());
        self.forget_exhausted(&counters);
        self.local.reset(groups, rules)?;
        let answer = self.ask_patiently(Action::Reset, counters.clone());
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

    /// Windows stay where they are.
    fn windows(&self, _: usize) -> Option<Vec<(SubjectId, Vec<SavedCounter>)>> {
        None
    }

    fn hit_now(&self, _: IpKey, _: &[IpRule<'_>], _: NonZeroU32) -> Option<Admission> {
        None
    }

    fn hit<'a>(
        &'a self,
        network: IpKey,
        rules: &'a [IpRule<'a>],
        cost: NonZeroU32,
        deadline: &'a Deadline,
    ) -> MaybeReady<'a, Admission> {
        let counts_requests = |rule: &IpRule<'_>| matches!(rule.counts, Counts::Requests(_));
        let wanted = Wanted {
            counters: self.network_counters(network, rules),
            limits: rules.iter().map(|rule| rule.limit).collect(),
            cost,
            // One strike too many locks an address: not by what was so before somebody unlocked it.
            is_remembered: rules.iter().all(counts_requests),
        };
        let locally = move || self.local.take_hit(network, rules, cost);
        let take_over = move |_: &Answer, receipt: &Receipt| {
            self.local.take_hit_over(network, rules, cost, receipt);
        };
        self.ask_for(wanted, deadline, take_over, locally)
    }

    fn network_levels(
        &self,
        network: IpKey,
        rules: &[IpRule<'_>],
        cost: NonZeroU32,
    ) -> Vec<(LimitState, Moment)> {
        let levels = self.levels_of(self.network_counters(network, rules), rules.len(), cost);
        levels.unwrap_or_else(|Failed| self.local.network_levels(network, rules, cost))
    }

    fn network_windows(&self) -> Vec<SavedIpCounters> {
        Vec::new()
    }

    fn restore_networks(&self, _: Vec<SavedIpCounters>) {}

    fn forget(&self, network: IpKey) -> Result<(), StoreError> {
        let tag = self.names.tag_of(network);
        self.exhausted.forget(group_of(&tag));
        self.local.forget(network)?;
        let all = Counter::index(self.names.of_all(network), &[]);
        let answer = self.ask_patiently(Action::Forget, vec![all]);
        // Nor what was refused meanwhile.
        self.exhausted.forget(group_of(&tag));
        answer
    }

    fn sweep(&self) {
        self.local.sweep();
    }

    fn asks_others(&self) -> bool {
        true
    }

    fn health(&self) -> Option<BackendHealth> {
        let trouble = self.link.trouble().map(|trouble| trouble.to_string());
        let problem = trouble.or_else(|| self.link.evicting_warning());
        Some(BackendHealth {
            server: "redis",
            is_up: problem.is_none(),
            problem,
            failures: self.link.failed(),
            fallbacks: self.fallen_back.load(Ordering::Relaxed),
        })
    }

    fn warnings(&self) -> Vec<String> {
        let failing = self.link.trouble().map(|trouble| {
            let meanwhile = match self.fallback {
                Fallback::Local => "this process enforces limits by itself meanwhile",
                Fallback::Deny => "requests that it would decide are refused meanwhile",
                Fallback::Allow => "limits are not enforced meanwhile",
            };
            format!("Redis cannot be asked: {trouble}; {meanwhile}")
        });
        let evicting = self.link.evicting_warning();
        let evicting = evicting.map(|warning| format!("Redis may lose limits: {warning}"));
        let count = self.fallen_back.load(Ordering::Relaxed);
        let past = (count > 0).then(|| {
            let failed = self.link.failed();
            format!(
                "{count} decisions were made without Redis ({failed} calls failed or came late)"
            )
        });
        failing.into_iter().chain(evicting).chain(past).collect()
    }
}

/// What counters are called. A group's share a hash tag, so that a cluster keeps them together.
struct Names {
    /// Tells deployments on one server apart.
    space: String,
    networks: [u8; 32],
}

impl Names {
    fn new(secret: &Secret) -> Self {
        Self {
            space: hex(&secret.fingerprint().0[..4]),
            networks: secret.network_naming_key(),
        }
    }

    /// Where it is announced that a group has room again. The script takes it from the keys.
    fn channel(&self) -> String {
        format!("kg:{}", self.space)
    }

    fn of_rule(&self, groups: CounterSets<'_>, rule: &Rule) -> String {
        let mut name = format!("{{kg:{}:o{}}}:", self.space, groups.org_id.0);
        // Writing to a string does not fail.
        let _ = match rule.subject {
            Subject::Org => write!(name, "org"),
            _ => write!(name, "{}", groups.key.id().to_bits()),
        };
        write_limit(&mut name, rule.limit);
        if let Some(route) = &rule.route {
            let _ = write!(name, ":{route}");
        }
        name
    }

    fn tag_of(&self, network: IpKey) -> String {
        let hash = blake3::keyed_hash(&self.networks, network.to_string().as_bytes());
        format!("{{kg:{}:n{}}}:", self.space, hex(&hash.as_bytes()[..12]))
    }

    /// Where the names of all counters of a network are.
    fn of_all(&self, network: IpKey) -> String {
        self.tag_of(network) + "all"
    }

    fn of_network(&self, network: IpKey, rule: &IpRule<'_>) -> String {
        let mut name = self.tag_of(network);
        name.push_str(match rule.counts {
            Counts::Strikes(AuthFailure::BadKey) => "bad",
            Counts::Strikes(AuthFailure::MissingKey) => "missing",
            Counts::Requests(_) => "requests",
        });
        write_limit(&mut name, rule.limit);
        if let Counts::Requests(of) = rule.counts {
            let _ = write!(name, ":{of}");
        }
        name
    }
}

/// One part of a name, without a colon in it. What operators name comes behind it, so that no two
/// counters share a name.
fn write_limit(name: &mut String, limit: Limit) {
    name.push_str(if limit.shadow { ":shadow-" } else { ":" });
    let _ = match limit.period {
        Period::Sliding(length) => write!(name, "w{}", length.nanos()),
        Period::Day => write!(name, "d"),
        Period::Month => write!(name, "m"),
        Period::Credits(_) => write!(name, "c"),
        Period::Concurrent => write!(name, "s"),
    };
}

/// The group in the name of a counter: its hash tag.
fn group_of(name: &str) -> &str {
    name.split_once('}').map_or(name, |(group, _)| group)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
