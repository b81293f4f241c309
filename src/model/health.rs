//! Health of the servers that a guard relies on.

use serde::Serialize;

/// The health of a backend server, as seen by this process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BackendHealth {
    /// `postgres` or `redis`.
    pub server: &'static str,
    /// Whether the server responds in time and is configured to keep data, that is, whether there
    /// is no `problem`. [`Config`](crate::Config) defines what happens while it does not respond. A
    /// Redis server that may evict counters is used but not up.
    pub is_up: bool,
    /// Description of the problem, if any. Contains neither a URL nor stored values.
    pub problem: Option<String>,
    /// Calls that failed or timed out since the guard was opened.
    pub failures: u64,
    /// Decisions made without the server: for Redis, according to
    /// [`Config::limiter_fallback`](crate::Config::limiter_fallback). Without PostgreSQL, keys that
    /// are not cached cannot be decided.
    pub fallbacks: u64,
}

/// The result of [`KeyGuard::readiness`](crate::KeyGuard::readiness). A guard that is not ready
/// keeps deciding from memory and recovers by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Readiness {
    /// One sentence per problem; empty if ready.
    pub problems: Vec<String>,
}

impl Readiness {
    /// Whether there are no problems.
    pub fn is_ready(&self) -> bool {
        self.problems.is_empty()
    }
}
