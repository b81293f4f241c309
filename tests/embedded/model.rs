//! The decision against a simple model, with random keys, organizations, limits, costs, refunds, debts
//! and requests in flight.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::common::{Home, IP, NOON, Random, SECRET};
use keyguard::{Config, CreateKey, CreatedKey, Grant, KeyGuard, Reason, Request, UpdateOrg};

/// A million operations in total.
const WORLDS: u64 = 500;
const STEPS: u64 = 2_000;

const NANOS: u64 = 1_000_000_000;

const MILLI: u64 = 1_000_000;

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A window of this many nanoseconds.
    Window(u64),
    Day,
    /// The refilled amount, and its period in nanoseconds.
    Credits(Option<(u64, u64)>),
    InFlight,
}

#[derive(Clone, Debug)]
struct Limit {
    text: String,
    amount: u64,
    kind: Kind,
    shadow: bool,
    /// Time, amount and request of each hit.
    hits: Vec<(u64, u64, u64)>,
    spent: u64,
    since: u64,
}

impl Limit {
    fn new(text: String, amount: u64, kind: Kind) -> Self {
        Self {
            text,
            amount,
            kind,
            shadow: false,
            hits: Vec::new(),
            spent: 0,
            since: 0,
        }
    }

    fn random(random: &mut Random) -> Vec<Self> {
        let mut limits = Vec::new();
        for (unit, length) in [
            ("250ms", NANOS / 4),
            ("s", NANOS),
            ("min", 60 * NANOS),
            ("hour", 3_600 * NANOS),
            ("day", 86_400 * NANOS),
        ] {
            if random.one_in(3) {
                let amount = 1 + random.below(12);
                limits.push(Self::new(
                    format!("{amount}/{unit}"),
                    amount,
                    Kind::Window(length),
                ));
            }
        }
        if random.one_in(4) {
            let amount = 1 + random.below(40);
            limits.push(Self::new(format!("{amount} daily"), amount, Kind::Day));
        }
        if random.one_in(4) {
            let amount = 1 + random.below(40);
            let refill = (1 + random.below(5), random.pick(&[1, 7, 60]));
            let (back, seconds) = refill;
            let kind = Kind::Credits(Some((back, seconds * NANOS)));
            let text = format!("{amount} credits +{back}/{seconds}s");
            limits.push(Self::new(text, amount, kind));
        } else if random.one_in(6) {
            let amount = 50 + random.below(400);
            limits.push(Self::new(
                format!("{amount} credits"),
                amount,
                Kind::Credits(None),
            ));
        }
        if random.one_in(4) {
            let amount = 1 + random.below(3);
            limits.push(Self::new(
                format!("{amount} concurrent"),
                amount,
                Kind::InFlight,
            ));
        }
        for limit in &mut limits {
            if random.one_in(6) {
                limit.shadow = true;
                limit.text += " shadow";
            }
        }
        limits
    }

    /// The amount that counts at `now`, in nanoseconds since noon.
    fn used(&mut self, now: u64) -> u64 {
        match self.kind {
            Kind::Window(length) => {
                let grain = MILLI.max(length.div_ceil(60_000));
                self.hits
                    .retain(|(at, ..)| at.div_ceil(grain) * grain + length > now);
                self.hits.iter().map(|(_, count, _)| count).sum()
            }
            Kind::Day => {
                self.hits.retain(|(at, ..)| day(*at) == day(now));
                self.hits.iter().map(|(_, count, _)| count).sum()
            }
            Kind::Credits(refill) => {
                // The calendar has milliseconds.
                let now = now / MILLI * MILLI;
                while let Some((back, every)) = refill
                    && self.spent > 0
                    && self.since + every <= now
                {
                    self.since += every;
                    self.spent = self.spent.saturating_sub(back);
                }
                self.spent
            }
            Kind::InFlight => self.hits.len() as u64,
        }
    }

    fn takes(&self, cost: u64) -> u64 {
        match self.kind {
            Kind::InFlight => 1,
            _ => cost,
        }
    }

    fn has_room(&mut self, now: u64, cost: u64) -> bool {
        self.used(now) + self.takes(cost) <= self.amount
    }

    fn take(&mut self, now: u64, cost: u64, request: u64) {
        let takes = self.takes(cost);
        if let Kind::Credits(_) = self.kind {
            if self.used(now) == 0 {
                self.since = now / MILLI * MILLI;
            }
            self.spent += takes;
        } else {
            self.hits.push((now, takes, request));
        }
    }

    fn settle(&mut self, now: u64, request: u64, cost: u64, actual: u64) {
        let used = self.used(now);
        match self.kind {
            Kind::InFlight => {}
            Kind::Credits(_) if actual < cost => self.spent = used.saturating_sub(cost - actual),
            _ if actual > cost => self.take(now, actual - cost, request),
            _ => {
                for (_, count, _) in self.hits.iter_mut().filter(|(.., by)| *by == request) {
                    *count -= cost - actual;
                }
            }
        }
    }

    fn release(&mut self, request: u64) {
        if let Kind::InFlight = self.kind {
            self.hits.retain(|(.., by)| *by != request);
        }
    }
}

/// Days since the one on which the clock starts at noon.
fn day(now: u64) -> u64 {
    (now + 43_200 * NANOS) / (86_400 * NANOS)
}

struct Key {
    created: CreatedKey,
    org: usize,
    limits: Vec<Limit>,
}

struct Pending {
    grant: Grant,
    key: usize,
    cost: u64,
    request: u64,
    /// The exceeded limits in shadow mode: those of the key first.
    shadow_denied: Vec<usize>,
}

struct World {
    random: Random,
    kg: KeyGuard,
    home: Home,
    now: u64,
    keys: Vec<Key>,
    orgs: Vec<Vec<Limit>>,
    pending: Vec<Pending>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let home = Home::at(NOON);
        let config = Config::new(SECRET)
            .clock(home.clock.clone())
            .record_usage(false)
            .socket(false)
            .key_cache_capacity(16)
            .max_tracked_keys(16)
            .file_cache_bytes(1 << 20)
            .max_locks(16)
            .max_tracked_ips(16);
        let kg = home.open_with(config);
        let (mut keys, mut orgs) = (Vec::new(), Vec::new());
        for org in 0..2 {
            let limits = Limit::random(&mut random);
            let id = kg.admin().create_org(&format!("org {org}")).unwrap().id;
            kg.admin()
                .update_org(UpdateOrg::new(id).limits(limits.iter().map(|limit| &limit.text)))
                .unwrap();
            orgs.push(limits);
            for _ in 0..1 + random.below(3) {
                let mut limits = Limit::random(&mut random);
                limits.retain(|limit| !limit.text.ends_with("/min"));
                let amount = 1 + random.below(30);
                let created = kg.admin().create_key(
                    CreateKey::new(format!("org {org}"), "key")
                        .rate_limit_per_minute(amount as u32)
                        .limits(limits.iter().map(|limit| &limit.text)),
                );
                let minute = Limit::new("default".into(), amount, Kind::Window(60 * NANOS));
                limits.push(minute);
                let created = created.unwrap();
                keys.push(Key {
                    created,
                    org,
                    limits,
                });
            }
        }
        Self {
            random,
            kg,
            home,
            now: 0,
            keys,
            orgs,
            pending: Vec::new(),
        }
    }

    fn step(&mut self, request: u64) {
        if self.random.one_in(2) {
            let longest = self
                .random
                .pick(&[MILLI / 3, MILLI, NANOS / 5, NANOS, 60 * NANOS]);
            let longest = if self.random.one_in(100) {
                20_000 * NANOS
            } else {
                longest
            };
            let by = self.random.below(longest);
            self.home.clock.advance(Duration::from_nanos(by));
            self.now += by;
        }
        if !self.pending.is_empty() && self.random.one_in(2) {
            let at = self.random.index(self.pending.len());
            let pending = self.pending.swap_remove(at);
            self.end(pending);
        } else {
            self.check(request);
        }
    }

    fn check(&mut self, request: u64) {
        let at = self.random.index(self.keys.len());
        let cost = if self.random.one_in(3) {
            1 + self.random.below(9)
        } else {
            1
        };
        let key = &mut self.keys[at];
        let mut limits: Vec<_> = key
            .limits
            .iter_mut()
            .chain(&mut self.orgs[key.org])
            .collect();
        let enforced = |limit: &&mut &mut Limit| !limit.shadow;
        let is_above = limits.iter().any(|l| !l.shadow && l.takes(cost) > l.amount);
        let now = self.now;
        let is_admitted = limits
            .iter_mut()
            .filter(enforced)
            .all(|l| l.has_room(now, cost));
        let headers = [("X-API-Key", key.created.raw_key.expose())];
        let sent = Request::new(&headers, IP, "/").cost(NonZeroU32::new(cost as u32).unwrap());
        let verdict = self.kg.dry_run(sent);
        match self.kg.decide(sent) {
            Ok(grant) => {
                assert!(is_admitted && !is_above, "request {request} was admitted");
                assert!(verdict.is_allowed());
                let mut shadow_denied = Vec::new();
                for (place, limit) in limits.into_iter().enumerate() {
                    if limit.has_room(now, cost) {
                        limit.take(now, cost, request);
                    } else {
                        shadow_denied.push(place);
                    }
                }
                assert_eq!(grant.shadow_denied().len(), shadow_denied.len());
                self.pending.push(Pending {
                    grant,
                    key: at,
                    cost,
                    request,
                    shadow_denied,
                });
            }
            Err(denial) => {
                assert!(
                    !is_admitted || is_above,
                    "request {request} was refused: {denial}"
                );
                assert_eq!(denial.reason() == Reason::CostAboveLimit, is_above);
                assert_eq!(verdict.denial, Some(denial));
            }
        }
        // The state of each limit equals that of the model.
        if !is_above {
            let states = self
                .kg
                .admin()
                .key_limits(self.keys[at].created.key.id)
                .unwrap();
            let key = &mut self.keys[at];
            let limits = key.limits.iter_mut().chain(&mut self.orgs[key.org]);
            let mut expected: Vec<_> = limits
                .map(|limit| (limit.amount, limit.amount.saturating_sub(limit.used(now))))
                .collect();
            let mut found: Vec<_> = states.iter().map(|s| (s.limit, s.remaining)).collect();
            expected.sort_unstable();
            found.sort_unstable();
            assert_eq!(found, expected, "request {request}");
        }
    }

    fn end(&mut self, pending: Pending) {
        let Pending {
            grant,
            key,
            cost,
            request,
            shadow_denied,
        } = pending;
        let key = &mut self.keys[key];
        let actual = self.random.below(2 * cost + 1);
        let is_settled = self.random.one_in(2);
        if is_settled {
            grant.settle(actual);
        }
        drop(grant);
        let limits = key.limits.iter_mut().chain(&mut self.orgs[key.org]);
        for (place, limit) in limits.enumerate() {
            if shadow_denied.contains(&place) {
                continue;
            }
            if is_settled {
                limit.settle(self.now, request, cost, actual);
            }
            limit.release(request);
        }
    }
}

#[test]
fn million_random_steps_match_a_naive_model() {
    let threads = std::thread::available_parallelism().map_or(2, usize::from) as u64;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for seed in (thread..WORLDS).step_by(threads as usize) {
                    let mut world = World::new(seed);
                    for step in 0..STEPS {
                        world.step(seed * STEPS + step);
                    }
                }
            });
        }
    });
}
