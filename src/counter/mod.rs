//! Rules that the limiter enforces, and the counters that they go by.

mod counters;
pub(crate) mod ip_limit;
mod rule;

pub use self::ip_limit::IpLimit;

pub(crate) use self::counters::*;
pub(crate) use self::rule::{Rule, Subject, SubjectId, add_tightest};
