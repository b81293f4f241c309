//! Memory, file and totals over a long time, which a fast clock makes short.
//!
//! `cargo bench --bench soak` runs the parts that are named as arguments, or both:
//!
//! - `mixed`: 400 days of mixed traffic and changes within `--minutes` (60), or more if the machine is too
//!   slow for 92 M requests in this time, with the ends of hours, days and months, both changes of
//!   daylight saving time, and a leap day. Requests are kept for 30 days,
//!   totals of keys by the hour for 90, so that deletion and the rewriting of blocks run most of the
//!   time. Every 30 days the guard is closed and opened again. Prints memory and file at each quarter.
//! - `year`: `--rate` (100) requests a second for `--days` (365), and then a month without requests. Prints
//!   the file every 30 days. It grows with the rate for 30 days, and with the number of keys in use for
//!   90; after that by a row per key and day.
//!
//! Lines `NAME VALUE GOAL ok|short` judge the end; a line of `mixed` that must be exact shows the
//! difference from what was sent. `--smoke` runs both briefly, without judging memory and file.

mod mixed;
mod sent;
mod year;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use keyguard_benches::arguments::Arguments;
use keyguard_benches::measure::file_bytes;
use keyguard_benches::{Fallible, Run};

const DAY: Duration = Duration::from_secs(86_400);

fn main() -> Fallible<ExitCode> {
    let arguments = match Arguments::read(&["mixed", "year"], &["--minutes", "--days", "--rate"]) {
        Ok(arguments) => arguments,
        Err(code) => return Ok(code),
    };
    let run = Run::new(arguments.is_smoke)?;
    let mut all_met = true;
    if arguments.includes("mixed") {
        let default = if run.is_smoke { 0.05 } else { 60.0 };
        let minutes = arguments.number("--minutes").unwrap_or(default);
        all_met &= mixed::run(&run, Duration::from_secs_f64(60.0 * minutes))?;
    }
    if arguments.includes("year") {
        let default = if run.is_smoke { 0.01 } else { 365.0 };
        let days = arguments.number("--days").unwrap_or(default);
        year::run(&run, days, arguments.number("--rate").unwrap_or(100.0))?;
    }
    Ok(if all_met {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn file_mib(file: &Path) -> Fallible<f64> {
    Ok(file_bytes(file)? / f64::from(1 << 20))
}
