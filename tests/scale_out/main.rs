//! Keys in PostgreSQL and limits in Redis (features `postgres` and `redis`).

#![cfg(test)]
#![cfg(unix)]

#[path = "../common/mod.rs"]
mod common;

mod backends;
#[cfg(feature = "cli")]
mod database;
#[cfg(feature = "cli")]
mod doctor;
mod redis_tls;
#[cfg(feature = "serve")]
mod serve;
mod shared_limits;
mod usage_stream;
