//! The effect of failures of Redis and PostgreSQL on clients.
//!
//! Two nodes serve a steady load while one of their servers is killed, stopped, emptied, disconnected
//! or blocked, and then recovers. `cargo bench --features postgres,redis --bench faults` prints the
//! results and latencies of checks before, during and after each fault. Lines `NAME VALUE GOAL
//! ok|short` show whether the p99.9 of checks exceeds the deadline plus 10 ms, whether an acknowledged
//! change is lost, and whether anything panicked. `revocation` is the time from a revocation on one
//! node to the first refusal on the other. Names as arguments run only those; `--smoke` runs all
//! briefly without judging times.

mod load;
mod revocation;
mod world;

use std::error::Error;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use load::{Load, Phase};
use world::{DEADLINE, World};

/// A fault of a server: its start and its end.
struct Fault {
    name: &'static str,
    begin: fn(&mut World),
    /// Repeated while the fault lasts.
    go_on: fn(&mut World),
    end: fn(&mut World),
}

const NOTHING: fn(&mut World) = |_| ();

const FAULTS: &[Fault] = &[
    Fault {
        name: "redis_kill",
        begin: |world| world.redis.kill(),
        go_on: NOTHING,
        end: |world| world.redis.restart(),
    },
    Fault {
        name: "redis_stop",
        begin: |world| world.redis.pause(),
        go_on: NOTHING,
        end: |world| world.redis.resume(),
    },
    Fault {
        name: "redis_restart",
        begin: NOTHING,
        go_on: |world| world.redis.restart(),
        end: NOTHING,
    },
    Fault {
        name: "redis_flushall",
        begin: NOTHING,
        go_on: |world| world.redis.run("FLUSHALL"),
        end: NOTHING,
    },
    Fault {
        name: "redis_script_flush",
        begin: NOTHING,
        go_on: |world| world.redis.run("SCRIPT FLUSH"),
        end: NOTHING,
    },
    Fault {
        name: "postgres_kill",
        begin: |world| world.postgres.kill(),
        go_on: NOTHING,
        end: |world| world.postgres.restart(),
    },
    Fault {
        name: "postgres_restart",
        begin: NOTHING,
        go_on: |world| {
            world.postgres.stop();
            world.postgres.restart();
        },
        end: NOTHING,
    },
    Fault {
        name: "postgres_drop",
        begin: NOTHING,
        go_on: World::drop_connections,
        end: NOTHING,
    },
    Fault {
        name: "postgres_locks",
        begin: NOTHING,
        go_on: World::lock_tables,
        end: NOTHING,
    },
];

const REVOCATION: &str = "revocation";

static PANICS: AtomicUsize = AtomicUsize::new(0);

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo bench` adds `--bench`.
    let (flags, names): (Vec<&str>, Vec<&str>) = arguments
        .iter()
        .map(String::as_str)
        .filter(|argument| *argument != "--bench")
        .partition(|argument| argument.starts_with('-'));
    let all: Vec<&str> = FAULTS.iter().map(|fault| fault.name).collect();
    let is_unknown = |name: &&&str| **name != REVOCATION && !all.contains(name);
    if let Some(name) = names.iter().find(is_unknown) {
        eprintln!(
            "nothing is named `{name}`; there are: {REVOCATION} {}",
            all.join(" ")
        );
        return Ok(ExitCode::from(2));
    }
    if let Some(flag) = flags.iter().find(|flag| **flag != "--smoke") {
        eprintln!("unknown option `{flag}`; there is: --smoke");
        return Ok(ExitCode::from(2));
    }
    let is_smoke = !flags.is_empty();
    let is_asked = |name: &str| names.is_empty() || names.contains(&name);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        hook(panic);
    }));

    let mut all_met = true;
    if is_asked(REVOCATION) {
        let p99 = revocation::measure(&World::new()?, if is_smoke { 20 } else { 500 })?;
        all_met &= judge("revocation_p99_ms", millis(p99), 50.0) || is_smoke;
    }
    for fault in FAULTS.iter().filter(|fault| is_asked(fault.name)) {
        all_met &= run(fault, is_smoke)?;
    }
    all_met &= judge("panics", PANICS.load(Ordering::SeqCst) as f64, 0.0);
    Ok(if all_met {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run(fault: &Fault, is_smoke: bool) -> Result<bool, Box<dyn Error>> {
    let time = Duration::from_millis(if is_smoke { 300 } else { 4_000 });
    let mut world = World::new()?;
    let load = Load::start(&world);
    thread::sleep(time);

    load.enter(Phase::During);
    let began = Instant::now();
    (fault.begin)(&mut world);
    loop {
        (fault.go_on)(&mut world);
        if began.elapsed() >= time {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    (fault.end)(&mut world);

    let ended = Instant::now();
    world.wait_until_up()?;
    println!(
        "{}: all backends are asked again {} ms after its end",
        fault.name,
        ended.elapsed().as_millis()
    );
    load.enter(Phase::After);
    thread::sleep(time);
    let figures = load.stop();
    figures.print(fault.name);
    let lost = figures.lost_changes(&world)?;
    let slowest = millis(figures.slowest_p999());
    let limit = millis(DEADLINE + Duration::from_millis(10));
    let in_time = judge(&format!("{}_p999_ms", fault.name), slowest, limit);
    let none_lost = judge(&format!("{}_lost_changes", fault.name), lost as f64, 0.0);
    Ok((in_time || is_smoke) && none_lost)
}

fn judge(name: &str, value: f64, most: f64) -> bool {
    let is_met = value <= most;
    println!(
        "{name} {value:.2} <={most} {}",
        if is_met { "ok" } else { "short" }
    );
    is_met
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
