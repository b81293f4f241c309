//! Rows and their goals.

use crate::Run;
use crate::measure::Measured;

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
