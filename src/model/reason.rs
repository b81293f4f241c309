//! Reasons for refusing a request.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::codes::codes;
use crate::input::InvalidInput;

codes! {
    /// The reason for refusing a request.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
    #[repr(u8)]
    #[non_exhaustive]
    #[serde(rename_all = "snake_case")]
    #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
    pub enum Reason {
        /// No key was presented.
        MissingKey = 1, "missing_key";
        /// The text does not have the shape of a key, or its checksum is wrong.
        MalformedKey = 2, "malformed_key";
        /// The key does not exist.
        UnknownKey = 3, "unknown_key";
        /// The key was revoked.
        RevokedKey = 4, "revoked_key";
        /// The key or the rotated text has expired.
        ExpiredKey = 5, "expired_key";
        /// The key's organization is suspended.
        SuspendedOrg = 6, "suspended_org";
        /// Two different keys were presented.
        AmbiguousKey = 7, "ambiguous_key";
        /// The key header was sent more than once.
        RepeatedHeader = 8, "repeated_header";
        /// The presented text is longer than any key.
        OversizedKey = 9, "oversized_key";
        /// The cost of the request exceeds the limit itself.
        CostAboveLimit = 10, "cost_above_limit";
        /// The key lacks a required scope.
        MissingScope = 11, "missing_scope";
        /// A window is full.
        RateLimited = 12, "rate_limited";
        /// A calendar quota is used up.
        QuotaExhausted = 13, "quota_exhausted";
        /// The data file or another backend is unavailable.
        Unavailable = 14, "unavailable";
        /// The table of tracked keys or addresses is full.
        Overloaded = 15, "overloaded";
        /// The address is locked out.
        IpLocked = 16, "ip_locked";
        /// A limit per address is exhausted.
        IpLimited = 17, "ip_limited";
        /// Credits are used up.
        CreditsExhausted = 18, "credits_exhausted";
        /// The maximum number of concurrent requests is in flight.
        TooManyConcurrent = 19, "too_many_concurrent";
        /// The policy denies the address.
        IpDenied = 20, "ip_denied";
        /// The key does not allow the address.
        IpNotAllowed = 21, "ip_not_allowed";
        /// The client address reported by a trusted proxy is missing or invalid.
        InvalidClientIp = 22, "invalid_client_ip";
        /// The path has too many readings to be matched with the policy or with a lock of the address.
        UnreadablePath = 23, "unreadable_path";
        /// The key is suspended.
        SuspendedKey = 24, "suspended_key";
    }
}

impl Reason {
    /// The largest code plus one.
    pub(crate) const COUNT: usize = Self::ALL.len() + 1;

    /// The HTTP status of the refusal.
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::MissingKey
            | Self::MalformedKey
            | Self::UnknownKey
            | Self::RevokedKey
            | Self::ExpiredKey
            | Self::SuspendedOrg
            | Self::SuspendedKey => 401,
            Self::AmbiguousKey
            | Self::RepeatedHeader
            | Self::OversizedKey
            | Self::CostAboveLimit
            | Self::InvalidClientIp
            | Self::UnreadablePath => 400,
            Self::MissingScope | Self::IpLocked | Self::IpDenied | Self::IpNotAllowed => 403,
            Self::RateLimited
            | Self::QuotaExhausted
            | Self::CreditsExhausted
            | Self::TooManyConcurrent
            | Self::IpLimited => 429,
            Self::Unavailable | Self::Overloaded => 503,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Parses the name of a reason.
impl FromStr for Reason {
    type Err = InvalidInput;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut all = Self::ALL.iter().copied();
        all.find(|reason| reason.as_str() == text).ok_or_else(|| {
            let problem = "is no reason; expected one that `stats` shows, such as `rate_limited`";
            InvalidInput::of("reason", text, problem)
        })
    }
}
