//! What an administrator should know: shown in `Stats::warnings`, and logged as it comes up.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{BuildHasher, Hash};
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foldhash::fast::RandomState;
use parking_lot::{Condvar, Mutex};

/// The most texts that wait to be logged.
const UNLOGGED: usize = 256;

/// The number of causes that are recognised without a look at the texts.
const CAUSES: usize = 64;

/// A bounded set of warnings. Each is logged once, by a thread of its own.
pub(crate) struct Warnings {
    texts: Mutex<Texts>,
    /// Notified when all texts are logged.
    logged: Condvar,
    log: fn(&str),
    /// Hashes of causes that have led to a warning, each in the place of an earlier one.
    causes: [AtomicU64; CAUSES],
    hasher: RandomState,
}

#[derive(Default)]
struct Texts {
    /// For as long as the guard is open.
    lasting: BTreeMap<About, BTreeSet<String>>,
    /// Until their topic has another state.
    current: BTreeMap<Topic, String>,
    unlogged: VecDeque<String>,
    is_logging: bool,
}

impl Texts {
    fn note(&mut self, text: String) {
        if self.unlogged.len() < UNLOGGED {
            self.unlogged.push_back(text);
        }
    }
}

/// The subject of lasting warnings. Each has room of its own: clients, who can cause as many as they
/// like, silence none of another subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum About {
    /// How the guard is set up and runs.
    Guard,
    /// A private peer that sends forwarding headers.
    PrivatePeer,
    /// An address that was found to be a proxy.
    FoundProxy,
    /// An address that is locked out and sends forwarding headers.
    LockedProxy,
}

impl About {
    /// The most texts that are kept.
    fn capacity(self) -> usize {
        match self {
            Self::Guard => 100,
            _ => 20,
        }
    }

    /// Shown instead of further texts.
    fn more(self) -> &'static str {
        match self {
            Self::Guard => "there are further warnings, which are not shown",
            Self::PrivatePeer => "further private peers, not shown, send forwarding headers",
            Self::FoundProxy => "further proxies, not shown, were found",
            Self::LockedProxy => {
                "further addresses, not shown, are locked out and name other clients"
            }
        }
    }
}

/// Something whose warning ends when its cause does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Topic {
    /// The policy file, read again.
    Policy,
    /// What is protected and reached by no layer.
    #[cfg(feature = "http")]
    Mounts,
    /// The sink that takes single requests.
    Sink,
}

impl Default for Warnings {
    fn default() -> Self {
        Self::logged_by(|_| {})
    }
}

impl Warnings {
    /// None yet; `log` is called with each new one by [`Warnings::log_new`].
    pub(crate) fn logged_by(log: fn(&str)) -> Self {
        Self {
            texts: Mutex::default(),
            logged: Condvar::new(),
            log,
            causes: [const { AtomicU64::new(0) }; CAUSES],
            hasher: RandomState::default(),
        }
    }

    /// Adds a warning about the guard that lasts.
    pub(crate) fn add(&self, text: &str) {
        self.add_about(About::Guard, text);
    }

    /// Adds a warning that lasts, if there is one, unless the same cause has led to one: then `text` is
    /// not made. For causes that every request may meet.
    #[cold]
    pub(crate) fn add_once(
        &self,
        about: About,
        cause: impl Hash,
        text: impl FnOnce() -> Option<String>,
    ) {
        let hash = self.hasher.hash_one((about as u8, cause));
        let known = &self.causes[hash as usize % CAUSES];
        if known.load(Ordering::Relaxed) == hash {
            return;
        }
        if let Some(text) = text() {
            self.add_about(about, &text);
            known.store(hash, Ordering::Relaxed);
        }
    }

    /// Adds a warning that lasts.
    pub(crate) fn add_about(&self, about: About, text: &str) {
        let mut texts = self.texts.lock();
        let lasting = texts.lasting.entry(about).or_default();
        let text = match lasting.len() < about.capacity() {
            true => text,
            false if lasting.contains(text) => return,
            false => about.more(),
        };
        if lasting.contains(text) {
            return;
        }
        lasting.insert(text.to_owned());
        texts.note(text.to_owned());
    }

    /// Sets the warning of a topic, in place of an earlier one; `None` ends it.
    pub(crate) fn set(&self, topic: Topic, text: Option<String>) {
        let mut texts = self.texts.lock();
        let Some(text) = text else {
            texts.current.remove(&topic);
            return;
        };
        let before = texts.current.insert(topic, text.clone());
        if before.as_ref() != Some(&text) {
            texts.note(text);
        }
    }

    /// Has texts logged that are not yet. A log that is stuck holds up no other thread.
    pub(crate) fn log_new(self: &Arc<Self>) {
        let mut texts = self.texts.lock();
        if texts.unlogged.is_empty() || texts.is_logging {
            return;
        }
        let warnings = Arc::clone(self);
        let logger = std::thread::Builder::new().name("keyguard-log".into());
        // Where there can be no thread now, there may be one at the next call.
        texts.is_logging = logger.spawn(move || warnings.log_all()).is_ok();
    }

    fn log_all(&self) {
        let log = self.log;
        let next = || {
            let mut texts = self.texts.lock();
            let next = texts.unlogged.pop_front();
            texts.is_logging = next.is_some();
            next
        };
        while let Some(text) = next() {
            // A panic of what logs keeps no further text from being logged.
            let _ = catch_unwind(|| log(&text));
        }
        self.logged.notify_all();
    }

    /// Has texts logged that are not yet and waits for that, though not for longer than `most`.
    pub(crate) fn log_rest(self: &Arc<Self>, most: Duration) {
        self.log_new();
        let mut texts = self.texts.lock();
        self.logged
            .wait_while_for(&mut texts, |texts| texts.is_logging, most);
    }

    pub(crate) fn list(&self) -> Vec<String> {
        let texts = self.texts.lock();
        texts
            .current
            .values()
            .chain(texts.lasting.values().flatten())
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn each_is_kept_and_logged_once_until_its_topic_changes() {
        static LOGGED: AtomicUsize = AtomicUsize::new(0);
        let logged = || LOGGED.load(Ordering::Relaxed);
        let warnings = Arc::new(Warnings::logged_by(|_| {
            LOGGED.fetch_add(1, Ordering::Relaxed);
        }));
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
    fn one_that_cannot_be_logged_is_kept() {
        let warnings = Arc::new(Warnings::logged_by(|_| panic!("no log")));
        warnings.add("lasts");
        warnings.set(Topic::Policy, Some("line 3".into()));
        warnings.log_rest(LONG);
        assert_eq!(warnings.list(), ["line 3", "lasts"]);
        assert!(warnings.texts.lock().unlogged.is_empty());
    }

    /// Once, the thread that decided about a request waited for the log.
    #[test]
    fn a_log_that_is_stuck_holds_up_nothing() {
        static STUCK: Mutex<()> = Mutex::new(());
        let stuck = STUCK.lock();
        let warnings = Arc::new(Warnings::logged_by(|_| drop(STUCK.lock())));
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

    /// Once, every request made the text anew, for as long as its cause lasted.
    #[test]
    fn the_text_of_a_cause_is_made_once() {
        let warnings = Warnings::default();
        let mut made = 0;
        for cause in ["none", "one", "one", "none", "one"] {
            warnings.add_once(About::Guard, cause, || {
                made += 1;
                (cause == "one").then(|| cause.to_owned())
            });
        }
        assert_eq!((made, warnings.list()), (3, vec!["one".to_owned()]));
    }

    #[test]
    fn there_are_never_more_than_fit() {
        let warnings = Warnings::default();
        (0..1_000).for_each(|i| warnings.add(&i.to_string()));
        assert_eq!(warnings.list().len(), About::Guard.capacity() + 1);
    }

    /// Once, a hundred addresses that were locked out silenced all warnings that came later.
    #[test]
    fn what_clients_cause_silences_nothing_else() {
        let warnings = Warnings::default();
        for about in [About::PrivatePeer, About::FoundProxy, About::LockedProxy] {
            (0..1_000).for_each(|i| warnings.add_about(about, &format!("{about:?} {i}")));
            assert!(warnings.list().contains(&about.more().to_owned()));
        }
        warnings.add("out of descriptors");
        let list = warnings.list();
        assert!(list.contains(&"out of descriptors".to_owned()));
        assert_eq!(list.len(), 3 * 21 + 1);
    }
}
