//! Durable storage of organizations, keys, usage and locks.
//!
//! [`Store`] is the trait; [`redb`] and [`postgres`] implement it. Rules that both follow are pure
//! functions in this folder; a backend only reads and writes rows.

mod audit;
mod backend;
mod batch_id;
mod changes;
pub(crate) mod codec;
#[cfg(test)]
mod conformance;
pub(crate) mod copy;
mod error;
mod open_error;
#[cfg(feature = "postgres")]
mod postgres;
mod redb;
pub(crate) mod retention;
mod search;
pub(crate) mod totals;
#[cfg_attr(not(feature = "cli"), allow(dead_code))]
pub(crate) mod transfer;
mod usage;
pub(crate) mod usage_counts;
mod verification;
pub(crate) mod webhooks;

pub(crate) use self::audit::{AuditContext, CompletedRequest, IdempotencyKey, PROGRAM};
pub(crate) use self::backend::{
    ChangeEvent, FileSpace, OutboxCounts, Resolved, SavedSet, Store, UsageStore,
};
#[cfg(all(feature = "cli", any(feature = "import", feature = "postgres")))]
pub(crate) use self::changes::FIRST_SECRET;
pub(crate) use self::changes::{
    KeyChange, LegacyKeys, NewCredential, NewKey, NewOverride, OrgChange, Rehash, Rotation,
};
pub use self::copy::FileCopy;
pub(crate) use self::error::{StoreError, TOO_MUCH_USAGE, UNAVAILABLE, with_causes};
pub use self::open_error::OpenError;
#[cfg(all(feature = "postgres", feature = "cli"))]
pub(crate) use self::postgres::DatabaseUrl;
#[cfg(all(fuzzing, feature = "_fuzz"))]
pub use self::postgres::fuzz::reply as fuzz_postgres_reply;
#[cfg(feature = "postgres")]
pub(crate) use self::postgres::{Options as PostgresOptions, PostgresStore};
pub(crate) use self::redb::RedbStore;
#[cfg(feature = "cli")]
pub(crate) use self::redb::is_set_aside;
pub(crate) use self::search::{Search, SearchText};
pub(crate) use self::totals::{Count, Lifetime, Minute, Tally, Totals};
pub(crate) use self::usage::{UsageBatch, UsageEvent};
pub use self::verification::{Damage, Verification};
pub(crate) use self::webhooks::WebhookChange;
