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
