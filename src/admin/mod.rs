//! Management: the one vocabulary of requests and replies, and its handler.

mod actor;
pub(crate) mod answer;
mod blocks;
mod handler;
mod limits;
mod peek;
#[cfg(all(unix, feature = "cli"))]
pub(crate) mod remote;
#[cfg(unix)]
mod socket;
#[cfg(unix)]
mod socket_path;
#[cfg(any(unix, fuzzing))]
pub(crate) mod wire;

pub(crate) use self::actor::AuditActor;
pub(crate) use self::limits::no_such_limit;
#[cfg(unix)]
pub(crate) use self::socket::Listener;
#[cfg(all(unix, feature = "cli"))]
pub(crate) use self::socket::system_user;
#[cfg(all(unix, feature = "serve"))]
pub(crate) use self::socket::{SocketFile, bind_socket};

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::guard::Guard;
use crate::input::{self, InvalidInput};
use crate::model::PlainKey;
use crate::model::{Key, KeyId, OrgId, Reason, Usage};
use crate::net::ClientIp;
use crate::policy::InvalidPolicy;
use crate::store::{AuditContext, StoreError};
use crate::time::Timestamp;

/// Management of the organizations, keys, limits and locks of a guard:
/// [`KeyGuard::admin`](crate::KeyGuard::admin).
///
/// Cheap to clone. A change is durable and in force when its method returns. Every change is entered in
/// the audit log in the same transaction.
///
/// ```
/// # use keyguard::{Config, CreateKey, KeyGuard};
/// # let dir = tempfile::tempdir()?;
/// # let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::new("a long random secret"))?;
/// let admin = kg.admin().acting_as("alice", std::net::Ipv4Addr::LOCALHOST)?;
/// admin.create_org("acme")?;
/// let created = admin.create_key(CreateKey::new("acme", "web shop"))?;
/// admin.revoke_key(created.key.id)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Admin {
    guard: Arc<Guard>,
    actor: AuditActor,
}

impl Admin {
    pub(crate) fn new(guard: Arc<Guard>) -> Self {
        Self {
            guard,
            actor: AuditActor::default(),
        }
    }

    /// Returns a handle whose changes the audit log attributes to `actor` at the address `ip`.
    ///
    /// # Errors
    /// [`InvalidInput`] if the name is not 1 to 255 visible characters and spaces.
    pub fn acting_as(&self, actor: &str, ip: impl Into<ClientIp>) -> Result<Self, InvalidInput> {
        let name = input::name("actor", actor)?;
        Ok(self.with_actor(AuditActor::new(name, ip.into(), None)))
    }

    pub(crate) fn with_actor(&self, actor: AuditActor) -> Self {
        Self {
            guard: Arc::clone(&self.guard),
            actor,
        }
    }

    /// The audit context of a change that is made now.
    pub(crate) fn audit_context(
        &self,
        action: &'static str,
        subject: Option<u64>,
        details: serde_json::Value,
    ) -> AuditContext {
        AuditContext {
            at: self.guard.now(),
            actor: self.actor.name().to_owned(),
            ip: self.actor.ip(),
            action,
            subject,
            details,
            idempotency_key: self.actor.idempotency_key(),
        }
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

/// A key to create. Fields left at their default take the guard's.
///
/// ```
/// use keyguard::CreateKey;
/// let key = CreateKey { scopes: vec!["read".into()], ..CreateKey::new("acme", "web shop") };
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateKey {
    /// The name of the organization that will own the key.
    #[cfg_attr(feature = "openapi", schema(example = "acme"))]
    pub org_name: String,
    /// What its owner calls it: 1 to 255 visible characters and spaces.
    #[cfg_attr(feature = "openapi", schema(example = "web shop"))]
    pub label: String,
    /// What it may do: scopes with at most 4,096 characters together, with one between them. Default:
    /// nothing that requires a scope.
    pub scopes: Vec<String>,
    /// Requests admitted in any 60 seconds, at least 1. Default:
    /// [`Config::default_rate_limit`](crate::Config::default_rate_limit).
    pub rate_limit_per_minute: Option<u32>,
    /// Further limits, each as [`Limit`](crate::Limit) reads it: `10/s`, `500000 monthly`. Default:
    /// none.
    pub limits: Vec<String>,
    /// From where it is accepted: at most 256 addresses and networks, `local` among them. Default:
    /// from everywhere.
    pub allowed_ips: Vec<String>,
    /// From when on it is refused, which is not in the past. Default: never.
    pub expires_at: Option<Timestamp>,
    /// The start of its text. Default: [`Config::key_prefix`](crate::Config::key_prefix).
    pub prefix: Option<String>,
}

impl CreateKey {
    /// A key with the guard's default limits and no scopes.
    pub fn new(org_name: impl Into<String>, label: impl Into<String>) -> Self {
        Self {
            org_name: org_name.into(),
            label: label.into(),
            ..Self::default()
        }
    }
}

/// A key that was created or rotated, with its text.
#[derive(Debug)]
pub struct CreatedKey {
    /// The key as it is managed.
    pub key: Key,
    /// Its text, which is stored nowhere and cannot be shown again.
    pub raw_key: PlainKey,
}

/// A change to a key. Fields that are `None` stay as they are.
///
/// ```
/// use keyguard::{KeyId, UpdateKey};
/// let forever = UpdateKey { expires_at: Some(None), ..UpdateKey::new(KeyId(7)) };
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateKey {
    /// The key to change.
    pub id: KeyId,
    /// A new label.
    pub label: Option<String>,
    /// New scopes, in place of all it has: at most 4,096 characters together, with one between them.
    pub scopes: Option<Vec<String>>,
    /// A new limit in any 60 seconds, at least 1. What was admitted before still counts.
    pub rate_limit_per_minute: Option<u32>,
    /// New further limits, in place of all it has. What was admitted under an earlier limit of the
    /// same kind still counts; what was admitted while there was none does not.
    pub limits: Option<Vec<String>>,
    /// From where it is accepted from now on: at most 256 addresses and networks; empty for everywhere.
    pub allowed_ips: Option<Vec<String>>,
    /// A new time of expiry, which is not in the past; `Some(None)` for never.
    #[serde(default, with = "given", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Option<Timestamp>>,
    /// Whether a key that has expired may get a new time of expiry and be accepted again, under a text
    /// that may have leaked since. [Rotation](RotateKey) gives it a new one. Default: no.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reactivate: bool,
}

impl UpdateKey {
    /// A change of nothing yet.
    pub fn new(id: KeyId) -> Self {
        Self {
            id,
            label: None,
            scopes: None,
            rate_limit_per_minute: None,
            limits: None,
            allowed_ips: None,
            expires_at: None,
            reactivate: false,
        }
    }
}

/// A new text for a key.
///
/// ```
/// use std::time::Duration;
/// use keyguard::{KeyId, RotateKey};
/// let hour = Duration::from_secs(3_600);
/// let request = RotateKey { grace: hour, ..RotateKey::new(KeyId(7)) };
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotateKey {
    /// The key to rotate.
    pub id: KeyId,
    /// How much longer the old text is accepted; that of a key that has expired is not. Default: zero.
    pub grace: Duration,
    /// A new time of expiry, which is not in the past; `Some(None)` for never. A key that has expired
    /// needs one. Default: as it is.
    pub expires_at: Option<Option<Timestamp>>,
}

impl RotateKey {
    /// A new text at once, with the time of expiry as it is.
    pub fn new(id: KeyId) -> Self {
        Self {
            id,
            grace: Duration::ZERO,
            expires_at: None,
        }
    }
}

/// Which keys to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListKeys {
    /// Only those of this organization.
    pub org_id: Option<OrgId>,
    /// Only those with a greater id: the last of the page before.
    pub after: Option<KeyId>,
    /// At most so many. Default: 1,000.
    pub limit: usize,
}

impl Default for ListKeys {
    fn default() -> Self {
        Self {
            org_id: None,
            after: None,
            limit: 1_000,
        }
    }
}

/// Which usage to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListUsage {
    /// Only that of this key.
    pub key_id: Option<KeyId>,
    /// Only requests at this time or later. Default: all that are kept.
    pub from: Timestamp,
    /// At most so many. Default: 1,000.
    pub limit: usize,
}

impl Default for ListUsage {
    fn default() -> Self {
        Self {
            key_id: None,
            from: Timestamp::default(),
            limit: 1_000,
        }
    }
}

/// What the data file holds and what was asked of it. Every recorded request is counted once;
/// nothing is estimated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Stats {
    /// Organizations, suspended ones too.
    pub organizations: u64,
    /// Keys, revoked ones too.
    pub total_keys: u64,
    /// Keys that are neither revoked nor expired.
    pub active_keys: u64,
    /// Requests ever recorded, refused ones too.
    pub requests: u64,
    /// Those answered with a status of 400 or above.
    pub errors: u64,
    /// Requests since the start of the minute an hour ago.
    pub requests_1h: u64,
    /// Those answered with a status of 400 or above.
    pub errors_1h: u64,
    /// Refusals ever recorded, by reason; reasons without any are left out.
    #[serde(with = "by_reason")]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, u64>))]
    pub refused: Vec<(Reason, u64)>,
    /// Requests that were not recorded, or not handed to the sink, because too many were waiting.
    pub dropped: u64,
    /// How often what is in shadow mode would have refused a request, by the name of the limit or the
    /// route.
    pub shadowed: BTreeMap<String, u64>,
    /// Locks that are in force.
    pub locks: u64,
    /// Clients that were not locked out because there were too many locks, since the guard was
    /// opened.
    pub unlocked: u64,
    /// How often the [`UsageSink`](crate::UsageSink) failed to take requests, since the guard was
    /// opened. They wait and are offered again.
    pub sink_failures: u64,
    /// What an administrator should know, such as a proxy that hides who asks.
    pub warnings: Vec<String>,
    /// The keys with the most requests, most first, at most 10.
    pub top_keys: Vec<TopKey>,
}

impl Stats {
    /// The part of all requests that were answered with a status of 400 or above, from 0 to 1; 0 if
    /// there were none.
    pub fn error_rate(&self) -> f64 {
        if self.requests == 0 {
            0.0
        } else {
            self.errors as f64 / self.requests as f64
        }
    }
}

/// One of the most used keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TopKey {
    /// The key.
    pub key: Key,
    /// The name of its organization.
    pub org_name: String,
    /// Requests ever recorded.
    pub requests: u64,
}

/// Why a change or a listing failed. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// A field cannot be accepted.
    #[error(transparent)]
    Invalid(#[from] InvalidInput),
    /// There is no such organization or key.
    #[error("{0}")]
    NotFound(String),
    /// The state of what is there does not allow it.
    #[error("{0}")]
    Conflict(String),
    /// The text is not the whole prefix of exactly one key. Nothing was chosen.
    #[error(
        "`{prefix}` is not the whole prefix of one key; give an id, or the whole prefix that listings \
         show"
    )]
    Ambiguous {
        /// What was given.
        prefix: String,
        /// The keys that start with it, at most 20.
        candidates: Vec<Key>,
    },
    /// The change was made before, under the same idempotency key.
    #[error("this was done before, under the same idempotency key; a key is shown once only")]
    Done {
        /// The id of what was made or changed.
        subject: Option<u64>,
    },
    /// The policy file cannot be read, or says what cannot be accepted.
    #[error("the policy stays as it was: {0}")]
    Policy(#[from] InvalidPolicy),
    /// What the data file or the database holds cannot be understood.
    #[error("what is stored is damaged: {0}")]
    Damaged(String),
    /// The data file or the database cannot be read or written; the source says why.
    #[error("what is stored cannot be read or written")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
}

impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NoOrg(_) | StoreError::NoOrgNamed(_) | StoreError::NoKey(_) => {
                Self::NotFound(error.to_string())
            }
            StoreError::DuplicateOrg(_)
            | StoreError::SimilarOrg(_)
            | StoreError::Revoked(_)
            | StoreError::Expired(_)
            | StoreError::Occupied(_) => Self::Conflict(error.to_string()),
            StoreError::AlreadyDone(subject) => Self::Done { subject },
            StoreError::IdempotencyKeyReused => {
                InvalidInput::new("Idempotency-Key", "was used for another request").into()
            }
            StoreError::Damaged(what) => Self::Damaged(what),
            StoreError::Unavailable(source) => Self::Unavailable(source),
        }
    }
}

/// Usage in the order it was recorded, as [`Admin::usage`] lists it.
pub type UsageList = Vec<Usage>;

/// A field that is absent, null, or has a value.
pub(crate) mod given {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<T: Serialize, S: Serializer>(
        field: &Option<Option<T>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        field
            .as_ref()
            .and_then(Option::as_ref)
            .serialize(serializer)
    }

    pub(crate) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Option<T>>, D::Error> {
        Option::deserialize(deserializer).map(Some)
    }
}

/// Counts as an object with a field for each reason.
mod by_reason {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::Reason;

    pub(super) fn serialize<S: Serializer>(
        counts: &[(Reason, u64)],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(counts.iter().copied())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<(Reason, u64)>, D::Error> {
        let counts = BTreeMap::deserialize(deserializer)?;
        Ok(counts.into_iter().collect())
    }
}
