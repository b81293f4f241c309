//! Windows over networks: bounded whatever the traffic.
//!
//! A network and what is counted of it name a place in one set of a table. A set that is full gives
//! up the window with the fewest hits in it, so that a flood of addresses that come once pushes out
//! others like them before anybody who is near a limit.

use std::hash::BuildHasher;
use std::num::NonZeroU32;

use foldhash::quality::RandomState;
use parking_lot::Mutex;

use super::{Level, NetworkRule, Outcome, Receipt, is_passed_over, pass_over};
use crate::clock::{Clock, Moment};
use crate::counter::{Counts, SavedNetwork, restore_hits, saved_hits};
use crate::limit::{Limit, Span};
use crate::network::Network;
use crate::policy::WindowLength;
use crate::window::SlidingLog;

/// Windows of a set.
const WAYS: usize = 8;

#[derive(Debug)]
pub(super) struct Networks {
    sets: Box<[Mutex<Set>]>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Set(Vec<Window>);

#[derive(Debug)]
struct Window {
    network: Network,
    counts: Counts,
    log: SlidingLog,
}

impl Networks {
    /// A table of some `capacity` windows, never of more than twice as many.
    pub(super) fn new(capacity: usize) -> Self {
        let sets = (capacity / WAYS).next_power_of_two();
        Self {
            sets: (0..sets).map(|_| Mutex::default()).collect(),
            hasher: RandomState::default(),
        }
    }

    pub(super) fn hit(
        &self,
        network: Network,
        rules: &[NetworkRule<'_>],
        cost: NonZeroU32,
        clock: &Clock,
    ) -> Outcome {
        let mut set = self.set(network).lock();
        let now = clock.now();
        let mut slowest: Option<(Level, Moment)> = None;
        let mut receipt = Receipt::None;
        for (index, rule) in rules.iter().enumerate() {
            let (level, room_at) = set.level(index, network, rule, cost, now);
            if room_at <= now {
                continue;
            }
            if rule.limit.shadow {
                pass_over(&mut receipt, index);
            } else if slowest.is_none_or(|(_, latest)| room_at > latest) {
                slowest = Some((level, room_at));
            }
        }
        if let Some((level, room_at)) = slowest {
            return Outcome::Refused(level, room_at);
        }
        let mut tightest = Level::unlimited(now);
        for (index, rule) in rules.iter().enumerate() {
            if is_passed_over(&receipt, index) {
                continue;
            }
            let log = set.log(network, rule, now);
            log.used_at(now);
            log.record(now, cost);
            let level = level_of(log, index, rule.limit, now);
            if !rule.limit.shadow && level.remaining < tightest.remaining {
                tightest = level;
            }
        }
        Outcome::Admitted(tightest, receipt)
    }

    /// Counts what was admitted elsewhere.
    #[cfg(feature = "redis")]
    pub(super) fn record(
        &self,
        network: Network,
        rules: &[NetworkRule<'_>],
        cost: NonZeroU32,
        receipt: &Receipt,
        clock: &Clock,
    ) {
        let mut set = self.set(network).lock();
        let now = clock.now();
        for (index, rule) in rules.iter().enumerate() {
            if !is_passed_over(receipt, index) {
                let log = set.log(network, rule, now);
                log.used_at(now);
                log.record(now, cost);
            }
        }
    }

    pub(super) fn levels(
        &self,
        network: Network,
        rules: &[NetworkRule<'_>],
        cost: NonZeroU32,
        clock: &Clock,
    ) -> Vec<(Level, Moment)> {
        let mut set = self.set(network).lock();
        let now = clock.now();
        let level = |(index, rule)| set.level(index, network, rule, cost, now);
        rules.iter().enumerate().map(level).collect()
    }

    pub(super) fn forget(&self, network: Network) {
        let mut set = self.set(network).lock();
        set.0.retain(|window| window.network != network);
    }

    pub(super) fn windows(&self, clock: &Clock) -> Vec<SavedNetwork> {
        let mut saved = Vec::new();
        for set in &self.sets {
            let mut set = set.lock();
            let now = clock.now();
            for window in &mut set.0 {
                if window.log.used_at(now) == 0 {
                    continue;
                }
                saved.push(SavedNetwork {
                    network: window.network,
                    counts: window.counts.clone(),
                    length: window.log.length(),
                    hits: saved_hits(&window.log, clock),
                });
            }
        }
        saved
    }

    pub(super) fn restore(&self, saved: Vec<SavedNetwork>, clock: &Clock) {
        let now = clock.now();
        for saved in saved {
            let mut log = SlidingLog::new(saved.length);
            restore_hits(&mut log, saved.hits, now, clock);
            if !log.is_empty() {
                let window = Window {
                    network: saved.network,
                    counts: saved.counts,
                    log,
                };
                self.set(saved.network).lock().add(window, now);
            }
        }
    }

    /// All windows of a network are in one set.
    fn set(&self, network: Network) -> &Mutex<Set> {
        &self.sets[self.hasher.hash_one(network) as usize & (self.sets.len() - 1)]
    }
}

impl Set {
    fn find(&mut self, network: Network, rule: &NetworkRule<'_>) -> Option<&mut SlidingLog> {
        let at = self.position(network, rule)?;
        Some(&mut self.0[at].log)
    }

    /// How a rule stands, and when it has room for `cost`.
    fn level(
        &mut self,
        index: usize,
        network: Network,
        rule: &NetworkRule<'_>,
        cost: NonZeroU32,
        now: Moment,
    ) -> (Level, Moment) {
        let mut empty = SlidingLog::new(length_of(rule.limit));
        let log = self.find(network, rule).unwrap_or(&mut empty);
        log.used_at(now);
        let level = level_of(log, index, rule.limit, now);
        let room_at = if level.remaining >= cost.get().into() {
            now
        } else if rule.limit.amount.get() < cost.get().into() {
            Moment::NEVER
        } else {
            log.room_at(now, rule.limit.amount.get(), cost)
        };
        (level, room_at)
    }

    /// The window of a rule, made if it is not there.
    fn log(&mut self, network: Network, rule: &NetworkRule<'_>, now: Moment) -> &mut SlidingLog {
        let at = match self.position(network, rule) {
            Some(at) => at,
            None => {
                let window = Window {
                    network,
                    counts: rule.counts.clone(),
                    log: SlidingLog::new(length_of(rule.limit)),
                };
                self.add(window, now)
            }
        };
        &mut self.0[at].log
    }

    fn position(&self, network: Network, rule: &NetworkRule<'_>) -> Option<usize> {
        let length = length_of(rule.limit);
        self.0.iter().position(|window| {
            window.network == network
                && window.log.length() == length
                && window.counts == *rule.counts
        })
    }

    /// Puts a window into a set; if it is full in the place of the emptiest one, of another network
    /// if there is any.
    fn add(&mut self, window: Window, now: Moment) -> usize {
        let Self(windows) = self;
        if windows.len() < WAYS {
            // By one: most sets hold few windows, and the flood that fills them all is what is
            // bounded.
            windows.reserve_exact(1);
            windows.push(window);
            return windows.len() - 1;
        }
        let rank = windows
            .iter_mut()
            .map(|other| (other.network == window.network, other.log.used_at(now)));
        let emptiest = rank.enumerate().min_by_key(|(_, rank)| *rank);
        let at = emptiest.map_or(0, |(at, _)| at);
        windows[at] = window;
        at
    }
}

fn level_of(log: &SlidingLog, index: usize, limit: Limit, now: Moment) -> Level {
    Level {
        rule: index,
        at: now,
        remaining: limit.amount.get().saturating_sub(log.used().into()),
        grows_at: log.oldest_leaves_at(now),
    }
}

/// Networks are limited over intervals only.
fn length_of(limit: Limit) -> WindowLength {
    match limit.span {
        Span::Sliding(length) => length,
        _ => WindowLength::MINUTE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, Timestamp};
    use crate::lockout::Strike;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    /// Whether a request is admitted under a limit on what is counted.
    fn hit(networks: &Networks, from: &str, counts: &Counts, limit: &str, clock: &Clock) -> bool {
        let rule = NetworkRule {
            counts,
            limit: limit.parse().unwrap(),
        };
        let outcome = networks.hit(network(from), &[rule], NonZeroU32::MIN, clock);
        matches!(outcome, Outcome::Admitted(..))
    }

    const STRIKES: Counts = Counts::Strikes(Strike::BadKey);

    #[test]
    fn each_network_and_each_rule_has_a_window_of_its_own() {
        let clock = Clock::from(ManualClock::starting_at(Timestamp::default()));
        let networks = Networks::new(64);
        let (a, b) = (Counts::Requests("a".into()), Counts::Requests("b".into()));
        let all = [
            ("192.0.2.1", &STRIKES),
            ("192.0.2.2", &STRIKES),
            ("192.0.2.1", &a),
            ("192.0.2.1", &b),
        ];
        for (from, counts) in all {
            assert!(hit(&networks, from, counts, "1/min", &clock));
            assert!(!hit(&networks, from, counts, "1/min", &clock));
        }
        networks.forget(network("192.0.2.1"));
        assert!(hit(&networks, "192.0.2.1", &a, "1/min", &clock));
        assert!(!hit(&networks, "192.0.2.2", &STRIKES, "1/min", &clock));
    }

    #[test]
    fn windows_of_different_length_do_not_reset_each_other() {
        let clock = Clock::from(ManualClock::starting_at(Timestamp::default()));
        let networks = Networks::new(64);
        for expected in [true, false] {
            for limit in ["1/min", "1/hour"] {
                assert_eq!(
                    hit(&networks, "192.0.2.1", &STRIKES, limit, &clock),
                    expected
                );
            }
        }
    }

    #[test]
    fn a_request_that_one_limit_refuses_is_counted_by_none() {
        let clock = Clock::from(ManualClock::starting_at(Timestamp::default()));
        let networks = Networks::new(64);
        let limits = ["1/s", "3/min", "2/hour shadow"].map(|limit| limit.parse().unwrap());
        let rules = limits.map(|limit| NetworkRule {
            counts: &STRIKES,
            limit,
        });
        let from = network("192.0.2.1");
        let one = NonZeroU32::MIN;
        for _ in 0..5 {
            networks.hit(from, &rules, one, &clock);
        }
        let left = |networks: &Networks| -> Vec<u64> {
            let levels = networks.levels(from, &rules, one, &clock).into_iter();
            levels.map(|(level, _)| level.remaining).collect()
        };
        assert_eq!(left(&networks), [0, 2, 1]);
        let saved = networks.windows(&clock);
        let again = Networks::new(64);
        again.restore(saved, &clock);
        assert_eq!(left(&again), [0, 2, 1]);
    }

    #[test]
    fn a_flood_of_addresses_is_bounded_and_pushes_out_nobody_at_a_limit() {
        let clock = Clock::from(ManualClock::starting_at(Timestamp::default()));
        let networks = Networks::new(64);
        for _ in 0..3 {
            hit(&networks, "192.0.2.1", &STRIKES, "3/min", &clock);
        }
        for i in 0..100_000_u32 {
            let flood = std::net::Ipv4Addr::from_bits(0x0a00_0000 + i).to_string();
            hit(&networks, &flood, &STRIKES, "3/min", &clock);
        }
        let windows: usize = networks.sets.iter().map(|set| set.lock().0.len()).sum();
        assert!(windows <= 64);
        assert!(!hit(&networks, "192.0.2.1", &STRIKES, "3/min", &clock));
    }
}
