use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, Waker};

use keyguard_test_support::redis::Redis;
use keyguard_test_support::wait_until;

use super::*;
use crate::counter::{Events, Subject};
use crate::limiter::fixture::{Client, JANUARY_31, TIMEOUT, limits, memory, redis_at};
use crate::lockout::AuthFailure;
use crate::time::{ManualClock, Timestamp};

mod servers;

fn open(url: &str, deadline: Duration, fallback: Fallback) -> RedisLimiter {
    let local = memory(Clock::system());
    RedisLimiter::open(url, &"a secret".into(), deadline, fallback, local).unwrap()
}

fn limiter(server: &Redis) -> RedisLimiter {
    redis_at(&server.url(), Clock::system())
}

/// A limiter with a manual clock that receives announcements.
fn subscribed(url: &str, clock: &ManualClock) -> RedisLimiter {
    let limiter = redis_at(url, clock.clone());
    wait_until(|| limiter.client.is_subscribed());
    limiter
}

#[test]
fn a_decision_is_one_run_of_the_script_whatever_the_number_of_limits() {
    let server = Redis::start();
    let limiter = limiter(&server);
    let client = Client::new(&limiter, 1);
    let rules = limits(&[
        "9/s",
        "9/min",
        "9/h",
        "9 daily",
        "9 credits",
        "9 concurrent",
    ]);
    assert!(client.admits(&rules, 1));
    let before = server.calls("evalsha");
    assert!(client.admits(&rules, 1));
    assert_eq!(server.calls("evalsha") - before, 1);
}

#[test]
fn every_key_expires_shares_the_slot_of_its_group_and_reveals_no_address() {
    let server = Redis::start();
    let limiter = limiter(&server);
    let client = Client::new(&limiter, 1);
    let rules = limits(&[
        "9/s",
        "9/h",
        "9 daily",
        "9 monthly",
        "9 credits",
        "9 concurrent",
    ]);
    assert!(client.admits(&rules, 1));
    client.reset(&rules);
    assert!(client.admits(&rules, 1));
    let address = Client::address(&limiter, "203.0.113.77".parse().unwrap());
    assert!(address.admits(&limits(&["9/min"]), 1));

    let keys: Vec<String> = server.run("KEYS {kg:*:[on]*");
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
    let clock = ManualClock::starting_at(JANUARY_31);
    let limiter = subscribed(&server.url(), &clock);
    let client = Client::new(&limiter, 1);
    let rules = limits(&["3/min"]);
    let first = client.admit(&rules, 3);
    let before = server.calls("evalsha");
    let calls = || server.calls("evalsha") - before;
    for _ in 0..500 {
        assert!(!client.admits(&rules, 1));
    }
    assert_eq!(calls(), 1);
    // A higher cost has no room either, for at most a window.
    let Admission::Refused(state, retry_at) = client.admit(&rules, 3) else {
        panic!("admitted");
    };
    assert_eq!((calls(), state.remaining), (1, 0));
    assert_eq!(retry_at.since(state.at), Duration::from_millis(60_001));
    // Another limit causes a call, and the same one after a second.
    assert!(client.admits(&limits(&["4/min"]), 1));
    assert_eq!(calls(), 2);
    clock.advance(Duration::from_secs(1));
    assert!(!client.admits(&rules, 1));
    assert_eq!(calls(), 3);
    // A refund of this process takes effect at once.
    client.settle(&rules, &first, 3, 1);
    assert!(client.admits(&rules, 1));
    assert!(!client.admits(&rules, 1));
    client.reset(&rules);
    assert!(client.admits(&rules, 1));
}

#[test]
fn room_that_one_process_makes_is_announced_to_others() {
    let server = Redis::start();
    // Stands still, so that no window ends.
    let clock = ManualClock::starting_at(JANUARY_31);
    let open = || subscribed(&server.url(), &clock);
    let (here, there) = (open(), open());
    let (one, other) = (Client::new(&here, 1), Client::new(&there, 1));
    let rules = limits(&["3/min", "3 daily", "3 credits"]);
    let admitted = one.admit(&rules, 3);
    let calls = || server.calls("evalsha");
    let is_remembered = || {
        let before = calls();
        !other.admits(&rules, 1) && calls() == before
    };
    wait_until(is_remembered);
    one.settle(&rules, &admitted, 3, 2);
    wait_until(|| other.admits(&rules, 1));
    wait_until(is_remembered);
    one.reset(&rules);
    wait_until(|| other.admits(&rules, 1));
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
    assert!(client.admits(&[rule("1/min shadow", None)], 1));
    assert!(client.admits(&[rule("1/min", Some("shadow"))], 1));
    assert!(!client.admits(&[rule("1/min", Some("shadow"))], 1));
}

#[test]
fn a_higher_cost_waits_until_enough_credits_are_refilled() {
    let server = Redis::start();
    let clock = ManualClock::starting_at(JANUARY_31);
    let limiter = subscribed(&server.url(), &clock);
    let client = Client::new(&limiter, 1);
    let rules = limits(&["20 credits +3/min"]);
    let wait = |n| match client.admit(&rules, n) {
        Admission::Refused(state, retry_at) => retry_at.since(state.at).as_secs(),
        other => panic!("{other:?}"),
    };
    assert!(client.admits(&rules, 20));
    assert_eq!([wait(2), wait(3), wait(5), wait(9)], [60, 120, 120, 240]);
    clock.advance(Duration::from_secs(240));
    assert!(client.admits(&rules, 9));
}

#[test]
fn a_cached_refusal_is_not_used_if_another_limit_may_refuse_for_longer() {
    let server = Redis::start();
    let clock = ManualClock::starting_at(JANUARY_31);
    let limiter = subscribed(&server.url(), &clock);
    let client = Client::new(&limiter, 1);
    let wait = |n, texts: &[&str]| match client.admit(&limits(texts), n) {
        Admission::Refused(state, retry_at) => retry_at.since(state.at).as_secs(),
        other => panic!("{other:?}"),
    };
    assert!(client.admits(&limits(&["3/min", "5/h"]), 1));
    assert!(client.admits(&limits(&["3/min", "5/h"]), 2));
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
    redis_at(&server.url(), clock)
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
            let rules = limits(&[text]);
            let [one, other] = [&wrong, &right].map(|limiter| Client::new(limiter, id));
            assert!(one.admits(&rules, 1), "{text}");
            assert!(one.admits(&rules, 1), "{text}");
            assert!(!one.admits(&rules, 1), "{text}");
            let state = other.states(&rules, 1)[0].0;
            let wait = state.resets_at.since(state.at).as_secs();
            assert!(
                state.remaining == 0 && wait <= longest * 3_600,
                "{text}: {wait} s"
            );
            assert!(!other.admits(&rules, 1), "{text}");
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
    let rules = limits(&["2/min"]);
    assert!(client.admits(&rules, 1));
    let _: () = server.run("SCRIPT FLUSH");
    assert!(client.admits(&rules, 1));
    assert!(!client.admits(&rules, 1));
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
    wait_until(|| !is_up());
    let problem = limiter.status().health.unwrap().problem.unwrap();
    assert!(problem.contains("`volatile-ttl`"), "{problem}");
    let conditions = limiter.status().conditions;
    assert!(
        conditions[0].problem.contains("`volatile-ttl`"),
        "{conditions:?}"
    );
    // Its counters remain in force.
    let client = Client::new(&limiter, 1);
    let rules = limits(&["1/min"]);
    assert!(client.admits(&rules, 1));
    assert!(!client.admits(&rules, 1));
    let _: () = server.run("CONFIG SET maxmemory-policy noeviction");
    wait_until(is_up);
    assert_eq!(limiter.status().conditions, []);
}

/// Its clock is not that of Redis, so that nothing but the check calls the server.
#[test]
fn an_idle_limiter_notices_that_the_server_is_gone() {
    let mut server = Redis::start();
    let limiter = limiter(&server);
    let is_up = || limiter.status().health.unwrap().is_up;
    assert!(is_up());
    server.pause();
    wait_until(|| !is_up());
    server.resume();
    wait_until(is_up);
    server.kill();
    wait_until(|| !is_up());
    server.restart();
    wait_until(is_up);
}

/// Changes of the configuration after which the server refuses all writes, the code of the refusal, and
/// the changes back.
const REFUSALS: [(&str, &str, &str); 2] = [
    ("REPLICAOF 127.0.0.1 1", "READONLY", "REPLICAOF NO ONE"),
    ("CONFIG SET maxmemory 1", "OOM", "CONFIG SET maxmemory 0"),
];

/// Waits until the server has refused several more writes, each an attempt to end the outage, which the
/// code explains. Asserts that it lasts meanwhile.
fn assert_steadily_down(limiter: &RedisLimiter, server: &Redis, code: &str) {
    let refusals = || -> u64 {
        let stats: String = server.run("INFO errorstats");
        let start = format!("errorstat_{code}:count=");
        let count = stats.lines().find_map(|line| line.strip_prefix(&start));
        count.map_or(0, |count| count.trim().parse().unwrap())
    };
    let enough = refusals() + 5;
    wait_until(|| {
        let health = limiter.status().health.unwrap();
        assert!(!health.is_up);
        Client::new(limiter, 99).admit(&limits(&["9 credits"]), 1);
        refusals() >= enough && health.problem.unwrap().contains(code)
    });
}

#[test]
fn an_idle_limiter_is_down_while_the_server_refuses_writes() {
    let server = Redis::start();
    let limiter = limiter(&server);
    let health = || limiter.status().health.unwrap();
    assert!(health().is_up);
    for (refuse, code, accept) in REFUSALS {
        let _: () = server.run(refuse);
        wait_until(|| !health().is_up);
        assert_steadily_down(&limiter, &server, code);
        let opened = open(&server.url(), TIMEOUT, Fallback::Deny);
        assert!(!opened.status().health.unwrap().is_up, "{code}");
        let _: () = server.run(accept);
        wait_until(|| health().is_up);
        wait_until(|| opened.status().health.unwrap().is_up);
    }
}

#[test]
fn a_call_that_the_server_refuses_as_a_write_is_an_outage_until_a_write_succeeds() {
    let server = Redis::start();
    let limiter = open(&server.url(), Duration::from_secs(1), Fallback::Local);
    let health = || limiter.status().health.unwrap();
    let rules = limits(&["99 credits"]);
    for (id, (refuse, code, accept)) in (1..).zip(REFUSALS) {
        let client = Client::new(&limiter, id);
        // On a slow machine some calls before it may time out.
        wait_until(|| {
            let failures = limiter.client.failures();
            client.admits(&rules, 1) && limiter.client.failures() == failures
        });
        let _: () = server.run(refuse);
        let failures = limiter.client.failures();
        // This process decides, and the first refusal is an outage.
        assert!(client.admits(&rules, 1));
        assert_eq!(limiter.client.failures(), failures + 1);
        assert_steadily_down(&limiter, &server, code);
        let _: () = server.run(accept);
        wait_until(|| health().is_up);
        let before = server.calls("evalsha");
        assert!(Client::new(&limiter, id + 10).admits(&rules, 1));
        wait_until(|| server.calls("evalsha") > before);
    }
}

#[test]
fn a_call_that_timed_out_is_not_repeated() {
    let server = Redis::start();
    let limiter = open(&server.url(), Duration::from_secs(1), Fallback::Deny);
    let client = Client::new(&limiter, 1);
    let rules = limits(&["99/h"]);
    // On a slow machine some calls before it may time out.
    wait_until(|| client.admits(&rules, 1));
    let (calls, failures) = (server.calls("evalsha"), limiter.client.failures());
    server.pause();
    assert_eq!(client.admit(&rules, 1), Admission::Undecided);
    server.resume();
    wait_until(|| server.calls("evalsha") == calls + 1);
    assert_eq!(limiter.client.failures(), failures + 1);
    wait_until(|| client.admits(&rules, 1));
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
        let rules = limits(&["1/h"]);
        wait_until(|| {
            client.admit(&rules, 1);
            !limiter.status().conditions.is_empty()
        });
        client.admit(&rules, 1)
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
        let rules = limits(&["1/h"]);
        wait_until(|| {
            !limiter
                .status()
                .conditions
                .iter()
                .any(|condition| condition.problem.contains("Redis is unavailable"))
        });
        let _ = client.admits(&rules, 1);
        assert!(matches!(client.admit(&rules, 1), Admission::Refused(..)));
    }
}

#[test]
fn time_does_not_run_backwards_for_a_node_whose_clock_is_behind() {
    let server = Redis::start();
    let nodes = [0, 700].map(|ahead| {
        let clock = ManualClock::starting_at(JANUARY_31.plus(Duration::from_millis(ahead)));
        (redis_at(&server.url(), clock.clone()), clock)
    });
    let [(behind, clock), (ahead, _)] = &nodes;
    let rules = limits(&["2/s"]);
    assert!(Client::new(ahead, 1).admits(&rules, 1));
    let client = Client::new(behind, 1);
    assert!(client.admits(&rules, 1));
    let Admission::Refused(state, retry_at) = client.admit(&rules, 1) else {
        panic!("admitted");
    };
    assert_eq!(retry_at.since(state.at), Duration::from_millis(1_700));
    clock.advance(Duration::from_millis(1_699));
    assert!(!client.admits(&rules, 1));
    clock.advance(Duration::from_millis(1));
    assert!(client.admits(&rules, 1));
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
    let rules = limits(&["1 concurrent"]);
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
        wait_until(|| client.remaining(&rules)[0] == 1);
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
    let at = |limiter| Client::address(limiter, "203.0.113.77".parse().unwrap());
    assert!(at(&here).admits(&rules, 1));
    assert!(at(&here).refused_for(&rules, 1).is_some());
    at(&there).reset(&rules);
    assert!(at(&here).admits(&rules, 1));
}

#[test]
fn a_dropped_reply_releases_its_slot() {
    let server = Redis::start();
    let limiter = limiter(&server);
    let (client, other) = (Client::new(&limiter, 1), Client::new(&limiter, 2));
    let slots = limits(&["1 concurrent"]);
    let deadline = Deadline::default();
    let lists = [&slots[..]];
    let reply = limiter.admit(Demand::new(client.subjects(), &lists), &deadline);
    // Replies come in the order of the calls.
    assert!(other.admits(&limits(&["9/min"]), 1));
    assert_eq!(client.remaining(&slots)[0], 0);
    drop(reply);
    wait_until(|| client.remaining(&slots)[0] == 1);
    assert_eq!(slots_in_use(&server), 0);
}

#[test]
fn slots_are_held_for_longer_than_a_lease_and_no_longer_than_the_node_lives() {
    let server = Redis::start();
    let (subject, other) = (limiter(&server), limiter(&server));
    let rules = limits(&["1 concurrent"]);
    let client = Client::new(&other, 1);
    assert!(Client::new(&subject, 1).admits(&rules, 1));
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
                    assert!(!client.admits(&rules, 1));
                }
            });
        }
        wait_until(|| lease().is_none_or(|now| now > first + 5_000_000));
        is_renewed.store(true, Ordering::Relaxed);
    });
    assert!(!client.admits(&rules, 1));
    // An orderly shutdown gives the slots up.
    drop(subject);
    wait_until(|| client.admits(&rules, 1));
}
