//! Windows over networks: bounded whatever the traffic.
//!
//! A network and what is counted of it name a place in one set of a table. A set that is full gives
//! up the window with the fewest hits in it, so that a flood of addresses that come once pushes out
//! others like them before anybody who is near a limit.

use std::hash::BuildHasher;
use std::num::NonZeroU32;

use foldhash::quality::RandomState;
use parking_lot::Mutex;

use super::{Level, NetworkCounter, Outcome};
use crate::clock::{Clock, Moment};
use crate::network::Network;
use crate::policy::{Rule, Span, WindowLength};
use crate::window::SlidingLog;

/// Windows of a set.
const WAYS: usize = 8;

#[derive(Debug)]
pub(super) struct Networks {
    sets: Box<[Mutex<Vec<Window>>]>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Window {
    network: Network,
    /// A hash of what is counted, and over what time. Nobody outside of the process can aim at another's.
    counts: u64,
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

    pub(super) fn hit(&self, counter: NetworkCounter<'_>, rule: Rule, clock: &Clock) -> Outcome {
        let length = match rule.span {
            Span::Sliding(length) => length,
            // Months are counted of keys only.
            Span::Month => WindowLength::MINUTE,
        };
        let counts = self.hasher.hash_one((counter.counts, length));
        let mut set = self.set(counter.network).lock();
        let now = clock.now();
        let is_it = |window: &Window| window.network == counter.network && window.counts == counts;
        let at = set.iter().position(is_it).unwrap_or_else(|| {
            add(
                &mut set,
                Window {
                    network: counter.network,
                    counts,
                    log: SlidingLog::new(length),
                },
                now,
            )
        });
        let log = &mut set[at].log;
        let level = |log: &mut SlidingLog| Level {
            rule: 0,
            at: now,
            remaining: rule.limit.saturating_sub(log.used_at(now).into()),
            grows_at: log.oldest_leaves_at(now),
        };
        let before = level(log);
        if before.remaining == 0 {
            let room_at = log.room_at(now, rule.limit, NonZeroU32::MIN);
            return Outcome::Refused(before, room_at);
        }
        log.record(now, NonZeroU32::MIN);
        Outcome::Admitted(level(log))
    }

    pub(super) fn forget(&self, network: Network) {
        self.set(network)
            .lock()
            .retain(|window| window.network != network);
    }

    /// All windows of a network are in one set.
    fn set(&self, network: Network) -> &Mutex<Vec<Window>> {
        &self.sets[self.hasher.hash_one(network) as usize & (self.sets.len() - 1)]
    }
}

/// Puts a window into a set, in the place of the emptiest one if the set is full.
fn add(set: &mut Vec<Window>, window: Window, now: Moment) -> usize {
    if set.len() < WAYS {
        // By one: most sets hold few windows, and the flood that fills them all is what is bounded.
        set.reserve_exact(1);
        set.push(window);
        return set.len() - 1;
    }
    let used = set.iter_mut().map(|window| window.log.used_at(now));
    let emptiest = used.enumerate().min_by_key(|(_, used)| *used);
    let at = emptiest.map_or(0, |(at, _)| at);
    set[at] = window;
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, Timestamp};
    use crate::limiter::Counts;
    use crate::lockout::Strike;

    fn counter(network: &str) -> NetworkCounter<'static> {
        NetworkCounter {
            network: network.parse().unwrap(),
            counts: Counts::Strikes(Strike::BadKey),
        }
    }

    fn rule(limit: u32) -> Rule {
        Rule::per_minute(NonZeroU32::new(limit).unwrap())
    }

    fn is_admitted(outcome: Outcome) -> bool {
        matches!(outcome, Outcome::Admitted(_))
    }

    #[test]
    fn each_network_and_each_rule_has_a_window_of_its_own() {
        let clock = Clock::from(ManualClock::starting_at(Timestamp::default()));
        let networks = Networks::new(64);
        let named = |name| NetworkCounter {
            counts: Counts::Requests(name),
            ..counter("192.0.2.1")
        };
        for counter in [
            counter("192.0.2.1"),
            counter("192.0.2.2"),
            named("a"),
            named("b"),
        ] {
            assert!(is_admitted(networks.hit(counter, rule(1), &clock)));
            assert!(!is_admitted(networks.hit(counter, rule(1), &clock)));
        }
        networks.forget("192.0.2.1".parse().unwrap());
        assert!(is_admitted(networks.hit(named("a"), rule(1), &clock)));
        assert!(!is_admitted(networks.hit(
            counter("192.0.2.2"),
            rule(1),
            &clock
        )));
    }

    #[test]
    fn windows_of_different_length_do_not_reset_each_other() {
        let clock = Clock::from(ManualClock::starting_at(Timestamp::default()));
        let networks = Networks::new(64);
        let hour = Rule {
            limit: 1,
            span: Span::Sliding(WindowLength::new(std::time::Duration::from_secs(3_600)).unwrap()),
        };
        for rule in [rule(1), hour] {
            assert!(is_admitted(networks.hit(
                counter("192.0.2.1"),
                rule,
                &clock
            )));
        }
        for rule in [rule(1), hour] {
            assert!(!is_admitted(networks.hit(
                counter("192.0.2.1"),
                rule,
                &clock
            )));
        }
    }

    #[test]
    fn a_flood_of_addresses_is_bounded_and_pushes_out_nobody_at_a_limit() {
        let clock = Clock::from(ManualClock::starting_at(Timestamp::default()));
        let networks = Networks::new(64);
        for _ in 0..3 {
            networks.hit(counter("192.0.2.1"), rule(3), &clock);
        }
        for i in 0..100_000_u32 {
            let flood = std::net::Ipv4Addr::from_bits(0x0a00_0000 + i).to_string();
            networks.hit(counter(&flood), rule(3), &clock);
        }
        let windows: usize = networks.sets.iter().map(|set| set.lock().len()).sum();
        assert!(windows <= 64);
        assert!(!is_admitted(networks.hit(
            counter("192.0.2.1"),
            rule(3),
            &clock
        )));
    }
}
