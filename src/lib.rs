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
//! [`KeyGuard::open`] opens a data file or a database, [`KeyGuard::check`] and [`KeyGuard::decide`]
//! decide about requests, and [`KeyGuard::admin`] manages organizations, keys, limits and locks.
//! [`Config`] has the settings, [`Policy`] the routes and lists.
//!
//! # Features
//!
//! | feature | adds |
//! |---|---|
//! | none | the embedded library, without an HTTP stack or an async runtime |
//! | `axum` | `http`, an extractor for axum, the whole path in nested routers, and the IP address of the client |
//! | `cli` | the program `keyguard`, and `legacy` |
//! | `http` | a layer for tower and hyper, the admin service, and `Headers` for `http::HeaderMap` |
//! | `import` | `cli`, and `keyguard import` from SQLite, which needs a C compiler |
//! | `legacy` | accepts keys issued by the Python package `keyguard-python` |
//! | `metrics`, `tracing` | metrics and events, through the crates of these names |
//! | `openapi` | `http`, and the OpenAPI document and Swagger UI of the admin service |
//! | `otlp` | `serve`, and spans for OpenTelemetry |
//! | `parquet` | `cli`, and Parquet output of `keyguard export-usage` |
//! | `postgres` | keys, organizations, locks and usage in PostgreSQL, for several processes |
//! | `redis` | limits in Redis, for several processes, and the usage sink `RedisStream` |
//! | `serve` | `cli`, `openapi`, and `keyguard serve`: the sidecar |
//!
#![cfg_attr(
    doc,
    doc = "[The guide](manual) has a page for each task: [embedding](manual::embedding), \
    [middleware](manual::middleware), [the policy](manual::policy), [limits](manual::limits), \
    [scale-out](manual::scale_out) and more.\n"
)]
//! The minimum supported Rust version is 1.90.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod admin;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
mod counter;
#[cfg(all(fuzzing, feature = "_fuzz"))]
#[doc(hidden)]
#[path = "../fuzz/entry/mod.rs"]
pub mod fuzz;
mod guard;
#[cfg(feature = "http")]
#[cfg_attr(docsrs, doc(cfg(feature = "http")))]
pub mod http;
mod input;
mod keyguard;
mod limit;
mod limiter;
mod lockout;
mod log;
#[cfg(doc)]
pub mod manual;
#[cfg(any(feature = "metrics", feature = "serve"))]
mod metrics;
mod model;
mod net;
mod policy;
#[cfg(feature = "serve")]
mod serve;
mod sink;
mod store;
mod sys;
mod time;

pub use admin::{
    Admin, AdminError, CreateKey, CreatedKey, IpTarget, ListUsage, Page, RotateKey, Stats, TopKey,
    UpdateKey, UpdateOrg, UsageReport, UsageRow, UsageValue, UsedKey,
};
pub use guard::{
    Config, Denial, Grant, HeaderFn, Headers, LimitStatus, RateLimitHeaders, Request, Verdict,
};
pub use input::InvalidInput;
pub use keyguard::KeyGuard;
pub use limit::{Limit, LimitKind};
pub use limiter::Fallback;
pub use lockout::{Lock, LockCause, LockScope};
pub use model::{
    AuditEntry, BackendHealth, Key, KeyId, KeyPrefix, KeyStatus, LimitOverride, Method, Org, OrgId,
    OrgStatus, PlainKey, Readiness, Reason, Scope, Secret, StatusRange, Usage, UsageGroup,
    UsageQuery,
};
pub use net::{CidrSet, ClientIp, InvalidClientIp, IpKey};
pub use policy::{ExactPath, InvalidPolicy, IpLimit, Lockout, Pattern, Policy, Route};
#[cfg(feature = "redis")]
#[cfg_attr(docsrs, doc(cfg(feature = "redis")))]
pub use sink::RedisStream;
pub use sink::{JsonLines, UsageSink};
pub use store::{Damage, FileCopy, OpenError, Verification};
pub use time::{Clock, InvalidTimestamp, LockDuration, ManualClock, TimeZone, Timestamp};
