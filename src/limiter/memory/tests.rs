use proptest::prelude::*;

use super::*;
use crate::clock::ManualClock;
use crate::quota::CalendarMonth;
use crate::record::KeyId;

const JANUARY_31: Timestamp = Timestamp::from_unix_millis(1_769_817_600_000);

fn cost(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).unwrap()
}

fn sliding(limit: u64, length: Duration) -> Rule {
    Rule {
        limit,
        span: Span::Sliding(WindowLength::new(length).unwrap()),
    }
}

fn per_minute(limit: u64) -> Rule {
    sliding(limit, Duration::from_secs(60))
}

fn monthly(limit: u64) -> Rule {
    Rule {
        limit,
        span: Span::Month,
    }
}

fn limiter(capacity: usize) -> (MemoryLimiter, ManualClock) {
    let clock = ManualClock::starting_at(JANUARY_31);
    (
        MemoryLimiter::new(clock.clone().into(), capacity, 16),
        clock,
    )
}

fn attach(limiter: &MemoryLimiter, key: u64) -> Arc<Group> {
    limiter
        .attach(GroupId::Key(KeyId(key)), &mut || Ok(QuotaUse::default()))
        .unwrap()
}

fn is_admitted(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Admitted(..))
}

/// The rules written down as plainly as they can be.
#[derive(Default)]
struct Naive {
    /// When, in nanoseconds, rounded to the later grain of each window; and how many.
    hits: Vec<(u64, u64)>,
}

impl Naive {
    fn used(&self, rule: &Rule, now: u64) -> u64 {
        let counts = |&&(at, _): &&(u64, u64)| match rule.span {
            Span::Sliding(length) => {
                let grain = length.grain_nanos();
                at.div_ceil(grain) * grain + length.nanos() > now
            }
            Span::Month => month(at) == month(now),
        };
        self.hits.iter().filter(counts).map(|(_, n)| n).sum()
    }

    fn admit(&mut self, rules: &[Rule], now: u64, cost: u64) -> bool {
        let admitted = rules
            .iter()
            .all(|rule| self.used(rule, now) + cost <= rule.limit);
        if admitted {
            self.hits.push((now, cost));
        }
        admitted
    }
}

fn month(nanos: u64) -> CalendarMonth {
    CalendarMonth::of(JANUARY_31.plus(Duration::from_nanos(nanos)))
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
        let group = attach(&limiter, 1);
        let mut rules: Vec<Rule> = windows
            .iter()
            .map(|&(limit, millis)| sliding(limit, Duration::from_millis(millis)))
            .collect();
        rules.extend(month_limit.map(monthly));
        let longest = windows.iter().map(|(_, millis)| millis * 1_000_000).max().unwrap();
        let smallest = rules.iter().map(|rule| rule.limit).min().unwrap();
        let mut naive = Naive::default();
        let mut now = 0;
        for (wait, scale, ask) in steps {
            let wait = (longest as f64 * 1.1 * wait.powi(3) / 5_f64.powi(scale)) as u64;
            clock.advance(Duration::from_nanos(wait));
            now += wait;
            let asked = 1 + ((smallest - 1) as f64 * ask.powi(5)) as u32;
            let levels = limiter.levels(&group, &rules, cost(asked));
            for ((level, _), rule) in levels.iter().zip(&rules) {
                prop_assert_eq!(level.remaining, rule.limit - naive.used(rule, now));
            }
            let outcome = limiter.admit(&group, &rules, cost(asked));
            prop_assert_eq!(is_admitted(outcome), naive.admit(&rules, now, asked.into()));
            if let Outcome::Refused(level, room_at) = outcome {
                // A lone client that waits so long is admitted, and no earlier.
                let wait = room_at.since(level.at);
                prop_assert!(wait > Duration::ZERO);
                let then = now + wait.as_nanos() as u64;
                let fits = |at| rules.iter().all(|r| naive.used(r, at) + u64::from(asked) <= r.limit);
                prop_assert!(fits(then));
                // The calendar has milliseconds.
                let earlier = if rules[level.rule].span == Span::Month { 1_000_000 } else { 1 };
                prop_assert!(!fits(then - earlier));
            }
        }
    }
}

#[test]
fn a_request_refused_by_one_rule_consumes_none_of_the_others() {
    let (limiter, clock) = limiter(16);
    let group = attach(&limiter, 1);
    let rules = [
        sliding(1, Duration::from_secs(1)),
        per_minute(3),
        monthly(9),
    ];
    assert!(is_admitted(limiter.admit(&group, &rules, cost(1))));
    for _ in 0..10 {
        assert!(!is_admitted(limiter.admit(&group, &rules, cost(1))));
    }
    clock.advance(Duration::from_secs(1));
    let levels = limiter.levels(&group, &rules, cost(1));
    let remaining: Vec<_> = levels.iter().map(|(level, _)| level.remaining).collect();
    assert_eq!(remaining, [1, 2, 8]);
}

#[test]
fn a_group_is_the_same_until_it_counts_nothing() {
    let (limiter, clock) = limiter(16);
    let rules = [per_minute(1)];
    assert!(is_admitted(limiter.admit(
        &attach(&limiter, 1),
        &rules,
        cost(1)
    )));
    for _ in 0..SHARDS {
        limiter.sweep();
    }
    assert!(!is_admitted(limiter.admit(
        &attach(&limiter, 1),
        &rules,
        cost(1)
    )));
    clock.advance(Duration::from_secs(60));
    for _ in 0..SHARDS {
        limiter.sweep();
    }
    assert_eq!(limiter.len.load(Ordering::Relaxed), 0);
    assert!(is_admitted(limiter.admit(
        &attach(&limiter, 1),
        &rules,
        cost(1)
    )));
}

#[test]
fn a_full_table_refuses_a_newcomer_and_pushes_nobody_out() {
    let (limiter, clock) = limiter(16);
    let rules = [per_minute(1)];
    for key in 0..16 {
        assert!(is_admitted(limiter.admit(
            &attach(&limiter, key),
            &rules,
            cost(1)
        )));
    }
    let newcomer = GroupId::Key(KeyId(99));
    let refused = limiter.attach(newcomer, &mut || Ok(QuotaUse::default()));
    assert!(matches!(refused, Err(AttachError::Full)));
    for key in 0..16 {
        assert!(!is_admitted(limiter.admit(
            &attach(&limiter, key),
            &rules,
            cost(1)
        )));
    }
    clock.advance(Duration::from_secs(60));
    for _ in 0..SHARDS {
        limiter.sweep();
    }
    assert!(is_admitted(limiter.admit(
        &attach(&limiter, 99),
        &rules,
        cost(1)
    )));
}

#[test]
fn a_group_that_could_not_be_seeded_is_not_there() {
    let (limiter, _) = limiter(1);
    let damaged = || Err(StoreError::Damaged("test".into()));
    let failed = limiter.attach(GroupId::Key(KeyId(1)), &mut { damaged });
    assert!(matches!(
        failed,
        Err(AttachError::Seed(StoreError::Damaged(_)))
    ));
    attach(&limiter, 1);
}

#[test]
fn a_quota_goes_on_where_it_was_stored_and_is_stored_once_per_consumption() {
    let (limiter, _) = limiter(16);
    let stored = QuotaUse {
        month: CalendarMonth::of(JANUARY_31),
        used: 8,
    };
    let group = limiter
        .attach(GroupId::Key(KeyId(1)), &mut || Ok(stored))
        .unwrap();
    let rules = [per_minute(60), monthly(10)];
    assert!(limiter.take_consumed().is_empty());
    assert!(is_admitted(limiter.admit(&group, &rules, cost(1))));
    assert!(is_admitted(limiter.admit(&group, &rules, cost(1))));
    assert!(!is_admitted(limiter.admit(&group, &rules, cost(1))));
    let consumed = limiter.take_consumed();
    assert_eq!(consumed.len(), 1);
    let expected = QuotaUse { used: 10, ..stored };
    assert_eq!(consumed[0].settle_quota(), Some(expected));
    assert!(limiter.take_consumed().is_empty());
    limiter.return_consumed(consumed);
    assert_eq!(limiter.take_consumed().len(), 1);
}

#[test]
fn an_unstored_quota_is_kept_although_its_window_is_over() {
    let (limiter, clock) = limiter(16);
    let rules = [per_minute(60), monthly(10)];
    limiter.admit(&attach(&limiter, 1), &rules, cost(4));
    clock.advance(Duration::from_secs(61));
    for _ in 0..SHARDS {
        limiter.sweep();
    }
    let levels = limiter.levels(&attach(&limiter, 1), &rules, cost(1));
    assert_eq!(levels[1].0.remaining, 6);
    for group in limiter.take_consumed() {
        group.settle_quota();
    }
    for _ in 0..SHARDS {
        limiter.sweep();
    }
    assert_eq!(limiter.len.load(Ordering::Relaxed), 0);
}

#[test]
fn threads_together_are_admitted_as_often_as_the_limit_says() {
    let (limiter, _) = limiter(16);
    let group = attach(&limiter, 1);
    let admitted = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..100 {
                    if is_admitted(limiter.admit(&group, &[per_minute(300)], cost(1))) {
                        admitted.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(admitted.into_inner(), 300);
}

#[test]
fn a_group_is_small() {
    // With the header of its `Arc` 88 bytes: no more than 96 as allocators round it.
    assert!(size_of::<Group>() <= 72, "{} bytes", size_of::<Group>());
}
