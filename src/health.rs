//! How the servers stand that a guard relies on.

use serde::Serialize;

/// A server that keys or limits are kept in, as one process sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BackendHealth {
    /// `postgres` or `redis`.
    pub server: &'static str,
    /// Whether it is asked at the moment, and set so that it keeps what it is told: a Redis that could
    /// evict counters is asked and is not up. While it is not asked, what [`Config`](crate::Config) says
    /// of that case holds.
    pub is_up: bool,
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
