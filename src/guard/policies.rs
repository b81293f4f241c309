//! The policy in force, and what replaces it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;

use super::lockouts::Lockouts;
use super::residents::Revisions;
use super::warnings::Topic;
use crate::access::{self, InvalidPolicy, Policy, Rulebook};

/// The policy in force.
pub(crate) struct InForce {
    rulebook: ArcSwap<Rulebook>,
    /// What requests go by while the policy lets everybody in, which is then read without a count of
    /// its readers.
    plain: Rulebook,
    is_plain: AtomicBool,
}

impl InForce {
    pub(super) fn new(policy: Policy) -> Self {
        let rulebook = Rulebook::from(policy);
        Self {
            is_plain: AtomicBool::new(rulebook.lets_everybody_in()),
            plain: Rulebook::default(),
            rulebook: ArcSwap::from_pointee(rulebook),
        }
    }

    pub(crate) fn load(&self) -> Guard<Arc<Rulebook>> {
        self.rulebook.load()
    }

    /// As [`InForce::load`], to be kept for longer.
    pub(super) fn load_full(&self) -> Arc<Rulebook> {
        self.rulebook.load_full()
    }

    /// What concerns a request before its key is known; `None` if nothing does.
    #[inline]
    pub(super) fn load_unless_plain(&self) -> Option<Guard<Arc<Rulebook>>> {
        (!self.is_plain.load(Ordering::Acquire)).then(|| self.load())
    }

    /// A policy that lets everybody in.
    #[inline]
    pub(super) fn plain(&self) -> &Rulebook {
        &self.plain
    }

    fn replace(&self, policy: Policy) {
        let rulebook = Rulebook::from(policy);
        let is_plain = rulebook.lets_everybody_in();
        self.rulebook.store(Arc::new(rulebook));
        self.is_plain.store(is_plain, Ordering::Release);
    }
}

/// Where the policy comes from, and where it goes to.
pub(crate) struct Policies {
    in_force: Arc<InForce>,
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

impl Policies {
    pub(super) fn new(
        in_force: Arc<InForce>,
        revisions: Arc<Revisions>,
        lockouts: Arc<Lockouts>,
        file: Option<PathBuf>,
    ) -> Self {
        Self {
            in_force,
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
        match access::read(file) {
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
        self.in_force.replace(policy);
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
        let warning = self.mounts.warning(&self.in_force.load().policy);
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
impl Drop for Policies {
    fn drop(&mut self) {
        if let Some(handler) = self.handler.get_mut().take() {
            signal_hook::low_level::unregister(handler);
        }
    }
}
