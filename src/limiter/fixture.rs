//! Clients of limiters under test.

use std::time::Duration;

use super::*;
use crate::counter::Subject;
use crate::model::KeyId;
use crate::sys::block_on;
use crate::time::{Clock, TimeZone, Timestamp};

/// The last day of a month, at midnight.
pub(super) const JANUARY_31: Timestamp = Timestamp::from_unix_millis(1_769_817_600_000);

/// A client of a limiter.
pub(super) struct Client<'l> {
    limiter: &'l dyn Limiter,
    sender: Sender,
}

enum Sender {
    Key {
        key: Arc<CounterSet>,
        org: Option<Arc<CounterSet>>,
        org_id: OrgId,
    },
    Address(IpKey),
}

impl<'l> Client<'l> {
    /// A key of the organization with the same number, which has no limits.
    pub(super) fn new(limiter: &'l dyn Limiter, id: u64) -> Self {
        let sender = Sender::Key {
            key: attach(limiter, SubjectId::key(KeyId(id))),
            org: None,
            org_id: OrgId(id),
        };
        Self { limiter, sender }
    }

    /// A key of the organization 1, which may have limits.
    pub(super) fn member(limiter: &'l dyn Limiter, id: u64) -> Self {
        let sender = Sender::Key {
            key: attach(limiter, SubjectId::key(KeyId(id))),
            org: Some(attach(limiter, SubjectId::org(OrgId(1)))),
            org_id: OrgId(1),
        };
        Self { limiter, sender }
    }

    pub(super) fn address(limiter: &'l dyn Limiter, address: IpKey) -> Self {
        let sender = Sender::Address(address);
        Self { limiter, sender }
    }

    pub(super) fn subjects(&self) -> Subjects<'_> {
        match &self.sender {
            Sender::Key { key, org, org_id } => Subjects::Key(CounterSets {
                key,
                org: org.as_ref(),
                org_id: *org_id,
            }),
            Sender::Address(address) => Subjects::Address(*address),
        }
    }

    fn with<T>(&self, rules: &[Rule], n: u32, call: impl FnOnce(Demand<'_>) -> T) -> T {
        call(Demand {
            subjects: self.subjects(),
            rules: &[rules],
            cost: NonZeroU32::new(n).unwrap(),
        })
    }

    /// Admits by plain rules if the limiter can, as a guard does.
    pub(super) fn admit(&self, rules: &[Rule], n: u32) -> Admission {
        let deadline = Deadline::default();
        self.with(rules, n, |demand| {
            let plain = match demand.subjects {
                Subjects::Key(sets) => {
                    let rules = PlainRules::of(rules);
                    self.limiter.admit_plain(sets, &rules, demand.cost)
                }
                Subjects::Address(_) => None,
            };
            plain.unwrap_or_else(|| block_on(self.limiter.admit(demand, &deadline).get()))
        })
    }

    pub(super) fn admits(&self, rules: &[Rule], n: u32) -> bool {
        matches!(self.admit(rules, n), Admission::Admitted(..))
    }

    /// For how long a request is refused; `None` if it is admitted.
    pub(super) fn refused_for(&self, rules: &[Rule], n: u32) -> Option<Duration> {
        match self.admit(rules, n) {
            Admission::Admitted(..) => None,
            Admission::Refused(state, retry_at) => Some(retry_at.since(state.at)),
            admission => panic!("{admission:?}"),
        }
    }

    pub(super) fn states(&self, rules: &[Rule], n: u32) -> Vec<(LimitState, Moment)> {
        self.with(rules, n, |demand| self.limiter.states(demand))
    }

    pub(super) fn remaining(&self, rules: &[Rule]) -> Vec<u64> {
        let states = self.states(rules, 1).into_iter();
        states.map(|(state, _)| state.remaining).collect()
    }

    pub(super) fn settle(&self, rules: &[Rule], admitted: &Admission, reserved: u32, actual: u64) {
        let Admission::Admitted(state, receipt) = admitted else {
            panic!("{admitted:?}");
        };
        self.with(rules, reserved, |demand| {
            self.limiter.settle(demand, state.at, receipt, actual);
        });
    }

    pub(super) fn release(&self, rules: &[Rule], receipt: &Receipt) {
        self.with(rules, 1, |demand| self.limiter.release(demand, receipt));
    }

    pub(super) fn reset(&self, rules: &[Rule]) {
        self.with(rules, 1, |demand| self.limiter.reset(demand).unwrap());
    }
}

fn attach(limiter: &dyn Limiter, id: SubjectId) -> Arc<CounterSet> {
    limiter.attach(id, &mut || Ok(Vec::new())).unwrap()
}

pub(super) fn memory(clock: impl Into<Clock>) -> MemoryLimiter {
    MemoryLimiter::new(clock.into(), TimeZone::utc(), 64, 64)
}

#[cfg(feature = "redis")]
pub(super) const TIMEOUT: Duration = Duration::from_secs(20);

#[cfg(feature = "redis")]
pub(super) fn redis_at(url: &str, clock: impl Into<Clock>) -> RedisLimiter {
    let local = memory(clock);
    RedisLimiter::open(url, &"a secret".into(), TIMEOUT, Fallback::Deny, local).unwrap()
}

pub(super) fn rule(limit: &str) -> Rule {
    Rule::new(limit.parse().unwrap(), Subject::Key)
}

pub(super) fn limits(texts: &[&str]) -> Vec<Rule> {
    texts.iter().map(|text| rule(text)).collect()
}
