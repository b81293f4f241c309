//! The monthly quota of a key: admitted amounts, resets, and restarts.

use std::time::Duration;

use crate::common::{
    DAY, Home, MINUTE, admit, admitted_of, check, check_at_cost, field, key_with, refusal,
};
use keyguard::{Config, CreatedKey, KeyGuard, Reason, RotateKey, Timestamp, UpdateKey};

const MILLISECOND: Duration = Duration::from_millis(1);

/// A limit per minute that these tests do not reach.
const PLENTY: u32 = 1_000_000;

#[test]
fn month_admits_exactly_its_limit() {
    let home = Home::new();
    let kg = home.open();
    let key = key_of_a_month(&kg, 25);
    for left in (0..25).rev() {
        assert_eq!(admit(&kg, &key), left);
    }
    assert_eq!(admitted_of(&kg, &key, 25, Reason::QuotaExhausted), 0);
    // Half a month later it is still the same month.
    home.clock.advance(16 * DAY);
    assert_eq!(admitted_of(&kg, &key, 25, Reason::QuotaExhausted), 0);
}

#[test]
fn retry_after_ends_with_the_month() {
    // From 2026-01-15T12:00:00Z.
    let home = Home::new();
    let kg = home.open();
    let key = key_of_a_month(&kg, 1);
    admit(&kg, &key);

    home.clock.advance(MILLISECOND);
    let denial = check(&kg, &key).unwrap_err();
    let wait = 16 * DAY + DAY / 2;
    assert_eq!(denial.status(), 429);
    assert_eq!(denial.retry_after(), Some(wait - MILLISECOND));
    assert_eq!(field(&denial.headers(), "Retry-After"), Some("1425600"));

    home.clock.advance(wait - MILLISECOND);
    admit(&kg, &key);
}

#[test]
fn month_starts_at_its_first_millisecond() {
    let last_millisecond_of = [
        at("2026-01-31T23:59:59.999Z"),
        at("2026-02-28T23:59:59.999Z"),
        at("2028-02-29T23:59:59.999Z"),
        at("2026-04-30T23:59:59.999Z"),
        at("2026-12-31T23:59:59.999Z"),
        at("1999-12-31T23:59:59.999Z"),
    ];
    for last in last_millisecond_of {
        let home = Home::at(last);
        let kg = home.open();
        let key = key_of_a_month(&kg, 3);
        let admitted = || admitted_of(&kg, &key, 5, Reason::QuotaExhausted);
        assert_eq!(admitted(), 3, "{last}");
        home.clock.advance(MILLISECOND - Duration::from_nanos(1));
        assert_eq!(admitted(), 0, "{last}");
        home.clock.advance(Duration::from_nanos(1));
        assert_eq!(admitted(), 3, "{last}");
    }
}

#[test]
fn leap_day_belongs_to_february() {
    let home = Home::at(at("2028-02-28T23:59:59.999Z"));
    let kg = home.open();
    let key = key_of_a_month(&kg, 3);
    assert_eq!(admitted_of(&kg, &key, 5, Reason::QuotaExhausted), 3);
    home.clock.advance(MILLISECOND);
    assert_eq!(admitted_of(&kg, &key, 5, Reason::QuotaExhausted), 0);
}

#[test]
fn every_month_of_a_year_admits_its_limit_once() {
    let home = Home::at(at("2026-01-01T00:00:00Z"));
    let kg = home.open();
    let key = key_of_a_month(&kg, 7);
    let mut admitted = Vec::new();
    while home.clock.timestamp() < at("2027-01-01T00:00:00Z") {
        admitted.push(admitted_of(&kg, &key, 10, Reason::QuotaExhausted));
        home.clock.advance(DAY);
    }
    assert_eq!(admitted.len(), 365);
    assert_eq!(admitted.iter().sum::<u32>(), 12 * 7);
}

#[test]
fn cost_is_consumed_whole_or_not_at_all() {
    let home = Home::new();
    let kg = home.open();
    let key = key_of_a_month(&kg, 10);
    assert_eq!(check_at_cost(&kg, &key, 7).unwrap().remaining(), Some(3));
    assert_eq!(refusal(check_at_cost(&kg, &key, 4)), Reason::QuotaExhausted);
    assert_eq!(check_at_cost(&kg, &key, 3).unwrap().remaining(), Some(0));
    assert_eq!(refusal(check(&kg, &key)), Reason::QuotaExhausted);
}

#[test]
fn window_denial_consumes_no_quota() {
    let home = Home::new();
    let kg = home.open();
    let key = key_with(&kg, |key| {
        key.rate_limit_per_minute(5).limits(vec!["12 monthly"])
    });
    for expected in [5, 5] {
        assert_eq!(admitted_of(&kg, &key, 20, Reason::RateLimited), expected);
        home.clock.advance(MINUTE);
    }
    assert_eq!(admitted_of(&kg, &key, 20, Reason::QuotaExhausted), 2);
}

#[test]
fn quota_denial_consumes_no_window() {
    let home = Home::at(at("2026-01-31T23:59:50Z"));
    let kg = home.open();
    let key = key_with(&kg, |key| {
        key.rate_limit_per_minute(5).limits(vec!["4 monthly"])
    });
    assert_eq!(admitted_of(&kg, &key, 20, Reason::QuotaExhausted), 4);
    // The month is reset; the window still contains four hits and no refusal.
    home.clock.advance(Duration::from_secs(10));
    assert_eq!(admitted_of(&kg, &key, 20, Reason::RateLimited), 1);
}

#[test]
fn keys_of_one_organization_have_separate_quotas() {
    let home = Home::new();
    let kg = home.open();
    let (one, other) = (key_of_a_month(&kg, 3), key_of_a_month(&kg, 3));
    assert_eq!(admitted_of(&kg, &one, 5, Reason::QuotaExhausted), 3);
    assert_eq!(admitted_of(&kg, &other, 5, Reason::QuotaExhausted), 3);
}

#[test]
fn consumption_survives_every_orderly_stop() {
    let close = |kg: KeyGuard| kg.close().unwrap();
    type Stop = fn(KeyGuard);
    for (name, stop) in [("close", close as Stop), ("drop", drop as Stop)] {
        for record_usage in [true, false] {
            let home = Home::new();
            let config = || home.config().record_usage(record_usage);
            let kg = home.open_with(config());
            let key = key_of_a_month(&kg, 10);
            assert_eq!(admitted_of(&kg, &key, 6, Reason::QuotaExhausted), 6);
            stop(kg);

            let kg = home.open_with(config());
            let admitted = admitted_of(&kg, &key, 20, Reason::QuotaExhausted);
            assert_eq!(admitted, 4, "after {name}, usage recorded: {record_usage}");
            stop(kg);

            let kg = home.open_with(config());
            let admitted = admitted_of(&kg, &key, 20, Reason::QuotaExhausted);
            assert_eq!(admitted, 0, "after {name}, usage recorded: {record_usage}");
        }
    }
}

#[test]
fn month_ends_while_the_file_is_closed() {
    let home = Home::at(at("2026-12-31T23:59:00Z"));
    let kg = home.open();
    let key = key_of_a_month(&kg, 3);
    assert_eq!(admitted_of(&kg, &key, 5, Reason::QuotaExhausted), 3);
    kg.close().unwrap();

    home.clock.advance(MINUTE);
    let kg = home.open();
    assert_eq!(admitted_of(&kg, &key, 5, Reason::QuotaExhausted), 3);
}

#[test]
fn eight_threads_consume_exactly_the_limit() {
    const THREADS: u32 = 8;
    const LIMIT: u32 = 500;

    for record_usage in [true, false] {
        let home = Home::new();
        let config = || home.config().record_usage(record_usage);
        let kg = home.open_with(config());
        let key = key_of_a_month(&kg, LIMIT.into());
        // Two threads can still exhaust the month.
        let check_often = || admitted_of(&kg, &key, LIMIT / 2, Reason::QuotaExhausted);
        let admitted: u32 = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(check_often)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(admitted, LIMIT);
        kg.close().unwrap();

        let kg = home.open_with(config());
        assert_eq!(admitted_of(&kg, &key, 1, Reason::QuotaExhausted), 0);
    }
}

#[test]
fn evicted_keys_keep_their_consumption() {
    const KEYS: usize = 100;

    let home = Home::new();
    let kg = home.open_with(few_in_memory(home.config()));
    let keys: Vec<_> = (0..KEYS).map(|_| key_of_a_month(&kg, 3)).collect();
    let mut admitted = [0; KEYS];
    for _ in 0..5 {
        for (key, admitted) in keys.iter().zip(&mut admitted) {
            *admitted += admitted_of(&kg, key, 1, Reason::QuotaExhausted);
            // Keys with empty windows and stored consumption are evicted.
            home.clock.advance(MINUTE);
            kg.flush().unwrap();
        }
    }
    assert_eq!(admitted, [3; KEYS]);
}

#[test]
fn raised_limit_admits_the_difference_at_once() {
    let home = Home::new();
    let kg = home.open();
    let key = key_of_a_month(&kg, 5);
    assert_eq!(admitted_of(&kg, &key, 9, Reason::QuotaExhausted), 5);
    set_month(&kg, &key, Some(7));
    assert_eq!(admitted_of(&kg, &key, 9, Reason::QuotaExhausted), 2);
}

#[test]
fn lowered_limit_counts_what_was_admitted_under_the_higher() {
    let home = Home::new();
    let kg = home.open();
    let key = key_of_a_month(&kg, 10);
    assert_eq!(admitted_of(&kg, &key, 6, Reason::QuotaExhausted), 6);

    set_month(&kg, &key, Some(8));
    assert_eq!(admit(&kg, &key), 1);
    set_month(&kg, &key, Some(4));
    let denial = check(&kg, &key).unwrap_err();
    assert_eq!(denial.reason(), Reason::QuotaExhausted);
    assert_eq!(field(&denial.headers(), "X-RateLimit-Limit"), Some("4"));
    assert_eq!(field(&denial.headers(), "X-RateLimit-Remaining"), Some("0"));

    // 2026-02-01 is 16.5 days away.
    home.clock.advance(17 * DAY);
    assert_eq!(admitted_of(&kg, &key, 9, Reason::QuotaExhausted), 4);
}

#[test]
fn removed_limit_no_longer_refuses() {
    let home = Home::new();
    let kg = home.open();
    let key = key_of_a_month(&kg, 5);
    assert_eq!(admitted_of(&kg, &key, 9, Reason::QuotaExhausted), 5);

    set_month(&kg, &key, None);
    assert_eq!(admit(&kg, &key), u64::from(PLENTY) - 6);
    // Consumption under the quota still counts; requests without a quota do not.
    set_month(&kg, &key, Some(6));
    assert_eq!(admitted_of(&kg, &key, 9, Reason::QuotaExhausted), 1);
}

#[test]
fn added_limit_applies_at_once() {
    let home = Home::new();
    let kg = home.open();
    let key = crate::common::key(&kg);
    admit(&kg, &key);
    home.clock.advance(MINUTE);
    set_month(&kg, &key, Some(3));
    assert_eq!(admitted_of(&kg, &key, 9, Reason::QuotaExhausted), 3);
}

#[test]
fn rotation_keeps_consumption() {
    let home = Home::new();
    let kg = home.open();
    let old = key_of_a_month(&kg, 10);
    assert_eq!(admitted_of(&kg, &old, 4, Reason::QuotaExhausted), 4);

    let new = kg
        .admin()
        .rotate_key(RotateKey::new(old.key.id).grace(MINUTE))
        .unwrap();
    assert_eq!(admit(&kg, &new), 5);
    assert_eq!(admit(&kg, &old), 4);
    kg.close().unwrap();

    let kg = home.open();
    assert_eq!(admitted_of(&kg, &new, 9, Reason::QuotaExhausted), 4);
    assert_eq!(refusal(check(&kg, &old)), Reason::QuotaExhausted);
}

#[test]
fn suspension_does_not_refill_quotas() {
    let home = Home::new();
    let kg = home.open();
    let key = key_of_a_month(&kg, 5);
    assert_eq!(admitted_of(&kg, &key, 3, Reason::QuotaExhausted), 3);
    kg.admin().suspend_org(key.key.org_id).unwrap();
    assert_eq!(admitted_of(&kg, &key, 9, Reason::SuspendedOrg), 0);
    kg.admin().resume_org(key.key.org_id).unwrap();
    assert_eq!(admitted_of(&kg, &key, 9, Reason::QuotaExhausted), 2);
}

/// A key with a monthly quota and a high limit per minute.
fn key_of_a_month(kg: &KeyGuard, monthly: u64) -> CreatedKey {
    key_with(kg, |key| {
        key.rate_limit_per_minute(PLENTY)
            .limits(vec![format!("{monthly} monthly")])
    })
}

fn set_month(kg: &KeyGuard, key: &CreatedKey, limit: Option<u64>) {
    kg.admin()
        .update_key(
            UpdateKey::new(key.key.id).limits(limit.map(|limit| format!("{limit} monthly"))),
        )
        .unwrap();
}

fn few_in_memory(config: Config) -> Config {
    config.key_cache_capacity(16).max_tracked_keys(32)
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}
