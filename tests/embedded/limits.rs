//! Several limits of keys and organizations: costs, credits, requests in flight, shadow mode, overrides,
//! resets, and restarts.

use std::num::NonZeroU32;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::common::{
    HOUR, Home, IP, MINUTE, SECOND, admit, admitted_of, check, check_at_cost, check_with, field,
    key_with, org, refusal,
};
use keyguard::{
    AdminError, CreateKey, CreatedKey, IpTarget, KeyGuard, LimitStatus, LockDuration, Reason,
    Request, TimeZone, UpdateKey, UpdateOrg,
};

fn key_with_limits(kg: &KeyGuard, limits: &[&str]) -> CreatedKey {
    key_with(kg, |key| {
        key.rate_limit_per_minute(1_000_000)
            .limits(limits.iter().copied())
    })
}

fn remaining(kg: &KeyGuard, key: &CreatedKey) -> Vec<(String, u64)> {
    let states = kg.admin().key_limits(key.key.id).unwrap().into_iter();
    states
        .filter(|state| state.name != "default")
        .map(
            |LimitStatus {
                 name, remaining, ..
             }| (name, remaining),
        )
        .collect()
}

fn left(kg: &KeyGuard, key: &CreatedKey) -> Vec<u64> {
    remaining(kg, key)
        .into_iter()
        .map(|(_, left)| left)
        .collect()
}

#[test]
fn denial_by_one_limit_consumes_no_other() {
    let home = Home::new();
    let kg = home.open();
    let key = key_with_limits(&kg, &["2/s", "5/hour", "9 daily", "7 credits"]);
    assert_eq!(admitted_of(&kg, &key, 10, Reason::RateLimited), 2);
    assert_eq!(left(&kg, &key), [0, 3, 7, 5]);
    home.clock.advance(SECOND);
    assert_eq!(admitted_of(&kg, &key, 10, Reason::RateLimited), 2);
    home.clock.advance(SECOND);
    assert_eq!(admitted_of(&kg, &key, 10, Reason::RateLimited), 1);
    assert_eq!(left(&kg, &key), [1, 0, 4, 2]);
    let denial = check(&kg, &key).unwrap_err();
    assert_eq!(denial.limit_name().as_deref(), Some("5/hour"));
    home.clock.advance(HOUR);
    assert_eq!(admitted_of(&kg, &key, 2, Reason::RateLimited), 2);
    assert_eq!(admitted_of(&kg, &key, 9, Reason::CreditsExhausted), 0);
}

#[test]
fn organization_limit_is_shared_by_twenty_keys() {
    let home = Home::new();
    let kg = home.open();
    let acme = org(&kg, "acme");
    kg.admin()
        .update_org(UpdateOrg::new(acme.id).limits(["30/min"]))
        .unwrap();
    let keys: Vec<_> = (0..20).map(|_| key_with_limits(&kg, &["3/min"])).collect();
    let admitted = AtomicU32::new(0);
    let barrier = Barrier::new(keys.len());
    std::thread::scope(|scope| {
        for key in &keys {
            scope.spawn(|| {
                barrier.wait();
                admitted.fetch_add(
                    admitted_of(&kg, key, 10, Reason::RateLimited),
                    Ordering::Relaxed,
                );
            });
        }
    });
    assert_eq!(admitted.into_inner(), 30);
    let late = key_with_limits(&kg, &[]);
    let denial = check(&kg, &late).unwrap_err();
    let limit = field(&denial.headers(), "RateLimit-Policy").map(str::to_owned);
    assert_eq!(limit.as_deref(), Some(r#""org 30/min";q=30;w=60"#));

    // Other organizations are not affected, and a change is in force at once.
    kg.admin().create_org("globex").unwrap();
    let other = kg
        .admin()
        .create_key(CreateKey::new("globex", "x"))
        .unwrap();
    admit(&kg, &other);
    kg.admin()
        .update_org(UpdateOrg::new(acme.id).limits(["31/min"]))
        .unwrap();
    assert_eq!(admitted_of(&kg, &late, 3, Reason::RateLimited), 1);
}

#[test]
fn tighter_of_two_equal_period_limits_applies() {
    let home = Home::new();
    let policy = keyguard::Policy::new().key_limits(["5/min"]);
    let kg = home.open_with(home.config().policy(policy));
    let (tighter, looser) = (
        crate::common::key_limited_to(&kg, 3),
        crate::common::key_limited_to(&kg, 8),
    );
    assert_eq!(admitted_of(&kg, &tighter, 9, Reason::RateLimited), 3);
    assert_eq!(admitted_of(&kg, &looser, 9, Reason::RateLimited), 5);
}

#[test]
fn unused_cost_is_refunded_to_every_limit() {
    let home = Home::new();
    let kg = home.open();
    let acme = org(&kg, "acme");
    kg.admin()
        .update_org(UpdateOrg::new(acme.id).limits(["20/min", "50 daily"]))
        .unwrap();
    let key = key_with_limits(&kg, &["10/min shadow", "9/s", "10 credits"]);
    let grant = check_at_cost(&kg, &key, 8).unwrap();
    assert_eq!(left(&kg, &key), [2, 1, 2, 12, 42]);
    grant.settle(3);
    assert_eq!(left(&kg, &key), [7, 6, 7, 17, 47]);
    // Only the first call counts.
    grant.settle(0);
    grant.finish(200);
    assert_eq!(left(&kg, &key), [7, 6, 7, 17, 47]);
    // A dropped grant refunds nothing.
    drop(check_at_cost(&kg, &key, 2).unwrap());
    assert_eq!(left(&kg, &key), [5, 4, 5, 15, 45]);
}

#[test]
fn extra_cost_delays_later_requests() {
    let home = Home::new();
    let kg = home.open();
    let key = key_with_limits(&kg, &["10/hour"]);
    let grant = check(&kg, &key).unwrap();
    home.clock.advance(60 * SECOND);
    grant.settle(25);
    drop(grant);
    assert_eq!(left(&kg, &key), [0]);
    // 24 of 25 hits came a minute after the first.
    let wait = check(&kg, &key).unwrap_err().retry_after().unwrap();
    assert_eq!(wait, HOUR);
    home.clock.advance(wait - Duration::from_nanos(1));
    assert_eq!(refusal(check(&kg, &key)), Reason::RateLimited);
    home.clock.advance(Duration::from_nanos(1));
    admit(&kg, &key);
}

#[test]
fn ended_windows_and_days_are_not_refunded() {
    let home = Home::new();
    let kg = home.open();
    let key = key_with_limits(&kg, &["10/s", "10 daily"]);
    let grant = check_at_cost(&kg, &key, 9).unwrap();
    home.clock.advance(24 * HOUR);
    drop(check_at_cost(&kg, &key, 2).unwrap());
    grant.settle(0);
    assert_eq!(left(&kg, &key), [8, 8]);
}

#[test]
fn credits_are_consumed_and_refilled_on_time() {
    let home = Home::new();
    let kg = home.open();
    let (spent, refilled) = (
        key_with_limits(&kg, &["3 credits"]),
        key_with_limits(&kg, &["3 credits +2/min"]),
    );
    // Regression: credits without refill were reported to grow in 584 years.
    let headers = check(&kg, &spent).unwrap().headers();
    assert_eq!(field(&headers, "RateLimit"), Some(r#""credits";r=2"#));
    assert_eq!(admitted_of(&kg, &spent, 9, Reason::CreditsExhausted), 2);
    assert_eq!(admitted_of(&kg, &refilled, 9, Reason::CreditsExhausted), 3);
    let denial = check(&kg, &spent).unwrap_err();
    assert_eq!((denial.status(), denial.retry_after()), (429, None));
    assert_eq!(field(&denial.headers(), "Retry-After"), None);
    assert_eq!(
        field(&denial.headers(), "RateLimit"),
        Some(r#""credits";r=0"#)
    );
    let wait = check(&kg, &refilled).unwrap_err().retry_after();
    assert_eq!(wait, Some(MINUTE));
    home.clock.advance(MINUTE);
    assert_eq!(admitted_of(&kg, &refilled, 9, Reason::CreditsExhausted), 2);
    home.clock.advance(1_000 * HOUR);
    assert_eq!(admitted_of(&kg, &refilled, 9, Reason::CreditsExhausted), 3);
    assert_eq!(admitted_of(&kg, &spent, 9, Reason::CreditsExhausted), 0);
    // Spent credits count towards an increased amount.
    kg.admin()
        .update_key(UpdateKey::new(spent.key.id).limits(vec!["5 credits"]))
        .unwrap();
    assert_eq!(admitted_of(&kg, &spent, 9, Reason::CreditsExhausted), 2);
}

#[test]
fn threads_never_overdraw_credits() {
    let home = Home::new();
    let kg = home.open();
    let key = key_with_limits(&kg, &["500 credits"]);
    let admitted = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let count = admitted_of(&kg, &key, 100, Reason::CreditsExhausted);
                admitted.fetch_add(count, Ordering::Relaxed);
            });
        }
    });
    assert_eq!(admitted.into_inner(), 500);
}

#[test]
fn quotas_and_credits_are_exact_over_orderly_restarts() {
    let home = Home::new();
    let kg = home.open();
    let acme = org(&kg, "acme");
    kg.admin()
        .update_org(UpdateOrg::new(acme.id).limits(["100 daily"]))
        .unwrap();
    let key = key_with_limits(&kg, &["10 credits +1/hour", "40 monthly"]);
    let text = key.raw_key.expose().to_owned();
    let grant = check_at_cost(&kg, &key, 8).unwrap();
    grant.settle(6);
    drop(grant);
    kg.close().unwrap();
    let kg = home.open();
    assert_eq!(left(&kg, &key), [4, 34, 94]);
    check_with(&kg, &text).unwrap().finish(200);
    drop(kg);
    home.clock.advance(HOUR);
    let kg = home.open();
    assert_eq!(left(&kg, &key), [4, 33, 93]);
}

#[test]
fn day_ends_in_the_configured_zone() {
    let home = Home::new();
    let zone: TimeZone = "Pacific/Auckland".parse().unwrap();
    let kg = home.open_with(home.config().quota_time_zone(zone));
    let key = key_with_limits(&kg, &["2 daily"]);
    assert_eq!(admitted_of(&kg, &key, 5, Reason::QuotaExhausted), 2);
    // Noon in UTC is 1 a.m. in that zone.
    let wait = check(&kg, &key).unwrap_err().retry_after().unwrap();
    assert_eq!(wait, 23 * HOUR);
    home.clock.advance(wait);
    assert_eq!(admitted_of(&kg, &key, 5, Reason::QuotaExhausted), 2);
}

#[test]
fn requests_in_flight_are_limited() {
    let home = Home::new();
    let kg = home.open();
    let key = key_with_limits(&kg, &["2 concurrent"]);
    // The cost of a request makes no difference.
    let (one, two) = (
        check_at_cost(&kg, &key, 50).unwrap(),
        check(&kg, &key).unwrap(),
    );
    let denial = check(&kg, &key).unwrap_err();
    assert_eq!(
        (denial.reason(), denial.status(), denial.retry_after()),
        (Reason::TooManyConcurrent, 429, None)
    );
    one.finish(200);
    let three = check(&kg, &key).unwrap();
    assert_eq!(refusal(check(&kg, &key)), Reason::TooManyConcurrent);
    drop((two, three));
    assert_eq!(left(&kg, &key), [2]);
}

#[test]
fn slots_are_released_from_any_thread_and_across_changes() {
    let home = Home::new();
    let kg = home.open();
    let key = key_with_limits(&kg, &["3 concurrent"]);
    let grants: Vec<_> = (0..3).map(|_| check(&kg, &key).unwrap()).collect();
    let set = |limits: &[&str]| {
        kg.admin()
            .update_key(UpdateKey::new(key.key.id).limits(limits.iter().copied()))
            .unwrap();
    };
    set(&[]);
    let uncounted = check(&kg, &key).unwrap();
    set(&["2 concurrent"]);
    assert_eq!(refusal(check(&kg, &key)), Reason::TooManyConcurrent);
    std::thread::scope(|scope| {
        for grant in grants {
            scope.spawn(|| drop(grant));
        }
    });
    drop(uncounted);
    assert_eq!(left(&kg, &key), [2]);
}

#[test]
fn reset_ends_no_request_in_flight() {
    let home = Home::new();
    let kg = home.open();
    let key = key_with_limits(&kg, &["1 concurrent"]);
    let grant = check(&kg, &key).unwrap();
    kg.admin().reset_key(key.key.id, None).unwrap();
    assert_eq!(refusal(check(&kg, &key)), Reason::TooManyConcurrent);
    drop(grant);
    admit(&kg, &key);
}

#[test]
fn sixteen_threads_never_exceed_the_slots() {
    let home = Home::new();
    let kg = home.open();
    let key = key_with_limits(&kg, &["3 concurrent"]);
    let (now, most) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..500 {
                    if let Ok(grant) = check(&kg, &key) {
                        let in_flight = 1 + now.fetch_add(1, Ordering::SeqCst);
                        most.fetch_max(in_flight, Ordering::SeqCst);
                        now.fetch_sub(1, Ordering::SeqCst);
                        drop(grant);
                    }
                }
            });
        }
    });
    assert!(most.into_inner() <= 3);
    assert_eq!(left(&kg, &key), [3]);
}

#[test]
fn shadow_mode_reports_but_does_not_refuse() {
    let home = Home::new();
    let kg = home.open();
    let key = key_with_limits(&kg, &["2/min shadow", "4 credits"]);
    let mut shadow_fields = Vec::new();
    for _ in 0..4 {
        let grant = check(&kg, &key).unwrap();
        shadow_fields.push(field(&grant.headers(), "X-KeyGuard-Shadow").map(str::to_owned));
        assert_eq!(field(&grant.headers(), "X-RateLimit-Limit"), Some("4"));
    }
    let expected = Some(r#""2/min shadow""#.to_owned());
    assert_eq!(shadow_fields, [None, None, expected.clone(), expected]);
    assert_eq!(refusal(check(&kg, &key)), Reason::CreditsExhausted);
    let headers = [("X-API-Key", key.raw_key.expose())];
    let verdict = kg.dry_run(Request::new(&headers, IP, "/"));
    assert_eq!(verdict.shadow_denied, ["2/min shadow"]);
    let shadow_denied = kg.admin().stats().unwrap().shadow_denied;
    assert_eq!(shadow_denied, [("2/min shadow".to_owned(), 2)].into());
    // Counts like an enforced limit: requests that it would refuse do not count.
    home.clock.advance(MINUTE);
    assert_eq!(left(&kg, &key), [2, 0]);
    drop(kg);
    let shadow_denied = home.open().admin().stats().unwrap().shadow_denied;
    assert_eq!(shadow_denied.values().sum::<u64>(), 2);
}

#[test]
fn reset_clears_consumption_durably() {
    let home = Home::new();
    let kg = home.open();
    let acme = org(&kg, "acme");
    kg.admin()
        .update_org(UpdateOrg::new(acme.id).limits(["20/hour"]))
        .unwrap();
    let key = key_with_limits(&kg, &["5/hour", "8 daily"]);
    let use_all = |kg: &KeyGuard| admitted_of(kg, &key, 9, Reason::RateLimited);
    assert_eq!(use_all(&kg), 5);
    kg.admin().reset_key(key.key.id, Some("5/hour")).unwrap();
    assert_eq!(left(&kg, &key), [5, 3, 15]);
    kg.admin().reset_key(key.key.id, None).unwrap();
    assert_eq!(left(&kg, &key), [5, 8, 15]);
    kg.admin()
        .reset_key(key.key.id, Some("org 20/hour"))
        .unwrap();
    assert_eq!(left(&kg, &key), [5, 8, 20]);
    let error = kg
        .admin()
        .reset_key(key.key.id, Some("6/hour"))
        .unwrap_err();
    assert!(error.to_string().contains("`5/hour`"), "{error}");

    // Windows of an earlier run are not restored.
    assert_eq!(use_all(&kg), 5);
    drop(kg);
    let kg = home.open();
    kg.admin().reset_key(key.key.id, None).unwrap();
    drop(kg);
    let kg = home.open();
    assert_eq!(left(&kg, &key), [5, 8, 15]);
}

#[test]
fn overridden_limit_neither_refuses_nor_counts_until_its_end() {
    let home = Home::new();
    let kg = home.open();
    let key = key_with_limits(&kg, &["2/hour", "50 daily"]);
    assert_eq!(admitted_of(&kg, &key, 9, Reason::RateLimited), 2);
    let time: LockDuration = "30 minutes".parse().unwrap();
    let lifted = kg
        .admin()
        .override_limit(key.key.id, "2/hour", time)
        .unwrap();
    assert_eq!(lifted.overrides.len(), 1);
    for _ in 0..10 {
        admit(&kg, &key);
    }
    let states = kg.admin().key_limits(key.key.id).unwrap();
    let states = states
        .iter()
        .map(|state| (state.name.as_str(), state.remaining, state.overridden_until));
    let end = home.clock.timestamp().plus(30 * MINUTE);
    assert_eq!(
        states.collect::<Vec<_>>(),
        [
            ("default", 999_988, None),
            ("2/hour", 0, Some(end)),
            ("daily", 38, None)
        ]
    );
    // It is stored.
    drop(kg);
    let kg = home.open();
    home.clock.advance(30 * MINUTE - Duration::from_millis(1));
    admit(&kg, &key);
    home.clock.advance(Duration::from_millis(1));
    assert_eq!(refusal(check(&kg, &key)), Reason::RateLimited);
    kg.admin()
        .override_limit(key.key.id, "2/hour", time)
        .unwrap();
    admit(&kg, &key);
    assert!(
        kg.admin()
            .restore_limit(key.key.id, "2/hour")
            .unwrap()
            .overrides
            .is_empty()
    );
    assert_eq!(refusal(check(&kg, &key)), Reason::RateLimited);
    let error = kg
        .admin()
        .override_limit(key.key.id, "3/hour", time)
        .unwrap_err();
    assert!(matches!(error, AdminError::LimitNotFound { .. }));
}

#[test]
fn override_of_an_organization_covers_all_its_keys() {
    let home = Home::new();
    let kg = home.open();
    kg.admin()
        .update_org(UpdateOrg::new(org(&kg, "acme").id).limits(["1/hour"]))
        .unwrap();
    let keys = [key_with_limits(&kg, &[]), key_with_limits(&kg, &[])];
    admit(&kg, &keys[0]);
    assert_eq!(refusal(check(&kg, &keys[1])), Reason::RateLimited);
    kg.admin()
        .override_limit(keys[0].key.id, "org 1/hour", MINUTE)
        .unwrap();
    admit(&kg, &keys[1]);
    home.clock.advance(MINUTE);
    assert_eq!(refusal(check(&kg, &keys[1])), Reason::RateLimited);
}

#[test]
fn all_limits_of_a_key_can_be_overridden() {
    let home = Home::new();
    let kg = home.open();
    let key = crate::common::key_limited_to(&kg, 1);
    kg.admin()
        .override_limit(key.key.id, "default", MINUTE)
        .unwrap();
    for _ in 0..3 {
        let grant = check(&kg, &key).unwrap();
        assert_eq!((grant.remaining(), grant.headers()), (None, vec![]));
    }
}

#[test]
fn windows_of_unused_keys_survive_restarts() {
    let home = Home::new();
    let kg = home.open();
    kg.admin()
        .update_org(UpdateOrg::new(org(&kg, "acme").id).limits(["9/hour"]))
        .unwrap();
    let key = key_with_limits(&kg, &["5/hour"]);
    assert_eq!(admitted_of(&kg, &key, 4, Reason::RateLimited), 4);
    drop(kg);
    for _ in 0..3 {
        home.clock.advance(10 * MINUTE);
        home.open().close().unwrap();
    }
    let kg = home.open();
    assert_eq!(left(&kg, &key), [1, 5]);
    assert_eq!(admitted_of(&kg, &key, 4, Reason::RateLimited), 1);
    // The remaining time is rounded up to a grain at each stop.
    home.clock.advance(30 * MINUTE + SECOND);
    assert_eq!(left(&kg, &key), [4, 8]);
}

#[test]
fn key_is_accepted_from_its_allowed_addresses_only() {
    let home = Home::new();
    let kg = home.open();
    let key = key_with(&kg, |key| {
        key.allowed_ips(vec!["198.51.100.0/24", "2001:db8::/32", "local"])
    });
    let headers = [("X-API-Key", key.raw_key.expose())];
    let from = |ip: &str| {
        let ip: keyguard::ClientIp = ip.parse().unwrap();
        kg.check(&headers, ip, "/")
            .map(drop)
            .map_err(|d| (d.reason(), d.status()))
    };
    for ip in [
        "198.51.100.9",
        "::ffff:198.51.100.9",
        "2001:db8:ffff::1",
        "local",
    ] {
        assert_eq!(from(ip), Ok(()), "{ip}");
    }
    for ip in ["198.51.101.9", "2001:db9::1", "127.0.0.1"] {
        assert_eq!(from(ip), Err((Reason::IpNotAllowed, 403)), "{ip}");
    }
    kg.admin()
        .update_key(UpdateKey::new(key.key.id).allowed_ips(vec!["192.0.2.0/24"]))
        .unwrap();
    assert_eq!(from("198.51.100.9"), Err((Reason::IpNotAllowed, 403)));
    assert_eq!(from("192.0.2.7"), Ok(()));
    // A valid key from a refused address is not a guess.
    assert_eq!(
        kg.admin()
            .ip_limits("198.51.100.9".parse::<IpTarget>().unwrap())
            .unwrap()[0]
            .remaining,
        100
    );
}

#[test]
fn cost_above_an_enforced_limit_can_never_be_admitted() {
    let home = Home::new();
    let kg = home.open();
    kg.admin()
        .update_org(UpdateOrg::new(org(&kg, "acme").id).limits(["20/min"]))
        .unwrap();
    let key = key_with_limits(&kg, &["5/s shadow", "2 concurrent"]);
    assert_eq!(
        refusal(check_at_cost(&kg, &key, 21)),
        Reason::CostAboveLimit
    );
    let headers = [("X-API-Key", key.raw_key.expose())];
    let cost = NonZeroU32::new(20).unwrap();
    kg.decide(Request::new(&headers, IP, "/").cost(cost))
        .unwrap()
        .finish(200);
}
