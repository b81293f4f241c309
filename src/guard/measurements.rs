//! Numbers about a guard for metrics.

use std::sync::atomic::Ordering::Relaxed;

use super::Guard;
use super::recorder::DecisionCounts;
use crate::model::BackendHealth;
use crate::store::{FileSpace, StoreError};

/// Numbers about a guard at one time. Counts start when the guard is opened.
pub(crate) struct Measurements {
    pub(crate) is_ready: bool,
    pub(crate) backends: Vec<BackendHealth>,
    pub(crate) warnings: usize,
    pub(crate) decisions: DecisionCounts,
    /// Requests that wait to be stored, in full chunks.
    pub(crate) queued: usize,
    pub(crate) queue_capacity: usize,
    pub(crate) sink_failures: u64,
    pub(crate) locks: usize,
    pub(crate) lock_capacity: usize,
    pub(crate) rejected_locks: u64,
    pub(crate) cached_keys: usize,
    pub(crate) key_cache_capacity: usize,
    pub(crate) key_cache_misses: u64,
    pub(crate) replaced_policies: u64,
    pub(crate) rejected_policies: u64,
    #[cfg(feature = "http")]
    pub(crate) wrong_admin_keys: u64,
    /// `None` for a database, and while the file is missing.
    pub(crate) file_space: Option<FileSpace>,
    /// `None` while the store cannot be read.
    pub(crate) stored: Option<StoredCounts>,
}

/// Numbers of stored records.
pub(crate) struct StoredCounts {
    pub(crate) orgs: u64,
    pub(crate) keys: u64,
    pub(crate) active_keys: u64,
    /// The number of the latest audit entry.
    pub(crate) audit_entries: u64,
}

impl Guard {
    /// Returns current numbers. Reads the store, but does not wait for pending usage to be stored, so that
    /// a failing disk does not hide them.
    pub(crate) fn measurements(&self) -> Measurements {
        let (config, recorder) = (&self.config, self.recorder());
        Measurements {
            is_ready: self.readiness().is_ready(),
            backends: self.backends(),
            warnings: self.all_warnings().len(),
            decisions: recorder.decision_counts(),
            queued: recorder.waiting.load(Relaxed),
            queue_capacity: config.usage_queue_capacity,
            sink_failures: recorder.sink_failures(),
            locks: self.locks.list(self.now()).len(),
            lock_capacity: config.max_locks,
            rejected_locks: self.locks.rejected(),
            cached_keys: self.key_cache.len(),
            key_cache_capacity: config.key_cache_capacity,
            key_cache_misses: self.key_cache.misses(),
            replaced_policies: self.policy_reloader.replaced.load(Relaxed),
            rejected_policies: self.policy_reloader.rejected.load(Relaxed),
            #[cfg(feature = "http")]
            wrong_admin_keys: self.admin_keys.wrong(),
            file_space: self.store.file_space(),
            stored: self.stored_counts().ok(),
        }
    }

    fn stored_counts(&self) -> Result<StoredCounts, StoreError> {
        let totals = self.store.totals(self.now())?;
        let latest = self.store.audit_log(None, 1)?.pop();
        Ok(StoredCounts {
            orgs: totals.orgs,
            keys: totals.keys,
            active_keys: totals.active_keys,
            audit_entries: latest.map_or(0, |entry| entry.id),
        })
    }
}
