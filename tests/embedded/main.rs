//! The embedded library, in builds without features and with all of them.

#![cfg(test)]

#[path = "../common/mod.rs"]
mod common;

mod address_limits;
mod addresses;
mod allocations;
mod audit;
mod clocks;
mod concurrent_changes;
mod crash;
mod limits;
mod lockout;
mod management;
#[cfg(feature = "metrics")]
mod metrics;
mod opening;
mod policy;
mod quota;
mod rate_limit;
mod revocation;
mod routes;
mod statuses;
#[cfg(feature = "tracing")]
mod tracing;
mod usage;
mod usage_sink;
