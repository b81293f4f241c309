//! The records that KeyGuard stores: organizations, keys, usage and audit entries.

mod audit;
mod codes;
mod condition;
mod health;
mod id;
mod key;
pub(crate) mod key_text;
pub(crate) mod key_words;
#[cfg(any(feature = "metrics", feature = "serve"))]
mod latencies;
mod legacy_hash;
mod method;
mod org;
mod reason;
mod scope;
mod secret;
mod usage;
mod usage_query;
mod webhook;

pub use self::audit::AuditEntry;
pub use self::health::{BackendHealth, Readiness};
pub use self::id::{KeyId, OrgId};
pub use self::key::{Key, KeyStatus, LimitOverride};
pub use self::key_text::{KeyPrefix, PlainKey};
pub use self::method::Method;
pub use self::org::{Org, OrgStatus};
pub use self::reason::Reason;
pub use self::scope::Scope;
pub use self::secret::Secret;
pub use self::usage::Usage;
pub use self::usage_query::{StatusRange, UsageGroup, UsageQuery};

pub(crate) use self::condition::{Area, Condition};
pub(crate) use self::key::{Credential, HashScheme};
pub(crate) use self::key_text::{HashedKey, KeyHasher};
#[cfg(any(feature = "metrics", feature = "serve"))]
pub(crate) use self::latencies::Latencies;
pub(crate) use self::legacy_hash::LegacyHasher;
pub(crate) use self::secret::Fingerprint;
pub(crate) use self::usage_query::UsageFilter;
pub(crate) use self::webhook::{
    AttemptOutcome, Delivery, DeliveryAttempt, DeliveryState, EventType, Mark, WebhookEvent,
};
