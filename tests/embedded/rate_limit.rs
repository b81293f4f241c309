//! The sliding window of a key: admitted amounts, waiting times, and restarts.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::common::{
    Home, MINUTE, SECOND, admit, admitted_of, check, check_at_cost, field, key_limited_to, refusal,
};
use keyguard::{CreatedKey, KeyGuard, Reason, RotateKey, UpdateKey};

const NANOSECOND: Duration = Duration::from_nanos(1);

#[test]
fn sixty_requests_are_admitted_by_default() {
    let home = Home::new();
    let kg = home.open();
    let key = crate::common::key(&kg);
    for left in (0..60).rev() {
        assert_eq!(admit(&kg, &key), left);
    }
    let denial = check(&kg, &key).unwrap_err();
    assert_eq!(denial.reason(), Reason::RateLimited);
    assert_eq!(denial.retry_after(), Some(MINUTE));
}

#[test]
fn window_slides_and_does_not_restart() {
    let home = Home::new();
    let kg = home.open();
    let key = crate::common::key(&kg);
    let admitted = |requests| admitted_of(&kg, &key, requests, Reason::RateLimited);

    assert_eq!(admitted(30), 30);
    home.clock.advance(30 * SECOND);
    assert_eq!(admitted(40), 30);
    home.clock.advance(30 * SECOND);
    // Only the first half has left the window.
    assert_eq!(admitted(40), 30);
    home.clock.advance(30 * SECOND);
    assert_eq!(admitted(40), 30);
}

#[test]
fn client_is_admitted_exactly_after_retry_after() {
    let home = Home::new();
    let kg = home.open();
    let key = crate::common::key(&kg);
    // Uneven times, to exercise rounding.
    for _ in 0..60 {
        admit(&kg, &key);
        home.clock.advance(Duration::from_nanos(333_333_337));
    }
    for _ in 0..5 {
        let wait = check(&kg, &key).unwrap_err().retry_after().unwrap();
        home.clock.advance(wait - NANOSECOND);
        assert_eq!(refusal(check(&kg, &key)), Reason::RateLimited);
        home.clock.advance(NANOSECOND);
        admit(&kg, &key);
    }
}

#[test]
fn client_is_admitted_after_the_retry_after_header() {
    let home = Home::new();
    let kg = home.open();
    let key = crate::common::key(&kg);
    home.clock.advance(Duration::from_nanos(1_000_001));
    for _ in 0..60 {
        admit(&kg, &key);
        home.clock.advance(Duration::from_millis(7));
    }
    let denial = check(&kg, &key).unwrap_err();
    let exact = denial.retry_after().unwrap();
    let seconds = field(&denial.headers(), "Retry-After")
        .unwrap()
        .parse()
        .unwrap();
    let header = Duration::from_secs(seconds);
    assert!(header >= exact, "{header:?} is rounded down from {exact:?}");
    assert!(
        header - exact < SECOND,
        "{header:?} is not {exact:?} rounded up"
    );
    home.clock.advance(header);
    admit(&kg, &key);
}

#[test]
fn denials_consume_nothing() {
    let home = Home::new();
    let kg = home.open();
    let key = crate::common::key(&kg);
    assert_eq!(admitted_of(&kg, &key, 60, Reason::RateLimited), 60);
    for _ in 0..59 {
        home.clock.advance(SECOND);
        assert_eq!(admitted_of(&kg, &key, 10, Reason::RateLimited), 0);
    }
    home.clock.advance(SECOND);
    assert_eq!(admitted_of(&kg, &key, 61, Reason::RateLimited), 60);
}

#[test]
fn cost_counts_as_that_many_requests_or_none() {
    let home = Home::new();
    let kg = home.open();
    let key = crate::common::key(&kg);

    assert_eq!(check_at_cost(&kg, &key, 50).unwrap().remaining(), Some(10));
    let denial = check_at_cost(&kg, &key, 11).unwrap_err();
    assert_eq!(denial.reason(), Reason::RateLimited);
    assert_eq!(check_at_cost(&kg, &key, 10).unwrap().remaining(), Some(0));
    assert_eq!(refusal(check_at_cost(&kg, &key, 1)), Reason::RateLimited);
}

#[test]
fn retry_after_depends_on_the_cost() {
    let home = Home::new();
    let kg = home.open();
    let key = crate::common::key(&kg);
    for _ in 0..60 {
        admit(&kg, &key);
        home.clock.advance(SECOND);
    }
    // The first hit leaves the window at this moment.
    for cost in [2, 30, 60] {
        let wait = check_at_cost(&kg, &key, cost).unwrap_err().retry_after();
        assert_eq!(wait, Some((cost - 1) * SECOND), "a cost of {cost}");
    }
    assert_eq!(check_at_cost(&kg, &key, 1).unwrap().remaining(), Some(0));
}

#[test]
fn keys_of_one_organization_have_separate_windows() {
    let home = Home::new();
    let kg = home.open();
    let (one, other) = (key_limited_to(&kg, 2), key_limited_to(&kg, 2));
    assert_eq!(admitted_of(&kg, &one, 3, Reason::RateLimited), 2);
    assert_eq!(admitted_of(&kg, &other, 3, Reason::RateLimited), 2);
}

#[test]
fn tighter_limit_counts_what_was_admitted_under_the_looser() {
    let home = Home::new();
    let kg = home.open();
    let key = crate::common::key(&kg);
    assert_eq!(admitted_of(&kg, &key, 10, Reason::RateLimited), 10);

    set_limit(&kg, &key, 5);
    let denial = check(&kg, &key).unwrap_err();
    assert_eq!(denial.reason(), Reason::RateLimited);
    assert_eq!(field(&denial.headers(), "X-RateLimit-Limit"), Some("5"));
    assert_eq!(field(&denial.headers(), "X-RateLimit-Remaining"), Some("0"));

    home.clock.advance(MINUTE);
    assert_eq!(admitted_of(&kg, &key, 10, Reason::RateLimited), 5);
}

#[test]
fn retry_after_under_a_tightened_limit_suffices() {
    let home = Home::new();
    let kg = home.open();
    let key = crate::common::key(&kg);
    for _ in 0..10 {
        admit(&kg, &key);
        home.clock.advance(SECOND);
    }
    set_limit(&kg, &key, 3);
    // Seven of ten must leave, and one more for this request: the eighth came at second 7.
    let wait = check(&kg, &key).unwrap_err().retry_after().unwrap();
    assert_eq!(wait, 57 * SECOND);
    home.clock.advance(wait - NANOSECOND);
    assert_eq!(refusal(check(&kg, &key)), Reason::RateLimited);
    home.clock.advance(NANOSECOND);
    admit(&kg, &key);
}

#[test]
fn looser_limit_admits_the_difference_at_once() {
    let home = Home::new();
    let kg = home.open();
    let key = crate::common::key(&kg);
    assert_eq!(admitted_of(&kg, &key, 61, Reason::RateLimited), 60);
    set_limit(&kg, &key, 65);
    assert_eq!(admitted_of(&kg, &key, 10, Reason::RateLimited), 5);
}

#[test]
fn rotation_keeps_the_window() {
    let home = Home::new();
    let kg = home.open();
    let old = crate::common::key(&kg);
    assert_eq!(admitted_of(&kg, &old, 40, Reason::RateLimited), 40);

    let new = kg
        .admin()
        .rotate_key(RotateKey::new(old.key.id).grace(MINUTE))
        .unwrap();
    assert_eq!(admit(&kg, &new), 19);
    assert_eq!(admit(&kg, &old), 18);
    assert_eq!(admitted_of(&kg, &new, 20, Reason::RateLimited), 18);
    assert_eq!(refusal(check(&kg, &old)), Reason::RateLimited);
}

#[test]
fn suspending_and_resuming_keeps_the_window() {
    let home = Home::new();
    let kg = home.open();
    let key = crate::common::key(&kg);
    assert_eq!(admitted_of(&kg, &key, 40, Reason::RateLimited), 40);
    kg.admin().suspend_org(key.key.org_id).unwrap();
    assert_eq!(admitted_of(&kg, &key, 40, Reason::SuspendedOrg), 0);
    kg.admin().resume_org(key.key.org_id).unwrap();
    assert_eq!(admitted_of(&kg, &key, 40, Reason::RateLimited), 20);
}

#[test]
fn sixty_four_threads_consume_exactly_the_limit() {
    const THREADS: usize = 64;
    const ROUNDS: usize = 100;
    const LIMIT: u32 = 100;

    let home = Home::new();
    let kg = home.open();
    let key = key_limited_to(&kg, LIMIT);
    let (admitted, refused) = (counters(ROUNDS), counters(ROUNDS));
    let barrier = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for round in 0..ROUNDS {
                    barrier.wait();
                    for _ in 0..4 {
                        match check(&kg, &key) {
                            Ok(_) => admitted[round].fetch_add(1, Ordering::Relaxed),
                            Err(denial) if denial.reason() == Reason::RateLimited => {
                                refused[round].fetch_add(1, Ordering::Relaxed)
                            }
                            Err(_) => 0,
                        };
                    }
                    if barrier.wait().is_leader() {
                        home.clock.advance(MINUTE);
                    }
                }
            });
        }
    });
    let requests = 4 * THREADS as u32;
    for round in 0..ROUNDS {
        let counts = (
            admitted[round].load(Ordering::Relaxed),
            refused[round].load(Ordering::Relaxed),
        );
        assert_eq!(counts, (LIMIT, requests - LIMIT), "round {round}");
    }
}

#[test]
fn evicted_keys_are_limited_exactly() {
    let home = Home::new();
    let kg = home.open_with(home.config().key_cache_capacity(16).max_tracked_keys(32));
    // More than the key cache holds, and as many as can be tracked.
    let keys: Vec<_> = (0..32).map(|_| key_limited_to(&kg, 5)).collect();
    let mut admitted = vec![0; keys.len()];
    for _ in 0..8 {
        for (key, admitted) in keys.iter().zip(&mut admitted) {
            *admitted += admitted_of(&kg, key, 1, Reason::RateLimited);
        }
    }
    assert_eq!(admitted, vec![5; keys.len()]);
}

#[test]
fn new_key_is_refused_while_the_table_is_full_of_limited_keys() {
    let home = Home::new();
    let kg = home.open_with(home.config().key_cache_capacity(16).max_tracked_keys(32));
    let keys: Vec<_> = (0..32).map(|_| key_limited_to(&kg, 1)).collect();
    for key in &keys {
        admit(&kg, key);
    }
    let newcomer = key_limited_to(&kg, 1);
    let denial = check(&kg, &newcomer).unwrap_err();
    assert_eq!(
        (denial.reason(), denial.status()),
        (Reason::Overloaded, 503)
    );
    // Tracked keys are not evicted.
    for key in &keys {
        assert_eq!(refusal(check(&kg, key)), Reason::RateLimited);
    }
}

#[test]
fn idle_keys_are_evicted_for_a_new_key() {
    let home = Home::new();
    let kg = home.open_with(home.config().key_cache_capacity(16).max_tracked_keys(32));
    // At most one of them is tracked at a time.
    for number in 1..=100 {
        let key = key_limited_to(&kg, 1);
        if let Err(denial) = check(&kg, &key) {
            panic!("key {number} was refused: {denial}");
        }
        home.clock.advance(MINUTE);
    }
}

fn counters(number: usize) -> Vec<AtomicU32> {
    (0..number).map(|_| AtomicU32::new(0)).collect()
}

fn set_limit(kg: &KeyGuard, key: &CreatedKey, per_minute: u32) {
    kg.admin()
        .update_key(UpdateKey::new(key.key.id).rate_limit_per_minute(per_minute))
        .unwrap();
}
