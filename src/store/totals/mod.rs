//! Counts of requests, kept up to date as usage is recorded, so that reading them scans nothing.

mod activity;
mod batch;
mod top_keys;

use serde::{Deserialize, Serialize};

pub(crate) use self::activity::{Activity, Running};
pub(super) use self::batch::{BatchTotals, KeyTotals, shadow_name};
pub(crate) use self::top_keys::TopKeys;
use crate::model::{Key, Org, Reason};

/// Minutes since the Unix epoch.
pub(crate) type Minute = u64;

/// The totals that `stats` shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) orgs: u64,
    pub(crate) keys: u64,
    pub(crate) active_keys: u64,
    pub(crate) all_time: Count,
    pub(crate) last_hour: Count,
    /// Refusals of all time, by the code of their reason.
    pub(crate) refused: [u64; Reason::COUNT],
    pub(crate) dropped: u64,
    /// Refusals by rules in shadow mode, by the name of the rule.
    pub(crate) shadow_denied: Vec<(String, u64)>,
    /// The keys with the most requests of all time, most first.
    pub(crate) top_keys: Vec<(Key, Org, u64)>,
}

/// Requests, and how many of them were refused or got a status of 400 or above.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Count {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
}

impl Count {
    pub(crate) fn add(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.errors = self.errors.saturating_add(other.errors);
    }

    /// Raises each number to that of `other`.
    pub(super) fn raise(&mut self, other: Self) {
        self.requests = self.requests.max(other.requests);
        self.errors = self.errors.max(other.errors);
    }
}

/// Requests over some time, and the reasons of those that were refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) count: Count,
    /// By the code of the reason.
    pub(crate) refused: [u64; Reason::COUNT],
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.count.add(other.count);
        for (sum, more) in self.refused.iter_mut().zip(other.refused) {
            *sum = sum.saturating_add(more);
        }
    }

    /// Raises each number to that of `other`.
    pub(super) fn raise(&mut self, other: &Self) {
        self.count.raise(other.count);
        for (own, other) in self.refused.iter_mut().zip(other.refused) {
            *own = (*own).max(other);
        }
    }
}

/// All requests ever recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lifetime {
    pub(crate) tally: Tally,
    pub(crate) dropped: u64,
}

impl Lifetime {
    /// Raises each number to that of `other`.
    pub(super) fn raise(&mut self, other: &Self) {
        self.tally.raise(&other.tally);
        self.dropped = self.dropped.max(other.dropped);
    }
}

const _: () = assert!(
    (Reason::UnreadablePath as usize) < Reason::COUNT,
    "every reason has an index in a tally"
);
