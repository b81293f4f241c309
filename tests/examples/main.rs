//! The examples, run as processes in an empty directory, and the sessions of the documentation.

#![cfg(test)]

#[path = "../common/mod.rs"]
mod common;

#[cfg(all(unix, feature = "axum", feature = "import", feature = "serve"))]
mod documentation;
// With all features, also those of the examples.
#[cfg(all(unix, feature = "axum", feature = "import", feature = "serve"))]
mod frameworks;
mod policy_fields;
mod quickstart;
#[cfg(all(unix, feature = "postgres", feature = "redis"))]
mod scale_out;
#[cfg(all(unix, feature = "axum"))]
mod servers;
#[cfg(all(unix, feature = "axum", feature = "import", feature = "serve"))]
mod session;
