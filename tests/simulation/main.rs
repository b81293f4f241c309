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

use keyguard_test_support::simulate_worlds;

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
    let home = Home::new();
    let unknown = key(&home.open()).raw_key.expose().to_owned();

    simulate_worlds(WORLDS, STEPS, |seed, is_traced| {
        simulate(seed, &unknown, is_traced)
    });
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
