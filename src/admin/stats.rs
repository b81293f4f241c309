//! Totals and the audit log.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Admin, AdminError, Page};
use crate::model::{AuditEntry, Key, Reason};

/// Totals of organizations, keys, requests and locks. Every recorded request is counted once; no total
/// is an estimate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Stats {
    /// Organizations, including suspended ones.
    pub organizations: u64,
    /// Keys, including revoked ones.
    pub total_keys: u64,
    /// Keys that are neither suspended, revoked nor expired.
    pub active_keys: u64,
    /// Requests ever recorded, including refused ones.
    pub requests: u64,
    /// Requests ever recorded with a status of 400 or above.
    pub errors: u64,
    /// Requests since the start of the minute an hour ago.
    pub requests_1h: u64,
    /// Requests of that time with a status of 400 or above.
    pub errors_1h: u64,
    /// Refusals ever recorded, by reason. Omits reasons without refusals.
    #[serde(with = "by_reason")]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, u64>))]
    pub refused: Vec<(Reason, u64)>,
    /// Requests that were not recorded or not passed to the sink because too many were pending.
    pub dropped: u64,
    /// Requests that limits and routes in shadow mode would have refused, by the name of the limit or
    /// the route.
    pub shadow_denied: BTreeMap<String, u64>,
    /// Locks in force.
    pub locks: u64,
    /// Locks that were not made since the guard was opened, because
    /// [`Config::max_locks`](crate::Config::max_locks) was reached.
    pub rejected_locks: u64,
    /// Failed writes to the [`UsageSink`](crate::UsageSink) since the guard was opened. They are
    /// retried.
    pub sink_failures: u64,
    /// Conditions that need an administrator's attention, such as an untrusted proxy.
    pub warnings: Vec<String>,
    /// The keys with the most requests, in descending order; at most 10.
    pub top_keys: Vec<TopKey>,
}

impl Stats {
    /// Returns the fraction of requests with a status of 400 or above, from 0 to 1; 0 without
    /// requests.
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
    #[cfg_attr(feature = "openapi", schema(example = "acme"))]
    pub org_name: String,
    /// Requests ever recorded.
    pub requests: u64,
}

impl Admin {
    /// Returns totals up to now. First stores pending usage, which waits for one commit; then reads a
    /// bounded number of records.
    ///
    /// # Errors
    /// [`AdminError::Unavailable`]
    pub fn stats(&self) -> Result<Stats, AdminError> {
        self.store_usage()?;
        let totals = self.guard.store().totals(self.guard.now())?;
        let refused = totals
            .refused
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0);
        let top_keys = totals.top_keys.iter().map(|(key, ..)| key.clone());
        let top_keys = self.shown(top_keys.collect())?.into_iter();
        Ok(Stats {
            organizations: totals.orgs,
            total_keys: totals.keys,
            active_keys: totals.active_keys,
            requests: totals.all_time.requests,
            errors: totals.all_time.errors,
            requests_1h: totals.last_hour.requests,
            errors_1h: totals.last_hour.errors,
            refused: refused
                .filter_map(|(code, count)| Some((Reason::from_code(code as u8)?, *count)))
                .collect(),
            dropped: totals.dropped,
            shadow_denied: totals.shadow_denied.into_iter().collect(),
            locks: self.list_blocks().len() as u64,
            rejected_locks: self.guard.locks().rejected(),
            sink_failures: self.guard.recorder().sink_failures(),
            warnings: self.guard.all_warnings(),
            top_keys: top_keys
                .zip(totals.top_keys)
                .map(|(key, (_, org, requests))| TopKey {
                    key,
                    org_name: org.name,
                    requests,
                })
                .collect(),
        })
    }

    /// Returns a page of the audit log, the latest entry first.
    ///
    /// Every change to organizations, keys, limits and manual locks has an entry, and every change to the
    /// policy of an open guard; the policy that a guard is opened with has none. Entries are never removed.
    ///
    /// ```
    /// # use keyguard::{Config, KeyGuard, Page};
    /// # let dir = tempfile::tempdir()?;
    /// # let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::new("a long random secret"))?;
    /// let admin = kg.admin().acting_as("alice", std::net::Ipv4Addr::LOCALHOST)?;
    /// admin.create_org("acme")?;
    /// let latest = &admin.list_audit(Page::first().limit(1))?[0];
    /// assert_eq!((latest.actor.as_str(), latest.action.as_str()), ("alice", "create_org"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`AdminError::Unavailable`]
    pub fn list_audit(&self, page: Page<u64>) -> Result<Vec<AuditEntry>, AdminError> {
        Ok(self.guard.store().audit_log(page.after, page.limit)?)
    }

    /// Stores pending usage. While the store refuses changes, listings cover what is stored.
    pub(super) fn store_usage(&self) -> Result<(), AdminError> {
        match self.guard.recorder().flush_store() {
            Err(_) if self.guard.store().fault().is_some() => Ok(()),
            stored => Ok(stored?),
        }
    }
}

/// Serializes counts as an object with a field for each reason.
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
