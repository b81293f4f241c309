//! Decisions of outer layers, which inner layers of the same guard honour.

use std::sync::Arc;

use http::Method;
use http::request::Parts;
use smallvec::SmallVec;

use super::paths::RequestPaths;
use crate::guard::{Grant, GuardId};
use crate::keyguard::KeyGuard;

/// The decisions about one request so far, kept in its extensions, which clients cannot set.
#[derive(Clone, Default)]
pub(super) struct Decisions(SmallVec<[Decision; 1]>);

#[derive(Clone)]
pub(super) struct Decision {
    guard: GuardId,
    method: Method,
    path: SmallVec<[u8; 40]>,
    other_paths: Vec<String>,
    grant: Arc<Grant>,
}

impl Decisions {
    /// Returns the grant of this guard for the same method and all of these paths. A request that was
    /// rewritten since is a different request.
    pub(super) fn find(
        head: &Parts,
        guard: &KeyGuard,
        paths: &RequestPaths<'_>,
    ) -> Option<Arc<Grant>> {
        let is_same = |decision: &&Decision| {
            decision.guard == guard.inner.id()
                && decision.method == head.method
                && paths.iter().all(|path| decision.is_for(path))
        };
        let Self(decisions) = head.extensions.get()?;
        let decision = decisions.iter().find(is_same)?;
        Some(Arc::clone(&decision.grant))
    }

    pub(super) fn add(head: &mut Parts, decision: Decision) {
        let Self(decisions) = head.extensions.get_or_insert_default();
        decisions.push(decision);
    }
}

impl Decision {
    pub(super) fn new(
        guard: &KeyGuard,
        method: &Method,
        paths: RequestPaths<'_>,
        grant: &Arc<Grant>,
    ) -> Self {
        Self {
            guard: guard.inner.id(),
            method: method.clone(),
            path: SmallVec::from_slice(paths.first.as_bytes()),
            other_paths: paths.others,
            grant: Arc::clone(grant),
        }
    }

    fn is_for(&self, path: &str) -> bool {
        *self.path == *path.as_bytes() || self.other_paths.iter().any(|other| other == path)
    }
}
