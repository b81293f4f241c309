//! Lockout rules: authentication failures, locks and their escalation.

mod table;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::Reason;
use crate::net::IpKey;
use crate::time::Timestamp;

pub(crate) use self::table::{LockChange, LockStatus, Locks};

/// Default duration of a lock for failed authentications.
pub(crate) const DEFAULT_LOCK: Duration = Duration::from_secs(24 * 3_600);

/// A kind of failed authentication. Each is counted per hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum AuthFailure {
    /// A malformed or unknown key.
    BadKey,
    /// No key.
    MissingKey,
}

impl AuthFailure {
    /// The failure that a refusal for `reason` counts as. A client with a formerly valid key is not
    /// guessing keys, so revoked and expired keys do not count.
    pub(crate) fn of(reason: Reason) -> Option<Self> {
        match reason {
            Reason::MalformedKey | Reason::UnknownKey => Some(Self::BadKey),
            Reason::MissingKey => Some(Self::MissingKey),
            _ => None,
        }
    }

    /// The lock imposed after too many failures. Web pages can send keyless requests from a
    /// visitor's address, so such a lock only refuses keyless requests.
    pub(crate) fn lock(self, ip: IpKey, now: Timestamp) -> Lock {
        let (scope, cause) = match self {
            Self::BadKey => (LockScope::All, LockCause::BadKeys),
            Self::MissingKey => (LockScope::Keyless, LockCause::MissingKeys),
        };
        Lock {
            ip,
            scope,
            cause,
            since: now,
            until: now.plus(DEFAULT_LOCK),
            step: 0,
            remembered_until: now.plus(DEFAULT_LOCK),
        }
    }
}

/// The scope of a lock: the requests that it refuses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum LockScope {
    /// All requests.
    All,
    /// Requests without a key.
    Keyless,
    /// Requests for this path in any reading. The path is decoded, without empty and dot segments,
    /// and cut at 256 bytes.
    Path(String),
    /// Requests under the limit per address of this name: those that match the
    /// [`Route`](crate::Route), or are checked against the [`IpLimit`](crate::IpLimit), of this name.
    IpLimit(String),
}

impl fmt::Display for LockScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all requests"),
            Self::Keyless => f.write_str("requests without a key"),
            Self::Path(path) => f.write_str(path),
            Self::IpLimit(name) => write!(f, "requests under limit `{name}`"),
        }
    }
}

/// The cause of a lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum LockCause {
    /// Too many malformed or unknown keys within an hour.
    BadKeys,
    /// Too many requests without a key within an hour.
    MissingKeys,
    /// The limit per address of the [`Route`](crate::Route) or [`IpLimit`](crate::IpLimit) of this name
    /// was exceeded.
    IpLimit(String),
    /// Set by an administrator.
    Manual,
}

impl LockCause {
    /// Order of causes: locks of a higher rank exempt fewer clients.
    fn rank(&self) -> u8 {
        match self {
            Self::BadKeys | Self::MissingKeys => 0,
            Self::IpLimit(_) => 1,
            Self::Manual => 2,
        }
    }
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

/// A lock: requests of `ip` within `scope` are refused until `until`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Lock {
    /// The locked address or network.
    pub ip: IpKey,
    /// The refused requests.
    pub scope: LockScope,
    /// The cause.
    pub cause: LockCause,
    /// Start time.
    pub since: Timestamp,
    /// End time.
    pub until: Timestamp,
    /// Escalation step: the number of remembered earlier locks for the same failures.
    #[serde(default)]
    pub step: u32,
    /// End of the escalation memory: a new lock before this time takes the next step.
    #[serde(skip)]
    pub(crate) remembered_until: Timestamp,
}

impl Lock {
    /// Applies escalation: the step is one more than that of the previous lock, minus one per
    /// `decay` since its end, and determines the duration.
    pub(crate) fn escalated(
        self,
        before: Option<&Self>,
        steps: &[Duration],
        decay: Duration,
    ) -> Self {
        let decayed =
            |ended: Timestamp| self.since.since(ended).as_millis() / decay.as_millis().max(1);
        let step = before.map_or(0, |lock| {
            let decayed = u32::try_from(decayed(lock.until)).unwrap_or(u32::MAX);
            (lock.step + 1).saturating_sub(decayed)
        });
        let last = steps.len().saturating_sub(1);
        let step = step.min(last as u32);
        let length = steps.get(step as usize).copied().unwrap_or(DEFAULT_LOCK);
        let until = self.since.plus(length);
        // The first step alone needs no memory.
        let memory = if last == 0 {
            Duration::ZERO
        } else {
            decay.saturating_mul(step + 1)
        };
        Self {
            until,
            step,
            remembered_until: until.plus(memory),
            ..self
        }
    }

    /// Moves a lock that starts in the future (set by a wrong clock) to `now`, keeping its
    /// duration. Returns whether it was moved.
    pub(crate) fn bring_back(&mut self, now: Timestamp) -> bool {
        /// Tolerated clock difference between processes.
        const TOLERANCE: Duration = Duration::from_secs(60);

        let ahead = self.since.since(now);
        if ahead <= TOLERANCE {
            return false;
        }
        self.since = now;
        self.until = self.until.minus(ahead);
        self.remembered_until = self.remembered_until.minus(ahead);
        true
    }

    /// Merges two locks with the same id: the later end and the cause of higher rank. If they do
    /// not overlap, returns the later one.
    pub(crate) fn joined(self, known: &Self) -> Self {
        if known.until <= self.since {
            return self;
        }
        if self.until <= known.since {
            return known.clone();
        }
        let rank = |lock: &Self| (lock.cause.rank(), lock.until);
        let cause = match rank(&self) > rank(known) {
            true => self.cause,
            false => known.cause.clone(),
        };
        Self {
            cause,
            since: known.since.min(self.since),
            until: known.until.max(self.until),
            step: known.step.max(self.step),
            remembered_until: known.remembered_until.max(self.remembered_until),
            ..self
        }
    }

    /// The id of the lock.
    pub(crate) fn id(&self) -> LockId {
        LockId {
            ip: self.ip,
            scope: self.scope.clone(),
            is_manual: self.is_manual(),
        }
    }

    /// Whether the lock has this id. Like a comparison with [`Lock::id`], without a copy.
    fn is_same(&self, id: &LockId) -> bool {
        self.ip == id.ip && self.scope == id.scope && self.is_manual() == id.is_manual
    }

    fn is_manual(&self) -> bool {
        self.cause == LockCause::Manual
    }
}

/// The identity of a lock. A manual and an automatic lock of the same requests are distinct:
/// neither changes the duration of the other, and addresses exempt from automatic locks still obey
/// manual ones.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LockId {
    pub(crate) ip: IpKey,
    pub(crate) scope: LockScope,
    pub(crate) is_manual: bool,
}
