//! Benchmarks of KeyGuard: how to run and to read them, and the parts that they share.
//!
//! | `cargo bench …` | prints |
//! |---|---|
//! | `--bench ratios` | the cost of each part as a ratio, beside its goal |
//! | `--bench curves` | how the cost of a check grows with keys, rules, routes and threads |
//! | `--bench floods` | memory, evictions and the latency of valid clients under floods |
//! | `--bench instructions` | instructions and simulated cache misses of a check (needs `valgrind`) |
//! | `--bench soak` | memory, file and totals over 400 simulated days, and the file of a year |
//! | `--features http --bench peers` | requests per second beside other rate limiters |
//! | `--features postgres,redis --bench faults` | refusals and recovery while servers fail |
//! | `--features postgres,redis --bench sizing` | space in Redis and PostgreSQL |
//! | `--bench timing` | whether the time of a refusal tells why a key is refused |
//!
//! `-- --smoke` runs any of them briefly, to see that it works; its numbers mean nothing.
//!
//! # Ratios
//!
//! Times differ between machines and between minutes of one machine. A row of `ratios` therefore compares
//! two pieces of work in one process: both run in turns, as short as they can be, each turn gives a ratio, and
//! the row is the median of all. A busy machine slows down both sides; still, run a row that matters several
//! times (`cargo bench --bench ratios check_hot/floor`), and on a machine that does nothing else. The goals
//! are those of the project; a row that misses its goal is `short`, and the exit status is 1.
//!
//! Each row is described by the documentation of the function that measures it. The baselines are:
//!
//! - **floor**: one header look-up, one keyed BLAKE3 of the key and one clock reading, about the least that
//!   any check of a hashed key does. A check below 1.0 costs less than that.
//! - **governor**: the crate of this name, which limits but does not authenticate.
//! - **bare**: the same HTTP service without a layer.
//! - **governor**, of `axum/governor`: the same service behind tower_governor, with its header fields.
//! - **healthz**: `/healthz` of the same `keyguard serve`, which has one core and the client another.
//! - **evalsha**: the script of the limits, sent to Redis by a bare client.
//! - **redb**: the same rows, committed to a plain redb database with the same durability.
//!
//! A row that records usage fails if an event is dropped.
//!
//! # Curves
//!
//! `curves` prints a table for each quantity that a check may depend on, with the median nanoseconds of a
//! check and its ratio to the floor. Nanoseconds say where a curve bends: resident keys make a check slower
//! once their records no longer fit into the caches of the processor. Ratios compare machines. The floor
//! of several threads runs in as many threads, so that the ratio of a check that scales stays the same.
//!
//! # Instructions
//!
//! `instructions` runs fixed numbers of checks under `valgrind --tool=callgrind --cache-sim=yes` and
//! divides the difference of a long and a short run by the difference of their checks, so that opening the
//! file and filling caches cancel out. Only the checking thread is counted, not the thread that writes usage.
//! The result hardly varies, also on a busy machine: use it to judge a change, and to see changes of one per
//! cent. Misses are those of a simulated processor with caches of 32 KiB for instructions and for data, and
//! one of 1 MiB behind them; the simulation knows neither prefetching nor the latency of dependent loads, so
//! that a change is judged by `ratios` as well. `-- --profiles DIR hot` keeps the profile of a case, which
//! `callgrind_annotate DIR/hot.callgrind-01` shows by function.

pub mod arguments;
pub mod checks;
pub mod measure;
pub mod world;

use std::error::Error;

use world::World;

/// Any error ends a measurement.
pub type Fallible<T> = Result<T, Box<dyn Error>>;

/// State shared by all measurements of a run.
pub struct Run {
    /// Whether to run briefly.
    pub is_smoke: bool,
    /// The data files.
    pub world: World,
}

impl Run {
    /// # Errors
    /// If the directory of the data files cannot be created.
    pub fn new(is_smoke: bool) -> Fallible<Self> {
        Ok(Self {
            is_smoke,
            world: World::new()?,
        })
    }

    /// `full`, or a much smaller number in a smoke run.
    pub fn size(&self, full: usize) -> usize {
        if self.is_smoke {
            (full / 200).max(100).min(full)
        } else {
            full
        }
    }

    /// `full`, or 1 in a smoke run.
    pub fn rounds(&self, full: usize) -> usize {
        if self.is_smoke { 1 } else { full }
    }
}
