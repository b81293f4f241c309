//! The policy in force, and what replaces it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;

use super::key_cache::Revisions;
use super::lockouts::Lockouts;
use super::warnings::Topic;
use crate::policy::{self, CompiledPolicy, InvalidPolicy, Policy};

/// The policy in force.
pub(crate) struct PolicyHandle {
    compiled: ArcSwap<CompiledPolicy>,
    /// Whether the policy restricts no request before its key is known. Most requests then need not
    /// load it.
    is_unrestricted: AtomicBool,
}

impl PolicyHandle {
    pub(super) fn new(policy: Policy) -> Self {
        let compiled = CompiledPolicy::from(policy);
        Self {
            is_unrestricted: AtomicBool::new(compiled.lets_everybody_in()),
            compiled: ArcSwap::from_pointee(compiled),
        }
    }

    pub(crate) fn load(&self) -> Guard<Arc<CompiledPolicy>> {
        self.compiled.load()
    }

    /// Like [`PolicyHandle::load`], to be kept for longer.
    #[cfg(feature = "serve")]
    pub(super) fn load_full(&self) -> Arc<CompiledPolicy> {
        self.compiled.load_full()
    }

    /// The policy for one request.
    #[inline]
    pub(super) fn snapshot(&self) -> PolicySnapshot<'_> {
        let is_unrestricted = self.is_unrestricted.load(Ordering::Acquire);
        PolicySnapshot {
            handle: self,
            restrictions: (!is_unrestricted).then(|| self.load()),
            unrestricted: OnceLock::new(),
        }
    }

    fn replace(&self, policy: Policy) {
        let compiled = CompiledPolicy::from(policy);
        let is_unrestricted = compiled.lets_everybody_in();
        self.compiled.store(Arc::new(compiled));
        self.is_unrestricted
            .store(is_unrestricted, Ordering::Release);
    }
}

/// The policy as one request sees it, loaded at most once.
pub(super) struct PolicySnapshot<'a> {
    handle: &'a PolicyHandle,
    restrictions: Option<Guard<Arc<CompiledPolicy>>>,
    /// A policy without restrictions, which few requests need.
    unrestricted: OnceLock<Guard<Arc<CompiledPolicy>>>,
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
            .unwrap_or_else(|| self.unrestricted.get_or_init(|| self.handle.load()))
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
