//! The keys that administrators authenticate with.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

use super::config::Config;
use crate::model::Secret;
use crate::time::Moment;

/// So many requests with a wrong key, within so long a time, are more than a mistake.
const GUESSES: usize = 10;
const GUESSED_WITHIN: Duration = Duration::from_secs(3_600);

pub(super) const GUESSED: &str = "many requests had a wrong admin key: somebody guesses it, or a client has an old one; \
    the events `admin_refused` of the log have the addresses";

/// The accepted admin keys, as hashes, and the requests with other ones.
pub(super) struct AdminKeys {
    hashes: Vec<blake3::Hash>,
    wrong: Mutex<WrongKeys>,
    #[cfg(feature = "serve")]
    are_weak: bool,
}

impl AdminKeys {
    pub(super) fn new(config: &Config, secret: &Secret) -> Self {
        let own = match &config.admin_key {
            Some(key) => blake3::hash(key.expose()),
            None => blake3::hash(secret.admin_key().as_bytes()),
        };
        let opted_in = config
            .secret_as_admin_key
            .then(|| blake3::hash(secret.expose()));
        Self {
            hashes: std::iter::once(own).chain(opted_in).collect(),
            wrong: Mutex::default(),
            #[cfg(feature = "serve")]
            are_weak: secret.expose().len() < 32
                && (config.admin_key.is_none() || config.secret_as_admin_key),
        }
    }

    /// Whether a key is derived from a secret that may be guessed.
    #[cfg(feature = "serve")]
    pub(super) fn are_weak(&self) -> bool {
        self.are_weak
    }

    /// Compares hashes in constant time.
    pub(super) fn contain(&self, text: &[u8]) -> bool {
        let hash = blake3::hash(text);
        self.hashes
            .iter()
            .fold(false, |found, key| found | (*key == hash))
    }

    /// Counts a request with a wrong key. Returns whether there were many within an hour.
    pub(super) fn count_wrong(&self, now: Moment) -> bool {
        self.wrong.lock().add(now)
    }

    /// The number of requests with a wrong key.
    #[cfg(any(feature = "metrics", feature = "serve"))]
    pub(super) fn wrong(&self) -> u64 {
        self.wrong.lock().count
    }
}

#[derive(Default)]
struct WrongKeys {
    count: u64,
    /// The times of the last ones.
    latest: VecDeque<Moment>,
}

impl WrongKeys {
    fn add(&mut self, now: Moment) -> bool {
        self.count += 1;
        self.latest.push_back(now);
        if self.latest.len() > GUESSES {
            self.latest.pop_front();
        }
        let first = self.latest.front();
        self.latest.len() == GUESSES
            && first.is_some_and(|first| now.since(*first) <= GUESSED_WITHIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_many_wrong_keys_within_an_hour_are_reported() {
        let mut wrong = WrongKeys::default();
        let mut now = Moment::default();
        let mut add = |pause: Duration| {
            now = now.plus(pause);
            wrong.add(now)
        };
        let slow = GUESSED_WITHIN / (GUESSES as u32 - 1) + Duration::from_secs(1);
        assert!((0..30).all(|_| !add(slow)));
        let fast = Duration::from_secs(1);
        let reported = (0..GUESSES).filter(|_| add(fast)).count();
        assert!((1..=GUESSES).contains(&reported), "{reported}");
        assert!(add(fast));
        assert!(!add(2 * GUESSED_WITHIN));
        assert_eq!(wrong.count, 30 + GUESSES as u64 + 2);
    }
}
