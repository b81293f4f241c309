//! Helpers for the tests and benchmarks of KeyGuard that do not depend on KeyGuard: child processes,
//! an HTTP client, and servers that end with the process that started them.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::new_without_default
)]

pub mod child;
#[cfg(all(unix, feature = "postgres"))]
pub mod pgbouncer;
#[cfg(all(unix, feature = "postgres"))]
pub mod postgres;
#[cfg(all(unix, feature = "redis"))]
pub mod redis;
pub mod server;

use std::thread;
use std::time::{Duration, Instant};

/// Waits until `condition` holds. Panics after a minute.
#[track_caller]
pub fn wait_until(mut condition: impl FnMut() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(
            since.elapsed() < Duration::from_secs(60),
            "waited for a minute"
        );
        thread::sleep(Duration::from_millis(1));
    }
}
