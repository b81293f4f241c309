//! Rules that the limiter enforces, and the counters that they use.

mod counters;
mod name;
mod rule;

pub(crate) use self::counters::{
    CounterId, CounterMut, Counters, SavedCounter, SavedIpWindow, SavedValue, Time, restore_hits,
    saved_hits,
};
pub(crate) use self::name::RuleName;
pub(crate) use self::rule::{
    Events, PlainRule, PlainRules, Rule, Subject, SubjectId, add_tightest,
};
