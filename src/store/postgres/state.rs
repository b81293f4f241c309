//! Health of the server.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::server_error::ServerError;
use crate::model::BackendHealth;

/// Current problems.
#[derive(Default)]
pub(super) struct State {
    /// Why the feed is interrupted.
    pub(super) feed_error: Mutex<Option<ServerError>>,
    /// The error of the last connection attempt.
    pub(super) connect_error: Mutex<Option<ServerError>>,
    /// Whether look-ups are too slow.
    pub(super) is_slow: AtomicBool,
    /// Number of failed look-ups.
    pub(super) failures: AtomicU64,
}

impl State {
    /// Whether look-ups fail.
    pub(super) fn is_failing(&self) -> bool {
        self.is_slow.load(Ordering::Relaxed) || self.connect_error.lock().is_some()
    }

    pub(super) fn health(&self) -> BackendHealth {
        let problem = self.problem();
        BackendHealth {
            server: "postgres",
            is_up: problem.is_none(),
            problem,
            failures: self.failures.load(Ordering::Relaxed),
            fallbacks: 0,
        }
    }

    fn problem(&self) -> Option<String> {
        let feed_error = self.feed_error.lock().clone();
        let problem = feed_error.or_else(|| self.connect_error.lock().clone());
        let is_slow = || self.is_slow.load(Ordering::Relaxed);
        let slow = || is_slow().then(|| "it takes too long to look up a key".to_owned());
        problem.map(|problem| problem.to_string()).or_else(slow)
    }

    /// A warning for the administrator. `deadline` is that of a look-up, `stale_for` how long cached keys
    /// are used.
    pub(super) fn warning(&self, deadline: Duration, stale_for: Duration) -> Option<String> {
        let feed_error = self.feed_error.lock().clone();
        let connect_error = self.connect_error.lock().clone();
        let is_slow = self.is_slow.load(Ordering::Relaxed);
        match (feed_error, connect_error) {
            (Some(problem), _) => {
                let what = match problem.is_refusal() {
                    true => "used",
                    false => "reached",
                };
                let seconds = stale_for.as_secs();
                Some(format!(
                    "PostgreSQL cannot be {what}: {problem}; known keys are served for at most \
                     {seconds} s"
                ))
            }
            (None, Some(problem)) => Some(format!(
                "PostgreSQL accepts no more connections: {problem}; known keys are served, and \
                 others may be refused with status 503"
            )),
            (None, None) => is_slow.then(|| {
                let deadline = deadline.as_millis();
                format!(
                    "PostgreSQL takes longer than {deadline} ms to look up a key; known keys are \
                     served, and others are refused with status 503"
                )
            }),
        }
    }
}
