use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;

use super::super::super::{Admission, LimitState};
use super::super::decision;
use super::window::Fullness;
use super::*;
use crate::counter::{Events, Subject, Time};
use crate::lockout::AuthFailure;
use crate::time::{ManualClock, TimeZone, Timestamp};

fn address(text: &str) -> IpKey {
    text.parse().unwrap()
}

fn numbered(number: u32) -> IpKey {
    address(&std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).to_string())
}

fn clock() -> (ManualClock, Clock) {
    let manual = ManualClock::starting_at(Timestamp::default());
    (manual.clone(), manual.into())
}

/// Calls `decide` with the locked windows of an address and the time.
fn with_locked<T>(
    table: &AddressTable,
    from: IpKey,
    rules: &[Rule],
    cost: NonZeroU32,
    clock: &Clock,
    decide: impl FnOnce(LockedAddress<'_>, Time<'_>) -> T,
) -> T {
    let zone = &TimeZone::utc();
    let time = || Time {
        now: clock.now(),
        clock,
        zone,
    };
    let (locked, time) = table.lock(from, &[rules], cost, time);
    decide(locked, time)
}

fn admit(
    table: &AddressTable,
    from: IpKey,
    rules: &[Rule],
    cost: NonZeroU32,
    clock: &Clock,
) -> Admission {
    with_locked(table, from, rules, cost, clock, |locked, time| {
        decision::admit(locked, &[rules], cost, time)
    })
}

fn states(table: &AddressTable, from: IpKey, rules: &[Rule], clock: &Clock) -> Vec<LimitState> {
    let cost = NonZeroU32::MIN;
    let states = with_locked(table, from, rules, cost, clock, |locked, time| {
        decision::states(locked, &[rules], cost, time)
    });
    states.into_iter().map(|(state, _)| state).collect()
}

fn rule(events: &Events, limit: &str) -> Rule {
    Rule {
        events: events.clone(),
        ..Rule::new(limit.parse().unwrap(), Subject::Address)
    }
}

/// Whether a request is admitted under a limit.
fn admits(table: &AddressTable, from: IpKey, events: &Events, limit: &str, clock: &Clock) -> bool {
    let admission = admit(table, from, &[rule(events, limit)], NonZeroU32::MIN, clock);
    matches!(admission, Admission::Admitted(..))
}

fn windows(table: &AddressTable, clock: &Clock) -> Vec<SavedIpWindow> {
    table.windows(0, 1, clock)
}

const FAILURES: Events = Events::AuthFailures(AuthFailure::BadKey);

#[test]
fn an_entry_is_small() {
    let bytes = Set::bytes_per_address();
    assert!(bytes <= 104, "{bytes} bytes");
}

#[test]
fn restored_windows_contain_the_same_hits() {
    let (_, clock) = clock();
    let table = AddressTable::new(64);
    let limits = ["1/s", "3/min", "2/hour shadow", "9/min shadow"];
    let rules = limits.map(|limit| rule(&FAILURES, limit));
    let (from, one) = (address("192.0.2.1"), NonZeroU32::MIN);
    admit(&table, from, &rules, one, &clock);
    let left = |table: &AddressTable| -> Vec<u64> {
        let states = states(table, from, &rules, &clock).into_iter();
        states.map(|state| state.remaining).collect()
    };
    assert_eq!(left(&table), [0, 2, 1, 8]);
    let saved = windows(&table, &clock);
    let again = AddressTable::new(64);
    again.restore(saved, &clock);
    assert_eq!(left(&again), [0, 2, 1, 8]);
}

#[test]
fn a_flood_of_addresses_is_bounded_and_evicts_no_address_at_a_limit() {
    let (_, clock) = clock();
    let table = AddressTable::new(64);
    let refused = address("192.0.2.1");
    for _ in 0..3 {
        admits(&table, refused, &FAILURES, "3/min", &clock);
    }
    for i in 0..100_000 {
        admits(&table, numbered(i), &FAILURES, "3/min", &clock);
    }
    let windows = table.sets.iter().map(|set| set.lock().sizes().0);
    assert!(windows.sum::<usize>() <= 64);
    assert!(!admits(&table, refused, &FAILURES, "3/min", &clock));
}

#[test]
fn the_windows_of_a_set_are_bounded_unless_one_address_has_them_all() {
    let (_, clock) = clock();
    let table = AddressTable::new(8);
    let names: Vec<_> = (0..100)
        .map(|i| Events::IpLimit(format!("r{i}").into()))
        .collect();
    for round in 0..30 {
        for (i, events) in names.iter().enumerate() {
            let from = numbered((round * 7 + i as u32) % 9);
            admits(&table, from, events, "3/min", &clock);
        }
    }
    let (own, shared) = table.sets[0].lock().sizes();
    assert!(own <= set::WINDOWS && shared <= 100, "{own} {shared}");

    let table = AddressTable::new(8);
    for events in &names {
        for expected in [true, true, true, false] {
            let admitted = admits(&table, numbered(1), events, "3/min", &clock);
            assert_eq!(admitted, expected);
        }
    }
    assert_eq!(table.sets[0].lock().sizes(), (100, 0));
}

/// The events of `count` rules.
fn rules(count: usize) -> Vec<Events> {
    let name = |i| format!("r{i}").into();
    (0..count)
        .map(|i| match i % 2 {
            0 => Events::Route(name(i)),
            _ => Events::IpLimit(name(i)),
        })
        .collect()
}

/// The number of windows in all sets, own and shared.
fn len(table: &AddressTable) -> usize {
    let sizes = table.sets.iter().map(|set| set.lock().sizes());
    sizes.map(|(own, shared)| own + shared).sum()
}

#[test]
fn windows_are_bounded_however_many_rules_there_are() {
    let (manual, clock) = clock();
    let table = AddressTable::new(16);
    let rules = rules(600);
    let admitted = |from: u32, events: &Events, times: usize| {
        let hits = (0..times).filter(|_| admits(&table, numbered(from), events, "2/min", &clock));
        hits.count()
    };
    // The first comes before all others, and is at all of its limits.
    for events in &rules {
        assert_eq!(admitted(0, events, 3), 2);
    }
    let mut by_rule = vec![0; rules.len()];
    for from in 1..20 {
        for (rule, events) in rules.iter().enumerate() {
            by_rule[rule] += admitted(from, events, 3);
            assert!(by_rule[rule] <= 2 * (2 * set::WAYS + 2 * set::WAYS));
        }
        let len = len(&table);
        assert!(len <= 2 * set::WINDOWS + 1_024, "{len} windows");
    }
    for events in &rules {
        assert_eq!(admitted(0, events, 1), 0);
    }
    manual.advance(Duration::from_secs(61));
    table.sweep(0, 1, &clock);
    assert_eq!((len(&table), table.reserve.left()), (0, 1_024));
    for events in &rules {
        assert_eq!(admitted(0, events, 3), 2);
    }
}

/// A table with an empty reserve, the address that emptied it, and a second address of the same set.
fn used_up(clock: &Clock, rules: &[Events]) -> (AddressTable, IpKey, IpKey) {
    let table = AddressTable::new(8);
    let (first, next) = (numbered(0), numbered(1));
    for events in rules {
        admits(&table, first, events, "1/min", clock);
    }
    assert_eq!(table.reserve.left(), 0);
    (table, first, next)
}

#[test]
fn a_request_without_room_is_refused_unless_it_counts_failures_or_is_in_shadow_mode() {
    let (_, clock) = clock();
    let rules = rules(2_000);
    let (table, first, next) = used_up(&clock, &rules);
    let asked = |from, events, limits: &[&str]| {
        let rules: Vec<_> = limits.iter().map(|limit| rule(events, limit)).collect();
        let one = NonZeroU32::MIN;
        let has_room = with_locked(&table, from, &rules, one, &clock, |mut locked, _| {
            locked.has_room(&[&rules], &mut None, |rule| rule.limit.shadow)
        });
        let admission = admit(&table, from, &rules, one, &clock);
        assert_eq!(has_room, admission != Admission::Full);
        admission
    };
    for from in [first, next] {
        let admission = asked(from, &rules[1_999], &["1/min"]);
        assert_eq!(admission, Admission::Full);
        let admission = asked(from, &rules[1_999], &["1/min shadow"]);
        let Admission::Admitted(_, Some(remarks)) = admission else {
            panic!("{admission:?}");
        };
        assert_eq!(remarks.skipped[..], [0]);
        assert!(admits(&table, from, &FAILURES, "1/min", &clock));
        let admission = asked(from, &FAILURES, &["1/min"]);
        assert!(matches!(admission, Admission::Refused(..)), "{admission:?}");
    }
    assert!(!admits(&table, first, &rules[0], "1/min", &clock));
    table.remove(first);
    assert!(table.reserve.left() > 0);
    assert!(admits(&table, next, &rules[1_999], "1/min", &clock));
}

#[test]
fn stored_windows_are_bounded_too() {
    let (_, clock) = clock();
    let rules = rules(1_000);
    let full = AddressTable::new(64);
    for from in 0..8 {
        for events in &rules {
            admits(&full, numbered(from), events, "1/min", &clock);
        }
    }
    let table = AddressTable::new(8);
    table.restore(windows(&full, &clock), &clock);
    let len = len(&table);
    assert!(
        (1_000..=set::WINDOWS + 1_024).contains(&len),
        "{len} windows"
    );
}

#[test]
fn the_fullest_windows_are_restored_first() {
    let (_, clock) = clock();
    let full = AddressTable::new(64);
    for i in 0..200 {
        let hits = if i % 25 == 0 { 3 } else { 1 };
        for _ in 0..hits {
            admits(&full, numbered(i), &FAILURES, "5/min", &clock);
        }
    }
    let saved = windows(&full, &clock);
    let are_refused = saved.iter().filter(|window| window.hits[0].1 == 3);
    let are_refused: Vec<_> = are_refused.map(|window| window.ip_key).collect();
    let restored = AddressTable::new(8);
    restored.restore(saved, &clock);
    let there = restored.sets[0].lock().addresses(clock.now());
    for refused in are_refused.iter().take(8) {
        let found = there.iter().find(|(address, _)| address == refused);
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
/// The first rule counts failures.
const AMOUNTS: [u32; RULES] = [9, 1, 3, 5, 20];
const SHADOW: usize = 4;

#[derive(Clone, Debug)]
struct Request {
    from: u32,
    rules: Vec<usize>,
    cost: u32,
    wait: u64,
}

fn requests(table: u32) -> impl Strategy<Value = Vec<Request>> {
    let rules = prop::sample::subsequence((0..RULES).collect::<Vec<_>>(), 1..=3);
    let request = (0..table, rules, 1..3_u32, 0..100_u64, any::<bool>());
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
    table: AddressTable,
    manual: ManualClock,
    clock: Clock,
    now: u64,
    events: [Events; RULES],
    /// The hits of each address since it entered the set.
    model: HashMap<(IpKey, usize), Naive>,
    shared: [Naive; RULES],
    /// Of the last request.
    costs: HashMap<(IpKey, usize), u32>,
}

impl World {
    fn new() -> Self {
        let (manual, clock) = clock();
        let named = |i: usize| Events::IpLimit(format!("r{i}").into());
        Self {
            table: AddressTable::new(8),
            manual,
            clock,
            now: 0,
            events: [FAILURES, named(1), named(2), named(3), named(4)],
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
        let mut set = self.table.sets[0].lock();
        set.addresses(self.clock.now())
            .into_iter()
            .map(|(address, _)| address)
            .collect()
    }

    fn run(&mut self, request: Request) -> Result<(), TestCaseError> {
        self.manual.advance(Duration::from_millis(request.wait));
        self.now += request.wait;
        let from = numbered(request.from);
        // The guard refuses a cost above a limit before it calls the limiter.
        let most = request.rules.iter().map(|rule| AMOUNTS[*rule]).min();
        let cost = request.cost.min(most.unwrap_or(1));
        let rules: Vec<_> = request
            .rules
            .iter()
            .map(|index| {
                let shadow = if *index == SHADOW { " shadow" } else { "" };
                rule(
                    &self.events[*index],
                    &format!("{}/min{shadow}", AMOUNTS[*index]),
                )
            })
            .collect();
        for rule in &request.rules {
            self.costs.insert((from, *rule), cost);
        }
        let before = self.there();
        let requested = NonZeroU32::new(cost).unwrap();
        let admission = admit(&self.table, from, &rules, requested, &self.clock);
        let after = self.there();
        prop_assert!(after.len() <= set::WAYS);

        let gone = before.iter().filter(|address| !after.contains(address));
        let newcomer = request
            .rules
            .iter()
            .map(|rule| self.fullness(from, *rule, cost.into()));
        let newcomer = newcomer.fold(self.fullest(from), f64::max);
        for gone in gone {
            let fullness = self.fullest(*gone);
            prop_assert!(fullness < 1.0, "{gone} is refused, or has failed often");
            prop_assert!(fullness <= newcomer + 1e-4, "{fullness} {newcomer}");
            self.model.retain(|(address, _), _| address != gone);
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
        match admission {
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

    /// A set with room decides as the model does and evicts no address.
    #[test]
    fn addresses_that_fit_are_limited_exactly(requests in requests(8)) {
        let mut world = World::new();
        for request in requests {
            world.run(request)?;
        }
        prop_assert!(world.shared.iter().all(|shared| shared.0.is_empty()));
    }

    /// No address at a limit is evicted, none is evicted by an emptier newcomer, and newcomers without
    /// room share windows.
    #[test]
    fn a_crowded_set_keeps_addresses_near_a_limit(requests in requests(24)) {
        let mut world = World::new();
        for request in requests {
            world.run(request)?;
        }
    }
}
