//! Simulations of many worlds, each from a seed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Simulates `worlds` worlds of `steps` steps, with the seeds from 0 on, on all processors. Prints the rate.
///
/// `SIMULATION_SEED=N` simulates that one world, traced; with `SIMULATION_WORLDS=N`, so many worlds from that
/// seed on, silently. `simulate` takes a seed and whether the world is traced.
pub fn simulate_worlds(worlds: u64, steps: u64, simulate: impl Fn(u64, bool) + Sync) {
    let first = from_environment("SIMULATION_SEED");
    let count = from_environment("SIMULATION_WORLDS");
    let is_traced = first.is_some() && count.is_none();
    let first = first.unwrap_or(0);
    let worlds = count.unwrap_or(if is_traced { 1 } else { worlds });

    let (start, next) = (Instant::now(), AtomicU64::new(first));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + worlds {
                        return;
                    }
                    simulate(seed, is_traced);
                }
            });
        }
    });
    let (steps, seconds) = (worlds * steps, start.elapsed().as_secs_f64());
    println!("{steps} steps, {:.0} a second", steps as f64 / seconds);
}

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap())
}
