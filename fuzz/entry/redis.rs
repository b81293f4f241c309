//! Replies of Redis.

use std::time::Duration;

use super::super::CounterSets;
use super::*;
use crate::counter::Subject;
use crate::model::{KeyId, OrgId};
use crate::time::{ManualClock, Timestamp};

/// A limiter without a server, a key, and the rules of the key.
struct Client {
    limiter: RedisLimiter,
    key: Arc<CounterSet>,
    rules: Vec<Rule>,
}

/// Decides by a reply. If the first byte of the input is 0, the rest are the numbers of the reply, else its bytes
/// in the protocol of Redis. A malformed reply admits nothing, and a valid one only if it admits for all rules.
pub fn reply(data: &[u8]) {
    thread_local! {
        static CLIENT: Client = Client::new();
    }
    let Some((mode, bytes)) = data.split_first() else {
        return;
    };
    let values: Vec<i64> = match mode {
        0 => bytes
            .as_chunks()
            .0
            .iter()
            .map(|number| i64::from_le_bytes(*number))
            .collect(),
        _ => {
            let value = ::redis::parse_redis_value(bytes).ok();
            let values = value.and_then(|value| ::redis::from_redis_value(value).ok());
            values.unwrap_or_default()
        }
    };
    CLIENT.with(|client| client.conclude(&values));
}

impl Client {
    fn new() -> Self {
        let clock = ManualClock::starting_at(Timestamp::from_unix_millis(1_768_478_400_000));
        let local = MemoryLimiter::new(clock.into(), TimeZone::utc(), 16, 16);
        let (url, timeout) = ("redis://127.0.0.1:1", Duration::from_millis(1));
        let limiter = RedisLimiter::open(url, &"fuzz".into(), timeout, Fallback::Deny, local);
        let limiter = limiter.expect("a server may come later");
        let key = limiter.attach(SubjectId::key(KeyId(1)), &mut || Ok(Vec::new()));
        let limits = [
            "60/min",
            "10/s shadow",
            "1000 daily",
            "5000 credits +1/h",
            "2 concurrent",
        ];
        let rule = |limit: &str| Rule::new(limit.parse().expect("a limit"), Subject::Key);
        Self {
            limiter,
            key: key.expect("room for a key"),
            rules: limits.map(rule).into(),
        }
    }

    fn conclude(&self, values: &[i64]) {
        let rules: Rules<'_> = &[&self.rules];
        let sets = CounterSets {
            key: &self.key,
            org: None,
            org_id: OrgId(1),
        };
        let demand = Demand::new(Subjects::Key(sets), rules);
        let counters = self.limiter.counters(demand, self.limiter.clock.now());
        let call = self.limiter.call(Action::Admit, 1, counters);
        let reply = ScriptReply::parse(values);
        if let Ok(reply) = &reply {
            assert!(call.taken_slots(reply).count() <= 1);
        }
        let admission = self.limiter.conclude(demand, reply, None);
        match (values, admission) {
            ([_, admits, counters @ ..], Admission::Admitted(state, receipt)) => {
                assert!(*admits == 1 && counters.len() >= 5 * self.rules.len());
                self.limiter.settle(demand, state.at, &receipt, 3);
                self.limiter.release(demand, &receipt);
            }
            ([_, 0, ..], Admission::Refused(..)) => {}
            (_, admission) => assert!(matches!(admission, Admission::Undecided), "{admission:?}"),
        }
    }
}
