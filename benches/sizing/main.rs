//! The space of a key, a window and a request in Redis and PostgreSQL, for the sizing guide
//! (`src/manual/sizing.md`).
//!
//! `cargo bench --features postgres,redis --bench sizing` prints a line `NAME VALUE UNIT` for each;
//! `--smoke` runs briefly.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use keyguard::{Config, CreateKey, KeyGuard, ManualClock, Request, Timestamp};
use keyguard_test_support::postgres::Server;
use keyguard_test_support::redis::Redis;
use tempfile::TempDir;

const SECRET: &str = "a secret of the sizes";
const IP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

/// A limit that is never reached.
const UNREACHED: u32 = 1_000_000_000;

type Done = Result<(), Box<dyn Error>>;

fn main() -> Done {
    let is_smoke = std::env::args().any(|argument| argument == "--smoke");
    let part = |full: usize| if is_smoke { full.div_ceil(50) } else { full };
    window_bytes("redis_bytes_60_per_minute", &[], 60, 60, part(1_000))?;
    window_bytes("redis_bytes_600_per_minute", &[], 600, 600, part(200))?;
    window_bytes(
        "redis_bytes_10000_per_day",
        &["10000/day"],
        UNREACHED,
        10_000,
        part(10),
    )?;
    window_bytes(
        "redis_bytes_monthly",
        &["500000 monthly"],
        UNREACHED,
        1,
        part(1_000),
    )?;
    script_time("redis_us_per_check", &[], part(100_000))?;
    let four = ["1000000/s", "1000000 monthly", "1000000 credits +1/s"];
    script_time("redis_us_per_check_of_4_limits", &four, part(100_000))?;
    key_bytes(part(50_000))?;
    usage(part(500_000))
}

fn report(name: &str, value: f64, unit: &str) {
    println!("{name} {value:.1} {unit}");
}

fn keys(kg: &KeyGuard, count: usize, request: &CreateKey) -> Result<Vec<String>, Box<dyn Error>> {
    kg.admin().create_org("acme")?;
    let created = kg.admin().create_keys(&vec![request.clone(); count])?;
    let keys = created.iter().map(|key| key.raw_key.expose().to_owned());
    Ok(keys.collect())
}

fn request(per_minute: u32, limits: &[&str]) -> CreateKey {
    CreateKey::new("acme", "sizing")
        .rate_limit_per_minute(per_minute)
        .limits(limits.iter().copied())
}

/// Bytes of the counters of a key with each hit in another grain.
fn window_bytes(name: &str, limits: &[&str], per_minute: u32, hits: usize, count: usize) -> Done {
    let (dir, redis) = (TempDir::new()?, Redis::start());
    let clock = ManualClock::starting_at(Timestamp::from_unix_millis(1_768_478_400_000));
    let config = Config::new(SECRET)
        .clock(clock.clone())
        .record_usage(false)
        .redis_url(redis.url());
    let kg = KeyGuard::open(dir.path().join("sizing.redb"), config)?;
    let keys = keys(&kg, count, &request(per_minute, limits))?;
    let used = || -> Result<f64, Box<dyn Error>> {
        let memory: String = redis.run("INFO memory");
        let line = memory
            .lines()
            .find_map(|line| line.strip_prefix("used_memory:"));
        Ok(line.ok_or("no used_memory")?.trim().parse()?)
    };
    let before = used()?;
    for _ in 0..hits {
        for key in &keys {
            let headers = [("X-API-Key", key.as_str())];
            let grant = kg.check(&headers, IP, "/");
            grant
                .map_err(|denial| format!("refused: {denial:?}"))?
                .finish(200);
        }
        // A grain is 1 ms for a minute and 1.44 s for a day.
        clock.advance(Duration::from_millis(if hits > 1_000 { 1_500 } else { 90 }));
    }
    report(name, (used()? - before) / count as f64, "bytes per key");
    Ok(())
}

/// Time of Redis for one check, as Redis reports it.
fn script_time(name: &str, limits: &[&str], checks: usize) -> Done {
    const CLIENTS: usize = 64;

    let (dir, redis) = (TempDir::new()?, Redis::start());
    let config = Config::new(SECRET)
        .record_usage(false)
        .backend_deadline(Duration::from_secs(10))
        .redis_url(redis.url());
    let kg = KeyGuard::open(dir.path().join("sizing.redb"), config)?;
    let keys = keys(&kg, 1_000, &request(UNREACHED, limits))?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let ask = |count: usize| {
        runtime.block_on(async {
            let clients = (0..CLIENTS).map(|client| {
                let (kg, keys) = (&kg, &keys);
                async move {
                    for number in (client..count).step_by(CLIENTS) {
                        let headers = [("X-API-Key", keys[number % keys.len()].as_str())];
                        let _ = kg.decide_async(Request::new(&headers, IP, "/")).await;
                    }
                }
            });
            futures_util::future::join_all(clients).await;
        });
    };
    ask(1_000);
    let _: () = redis.run("CONFIG RESETSTAT");
    ask(checks);
    let stats: String = redis.run("INFO commandstats");
    let evalsha = stats
        .lines()
        .find(|line| line.starts_with("cmdstat_evalsha:"));
    let per_call = evalsha.and_then(|line| line.split("usec_per_call=").nth(1));
    let per_call = per_call
        .and_then(|rest| rest.split(',').next())
        .ok_or("no evalsha")?;
    report(name, per_call.parse()?, "µs of Redis");
    Ok(())
}

fn key_bytes(count: usize) -> Done {
    let server = Server::start();
    let database = server.database();
    let kg = KeyGuard::open(&database.url, Config::new(SECRET))?;
    let began = Instant::now();
    keys(&kg, count, &request(60, &[]))?;
    let rate = count as f64 / began.elapsed().as_secs_f64();
    let bytes: f64 = database
        .value(
            "SELECT (pg_total_relation_size('api_keys') \
             + pg_total_relation_size('keyguard_credentials'))::text",
        )
        .parse()?;
    report("postgres_bytes_per_key", bytes / count as f64, "bytes");
    report(
        "postgres_keys_created_per_second",
        rate,
        "keys in one change",
    );
    Ok(())
}

fn usage(requests: usize) -> Done {
    const KEYS: usize = 100;

    let server = Server::start();
    let database = server.database();
    let config = Config::new(SECRET).usage_queue_capacity(requests.max(1_000));
    let kg = KeyGuard::open(&database.url, config)?;
    let keys = keys(&kg, KEYS, &request(UNREACHED, &[]))?;
    let began = Instant::now();
    for number in 0..requests {
        let headers = [("X-API-Key", keys[number % KEYS].as_str())];
        let path = format!("/api/items/{}", number % 50);
        if let Ok(grant) = kg.check(&headers, IP, &path) {
            grant.finish(200);
        }
    }
    kg.flush()?;
    let rate = requests as f64 / began.elapsed().as_secs_f64();
    let bytes: f64 = database
        .value(
            "SELECT sum(pg_total_relation_size(inhrelid))::text FROM pg_inherits \
             WHERE inhparent = 'usage_logs'::regclass",
        )
        .parse()?;
    let dropped = kg.admin().stats()?.dropped;
    report(
        "postgres_bytes_per_request",
        bytes / (requests as f64 - dropped as f64),
        "bytes",
    );
    report(
        "postgres_requests_per_second",
        rate,
        "requests decided and stored",
    );
    report("postgres_requests_dropped", dropped as f64, "requests");
    Ok(())
}
