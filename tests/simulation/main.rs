//! A whole guard with everything that happens to one, simulated from a seed and compared with a naive
//! model: clients, administrators, restarts, kills, clocks that step, queues and caches that overflow.
//!
//! `SIMULATION_SEED=N` simulates that one world and prints what happens; with `SIMULATION_WORLDS=N`, so
//! many worlds from that seed on, silently.

#![cfg(test)]

#[path = "../common/mod.rs"]
mod common;

mod calendar;
mod limit;
mod model;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::common::{Home, key};
use crate::world::World;

/// A million steps in total.
const WORLDS: u64 = 200;
const STEPS: u64 = 5_000;

/// Prints how to repeat a simulation that panics.
struct Repeat {
    seed: u64,
    step: u64,
}

impl Drop for Repeat {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { seed, step } = self;
            eprintln!(
                "failed at step {step}; to repeat it: \
                 SIMULATION_SEED={seed} cargo test --release --test simulation matches"
            );
        }
    }
}

#[test]
fn simulated_guard_matches_a_naive_model() {
    let first = from_environment("SIMULATION_SEED");
    let worlds = from_environment("SIMULATION_WORLDS");
    let is_traced = first.is_some() && worlds.is_none();
    let first = first.unwrap_or(0);
    let worlds = worlds.unwrap_or(if is_traced { 1 } else { WORLDS });
    let home = Home::new();
    let unknown = key(&home.open()).raw_key.expose().to_owned();

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
                    simulate(seed, &unknown, is_traced);
                }
            });
        }
    });
    let (steps, seconds) = (worlds * STEPS, start.elapsed().as_secs_f64());
    println!("{steps} steps, {:.0} a second", steps as f64 / seconds);
}

fn simulate(seed: u64, unknown: &str, is_traced: bool) {
    let mut repeat = Repeat { seed, step: 0 };
    let mut world = World::new(seed, unknown, is_traced);
    while repeat.step < STEPS {
        world.step();
        repeat.step += 1;
    }
    world.finish();
}

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap())
}
