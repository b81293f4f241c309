//! Keys as they are stored and managed.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::{HashedKey, KeyId, OrgId, Scope};
use crate::limit::Limit;
use crate::net::CidrSet;
use crate::time::Timestamp;

/// Whether a key is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
pub enum KeyStatus {
    /// It is accepted, unless its organization is suspended.
    Active,
    /// Its time is over.
    Expired,
    /// It was revoked, which is final.
    Revoked,
}

impl KeyStatus {
    /// The status as it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }

    /// The status of a key as it is stored, which knows no time.
    pub(crate) fn stored(active: bool) -> Self {
        match active {
            true => Self::Active,
            false => Self::Revoked,
        }
    }
}

/// A key as it is managed; its text is known only to its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
pub struct Key {
    /// Its id.
    pub id: KeyId,
    /// The organization that owns it.
    pub org_id: OrgId,
    /// What its owner calls it.
    pub label: String,
    /// The start of its text: prefix and 4 more characters.
    pub prefix: String,
    /// Whether its status is [`KeyStatus::Active`].
    pub active: bool,
    /// Its status when it was read.
    pub status: KeyStatus,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// Requests admitted in any 60 seconds.
    #[cfg_attr(feature = "http", schema(value_type = u32, minimum = 1))]
    pub rate_limit_per_minute: NonZeroU32,
    /// Further limits of its own.
    pub limits: Vec<Limit>,
    /// From where it is accepted; empty for everywhere.
    #[cfg_attr(feature = "http", schema(value_type = Vec<String>))]
    pub allowed_ips: CidrSet,
    /// Limits that are lifted for a time.
    pub lifts: Vec<LimitOverride>,
    /// When it was created.
    pub created_at: Timestamp,
    /// From when on it is refused; `None` for never.
    pub expires_at: Option<Timestamp>,
    /// When it was last admitted, up to 200 ms behind; `None` for never.
    pub last_used_at: Option<Timestamp>,
}

impl Key {
    pub(crate) fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at <= now)
    }

    /// A stored key as it is to be shown at a time.
    pub(crate) fn seen_at(self, now: Timestamp) -> Self {
        let status = match self.active {
            false => KeyStatus::Revoked,
            true if self.is_expired(now) => KeyStatus::Expired,
            true => KeyStatus::Active,
        };
        Self {
            active: status == KeyStatus::Active,
            status,
            ..self
        }
    }
}

/// A limit that neither refuses nor counts for a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
pub struct LimitOverride {
    /// The name of the limit, as header fields and the dry run show it.
    pub rule: String,
    /// From when on it counts again.
    pub until: Timestamp,
}

/// How the text of a key was turned into its stored hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum HashScheme {
    /// Keyed BLAKE3 under a key derived from the secret.
    KeyedBlake3,
    /// SHA-256 of the text and the Python package's secret behind it.
    Sha256,
}

/// One text that authenticates a key. Rotation gives a key a second one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credential {
    pub(crate) hash: HashedKey,
    pub(crate) scheme: HashScheme,
    /// Which of the installation's secrets it was hashed under.
    pub(crate) secret_id: u32,
    pub(crate) key_id: KeyId,
    pub(crate) created_at: Timestamp,
    /// When a rotated credential stops to be accepted, before the key itself does.
    pub(crate) expires_at: Option<Timestamp>,
}
