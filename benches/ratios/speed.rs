//! Rows about time.

use std::error::Error;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::process::{Command, Stdio};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use keyguard::{Config, CreateKey, Grant, KeyGuard};

use crate::Run;
use crate::checks::{check_all, floor};
use crate::measure::{Measured, Random, median, median_ratio, millis, timed, timed_result};
use crate::world::{
    PATH, RICH_PATH, SECRET, Traffic, UNREACHED, headers, many_keys, peer, rich_at, unrecorded,
};

/// Checks of 1,000 keys of distinct organizations, against the floor of any check: one header look-up,
/// one keyed hash of the key, one clock reading.
pub(crate) fn check_hot(run: &Run) -> Measured {
    let (kg, keys) = run
        .world
        .guard("hot.redb", 1_000, UNREACHED, unrecorded())?;
    // Short rounds, so that disturbances affect few of them.
    check_all(&kg, &keys, PATH, 1);
    Ok(median_ratio(
        run.rounds(4_001),
        || timed(|| check_all(&kg, &keys, PATH, 1)),
        || timed(|| floor(&keys, 1)),
    ))
}

/// The same with three windows per key, a limit per organization, and 100 routes, one of which matches
/// and requires a scope.
pub(crate) fn check_rich(run: &Run) -> Measured {
    let (kg, keys) = rich_at(run.world.path("rich.redb"), 1_000)?;
    check_all(&kg, &keys, RICH_PATH, 1);
    Ok(median_ratio(
        run.rounds(4_001),
        || timed(|| check_all(&kg, &keys, RICH_PATH, 1)),
        || timed(|| floor(&keys, 1)),
    ))
}

/// The same keys with 10,000 other addresses locked out, against no locks.
pub(crate) fn locked(run: &Run) -> Measured {
    let (calm, calm_keys) = run
        .world
        .guard("calm.redb", 1_000, UNREACHED, unrecorded())?;
    let config = unrecorded().lockout_threshold(1);
    let (kg, keys) = run.world.guard("locked.redb", 1_000, UNREACHED, config)?;
    let first = u32::from(Ipv4Addr::new(198, 18, 0, 0));
    for number in 0..10_000 {
        for _ in 0..2 {
            let ip = IpAddr::from(Ipv4Addr::from_bits(first + number));
            let _ = kg.check(&headers("nonsense"), ip, "/");
        }
    }
    let locks = kg.admin().list_blocks().len();
    if locks != 10_000 {
        return Err(format!("{locks} addresses are locked out").into());
    }
    check_all(&calm, &calm_keys, PATH, 1);
    check_all(&kg, &keys, PATH, 1);
    Ok(median_ratio(
        run.rounds(4_001),
        || timed(|| check_all(&kg, &keys, PATH, 1)),
        || timed(|| check_all(&calm, &calm_keys, PATH, 1)),
    ))
}

/// A million cached keys in random order, against a keyed rate limiter without authentication.
pub(crate) fn check_1m(run: &Run) -> Measured {
    let (path, keys) = run.world.million(run.size(1_000_000))?;
    let kg = KeyGuard::open(
        path,
        unrecorded()
            .key_cache_capacity(keys.len())
            .max_tracked_keys(2 * keys.len()),
    )?;
    let order: Vec<usize> = (0..keys.len()).collect();
    let order = Random(1).shuffled(&order);
    let quota = Quota::per_minute(NonZeroU32::new(UNREACHED).ok_or("a limit")?);
    let governor: DefaultKeyedRateLimiter<String> = RateLimiter::keyed(quota);
    let ours = || {
        for &at in &order {
            let headers = [("X-API-Key", keys[at].as_str())];
            let outcome = kg.check(&headers, peer(), PATH);
            assert!(black_box(&outcome).is_ok());
        }
    };
    let theirs = || {
        for &at in &order {
            assert!(black_box(governor.check_key(&keys[at])).is_ok());
        }
    };
    // Both first see the keys in another order, so that neighbours in memory are not used in sequence.
    for key in keys {
        assert!(kg.check(&[("X-API-Key", key)], peer(), "/").is_ok());
        assert!(governor.check_key(key).is_ok());
    }
    Ok(median_ratio(
        run.rounds(9),
        || timed(ours),
        || timed(theirs),
    ))
}

/// Throughput of two threads with different keys, over that of one.
pub(crate) fn two_threads(run: &Run) -> Measured {
    let (kg, keys) = run
        .world
        .guard("threads.redb", 1_000, UNREACHED, unrecorded())?;
    let keys = Random(2).shuffled(&keys);
    let (left, right) = keys.split_at(keys.len() / 2);
    let passes = run.size(1_000);
    check_all(&kg, &keys, PATH, 1);
    let one = || timed(|| check_all(&kg, left, PATH, passes));
    let two = || {
        timed(|| {
            std::thread::scope(|scope| {
                scope.spawn(|| check_all(&kg, right, PATH, passes));
                check_all(&kg, left, PATH, passes);
            });
        })
    };
    Ok(2.0 * median_ratio(run.rounds(21), one, two))
}

/// A check refused by its window, and its `retry_after` read, over an admitted one.
pub(crate) fn deny(run: &Run) -> Measured {
    let (kg, keys) = run.world.guard("deny.redb", 100, UNREACHED, unrecorded())?;
    let org = "exhausted";
    kg.admin().create_org(org)?;
    let mut exhausted = Vec::new();
    for _ in 0..100 {
        let request = CreateKey::new(org, "full").rate_limit_per_minute(60);
        exhausted.push(kg.admin().create_key(request)?.raw_key.expose().to_owned());
    }
    let passes = run.size(4_000);
    let fill = || {
        for key in &exhausted {
            while kg.check(&headers(key), peer(), PATH).is_ok() {}
        }
    };
    let deny = || {
        fill();
        timed(|| {
            for _ in 0..passes {
                for key in &exhausted {
                    let outcome = kg.check(&headers(key), peer(), PATH);
                    // Refills of the window admit a few.
                    if let Err(denial) = black_box(&outcome) {
                        assert!(black_box(denial.retry_after()).is_some());
                    }
                }
            }
        })
    };
    Ok(median_ratio(run.rounds(31), deny, || {
        timed(|| check_all(&kg, &keys, PATH, passes))
    }))
}

/// The time that [`Grant::finish`] and recording to disk, including the last write, add to a check, over the
/// floor. A dropped event fails the row.
pub(crate) fn recording(run: &Run) -> Measured {
    // Millions of events per second wait for one commit.
    let config = Config::new(SECRET).usage_queue_capacity(4 << 20);
    let (recorded, recorded_keys) = run.world.guard("recorded.redb", 100, UNREACHED, config)?;
    let (bare, bare_keys) = run.world.guard("bare.redb", 100, UNREACHED, unrecorded())?;
    let requests = run.size(4_000_000);
    let mut costs = Vec::new();
    for _ in 0..run.rounds(9) {
        let checks = timed(|| drive(&bare, &bare_keys, requests, drop));
        let (recording, flushed) = timed_result(|| {
            drive(&recorded, &recorded_keys, requests, |grant| {
                grant.finish(200);
            });
            recorded.flush()
        });
        flushed?;
        let floor = timed(|| floor(&bare_keys, requests / bare_keys.len()));
        costs.push((recording.as_secs_f64() - checks.as_secs_f64()) / floor.as_secs_f64());
    }
    let stats = recorded.admin().stats()?;
    let sent = (requests * costs.len()) as u64;
    if (stats.requests, stats.dropped) != (sent, 0) {
        let (kept, dropped) = (stats.requests, stats.dropped);
        return Err(
            format!("{sent} requests were sent, {kept} recorded, {dropped} dropped").into(),
        );
    }
    Ok(median(costs))
}

fn drive(kg: &KeyGuard, keys: &[String], requests: usize, end: impl Fn(Grant)) {
    let mut traffic = Traffic::default();
    for _ in 0..requests {
        let (key, ip, path) = traffic.next(keys);
        if let Ok(grant) = kg.check(&headers(key), ip, path) {
            end(grant);
        }
    }
}

/// Opening a cleanly closed file with a million keys.
pub(crate) fn open(run: &Run) -> Measured {
    let (path, _) = run.world.million(run.size(1_000_000))?;
    let mut times = Vec::new();
    for _ in 0..run.rounds(11) {
        let (time, kg) = timed_result(|| KeyGuard::open(path, Config::new(SECRET)));
        times.push(millis(time));
        kg?.close()?;
    }
    Ok(median(times))
}

pub(crate) const HOLD_UNTIL_KILLED: &str = "hold-until-killed";

/// Opening the same file after its process was killed right after a change.
pub(crate) fn reopen_after_kill(run: &Run) -> Measured {
    let (path, _) = run.world.million(run.size(1_000_000))?;
    let mut times = Vec::new();
    for _ in 0..run.rounds(7) {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(HOLD_UNTIL_KILLED)
            .arg(path)
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("the child has an output")?;
        BufReader::new(stdout).read_line(&mut String::new())?;
        child.kill()?;
        child.wait()?;
        let (time, kg) = timed_result(|| KeyGuard::open(path, Config::new(SECRET)));
        times.push(millis(time));
        kg?.close()?;
    }
    Ok(median(times))
}

/// The child of [`reopen_after_kill`]: changes the file, reports it and waits to be killed.
pub(crate) fn hold_until_killed(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let [file] = arguments else {
        return Err("expected FILE".into());
    };
    let kg = KeyGuard::open(file, Config::new(SECRET))?;
    let created = kg.admin().create_key(CreateKey::new("org 0", "killed"))?;
    kg.check(&headers(created.raw_key.expose()), peer(), PATH)?
        .finish(200);
    kg.flush()?;
    println!("changed");
    std::io::stdout().flush()?;
    loop {
        std::thread::park();
    }
}

/// An orderly stop that saves the windows of 100,000 keys.
pub(crate) fn stop(run: &Run) -> Measured {
    const PASSES: u64 = 5;

    let path = run.world.path("stop.redb");
    let keys = many_keys(&path, run.size(100_000))?;
    let mut times = Vec::new();
    for _ in 0..run.rounds(5) {
        let kg = KeyGuard::open(&path, unrecorded())?;
        for _ in 0..PASSES {
            for key in &keys {
                kg.check(&headers(key), peer(), PATH)?.finish(200);
            }
        }
        let (time, closed) = timed_result(|| kg.close());
        times.push(millis(time));
        closed?;
        let kg = KeyGuard::open(&path, unrecorded())?;
        let remaining = kg.check(&headers(&keys[0]), peer(), PATH)?.remaining();
        if remaining.is_none_or(|remaining| remaining >= u64::from(UNREACHED) - PASSES) {
            return Err(format!("windows were not saved: {remaining:?}").into());
        }
        kg.close()?;
    }
    Ok(median(times))
}

/// Statistics of a file with a million keys and ten million recorded requests.
pub(crate) fn stats(run: &Run) -> Measured {
    let (path, keys) = run.world.million(run.size(1_000_000))?;
    let kg = KeyGuard::open(path, Config::new(SECRET))?;
    let mut traffic = Traffic::default();
    let requests = run.size(10_000_000);
    for request in 0..requests {
        // A tenth of a per cent of all keys is busy.
        let (key, ip, path) = traffic.next(&keys[..keys.len().div_ceil(1_000)]);
        kg.check(&headers(key), ip, path)?.finish(200);
        if request % 100_000 == 0 {
            kg.flush()?;
        }
    }
    let before = kg.admin().stats()?;
    if before.requests < requests as u64 {
        return Err(format!("{} of {requests} requests recorded", before.requests).into());
    }
    let mut times = Vec::new();
    for _ in 0..run.rounds(11) {
        let (time, stats) = timed_result(|| kg.admin().stats());
        times.push(millis(time));
        stats?;
    }
    kg.close()?;
    Ok(median(times))
}
