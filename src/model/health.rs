//! Health of the servers that a guard relies on.

use serde::Serialize;

/// A server that keys or limits are kept in, as one process sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BackendHealth {
    /// `postgres` or `redis`.
    pub server: &'static str,
    /// Whether it answers in time and is set up so that it keeps what it is told, that is, whether
    /// there is no `problem`. While it does not answer, what [`Config`](crate::Config) says of that case
    /// holds; a Redis that could evict counters is asked and is not up.
    pub is_up: bool,
    /// What is wrong, in words; `None` if nothing is. Holds neither a URL nor a stored value.
    pub problem: Option<String>,
    /// Calls that were not answered, or not in time, since the guard was opened.
    pub failures: u64,
    /// Decisions that were made without it: for Redis, by what
    /// [`Config::limits_fallback`](crate::Config::limits_fallback) says. Without PostgreSQL nobody
    /// decides about a key that is not in memory.
    pub fallbacks: u64,
}

/// Whether a guard can do all of its work, as [`KeyGuard::readiness`](crate::KeyGuard::readiness)
/// says. One that is not ready goes on deciding from memory, and becomes ready by itself once what it
/// lacks is there again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Readiness {
    /// What is wrong, a sentence each; empty if nothing is.
    pub problems: Vec<String>,
}

impl Readiness {
    /// Whether nothing is wrong.
    pub fn is_ready(&self) -> bool {
        self.problems.is_empty()
    }
}
