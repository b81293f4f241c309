//! Decisions of several threads about the same counters: every interleaving, by loom.

use keyguard_test_support::loom::{model, thread};

use super::super::fixture::{Client, JANUARY_31, memory, rule};
use super::*;
use crate::counter::{Rule, SavedValue, Subject};
use crate::time::ManualClock;

/// Returns a limiter in which the counters exist, as for keys that are in the cache.
fn limiter() -> Arc<MemoryLimiter> {
    let limiter = memory(ManualClock::starting_at(JANUARY_31));
    for key in [1, 2] {
        // The limiter keeps the sets while they count, and here because nothing sweeps.
        Client::member(&limiter, key);
    }
    Arc::new(limiter)
}

#[test]
fn two_threads_are_admitted_as_often_as_the_limit_says() {
    model(|| {
        let limiter = limiter();
        let admits_two = |limiter: &MemoryLimiter| {
            let client = Client::new(limiter, 1);
            let rules = [rule("3/s")];
            (0..2).filter(|_| client.admits(&rules, 1)).count()
        };
        let other = Arc::clone(&limiter);
        let thread = thread::spawn(move || admits_two(&other));
        let admitted = admits_two(&limiter) + thread.join().unwrap();
        assert_eq!(admitted, 3);
    });
}

#[test]
fn a_limit_that_two_keys_share_refuses_one_and_takes_nothing_of_its_own() {
    model(|| {
        let limiter = limiter();
        let org = Rule::new("1/s".parse().unwrap(), Subject::Org);
        let rules = [rule("10/s"), rule("2 concurrent"), org];
        let admits = |limiter: &MemoryLimiter, key, rules: &[Rule]| {
            let client = Client::member(limiter, key);
            let is_admitted = client.admits(rules, 1);
            let own = client.remaining(&rules[..2]);
            let expected = match is_admitted {
                true => [9, 1],
                false => [10, 2],
            };
            assert_eq!(own, expected);
            is_admitted
        };
        let (other, same) = (Arc::clone(&limiter), rules.clone());
        let thread = thread::spawn(move || admits(&other, 2, &same));
        assert!(admits(&limiter, 1, &rules) != thread.join().unwrap());
    });
}

#[test]
fn the_last_balance_that_is_taken_for_the_store_is_the_whole_one() {
    model(|| {
        let limiter = limiter();
        let threads = [(); 2].map(|()| {
            let limiter = Arc::clone(&limiter);
            thread::spawn(move || {
                assert!(Client::new(&*limiter, 1).admits(&[rule("2 credits")], 1));
            })
        });
        let taken = || {
            let sets = limiter.take_changed().into_iter();
            let saved = sets.flat_map(|set| set.take_balances());
            let used = saved.map(|saved| match saved.value {
                SavedValue::Balance(balance) => balance.used(),
                SavedValue::Hits(_) => panic!("credits are no window"),
            });
            used.last()
        };
        let first = taken();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(taken().or(first), Some(2));
    });
}
