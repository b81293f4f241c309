use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::sets::SHARDS;
use super::*;
use crate::counter::{CounterId, SavedValue, Subject};
use crate::limit::Balance;
use crate::limit::Limit;
use crate::model::{KeyId, OrgId};
use crate::time::{ManualClock, Timestamp};

const JANUARY_31: Timestamp = Timestamp::from_unix_millis(1_769_817_600_000);
/// The first moment of a manual clock.
const JANUARY_31_MOMENT: u64 = 400 * 86_400 * 1_000_000_000;

fn cost(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).unwrap()
}

fn rule(limit: Limit) -> Rule {
    Rule::new(limit, Subject::Key)
}

fn sliding(limit: u64, length: Duration) -> Rule {
    rule(Limit::window(u32::try_from(limit).unwrap(), length).unwrap())
}

fn per_minute(limit: u64) -> Rule {
    sliding(limit, Duration::from_secs(60))
}

fn monthly(limit: u64) -> Rule {
    rule(Limit::monthly(limit).unwrap())
}

fn amount(rule: &Rule) -> u64 {
    rule.limit.amount.get()
}

/// A key whose organization has no limits.
fn alone(key: &Arc<CounterSet>) -> Subjects<'_> {
    Subjects::Key(CounterSets {
        key,
        org: None,
        org_id: OrgId(1),
    })
}

fn admit(
    limiter: &MemoryLimiter,
    key: &Arc<CounterSet>,
    rules: &[Rule],
    cost: NonZeroU32,
) -> Admission {
    limiter.admit_now(Demand {
        cost,
        ..Demand::new(alone(key), &[rules])
    })
}

fn states(
    limiter: &MemoryLimiter,
    key: &Arc<CounterSet>,
    rules: &[Rule],
    cost: NonZeroU32,
) -> Vec<(LimitState, Moment)> {
    limiter.states(Demand {
        cost,
        ..Demand::new(alone(key), &[rules])
    })
}

fn limiter(capacity: usize) -> (MemoryLimiter, ManualClock) {
    let clock = ManualClock::starting_at(JANUARY_31);
    (
        MemoryLimiter::new(clock.clone().into(), TimeZone::utc(), capacity, 16),
        clock,
    )
}

fn attach(limiter: &MemoryLimiter, key: u64) -> Arc<CounterSet> {
    limiter
        .attach(SubjectId::key(KeyId(key)), &mut || Ok(Vec::new()))
        .unwrap()
}

fn is_admitted(admission: Admission) -> bool {
    matches!(admission, Admission::Admitted(..))
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn decisions_equal_those_of_a_naive_log(
        windows in prop::collection::vec((1..60_u64, 1..200_000_u64), 1..4),
        month_limit in prop::option::of(1..400_u64),
        steps in prop::collection::vec((0.0..1.0_f64, 0..6_i32, 0.0..1.0_f64), 1..300),
    ) {
        let (limiter, clock) = limiter(16);
        let set = attach(&limiter, 1);
        let mut rules: Vec<Rule> = windows
            .iter()
            .map(|&(limit, millis)| sliding(limit, Duration::from_millis(millis)))
            .collect();
        rules.extend(month_limit.map(monthly));
        let longest = windows.iter().map(|(_, millis)| millis * 1_000_000).max().unwrap();
        let smallest = rules.iter().map(amount).min().unwrap();
        let mut naive = Naive::default();
        let mut now = 0;
        for (wait, scale, ask) in steps {
            let wait = (longest as f64 * 1.1 * wait.powi(3) / 5_f64.powi(scale)) as u64;
            clock.advance(Duration::from_nanos(wait));
            now += wait;
            let asked = 1 + ((smallest - 1) as f64 * ask.powi(5)) as u32;
            let states = states(&limiter, &set, &rules, cost(asked));
            for ((state, _), rule) in states.iter().zip(&rules) {
                prop_assert_eq!(state.remaining, amount(rule) - naive.used(rule, now));
            }
            let admission = admit(&limiter, &set, &rules, cost(asked));
            prop_assert_eq!(is_admitted(admission.clone()), naive.admit(&rules, now, asked.into()));
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
            }
        }
    }
}

#[test]
fn a_counter_set_stays_until_it_is_idle() {
    let (limiter, clock) = limiter(16);
    let rules = [per_minute(1)];
    assert!(is_admitted(admit(
        &limiter,
        &attach(&limiter, 1),
        &rules,
        cost(1)
    )));
    for _ in 0..SHARDS {
        limiter.sweep();
    }
    assert!(!is_admitted(admit(
        &limiter,
        &attach(&limiter, 1),
        &rules,
        cost(1)
    )));
    clock.advance(Duration::from_secs(60));
    for _ in 0..SHARDS {
        limiter.sweep();
    }
    assert_eq!(limiter.sets.len(), 0);
    assert!(is_admitted(admit(
        &limiter,
        &attach(&limiter, 1),
        &rules,
        cost(1)
    )));
}

#[test]
fn a_full_table_refuses_a_newcomer_and_evicts_no_set() {
    let (limiter, clock) = limiter(16);
    let rules = [per_minute(1)];
    for key in 0..16 {
        assert!(is_admitted(admit(
            &limiter,
            &attach(&limiter, key),
            &rules,
            cost(1)
        )));
    }
    let newcomer = SubjectId::key(KeyId(99));
    let refused = limiter.attach(newcomer, &mut || Ok(Vec::new()));
    assert!(matches!(refused, Err(AttachError::Full)));
    for key in 0..16 {
        assert!(!is_admitted(admit(
            &limiter,
            &attach(&limiter, key),
            &rules,
            cost(1)
        )));
    }
    clock.advance(Duration::from_secs(60));
    for _ in 0..SHARDS {
        limiter.sweep();
    }
    assert!(is_admitted(admit(
        &limiter,
        &attach(&limiter, 99),
        &rules,
        cost(1)
    )));
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
    attach(&limiter, 1);
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
    let set = limiter
        .attach(SubjectId::key(KeyId(1)), &mut || Ok(vec![of_month(8)]))
        .unwrap();
    let rules = [per_minute(60), monthly(10)];
    assert!(limiter.take_changed().is_empty());
    assert!(is_admitted(admit(&limiter, &set, &rules, cost(1))));
    assert!(is_admitted(admit(&limiter, &set, &rules, cost(1))));
    assert!(!is_admitted(admit(&limiter, &set, &rules, cost(1))));
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
    let rules = [per_minute(60), monthly(10)];
    admit(&limiter, &attach(&limiter, 1), &rules, cost(4));
    clock.advance(Duration::from_secs(61));
    for _ in 0..SHARDS {
        limiter.sweep();
    }
    let states = states(&limiter, &attach(&limiter, 1), &rules, cost(1));
    assert_eq!(states[1].0.remaining, 6);
    for set in limiter.take_changed() {
        set.take_balances();
    }
    for _ in 0..SHARDS {
        limiter.sweep();
    }
    assert_eq!(limiter.sets.len(), 0);
}

#[test]
fn saved_windows_are_restored() {
    let (limiter, clock) = limiter(16);
    let rules = [per_minute(10), sliding(20, Duration::from_secs(3_600))];
    let set = attach(&limiter, 1);
    for _ in 0..8 {
        assert!(is_admitted(admit(&limiter, &set, &rules, cost(1))));
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
    let set = next.attach(*id, &mut || Ok(windows.clone())).unwrap();
    let left = |next: &MemoryLimiter| -> Vec<u64> {
        let states = states(next, &set, &rules, cost(1)).into_iter();
        states.map(|(state, _)| state.remaining).collect()
    };
    assert_eq!(left(&next), [2, 12]);
    // The first hit came 40 seconds before.
    later.advance(Duration::from_millis(19_999));
    assert_eq!(left(&next), [2, 12]);
    later.advance(Duration::from_millis(2));
    assert_eq!(left(&next), [3, 12]);
}

#[test]
fn threads_together_are_admitted_up_to_the_limit() {
    let (limiter, _) = limiter(16);
    let set = attach(&limiter, 1);
    let admitted = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..100 {
                    if is_admitted(admit(&limiter, &set, &[per_minute(300)], cost(1))) {
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
