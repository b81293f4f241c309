//! Memory, evictions and the latency of valid clients under floods.
//!
//! `cargo bench --bench floods` sends up to 10 M requests a flood, at full speed, to a guard with the default
//! capacities. In each flood something else is new in every request; `floods.rs` describes them. It prints
//! the outcomes of the requests and three lines `NAME VALUE GOAL ok|short`:
//!
//! | line | value |
//! |---|---|
//! | `…_mib` | growth of resident memory |
//! | `…_evicted` | locks, counts of failures and limited keys and addresses that did not survive |
//! | `…_p99` | 99th percentile of the checks of valid clients, over that of the quiet between the slices of the flood |
//!
//! Each flood runs in a process of its own, because freed memory would hide the growth of the next. Names
//! as arguments run only those. `--smoke` sends fewer requests to a guard with smaller capacities, and
//! judges only evictions.

mod clients;
mod floods;
mod survivors;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use keyguard::{Config, KeyGuard, Policy, Reason, Route};
use keyguard_benches::arguments::Arguments;
use keyguard_benches::measure::{judge, resident_bytes};
use keyguard_benches::world::{SECRET, UNREACHED, create_keys, limited};
use keyguard_benches::{Fallible, Run};

use clients::Clients;
use floods::{FLOODS, Flood, Target};
use survivors::{LOGINS, Survivors};

/// The first argument of a process that runs one flood.
const CHILD: &str = "flood";

/// The parts of a flood, between which it is quiet.
const SLICES: usize = 50;

fn main() -> Fallible<ExitCode> {
    let names = FLOODS.map(|flood| flood.name);
    let child: Vec<String> = std::env::args().skip(1).collect();
    if let [command, name, smoke @ ..] = child.as_slice()
        && command == CHILD
    {
        let flood = FLOODS.iter().find(|flood| flood.name == name);
        let flood = flood.ok_or("no flood has this name")?;
        return run(flood, &Run::new(!smoke.is_empty())?);
    }
    let arguments = match Arguments::read(&names, &[]) {
        Ok(arguments) => arguments,
        Err(code) => return Ok(code),
    };
    let mut all_met = true;
    for name in names.iter().filter(|name| arguments.includes(name)) {
        let mut child = Command::new(std::env::current_exe()?);
        child.args([CHILD, name]);
        if arguments.is_smoke {
            child.arg("--smoke");
        }
        all_met &= child.status()?.success();
    }
    Ok(if all_met {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run(flood: &Flood, run: &Run) -> Fallible<ExitCode> {
    let requests = run.size(flood.requests);
    let (target, clients) = open(flood, run, requests)?;
    let survivors = Survivors::new(&target.kg)?;
    let clients = Clients::start(&target.kg, clients);
    thread::sleep(Duration::from_millis(200));
    target.kg.flush()?;

    let before = resident_bytes()?;
    let mut outcomes = BTreeMap::<_, u64>::new();
    for slice in 0..SLICES {
        let started = Instant::now();
        clients.set_flooded(true);
        for number in requests * slice / SLICES..requests * (slice + 1) / SLICES {
            *outcomes
                .entry((flood.send)(&target, number as u64))
                .or_default() += 1;
        }
        clients.set_flooded(false);
        thread::sleep(started.elapsed());
    }
    let grown = (resident_bytes()? - before) / f64::from(1 << 20);
    let latency = clients.stop()?;

    let name = flood.name;
    println!("{name}: {}", shown(&outcomes));
    let stats = target.kg.admin().stats()?;
    println!(
        "{name}: {} events dropped, {} locks rejected",
        stats.dropped, stats.rejected_locks
    );
    let lost = survivors.lost(&target.kg)? + target.lost_locks();
    let is_bounded = judge(&format!("{name}_mib"), grown, flood.most_mib);
    let none_lost = judge(&format!("{name}_evicted"), lost as f64, 0.0);
    let is_fast = judge(&format!("{name}_p99"), latency.ratio(0.99), 2.0);
    Ok(if none_lost && (run.is_smoke || is_bounded && is_fast) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Opens a guard for a flood. Returns it, and the keys of its valid clients.
fn open(flood: &Flood, run: &Run, requests: usize) -> Fallible<(Target, Vec<String>)> {
    let file = run.world.path("keyguard.redb");
    let kg = KeyGuard::open(&file, config(run))?;
    kg.admin().create_org("acme")?;
    let create = |count| create_keys(&kg, &vec![limited("acme", UNREACHED); count]);
    let clients = create(run.size(1_000))?;
    let issued = match flood.issued_keys {
        0 => Vec::new(),
        // A change creates some of them.
        count => {
            let mut issued = Vec::new();
            while issued.len() < run.size(count) {
                issued.append(&mut create(run.size(count).min(20_000))?);
            }
            issued
        }
    };
    // Without the pages that creation cached.
    kg.close()?;
    let target = Target {
        kg: KeyGuard::open(Path::new(&file), config(run))?,
        issued,
        requests: requests as u64,
        locked: RefCell::default(),
    };
    Ok((target, clients))
}

/// The defaults, and smaller capacities for fewer requests.
fn config(run: &Run) -> Config {
    let policy = Policy::new()
        .route(
            Route::new("login", "/login")
                .open()
                .ip_limits([format!("{LOGINS}/h")]),
        )
        .route(Route::new("items", "/items/{id}").ip_limits(["100/h"]));
    let config = Config::new(SECRET).policy(policy);
    if !run.is_smoke {
        return config;
    }
    config
        .key_cache_capacity(run.size(131_072))
        .max_tracked_keys(run.size(262_144))
        .max_tracked_ips(run.size(131_072))
        // Those of the survivors are as many as ever.
        .max_locks(512)
}

fn shown(outcomes: &BTreeMap<Option<Reason>, u64>) -> String {
    let shown = outcomes.iter().map(|(reason, count)| match reason {
        Some(reason) => format!("{count} {reason}"),
        None => format!("{count} admitted"),
    });
    shown.collect::<Vec<_>>().join(", ")
}
