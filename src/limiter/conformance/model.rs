//! All limiters decide random sequences of requests alike.
#![cfg(feature = "redis")]

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Admit(u32),
    /// An admitted request, and its actual cost.
    Settle(prop::sample::Index, u64),
    Release,
    Reset,
}

/// Grains that divide a day, so that both clocks have the same.
const LIMITS: [&str; 9] = [
    "9/s",
    "6/17ms",
    "20/min",
    "30/h",
    "40/day",
    "50 daily",
    "60 monthly",
    "25 credits +7/min",
    "4 concurrent",
];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..24_u32, 0..1_000_u64).prop_map(|(scale, n)| Step::Wait((n << scale) / 10)),
        6 => (1..6_u32).prop_map(Step::Admit),
        2 => (any::<prop::sample::Index>(), 0..9_u64).prop_map(|(which, n)| Step::Settle(which, n)),
        2 => Just(Step::Release),
        1 => Just(Step::Reset),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn redis_decides_as_memory_does(
        texts in prop::sample::subsequence(&LIMITS[..], 1..5),
        shadow in prop::option::of(Just("6/s shadow")),
        steps in steps(),
    ) {
        let mut rules = limits(&texts);
        rules.extend(shadow.map(rule));
        let mut pair = Pair {
            both: [Fixture::in_memory(), Fixture::in_redis()],
            rules,
            admitted: Vec::new(),
        };
        for step in steps {
            pair.take(step)?;
        }
    }
}

struct Pair {
    both: [Fixture; 2],
    rules: Vec<Rule>,
    /// The admissions of each limiter, with the cost.
    admitted: Vec<(u32, [Admission; 2])>,
}

impl Pair {
    fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        let rules = &self.rules;
        match step {
            Step::Wait(micros) => {
                let by = Duration::from_micros(micros);
                self.both.iter().for_each(|fixture| fixture.advance(by));
            }
            Step::Admit(wanted) => self.admit(wanted)?,
            Step::Settle(..) | Step::Release if self.admitted.is_empty() => {}
            Step::Settle(which, actual) => {
                let which = which.index(self.admitted.len());
                let (reserved, outcomes) = self.admitted.swap_remove(which);
                for (fixture, outcome) in self.both.iter().zip(&outcomes) {
                    fixture.client(1).settle(rules, outcome, reserved, actual);
                }
            }
            Step::Release => {
                let last = self.admitted.pop().map(|(_, outcomes)| outcomes);
                for (fixture, outcome) in self.both.iter().zip(last.iter().flatten()) {
                    if let Admission::Admitted(_, receipt) = outcome {
                        fixture.client(1).release(rules, receipt);
                    }
                }
            }
            Step::Reset => self
                .both
                .iter()
                .for_each(|fixture| fixture.client(1).reset(rules)),
        }
        Ok(())
    }

    fn admit(&mut self, wanted: u32) -> Result<(), TestCaseError> {
        let rules = &self.rules;
        let looked = |fixture: &Fixture| all_shown(fixture.client(1).states(rules, wanted), rules);
        let [memory, redis] = self.both.each_ref().map(looked);
        prop_assert_eq!(memory, redis);
        let outcomes = self
            .both
            .each_ref()
            .map(|s| s.client(1).admit(rules, wanted));
        match &outcomes {
            [
                Admission::Admitted(memory, a),
                Admission::Admitted(redis, b),
            ] => {
                prop_assert_eq!(shown(*memory, rules), shown(*redis, rules));
                prop_assert_eq!(skipped(a), skipped(b));
                self.admitted.push((wanted, outcomes));
            }
            [
                Admission::Refused(_, earliest),
                Admission::Refused(_, cached),
            ] => {
                // A cached refusal may state a later time.
                prop_assert!(millis(*cached) >= millis(*earliest), "{outcomes:?}");
            }
            different => prop_assert!(false, "{different:?}"),
        }
        Ok(())
    }
}

fn skipped(receipt: &Receipt) -> Vec<u16> {
    let remarks = receipt.iter();
    remarks
        .flat_map(|remarks| remarks.skipped.to_vec())
        .collect()
}

/// The state of a rule, in milliseconds, as in calendars.
#[derive(Debug, PartialEq)]
struct Shown {
    remaining: u64,
    /// `None` if nothing is used.
    resets_at: Option<u64>,
}

fn millis(moment: Moment) -> u64 {
    moment.nanos() / 1_000_000
}

fn shown(state: LimitState, rules: &[Rule]) -> Shown {
    let amount = rules.get(state.rule).map(|rule| rule.limit.amount.get());
    let can_grow = amount.is_some_and(|amount| state.remaining < amount);
    Shown {
        remaining: state.remaining,
        resets_at: can_grow.then_some(millis(state.resets_at)),
    }
}

/// Returns the states with the times of room.
fn all_shown(states: Vec<(LimitState, Moment)>, rules: &[Rule]) -> Vec<(Shown, u64)> {
    let states = states.into_iter();
    states
        .map(|(state, retry_at)| (shown(state, rules), millis(retry_at)))
        .collect()
}
