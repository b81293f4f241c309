//! Measuring.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Fallible;

/// A value, or why it could not be measured.
pub type Measured = Fallible<f64>;

/// The median of `a / b` over interleaved rounds, each called once per round.
pub fn median_ratio(
    rounds: usize,
    mut a: impl FnMut() -> Duration,
    mut b: impl FnMut() -> Duration,
) -> f64 {
    let ratio = |round: usize| {
        // The order alternates.
        let (a, b) = if round.is_multiple_of(2) {
            let a = a();
            (a, b())
        } else {
            let b = b();
            (a(), b)
        };
        a.as_secs_f64() / b.as_secs_f64()
    };
    median((0..rounds).map(ratio).collect())
}

/// The middle of some values, of which there is at least one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The time that `work` takes.
pub fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// The time that `work` takes, and its result.
pub fn timed_result<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let result = work();
    (start.elapsed(), result)
}

/// In milliseconds.
pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// Resident bytes of this process.
///
/// # Errors
/// On systems without `/proc`.
pub fn resident_bytes() -> Measured {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: f64 = statm
        .split(' ')
        .nth(1)
        .ok_or("no resident pages in statm")?
        .parse()?;
    Ok(pages * 4_096.0)
}

/// Bytes of all pages that this process has changed so far and that were or will be written to a disk.
///
/// # Errors
/// On systems without `/proc`.
pub fn written_bytes() -> Measured {
    let io = std::fs::read_to_string("/proc/self/io")?;
    let mut lines = io.lines();
    let bytes = lines.find_map(|line| line.strip_prefix("write_bytes: "));
    Ok(bytes.ok_or("no written bytes in io")?.parse()?)
}

/// Disk space of a file. The database doubles the length of its file when it is full; unwritten parts
/// take no space.
///
/// # Errors
/// If the file does not exist.
pub fn file_bytes(path: &Path) -> Measured {
    Ok(std::fs::metadata(path)?.blocks() as f64 * 512.0)
}

/// Prints a line `NAME VALUE GOAL ok|short`, and returns whether `value` is at most `most`.
pub fn judge(name: &str, value: f64, most: f64) -> bool {
    let is_met = value <= most;
    let verdict = if is_met { "ok" } else { "short" };
    println!("{name} {value:.2} <={most} {verdict}");
    is_met
}

/// The same pseudo-random numbers in every run (SplitMix64).
pub struct Random(
    /// The seed.
    pub u64,
);

impl Random {
    /// The next number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    /// The items in another order.
    pub fn shuffled<T: Clone>(&mut self, items: &[T]) -> Vec<T> {
        let mut items = items.to_vec();
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
        items
    }
}
