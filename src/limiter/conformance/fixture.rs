//! A limiter to be tested, with a clock that is moved by hand.

use super::*;

#[cfg(feature = "redis")]
use super::super::redis::server_for_tests::Redis;

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
        let patient = Duration::from_secs(20);
        let limiter = RedisLimiter::open(
            &server.url(),
            &"a secret".into(),
            patient,
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

    /// Asks of one group after the other: the key of this number, and its organization.
    fn with_groups<T>(&self, key: u64, ask: impl FnOnce(CounterSets<'_>) -> T) -> T {
        let attach = |id| self.limiter.attach(id, &mut || Ok(Vec::new())).unwrap();
        let (key, org) = (
            attach(SubjectId::key(KeyId(key))),
            attach(SubjectId::org(OrgId(1))),
        );
        ask(CounterSets {
            key: &key,
            org: Some(&org),
            org_id: OrgId(1),
        })
    }

    pub(super) fn admit(&self, key: u64, rules: &[Rule], asked: u32) -> Admission {
        self.with_groups(key, |groups| {
            let deadline = Deadline::default();
            let lists = [rules];
            let reply = self.limiter.admit(groups, &lists, cost(asked), &deadline);
            block_on(reply.get())
        })
    }

    pub(super) fn admits(&self, key: u64, rules: &[Rule], asked: u32) -> bool {
        is_admitted(&self.admit(key, rules, asked))
    }

    /// For how long a request is refused; `None` if it is admitted.
    pub(super) fn refused_for(&self, key: u64, rules: &[Rule], asked: u32) -> Option<Duration> {
        match self.admit(key, rules, asked) {
            Admission::Admitted(..) => None,
            Admission::Refused(level, retry_at) | Admission::RefusedShared(level, retry_at) => {
                Some(retry_at.since(level.at))
            }
            Admission::Undecided => panic!("undecided"),
        }
    }

    pub(super) fn levels(&self, key: u64, rules: &[Rule], asked: u32) -> Vec<(LimitState, Moment)> {
        self.with_groups(key, |groups| {
            self.limiter.levels(groups, &[rules], cost(asked))
        })
    }

    pub(super) fn remaining(&self, key: u64, rules: &[Rule]) -> Vec<u64> {
        let levels = self.levels(key, rules, 1);
        levels.iter().map(|(level, _)| level.remaining).collect()
    }

    pub(super) fn settle(
        &self,
        key: u64,
        rules: &[Rule],
        admitted: &Admission,
        reserved: u32,
        actual: u64,
    ) {
        let Admission::Admitted(level, receipt) = admitted else {
            panic!("{admitted:?}");
        };
        let admission = AdmittedRequest {
            at: level.at,
            cost: cost(reserved),
            receipt,
        };
        self.with_groups(key, |groups| {
            self.limiter.settle(groups, &[rules], admission, actual);
        });
    }

    pub(super) fn release(&self, key: u64, rules: &[Rule], receipt: &Receipt) {
        self.with_groups(key, |groups| {
            self.limiter.release(groups, &[rules], receipt);
        });
    }

    pub(super) fn reset(&self, key: u64, rules: &[Rule]) {
        self.with_groups(key, |groups| self.limiter.reset(groups, &[rules]).unwrap());
    }

    pub(super) fn hit(&self, network: IpKey, rules: &[IpRule<'_>]) -> Admission {
        let deadline = Deadline::default();
        block_on(self.limiter.hit(network, rules, cost(1), &deadline).get())
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

pub(super) fn is_admitted(outcome: &Admission) -> bool {
    matches!(outcome, Admission::Admitted(..))
}
