//! API-key authentication, rate limiting and abuse prevention in one embedded data file.
//!
//! ```no_run
//! use keyguard::{Config, KeyGuard};
//! # fn respond(_: u16) {}
//! # let (headers, ip, path) = ([("X-API-Key", "…")], std::net::IpAddr::from([127, 0, 0, 1]), "/");
//!
//! let kg = KeyGuard::open("keyguard.redb", Config::default())?;
//! match kg.check(&headers, ip, path) {
//!     Ok(grant) => { respond(200); grant.finish(200) }
//!     Err(denial) => respond(denial.status()),
//! }
//! # Ok::<(), keyguard::OpenError>(())
//! ```
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | none | the embedded library: no HTTP stack, no async runtime |
//! | `axum` | with `http`: layers find the original path and the peer where axum notes them |
//! | `http` | a layer for tower and hyper, the admin service, and [`Headers`] for `http::HeaderMap` |
//! | `legacy` | keys of the ancestor, the Python package of this name: `Config::legacy_secret` |
//! | `cli` | the program `keyguard`, and `legacy` |
//! | `import` | `keyguard import` from SQLite, which is compiled from C |
//! | `redis` | limits in Redis, for several processes behind the same limits, and [`RedisStream`] |
//! | `serve` | `keyguard serve`: the admin service, and verdicts for servers in other languages |

#![cfg_attr(docsrs, feature(doc_cfg))]

mod access;
mod addresses;
mod admin;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod client_ip;
mod clock;
mod counter;
mod draft;
mod forwarded;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz;
mod guard;
mod health;
#[cfg(feature = "http")]
pub mod http;
mod ip_limit;
mod key;
mod legacy;
mod limit;
mod limiter;
mod lock_time;
mod lockout;
mod nat64;
mod network;
mod ownership;
mod path;
mod policy;
mod process;
mod quota;
mod record;
mod rule;
mod secret;
#[cfg(any(unix, feature = "cli"))]
mod shell;
mod sink;
mod store;
mod text;
mod time_zone;
#[cfg(feature = "redis")]
mod tls;
mod waiting;
mod window;

#[cfg(doc)]
pub mod sizing {
    #![doc = include_str!("manual/scale_out.md")]
}

pub use access::{ExactPath, InvalidPolicy, Lockout, Pattern, Policy, Route};
pub use addresses::Addresses;
pub use admin::{
    AdminError, CreateKey, CreatedKey, ListKeys, ListUsage, RotateKey, Stats, TopKey, UpdateKey,
    UsageList,
};
pub use client_ip::{ClientIp, InvalidClientIp};
pub use clock::{Clock, InvalidTimestamp, ManualClock, Timestamp};
pub use guard::{Config, Denial, Grant, HeaderFn, Headers, KeyGuard, Request, RuleState, Verdict};
pub use health::{BackendHealth, Readiness};
pub use ip_limit::IpLimit;
pub use key::{KeyPrefix, PlainKey};
pub use limit::Limit;
pub use limiter::Fallback;
pub use lock_time::LockTime;
pub use lockout::{Lock, LockCause, LockScope, Refuses};
pub use network::Network;
pub use policy::{InvalidInput, Scope};
pub use record::{
    AuditEntry, Key, KeyId, KeyStatus, Lift, Method, Org, OrgId, OrgStatus, Reason, Usage,
};
pub use secret::Secret;
#[cfg(feature = "redis")]
pub use sink::RedisStream;
pub use sink::{JsonLines, UsageSink};
pub use store::OpenError;
pub use time_zone::TimeZone;
