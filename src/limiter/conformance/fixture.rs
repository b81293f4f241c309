//! A limiter under test, with a manual clock.

use super::*;

#[cfg(feature = "redis")]
use keyguard_test_support::redis::Redis;

const JANUARY_31: Timestamp = Timestamp::from_unix_millis(1_769_817_600_000);

pub(super) struct Fixture {
    pub(super) limiter: Box<dyn Limiter>,
    pub(super) clock: ManualClock,
    #[cfg(feature = "redis")]
    _server: Option<Redis>,
}

impl Fixture {
    pub(super) fn in_memory() -> Self {
        let clock = ManualClock::starting_at(JANUARY_31);
        Self {
            limiter: Box::new(memory(&clock)),
            clock,
            #[cfg(feature = "redis")]
            _server: None,
        }
    }

    #[cfg(feature = "redis")]
    pub(super) fn in_redis() -> Self {
        let clock = ManualClock::starting_at(JANUARY_31);
        let server = Redis::start();
        let timeout = Duration::from_secs(20);
        let limiter = RedisLimiter::open(
            &server.url(),
            &"a secret".into(),
            timeout,
            Fallback::Deny,
            memory(&clock),
        );
        Self {
            limiter: Box::new(limiter.unwrap()),
            clock,
            _server: Some(server),
        }
    }

    pub(super) fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    fn with<T>(&self, client: impl Into<Client>, call: impl FnOnce(Subjects<'_>) -> T) -> T {
        let key = match client.into() {
            Client::Address(ip_key) => return call(Subjects::Address(ip_key)),
            Client::Key(key) => key,
        };
        let attach = |id| self.limiter.attach(id, &mut || Ok(Vec::new())).unwrap();
        let (key, org) = (
            attach(SubjectId::key(KeyId(key))),
            attach(SubjectId::org(OrgId(1))),
        );
        call(Subjects::Key(CounterSets {
            key: &key,
            org: Some(&org),
            org_id: OrgId(1),
        }))
    }

    pub(super) fn admit(&self, client: impl Into<Client>, rules: &[Rule], n: u32) -> Admission {
        self.with(client, |subjects| {
            let (rules, deadline) = ([rules], Deadline::default());
            let demand = Demand {
                cost: cost(n),
                ..Demand::new(subjects, &rules)
            };
            block_on(self.limiter.admit(demand, &deadline).get())
        })
    }

    pub(super) fn admits(&self, client: impl Into<Client>, rules: &[Rule], n: u32) -> bool {
        matches!(self.admit(client, rules, n), Admission::Admitted(..))
    }

    /// For how long a request is refused; `None` if it is admitted.
    pub(super) fn refused_for(
        &self,
        client: impl Into<Client>,
        rules: &[Rule],
        n: u32,
    ) -> Option<Duration> {
        match self.admit(client, rules, n) {
            Admission::Admitted(..) => None,
            Admission::Refused(state, retry_at) => Some(retry_at.since(state.at)),
            admission => panic!("{admission:?}"),
        }
    }

    pub(super) fn states(
        &self,
        client: impl Into<Client>,
        rules: &[Rule],
        n: u32,
    ) -> Vec<(LimitState, Moment)> {
        self.with(client, |subjects| {
            self.limiter.states(Demand {
                cost: cost(n),
                ..Demand::new(subjects, &[rules])
            })
        })
    }

    pub(super) fn remaining(&self, client: impl Into<Client>, rules: &[Rule]) -> Vec<u64> {
        let states = self.states(client, rules, 1);
        states.iter().map(|(state, _)| state.remaining).collect()
    }

    pub(super) fn settle(
        &self,
        key: u64,
        rules: &[Rule],
        admitted: &Admission,
        reserved: u32,
        actual: u64,
    ) {
        let Admission::Admitted(state, receipt) = admitted else {
            panic!("{admitted:?}");
        };
        self.with(key, |subjects| {
            let rules = [rules];
            let demand = Demand {
                cost: cost(reserved),
                ..Demand::new(subjects, &rules)
            };
            self.limiter.settle(demand, state.at, receipt, actual);
        });
    }

    pub(super) fn release(&self, key: u64, rules: &[Rule], receipt: &Receipt) {
        self.with(key, |subjects| {
            self.limiter
                .release(Demand::new(subjects, &[rules]), receipt);
        });
    }

    pub(super) fn reset(&self, client: impl Into<Client>, rules: &[Rule]) {
        self.with(client, |subjects| {
            self.limiter.reset(Demand::new(subjects, &[rules])).unwrap();
        });
    }
}

/// The sender of a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Client {
    /// A key of the organization 1.
    Key(u64),
    Address(IpKey),
}

impl From<u64> for Client {
    fn from(key: u64) -> Self {
        Self::Key(key)
    }
}

impl From<IpKey> for Client {
    fn from(ip_key: IpKey) -> Self {
        Self::Address(ip_key)
    }
}

fn memory(clock: &ManualClock) -> MemoryLimiter {
    MemoryLimiter::new(clock.clone().into(), TimeZone::utc(), 64, 64)
}

pub(super) fn cost(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).unwrap()
}

pub(super) fn rule(limit: &str) -> Rule {
    Rule::new(limit.parse().unwrap(), Subject::Key)
}

pub(super) fn limits(texts: &[&str]) -> Vec<Rule> {
    texts.iter().map(|text| rule(text)).collect()
}
