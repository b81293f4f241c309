use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;

use super::window::Fullness;
use super::*;
use crate::counter::Counts;
use crate::lockout::AuthFailure;
use crate::time::{ManualClock, Timestamp};

fn network(text: &str) -> IpKey {
    text.parse().unwrap()
}

fn numbered(number: u32) -> IpKey {
    network(&std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).to_string())
}

fn clock() -> (ManualClock, Clock) {
    let manual = ManualClock::starting_at(Timestamp::default());
    (manual.clone(), manual.into())
}

/// Whether a request is admitted under a limit on what is counted.
fn hit(networks: &IpCounters, from: IpKey, counts: &Counts, limit: &str, clock: &Clock) -> bool {
    let rule = IpRule {
        counts,
        limit: limit.parse().unwrap(),
    };
    let outcome = networks.hit(from, &[rule], NonZeroU32::MIN, clock);
    matches!(outcome, Admission::Admitted(..))
}

const STRIKES: Counts = Counts::Strikes(AuthFailure::BadKey);

#[test]
fn a_network_is_small() {
    let bytes = Set::bytes_per_network();
    assert!(bytes <= 104, "{bytes} bytes");
}

#[test]
fn each_network_and_each_rule_has_a_window_of_its_own() {
    let (_, clock) = clock();
    let networks = IpCounters::new(64);
    let (a, b) = (Counts::Requests("a".into()), Counts::Requests("b".into()));
    let (one, two) = (network("192.0.2.1"), network("192.0.2.2"));
    for (from, counts) in [(one, &STRIKES), (two, &STRIKES), (one, &a), (one, &b)] {
        assert!(hit(&networks, from, counts, "1/min", &clock));
        assert!(!hit(&networks, from, counts, "1/min", &clock));
    }
    networks.forget(one);
    assert!(hit(&networks, one, &a, "1/min", &clock));
    assert!(!hit(&networks, two, &STRIKES, "1/min", &clock));
}

#[test]
fn windows_of_different_length_do_not_reset_each_other() {
    let (_, clock) = clock();
    let networks = IpCounters::new(64);
    for expected in [true, false] {
        for limit in ["1/min", "1/hour"] {
            let from = network("192.0.2.1");
            assert_eq!(hit(&networks, from, &STRIKES, limit, &clock), expected);
        }
    }
}

#[test]
fn a_request_that_one_limit_refuses_is_counted_by_none() {
    let (_, clock) = clock();
    let networks = IpCounters::new(64);
    let limits = ["1/s", "3/min", "2/hour shadow", "9/min shadow"];
    let rules = limits.map(|limit| IpRule {
        counts: &STRIKES,
        limit: limit.parse().unwrap(),
    });
    let (from, one) = (network("192.0.2.1"), NonZeroU32::MIN);
    for _ in 0..5 {
        networks.hit(from, &rules, one, &clock);
    }
    let left = |networks: &IpCounters| -> Vec<u64> {
        let levels = networks.levels(from, &rules, one, &clock).into_iter();
        levels.map(|(level, _)| level.remaining).collect()
    };
    assert_eq!(left(&networks), [0, 2, 1, 8]);
    let saved = networks.windows(&clock);
    let again = IpCounters::new(64);
    again.restore(saved, &clock);
    assert_eq!(left(&again), [0, 2, 1, 8]);
}

#[test]
fn a_flood_of_addresses_is_bounded_and_pushes_out_nobody_at_a_limit() {
    let (_, clock) = clock();
    let networks = IpCounters::new(64);
    let refused = network("192.0.2.1");
    for _ in 0..3 {
        hit(&networks, refused, &STRIKES, "3/min", &clock);
    }
    for i in 0..100_000 {
        hit(&networks, numbered(i), &STRIKES, "3/min", &clock);
    }
    let windows = networks.sets.iter().map(|set| set.lock().sizes().0);
    assert!(windows.sum::<usize>() <= 64);
    assert!(!hit(&networks, refused, &STRIKES, "3/min", &clock));
}

#[test]
fn the_windows_of_a_set_are_bounded_unless_one_network_has_them_all() {
    let (_, clock) = clock();
    let networks = IpCounters::new(8);
    let names: Vec<_> = (0..100)
        .map(|i| Counts::Requests(format!("r{i}").into()))
        .collect();
    for round in 0..30 {
        for (i, counts) in names.iter().enumerate() {
            let from = numbered((round * 7 + i as u32) % 9);
            hit(&networks, from, counts, "3/min", &clock);
        }
    }
    let (own, shared) = networks.sets[0].lock().sizes();
    assert!(own <= set::WINDOWS && shared <= 100, "{own} {shared}");

    let networks = IpCounters::new(8);
    for counts in &names {
        for expected in [true, true, true, false] {
            let admitted = hit(&networks, numbered(1), counts, "3/min", &clock);
            assert_eq!(admitted, expected);
        }
    }
    assert_eq!(networks.sets[0].lock().sizes(), (100, 0));
}

/// What is counted under each of `count` rules.
fn rules(count: usize) -> Vec<Counts> {
    let name = |i| format!("r{i}").into();
    (0..count)
        .map(|i| match i % 2 {
            0 => Counts::Route(name(i)),
            _ => Counts::Requests(name(i)),
        })
        .collect()
}

/// Windows of networks and those that are shared, in all sets.
fn len(networks: &IpCounters) -> usize {
    let sizes = networks.sets.iter().map(|set| set.lock().sizes());
    sizes.map(|(own, shared)| own + shared).sum()
}

#[test]
fn windows_are_bounded_however_many_rules_there_are() {
    let (manual, clock) = clock();
    let networks = IpCounters::new(16);
    let rules = rules(600);
    let admitted = |from: u32, counts: &Counts, times: usize| {
        let hits = (0..times).filter(|_| hit(&networks, numbered(from), counts, "2/min", &clock));
        hits.count()
    };
    // The first comes before all others, and is at all of its limits.
    for counts in &rules {
        assert_eq!(admitted(0, counts, 3), 2);
    }
    let mut by_rule = vec![0; rules.len()];
    for from in 1..20 {
        for (rule, counts) in rules.iter().enumerate() {
            by_rule[rule] += admitted(from, counts, 3);
            assert!(by_rule[rule] <= 2 * (2 * set::WAYS + 2 * set::WAYS));
        }
        let len = len(&networks);
        assert!(len <= 2 * set::WINDOWS + 1_024, "{len} windows");
    }
    for counts in &rules {
        assert_eq!(admitted(0, counts, 1), 0);
    }
    manual.advance(Duration::from_secs(61));
    networks.sweep(0, 1, &clock);
    assert_eq!((len(&networks), networks.reserve.left()), (0, 1_024));
    for counts in &rules {
        assert_eq!(admitted(0, counts, 3), 2);
    }
}

/// A table without a reserve left, a network that has used it all up, and one that comes to its set.
fn used_up(clock: &Clock, rules: &[Counts]) -> (IpCounters, IpKey, IpKey) {
    let networks = IpCounters::new(8);
    let (first, next) = (numbered(0), numbered(1));
    for counts in rules {
        hit(&networks, first, counts, "1/min", clock);
    }
    assert_eq!(networks.reserve.left(), 0);
    (networks, first, next)
}

#[test]
fn what_there_is_no_room_for_is_refused_unless_it_is_a_failure_or_in_shadow_mode() {
    let (_, clock) = clock();
    let rules = rules(2_000);
    let (networks, first, next) = used_up(&clock, &rules);
    let asked = |from, counts, limits: &[&str]| {
        let rule = |limit: &&str| IpRule {
            counts,
            limit: limit.parse().unwrap(),
        };
        let rules: Vec<_> = limits.iter().map(rule).collect();
        let one = NonZeroU32::MIN;
        let has_room = networks.has_room(from, &rules, one, &clock);
        let outcome = networks.hit(from, &rules, one, &clock);
        assert_eq!(has_room, outcome != Admission::Full);
        outcome
    };
    for from in [first, next] {
        let outcome = asked(from, &rules[1_999], &["1/min"]);
        assert_eq!(outcome, Admission::Full);
        let outcome = asked(from, &rules[1_999], &["1/min shadow"]);
        let Admission::Admitted(_, Some(remarks)) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(remarks.shadow_denied[..], [0]);
        assert!(hit(&networks, from, &STRIKES, "1/min", &clock));
        let outcome = asked(from, &STRIKES, &["1/min"]);
        assert!(matches!(outcome, Admission::Refused(..)), "{outcome:?}");
    }
    assert!(!hit(&networks, first, &rules[0], "1/min", &clock));
    networks.forget(first);
    assert!(networks.reserve.left() > 0);
    assert!(hit(&networks, next, &rules[1_999], "1/min", &clock));
}

#[test]
fn stored_windows_are_bounded_too() {
    let (_, clock) = clock();
    let rules = rules(1_000);
    let full = IpCounters::new(64);
    for from in 0..8 {
        for counts in &rules {
            hit(&full, numbered(from), counts, "1/min", &clock);
        }
    }
    let networks = IpCounters::new(8);
    networks.restore(full.windows(&clock), &clock);
    let len = len(&networks);
    assert!(
        (1_000..=set::WINDOWS + 1_024).contains(&len),
        "{len} windows"
    );
}

#[test]
fn the_fullest_are_restored_first() {
    let (_, clock) = clock();
    let full = IpCounters::new(64);
    for i in 0..200 {
        let hits = if i % 25 == 0 { 3 } else { 1 };
        for _ in 0..hits {
            hit(&full, numbered(i), &STRIKES, "5/min", &clock);
        }
    }
    let saved = full.windows(&clock);
    let are_refused = saved.iter().filter(|window| window.hits[0].1 == 3);
    let are_refused: Vec<_> = are_refused.map(|window| window.network).collect();
    let restored = IpCounters::new(8);
    restored.restore(saved, &clock);
    let there = restored.sets[0].lock().networks(clock.now());
    for refused in are_refused.iter().take(8) {
        let found = there.iter().find(|(network, _)| network == refused);
        assert_eq!(found.map(|(_, fullness)| *fullness), Some(Fullness::FULL));
    }
}

/// A window of the model: every hit by itself.
#[derive(Default)]
struct Naive(Vec<u64>);

impl Naive {
    fn used(&self, now: u64) -> u64 {
        self.0.iter().filter(|at| **at + LENGTH > now).count() as u64
    }
}

const LENGTH: u64 = 60_000;
const RULES: usize = 5;
/// The first counts failures.
const AMOUNTS: [u32; RULES] = [9, 1, 3, 5, 20];
const SHADOW: usize = 4;

#[derive(Clone, Debug)]
struct Request {
    from: u32,
    rules: Vec<usize>,
    cost: u32,
    wait: u64,
}

fn requests(networks: u32) -> impl Strategy<Value = Vec<Request>> {
    let rules = prop::sample::subsequence((0..RULES).collect::<Vec<_>>(), 1..=3);
    let request = (0..networks, rules, 1..3_u32, 0..100_u64, any::<bool>());
    let request = request.prop_map(|(from, rules, cost, wait, is_long)| Request {
        from,
        rules,
        cost,
        wait: if is_long { wait * 40 } else { wait / 20 },
    });
    prop::collection::vec(request, 1..300)
}

/// The one set of a table beside a model that is bounded by nothing.
struct World {
    networks: IpCounters,
    manual: ManualClock,
    clock: Clock,
    now: u64,
    counts: [Counts; RULES],
    /// What each network of the set had admitted since it is there.
    model: HashMap<(IpKey, usize), Naive>,
    shared: [Naive; RULES],
    /// Of the last request.
    costs: HashMap<(IpKey, usize), u32>,
}

impl World {
    fn new() -> Self {
        let (manual, clock) = clock();
        let named = |i: usize| Counts::Requests(format!("r{i}").into());
        Self {
            networks: IpCounters::new(8),
            manual,
            clock,
            now: 0,
            counts: [STRIKES, named(1), named(2), named(3), named(4)],
            model: HashMap::new(),
            shared: Default::default(),
            costs: HashMap::new(),
        }
    }

    fn fullness(&self, from: IpKey, rule: usize, more: u64) -> f64 {
        let used = self
            .model
            .get(&(from, rule))
            .map_or(0, |w| w.used(self.now))
            + more;
        let cost = self.costs.get(&(from, rule)).map_or(1, |cost| *cost);
        let full_at = match rule {
            0 => AMOUNTS[0] / 2 + 1,
            _ => AMOUNTS[rule] + 1 - cost,
        };
        if rule == SHADOW {
            0.0
        } else {
            used as f64 / f64::from(full_at)
        }
    }

    fn fullest(&self, from: IpKey) -> f64 {
        (0..RULES)
            .map(|rule| self.fullness(from, rule, 0))
            .fold(0.0, f64::max)
    }

    fn there(&self) -> Vec<IpKey> {
        let mut set = self.networks.sets[0].lock();
        set.networks(self.clock.now())
            .into_iter()
            .map(|(network, _)| network)
            .collect()
    }

    fn take(&mut self, request: Request) -> Result<(), TestCaseError> {
        self.manual.advance(Duration::from_millis(request.wait));
        self.now += request.wait;
        let from = numbered(request.from);
        // A cost above a limit is refused before any window is asked.
        let most = request.rules.iter().map(|rule| AMOUNTS[*rule]).min();
        let cost = request.cost.min(most.unwrap_or(1));
        let rules: Vec<_> = request
            .rules
            .iter()
            .map(|rule| IpRule {
                counts: &self.counts[*rule],
                limit: format!(
                    "{}/min{}",
                    AMOUNTS[*rule],
                    if *rule == SHADOW { " shadow" } else { "" }
                )
                .parse()
                .unwrap(),
            })
            .collect();
        for rule in &request.rules {
            self.costs.insert((from, *rule), cost);
        }
        let before = self.there();
        let outcome = self
            .networks
            .hit(from, &rules, NonZeroU32::new(cost).unwrap(), &self.clock);
        let after = self.there();
        prop_assert!(after.len() <= set::WAYS);

        let gone = before.iter().filter(|network| !after.contains(network));
        let newcomer = request
            .rules
            .iter()
            .map(|rule| self.fullness(from, *rule, cost.into()));
        let newcomer = newcomer.fold(self.fullest(from), f64::max);
        for gone in gone {
            let fullness = self.fullest(*gone);
            prop_assert!(fullness < 1.0, "{gone} is refused, or has failed often");
            prop_assert!(fullness <= newcomer + 1e-4, "{fullness} {newcomer}");
            self.model.retain(|(network, _), _| network != gone);
        }
        let is_own = after.contains(&from);
        let enforced = || request.rules.iter().copied().filter(|rule| *rule != SHADOW);
        let own_has_room = enforced().all(|rule| {
            let used = self
                .model
                .get(&(from, rule))
                .map_or(0, |w| w.used(self.now));
            used + u64::from(cost) <= AMOUNTS[rule].into()
        });
        match outcome {
            Admission::Refused(..) => prop_assert!(!own_has_room),
            Admission::RefusedShared(..) => {
                prop_assert!(!before.contains(&from));
                let is_full = |rule: usize| {
                    self.shared[rule].used(self.now) + u64::from(cost)
                        > 8 * u64::from(AMOUNTS[rule])
                };
                prop_assert!(enforced().any(is_full));
            }
            Admission::Admitted(..) => {
                prop_assert!(own_has_room);
                for rule in request.rules.iter().copied() {
                    let amount = u64::from(AMOUNTS[rule]);
                    let (window, most) = match is_own {
                        true => (self.model.entry((from, rule)).or_default(), amount),
                        false => (&mut self.shared[rule], 8 * amount),
                    };
                    if rule != SHADOW || window.used(self.now) + u64::from(cost) <= most {
                        window.0.extend((0..cost).map(|_| self.now));
                    }
                    prop_assert!(window.used(self.now) <= most);
                }
            }
            Admission::Full | Admission::Undecided => prop_assert!(false),
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// A set that has room decides as the model does; nobody is displaced.
    #[test]
    fn networks_that_fit_are_limited_exactly(requests in requests(8)) {
        let mut world = World::new();
        for request in requests {
            world.take(request)?;
        }
        prop_assert!(world.shared.iter().all(|shared| shared.0.is_empty()));
    }

    /// Whatever comes, nobody at a limit is displaced, nor anybody by an emptier newcomer, and those
    /// without room are limited together.
    #[test]
    fn a_crowded_set_keeps_who_is_near_a_limit(requests in requests(24)) {
        let mut world = World::new();
        for request in requests {
            world.take(request)?;
        }
    }
}
