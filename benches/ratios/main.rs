//! The cost of KeyGuard, as ratios to a baseline measured in the same run.
//!
//! `cargo bench --bench ratios` prints a line `NAME VALUE GOAL ok|short` for each row, and exits with
//! status 1 if a goal was missed or a row could not be measured. Names as arguments run only those
//! rows. Rows of servers need `--features http`, `redis` or `postgres`. `--smoke` runs every row
//! briefly without judging it. How to read them: `src/lib.rs` of this package.

mod commit;
#[cfg(feature = "http")]
mod http;
#[cfg(feature = "http")]
#[path = "../load/mod.rs"]
mod load;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "postgres")]
mod postgres_usage;
#[cfg(all(unix, feature = "redis"))]
mod redis;
mod row;
#[cfg(all(target_os = "linux", feature = "http"))]
mod serve;
mod size;
mod speed;
mod usage;

use std::error::Error;
use std::process::ExitCode;

use keyguard_benches::{Run, checks, measure, world};
use row::Goal::{AtLeast, AtMost};
use row::{Outcome, Row};

const ROWS: &[Row] = &[
    Row {
        name: "check_hot/floor",
        goal: AtMost(1.0),
        measure: speed::check_hot,
    },
    Row {
        name: "check_rich/floor",
        goal: AtMost(1.7),
        measure: speed::check_rich,
    },
    Row {
        name: "check_1m/governor_1m",
        goal: AtMost(1.0),
        measure: speed::check_1m,
    },
    Row {
        name: "check_2t/check_1t",
        goal: AtLeast(1.9),
        measure: speed::two_threads,
    },
    Row {
        name: "deny/allow",
        goal: AtMost(1.0),
        measure: speed::deny,
    },
    Row {
        name: "locked/calm",
        goal: AtMost(1.0),
        measure: speed::locked,
    },
    Row {
        name: "recording/floor",
        goal: AtMost(0.5),
        measure: speed::recording,
    },
    Row {
        name: "http/bare",
        goal: AtLeast(0.92),
        measure: http::hyper,
    },
    Row {
        name: "axum/bare",
        goal: AtLeast(0.92),
        measure: http::axum,
    },
    Row {
        name: "axum/governor",
        goal: AtLeast(1.0),
        measure: http::governor,
    },
    Row {
        name: "auth/healthz",
        goal: AtLeast(0.85),
        measure: serve::auth,
    },
    Row {
        name: "check/healthz",
        goal: AtLeast(0.75),
        measure: serve::check,
    },
    Row {
        name: "redis_check/evalsha",
        goal: AtLeast(0.95),
        measure: redis::check,
    },
    Row {
        name: "pg_cached/embedded",
        goal: AtMost(1.05),
        measure: postgres::cached,
    },
    Row {
        name: "commit/redb",
        goal: AtMost(1.25),
        measure: commit::create_key,
    },
    Row {
        name: "commit_bytes/redb",
        goal: AtMost(1.25),
        measure: commit::bytes_of_create_key,
    },
    Row {
        name: "bytes_per_request",
        goal: AtMost(9.0),
        measure: size::bytes_per_request,
    },
    Row {
        name: "bytes_per_request/slow",
        goal: AtMost(12.0),
        measure: size::bytes_at_10_a_second,
    },
    Row {
        name: "window_bytes",
        goal: AtMost(200.0),
        measure: size::window_bytes,
    },
    Row {
        name: "window_bytes/any_limit",
        goal: AtMost(262_144.0),
        measure: size::widest_window,
    },
    Row {
        name: "flood_mib",
        goal: AtMost(16.0),
        measure: size::flood_mib,
    },
    Row {
        name: "open_ms",
        goal: AtMost(5.0),
        measure: speed::open,
    },
    Row {
        name: "reopen_after_kill_ms",
        goal: AtMost(5.0),
        measure: speed::reopen_after_kill,
    },
    Row {
        name: "stop_ms",
        goal: AtMost(500.0),
        measure: speed::stop,
    },
    Row {
        name: "stats_ms",
        goal: AtMost(1.0),
        measure: speed::stats,
    },
    Row {
        name: "usage_ms/top_keys",
        goal: AtMost(1_000.0),
        measure: usage::top_keys,
    },
    Row {
        name: "usage_ms/reasons",
        goal: AtMost(1_000.0),
        measure: usage::reasons,
    },
    Row {
        name: "usage_ms/address",
        goal: AtMost(1_000.0),
        measure: usage::address,
    },
    Row {
        name: "pg_usage_ms/top_keys",
        goal: AtMost(1_000.0),
        measure: postgres_usage::top_keys,
    },
    Row {
        name: "pg_usage_ms/reasons",
        goal: AtMost(1_000.0),
        measure: postgres_usage::reasons,
    },
    Row {
        name: "pg_usage_ms/address",
        goal: AtMost(1_000.0),
        measure: postgres_usage::address,
    },
];

/// Replaces the rows that need a server.
#[cfg(not(feature = "http"))]
mod http {
    use crate::Run;
    use crate::measure::Measured;

    pub(crate) fn hyper(_: &Run) -> Measured {
        Err("the row needs a feature: cargo bench --features http --bench ratios".into())
    }

    pub(crate) use hyper as axum;
    pub(crate) use hyper as governor;
}

#[cfg(not(all(target_os = "linux", feature = "http")))]
mod serve {
    use crate::Run;
    use crate::measure::Measured;

    pub(crate) fn auth(_: &Run) -> Measured {
        Err("the row needs Linux and a feature: cargo bench --features http --bench ratios".into())
    }

    pub(crate) use auth as check;
}

#[cfg(not(all(unix, feature = "redis")))]
mod redis {
    use crate::Run;
    use crate::measure::Measured;

    pub(crate) fn check(_: &Run) -> Measured {
        Err("the row needs a feature: cargo bench --features redis --bench ratios".into())
    }
}

#[cfg(not(feature = "postgres"))]
mod postgres {
    use crate::Run;
    use crate::measure::Measured;

    pub(crate) fn cached(_: &Run) -> Measured {
        Err("the row needs a feature: cargo bench --features postgres --bench ratios".into())
    }
}

#[cfg(not(feature = "postgres"))]
mod postgres_usage {
    pub(crate) use crate::postgres::cached as top_keys;
    pub(crate) use crate::postgres::cached as reasons;
    pub(crate) use crate::postgres::cached as address;
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((command, rest)) if command == speed::HOLD_UNTIL_KILLED => {
            return speed::hold_until_killed(rest).map(|()| ExitCode::SUCCESS);
        }
        Some((command, rest)) if command == size::FILL_WINDOWS => {
            return size::fill_windows(rest).map(|()| ExitCode::SUCCESS);
        }
        Some((command, rest)) if command == size::FLOOD => {
            return size::run_flood(rest).map(|()| ExitCode::SUCCESS);
        }
        _ => {}
    }
    // `cargo bench` adds `--bench`.
    let (flags, names): (Vec<_>, Vec<_>) = arguments
        .iter()
        .map(String::as_str)
        .filter(|a| *a != "--bench")
        .partition(|a| a.starts_with('-'));
    let unknown = |name: &&&str| !ROWS.iter().any(|row| row.name == **name);
    if let Some(name) = names.iter().find(unknown) {
        eprintln!(
            "no row is named `{name}`; there are: {}",
            ROWS.iter().map(|r| r.name).collect::<Vec<_>>().join(" ")
        );
        return Ok(ExitCode::from(2));
    }
    if let Some(flag) = flags.iter().find(|flag| **flag != "--smoke") {
        eprintln!("unknown option `{flag}`; there is: --smoke");
        return Ok(ExitCode::from(2));
    }

    let is_smoke = !flags.is_empty();
    let run = Run::new(is_smoke)?;
    let mut outcomes = Vec::new();
    for row in ROWS
        .iter()
        .filter(|row| names.is_empty() || names.contains(&row.name))
    {
        outcomes.push(row.run(&run));
    }
    let short = !is_smoke && outcomes.contains(&Outcome::Short);
    Ok(if short || outcomes.contains(&Outcome::Failed) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
