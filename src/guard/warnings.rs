//! What an administrator should know: shown in `Stats::warnings`, and logged as it comes up.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::catch_unwind;

use parking_lot::Mutex;

/// A bounded set of warnings. Each is logged once, when it is added.
pub(crate) struct Warnings {
    texts: Mutex<Texts>,
    log: fn(&str),
}

#[derive(Default)]
struct Texts {
    /// For as long as the guard is open.
    lasting: BTreeMap<About, BTreeSet<String>>,
    /// Until their topic has another state.
    current: BTreeMap<Topic, String>,
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
    /// None yet; `log` is called with each new one.
    pub(crate) fn logged_by(log: fn(&str)) -> Self {
        Self {
            texts: Mutex::default(),
            log,
        }
    }

    /// Adds a warning about the guard that lasts.
    pub(crate) fn add(&self, text: &str) {
        self.add_about(About::Guard, text);
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
        drop(texts);
        self.log(text);
    }

    /// Sets the warning of a topic, in place of an earlier one; `None` ends it.
    pub(crate) fn set(&self, topic: Topic, text: Option<String>) {
        let mut texts = self.texts.lock();
        let Some(text) = text else {
            texts.current.remove(&topic);
            return;
        };
        let before = texts.current.insert(topic, text.clone());
        drop(texts);
        if before.as_ref() != Some(&text) {
            self.log(&text);
        }
    }

    /// A panic of what logs ends no thread of the guard.
    fn log(&self, text: &str) {
        let log = self.log;
        let _ = catch_unwind(|| log(text));
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
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn each_is_kept_and_logged_once_until_its_topic_changes() {
        static LOGGED: AtomicUsize = AtomicUsize::new(0);
        let logged = || LOGGED.load(Ordering::Relaxed);
        let warnings = Warnings::logged_by(|_| {
            LOGGED.fetch_add(1, Ordering::Relaxed);
        });
        for _ in 0..3 {
            warnings.add("lasts");
            warnings.set(Topic::Policy, Some("line 3".into()));
        }
        assert_eq!(
            (warnings.list(), logged()),
            (vec!["line 3".into(), "lasts".to_owned()], 2)
        );

        warnings.set(Topic::Policy, Some("line 4".into()));
        assert_eq!((warnings.list()[0].as_str(), logged()), ("line 4", 3));
        warnings.set(Topic::Policy, None);
        assert_eq!(warnings.list(), ["lasts"]);
    }

    #[test]
    fn one_that_cannot_be_logged_is_kept() {
        let warnings = Warnings::logged_by(|_| panic!("no log"));
        warnings.add("lasts");
        warnings.set(Topic::Policy, Some("line 3".into()));
        assert_eq!(warnings.list(), ["line 3", "lasts"]);
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
