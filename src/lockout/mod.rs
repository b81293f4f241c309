//! Who is locked out, of what, why and until when.

mod table;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::Reason;
use crate::net::IpKey;
use crate::time::Timestamp;

pub(crate) use self::table::{LockChange, LockStatus, Locks};

/// For how long too many failed authentications lock, where nothing else is said.
pub(crate) const STRIKE_LOCK: Duration = Duration::from_secs(24 * 3_600);

/// A failed authentication of a kind that is counted by the hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum AuthFailure {
    /// A text that is no key, or not one of ours.
    BadKey,
    /// No key at all.
    MissingKey,
}

impl AuthFailure {
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
    pub(crate) fn lock(self, network: IpKey, now: Timestamp) -> Lock {
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
            step: 0,
            remembered_until: now.plus(STRIKE_LOCK),
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
    /// For a lock by hand, the path; for an automatic one, the [`Route`](crate::Route) or the
    /// [`IpLimit`](crate::IpLimit) that was exceeded, on whatever path.
    Path,
}

/// What a lock refuses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Refuses {
    /// Every request.
    All,
    /// Requests without a key.
    Keyless,
    /// Requests for this path, on every way in which a server might read theirs: at most 256 bytes
    /// of it, decoded, without empty and dot segments.
    Path(String),
    /// Requests that match the [`Route`](crate::Route) of this name, or are checked against the
    /// [`IpLimit`](crate::IpLimit) of this name.
    Route(String),
}

impl fmt::Display for Refuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all requests"),
            Self::Keyless => f.write_str("requests without a key"),
            Self::Path(path) => f.write_str(path),
            Self::Route(name) => write!(f, "route `{name}`"),
        }
    }
}

/// Why somebody is locked out.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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

impl LockCause {
    /// The order of causes by how many clients their locks spare: a higher rank spares fewer.
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

/// A client that is locked out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Lock {
    /// Who.
    pub network: IpKey,
    /// Of what.
    pub refuses: Refuses,
    /// Why.
    pub cause: LockCause,
    /// Since when.
    pub since: Timestamp,
    /// Until when: from then on it refuses nothing.
    pub until: Timestamp,
    /// How many locks for the same failures came before it and are still remembered.
    #[serde(default)]
    pub step: u32,
    /// Until when it is remembered: a further lock before that is a step longer.
    #[serde(skip)]
    pub(crate) remembered_until: Timestamp,
}

impl Lock {
    /// The same lock, as long as its step says: one more than that of the lock before, less one for
    /// each time that `decay` has passed since that ended.
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
        let length = steps.get(step as usize).copied().unwrap_or(STRIKE_LOCK);
        let until = self.since.plus(length);
        // The first step needs no memory.
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

    /// Moves a lock that starts after `now`, as a clock that ran ahead has left it, to `now`, so that
    /// it lasts as long as it was to. Returns whether it was moved.
    pub(crate) fn bring_back(&mut self, now: Timestamp) -> bool {
        /// By how much the clocks of two processes may differ.
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

    /// One lock for two of the same id: it lasts as long as the longer one, and of two automatic ones it
    /// has the cause that spares fewer: it is made by a limit if either is. Of two that do not
    /// overlap, the later one.
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

    /// The id of the lock. A client is locked out of one thing once by hand and once automatically.
    pub(crate) fn id(&self) -> LockId {
        LockId {
            network: self.network,
            refuses: self.refuses.clone(),
            is_manual: self.is_manual(),
        }
    }

    /// Whether the lock has this id.
    fn is_same(&self, id: &LockId) -> bool {
        self.network == id.network && self.refuses == id.refuses && self.is_manual() == id.is_manual
    }

    fn is_manual(&self) -> bool {
        self.cause == LockCause::Manual
    }
}

/// The identity of a lock. A manual lock and an automatic one of the same are two: neither changes the
/// length of the other, and addresses that are never locked out automatically are refused by the
/// manual one only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LockId {
    pub(crate) network: IpKey,
    pub(crate) refuses: Refuses,
    pub(crate) is_manual: bool,
}
