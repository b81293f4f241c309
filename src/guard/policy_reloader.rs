//! The policy in force, and what replaces it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;

use super::key_cache::Revisions;
use super::lockouts::Lockouts;
use super::warnings::Topic;
use crate::policy::{self, CompiledPolicy, InvalidPolicy, Policy};

/// The policy in force.
pub(crate) struct PolicyHandle {
    compiled: ArcSwap<CompiledPolicy>,
    /// What requests go by while the policy lets everybody in, which is then read without a count of
    /// its readers.
    plain: CompiledPolicy,
    is_plain: AtomicBool,
}

impl PolicyHandle {
    pub(super) fn new(policy: Policy) -> Self {
        let compiled = CompiledPolicy::from(policy);
        Self {
            is_plain: AtomicBool::new(compiled.lets_everybody_in()),
            plain: CompiledPolicy::default(),
            compiled: ArcSwap::from_pointee(compiled),
        }
    }

    pub(crate) fn load(&self) -> Guard<Arc<CompiledPolicy>> {
        self.compiled.load()
    }

    /// As [`PolicyHandle::load`], to be kept for longer.
    pub(super) fn load_full(&self) -> Arc<CompiledPolicy> {
        self.compiled.load_full()
    }

    /// What concerns a request before its key is known; `None` if nothing does.
    #[inline]
    pub(super) fn load_unless_plain(&self) -> Option<Guard<Arc<CompiledPolicy>>> {
        (!self.is_plain.load(Ordering::Acquire)).then(|| self.load())
    }

    /// A policy that lets everybody in.
    #[inline]
    pub(super) fn plain(&self) -> &CompiledPolicy {
        &self.plain
    }

    fn replace(&self, policy: Policy) {
        let compiled = CompiledPolicy::from(policy);
        let is_plain = compiled.lets_everybody_in();
        self.compiled.store(Arc::new(compiled));
        self.is_plain.store(is_plain, Ordering::Release);
    }
}

/// Where the policy comes from, and where it goes to.
pub(crate) struct PolicyReloader {
    policy_handle: Arc<PolicyHandle>,
    revisions: Arc<Revisions>,
    lockouts: Arc<Lockouts>,
    file: Option<PathBuf>,
    /// Where requests come from that go by it.
    #[cfg(feature = "http")]
    mounts: super::Mounts,
    /// Raised by the signal to reload.
    signal: Arc<AtomicBool>,
    #[cfg(unix)]
    handler: Mutex<Option<signal_hook::SigId>>,
    /// Held while the policy is replaced, so that an older one never comes last.
    replacing: Mutex<()>,
}

impl PolicyReloader {
    pub(super) fn new(
        policy_handle: Arc<PolicyHandle>,
        revisions: Arc<Revisions>,
        lockouts: Arc<Lockouts>,
        file: Option<PathBuf>,
    ) -> Self {
        Self {
            policy_handle,
            revisions,
            lockouts,
            file,
            #[cfg(feature = "http")]
            mounts: super::Mounts::default(),
            signal: Arc::default(),
            #[cfg(unix)]
            handler: Mutex::new(None),
            replacing: Mutex::new(()),
        }
    }

    /// Puts a policy in force: every decision that begins later goes by it.
    pub(crate) fn replace(&self, policy: Policy) {
        let _replacing = self.replacing.lock();
        self.put_in_force(policy);
    }

    /// Reads the file again. Returns false if there is none. One that cannot be accepted changes
    /// nothing, and stays a warning until a good one is in force. Neither does one that `accept`
    /// fails for, which is called before it is put in force.
    pub(crate) fn reload<E: From<InvalidPolicy>>(
        &self,
        accept: impl FnOnce() -> Result<(), E>,
    ) -> Result<bool, E> {
        let _replacing = self.replacing.lock();
        let Some(file) = &self.file else {
            return Ok(false);
        };
        match policy::read(file) {
            Ok(policy) => {
                accept()?;
                self.put_in_force(policy);
            }
            Err(error) => {
                let text = format!("the policy stays as it was: {error}");
                self.lockouts.warnings().set(Topic::Policy, Some(text));
                return Err(error.into());
            }
        }
        Ok(true)
    }

    fn put_in_force(&self, policy: Policy) {
        self.policy_handle.replace(policy);
        // The rules of a key are put together from its own and those of the policy.
        self.revisions.everything_changed();
        self.lockouts.warnings().set(Topic::Policy, None);
        #[cfg(feature = "http")]
        self.mounts.note_change();
    }

    #[cfg(feature = "http")]
    pub(super) fn mounts(&self) -> &super::Mounts {
        &self.mounts
    }

    /// Warns of what is protected and reached by none of the layers.
    #[cfg(feature = "http")]
    pub(super) fn warn_of_mounts(&self) {
        if !self.mounts.take_change() {
            return;
        }
        let warning = self.mounts.warning(&self.policy_handle.load().policy);
        self.lockouts.warnings().set(Topic::Mounts, warning);
    }

    /// Reloads if the signal was raised since the last call.
    pub(super) fn reload_if_signalled(&self) {
        if self.signal.swap(false, Ordering::Relaxed) {
            // A failure is among the warnings.
            let _ = self.reload(|| Ok::<_, InvalidPolicy>(()));
        }
    }

    /// Has SIGHUP raise the signal.
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
