//! The path prefixes under which layers receive requests for a guard.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::policy::Policy;

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
pub(crate) struct Mounts {
    prefixes: Mutex<BTreeSet<Arc<str>>>,
    /// Whether the prefixes or the policy changed since they were last compared.
    is_changed: AtomicBool,
}

impl Mounts {
    /// Adds the prefix of a layer: empty if the layer gets all requests or does not know its prefix.
    pub(crate) fn add(&self, prefix: &Arc<str>) {
        const MOST: usize = 1_000;
        let mut prefixes = self.prefixes.lock();
        if !prefixes.contains(prefix) && prefixes.len() < MOST {
            prefixes.insert(Arc::clone(prefix));
            self.note_change();
        }
    }

    /// Requests a new comparison with the policy.
    pub(super) fn note_change(&self) {
        self.is_changed.store(true, Ordering::Release);
    }

    /// Whether something changed since the last call.
    pub(super) fn take_change(&self) -> bool {
        self.is_changed.swap(false, Ordering::AcqRel)
    }

    /// Returns a warning if the policy protects paths for which no layer receives requests.
    pub(super) fn warning(&self, policy: &Policy) -> Option<String> {
        const SHOWN: usize = 10;
        let prefixes = self.prefixes.lock();
        let is_reached = |pattern| {
            let mut prefixes = prefixes.iter();
            prefixes.any(|prefix| prefix.is_empty() || policy.may_match_below(pattern, prefix))
        };
        let protected = policy.protected();
        let unreached = protected.filter(|pattern| !prefixes.is_empty() && !is_reached(pattern));
        let unreached = list(unreached.take(SHOWN))?;
        let mounted = list(prefixes.iter().take(SHOWN))?;
        Some(format!(
            "no layer receives requests for {unreached}, which the policy protects (layers are \
             mounted at {mounted}); add a layer there or correct `prefix`"
        ))
    }
}

/// Returns `None` for an empty list.
fn list(items: impl Iterator<Item = impl fmt::Display>) -> Option<String> {
    let items: Vec<String> = items.map(|item| format!("`{item}`")).collect();
    (!items.is_empty()).then(|| items.join(", "))
}
