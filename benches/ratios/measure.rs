//! Rows and their measurement.

use std::error::Error;
use std::time::{Duration, Instant};

use crate::Run;

pub(crate) type Measured = Result<f64, Box<dyn Error>>;

pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) goal: Goal,
    pub(crate) measure: fn(&Run) -> Measured,
}

#[derive(Clone, Copy)]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

#[derive(PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    Short,
    Failed,
}

impl Row {
    pub(crate) fn run(&self, run: &Run) -> Outcome {
        let value = match (self.measure)(run) {
            Ok(value) => value,
            Err(error) => {
                eprintln!("{} cannot be measured: {error}", self.name);
                return Outcome::Failed;
            }
        };
        let (sign, goal, met) = match self.goal {
            Goal::AtMost(goal) => ("<=", goal, value <= goal),
            Goal::AtLeast(goal) => (">=", goal, value >= goal),
        };
        let verdict = if met { "ok" } else { "short" };
        println!("{} {value:.2} {sign}{goal} {verdict}", self.name);
        if met { Outcome::Ok } else { Outcome::Short }
    }
}

/// The median of `a / b` over interleaved rounds, each called once per round.
pub(crate) fn median_ratio(
    rounds: usize,
    mut a: impl FnMut() -> Duration,
    mut b: impl FnMut() -> Duration,
) -> f64 {
    let ratio = |round: usize| {
        // The order alternates.
        let (a, b) = if round.is_multiple_of(2) {
            let a = a();
            (a, b())
        } else {
            let b = b();
            (a(), b)
        };
        a.as_secs_f64() / b.as_secs_f64()
    };
    median((0..rounds).map(ratio).collect())
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub(crate) fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

pub(crate) fn timed_result<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let result = work();
    (start.elapsed(), result)
}

pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// Resident bytes of this process, on Linux.
pub(crate) fn resident_bytes() -> Result<f64, Box<dyn Error>> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: f64 = statm
        .split(' ')
        .nth(1)
        .ok_or("no resident pages in statm")?
        .parse()?;
    Ok(pages * 4_096.0)
}

/// The same pseudo-random numbers in every run (SplitMix64).
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    pub(crate) fn shuffled<T: Clone>(&mut self, items: &[T]) -> Vec<T> {
        let mut items = items.to_vec();
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
        items
    }
}
