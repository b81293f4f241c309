//! Rows about memory and disk space.

use std::error::Error;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};
use std::time::Duration;

use keyguard::{Config, KeyGuard, ManualClock, Timestamp};

use crate::Run;
use crate::measure::{Measured, Random, file_bytes, resident_bytes};
use crate::world::{SECRET, Traffic, UNREACHED, headers, peer, unknown_key};

const NEW_YEAR: Timestamp = Timestamp::from_unix_millis(1_767_225_600_000);

/// Growth of the data file per recorded request: 100 keys, 50 paths, 1,000 addresses.
pub(crate) fn bytes_per_request(run: &Run) -> Measured {
    let requests = run.size(1_000_000);
    growth(
        run,
        "size.redb",
        requests,
        10_000,
        Duration::from_micros(100),
    )
}

/// The same at ten requests a second, written two at a time.
pub(crate) fn bytes_at_10_a_second(run: &Run) -> Measured {
    growth(
        run,
        "slow.redb",
        run.size(60_000),
        2,
        Duration::from_millis(100),
    )
}

fn growth(run: &Run, name: &str, requests: usize, batch: usize, apart: Duration) -> Measured {
    let clock = ManualClock::starting_at(NEW_YEAR);
    let config = || Config::new(SECRET).clock(clock.clone());
    let (kg, keys) = run.world.guard(name, 100, UNREACHED, config())?;
    kg.close()?;
    let path = run.world.path(name);
    let before = file_bytes(&path)?;
    let kg = KeyGuard::open(&path, config())?;
    let mut traffic = Traffic::default();
    for request in 1..=requests {
        clock.advance(apart);
        let (key, ip, path) = traffic.next(&keys);
        let grant = kg.check(&headers(key), ip, path)?;
        // From 0.1 to 20 ms, like typical services.
        clock.advance(Duration::from_micros(
            100 + (request as u64 * 7_919) % 19_900,
        ));
        grant.finish(200);
        if request % batch == 0 {
            kg.flush()?;
        }
    }
    kg.close()?;
    Ok((file_bytes(&path)? - before) / requests as f64)
}

/// Resident bytes per key with a full window of 60 per minute and evenly spaced hits.
pub(crate) fn window_bytes(run: &Run) -> Measured {
    windows(
        run,
        "windows.redb",
        run.size(20_000),
        60,
        1,
        Duration::from_secs(1),
    )
}

/// Resident bytes of a full window of a million per minute, with hits in every grain.
pub(crate) fn widest_window(run: &Run) -> Measured {
    windows(
        run,
        "widest.redb",
        run.rounds(16),
        1_000_000,
        17,
        Duration::from_millis(1),
    )
}

/// Memory growth per key while the windows of `count` keys fill. Measured in a child process, because
/// this one might reuse freed memory.
fn windows(
    run: &Run,
    name: &str,
    count: usize,
    per_minute: u32,
    at_once: usize,
    apart: Duration,
) -> Measured {
    let clock = ManualClock::starting_at(NEW_YEAR);
    let config = Config::new(SECRET).clock(clock).record_usage(false);
    let (kg, keys) = run.world.guard(name, count, per_minute, config)?;
    kg.close()?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg(FILL_WINDOWS)
        .arg(run.world.path(name))
        .args([per_minute.to_string(), at_once.to_string()])
        .arg(apart.as_millis().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().ok_or("the child has an input")?;
    stdin.write_all(keys.join("\n").as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        return Err("the process that fills the windows failed".into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

pub(crate) const FILL_WINDOWS: &str = "fill-windows";

/// The child of [`windows`]: fills the windows of the keys on standard input, without cached keys or
/// pages of the file, and prints its memory growth per key.
pub(crate) fn fill_windows(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let [file, per_minute, at_once, apart] = arguments else {
        return Err("expected FILE PER_MINUTE AT_ONCE APART_MS".into());
    };
    let (per_minute, at_once): (usize, usize) = (per_minute.parse()?, at_once.parse()?);
    let apart = Duration::from_millis(apart.parse()?);
    let keys = std::io::stdin().lines().collect::<Result<Vec<_>, _>>()?;
    let clock = ManualClock::starting_at(NEW_YEAR);
    let config = Config::new(SECRET).clock(clock.clone()).record_usage(false);
    let config = config
        .key_cache_capacity(16)
        .max_tracked_keys(keys.len().max(16))
        .file_cache_bytes(0);
    let kg = KeyGuard::open(file, config)?;
    // A tenth of the keys first causes the growth that does not depend on their number.
    let (first, keys) = keys.split_at(keys.len() / 10);
    for _ in 0..per_minute.min(60) {
        for key in first {
            kg.check(&headers(key), peer(), "/api/data")?.finish(200);
        }
        clock.advance(Duration::from_secs(1));
    }
    clock.advance(Duration::from_secs(60));
    let before = resident_bytes()?;
    let mut admitted = 0;
    let wanted = per_minute * keys.len();
    while admitted < wanted {
        let earlier = admitted;
        for key in keys {
            for _ in 0..at_once {
                admitted += usize::from(kg.check(&headers(key), peer(), "/api/data").is_ok());
            }
        }
        if admitted == earlier {
            break;
        }
        clock.advance(apart);
    }
    if admitted != wanted {
        return Err(format!("{admitted} of {wanted} requests admitted").into());
    }
    println!("{}", (resident_bytes()? - before) / keys.len() as f64);
    Ok(())
}

/// Growth of resident memory, in MiB, over 10 M requests from as many addresses: a third with
/// malformed keys, a third with unknown keys, a third without keys. All keys are different.
pub(crate) fn flood_mib(run: &Run) -> Measured {
    let (kg, keys) = run
        .world
        .guard("flood.redb", 1, UNREACHED, Config::new(SECRET))?;
    kg.close()?;
    let output = Command::new(std::env::current_exe()?)
        .arg(FLOOD)
        .arg(run.world.path("flood.redb"))
        .args([run.size(10_000_000).to_string(), keys[0].clone()])
        .output()?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("the process under the flood failed: {error}").into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

pub(crate) const FLOOD: &str = "flood";

/// The child of [`flood_mib`], with the default configuration.
pub(crate) fn run_flood(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let [file, requests, key] = arguments else {
        return Err("expected FILE REQUESTS KEY".into());
    };
    let requests: u64 = requests.parse()?;
    let kg = KeyGuard::open(file, Config::new(SECRET))?;
    // One address that is locked out, and one that is not.
    let culprit = IpAddr::from([192, 0, 2, 99]);
    for _ in 0..101 {
        let _ = kg.check(&headers("nonsense"), culprit, "/");
    }
    kg.check(&headers(key), peer(), "/")?.finish(200);
    kg.flush()?;
    let before = resident_bytes()?;
    let mut random = Random(11);
    for number in 0..requests {
        // IPv4 and IPv6 alternate; each address is used once.
        let ip: IpAddr = if number % 2 == 0 {
            Ipv4Addr::from_bits(0x0b00_0000 + number as u32).into()
        } else {
            Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(number) << 64).into()
        };
        let path = format!("/api/{number}");
        let refused = match number % 3 {
            0 => kg
                .check(&headers(&format!("nonsense {number}")), ip, &path)
                .is_err(),
            1 => kg
                .check(&headers(&unknown_key("kg_live_", &mut random)), ip, &path)
                .is_err(),
            _ => kg.check(&headers(""), ip, &path).is_err(),
        };
        if !refused {
            return Err("an attacker was admitted".into());
        }
    }
    let grown = resident_bytes()? - before;
    if kg.check(&headers(key), culprit, "/").is_ok() {
        return Err("the flood has pushed a lock out".into());
    }
    kg.check(&headers(key), peer(), "/")?.finish(200);
    println!("{}", grown / f64::from(1 << 20));
    Ok(())
}
