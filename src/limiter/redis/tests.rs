use std::collections::BTreeSet;
use std::future::Future;
use std::num::NonZeroU32;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use keyguard_test_support::redis::Redis;

use super::*;
use crate::counter::{Events, Subject};
use crate::limiter::CounterSets;
use crate::lockout::AuthFailure;
use crate::model::{KeyId, OrgId};
use crate::time::{ManualClock, Timestamp};

mod servers;

const START: Timestamp = Timestamp::from_unix_millis(1_769_817_600_000);

const TIMEOUT: Duration = Duration::from_secs(20);

fn memory(clock: impl Into<Clock>) -> MemoryLimiter {
    MemoryLimiter::new(clock.into(), TimeZone::utc(), 64, 64)
}

fn open(url: &str, deadline: Duration, fallback: Fallback) -> RedisLimiter {
    let local = memory(Clock::system());
    RedisLimiter::open(url, &"a secret".into(), deadline, fallback, local).unwrap()
}

fn limiter(server: &Redis) -> RedisLimiter {
    open(&server.url(), TIMEOUT, Fallback::Deny)
}

fn rules(texts: &[&str]) -> Vec<Rule> {
    let rule = |text: &&str| Rule::new(text.parse().unwrap(), Subject::Key);
    texts.iter().map(rule).collect()
}

fn cost(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).unwrap()
}

/// A key of an organization without limits of its own.
struct Client {
    key: Arc<CounterSet>,
    org: OrgId,
}

impl Client {
    fn new(limiter: &RedisLimiter, id: u64) -> Self {
        let key = SubjectId::key(KeyId(id));
        Self {
            key: limiter.attach(key, &mut || Ok(Vec::new())).unwrap(),
            org: OrgId(id),
        }
    }

    fn subjects(&self) -> Subjects<'_> {
        Subjects::Key(CounterSets {
            key: &self.key,
            org: None,
            org_id: self.org,
        })
    }

    fn admit(&self, limiter: &RedisLimiter, rules: &[Rule], n: u32) -> Admission {
        let (lists, deadline) = ([rules], Deadline::default());
        let demand = Demand {
            cost: cost(n),
            ..Demand::new(self.subjects(), &lists)
        };
        block_on(limiter.admit(demand, &deadline).get())
    }

    fn admits(&self, limiter: &RedisLimiter, rules: &[Rule]) -> bool {
        matches!(self.admit(limiter, rules, 1), Admission::Admitted(..))
    }

    fn remaining(&self, limiter: &RedisLimiter, rules: &[Rule]) -> u64 {
        self.state(limiter, rules).remaining
    }

    fn state(&self, limiter: &RedisLimiter, rules: &[Rule]) -> LimitState {
        limiter.states(Demand::new(self.subjects(), &[rules]))[0].0
    }

    fn reset(&self, limiter: &RedisLimiter, rules: &[Rule]) {
        let reset = limiter.reset(Demand::new(self.subjects(), &[rules]));
        reset.unwrap();
    }

    /// Settles a request of cost 3.
    fn settle(&self, limiter: &RedisLimiter, rules: &[Rule], admitted: &Admission, actual: u64) {
        let Admission::Admitted(state, receipt) = admitted else {
            panic!("{admitted:?}");
        };
        let lists = [rules];
        let demand = Demand {
            cost: cost(3),
            ..Demand::new(self.subjects(), &lists)
        };
        limiter.settle(demand, state.at, receipt, actual);
    }
}

/// Waits until a condition holds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_decision_is_one_run_of_the_script_whatever_the_number_of_limits() {
    let server = Redis::start();
    let limiter = limiter(&server);
    let client = Client::new(&limiter, 1);
    let rules = rules(&[
        "9/s",
        "9/min",
        "9/h",
        "9 daily",
        "9 credits",
        "9 concurrent",
    ]);
    assert!(client.admits(&limiter, &rules));
    let before = server.calls("evalsha");
    assert!(client.admits(&limiter, &rules));
    assert_eq!(server.calls("evalsha") - before, 1);
}

#[test]
fn every_key_expires_shares_the_slot_of_its_group_and_reveals_no_address() {
    let server = Redis::start();
    let limiter = limiter(&server);
    let client = Client::new(&limiter, 1);
    let rules = rules(&[
        "9/s",
        "9/h",
        "9 daily",
        "9 monthly",
        "9 credits",
        "9 concurrent",
    ]);
    assert!(client.admits(&limiter, &rules));
    client.reset(&limiter, &rules);
    assert!(client.admits(&limiter, &rules));
    let of_address = [self::rules(&["9/min"])];
    let lists = of_address.each_ref().map(|rules| &rules[..]);
    let address = Subjects::Address("203.0.113.77".parse().unwrap());
    let deadline = Deadline::default();
    block_on(limiter.admit(Demand::new(address, &lists), &deadline).get());

    let keys: Vec<String> = server.run("KEYS *");
    assert_eq!(keys.len(), rules.len() + 2, "{keys:?}");
    let tags: BTreeSet<_> = keys
        .iter()
        .map(|key| &key[..key.find('}').unwrap()])
        .collect();
    assert_eq!(tags.len(), 2, "{keys:?}");
    for key in &keys {
        assert!(server.run::<i64>(&format!("PTTL {key}")) > 0, "{key} stays");
        let value: Vec<u8> = server.run(&format!("DUMP {key}"));
        let all = format!("{key} {}", String::from_utf8_lossy(&value));
        assert!(!all.contains("203.0") && !all.contains(".77"), "{all}");
    }
}

#[test]
fn a_limit_that_is_known_to_be_exhausted_causes_no_call() {
    let server = Redis::start();
    let clock = ManualClock::starting_at(START);
    let secret = "a secret".into();
    let local = memory(clock.clone());
    let limiter = RedisLimiter::open(&server.url(), &secret, TIMEOUT, Fallback::Deny, local);
    let limiter = limiter.unwrap();
    until("announcements are heard", || limiter.client.is_subscribed());
    let client = Client::new(&limiter, 1);
    let rules = rules(&["3/min"]);
    let first = client.admit(&limiter, &rules, 3);
    let before = server.calls("evalsha");
    let calls = || server.calls("evalsha") - before;
    for _ in 0..500 {
        assert!(!client.admits(&limiter, &rules));
    }
    assert_eq!(calls(), 1);
    // A higher cost has no room either, for at most a window.
    let Admission::Refused(state, retry_at) = client.admit(&limiter, &rules, 3) else {
        panic!("admitted");
    };
    assert_eq!((calls(), state.remaining), (1, 0));
    assert_eq!(retry_at.since(state.at), Duration::from_millis(60_001));
    // Another limit causes a call, and the same one after a second.
    assert!(client.admits(&limiter, &self::rules(&["4/min"])));
    assert_eq!(calls(), 2);
    clock.advance(Duration::from_secs(1));
    assert!(!client.admits(&limiter, &rules));
    assert_eq!(calls(), 3);
    // A refund of this process takes effect at once.
    client.settle(&limiter, &rules, &first, 1);
    assert!(client.admits(&limiter, &rules));
    assert!(!client.admits(&limiter, &rules));
    client.reset(&limiter, &rules);
    assert!(client.admits(&limiter, &rules));
}

#[test]
fn room_that_one_process_makes_is_announced_to_others() {
    let server = Redis::start();
    // Stands still, so that no window ends.
    let clock = ManualClock::starting_at(START);
    let open = || {
        let local = memory(clock.clone());
        let limiter = RedisLimiter::open(
            &server.url(),
            &"a secret".into(),
            TIMEOUT,
            Fallback::Deny,
            local,
        )
        .unwrap();
        until("announcements are heard", || limiter.client.is_subscribed());
        limiter
    };
    let (here, there) = (open(), open());
    let (one, other) = (Client::new(&here, 1), Client::new(&there, 1));
    let rules = rules(&["3/min", "3 daily", "3 credits"]);
    let admitted = one.admit(&here, &rules, 3);
    let calls = || server.calls("evalsha");
    let is_remembered = || {
        let before = calls();
        !other.admits(&there, &rules) && calls() == before
    };
    until("the refusal is remembered", is_remembered);
    one.settle(&here, &rules, &admitted, 2);
    until("the refund is seen", || other.admits(&there, &rules));
    until("the refusal is remembered again", is_remembered);
    one.reset(&here, &rules);
    until("the reset is seen", || other.admits(&there, &rules));
}

#[test]
fn names_of_counters_are_unambiguous() {
    let server = Redis::start();
    let limiter = limiter(&server);
    let client = Client::new(&limiter, 1);
    let routes = [
        None,
        Some("shadow"),
        Some("shadow:a"),
        Some("a"),
        Some("a:w"),
        Some("d"),
    ];
    let limits = [
        "1/min",
        "1/min shadow",
        "1 daily",
        "1 daily shadow",
        "1 credits",
        "1 concurrent",
    ];
    let rule = |limit: &str, route: Option<&str>, subject| Rule {
        events: route.map_or(Events::AllRequests, |route| Events::Route(route.into())),
        ..Rule::new(limit.parse().unwrap(), subject)
    };
    let group = limiter.names.group(client.subjects());
    let mut names = BTreeSet::new();
    for (route, limit) in routes
        .iter()
        .flat_map(|route| limits.map(|limit| (*route, limit)))
    {
        for subject in [Subject::Key, Subject::Org] {
            let rule = rule(limit, route, subject);
            let name = counter_name(&group, client.subjects(), &rule);
            assert!(names.insert(name), "{route:?} {limit}");
        }
    }
    let rule = |limit: &str, route| rule(limit, route, Subject::Key);
    assert!(client.admits(&limiter, &[rule("1/min shadow", None)]));
    assert!(client.admits(&limiter, &[rule("1/min", Some("shadow"))]));
    assert!(!client.admits(&limiter, &[rule("1/min", Some("shadow"))]));
}

#[test]
fn a_higher_cost_waits_until_enough_credits_are_refilled() {
    let server = Redis::start();
    let clock = ManualClock::starting_at(START);
    let secret = "a secret".into();
    let local = memory(clock.clone());
    let limiter = RedisLimiter::open(&server.url(), &secret, TIMEOUT, Fallback::Deny, local);
    let limiter = limiter.unwrap();
    until("announcements are heard", || limiter.client.is_subscribed());
    let client = Client::new(&limiter, 1);
    let rules = rules(&["20 credits +3/min"]);
    let wait = |n| match client.admit(&limiter, &rules, n) {
        Admission::Refused(state, retry_at) => retry_at.since(state.at).as_secs(),
        other => panic!("{other:?}"),
    };
    assert!(matches!(
        client.admit(&limiter, &rules, 20),
        Admission::Admitted(..)
    ));
    assert_eq!([wait(2), wait(3), wait(5), wait(9)], [60, 120, 120, 240]);
    clock.advance(Duration::from_secs(240));
    assert!(matches!(
        client.admit(&limiter, &rules, 9),
        Admission::Admitted(..)
    ));
}

#[test]
fn a_cached_refusal_is_not_used_if_another_limit_may_refuse_for_longer() {
    let server = Redis::start();
    let clock = ManualClock::starting_at(START);
    let secret = "a secret".into();
    let local = memory(clock.clone());
    let limiter = RedisLimiter::open(&server.url(), &secret, TIMEOUT, Fallback::Deny, local);
    let limiter = limiter.unwrap();
    until("announcements are heard", || limiter.client.is_subscribed());
    let client = Client::new(&limiter, 1);
    let wait = |n, texts: &[&str]| match client.admit(&limiter, &rules(texts), n) {
        Admission::Refused(state, retry_at) => retry_at.since(state.at).as_secs(),
        other => panic!("{other:?}"),
    };
    assert!(client.admits(&limiter, &rules(&["3/min", "5/h"])));
    assert!(matches!(
        client.admit(&limiter, &rules(&["3/min", "5/h"]), 2),
        Admission::Admitted(..)
    ));
    assert_eq!(wait(1, &["3/min", "5/h"]), 60);
    // More than is left of the hour.
    assert_eq!(wait(3, &["3/min", "5/h"]), 3_600);
    // Another set of limits.
    assert_eq!(wait(1, &["3/min", "3/h"]), 3_600);
}

/// A limiter of a process with a wrong calendar.
fn limiter_at(server: &Redis, calendar: Timestamp) -> RedisLimiter {
    let clock = Clock::system();
    clock.follow(calendar, clock.now());
    let (secret, local) = ("a secret".into(), memory(clock));
    RedisLimiter::open(&server.url(), &secret, TIMEOUT, Fallback::Deny, local).unwrap()
}

#[test]
fn a_wrong_calendar_of_one_process_delays_or_repeats_no_quota() {
    let server = Redis::start();
    let year = Duration::from_secs(365 * 86_400);
    let now = Clock::system().timestamp();
    let right = limiter(&server);
    for (id, wrong) in [(1, now.plus(year)), (2, now.minus(year))] {
        let wrong = limiter_at(&server, wrong);
        for (text, longest) in [
            ("2 daily", 26),
            ("2 monthly", 32 * 24),
            ("2 credits +1/h", 1),
        ] {
            let rules = rules(&[text]);
            let [one, other] = [&wrong, &right].map(|limiter| Client::new(limiter, id));
            assert!(one.admits(&wrong, &rules), "{text}");
            assert!(one.admits(&wrong, &rules), "{text}");
            assert!(!one.admits(&wrong, &rules), "{text}");
            let state = other.state(&right, &rules);
            let wait = state.resets_at.since(state.at).as_secs();
            assert!(
                state.remaining == 0 && wait <= longest * 3_600,
                "{text}: {wait} s"
            );
            assert!(!other.admits(&right, &rules), "{text}");
        }
    }
}

#[test]
fn a_synchronized_clock_has_the_calendar_of_redis() {
    let server = Redis::start();
    let limiter = limiter_at(&server, Timestamp::from_unix_millis(86_400_000));
    limiter.sync_clock();
    let here = Clock::system().timestamp();
    let there = limiter.clock.timestamp();
    assert!(here.since(there).max(there.since(here)) < Duration::from_secs(60));
}

#[test]
fn a_flushed_script_is_loaded_again() {
    let server = Redis::start();
    let limiter = limiter(&server);
    let client = Client::new(&limiter, 1);
    let rules = rules(&["2/min"]);
    assert!(client.admits(&limiter, &rules));
    let _: () = server.run("SCRIPT FLUSH");
    assert!(client.admits(&limiter, &rules));
    assert!(!client.admits(&limiter, &rules));
}

#[test]
fn a_server_that_evicts_keys_is_refused() {
    let server = Redis::with(&["--maxmemory-policy", "allkeys-lru"]);
    let local = memory(Clock::system());
    let secret = "a secret".into();
    let refused = RedisLimiter::open(&server.url(), &secret, TIMEOUT, Fallback::Local, local);
    let error = refused.err().unwrap().to_string();
    assert!(
        error.contains("set `maxmemory-policy noeviction`"),
        "{error}"
    );
}

#[test]
fn a_change_to_an_evicting_policy_is_reported() {
    let server = Redis::start();
    let limiter = limiter(&server);
    let is_up = || limiter.status().health.unwrap().is_up;
    assert!(is_up());
    let _: () = server.run("CONFIG SET maxmemory-policy volatile-ttl");
    until("it is noticed", || !is_up());
    let problem = limiter.status().health.unwrap().problem.unwrap();
    assert!(problem.contains("`volatile-ttl`"), "{problem}");
    let warnings = limiter.status().warnings;
    assert!(warnings[0].contains("`volatile-ttl`"), "{warnings:?}");
    // Its counters remain in force.
    let client = Client::new(&limiter, 1);
    let rules = rules(&["1/min"]);
    assert!(client.admits(&limiter, &rules));
    assert!(!client.admits(&limiter, &rules));
    let _: () = server.run("CONFIG SET maxmemory-policy noeviction");
    until("it is noticed", is_up);
    assert_eq!(limiter.status().warnings, Vec::<String>::new());
}

#[test]
fn a_call_that_timed_out_is_not_repeated() {
    let server = Redis::start();
    let limiter = open(&server.url(), Duration::from_millis(100), Fallback::Deny);
    let client = Client::new(&limiter, 1);
    let rules = rules(&["9/h"]);
    until("Redis replies", || client.admits(&limiter, &rules));
    let before = server.calls("evalsha");
    server.pause();
    assert_eq!(client.admit(&limiter, &rules, 1), Admission::Undecided);
    server.resume();
    until("the call has run", || server.calls("evalsha") == before + 1);
    assert!(
        limiter
            .status()
            .warnings
            .iter()
            .any(|w| w.contains("1 calls failed or came late"))
    );
    until("Redis replies again", || client.admits(&limiter, &rules));
}

#[test]
fn the_configured_fallback_decides_without_a_server() {
    let mut server = Redis::start();
    let url = server.url();
    let choices = [Fallback::Local, Fallback::Deny, Fallback::Allow];
    let limiters = choices.map(|fallback| open(&url, TIMEOUT, fallback));
    server.kill();
    let decided = limiters.each_ref().map(|limiter| {
        let client = Client::new(limiter, 1);
        let rules = rules(&["1/h"]);
        until("it is known", || {
            client.admit(limiter, &rules, 1);
            !limiter.status().warnings.is_empty()
        });
        client.admit(limiter, &rules, 1)
    });
    assert!(matches!(
        decided,
        [
            Admission::Refused(..),
            Admission::Undecided,
            Admission::Admitted(..)
        ]
    ));
    server.restart();
    for limiter in &limiters {
        let client = Client::new(limiter, 2);
        let rules = rules(&["1/h"]);
        until("Redis is used again", || {
            !limiter
                .status()
                .warnings
                .iter()
                .any(|warning| warning.contains("Redis is unavailable"))
        });
        let _ = client.admits(limiter, &rules);
        assert!(matches!(
            client.admit(limiter, &rules, 1),
            Admission::Refused(..)
        ));
    }
}

#[test]
fn time_does_not_run_backwards_for_a_node_whose_clock_is_behind() {
    let server = Redis::start();
    let nodes = [0, 700].map(|ahead| {
        let clock = ManualClock::starting_at(START.plus(Duration::from_millis(ahead)));
        let secret = "a secret".into();
        let local = memory(clock.clone());
        let limiter = RedisLimiter::open(&server.url(), &secret, TIMEOUT, Fallback::Deny, local);
        (limiter.unwrap(), clock)
    });
    let [(behind, clock), (ahead, _)] = &nodes;
    let rules = rules(&["2/s"]);
    assert!(Client::new(ahead, 1).admits(ahead, &rules));
    let client = Client::new(behind, 1);
    assert!(client.admits(behind, &rules));
    let Admission::Refused(state, retry_at) = client.admit(behind, &rules, 1) else {
        panic!("admitted");
    };
    assert_eq!(retry_at.since(state.at), Duration::from_millis(1_700));
    clock.advance(Duration::from_millis(1_699));
    assert!(!client.admits(behind, &rules));
    clock.advance(Duration::from_millis(1));
    assert!(client.admits(behind, &rules));
}

fn slots_in_use(server: &Redis) -> usize {
    let keys: Vec<String> = server.run("KEYS *:s");
    keys.iter()
        .map(|key| server.run::<usize>(&format!("HLEN {key}")))
        .sum()
}

#[test]
fn a_cancelled_admission_releases_its_slot() {
    let server = Redis::start();
    let limiter = limiter(&server);
    let client = Client::new(&limiter, 1);
    let rules = rules(&["1 concurrent"]);
    for _ in 0..20 {
        let deadline = Deadline::default();
        let lists = [&rules[..]];
        let demand = Demand::new(client.subjects(), &lists);
        let mut reply = Box::pin(limiter.admit(demand, &deadline).get());
        let polled = reply.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        drop(reply);
        // A reply that was received is released by the receiver.
        if let Poll::Ready(Admission::Admitted(_, receipt)) = polled {
            limiter.release(demand, &receipt);
        }
        until("the slot is free", || {
            client.remaining(&limiter, &rules) == 1
        });
    }
}

#[test]
fn a_reset_by_another_node_clears_failed_authentications() {
    let server = Redis::start();
    let (here, there) = (limiter(&server), limiter(&server));
    let rules = [Rule {
        events: Events::AuthFailures(AuthFailure::BadKey),
        ..Rule::new("1/min".parse().unwrap(), Subject::Address)
    }];
    let lists = [&rules[..]];
    let demand = Demand::new(Subjects::Address("203.0.113.77".parse().unwrap()), &lists);
    let fail = || block_on(here.admit(demand, &Deadline::default()).get());
    assert!(matches!(fail(), Admission::Admitted(..)));
    assert!(matches!(fail(), Admission::Refused(..)));
    there.reset(demand).unwrap();
    assert!(matches!(fail(), Admission::Admitted(..)));
}

#[test]
fn a_dropped_reply_releases_its_slot() {
    let server = Redis::start();
    let limiter = limiter(&server);
    let (client, other) = (Client::new(&limiter, 1), Client::new(&limiter, 2));
    let slots = rules(&["1 concurrent"]);
    let deadline = Deadline::default();
    let lists = [&slots[..]];
    let reply = limiter.admit(Demand::new(client.subjects(), &lists), &deadline);
    // Replies come in the order of the calls.
    assert!(other.admits(&limiter, &rules(&["9/min"])));
    assert_eq!(client.remaining(&limiter, &slots), 0);
    drop(reply);
    until("the slot is free", || {
        client.remaining(&limiter, &slots) == 1
    });
    assert_eq!(slots_in_use(&server), 0);
}

#[test]
fn slots_are_held_for_longer_than_a_lease_and_no_longer_than_the_node_lives() {
    let server = Redis::start();
    let (subject, other) = (limiter(&server), limiter(&server));
    let rules = rules(&["1 concurrent"]);
    let client = Client::new(&other, 1);
    assert!(Client::new(&subject, 1).admits(&subject, &rules));
    let lease = || -> Option<u64> {
        let keys: Vec<String> = server.run("KEYS *:s");
        let held: Vec<String> = server.run(&format!("HVALS {}", keys.first()?));
        held.first()?.split(':').nth(1)?.parse().ok()
    };
    let first = lease().unwrap();
    // Even while the node itself is refused all the time.
    let is_renewed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let client = Client::new(&subject, 1);
                while !is_renewed.load(Ordering::Relaxed) {
                    assert!(!client.admits(&subject, &rules));
                }
            });
        }
        until("it is renewed", || {
            lease().is_none_or(|now| now > first + 5_000_000)
        });
        is_renewed.store(true, Ordering::Relaxed);
    });
    assert!(!client.admits(&other, &rules));
    // An orderly shutdown gives the slots up.
    drop(subject);
    until("the slot is free", || client.admits(&other, &rules));
}
