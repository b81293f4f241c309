//! The policy in force, and its replacement.

use std::error::Error;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, Guard as PolicyGuard};
use parking_lot::Mutex;

use super::revisions::Revisions;
use super::warnings::{Topic, Warnings};
use crate::policy::{self, CompiledPolicy, InvalidPolicy};
use crate::store::StoreError;

/// The policy in force.
pub(crate) struct PolicyHandle {
    compiled: ArcSwap<CompiledPolicy>,
    /// Whether the policy restricts no request before its key is known. Most requests then need not
    /// load it.
    is_unrestricted: AtomicBool,
}

impl PolicyHandle {
    pub(super) fn new(compiled: CompiledPolicy) -> Self {
        Self {
            is_unrestricted: AtomicBool::new(compiled.is_unrestricted()),
            compiled: ArcSwap::from_pointee(compiled),
        }
    }

    pub(crate) fn load(&self) -> PolicyGuard<Arc<CompiledPolicy>> {
        self.compiled.load()
    }

    /// Like [`PolicyHandle::load`], to be held across an await.
    pub(super) fn load_full(&self) -> Arc<CompiledPolicy> {
        self.compiled.load_full()
    }

    /// Returns the policy for one request.
    #[inline]
    pub(super) fn snapshot(&self) -> PolicySnapshot<'_> {
        self.snapshot_by(|| self.load())
    }

    /// Like [`PolicyHandle::snapshot`], to be held across an await. Only a few guards of a thread are
    /// cheap at the same time.
    #[inline]
    pub(super) fn snapshot_full(&self) -> PolicySnapshot<'_> {
        self.snapshot_by(|| PolicyGuard::from_inner(self.load_full()))
    }

    #[inline(always)]
    fn snapshot_by(
        &self,
        load: impl FnOnce() -> PolicyGuard<Arc<CompiledPolicy>>,
    ) -> PolicySnapshot<'_> {
        let is_unrestricted = self.is_unrestricted.load(Ordering::Acquire);
        PolicySnapshot {
            handle: self,
            restrictions: (!is_unrestricted).then(load),
            loaded_later: OnceLock::new(),
        }
    }

    fn replace(&self, compiled: CompiledPolicy) {
        let is_unrestricted = compiled.is_unrestricted();
        self.compiled.store(Arc::new(compiled));
        self.is_unrestricted
            .store(is_unrestricted, Ordering::Release);
    }
}

/// The policy as one request sees it.
pub(super) struct PolicySnapshot<'a> {
    handle: &'a PolicyHandle,
    restrictions: Option<PolicyGuard<Arc<CompiledPolicy>>>,
    /// The policy, loaded on demand for requests that need no restrictions.
    loaded_later: OnceLock<Arc<CompiledPolicy>>,
}

impl PolicySnapshot<'_> {
    /// The policy, unless it restricts no request before its key is known.
    #[inline(always)]
    pub(super) fn restrictions(&self) -> Option<&CompiledPolicy> {
        self.restrictions.as_ref().map(|policy| &***policy)
    }

    /// The whole policy.
    pub(super) fn compiled(&self) -> &CompiledPolicy {
        self.restrictions()
            .unwrap_or_else(|| self.loaded_later.get_or_init(|| self.handle.load_full()))
    }
}

/// Replaces the policy, from code, from its file or on SIGHUP.
pub(crate) struct PolicyReloader {
    policy_handle: Arc<PolicyHandle>,
    revisions: Arc<Revisions>,
    warnings: Arc<Warnings>,
    file: Option<PathBuf>,
    /// The layers that use the policy.
    #[cfg(feature = "http")]
    mounts: super::Mounts,
    /// Set by the signal to reload.
    signal: Arc<AtomicBool>,
    #[cfg(unix)]
    handler: Mutex<Option<signal_hook::SigId>>,
    /// Held while the policy is replaced, so that an older policy never replaces a newer one.
    replacing: Mutex<()>,
}

impl PolicyReloader {
    pub(super) fn new(
        policy_handle: Arc<PolicyHandle>,
        revisions: Arc<Revisions>,
        warnings: Arc<Warnings>,
        file: Option<PathBuf>,
    ) -> Self {
        Self {
            policy_handle,
            revisions,
            warnings,
            file,
            #[cfg(feature = "http")]
            mounts: super::Mounts::default(),
            signal: Arc::default(),
            #[cfg(unix)]
            handler: Mutex::new(None),
            replacing: Mutex::new(()),
        }
    }

    /// Puts a policy in force for all decisions that begin later. `accept` is called before, and may
    /// refuse it.
    pub(crate) fn replace<E>(
        &self,
        policy: CompiledPolicy,
        accept: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let _replacing = self.replacing.lock();
        accept()?;
        self.put_in_force(policy);
        Ok(())
    }

    /// Reads the policy file again. Returns false if there is none. An invalid policy changes nothing, and
    /// causes a warning until a valid one is in force. `accept` is called before a policy is put in force,
    /// and may refuse it.
    pub(crate) fn reload<E: From<InvalidPolicy>>(
        &self,
        accept: impl FnOnce() -> Result<(), E>,
    ) -> Result<bool, E> {
        let _replacing = self.replacing.lock();
        let Some(file) = &self.file else {
            return Ok(false);
        };
        match policy::read(file).and_then(CompiledPolicy::new) {
            Ok(policy) => {
                accept()?;
                self.put_in_force(policy);
            }
            Err(error) => {
                let text = format!("invalid policy; the policy in force stays: {error}");
                self.warnings.set(Topic::Policy, Some(text));
                return Err(error.into());
            }
        }
        Ok(true)
    }

    fn put_in_force(&self, policy: CompiledPolicy) {
        self.policy_handle.replace(policy);
        // Cached keys contain rules of the policy.
        self.revisions.everything_changed();
        self.warnings.set(Topic::Policy, None);
        #[cfg(feature = "http")]
        self.mounts.note_change();
    }

    #[cfg(feature = "http")]
    pub(super) fn mounts(&self) -> &super::Mounts {
        &self.mounts
    }

    /// Warns of protected paths that no layer receives.
    #[cfg(feature = "http")]
    pub(super) fn warn_of_mounts(&self) {
        if !self.mounts.take_change() {
            return;
        }
        let warning = self.mounts.warning(&self.policy_handle.load().source);
        self.warnings.set(Topic::Mounts, warning);
    }

    /// Reloads the policy if the signal was received since the last call. `accept` is as for
    /// [`PolicyReloader::reload`]; if it fails, the next call tries again.
    pub(super) fn reload_if_signalled(&self, accept: impl FnOnce() -> Result<(), StoreError>) {
        if self.signal.swap(false, Ordering::Relaxed) {
            let try_again = |_: &StoreError| self.signal.store(true, Ordering::Relaxed);
            let accept = || Ok::<_, Box<dyn Error>>(accept().inspect_err(try_again)?);
            // An invalid policy causes a warning.
            let _ = self.reload(accept);
        }
    }

    /// Installs the handler of SIGHUP.
    #[cfg(unix)]
    pub(super) fn listen(&self) -> std::io::Result<()> {
        use signal_hook::consts::SIGHUP;

        let handler = signal_hook::flag::register(SIGHUP, Arc::clone(&self.signal))?;
        *self.handler.lock() = Some(handler);
        Ok(())
    }

    #[cfg(not(unix))]
    pub(super) fn listen(&self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(unix)]
impl Drop for PolicyReloader {
    fn drop(&mut self) {
        if let Some(handler) = self.handler.get_mut().take() {
            signal_hook::low_level::unregister(handler);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_that_cannot_be_entered_in_the_audit_log_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keyguard.toml");
        std::fs::write(&file, "key_limits = [\"5/min\"]").unwrap();
        let policy = CompiledPolicy::new("".parse().unwrap()).unwrap();
        let reloader = PolicyReloader::new(
            Arc::new(PolicyHandle::new(policy)),
            Arc::new(Revisions::new()),
            Arc::default(),
            Some(file),
        );
        let is_reloaded = || !reloader.policy_handle.load().source.key_limits.is_empty();
        reloader.signal.store(true, Ordering::Relaxed);
        reloader.reload_if_signalled(|| Err(StoreError::Unavailable("no space left".into())));
        assert!(!is_reloaded());
        reloader.reload_if_signalled(|| Ok(()));
        assert!(is_reloaded());
        reloader.reload_if_signalled(|| unreachable!("no second signal"));
    }

    /// Regression: snapshots that were held across an await used up the cheap guards of their thread.
    #[test]
    fn snapshots_held_across_an_await_own_the_policy() {
        let policy = "protect = []".parse().unwrap();
        let handle = PolicyHandle::new(CompiledPolicy::new(policy).unwrap());
        let held: Vec<_> = (0..20).map(|_| handle.snapshot_full()).collect();
        assert!(
            held.iter()
                .all(|snapshot| snapshot.restrictions().is_some())
        );
        // One more by the handle, and one by this test.
        assert_eq!(Arc::strong_count(&handle.load_full()), held.len() + 2);
    }
}
