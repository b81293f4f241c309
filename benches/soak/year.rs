//! The data file of a year at a steady rate.

use std::time::Duration;

use keyguard::{Config, KeyGuard, ManualClock, Timestamp};
use keyguard_benches::world::{SECRET, Traffic, UNREACHED, headers};
use keyguard_benches::{Fallible, Run};

use super::{DAY, file_mib};

/// 2027-01-01T00:00Z
const START: Timestamp = Timestamp::from_unix_millis(1_798_761_600_000);

/// Requests after which all must be written, so that none is dropped.
const BATCH: u64 = 100_000;

/// Sends all requests of some days through checks, at a rate per second: 100 keys, 50 paths, 1,000
/// addresses.
pub(crate) fn run(run: &Run, days: f64, rate: f64) -> Fallible<()> {
    let apart = Duration::from_secs_f64(1.0 / rate);
    let clock = ManualClock::starting_at(START);
    let config = || Config::new(SECRET).clock(clock.clone());
    let (kg, keys) = run.world.guard("year.redb", 100, UNREACHED, config())?;
    let file = run.world.path("year.redb");
    let mut traffic = Traffic::default();
    let requests = (DAY.as_secs_f64() * days * rate) as u64;
    let a_month = (30.0 * DAY.as_secs_f64() * rate) as u64;
    for number in 1..=requests {
        let (key, ip, path) = traffic.next(&keys);
        let grant = kg.check(&headers(key), ip, path)?;
        // From 0.1 to 9.9 ms.
        let latency = Duration::from_micros(100 + number * 7_919 % 9_800).min(apart);
        clock.advance(latency);
        grant.finish(200);
        clock.advance(apart - latency);
        if number % BATCH == 0 {
            kg.flush()?;
        }
        if number % a_month == 0 || number == requests {
            kg.flush()?;
            let day = number as f64 / rate / DAY.as_secs_f64();
            println!("year: day {day:.0}: {:.1} MiB", file_mib(&file)?);
        }
    }
    let stats = kg.admin().stats()?;
    if (stats.requests, stats.dropped) != (requests, 0) {
        return Err(format!("{requests} requests were sent; {stats:?}").into());
    }
    for _ in 0..31 {
        clock.advance(DAY);
        kg.flush()?;
    }
    println!("year: 31 idle days later: {:.1} MiB", file_mib(&file)?);
    kg.close()?;
    drop(KeyGuard::open(&file, config())?);
    println!(
        "year: after an orderly restart: {:.1} MiB",
        file_mib(&file)?
    );
    Ok(())
}
