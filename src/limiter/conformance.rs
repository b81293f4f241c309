//! What every limiter does, wherever it counts.

use std::time::Duration;

use super::*;
use crate::counter::Subject;
use crate::counter::{CounterId, SavedValue};
use crate::limit::Balance;
use crate::limit::Period;
use crate::lockout::AuthFailure;
use crate::model::KeyId;
use crate::sys::block_on;
use crate::time::TimeZone;
use crate::time::{ManualClock, Timestamp};

mod fixture;
mod model;

use fixture::{Fixture, cost, is_admitted, limits, rule};

/// Each test by its own name, on each limiter.
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
    a_request_refused_by_one_rule_consumes_none_of_the_others
    a_lone_client_that_waits_as_told_is_admitted_and_no_earlier
    a_quota_starts_anew_when_its_day_or_month_ends
    credits_come_back_in_steps
    credits_without_refill_never_come_back
    as_many_requests_as_there_are_slots_are_in_flight
    a_limit_in_shadow_mode_refuses_nobody
    a_cost_is_taken_at_once_or_not_at_all
    what_a_request_cost_less_is_given_back_and_what_it_cost_more_is_charged
    hits_that_have_left_the_window_are_not_given_back_by_others
    a_quota_gives_nothing_back_of_a_day_that_has_ended
    nothing_is_given_back_of_what_was_admitted_before_a_reset
    a_reset_forgets_the_rules_it_names_alone
    keys_share_the_limits_of_their_organization_and_nothing_else
    routes_count_apart
    balances_go_on_where_they_were_stored
    balances_are_to_be_stored_when_they_change
    a_network_is_refused_by_the_window_that_is_full
    a_network_is_refused_by_each_of_many_windows
    a_network_limit_and_the_same_in_shadow_mode_count_apart
    a_network_that_is_forgotten_starts_anew
    strikes_of_each_kind_count_apart
}

fn a_hit_counts_from_the_later_end_of_its_grain(subject: &Fixture) {
    let rules = limits(&["1/min"]);
    subject.advance(Duration::from_micros(300));
    assert!(subject.admits(1, &rules, 1));
    subject.advance(Duration::from_micros(60_000_699));
    assert!(!subject.admits(1, &rules, 1));
    subject.advance(Duration::from_micros(1));
    assert!(subject.admits(1, &rules, 1));
}

fn a_window_admits_no_more_than_its_limit_in_any_interval(subject: &Fixture) {
    let rules = limits(&["3/s"]);
    let mut admitted: Vec<u64> = Vec::new();
    for step in 0..200 {
        if subject.admits(1, &rules, 1) {
            admitted.push(step * 37);
        }
        subject.advance(Duration::from_millis(37));
    }
    assert!(admitted.len() >= 18, "{}", admitted.len());
    let is_fine = |four: &[u64]| four[3] - four[0] >= 1_000;
    assert!(admitted.windows(4).all(is_fine), "{admitted:?}");
}

fn a_request_refused_by_one_rule_consumes_none_of_the_others(subject: &Fixture) {
    let rules = limits(&["1/s", "3/min", "9 monthly", "8 credits"]);
    assert!(subject.admits(1, &rules, 1));
    for _ in 0..10 {
        assert!(!subject.admits(1, &rules, 1));
    }
    subject.advance(Duration::from_secs(2));
    assert_eq!(subject.remaining(1, &rules), [1, 2, 8, 7]);
}

fn a_lone_client_that_waits_as_told_is_admitted_and_no_earlier(subject: &Fixture) {
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
            if let Some(wait) = subject.refused_for(key, &rules, asked) {
                // Where what refuses is known already, the time told may be later than it must be.
                subject.advance(wait);
                assert!(subject.admits(key, &rules, asked), "{texts:?} {asked}");
            }
            subject.advance(Duration::from_millis(130));
        }
        let wait = loop {
            match subject.refused_for(key, &rules, 1) {
                Some(wait) => break wait,
                None => subject.advance(Duration::from_micros(70)),
            }
        };
        subject.advance(wait.checked_sub(Duration::from_millis(1)).unwrap());
        assert!(!subject.admits(key, &rules, 1), "{texts:?}");
    }
}

fn a_quota_starts_anew_when_its_day_or_month_ends(subject: &Fixture) {
    let day = limits(&["2 daily"]);
    let month = limits(&["2 monthly"]);
    let until_midnight = Duration::from_secs(86_400);
    for (key, rules) in [(1, &day), (2, &month)] {
        assert!(subject.admits(key, rules, 1));
        assert!(subject.admits(key, rules, 1));
        // The first of February is the next day.
        assert_eq!(subject.refused_for(key, rules, 1), Some(until_midnight));
    }
    subject.advance(until_midnight - Duration::from_millis(1));
    assert!(!subject.admits(1, &day, 1) && !subject.admits(2, &month, 1));
    subject.advance(Duration::from_millis(1));
    assert_eq!(subject.remaining(1, &day), [2]);
    assert!(subject.admits(1, &day, 2) && subject.admits(2, &month, 2));
    subject.advance(until_midnight);
    assert!(subject.admits(1, &day, 2) && !subject.admits(2, &month, 1));
}

fn credits_come_back_in_steps(subject: &Fixture) {
    let rules = limits(&["10 credits +3/min"]);
    assert!(subject.admits(1, &rules, 10));
    assert_eq!(
        subject.refused_for(1, &rules, 4),
        Some(Duration::from_secs(120))
    );
    subject.advance(Duration::from_millis(59_999));
    assert_eq!(subject.remaining(1, &rules), [0]);
    subject.advance(Duration::from_millis(1));
    assert_eq!(subject.remaining(1, &rules), [3]);
    subject.advance(Duration::from_secs(600));
    assert!(subject.admits(1, &rules, 5));
    // Nothing is saved up beyond the amount.
    assert_eq!(subject.remaining(1, &rules), [5]);
    subject.advance(Duration::from_secs(60));
    assert_eq!(subject.remaining(1, &rules), [8]);
}

fn credits_without_refill_never_come_back(subject: &Fixture) {
    let rules = limits(&["3 credits"]);
    assert!(subject.admits(1, &rules, 3));
    assert!(matches!(
        subject.admit(1, &rules, 1),
        Admission::Refused(_, Moment::NEVER)
    ));
    subject.advance(Duration::from_secs(3 * 86_400));
    assert!(!subject.admits(1, &rules, 1));
}

fn as_many_requests_as_there_are_slots_are_in_flight(subject: &Fixture) {
    let rules = limits(&["2 concurrent"]);
    let admitted = [subject.admit(1, &rules, 5), subject.admit(1, &rules, 1)];
    assert!(matches!(
        subject.admit(1, &rules, 1),
        Admission::Refused(_, Moment::NEVER)
    ));
    assert_eq!(subject.remaining(1, &rules), [0]);
    let [Admission::Admitted(_, receipt), Admission::Admitted(..)] = admitted else {
        panic!("{admitted:?}");
    };
    subject.release(1, &rules, &receipt);
    assert!(subject.admits(1, &rules, 1));
    assert!(!subject.admits(1, &rules, 1));
}

fn a_limit_in_shadow_mode_refuses_nobody(subject: &Fixture) {
    let rules = limits(&["5/min", "2/min shadow", "1 credits shadow"]);
    let mut shadow_denied = Vec::new();
    for _ in 0..5 {
        let Admission::Admitted(level, receipt) = subject.admit(1, &rules, 1) else {
            panic!("refused");
        };
        assert_eq!(level.rule, 0);
        shadow_denied.push(receipt.map_or(0, |remarks| remarks.shadow_denied.len()));
    }
    assert_eq!(shadow_denied, [0, 1, 2, 2, 2]);
    assert_eq!(subject.remaining(1, &rules), [0, 0, 0]);
    let refused = subject.admit(1, &rules, 1);
    assert!(matches!(
        refused,
        Admission::Refused(LimitState { rule: 0, .. }, _)
    ));
}

fn a_cost_is_taken_at_once_or_not_at_all(subject: &Fixture) {
    let rules = limits(&["10/min", "12 daily"]);
    assert!(subject.admits(1, &rules, 7));
    assert!(!subject.admits(1, &rules, 4));
    assert!(subject.admits(1, &rules, 3));
    assert_eq!(subject.remaining(1, &rules), [0, 2]);
}

fn what_a_request_cost_less_is_given_back_and_what_it_cost_more_is_charged(subject: &Fixture) {
    let rules = limits(&["10/min", "20 daily", "30 credits"]);
    let first = subject.admit(1, &rules, 6);
    subject.advance(Duration::from_secs(1));
    subject.settle(1, &rules, &first, 6, 2);
    assert_eq!(subject.remaining(1, &rules), [8, 18, 28]);
    let second = subject.admit(1, &rules, 5);
    subject.settle(1, &rules, &second, 5, 17);
    assert_eq!(subject.remaining(1, &rules), [0, 1, 11]);
    assert!(!subject.admits(1, &rules, 1));
}

fn hits_that_have_left_the_window_are_not_given_back_by_others(subject: &Fixture) {
    let rules = limits(&["4/s"]);
    let first = subject.admit(1, &rules, 4);
    subject.advance(Duration::from_millis(1_200));
    assert!(subject.admits(1, &rules, 3));
    subject.settle(1, &rules, &first, 4, 0);
    assert_eq!(subject.remaining(1, &rules), [1]);
}

fn a_quota_gives_nothing_back_of_a_day_that_has_ended(subject: &Fixture) {
    let rules = limits(&["10 daily", "10 monthly"]);
    let first = subject.admit(1, &rules, 6);
    subject.advance(Duration::from_secs(86_400));
    assert!(subject.admits(1, &rules, 5));
    subject.settle(1, &rules, &first, 6, 0);
    assert_eq!(subject.remaining(1, &rules), [5, 5]);
}

fn nothing_is_given_back_of_what_was_admitted_before_a_reset(subject: &Fixture) {
    let rules = limits(&["10/min", "10 daily", "10 credits"]);
    let first = subject.admit(1, &rules, 6);
    subject.reset(1, &rules);
    assert_eq!(subject.remaining(1, &rules), [10, 10, 10]);
    // Another request within the same grain: its hits are not given back to the first.
    assert!(subject.admits(1, &rules, 6));
    subject.settle(1, &rules, &first, 6, 0);
    assert_eq!(subject.remaining(1, &rules), [4, 4, 4]);
    // More than was reserved is charged all the same.
    subject.settle(1, &rules, &first, 6, 8);
    assert_eq!(subject.remaining(1, &rules), [2, 2, 2]);
}

fn a_reset_forgets_the_rules_it_names_alone(subject: &Fixture) {
    let rules = limits(&["1/min", "2/h"]);
    assert!(subject.admits(1, &rules, 1));
    assert!(!subject.admits(1, &rules, 1));
    subject.reset(1, &rules[..1]);
    assert!(subject.admits(1, &rules, 1));
    subject.reset(1, &rules[..1]);
    assert_eq!(subject.remaining(1, &rules), [1, 0]);
}

fn keys_share_the_limits_of_their_organization_and_nothing_else(subject: &Fixture) {
    let mut rules = limits(&["3/min"]);
    rules.push(Rule::new("5/min".parse().unwrap(), Subject::Org));
    let admitted = |key| (0..4).filter(|_| subject.admits(key, &rules, 1)).count();
    assert_eq!([1, 2, 3].map(admitted), [3, 2, 0]);
}

fn routes_count_apart(subject: &Fixture) {
    let of = |route: &str| {
        let mut rule = rule("1/min");
        rule.route = Some(route.into());
        [rule]
    };
    assert!(subject.admits(1, &of("search"), 1));
    assert!(subject.admits(1, &of("upload"), 1));
    assert!(subject.admits(1, &limits(&["1/min"]), 1));
    assert!(!subject.admits(1, &of("search"), 1));
}

fn balances_go_on_where_they_were_stored(subject: &Fixture) {
    let end = TimeZone::utc().end_of_month(subject.clock.timestamp());
    let saved = [
        (Period::Month, 8, end),
        (Period::Credits(None), 4, Timestamp::default()),
    ];
    let saved = saved.map(|(period, used, at)| SavedCounter {
        id: CounterId {
            route: None,
            period,
            shadow: false,
        },
        value: SavedValue::Balance(Balance::stored(used, at)),
    });
    let group = subject
        .limiter
        .attach(SubjectId::key(KeyId(1)), &mut || Ok(saved.to_vec()));
    let _held = group.unwrap();
    let rules = limits(&["10 monthly", "5 credits"]);
    assert_eq!(subject.remaining(1, &rules), [2, 1]);
    assert!(subject.admits(1, &rules, 1));
    assert!(!subject.admits(1, &rules, 1));
}

fn balances_are_to_be_stored_when_they_change(subject: &Fixture) {
    let rules = limits(&["60/min", "10 monthly"]);
    assert!(subject.limiter.take_changed().is_empty());
    assert!(subject.admits(1, &rules, 3));
    let changed = subject.limiter.take_changed();
    assert_eq!(changed.len(), 1);
    let saved = changed[0].take_balances();
    assert!(
        matches!(&saved[..], [SavedCounter { value: SavedValue::Balance(b), .. }] if b.used() == 3)
    );
    assert!(subject.limiter.take_changed().is_empty());
}

fn a_network_is_refused_by_the_window_that_is_full(subject: &Fixture) {
    let counts = Counts::Requests("login".into());
    let limits = ["3/min", "2/s"].map(|text| text.parse().unwrap());
    let rules = limits.map(|limit| IpRule {
        counts: &counts,
        limit,
    });
    let network: IpKey = "203.0.113.7/32".parse().unwrap();
    let hit = || subject.hit(network, &rules);
    assert!(is_admitted(&hit()) && is_admitted(&hit()));
    assert!(matches!(
        hit(),
        Admission::Refused(LimitState { rule: 1, .. }, _)
    ));
    let levels = subject.limiter.network_levels(network, &rules, cost(1));
    let remaining: Vec<u64> = levels.iter().map(|(level, _)| level.remaining).collect();
    assert_eq!(remaining, [1, 0]);
    subject.advance(Duration::from_millis(1_001));
    assert!(is_admitted(&hit()));
    assert!(matches!(
        hit(),
        Admission::Refused(LimitState { rule: 0, .. }, _)
    ));
    // A neighbour is not concerned.
    assert!(is_admitted(
        &subject.hit("203.0.113.8/32".parse().unwrap(), &rules)
    ));
}

fn a_network_is_refused_by_each_of_many_windows(subject: &Fixture) {
    let network: IpKey = "203.0.113.7/32".parse().unwrap();
    let counts: Vec<_> = (0..40)
        .map(|route| Counts::Requests(format!("r{route}").into()))
        .collect();
    let limit: Limit = "2/min".parse().unwrap();
    for round in 0..3 {
        for counts in &counts {
            let outcome = subject.hit(network, &[IpRule { counts, limit }]);
            assert_eq!(is_admitted(&outcome), round < 2, "{round} {counts:?}");
        }
    }
    // All of them on one request; the last is the only one that refuses.
    subject.advance(Duration::from_secs(61));
    let last = &counts[39];
    for _ in 0..2 {
        let rule = IpRule {
            counts: last,
            limit,
        };
        assert!(is_admitted(&subject.hit(network, &[rule])));
    }
    let rules: Vec<_> = counts
        .iter()
        .map(|counts| IpRule { counts, limit })
        .collect();
    let refused = subject.hit(network, &rules);
    assert!(matches!(
        refused,
        Admission::Refused(LimitState { rule: 39, .. }, _)
    ));
    let levels = subject.limiter.network_levels(network, &rules, cost(1));
    let left = levels.iter().map(|(level, _)| level.remaining);
    assert_eq!(left.sum::<u64>(), 39 * 2, "nothing was consumed");
}

fn a_network_limit_and_the_same_in_shadow_mode_count_apart(subject: &Fixture) {
    let counts = Counts::Requests("login".into());
    let limits = ["4/min", "2/min shadow"].map(|text| text.parse().unwrap());
    let rules = limits.map(|limit| IpRule {
        counts: &counts,
        limit,
    });
    let network: IpKey = "203.0.113.7/32".parse().unwrap();
    let outcomes: Vec<_> = (0..5).map(|_| subject.hit(network, &rules)).collect();
    let admitted = outcomes.iter().filter(|outcome| is_admitted(outcome));
    assert_eq!(admitted.count(), 4);
}

fn a_network_that_is_forgotten_starts_anew(subject: &Fixture) {
    let counts = [
        Counts::Requests("login".into()),
        Counts::Strikes(AuthFailure::BadKey),
    ];
    let limit: Limit = "1/min".parse().unwrap();
    let network: IpKey = "2001:db8::/64".parse().unwrap();
    let hits = || {
        counts
            .each_ref()
            .map(|counts| is_admitted(&subject.hit(network, &[IpRule { counts, limit }])))
    };
    assert_eq!(hits(), [true, true]);
    assert_eq!(hits(), [false, false]);
    subject.limiter.forget(network).unwrap();
    assert_eq!(hits(), [true, true]);
}

fn strikes_of_each_kind_count_apart(subject: &Fixture) {
    let network: IpKey = "203.0.113.7/32".parse().unwrap();
    let limit: Limit = "1/h".parse().unwrap();
    for counts in [AuthFailure::BadKey, AuthFailure::MissingKey].map(Counts::Strikes) {
        let rules = [IpRule {
            counts: &counts,
            limit,
        }];
        assert!(is_admitted(&subject.hit(network, &rules)));
        assert!(!is_admitted(&subject.hit(network, &rules)));
    }
}
