//! Mixed traffic over 400 days, or a month in a smoke run.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use keyguard::{
    Config, CreateKey, Denial, Grant, KeyGuard, ListUsage, ManualClock, Policy, RotateKey, Route,
    Timestamp,
};
use keyguard_benches::measure::{Random, judge, resident_bytes};
use keyguard_benches::world::{
    SECRET, Traffic, UNREACHED, create_keys, headers, limited, unknown_key,
};
use keyguard_benches::{Fallible, Run};

use super::sent::Sent;
use super::{DAY, file_mib};

/// 2027-06-01T00:00 in Berlin.
const START: Timestamp = Timestamp::from_unix_millis(1_811_800_800_000);

/// Days of the clock, months that they touch in the calendar of Berlin, which the quotas have, and requests per
/// slot. All slots send the same number, so that the quarters can be compared.
struct Length {
    days: u32,
    months: u64,
    requests: u32,
}

/// Until 2028-07-05T00:00 in Berlin.
const WHOLE: Length = Length {
    days: 400,
    months: 14,
    requests: 800,
};

/// Until 2027-07-03T00:00 in Berlin.
const SMOKE: Length = Length {
    days: 32,
    months: 2,
    requests: 16,
};

/// The clock goes on in steps of five minutes.
const SLOT: Duration = Duration::from_secs(300);
const SLOTS: u32 = 288;

/// Requests of a quota per day, and per month.
const DAILY: u64 = 20;
const MONTHLY: u64 = 100;

/// How long requests are kept.
const KEPT: Duration = Duration::from_secs(30 * 86_400);

type Outcome = Result<Grant, Denial>;

/// The traffic, and the guard that it meets.
struct Soak {
    kg: KeyGuard,
    clock: ManualClock,
    file: PathBuf,
    keys: Keys,
    traffic: Traffic,
    random: Random,
    sent: Sent,
    unflushed: u32,
    /// Admitted requests of the two quotas.
    daily: u64,
    monthly: u64,
}

struct Keys {
    plain: Vec<String>,
    daily: String,
    monthly: String,
    credits: String,
    concurrent: String,
    revoked: String,
}

/// Memory and file at the end of a quarter, in MiB.
struct Quarter {
    memory: f64,
    file: f64,
}

/// Returns whether all goals were met. A smoke run judges only totals.
pub(crate) fn run(run: &Run, time: Duration) -> Fallible<bool> {
    let length = if run.is_smoke { SMOKE } else { WHOLE };
    let Length { days, months, .. } = length;
    let mut soak = Soak::new(run)?;
    let (start, slots) = (Instant::now(), days * SLOTS);
    let mut quarters = Vec::new();
    let mut difference = 0;
    for slot in 0..slots {
        let until = start + time.mul_f64(f64::from(slot + 1) / f64::from(slots));
        soak.slot(slot, length.requests)?;
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
        let day = (slot + 1) / SLOTS;
        if (slot + 1) % SLOTS == 0 {
            soak.change_keys()?;
            if day.is_multiple_of(30) {
                soak = soak.restart()?;
            }
            if day.is_multiple_of(days / 4) {
                difference += soak.difference()?;
                let quarter = soak.quarter()?;
                println!(
                    "mixed: day {day}: memory {:.1} MiB, file {:.1} MiB, {} requests",
                    quarter.memory, quarter.file, soak.sent.requests
                );
                quarters.push(quarter);
            }
        }
    }
    println!("mixed: refused: {}", soak.sent.refusals());
    let stats = soak.kg.admin().stats()?;
    let quotas =
        soak.daily.abs_diff(DAILY * u64::from(days)) + soak.monthly.abs_diff(MONTHLY * months);
    let are_exact = [
        judge("mixed_totals_off", difference as f64, 0.0),
        judge("mixed_dropped", stats.dropped as f64, 0.0),
        judge("mixed_quotas_off", quotas as f64, 0.0),
    ];
    let [first, .., last] = quarters.as_slice() else {
        return Err("no quarters".into());
    };
    let are_flat = [
        judge("mixed_memory_growth", last.memory / first.memory, 1.1),
        judge("mixed_file_growth", last.file / first.file, 1.1),
        judge("mixed_days_kept", soak.days_kept()?, 32.0),
    ];
    let is_met = |met: &bool| *met;
    Ok(are_exact.iter().all(is_met) && (run.is_smoke || are_flat.iter().all(is_met)))
}

impl Soak {
    fn new(run: &Run) -> Fallible<Self> {
        let (clock, file) = (
            ManualClock::starting_at(START),
            run.world.path("mixed.redb"),
        );
        let kg = KeyGuard::open(&file, config(&clock))?;
        kg.admin().create_org("acme")?;
        let plain = create_keys(&kg, &vec![limited("acme", UNREACHED).scopes(["read"]); 200])?;
        let with = |limit: &str| -> Fallible<String> {
            let key = limited("acme", UNREACHED).limits([limit]);
            Ok(create_keys(&kg, &[key])?.remove(0))
        };
        let keys = Keys {
            plain,
            daily: with(&format!("{DAILY} daily"))?,
            monthly: with(&format!("{MONTHLY} monthly"))?,
            credits: with("50 credits +1/hour")?,
            concurrent: with("2 concurrent")?,
            revoked: with("1000/s")?,
        };
        let revoked = kg.check(&headers(&keys.revoked), address(0), "/api")?;
        let id = revoked.key().ok_or("a grant without a key")?.id;
        let mut sent = Sent::default();
        sent.count(Ok(revoked), clock.timestamp());
        kg.admin().revoke_key(id)?;
        Ok(Self {
            kg,
            clock,
            file,
            keys,
            traffic: Traffic::default(),
            random: Random(3),
            sent,
            unflushed: 0,
            daily: 0,
            monthly: 0,
        })
    }

    /// Sends requests within five minutes of the clock.
    fn slot(&mut self, slot: u32, requests: u32) -> Fallible<()> {
        const STEP: Duration = Duration::from_millis(10);

        let end = START.plus(SLOT * (slot + 1));
        // Twice a day, so that the quotas of every day and month are used up. Days of the clock and of the
        // calendar begin at different times while there is no daylight saving time.
        if slot.is_multiple_of(SLOTS / 2) {
            for _ in 0..30 {
                self.daily();
                self.monthly();
            }
        }
        for _ in 0..requests {
            if self.clock.timestamp().plus(STEP) < end {
                self.clock.advance(STEP);
            }
            self.request();
        }
        self.unflushed += requests;
        if self.unflushed >= 50_000 {
            self.flush()?;
        }
        self.clock.advance(end.since(self.clock.timestamp()));
        Ok(())
    }

    fn request(&mut self) {
        match self.random.below(100) {
            0..3 => self.daily(),
            3..6 => self.monthly(),
            6..9 => {
                let outcome = check(&self.kg, &self.keys.credits, address(1), "/api");
                self.count(outcome);
            }
            9..11 => self.concurrent(),
            11..14 => {
                let outcome = check(&self.kg, &self.keys.revoked, address(2), "/api");
                self.count(outcome);
            }
            14..18 => {
                // At a high rate they are locked out, for a day.
                let from = address(1_000 + self.random.below(20));
                self.count(check(&self.kg, "nonsense", from, "/api"));
            }
            18..21 => {
                let key = unknown_key("kg_live_", &mut self.random);
                let from = address(10_000 + self.random.below(1_000_000));
                self.count(check(&self.kg, &key, from, "/api"));
            }
            21..24 => {
                let from = address(10_000 + self.random.below(1_000_000));
                self.count(check(&self.kg, "", from, "/api"));
            }
            24..28 => {
                let from = address(2_000_000 + self.random.below(2));
                self.count(check(&self.kg, "", from, "/login"));
            }
            number => {
                let (key, from, path) = self.traffic.next(&self.keys.plain);
                // The keys lack the scope for orders.
                let path = if number < 31 { "/orders" } else { path };
                let outcome = check(&self.kg, key, from, path);
                self.count(outcome);
            }
        }
    }

    fn count(&mut self, outcome: Outcome) -> bool {
        self.sent.count(outcome, self.clock.timestamp())
    }

    fn daily(&mut self) {
        let outcome = check(&self.kg, &self.keys.daily, address(3), "/api");
        self.daily += u64::from(self.count(outcome));
    }

    fn monthly(&mut self) {
        let outcome = check(&self.kg, &self.keys.monthly, address(4), "/api");
        self.monthly += u64::from(self.count(outcome));
    }

    /// Three requests at a time, of which two are admitted.
    fn concurrent(&mut self) {
        let outcomes = [(); 3].map(|()| check(&self.kg, &self.keys.concurrent, address(5), "/api"));
        for outcome in outcomes {
            self.count(outcome);
        }
    }

    /// Creates, rotates and revokes a key, and locks an address, once a day.
    fn change_keys(&mut self) -> Fallible<()> {
        let admin = self.kg.admin();
        let id = admin.create_key(CreateKey::new("acme", "of a day"))?.key.id;
        admin.rotate_key(RotateKey::new(id))?;
        admin.revoke_key(id)?;
        admin.block(address(6), None, "1 hour")?;
        self.flush()
    }

    fn flush(&mut self) -> Fallible<()> {
        self.unflushed = 0;
        Ok(self.kg.flush()?)
    }

    fn restart(mut self) -> Fallible<Self> {
        self.kg.close()?;
        self.kg = KeyGuard::open(&self.file, config(&self.clock))?;
        Ok(self)
    }

    fn difference(&self) -> Fallible<u64> {
        let stats = self.kg.admin().stats()?;
        Ok(self.sent.difference(&stats, self.clock.timestamp()))
    }

    fn quarter(&self) -> Fallible<Quarter> {
        Ok(Quarter {
            memory: resident_bytes()? / f64::from(1 << 20),
            file: file_mib(&self.file)?,
        })
    }

    /// The age of the oldest request that is kept.
    fn days_kept(&self) -> Fallible<f64> {
        let oldest = self.kg.admin().list_usage(ListUsage::new().limit(1))?;
        let oldest = oldest.first().ok_or("no request is kept")?;
        let age = self.clock.timestamp().since(oldest.at);
        Ok(age.as_secs_f64() / DAY.as_secs_f64())
    }
}

fn config(clock: &ManualClock) -> Config {
    let policy = Policy::new()
        .route(
            Route::new("login", "/login")
                .open()
                .ip_limits(["2/min"])
                .lockout("10 minutes"),
        )
        .route(Route::new("orders", "/orders").scopes(["write"]));
    Config::new(SECRET)
        .clock(clock.clone())
        .policy(policy)
        .time_zone("Europe/Berlin")
        .quota_time_zone("Europe/Berlin")
        .usage_retention(KEPT)
}

fn check(kg: &KeyGuard, key: &str, from: IpAddr, path: &str) -> Outcome {
    kg.check(&headers(key), from, path)
}

fn address(number: usize) -> IpAddr {
    Ipv4Addr::from_bits(0x0b00_0000 + number as u32).into()
}
