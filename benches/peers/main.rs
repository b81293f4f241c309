//! Comparison with other rate limiters: `cargo bench --features http --bench peers`.
//!
//! One client sends the same requests to all servers over keep-alive connections, in interleaved
//! rounds. Each server has one thread. Only KeyGuard authenticates, keeps usage on disk and limits per
//! key; the others limit per address. Limits are so high that nothing is refused. `--smoke` runs
//! briefly; `--soak MINUTES` runs KeyGuard alone for that time and prints the memory of the process.

#[path = "../load/mod.rs"]
mod load;
mod nginx;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use keyguard::{Config, CreateKey, KeyGuard};
use keyguard_benches::measure::resident_bytes;
use load::{Client, Failure};

const CONNECTIONS: usize = 16;
const KEYS: usize = 100;

struct Peer {
    name: &'static str,
    client: Client,
    /// Requests per second of each round.
    rates: Vec<f64>,
    latencies: Vec<Duration>,
    sent: usize,
}

impl Peer {
    fn new(name: &'static str, address: SocketAddr, keys: &[String]) -> Result<Self, Failure> {
        Ok(Self {
            name,
            client: Client::new(address, CONNECTIONS, keys)?,
            rates: Vec::new(),
            latencies: Vec::new(),
            sent: 0,
        })
    }

    fn run(&mut self, requests: usize, is_measured: bool) -> Result<(), Failure> {
        let latencies = &mut self.latencies;
        let (count, time) = self.client.round(requests, |latency| {
            if is_measured {
                latencies.push(latency);
            }
        })?;
        self.sent += count;
        if is_measured {
            self.rates.push(count as f64 / time.as_secs_f64());
        }
        Ok(())
    }

    fn rate(&mut self) -> f64 {
        self.rates.sort_by(f64::total_cmp);
        self.rates[self.rates.len() / 2]
    }

    /// In microseconds.
    fn percentile(&mut self, percent: usize) -> u128 {
        self.latencies.sort_unstable();
        let at = self.latencies.len() * percent / 100;
        self.latencies[at.min(self.latencies.len() - 1)].as_micros()
    }
}

fn main() -> Result<(), Failure> {
    let is_smoke = std::env::args().any(|argument| argument == "--smoke");
    let arguments: Vec<String> = std::env::args().collect();
    let soak = arguments.iter().position(|argument| argument == "--soak");
    let (rounds, requests) = if is_smoke { (1, 1_000) } else { (15, 20_000) };
    let dir = tempfile::tempdir()?;
    let (guard, keys) = guard(&dir.path().join("peers.redb"))?;

    let bare = load::start(|listener| load::axum(listener, |app| app))?;
    let protected = guard.clone();
    let ours =
        load::start(move |listener| load::axum(listener, |app| load::protect(app, protected)))?;
    if let Some(at) = soak {
        let minutes: u64 = arguments.get(at + 1).ok_or("--soak MINUTES")?.parse()?;
        return run_soak(Peer::new("axum + keyguard", ours, &keys)?, &guard, minutes);
    }
    let governed = load::start(|listener| load::axum(listener, load::govern))?;
    let mut peers = vec![
        Peer::new("axum, bare", bare, &keys)?,
        Peer::new("axum + keyguard", ours, &keys)?,
        Peer::new("axum + tower_governor", governed, &keys)?,
    ];
    let nginx = nginx::start(dir.path())?;
    match &nginx {
        Some(nginx) => {
            let peer = Peer::new("nginx limit_req", nginx.address, &keys)?;
            peers.push(peer);
        }
        None => eprintln!("nginx is not there, and left out: install it to have it compared"),
    }

    // The first round is a warm-up.
    for round in 0..=rounds {
        let count = peers.len();
        for turn in 0..count {
            peers[(round + turn) % count].run(requests, round > 0)?;
        }
    }
    load::all_recorded(&guard, peers[1].sent)?;

    let rate_of_bare = peers[0].rate();
    println!(
        "{:<24}{:>12}{:>10}{:>10}{:>10}",
        "server", "requests/s", "of bare", "p50 µs", "p99 µs"
    );
    for peer in &mut peers {
        let rate = peer.rate();
        let (p50, p99) = (peer.percentile(50), peer.percentile(99));
        println!(
            "{:<24}{rate:>12.0}{:>10.2}{p50:>10}{p99:>10}",
            peer.name,
            rate / rate_of_bare,
        );
    }
    Ok(())
}

/// Prints the memory of the process every minute.
fn run_soak(mut ours: Peer, guard: &KeyGuard, minutes: u64) -> Result<(), Failure> {
    println!("{:<8}{:>14}{:>16}", "minute", "requests", "resident MiB");
    for minute in 1..=minutes {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(60) {
            ours.run(20_000, false)?;
        }
        let resident = resident_bytes()? / f64::from(1 << 20);
        println!("{minute:<8}{:>14}{resident:>16.1}", ours.sent);
    }
    load::all_recorded(guard, ours.sent)
}

fn guard(file: &std::path::Path) -> Result<(KeyGuard, Vec<String>), Failure> {
    let guard = KeyGuard::open(file, Config::new("the secret of a benchmark"))?;
    guard.admin().create_org("benchmark")?;
    let request = CreateKey::new("benchmark", "benchmark").rate_limit_per_minute(100_000_000);
    let created = guard.admin().create_keys(&vec![request; KEYS])?;
    let keys = created.iter().map(|key| key.raw_key.expose().to_owned());
    let keys = keys.collect();
    Ok((guard, keys))
}
