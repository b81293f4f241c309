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
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum KeyStatus {
    /// Accepted, unless its organization is suspended.
    Active,
    /// Refused until it is resumed, whether it has expired or not.
    Suspended,
    /// Past its expiry time.
    Expired,
    /// Revoked permanently.
    Revoked,
}

impl KeyStatus {
    /// The name of the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// A key. Its text is known only to its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Key {
    /// Its id.
    pub id: KeyId,
    /// The organization that owns it.
    pub org_id: OrgId,
    /// The label given by its owner.
    #[cfg_attr(feature = "openapi", schema(example = "web shop"))]
    pub label: String,
    /// The start of its text, as listings show it: its [prefix](crate::KeyPrefix) and 4 more characters.
    /// In JSON `prefix`.
    #[serde(rename = "prefix")]
    #[cfg_attr(feature = "openapi", schema(example = "kg_live_2loa"))]
    pub shown_prefix: String,
    /// Its status when read.
    pub status: KeyStatus,
    /// The scopes it holds.
    pub scopes: Vec<Scope>,
    /// Requests admitted in any 60 seconds.
    #[cfg_attr(feature = "openapi", schema(value_type = u32, minimum = 1, example = 600))]
    pub rate_limit_per_minute: NonZeroU32,
    /// Further limits of this key.
    pub limits: Vec<Limit>,
    /// Addresses from which it is accepted; empty for all.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>, example = json!(["192.0.2.0/24"])))]
    pub allowed_ips: CidrSet,
    /// Limits that are temporarily overridden.
    pub overrides: Vec<LimitOverride>,
    /// When it was created.
    pub created_at: Timestamp,
    /// Expiry time; `None` for never.
    pub expires_at: Option<Timestamp>,
    /// Time of the last admitted request, up to 200 ms behind; `None` for never.
    pub last_used_at: Option<Timestamp>,
    /// Until when a text that a rotation replaced is accepted too; `None` if none is.
    pub old_text_until: Option<Timestamp>,
}

impl Key {
    /// Whether its status is [`KeyStatus::Active`].
    pub fn is_active(&self) -> bool {
        self.status == KeyStatus::Active
    }

    /// Whether its status is [`KeyStatus::Revoked`].
    pub(crate) fn is_revoked(&self) -> bool {
        self.status == KeyStatus::Revoked
    }

    /// Whether it is neither suspended nor revoked; it may have expired.
    pub(crate) fn is_enabled(&self) -> bool {
        !matches!(self.status, KeyStatus::Suspended | KeyStatus::Revoked)
    }

    pub(crate) fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at <= now)
    }

    /// The key with its status at `now`.
    pub(crate) fn at(mut self, now: Timestamp) -> Self {
        if self.is_enabled() {
            self.status = match self.is_expired(now) {
                true => KeyStatus::Expired,
                false => KeyStatus::Active,
            };
        }
        self
    }
}

/// A temporary override: until then, the limit neither refuses nor counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LimitOverride {
    /// The name of the limit, as in header fields and the dry run.
    #[cfg_attr(feature = "openapi", schema(example = "default"))]
    pub limit: String,
    /// Time from which the limit counts again.
    pub until: Timestamp,
}

/// The hash scheme of a stored key. Its codes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum HashScheme {
    /// Keyed BLAKE3 under a key derived from the secret.
    KeyedBlake3 = 1,
    /// SHA-256 of the text followed by the Python package's secret.
    Sha256 = 2,
    /// As [`HashScheme::KeyedBlake3`], of a text that the Python package issued.
    RehashedSha256 = 3,
}

impl HashScheme {
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::KeyedBlake3),
            2 => Some(Self::Sha256),
            3 => Some(Self::RehashedSha256),
            _ => None,
        }
    }
}

/// A text that authenticates a key. Rotation adds another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credential {
    pub(crate) hash: HashedKey,
    pub(crate) scheme: HashScheme,
    /// The id of the secret that keys the hash.
    pub(crate) secret_id: u32,
    pub(crate) key_id: KeyId,
    pub(crate) created_at: Timestamp,
    /// Expiry of a rotated credential, if earlier than that of the key.
    pub(crate) expires_at: Option<Timestamp>,
}
