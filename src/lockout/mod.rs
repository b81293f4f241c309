//! Who is locked out, of what, why and until when.

mod table;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::network::Network;
use crate::record::Reason;

pub(crate) use self::table::{LockChange, Locks, Standing};

/// How long failed authentications count, and for how long too many of them lock.
pub(crate) const STRIKE_WINDOW: Duration = Duration::from_secs(3_600);
pub(crate) const STRIKE_LOCK: Duration = Duration::from_secs(24 * 3_600);

/// A failed authentication of a kind that is counted by the hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Strike {
    /// A text that is no key, or not one of ours.
    BadKey,
    /// No key at all.
    MissingKey,
}

impl Strike {
    /// What a refusal for `reason` counts as. Whoever holds a key that was once good is not
    /// guessing, and neither is who sends a request that no client of ours would.
    pub(crate) fn of(reason: Reason) -> Option<Self> {
        match reason {
            Reason::MalformedKey | Reason::UnknownKey => Some(Self::BadKey),
            Reason::MissingKey => Some(Self::MissingKey),
            _ => None,
        }
    }

    /// The lock that too many of them lead to. A page in a browser can send requests without a key
    /// from somebody else's address; it cannot lock their keys out.
    pub(crate) fn lock(self, network: Network, now: Timestamp) -> Lock {
        let (refuses, cause) = match self {
            Self::BadKey => (Refuses::All, LockCause::BadKeys),
            Self::MissingKey => (Refuses::Keyless, LockCause::MissingKeys),
        };
        Lock {
            network,
            refuses,
            cause,
            since: now,
            until: now.plus(STRIKE_LOCK),
        }
    }
}

/// How far a lock reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LockScope {
    /// Every path.
    #[default]
    Global,
    /// The path of the request that led to it.
    Path,
}

/// What a lock refuses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Refuses {
    /// Every request.
    All,
    /// Requests without a key.
    Keyless,
    /// Requests for this path, however it is written: at most 256 bytes of it, decoded, without
    /// empty and dot segments.
    Path(String),
}

impl fmt::Display for Refuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all requests"),
            Self::Keyless => f.write_str("requests without a key"),
            Self::Path(path) => f.write_str(path),
        }
    }
}

/// Why somebody is locked out.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockCause {
    /// Too many malformed or unknown keys within an hour.
    BadKeys,
    /// Too many requests without a key within an hour.
    MissingKeys,
    /// The [`IpLimit`](crate::IpLimit) of this name was exceeded.
    IpLimit(String),
    /// An administrator said so.
    Manual,
}

impl fmt::Display for LockCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadKeys => f.write_str("bad keys"),
            Self::MissingKeys => f.write_str("missing keys"),
            Self::IpLimit(name) => write!(f, "limit `{name}`"),
            Self::Manual => f.write_str("manual"),
        }
    }
}

/// A client that is locked out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Lock {
    /// Who.
    pub network: Network,
    /// Of what.
    pub refuses: Refuses,
    /// Why.
    pub cause: LockCause,
    /// Since when.
    pub since: Timestamp,
    /// Until when: from then on it refuses nothing.
    pub until: Timestamp,
}

impl Lock {
    /// A client is locked out of one thing once.
    pub(crate) fn id(&self) -> LockId {
        LockId {
            network: self.network,
            refuses: self.refuses.clone(),
        }
    }
}

/// What tells one lock from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LockId {
    pub(crate) network: Network,
    pub(crate) refuses: Refuses,
}
