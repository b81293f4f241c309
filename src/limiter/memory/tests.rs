use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::super::fixture::{Client, JANUARY_31, limits, rule};
use super::sets::SHARDS;
use super::*;
use crate::counter::{CounterId, Rule, SavedValue, Subject};
use crate::limit::{Balance, Limit};
use crate::model::KeyId;
use crate::time::{ManualClock, Timestamp};

/// The first moment of a manual clock.
const JANUARY_31_MOMENT: u64 = 400 * 86_400 * 1_000_000_000;

fn sliding(limit: u64, length: Duration) -> Rule {
    let limit = Limit::window(u32::try_from(limit).unwrap(), length);
    Rule::new(limit.unwrap(), Subject::Key)
}

fn amount(rule: &Rule) -> u64 {
    rule.limit.amount.get()
}

fn limiter(capacity: usize) -> (MemoryLimiter, ManualClock) {
    let clock = ManualClock::starting_at(JANUARY_31);
    (
        MemoryLimiter::new(clock.clone().into(), TimeZone::utc(), capacity, 16),
        clock,
    )
}

fn admits(limiter: &MemoryLimiter, key: u64, rules: &[Rule]) -> bool {
    Client::new(limiter, key).admits(rules, 1)
}

/// Sweeps all shards.
fn sweep(limiter: &MemoryLimiter) {
    (0..SHARDS).for_each(|_| limiter.sweep());
}

/// A naive implementation of the rules.
#[derive(Default)]
struct Naive {
    /// The times of hits in nanoseconds, and their numbers.
    hits: Vec<(u64, u64)>,
}

impl Naive {
    fn used(&self, rule: &Rule, now: u64) -> u64 {
        let counts = |&&(at, _): &&(u64, u64)| match rule.limit.period {
            Period::Sliding(length) => {
                // Grains are counted from the moment 0.
                let (grain, start) = (length.grain_nanos(), JANUARY_31_MOMENT);
                (start + at).div_ceil(grain) * grain + length.nanos() > start + now
            }
            _ => end_of_month(at) == end_of_month(now),
        };
        self.hits.iter().filter(counts).map(|(_, n)| n).sum()
    }

    fn admit(&mut self, rules: &[Rule], now: u64, cost: u64) -> bool {
        let admitted = rules
            .iter()
            .all(|rule| self.used(rule, now) + cost <= amount(rule));
        if admitted {
            self.hits.push((now, cost));
        }
        admitted
    }
}

fn end_of_month(nanos: u64) -> Timestamp {
    TimeZone::utc().end_of_month(JANUARY_31.plus(Duration::from_nanos(nanos)))
}

fn window_limit() -> impl Strategy<Value = u64> {
    prop_oneof![1..60_u64, 1_000..2_000_u64]
}

/// Of each length of a grain.
fn window_millis() -> impl Strategy<Value = u64> {
    prop_oneof![1..50_u64, 900..200_000_u64, 3_000_000..9_000_000_u64]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn decisions_equal_those_of_a_naive_log(
        // Windows of one length would share a counter.
        windows in prop::collection::btree_map(window_millis(), window_limit(), 1..4),
        month_limit in prop::option::of(1..400_u64),
        steps in prop::collection::vec((0.0..1.0_f64, 0..6_i32, 0.0..1.0_f64), 1..300),
    ) {
        let (limiter, clock) = limiter(16);
        let client = Client::new(&limiter, 1);
        let mut rules: Vec<Rule> = windows
            .iter()
            .map(|(millis, limit)| sliding(*limit, Duration::from_millis(*millis)))
            .collect();
        rules.extend(month_limit.map(|limit| rule(&format!("{limit} monthly"))));
        let longest = windows.keys().map(|millis| millis * 1_000_000).max().unwrap();
        let smallest = rules.iter().map(amount).min().unwrap();
        let mut naive = Naive::default();
        let mut now = 0;
        for (number, (wait, scale, ask)) in steps.into_iter().enumerate() {
            let wait = (longest as f64 * 1.1 * wait.powi(3) / 5_f64.powi(scale)) as u64;
            clock.advance(Duration::from_nanos(wait));
            now += wait;
            let asked = 1 + ((smallest - 1) as f64 * ask.powi(5)) as u32;
            // Listing creates and expires windows, which admitting has to do otherwise.
            let listed = if number % 2 == 1 { client.remaining(&rules) } else { Vec::new() };
            for (remaining, rule) in listed.into_iter().zip(&rules) {
                prop_assert_eq!(remaining, amount(rule) - naive.used(rule, now));
            }
            if number % 8 == 5 {
                rules.rotate_left(1);
            }
            let admission = client.admit(&rules, asked);
            let is_admitted = matches!(admission, Admission::Admitted(..));
            prop_assert_eq!(is_admitted, naive.admit(&rules, now, asked.into()));
            if let Admission::Refused(state, retry_at) = admission {
                // A lone client is admitted at the stated time, and no earlier.
                let wait = retry_at.since(state.at);
                prop_assert!(wait > Duration::ZERO);
                let then = now + wait.as_nanos() as u64;
                let fits = |at| rules.iter().all(|r| naive.used(r, at) + u64::from(asked) <= amount(r));
                prop_assert!(fits(then));
                // The calendar counts in milliseconds.
                let earlier = if rules[state.rule].limit.period == Period::Month { 1_000_000 } else { 1 };
                prop_assert!(!fits(then - earlier));
                if scale % 2 == 0 {
                    clock.advance(wait);
                    now = then;
                    let admission = client.admit(&rules, asked);
                    prop_assert!(matches!(admission, Admission::Admitted(..)));
                    prop_assert!(naive.admit(&rules, now, asked.into()));
                }
            }
        }
    }
}

#[test]
fn a_counter_set_stays_until_it_is_idle() {
    let (limiter, clock) = limiter(16);
    let rules = limits(&["1/min"]);
    assert!(admits(&limiter, 1, &rules));
    sweep(&limiter);
    assert!(!admits(&limiter, 1, &rules));
    clock.advance(Duration::from_secs(60));
    sweep(&limiter);
    assert_eq!(limiter.sets.len(), 0);
    assert!(admits(&limiter, 1, &rules));
}

#[test]
fn a_full_table_refuses_a_newcomer_and_evicts_no_set() {
    let (limiter, clock) = limiter(16);
    let rules = limits(&["1/min"]);
    for key in 0..16 {
        assert!(admits(&limiter, key, &rules));
    }
    let newcomer = SubjectId::key(KeyId(99));
    let refused = limiter.attach(newcomer, &mut || Ok(Vec::new()));
    assert!(matches!(refused, Err(AttachError::Full)));
    for key in 0..16 {
        assert!(!admits(&limiter, key, &rules));
    }
    clock.advance(Duration::from_secs(60));
    sweep(&limiter);
    assert!(admits(&limiter, 99, &rules));
}

#[test]
fn a_failed_seed_adds_no_counter_set() {
    let (limiter, _) = limiter(1);
    let damaged = || Err(StoreError::Damaged("test".into()));
    let failed = limiter.attach(SubjectId::key(KeyId(1)), &mut { damaged });
    assert!(matches!(
        failed,
        Err(AttachError::Seed(StoreError::Damaged(_)))
    ));
    Client::new(&limiter, 1);
}

fn of_month(used: u64) -> SavedCounter {
    SavedCounter {
        id: CounterId::plain(Period::Month),
        value: SavedValue::Balance(Balance::stored(used, end_of_month(0))),
    }
}

#[test]
fn a_quota_is_restored_and_is_stored_once_per_change() {
    let (limiter, _) = limiter(16);
    let set = limiter.attach(SubjectId::key(KeyId(1)), &mut || Ok(vec![of_month(8)]));
    let _handle = set.unwrap();
    let rules = limits(&["60/min", "10 monthly"]);
    assert!(limiter.take_changed().is_empty());
    assert!(admits(&limiter, 1, &rules) && admits(&limiter, 1, &rules));
    assert!(!admits(&limiter, 1, &rules));
    let changed = limiter.take_changed();
    assert_eq!(changed.len(), 1);
    assert_eq!(changed[0].take_balances(), [of_month(10)]);
    assert!(changed[0].take_balances().is_empty());
    assert!(limiter.take_changed().is_empty());
    limiter.return_changed(changed);
    assert_eq!(limiter.take_changed().len(), 1);
}

#[test]
fn an_unstored_quota_keeps_its_counter_set_in_memory() {
    let (limiter, clock) = limiter(16);
    let rules = limits(&["60/min", "10 monthly"]);
    assert!(Client::new(&limiter, 1).admits(&rules, 4));
    clock.advance(Duration::from_secs(61));
    sweep(&limiter);
    assert_eq!(Client::new(&limiter, 1).remaining(&rules)[1], 6);
    for set in limiter.take_changed() {
        set.take_balances();
    }
    sweep(&limiter);
    assert_eq!(limiter.sets.len(), 0);
}

#[test]
fn saved_windows_are_restored() {
    let (limiter, clock) = limiter(16);
    let rules = limits(&["10/min", "20/h"]);
    for _ in 0..8 {
        assert!(admits(&limiter, 1, &rules));
        clock.advance(Duration::from_secs(5));
    }
    let saved: Vec<_> = (0..)
        .map_while(|part| limiter.windows(part))
        .flat_map(|saved| saved.sets)
        .collect();
    let [(id, windows)] = saved.as_slice() else {
        panic!("{saved:?}");
    };
    // Another process, whose clock started earlier.
    let later = ManualClock::starting_at(clock.timestamp().minus(Duration::from_millis(4_999)));
    later.advance(Duration::from_millis(4_999));
    let next = MemoryLimiter::new(later.clone().into(), TimeZone::utc(), 16, 16);
    let _handle = next.attach(*id, &mut || Ok(windows.clone())).unwrap();
    let left = || Client::new(&next, 1).remaining(&rules);
    assert_eq!(left(), [2, 12]);
    // The first hit came 40 seconds before.
    later.advance(Duration::from_millis(19_999));
    assert_eq!(left(), [2, 12]);
    later.advance(Duration::from_millis(2));
    assert_eq!(left(), [3, 12]);
}

#[test]
fn threads_together_are_admitted_up_to_the_limit() {
    let (limiter, _) = limiter(16);
    let client = Client::new(&limiter, 1);
    let rules = limits(&["300/min"]);
    let admitted = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..100 {
                    if client.admits(&rules, 1) {
                        admitted.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(admitted.into_inner(), 300);
}

#[test]
fn a_counter_set_is_small() {
    // With the header of its `Arc` 88 bytes: no more than 96 as allocators round it.
    assert!(
        size_of::<CounterSet>() <= 72,
        "{} bytes",
        size_of::<CounterSet>()
    );
}
