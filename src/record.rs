//! What is stored: organizations, keys, credentials and usage.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::addresses::Addresses;
use crate::client_ip::ClientIp;
use crate::clock::Timestamp;
use crate::key::HashedKey;
use crate::limit::Limit;
use crate::policy::{InvalidInput, Scope};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        #[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidInput;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self).map_err(|_| {
                    InvalidInput::new("id", "an id is a whole number, as the listings show it")
                })
            }
        }
    };
}

id! {
    /// The id of an organization, counted up from 1 and never used again.
    OrgId
}
id! {
    /// The id of a key, counted up from 1 and never used again; rotation keeps it.
    KeyId
}

/// Whether the keys of an organization are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
pub enum OrgStatus {
    /// Its keys are accepted.
    Active,
    /// Its keys are refused until it is resumed.
    Suspended,
}

/// An organization: the owner of keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
pub struct Org {
    /// Its id.
    pub id: OrgId,
    /// Its name, unique in the data file.
    pub name: String,
    /// Whether its keys are accepted.
    pub status: OrgStatus,
    /// Limits that all of its keys share.
    pub limits: Vec<Limit>,
    /// Limits that are lifted for a time.
    pub lifts: Vec<Lift>,
    /// When it was created.
    pub created_at: Timestamp,
}

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
    pub allowed_ips: Addresses,
    /// Limits that are lifted for a time.
    pub lifts: Vec<Lift>,
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
pub struct Lift {
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
    /// SHA-256 of the text and the ancestor's secret behind it.
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

/// The method of a recorded request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
#[non_exhaustive]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// Not given, or none of the others.
    #[default]
    Other = 0,
    /// `GET`
    Get = 1,
    /// `HEAD`
    Head = 2,
    /// `POST`
    Post = 3,
    /// `PUT`
    Put = 4,
    /// `DELETE`
    Delete = 5,
    /// `CONNECT`
    Connect = 6,
    /// `OPTIONS`
    Options = 7,
    /// `TRACE`
    Trace = 8,
    /// `PATCH`
    Patch = 9,
}

impl Method {
    const ALL: [Self; 10] = [
        Self::Other,
        Self::Get,
        Self::Head,
        Self::Post,
        Self::Put,
        Self::Delete,
        Self::Connect,
        Self::Options,
        Self::Trace,
        Self::Patch,
    ];

    /// The method as it is sent; `-` for [`Method::Other`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Other => "-",
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// Methods are case-sensitive (RFC 9110 §9.1); an unknown one is [`Method::Other`].
impl From<&str> for Method {
    fn from(text: &str) -> Self {
        Self::ALL
            .into_iter()
            .find(|method| method.as_str() == text)
            .unwrap_or_default()
    }
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
#[non_exhaustive]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
pub enum Reason {
    /// The request names no key.
    MissingKey = 1,
    /// The text is not that of a key, or its checksum does not fit.
    MalformedKey = 2,
    /// No such key was issued.
    UnknownKey = 3,
    /// The key was revoked.
    RevokedKey = 4,
    /// The key, or the rotated-out text of it, has expired.
    ExpiredKey = 5,
    /// The key's organization is suspended.
    SuspendedOrg = 6,
    /// Two different keys were presented.
    AmbiguousKey = 7,
    /// The key header was sent more than once.
    RepeatedHeader = 8,
    /// The text presented as a key is longer than any key.
    OversizedKey = 9,
    /// The cost of the request is above the limit itself.
    CostAboveLimit = 10,
    /// The key lacks a scope that is required.
    MissingScope = 11,
    /// A window is full.
    RateLimited = 12,
    /// A calendar quota is used up.
    QuotaExhausted = 13,
    /// The data file or another backend could not answer.
    Unavailable = 14,
    /// No room to count one more key.
    Overloaded = 15,
    /// The address is locked out.
    IpLocked = 16,
    /// A limit by address is exhausted.
    IpLimited = 17,
    /// Credits are used up.
    CreditsExhausted = 18,
    /// As many requests of the key are being answered as can be.
    TooManyConcurrent = 19,
    /// The policy accepts nothing from the address.
    IpDenied = 20,
    /// The key is not accepted from the address.
    IpNotAllowed = 21,
    /// The header by which a trusted proxy names the client cannot be read.
    InvalidClientIp = 22,
}

impl Reason {
    /// One more than the largest code.
    pub(crate) const COUNT: usize = 23;

    const ALL: [Self; Self::COUNT - 1] = [
        Self::MissingKey,
        Self::MalformedKey,
        Self::UnknownKey,
        Self::RevokedKey,
        Self::ExpiredKey,
        Self::SuspendedOrg,
        Self::AmbiguousKey,
        Self::RepeatedHeader,
        Self::OversizedKey,
        Self::CostAboveLimit,
        Self::MissingScope,
        Self::RateLimited,
        Self::QuotaExhausted,
        Self::Unavailable,
        Self::Overloaded,
        Self::IpLocked,
        Self::IpLimited,
        Self::CreditsExhausted,
        Self::TooManyConcurrent,
        Self::IpDenied,
        Self::IpNotAllowed,
        Self::InvalidClientIp,
    ];

    /// A stable name, as totals and problem documents spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MissingKey => "missing_key",
            Self::MalformedKey => "malformed_key",
            Self::UnknownKey => "unknown_key",
            Self::RevokedKey => "revoked_key",
            Self::ExpiredKey => "expired_key",
            Self::SuspendedOrg => "suspended_org",
            Self::AmbiguousKey => "ambiguous_key",
            Self::RepeatedHeader => "repeated_header",
            Self::OversizedKey => "oversized_key",
            Self::CostAboveLimit => "cost_above_limit",
            Self::MissingScope => "missing_scope",
            Self::RateLimited => "rate_limited",
            Self::QuotaExhausted => "quota_exhausted",
            Self::Unavailable => "unavailable",
            Self::Overloaded => "overloaded",
            Self::IpLocked => "ip_locked",
            Self::IpLimited => "ip_limited",
            Self::CreditsExhausted => "credits_exhausted",
            Self::TooManyConcurrent => "too_many_concurrent",
            Self::IpDenied => "ip_denied",
            Self::IpNotAllowed => "ip_not_allowed",
            Self::InvalidClientIp => "invalid_client_ip",
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code).checked_sub(1)?).copied()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One request by a known key, as it was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// When it was decided.
    pub at: Timestamp,
    /// The key that made it; `None` for a refusal that named no known key, of which only a
    /// [sink](crate::UsageSink) is told.
    pub key_id: Option<KeyId>,
    /// Its method.
    pub method: Method,
    /// Its path without the query, at most 256 bytes of it.
    pub path: String,
    /// The address it came from.
    pub ip: ClientIp,
    /// The status it was answered with; 0 if the grant was dropped unfinished.
    pub status: u16,
    /// Time from admission to answer, in whole microseconds up to 71 minutes; zero for a refusal.
    pub latency: Duration,
    /// Why it was refused; `None` if it was admitted.
    pub refused: Option<Reason>,
}

/// A change, as the audit log keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
pub struct AuditEntry {
    /// Counted up from 1, in the order of the changes.
    pub id: u64,
    /// When it was made.
    pub at: Timestamp,
    /// Who made it: what [`KeyGuard::acting_as`](crate::KeyGuard::acting_as) was told, `program` for
    /// the program that holds the file, `user` and a number for a user of the system, `admin key` for
    /// who has that.
    pub actor: String,
    /// From where.
    pub ip: ClientIp,
    /// What was done, such as `create_key`.
    pub action: String,
    /// The id of the key or organization that was made or changed.
    pub subject: Option<u64>,
    /// What was asked for, field by field. No secret is among it.
    pub details: serde_json::Value,
}
