//! The policy in force, and its replacement.

use std::cell::Cell;
use std::error::Error;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
    /// The id of the policy, or [`UNRESTRICTED`]. Replaced after the policy.
    id: AtomicU64,
}

/// The id of all policies that restrict no request before its key is known. Most requests then need not
/// load the policy.
const UNRESTRICTED: u64 = 0;

thread_local! {
    /// The policy of the last request on this thread. The next request takes it from here, because
    /// counting references to it would be a write that all threads share.
    static LAST_USED: Cell<Option<Arc<CompiledPolicy>>> = const { Cell::new(None) };
}

impl PolicyHandle {
    pub(super) fn new(compiled: CompiledPolicy) -> Self {
        Self {
            id: AtomicU64::new(restricting_id(&compiled)),
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
    #[inline(always)]
    pub(super) fn snapshot(&self) -> PolicySnapshot<'_> {
        let id = self.id.load(Ordering::Acquire);
        PolicySnapshot {
            handle: self,
            restrictions: (id != UNRESTRICTED).then(|| self.at_least(id)),
            loaded_later: OnceLock::new(),
        }
    }

    /// Returns the policy with an id, or a newer one.
    #[inline(always)]
    fn at_least(&self, id: u64) -> Arc<CompiledPolicy> {
        match LAST_USED.try_with(Cell::take) {
            Ok(Some(last)) if last.id == id => last,
            _ => self.load_full(),
        }
    }

    fn replace(&self, compiled: CompiledPolicy) {
        let id = restricting_id(&compiled);
        self.compiled.store(Arc::new(compiled));
        self.id.store(id, Ordering::Release);
    }
}

fn restricting_id(compiled: &CompiledPolicy) -> u64 {
    match compiled.is_unrestricted() {
        true => UNRESTRICTED,
        false => compiled.id,
    }
}

/// The policy as one request sees it. May be held across an await.
pub(super) struct PolicySnapshot<'a> {
    handle: &'a PolicyHandle,
    restrictions: Option<Arc<CompiledPolicy>>,
    /// The policy, loaded on demand for requests that need no restrictions.
    loaded_later: OnceLock<Arc<CompiledPolicy>>,
}

impl PolicySnapshot<'_> {
    /// The policy, unless it restricts no request before its key is known.
    #[inline(always)]
    pub(super) fn restrictions(&self) -> Option<&CompiledPolicy> {
        self.restrictions.as_deref()
    }

    /// The whole policy.
    pub(super) fn compiled(&self) -> &CompiledPolicy {
        self.restrictions()
            .unwrap_or_else(|| self.loaded_later.get_or_init(|| self.handle.load_full()))
    }
}

/// Leaves the policy to the next request on the thread.
impl Drop for PolicySnapshot<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(policy) = self.restrictions.take() {
            let _ = LAST_USED.try_with(|last| last.set(Some(policy)));
        }
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
    /// The numbers of policies put in force and of invalid ones, since the guard was opened.
    pub(super) replaced: AtomicU64,
    pub(super) rejected: AtomicU64,
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
            replaced: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
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
                self.rejected.fetch_add(1, Ordering::Relaxed);
                let text = format!("invalid policy; the policy in force stays: {error}");
                self.warnings.set(Topic::Policy, Some(text));
                return Err(error.into());
            }
        }
        Ok(true)
    }

    fn put_in_force(&self, policy: CompiledPolicy) {
        self.policy_handle.replace(policy);
        self.replaced.fetch_add(1, Ordering::Relaxed);
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
    /// [`PolicyReloader::reload`]; if it fails, a warning says so, and the next call tries again.
    pub(super) fn reload_if_signalled(&self, accept: impl FnOnce() -> Result<(), StoreError>) {
        if self.signal.swap(false, Ordering::Relaxed) {
            let try_again = |error: &StoreError| {
                self.signal.store(true, Ordering::Relaxed);
                let text = format!(
                    "the policy file is not reloaded yet, because the audit log cannot be written: {}",
                    error.cause()
                );
                self.warnings.set(Topic::Policy, Some(text));
            };
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

    fn handle(policy: &str) -> PolicyHandle {
        PolicyHandle::new(compiled(policy))
    }

    fn compiled(policy: &str) -> CompiledPolicy {
        CompiledPolicy::new(policy.parse().unwrap()).unwrap()
    }

    fn protected(snapshot: &PolicySnapshot<'_>) -> usize {
        snapshot.compiled().source.protect.iter().flatten().count()
    }

    #[test]
    fn a_reload_that_cannot_be_entered_in_the_audit_log_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keyguard.toml");
        std::fs::write(&file, "key_limits = [\"5/min\"]").unwrap();
        let warnings = Arc::<Warnings>::default();
        let reloader = PolicyReloader::new(
            Arc::new(handle("")),
            Arc::new(Revisions::new()),
            Arc::clone(&warnings),
            Some(file),
        );
        let is_reloaded = || !reloader.policy_handle.load().source.key_limits.is_empty();
        reloader.signal.store(true, Ordering::Relaxed);
        reloader.reload_if_signalled(|| Err(StoreError::Unavailable("no space left".into())));
        assert!(!is_reloaded());
        assert!(warnings.list()[0].ends_with("no space left"));
        reloader.reload_if_signalled(|| Ok(()));
        assert!(is_reloaded());
        assert!(warnings.list().is_empty());
        reloader.reload_if_signalled(|| unreachable!("no second signal"));
    }

    /// Regression: snapshots that were held across an await used up the cheap guards of their thread.
    #[test]
    fn snapshots_held_across_an_await_own_the_policy() {
        let handle = handle("protect = []");
        let held: Vec<_> = (0..20).map(|_| handle.snapshot()).collect();
        assert!(
            held.iter()
                .all(|snapshot| snapshot.restrictions().is_some())
        );
        // One more by the handle, and one by this test.
        assert_eq!(Arc::strong_count(&handle.load_full()), held.len() + 2);
    }

    #[test]
    fn requests_of_a_thread_share_one_reference() {
        let handle = handle("protect = []");
        drop(handle.snapshot());
        let before = Arc::strong_count(&handle.load_full());
        for _ in 0..3 {
            let snapshot = handle.snapshot();
            assert!(snapshot.restrictions().is_some());
            assert_eq!(Arc::strong_count(&handle.load_full()), before);
        }
    }

    #[test]
    fn requests_see_the_newest_policy_of_their_guard() {
        let (one, two) = (handle("protect = []"), handle("protect = ['/a']"));
        for _ in 0..2 {
            assert_eq!(protected(&one.snapshot()), 0);
            assert_eq!(protected(&two.snapshot()), 1);
        }
        let held = two.snapshot();
        two.replace(compiled("protect = ['/a', '/b']"));
        assert_eq!(protected(&held), 1);
        assert_eq!(protected(&two.snapshot()), 2);
        drop(held);
        assert_eq!(protected(&two.snapshot()), 2);
        two.replace(compiled(""));
        assert!(two.snapshot().restrictions().is_none());
    }
}
