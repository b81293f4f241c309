//! Warnings for the administrator: listed in `Stats::warnings`, and logged once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foldhash::fast::RandomState;
use parking_lot::{Condvar, Mutex};

use crate::model::{Area, Condition};

/// The largest number of texts to be logged.
const UNLOGGED: usize = 256;

/// The number of causes that are remembered.
const CAUSES: usize = 64;

/// A bounded set of warnings. A separate thread logs each one once.
pub(crate) struct Warnings {
    texts: Mutex<Texts>,
    /// Notified when all texts are logged.
    logged: Condvar,
    log: WarningLog,
    /// Hashes of causes that led to a warning. A new one replaces an earlier one.
    causes: [AtomicU64; CAUSES],
    hasher: RandomState,
}

/// A function that logs warnings, shared by the clones of a configuration.
#[derive(Clone)]
pub(crate) struct WarningLog(Arc<dyn Fn(&str) + Send + Sync>);

impl WarningLog {
    pub(crate) fn new(log: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(log))
    }

    pub(crate) fn log(&self, text: &str) {
        (self.0)(text);
    }
}

impl fmt::Debug for WarningLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WarningLog")
    }
}

#[derive(Default)]
struct Texts {
    /// Warnings that last as long as the guard is open.
    lasting: BTreeMap<WarningKind, BTreeSet<String>>,
    /// Warnings that last until the state of their topic changes.
    current: BTreeMap<Topic, String>,
    unlogged: VecDeque<String>,
    is_logging: bool,
}

impl Texts {
    fn queue(&mut self, text: String) {
        if self.unlogged.len() < UNLOGGED {
            self.unlogged.push_back(text);
        }
    }
}

/// The kind of a lasting warning. Each kind has its own capacity, so that warnings that clients cause do
/// not displace others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum WarningKind {
    /// The configuration and operation of the guard.
    Guard,
    /// The process cannot open enough files.
    #[cfg(any(unix, feature = "serve"))]
    OpenFiles,
    /// Other users could access the data file.
    Exposure,
    /// A trusted proxy reports clients in another way.
    TrustedProxy,
    /// Requests are not recorded.
    Usage,
    /// A private peer sends forwarding headers.
    PrivatePeer,
    /// An address was detected to be a proxy.
    FoundProxy,
    /// An address that sends forwarding headers is locked out.
    LockedProxy,
    /// Keys of the Python package are refused.
    LegacySecret,
    /// The admin key is guessed.
    #[cfg(feature = "http")]
    AdminKey,
    /// A key was found in public.
    #[cfg(feature = "serve")]
    LeakedKey,
}

impl WarningKind {
    /// The largest number of texts.
    fn capacity(self) -> usize {
        match self {
            Self::Guard => 100,
            _ => 20,
        }
    }

    fn area(self) -> Area {
        match self {
            Self::Guard => Area::Process,
            #[cfg(any(unix, feature = "serve"))]
            Self::OpenFiles => Area::OpenFiles,
            Self::Exposure => Area::Files,
            Self::Usage => Area::Usage,
            Self::LegacySecret => Area::LegacySecret,
            #[cfg(feature = "http")]
            Self::AdminKey => Area::AdminKey,
            Self::TrustedProxy | Self::PrivatePeer | Self::FoundProxy | Self::LockedProxy => {
                Area::Proxy
            }
            #[cfg(feature = "serve")]
            Self::LeakedKey => Area::LeakedKeys,
        }
    }

    /// Shown instead of further texts.
    fn more(self) -> &'static str {
        const MORE: &str = "there are further warnings, which are not shown";

        match self {
            #[cfg(feature = "http")]
            Self::AdminKey => MORE,
            #[cfg(any(unix, feature = "serve"))]
            Self::OpenFiles => MORE,
            Self::Guard
            | Self::Exposure
            | Self::TrustedProxy
            | Self::Usage
            | Self::LegacySecret => MORE,
            Self::PrivatePeer => "further private peers, not shown, send forwarding headers",
            Self::FoundProxy => "further proxies, not shown, were found",
            Self::LockedProxy => {
                "further addresses, not shown, are locked out and name other clients"
            }
            #[cfg(feature = "serve")]
            Self::LeakedKey => "further keys, not shown, were found in public",
        }
    }
}

/// A state with at most one warning, which ends with the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Topic {
    /// Reloading of the policy file.
    Policy,
    /// Protected paths that no layer receives.
    #[cfg(feature = "http")]
    Mounts,
    /// The sink of individual requests.
    Sink,
    /// Scheduled backups.
    #[cfg(feature = "serve")]
    Backup,
    /// The keys that sign reports of leaked keys.
    #[cfg(feature = "serve")]
    LeakKeys,
    /// Reports of leaked keys that no known key has signed.
    #[cfg(feature = "serve")]
    UnknownReporter,
    /// Deliveries to webhooks.
    #[cfg(feature = "serve")]
    Webhooks,
    /// Steps of the calendar clock.
    Clock,
}

impl Topic {
    fn area(self) -> Area {
        match self {
            Self::Policy => Area::Policy,
            #[cfg(feature = "http")]
            Self::Mounts => Area::Policy,
            Self::Sink => Area::Usage,
            #[cfg(feature = "serve")]
            Self::Backup => Area::Backup,
            #[cfg(feature = "serve")]
            Self::LeakKeys | Self::UnknownReporter => Area::LeakReports,
            #[cfg(feature = "serve")]
            Self::Webhooks => Area::Webhooks,
            Self::Clock => Area::Clock,
        }
    }
}

impl Default for Warnings {
    fn default() -> Self {
        Self::logged_by(WarningLog::new(|_| {}))
    }
}

impl Warnings {
    /// Creates an empty set. [`Warnings::log_new`] calls `log` with each new warning.
    pub(crate) fn logged_by(log: WarningLog) -> Self {
        Self {
            texts: Mutex::default(),
            logged: Condvar::new(),
            log,
            causes: [const { AtomicU64::new(0) }; CAUSES],
            hasher: RandomState::default(),
        }
    }

    /// Adds a lasting warning about the guard.
    pub(crate) fn add(&self, text: &str) {
        self.add_of(WarningKind::Guard, text);
    }

    /// Adds a lasting warning, unless the same cause led to one: then `text` is not called. For causes
    /// that can occur with every request.
    #[cold]
    pub(crate) fn add_once(
        &self,
        kind: WarningKind,
        cause: impl Hash,
        text: impl FnOnce() -> Option<String>,
    ) {
        let hash = self.hasher.hash_one((kind as u8, cause));
        let known = &self.causes[hash as usize % CAUSES];
        if known.load(Ordering::Relaxed) == hash {
            return;
        }
        if let Some(text) = text() {
            self.add_of(kind, &text);
            known.store(hash, Ordering::Relaxed);
        }
    }

    /// Adds a lasting warning.
    pub(crate) fn add_of(&self, kind: WarningKind, text: &str) {
        let mut texts = self.texts.lock();
        let lasting = texts.lasting.entry(kind).or_default();
        let text = match lasting.len() < kind.capacity() {
            true => text,
            false if lasting.contains(text) => return,
            false => kind.more(),
        };
        if lasting.contains(text) {
            return;
        }
        lasting.insert(text.to_owned());
        texts.queue(text.to_owned());
    }

    /// Replaces the warning of a topic; `None` removes it.
    pub(crate) fn set(&self, topic: Topic, text: Option<String>) {
        let mut texts = self.texts.lock();
        let Some(text) = text else {
            texts.current.remove(&topic);
            return;
        };
        let before = texts.current.insert(topic, text.clone());
        if before.as_ref() != Some(&text) {
            texts.queue(text);
        }
    }

    /// Logs new warnings on a thread of its own, so that a slow log delays no other thread.
    pub(crate) fn log_new(self: &Arc<Self>) {
        let mut texts = self.texts.lock();
        if texts.unlogged.is_empty() || texts.is_logging {
            return;
        }
        let warnings = Arc::clone(self);
        let logger = std::thread::Builder::new().name("keyguard-log".into());
        // If no thread can be started, the next call tries again.
        texts.is_logging = logger.spawn(move || warnings.log_all()).is_ok();
    }

    fn log_all(&self) {
        let next = || {
            let mut texts = self.texts.lock();
            let next = texts.unlogged.pop_front();
            texts.is_logging = next.is_some();
            next
        };
        while let Some(text) = next() {
            // A panic of the logger does not prevent further logging.
            let _ = catch_unwind(AssertUnwindSafe(|| self.log.log(&text)));
        }
        self.logged.notify_all();
    }

    /// Logs new warnings and waits for at most `timeout`.
    pub(crate) fn log_rest(self: &Arc<Self>, timeout: Duration) {
        self.log_new();
        let mut texts = self.texts.lock();
        self.logged
            .wait_while_for(&mut texts, |texts| texts.is_logging, timeout);
    }

    /// Returns all warnings, with what they are about.
    pub(crate) fn conditions(&self) -> Vec<Condition> {
        let texts = self.texts.lock();
        let current = texts
            .current
            .iter()
            .map(|(topic, text)| (topic.area(), text));
        let lasting = texts.lasting.iter().flat_map(|(kind, texts)| {
            let area = kind.area();
            texts.iter().map(move |text| (area, text))
        });
        let all = current.chain(lasting);
        all.map(|(area, text)| Condition::new(area, text)).collect()
    }

    #[cfg(test)]
    pub(crate) fn list(&self) -> Vec<String> {
        let conditions = self.conditions().into_iter();
        conditions.map(|condition| condition.problem).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn logged_by(log: impl Fn(&str) + Send + Sync + 'static) -> Arc<Warnings> {
        Arc::new(Warnings::logged_by(WarningLog::new(log)))
    }

    #[test]
    fn warnings_are_logged_once_and_kept_until_their_topic_changes() {
        let count = Arc::new(AtomicUsize::new(0));
        let logged = || count.load(Ordering::Relaxed);
        let counter = Arc::clone(&count);
        let warnings = logged_by(move |_| {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        for _ in 0..3 {
            warnings.add("lasts");
            warnings.set(Topic::Policy, Some("line 3".into()));
        }
        assert_eq!(logged(), 0, "not by the thread that adds it");
        warnings.log_rest(LONG);
        assert_eq!(
            (warnings.list(), logged()),
            (vec!["line 3".into(), "lasts".to_owned()], 2)
        );

        warnings.set(Topic::Policy, Some("line 4".into()));
        warnings.log_rest(LONG);
        assert_eq!((warnings.list()[0].as_str(), logged()), ("line 4", 3));
        warnings.set(Topic::Policy, None);
        assert_eq!(warnings.list(), ["lasts"]);
    }

    #[test]
    fn a_warning_that_cannot_be_logged_is_kept() {
        let warnings = logged_by(|_| panic!("no log"));
        warnings.add("lasts");
        warnings.set(Topic::Policy, Some("line 3".into()));
        warnings.log_rest(LONG);
        assert_eq!(warnings.list(), ["line 3", "lasts"]);
        assert!(warnings.texts.lock().unlogged.is_empty());
    }

    /// Regression: the thread that decided about a request waited for the log.
    #[test]
    fn a_blocked_log_delays_nothing() {
        static STUCK: Mutex<()> = Mutex::new(());
        let stuck = STUCK.lock();
        let warnings = logged_by(|_| drop(STUCK.lock()));
        for i in 0..1_000 {
            warnings.set(Topic::Policy, Some(format!("line {i}")));
            warnings.log_new();
        }
        warnings.log_rest(Duration::ZERO);
        assert!(warnings.texts.lock().unlogged.len() <= UNLOGGED);
        drop(stuck);
        warnings.log_rest(LONG);
        assert!(warnings.texts.lock().unlogged.is_empty());
    }

    /// Regression: every request formatted the text again while its cause lasted.
    #[test]
    fn the_text_of_a_cause_is_formatted_once() {
        let warnings = Warnings::default();
        let mut made = 0;
        for cause in ["none", "one", "one", "none", "one"] {
            warnings.add_once(WarningKind::Guard, cause, || {
                made += 1;
                (cause == "one").then(|| cause.to_owned())
            });
        }
        assert_eq!((made, warnings.list()), (3, vec!["one".to_owned()]));
    }

    #[test]
    fn the_capacity_is_never_exceeded() {
        let warnings = Warnings::default();
        (0..1_000).for_each(|i| warnings.add(&i.to_string()));
        assert_eq!(warnings.list().len(), WarningKind::Guard.capacity() + 1);
    }

    /// Regression: the warnings about a hundred locked addresses displaced all later warnings.
    #[test]
    fn warnings_that_clients_cause_displace_no_others() {
        let warnings = Warnings::default();
        for kind in [
            WarningKind::PrivatePeer,
            WarningKind::FoundProxy,
            WarningKind::LockedProxy,
        ] {
            (0..1_000).for_each(|i| warnings.add_of(kind, &format!("{kind:?} {i}")));
            assert!(warnings.list().contains(&kind.more().to_owned()));
        }
        warnings.add("out of descriptors");
        let list = warnings.list();
        assert!(list.contains(&"out of descriptors".to_owned()));
        assert_eq!(list.len(), 3 * 21 + 1);
    }
}
