//! Several processes with the same limits in one Redis together admit no more than one would.
//! `KEYGUARD_SECONDS` sets the least duration; the figures are printed.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::common::redis::Redis;
use crate::common::{IP, Random, SECRET, child};
use keyguard::{Config, CreateKey, Fallback, KeyGuard, Reason, Request, UpdateOrg};
use tempfile::TempDir;

const PROCESSES: usize = 4;
const THREADS: usize = 4;

const ORGS: usize = 40;
const KEYS_PER_ORG: usize = 4;

/// The limits of keys, in rotation, and of every organization, 360 in total: amounts and windows in
/// milliseconds.
const OF_KEYS: [&[(u32, u64)]; 4] = [
    &[(5, 100), (100, 3_000)],
    &[(8, 250), (40, 2_000)],
    &[(3, 50), (20, 1_000), (50, 5_000)],
    // Slow machines fill this one, too.
    &[(20, 60_000)],
];
const OF_ORGS: &[(u32, u64)] = &[(40, 500)];

/// The refusals after which a process may end.
const ENOUGH: usize = 50;

#[test]
fn processes_together_admit_no_more_than_one_would() {
    if let Some(argument) = child::argument() {
        return work(&argument.into_string().unwrap());
    }
    let seconds = std::env::var("KEYGUARD_SECONDS").map_or(5, |text| text.parse().unwrap());
    let redis = Redis::start();
    let dir = TempDir::new().unwrap();
    let test = "processes_together_admit_no_more_than_one_would";
    let start = |number| {
        let place = dir.path().join(format!("{number}.redb"));
        let argument = format!("{seconds} {} {}", redis.url(), place.to_str().unwrap());
        child::command(module_path!(), test, argument)
            .spawn()
            .unwrap()
    };
    let children: Vec<Child> = (0..PROCESSES).map(start).collect();
    let mut all = Figures::default();
    for (number, mut child) in children.into_iter().enumerate() {
        assert!(child.wait().unwrap().success());
        all.read(&dir.path().join(format!("{number}.redb.log")));
    }
    let violations = all.violations();
    println!(
        "{} decisions, {} admitted, {} refused, {} undecided, {violations} violations; \
         limits that were filled: {}",
        all.decisions, all.admitted, all.refused, all.undecided, all.filled
    );
    assert_eq!((all.undecided, violations), (0, 0));
    assert!(all.admitted > 100 && all.filled > 10);
}

/// Microseconds of the system clock, which Redis also uses.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_micros() as u64
}

/// The decisions of all processes.
#[derive(Default)]
struct Figures {
    decisions: usize,
    admitted: usize,
    refused: usize,
    undecided: usize,
    filled: usize,
    /// By key: the earliest and latest time of each admission, and its cost.
    by_key: HashMap<usize, Vec<Admitted>>,
}

#[derive(Clone, Copy)]
struct Admitted {
    before: u64,
    after: u64,
    cost: u32,
}

impl Figures {
    fn read(&mut self, log: &Path) {
        for line in BufReader::new(std::fs::File::open(log).unwrap()).lines() {
            let line = line.unwrap();
            let mut words = line.split(' ');
            let outcome = words.next().unwrap();
            let mut number = || words.next().unwrap().parse::<u64>().unwrap();
            let (key, before, after, cost) =
                (number() as usize, number(), number(), number() as u32);
            self.decisions += 1;
            match outcome {
                "admitted" => {
                    self.admitted += 1;
                    let hits = self.by_key.entry(key).or_default();
                    hits.push(Admitted {
                        before,
                        after,
                        cost,
                    });
                }
                "refused" => self.refused += 1,
                _ => self.undecided += 1,
            }
        }
    }

    /// The number of intervals that admitted more than a limit.
    fn violations(&mut self) -> usize {
        let mut violations = 0;
        for org in 0..ORGS {
            let keys = org * KEYS_PER_ORG..(org + 1) * KEYS_PER_ORG;
            let mut of_org = Vec::new();
            for key in keys {
                let hits = self.by_key.remove(&key).unwrap_or_default();
                of_org.extend(hits.iter().copied());
                for limit in OF_KEYS[key % OF_KEYS.len()] {
                    violations += self.check(hits.clone(), *limit);
                }
            }
            for limit in OF_ORGS {
                violations += self.check(of_org.clone(), *limit);
            }
        }
        violations
    }

    /// Sums the hits that were certainly within an interval, requested after its start and decided before
    /// its end, for the interval that ends at each hit.
    fn check(&mut self, mut hits: Vec<Admitted>, (amount, millis): (u32, u64)) -> usize {
        hits.sort_by_key(|hit| hit.before);
        let mut ends: Vec<u64> = hits.iter().map(|hit| hit.after).collect();
        ends.sort_unstable();
        let (mut violations, mut fullest) = (0, 0);
        for end in ends {
            let start = end.saturating_sub(millis * 1_000);
            let from = hits.partition_point(|hit| hit.before <= start);
            let within = hits[from..].iter().take_while(|hit| hit.before <= end);
            let sum: u32 = within
                .filter(|hit| hit.after <= end)
                .map(|hit| hit.cost)
                .sum();
            violations += usize::from(sum > amount);
            fullest = fullest.max(sum);
        }
        self.filled += usize::from(fullest * 10 >= amount * 8);
        violations
    }
}

/// Sends random requests and logs each decision with the times before and after it.
fn work(argument: &str) {
    let [seconds, url, file] = argument.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{argument}");
    };
    let config = Config::new(SECRET)
        .record_usage(false)
        .redis_url(url)
        .backend_deadline(Duration::from_secs(20))
        .limiter_fallback(Fallback::Deny);
    let kg = KeyGuard::open(file, config).unwrap();
    let keys = create_keys(&kg);
    let log = std::fs::File::create(format!("{file}.log")).unwrap();
    let log = Mutex::new(BufWriter::new(log));
    let end = Instant::now() + Duration::from_secs(seconds.parse().unwrap());
    let seed = AtomicU64::new(u64::from(std::process::id()) << 16);
    let refused = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut random = Random(seed.fetch_add(1, Ordering::Relaxed));
                while Instant::now() < end || refused.load(Ordering::Relaxed) < ENOUGH {
                    let line = check(&kg, &keys, &mut random);
                    let is_refusal = usize::from(line.starts_with("refused"));
                    refused.fetch_add(is_refusal, Ordering::Relaxed);
                    writeln!(log.lock().unwrap(), "{line}").unwrap();
                }
            });
        }
    });
}

fn check(kg: &KeyGuard, keys: &[String], random: &mut Random) -> String {
    // A few keys get most of the traffic.
    let key = if random.one_in(2) {
        random.index(keys.len() / 8)
    } else {
        random.index(keys.len())
    };
    let cost = 1 + random.below(8) as u32 / 6;
    let headers = [("X-API-Key", keys[key].as_str())];
    let request = Request::new(&headers, IP, "/api").cost(cost.try_into().unwrap());
    let before = now();
    let outcome = kg.decide(request);
    let after = now();
    let word = match outcome {
        Ok(_) => "admitted",
        Err(denial) if denial.reason() == Reason::RateLimited => "refused",
        Err(_) => "undecided",
    };
    format!("{word} {key} {before} {after} {cost}")
}

/// Creates the same keys in each file, in the same order, so that they have the same ids.
fn create_keys(kg: &KeyGuard) -> Vec<String> {
    let written = |limits: &[(u32, u64)]| -> Vec<String> {
        let limits = limits.iter();
        limits
            .map(|(amount, millis)| format!("{amount}/{millis}ms"))
            .collect()
    };
    let mut keys = Vec::new();
    for number in 0..ORGS {
        let org = format!("org {number}");
        let id = kg.admin().create_org(&org).unwrap().id;
        let limits = written(OF_ORGS);
        kg.admin()
            .update_org(UpdateOrg::new(id).limits(limits.iter().map(String::as_str)))
            .unwrap();
        for _ in 0..KEYS_PER_ORG {
            let limits = written(OF_KEYS[keys.len() % OF_KEYS.len()]);
            let request = CreateKey::new(&org, "shared")
                .rate_limit_per_minute(1_000_000)
                .limits(limits);
            keys.push(
                kg.admin()
                    .create_key(request)
                    .unwrap()
                    .raw_key
                    .expose()
                    .to_owned(),
            );
        }
    }
    keys
}

#[test]
fn slots_of_a_killed_process_are_released_within_five_seconds() {
    if let Some(argument) = child::argument() {
        return hold_slots(&argument.into_string().unwrap());
    }
    let redis = Redis::start();
    let dir = TempDir::new().unwrap();
    let test = "slots_of_a_killed_process_are_released_within_five_seconds";
    let argument = |name: &str| {
        let file = dir.path().join(name);
        format!("{} {}", redis.url(), file.to_str().unwrap())
    };
    let mut command: Command = child::command(module_path!(), test, argument("holder.redb"));
    let mut subject = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(subject.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().contains("held")));
    let (kg, key) = open_with_slots(&argument("other.redb"));
    let headers = [("X-API-Key", key.as_str())];
    let is_admitted = || kg.check(&headers, IP, "/api").is_ok();
    // Longer than a lease.
    let held_until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < held_until {
        assert!(!is_admitted(), "the slots are another's");
        std::thread::sleep(Duration::from_millis(50));
    }
    subject.kill().unwrap();
    subject.wait().unwrap();
    // Measured with the clock of Redis, so that a busy machine makes no difference.
    let held_for = lease_end(&redis).saturating_sub(time(&redis));
    assert!(held_for < 5_000_000, "held for another {held_for} µs");
    let end = Instant::now() + Duration::from_secs(60);
    while !is_admitted() {
        assert!(Instant::now() < end, "still held");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Microseconds since the Unix epoch.
fn time(redis: &Redis) -> u64 {
    let (seconds, micros): (u64, u64) = redis.run("TIME");
    seconds * 1_000_000 + micros
}

/// The end of the last lease of a slot. Each value is a number and a time.
fn lease_end(redis: &Redis) -> u64 {
    let keys: Vec<String> = redis.run("KEYS *:s");
    let held = keys
        .iter()
        .flat_map(|key| redis.run::<Vec<String>>(&format!("HVALS {key}")));
    let ends = held.map(|value| value.split(':').nth(1).unwrap().parse().unwrap());
    ends.max().expect("slots are held")
}

fn open_with_slots(argument: &str) -> (KeyGuard, String) {
    let (url, file) = argument.split_once(' ').unwrap();
    let config = Config::new(SECRET)
        .redis_url(url)
        .backend_deadline(Duration::from_secs(20))
        .limiter_fallback(Fallback::Deny);
    let kg = KeyGuard::open(file, config).unwrap();
    kg.admin().create_org("acme").unwrap();
    let request = CreateKey::new("acme", "slots")
        .rate_limit_per_minute(1_000_000)
        .limits(vec!["2 concurrent"]);
    let key = kg
        .admin()
        .create_key(request)
        .unwrap()
        .raw_key
        .expose()
        .to_owned();
    (kg, key)
}

/// Holds slots until it is killed or its parent ends.
fn hold_slots(argument: &str) {
    let (kg, key) = open_with_slots(argument);
    let headers = [("X-API-Key", key.as_str())];
    let _grants = [0, 1].map(|_| kg.check(&headers, IP, "/api").unwrap());
    println!("\nheld");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
