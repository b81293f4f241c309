//! What an administrator should know: shown in `Stats::warnings`, and logged as it comes up.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::catch_unwind;

use parking_lot::Mutex;

/// As many texts as are kept.
const CAPACITY: usize = 100;

/// A bounded set of warnings. Each is logged once, when it is added.
pub(crate) struct Warnings {
    texts: Mutex<Texts>,
    log: fn(&str),
}

#[derive(Default)]
struct Texts {
    /// For as long as the guard is open.
    lasting: BTreeSet<String>,
    /// Until their topic has another state.
    current: BTreeMap<Topic, String>,
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

    /// Adds a warning that lasts.
    pub(crate) fn add(&self, text: &str) {
        let mut texts = self.texts.lock();
        if texts.lasting.contains(text) || texts.lasting.len() >= CAPACITY {
            return;
        }
        texts.lasting.insert(text.to_owned());
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
            .chain(&texts.lasting)
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
        assert_eq!(warnings.list().len(), CAPACITY);
    }
}
