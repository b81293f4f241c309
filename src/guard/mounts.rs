//! Under which paths layers get requests for a guard.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::access::Policy;

/// The identity of a guard within the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GuardId(u64);

impl GuardId {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// The prefixes of the layers of a guard.
#[derive(Debug, Default)]
pub(crate) struct Mounts(Mutex<BTreeSet<Arc<str>>>);

impl Mounts {
    /// Notes the prefix of a layer: empty if it gets all requests, or does not know which.
    pub(crate) fn add(&self, prefix: &Arc<str>) {
        const MOST: usize = 1_000;
        let mut prefixes = self.0.lock();
        if !prefixes.contains(prefix) && prefixes.len() < MOST {
            prefixes.insert(Arc::clone(prefix));
        }
    }

    /// What is protected by a policy and reached through none of the layers.
    pub(super) fn warnings(&self, policy: &Policy) -> Vec<String> {
        let prefixes = self.0.lock();
        if prefixes.is_empty() {
            return Vec::new();
        }
        let is_reached = |prefix: &Arc<str>, pattern| policy.may_match_below(pattern, prefix);
        policy
            .protected()
            .filter(|pattern| !prefixes.iter().any(|prefix| is_reached(prefix, pattern)))
            .map(|pattern| {
                let prefixes = prefixes.iter().map(|prefix| format!("`{prefix}`"));
                let prefixes = prefixes.collect::<Vec<_>>().join(", ");
                format!(
                    "`{pattern}` is protected, but no request that the layers get matches it: they \
                     are mounted at {prefixes}; put a layer around its services too, or correct the \
                     prefix"
                )
            })
            .collect()
    }
}
