//! How the cost of a hot check grows: `cargo bench --bench curves`.
//!
//! Prints a table for each quantity, with the median nanoseconds of a check and its ratio to the floor. The
//! keys belong to distinct organizations and have one limit, and there are no routes, unless the table says
//! otherwise. `--smoke` runs briefly. How to read the tables: `src/lib.rs` of this package.

use std::time::Duration;

use keyguard::{CreateKey, KeyGuard, UpdateOrg};
use keyguard_benches::checks::{check_all, floor};
use keyguard_benches::measure::{Random, median, median_ratio, timed};
use keyguard_benches::world::{
    PATH, RICH_PATH, UNREACHED, create_keys, limited, routes, unrecorded,
};
use keyguard_benches::{Fallible, Run};

/// The number of checks of a point of a curve.
const CHECKS: usize = 4_000_000;

fn main() -> Fallible<()> {
    let is_smoke = std::env::args().any(|argument| argument == "--smoke");
    let run = Run::new(is_smoke)?;
    resident_keys(&run)?;
    rules(&run)?;
    route_count(&run)?;
    threads(&run)
}

/// Checks of the first keys of one file, in random order.
fn resident_keys(run: &Run) -> Fallible<()> {
    title("resident keys");
    let (path, keys) = run.world.million(run.size(1_000_000))?;
    for count in [1, 1_000, 100_000, 1_000_000].map(|full| run.size(full)) {
        let config = unrecorded()
            .key_cache_capacity(keys.len())
            .max_tracked_keys(2 * keys.len());
        let kg = KeyGuard::open(path, config)?;
        // Clients send their keys in memory that is near.
        let keys = Random(1).shuffled(&keys[..count]);
        print(count, cost(run, &kg, &keys, PATH));
    }
    Ok(())
}

/// Limits of the key, and of its organization where a key cannot have so many.
fn rules(run: &Run) -> Fallible<()> {
    title("rules");
    for (of_key, of_org) in [(1, 0), (4, 0), (9, 7)] {
        let count = of_key + of_org;
        let file = run.world.path(&format!("rules-{count}.redb"));
        let kg = KeyGuard::open(file, unrecorded())?;
        let keys = keys(run, &kg, of_org, |key| key.limits(limits(of_key - 1)))?;
        print(count, cost(run, &kg, &keys, PATH));
    }
    Ok(())
}

/// Windows of this many lengths.
fn limits(count: usize) -> Vec<String> {
    (1..=count).map(|n| format!("100000000/{n}h")).collect()
}

/// Requests of one route.
fn route_count(run: &Run) -> Fallible<()> {
    title("routes");
    for count in [10, 100, 1_000] {
        let file = run.world.path(&format!("routes-{count}.redb"));
        let kg = KeyGuard::open(file, unrecorded().policy(routes(count)))?;
        let keys = keys(run, &kg, 0, |key| key.scopes(["read"]))?;
        print(count, cost(run, &kg, &keys, RICH_PATH));
    }
    Ok(())
}

/// Threads that check different keys.
fn threads(run: &Run) -> Fallible<()> {
    title("threads");
    let kg = KeyGuard::open(run.world.path("threads.redb"), unrecorded())?;
    let keys = keys(run, &kg, 0, |key| key)?;
    for count in [1, 2, 4] {
        let shares: Vec<&[String]> = keys.chunks(keys.len() / count).collect();
        let in_threads = |work: &(dyn Fn(&[String]) + Sync)| {
            timed(|| {
                std::thread::scope(|scope| {
                    for share in &shares {
                        scope.spawn(|| work(share));
                    }
                });
            })
        };
        let passes = run.size(1_000);
        let cost = measure(
            run.rounds(21),
            passes * shares[0].len(),
            || in_threads(&|share| check_all(&kg, share, PATH, passes)),
            || in_threads(&|share| floor(share, passes)),
        );
        print(count, cost);
    }
    Ok(())
}

/// 1,000 keys of distinct organizations, each of which has this many limits.
fn keys(
    run: &Run,
    kg: &KeyGuard,
    of_org: usize,
    change: impl Fn(CreateKey) -> CreateKey,
) -> Fallible<Vec<String>> {
    let mut new = Vec::new();
    for number in 0..run.size(1_000) {
        let org = format!("org {number}");
        let id = kg.admin().create_org(&org)?.id;
        if of_org > 0 {
            kg.admin()
                .update_org(UpdateOrg::new(id).limits(limits(of_org)))?;
        }
        new.push(change(limited(&org, UNREACHED)));
    }
    create_keys(kg, &new)
}

struct Cost {
    nanos: f64,
    of_floor: f64,
}

/// The cost of checks of all keys in turn.
fn cost(run: &Run, kg: &KeyGuard, keys: &[String], path: &str) -> Cost {
    check_all(kg, keys, path, 2);
    // Short rounds, so that disturbances affect few of them.
    let share = keys.len().min(1_000);
    let passes = 1_000 / share;
    let checks = passes * share;
    let shares = || keys.chunks_exact(share).cycle();
    let (mut checked, mut hashed) = (shares(), shares());
    measure(
        run.rounds(CHECKS / checks + 1),
        checks,
        || {
            let keys = checked.next().unwrap_or_default();
            timed(|| check_all(kg, keys, path, passes))
        },
        || {
            let keys = hashed.next().unwrap_or_default();
            timed(|| floor(keys, passes))
        },
    )
}

/// Measures rounds of this many checks.
fn measure(
    rounds: usize,
    checks: usize,
    mut work: impl FnMut() -> Duration,
    floor: impl FnMut() -> Duration,
) -> Cost {
    let mut nanos = Vec::new();
    let work = || {
        let time = work();
        nanos.push(time.as_nanos() as f64 / checks as f64);
        time
    };
    let of_floor = median_ratio(rounds, work, floor);
    Cost {
        nanos: median(nanos),
        of_floor,
    }
}

fn title(quantity: &str) {
    println!("{quantity:<16}{:>10}{:>10}", "ns", "of floor");
}

fn print(quantity: usize, cost: Cost) {
    println!("{quantity:<16}{:>10.0}{:>10.2}", cost.nanos, cost.of_floor);
}
