//! `keyguard serve` as a process (feature `serve`).

#![cfg(test)]
#![cfg(unix)]

#[path = "../common/mod.rs"]
mod common;

mod backups;
mod browser;
mod canary;
mod dashboard;
#[cfg(target_os = "linux")]
mod disk;
mod leaks;
mod log;
mod metrics;
#[cfg(feature = "otlp")]
mod otlp;
mod proxies;
mod server;
mod terminal;
mod webhooks;
