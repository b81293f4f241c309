//! The examples, run as processes in an empty directory.

#![cfg(test)]

#[path = "../common/mod.rs"]
mod common;

mod quickstart;
#[cfg(all(unix, feature = "postgres", feature = "redis"))]
mod scale_out;
#[cfg(all(unix, feature = "axum"))]
mod servers;
