//! Several nodes over one Redis and one PostgreSQL, simulated from a seed and compared with a naive
//! model: delays, losses, partitions, lost replies, crashes of servers, stops, kills and restarts of nodes.
//!
//! The simulation begins at the byte streams: the pools, drivers and protocols of both clients, the
//! script of the limits, the feed of changes and the writer of usage are the real ones; network and
//! servers are those of `keyguard_test_support::simulated`, under simulated time. Not simulated are threads,
//! since one runs at a time, and statements of PostgreSQL that only list, prune or import.
//!
//! Every second world is slow, so that its steps last longer than cached keys may be used.
//!
//! `SIMULATION_SEED=N` simulates that one world and prints what happens; with `SIMULATION_WORLDS=N`, so
//! many worlds from that seed on, silently.

mod admin;
mod client;
mod faults;
mod model;
mod pace;
mod scenarios;
mod shared;
mod world;

use keyguard_test_support::simulate_worlds;

use self::world::World;
use crate::sys::simulation;

/// Enough for a debug build.
const WORLDS: u64 = 4;
const STEPS: u64 = 2_000;

/// Prints how to repeat a simulation that panics.
struct Repeat(u64);

impl Drop for Repeat {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!(
                "to repeat it: SIMULATION_SEED={seed} cargo test --release --all-features --lib \
                 nodes_match -- --nocapture"
            );
        }
    }
}

#[test]
fn simulated_nodes_match_a_naive_model() {
    simulate_worlds(WORLDS, STEPS, |seed, is_traced| {
        simulate(seed, STEPS, is_traced);
    });
}

#[test]
fn a_seed_determines_what_happens() {
    let events = |seed| simulate(seed, 300, false);
    assert_eq!(events(1), events(1));
    assert_ne!(events(1), events(2));
}

/// Returns a hash of all that happened.
fn simulate(seed: u64, steps: u64, is_traced: bool) -> u64 {
    let _repeat = Repeat(seed);
    simulation::run(seed, |network| {
        let world = World::new(seed, network, is_traced);
        world.run(steps);
        world.finish()
    })
}
