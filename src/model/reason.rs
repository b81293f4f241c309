//! Reasons for refusing a request.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The reason for refusing a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
#[non_exhaustive]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Reason {
    /// No key was presented.
    MissingKey = 1,
    /// The text does not have the shape of a key, or its checksum is wrong.
    MalformedKey = 2,
    /// The key does not exist.
    UnknownKey = 3,
    /// The key was revoked.
    RevokedKey = 4,
    /// The key or the rotated text has expired.
    ExpiredKey = 5,
    /// The key's organization is suspended.
    SuspendedOrg = 6,
    /// Two different keys were presented.
    AmbiguousKey = 7,
    /// The key header was sent more than once.
    RepeatedHeader = 8,
    /// The presented text is longer than any key.
    OversizedKey = 9,
    /// The cost of the request exceeds the limit itself.
    CostAboveLimit = 10,
    /// The key lacks a required scope.
    MissingScope = 11,
    /// A window is full.
    RateLimited = 12,
    /// A calendar quota is used up.
    QuotaExhausted = 13,
    /// The data file or another backend is unavailable.
    Unavailable = 14,
    /// No room to count one more key or address.
    Overloaded = 15,
    /// The address is locked out.
    IpLocked = 16,
    /// A limit per address is exhausted.
    IpLimited = 17,
    /// Credits are used up.
    CreditsExhausted = 18,
    /// The maximum number of concurrent requests is in flight.
    TooManyConcurrent = 19,
    /// The policy denies the address.
    IpDenied = 20,
    /// The key does not allow the address.
    IpNotAllowed = 21,
    /// The client address reported by a trusted proxy is missing or invalid.
    InvalidClientIp = 22,
    /// The path has too many readings to be matched with the policy or with a lock of the address.
    UnreadablePath = 23,
}

impl Reason {
    /// The largest code plus one.
    pub(crate) const COUNT: usize = 24;

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
        Self::UnreadablePath,
    ];

    /// A stable name, used in totals and problem documents.
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
            Self::UnreadablePath => "unreadable_path",
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
