//! Tests that every limiter passes.

mod model;

use std::time::Duration;

#[cfg(feature = "redis")]
use keyguard_test_support::redis::Redis;

#[cfg(feature = "redis")]
use super::fixture::redis_at;
use super::fixture::{Client, JANUARY_31, limits, memory, rule};
use super::*;
use crate::counter::{CounterId, Events, SavedValue, Subject};
use crate::limit::{Balance, Period};
use crate::lockout::AuthFailure;
use crate::model::KeyId;
use crate::time::{ManualClock, TimeZone, Timestamp};

/// Runs each test on each limiter, under its own name.
macro_rules! on_each_limiter {
    ($($test:ident)*) => {
        mod in_memory {
            $(#[test] fn $test() { super::$test(&super::Fixture::in_memory()); })*
        }

        #[cfg(feature = "redis")]
        mod in_redis {
            $(#[test] fn $test() { super::$test(&super::Fixture::in_redis()); })*
        }
    };
}

on_each_limiter! {
    a_hit_counts_from_the_later_end_of_its_grain
    a_window_admits_no_more_than_its_limit_in_any_interval
    a_request_refused_by_one_rule_consumes_from_none
    a_lone_client_is_admitted_at_the_stated_time_and_no_earlier
    a_quota_resets_at_the_end_of_its_day_or_month
    credits_refill_in_steps
    credits_without_refill_never_reset
    concurrent_requests_are_limited_until_they_are_released
    a_limit_in_shadow_mode_refuses_nothing
    a_cost_is_consumed_entirely_or_not_at_all
    settling_refunds_a_lower_cost_and_charges_a_higher_one
    hits_that_have_left_the_window_are_not_refunded
    a_day_that_has_ended_gets_no_refund
    requests_admitted_before_a_reset_get_no_refund
    a_reset_affects_only_the_given_rules
    keys_share_the_limits_of_their_organization_and_nothing_else
    routes_have_separate_counters
    balances_are_restored
    changed_balances_are_returned_for_the_store
    an_address_is_refused_by_the_full_window
    an_address_is_refused_by_each_of_many_windows
    a_limit_of_an_address_and_the_same_in_shadow_mode_have_separate_counters
    a_reset_affects_all_windows_of_an_address
    each_kind_of_failed_authentication_has_its_own_counter
}

/// A limiter under test, with a manual clock.
struct Fixture {
    limiter: Box<dyn Limiter>,
    clock: ManualClock,
    #[cfg(feature = "redis")]
    _server: Option<Redis>,
}

impl Fixture {
    fn in_memory() -> Self {
        let clock = ManualClock::starting_at(JANUARY_31);
        Self {
            limiter: Box::new(memory(clock.clone())),
            clock,
            #[cfg(feature = "redis")]
            _server: None,
        }
    }

    #[cfg(feature = "redis")]
    fn in_redis() -> Self {
        let clock = ManualClock::starting_at(JANUARY_31);
        let server = Redis::start();
        Self {
            limiter: Box::new(redis_at(&server.url(), clock.clone())),
            clock,
            _server: Some(server),
        }
    }

    fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    fn client(&self, sender: impl Into<Sender>) -> Client<'_> {
        match sender.into() {
            Sender::Key(id) => Client::member(&*self.limiter, id),
            Sender::Address(address) => Client::address(&*self.limiter, address),
        }
    }
}

/// The sender of a request: a key of the organization 1, or an address.
#[derive(Clone, Copy, Debug)]
enum Sender {
    Key(u64),
    Address(IpKey),
}

impl From<u64> for Sender {
    fn from(key: u64) -> Self {
        Self::Key(key)
    }
}

impl From<IpKey> for Sender {
    fn from(address: IpKey) -> Self {
        Self::Address(address)
    }
}

fn senders() -> [Sender; 2] {
    [Sender::Key(1), Sender::Address(ip_key("203.0.113.7"))]
}

fn ip_key(text: &str) -> IpKey {
    text.parse().unwrap()
}

fn a_hit_counts_from_the_later_end_of_its_grain(fixture: &Fixture) {
    let rules = limits(&["1/min"]);
    for sender in senders() {
        fixture.advance(Duration::from_micros(300));
        assert!(fixture.client(sender).admits(&rules, 1));
        fixture.advance(Duration::from_micros(60_000_699));
        assert!(!fixture.client(sender).admits(&rules, 1));
        fixture.advance(Duration::from_micros(1));
        assert!(fixture.client(sender).admits(&rules, 1));
    }
}

fn a_window_admits_no_more_than_its_limit_in_any_interval(fixture: &Fixture) {
    let rules = limits(&["3/s"]);
    for sender in senders() {
        let mut admitted: Vec<u64> = Vec::new();
        for step in 0..200 {
            if fixture.client(sender).admits(&rules, 1) {
                admitted.push(step * 37);
            }
            fixture.advance(Duration::from_millis(37));
        }
        assert!(admitted.len() >= 18, "{}", admitted.len());
        let is_fine = |four: &[u64]| four[3] - four[0] >= 1_000;
        assert!(admitted.windows(4).all(is_fine), "{admitted:?}");
    }
}

fn a_request_refused_by_one_rule_consumes_from_none(fixture: &Fixture) {
    let [key, address] = senders();
    let of_key = limits(&["1/s", "3/min", "9 monthly", "8 credits"]);
    let of_address = limits(&["1/s", "3/min", "2/hour shadow", "9/min shadow"]);
    for (sender, rules, left) in [
        (key, of_key, [1, 2, 8, 7]),
        (address, of_address, [1, 2, 1, 8]),
    ] {
        assert!(fixture.client(sender).admits(&rules, 1));
        for _ in 0..10 {
            assert!(!fixture.client(sender).admits(&rules, 1));
        }
        fixture.advance(Duration::from_secs(2));
        assert_eq!(fixture.client(sender).remaining(&rules), left);
    }
}

fn a_lone_client_is_admitted_at_the_stated_time_and_no_earlier(fixture: &Fixture) {
    let lists = [
        &["7/s"][..],
        &["7/s", "20/min"],
        &["9/min", "5/h"],
        &["12 credits +5/min", "11/s"],
        &["10 daily", "9/min"],
    ];
    for (key, texts) in (1..).zip(lists) {
        let rules = limits(texts);
        for asked in [1, 2, 3, 1, 4, 5, 2, 1, 3, 5, 4] {
            if let Some(wait) = fixture.client(key).refused_for(&rules, asked) {
                // A cached refusal may state a later time than necessary.
                fixture.advance(wait);
                assert!(
                    fixture.client(key).admits(&rules, asked),
                    "{texts:?} {asked}"
                );
            }
            fixture.advance(Duration::from_millis(130));
        }
        let wait = loop {
            match fixture.client(key).refused_for(&rules, 1) {
                Some(wait) => break wait,
                None => fixture.advance(Duration::from_micros(70)),
            }
        };
        fixture.advance(wait.checked_sub(Duration::from_millis(1)).unwrap());
        assert!(!fixture.client(key).admits(&rules, 1), "{texts:?}");
    }
}

fn a_quota_resets_at_the_end_of_its_day_or_month(fixture: &Fixture) {
    let day = limits(&["2 daily"]);
    let month = limits(&["2 monthly"]);
    let until_midnight = Duration::from_secs(86_400);
    for (key, rules) in [(1, &day), (2, &month)] {
        assert!(fixture.client(key).admits(rules, 1));
        assert!(fixture.client(key).admits(rules, 1));
        // The first of February is the next day.
        assert_eq!(
            fixture.client(key).refused_for(rules, 1),
            Some(until_midnight)
        );
    }
    fixture.advance(until_midnight - Duration::from_millis(1));
    assert!(!fixture.client(1).admits(&day, 1) && !fixture.client(2).admits(&month, 1));
    fixture.advance(Duration::from_millis(1));
    assert_eq!(fixture.client(1).remaining(&day), [2]);
    assert!(fixture.client(1).admits(&day, 2) && fixture.client(2).admits(&month, 2));
    fixture.advance(until_midnight);
    assert!(fixture.client(1).admits(&day, 2) && !fixture.client(2).admits(&month, 1));
}

fn credits_refill_in_steps(fixture: &Fixture) {
    let rules = limits(&["10 credits +3/min"]);
    assert!(fixture.client(1).admits(&rules, 10));
    assert_eq!(
        fixture.client(1).refused_for(&rules, 4),
        Some(Duration::from_secs(120))
    );
    fixture.advance(Duration::from_millis(59_999));
    assert_eq!(fixture.client(1).remaining(&rules), [0]);
    fixture.advance(Duration::from_millis(1));
    assert_eq!(fixture.client(1).remaining(&rules), [3]);
    fixture.advance(Duration::from_secs(600));
    assert!(fixture.client(1).admits(&rules, 5));
    // Credits never exceed the amount.
    assert_eq!(fixture.client(1).remaining(&rules), [5]);
    fixture.advance(Duration::from_secs(60));
    assert_eq!(fixture.client(1).remaining(&rules), [8]);
}

fn credits_without_refill_never_reset(fixture: &Fixture) {
    let rules = limits(&["3 credits"]);
    assert!(fixture.client(1).admits(&rules, 3));
    assert!(matches!(
        fixture.client(1).admit(&rules, 1),
        Admission::Refused(_, Moment::NEVER)
    ));
    fixture.advance(Duration::from_secs(3 * 86_400));
    assert!(!fixture.client(1).admits(&rules, 1));
}

fn concurrent_requests_are_limited_until_they_are_released(fixture: &Fixture) {
    let rules = limits(&["2 concurrent"]);
    let admitted = [
        fixture.client(1).admit(&rules, 5),
        fixture.client(1).admit(&rules, 1),
    ];
    assert!(matches!(
        fixture.client(1).admit(&rules, 1),
        Admission::Refused(_, Moment::NEVER)
    ));
    assert_eq!(fixture.client(1).remaining(&rules), [0]);
    let [Admission::Admitted(_, receipt), Admission::Admitted(..)] = admitted else {
        panic!("{admitted:?}");
    };
    fixture.client(1).release(&rules, &receipt);
    assert!(fixture.client(1).admits(&rules, 1));
    assert!(!fixture.client(1).admits(&rules, 1));
}

fn a_limit_in_shadow_mode_refuses_nothing(fixture: &Fixture) {
    let rules = limits(&["5/min", "2/min shadow", "1 credits shadow"]);
    let mut skipped = Vec::new();
    for _ in 0..5 {
        let Admission::Admitted(state, receipt) = fixture.client(1).admit(&rules, 1) else {
            panic!("refused");
        };
        assert_eq!(state.rule, 0);
        skipped.push(receipt.map_or(0, |remarks| remarks.skipped.len()));
    }
    assert_eq!(skipped, [0, 1, 2, 2, 2]);
    assert_eq!(fixture.client(1).remaining(&rules), [0, 0, 0]);
    let refused = fixture.client(1).admit(&rules, 1);
    assert!(matches!(
        refused,
        Admission::Refused(LimitState { rule: 0, .. }, _)
    ));
}

fn a_cost_is_consumed_entirely_or_not_at_all(fixture: &Fixture) {
    let rules = limits(&["10/min", "12 daily"]);
    assert!(fixture.client(1).admits(&rules, 7));
    assert!(!fixture.client(1).admits(&rules, 4));
    assert!(fixture.client(1).admits(&rules, 3));
    assert_eq!(fixture.client(1).remaining(&rules), [0, 2]);
}

fn settling_refunds_a_lower_cost_and_charges_a_higher_one(fixture: &Fixture) {
    let rules = limits(&["10/min", "20 daily", "30 credits"]);
    let first = fixture.client(1).admit(&rules, 6);
    fixture.advance(Duration::from_secs(1));
    fixture.client(1).settle(&rules, &first, 6, 2);
    assert_eq!(fixture.client(1).remaining(&rules), [8, 18, 28]);
    let second = fixture.client(1).admit(&rules, 5);
    fixture.client(1).settle(&rules, &second, 5, 17);
    assert_eq!(fixture.client(1).remaining(&rules), [0, 1, 11]);
    assert!(!fixture.client(1).admits(&rules, 1));
}

fn hits_that_have_left_the_window_are_not_refunded(fixture: &Fixture) {
    let rules = limits(&["4/s"]);
    let first = fixture.client(1).admit(&rules, 4);
    fixture.advance(Duration::from_millis(1_200));
    assert!(fixture.client(1).admits(&rules, 3));
    fixture.client(1).settle(&rules, &first, 4, 0);
    assert_eq!(fixture.client(1).remaining(&rules), [1]);
}

fn a_day_that_has_ended_gets_no_refund(fixture: &Fixture) {
    let rules = limits(&["10 daily", "10 monthly"]);
    let first = fixture.client(1).admit(&rules, 6);
    fixture.advance(Duration::from_secs(86_400));
    assert!(fixture.client(1).admits(&rules, 5));
    fixture.client(1).settle(&rules, &first, 6, 0);
    assert_eq!(fixture.client(1).remaining(&rules), [5, 5]);
}

fn requests_admitted_before_a_reset_get_no_refund(fixture: &Fixture) {
    let rules = limits(&["10/min", "10 daily", "10 credits"]);
    let first = fixture.client(1).admit(&rules, 6);
    fixture.client(1).reset(&rules);
    assert_eq!(fixture.client(1).remaining(&rules), [10, 10, 10]);
    // Another request within the same grain, whose hits are not refunded to the first.
    assert!(fixture.client(1).admits(&rules, 6));
    fixture.client(1).settle(&rules, &first, 6, 0);
    assert_eq!(fixture.client(1).remaining(&rules), [4, 4, 4]);
    // A higher cost than reserved is charged all the same.
    fixture.client(1).settle(&rules, &first, 6, 8);
    assert_eq!(fixture.client(1).remaining(&rules), [2, 2, 2]);
}

fn a_reset_affects_only_the_given_rules(fixture: &Fixture) {
    let rules = limits(&["1/min", "2/h"]);
    assert!(fixture.client(1).admits(&rules, 1));
    assert!(!fixture.client(1).admits(&rules, 1));
    fixture.client(1).reset(&rules[..1]);
    assert!(fixture.client(1).admits(&rules, 1));
    fixture.client(1).reset(&rules[..1]);
    assert_eq!(fixture.client(1).remaining(&rules), [1, 0]);
}

fn keys_share_the_limits_of_their_organization_and_nothing_else(fixture: &Fixture) {
    let mut rules = limits(&["3/min"]);
    rules.push(Rule::new("5/min".parse().unwrap(), Subject::Org));
    let admitted = |key| {
        (0..4)
            .filter(|_| fixture.client(key).admits(&rules, 1))
            .count()
    };
    assert_eq!([1, 2, 3].map(admitted), [3, 2, 0]);
}

fn routes_have_separate_counters(fixture: &Fixture) {
    let of = |route: &str| {
        let mut rule = rule("1/min");
        rule.events = Events::Route(route.into());
        [rule]
    };
    assert!(fixture.client(1).admits(&of("search"), 1));
    assert!(fixture.client(1).admits(&of("upload"), 1));
    assert!(fixture.client(1).admits(&limits(&["1/min"]), 1));
    assert!(!fixture.client(1).admits(&of("search"), 1));
}

fn balances_are_restored(fixture: &Fixture) {
    let end = TimeZone::utc().end_of_month(fixture.clock.timestamp());
    let saved = [
        (Period::Month, 8, end),
        (Period::Credits(None), 4, Timestamp::default()),
    ];
    let saved = saved.map(|(period, used, at)| SavedCounter {
        id: CounterId::plain(period),
        value: SavedValue::Balance(Balance::stored(used, at)),
    });
    let set = fixture
        .limiter
        .attach(SubjectId::key(KeyId(1)), &mut || Ok(saved.to_vec()));
    let _handle = set.unwrap();
    let rules = limits(&["10 monthly", "5 credits"]);
    assert_eq!(fixture.client(1).remaining(&rules), [2, 1]);
    assert!(fixture.client(1).admits(&rules, 1));
    assert!(!fixture.client(1).admits(&rules, 1));
}

fn changed_balances_are_returned_for_the_store(fixture: &Fixture) {
    let rules = limits(&["60/min", "10 monthly"]);
    assert!(fixture.limiter.take_changed().is_empty());
    assert!(fixture.client(1).admits(&rules, 3));
    let changed = fixture.limiter.take_changed();
    assert_eq!(changed.len(), 1);
    let saved = changed[0].take_balances();
    assert!(
        matches!(&saved[..], [SavedCounter { value: SavedValue::Balance(b), .. }] if b.used() == 3)
    );
    assert!(fixture.limiter.take_changed().is_empty());
}

fn an_address_is_refused_by_the_full_window(fixture: &Fixture) {
    let rules = ["3/min", "2/s"].map(of_login);
    let address = ip_key("203.0.113.7");
    let refused_by = |fixture: &Fixture| match fixture.client(address).admit(&rules, 1) {
        Admission::Refused(state, _) => state.rule,
        admission => panic!("{admission:?}"),
    };
    assert!(fixture.client(address).admits(&rules, 1) && fixture.client(address).admits(&rules, 1));
    assert_eq!(refused_by(fixture), 1);
    assert_eq!(fixture.client(address).remaining(&rules), [1, 0]);
    fixture.advance(Duration::from_millis(1_001));
    assert!(fixture.client(address).admits(&rules, 1));
    assert_eq!(refused_by(fixture), 0);
    let neighbor = ip_key("203.0.113.8");
    assert!(fixture.client(neighbor).admits(&rules, 1));
}

fn an_address_is_refused_by_each_of_many_windows(fixture: &Fixture) {
    let address = ip_key("203.0.113.7");
    let rules: Vec<Rule> = (0..40)
        .map(|route| of(Events::Route(format!("r{route}").into()), "2/min"))
        .collect();
    for round in 0..3 {
        for rule in &rules {
            let rule = std::slice::from_ref(rule);
            assert_eq!(
                fixture.client(address).admits(rule, 1),
                round < 2,
                "{round} {rule:?}"
            );
        }
    }
    // All of them on one request; the last is the only one that refuses.
    fixture.advance(Duration::from_secs(61));
    for _ in 0..2 {
        assert!(fixture.client(address).admits(&rules[39..], 1));
    }
    let refused = fixture.client(address).admit(&rules, 1);
    assert!(matches!(
        refused,
        Admission::Refused(LimitState { rule: 39, .. }, _)
    ));
    let left: u64 = fixture.client(address).remaining(&rules).iter().sum();
    assert_eq!(left, 39 * 2, "nothing was consumed");
}

fn a_limit_of_an_address_and_the_same_in_shadow_mode_have_separate_counters(fixture: &Fixture) {
    let rules = ["4/min", "2/min shadow"].map(of_login);
    let address = ip_key("203.0.113.7");
    let admitted = (0..5).filter(|_| fixture.client(address).admits(&rules, 1));
    assert_eq!(admitted.count(), 4);
}

fn a_reset_affects_all_windows_of_an_address(fixture: &Fixture) {
    let failures = Events::AuthFailures(AuthFailure::BadKey);
    let rules = [[of_login("1/min")], [of(failures, "1/min")]];
    let address = ip_key("2001:db8::/64");
    let admits = || {
        rules
            .each_ref()
            .map(|rules| fixture.client(address).admits(rules, 1))
    };
    assert_eq!(admits(), [true, true]);
    assert_eq!(admits(), [false, false]);
    let neighbor = fixture.client(ip_key("2001:db8:0:1::/64"));
    assert!(neighbor.admits(&rules[0], 1));
    fixture.client(address).reset(&[]);
    assert_eq!(admits(), [true, true]);
    assert!(!neighbor.admits(&rules[0], 1));
}

fn each_kind_of_failed_authentication_has_its_own_counter(fixture: &Fixture) {
    let address = ip_key("203.0.113.7");
    for failure in [AuthFailure::BadKey, AuthFailure::MissingKey] {
        let rules = [of(Events::AuthFailures(failure), "1/h")];
        assert!(fixture.client(address).admits(&rules, 1));
        assert!(!fixture.client(address).admits(&rules, 1));
    }
}

fn of(events: Events, limit: &str) -> Rule {
    Rule {
        events,
        ..Rule::new(limit.parse().unwrap(), Subject::Address)
    }
}

fn of_login(limit: &str) -> Rule {
    of(Events::IpLimit("login".into()), limit)
}
