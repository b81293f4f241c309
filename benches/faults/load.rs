//! A steady load of checks and changes, with a record of the responses.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use keyguard::{CreateKey, KeyGuard, KeyId};

use crate::world::{IP, World};

/// Number of checking threads per node.
const CHECKERS: usize = 4;

/// Pause between two checks of a thread.
const PAUSE: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    Before,
    During,
    After,
}

const PHASES: [(Phase, &str); 3] = [
    (Phase::Before, "before"),
    (Phase::During, "during"),
    (Phase::After, "after"),
];

#[derive(Default)]
struct Shared {
    phase: AtomicU8,
    is_over: AtomicBool,
}

pub(crate) struct Load {
    shared: Arc<Shared>,
    checkers: Vec<JoinHandle<BTreeMap<u8, Answers>>>,
    changer: JoinHandle<Changes>,
}

/// The responses that one thread received in a phase.
#[derive(Default)]
struct Answers {
    admitted: usize,
    refused: usize,
    unavailable: usize,
    times: Vec<Duration>,
}

/// The acknowledged changes, and the number of refused ones.
#[derive(Default)]
struct Changes {
    created: Vec<KeyId>,
    revoked: Vec<KeyId>,
    failed: usize,
}

impl Load {
    pub(crate) fn start(world: &World) -> Self {
        let shared = Arc::new(Shared::default());
        let mut checkers = Vec::new();
        for (number, node) in world.nodes.iter().enumerate() {
            for checker in 0..CHECKERS {
                let (node, keys, shared) = (node.clone(), world.keys.clone(), Arc::clone(&shared));
                let first = number * CHECKERS + checker;
                checkers.push(thread::spawn(move || check(&node, &keys, first, &shared)));
            }
        }
        let (node, over) = (world.nodes[0].clone(), Arc::clone(&shared));
        Self {
            shared,
            checkers,
            changer: thread::spawn(move || change(&node, &over)),
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.shared.phase.store(phase as u8, Ordering::SeqCst);
    }

    pub(crate) fn stop(self) -> Figures {
        self.shared.is_over.store(true, Ordering::SeqCst);
        let mut phases = BTreeMap::<u8, Answers>::new();
        for checker in self.checkers {
            // The panic is counted already.
            for (phase, answers) in checker.join().unwrap_or_default() {
                phases.entry(phase).or_default().add(answers);
            }
        }
        for answers in phases.values_mut() {
            answers.times.sort_unstable();
        }
        Figures {
            phases,
            changes: self.changer.join().unwrap_or_default(),
        }
    }
}

fn check(node: &KeyGuard, keys: &[String], first: usize, shared: &Shared) -> BTreeMap<u8, Answers> {
    let mut phases = BTreeMap::<u8, Answers>::new();
    for number in (first..).step_by(7) {
        if shared.is_over.load(Ordering::SeqCst) {
            break;
        }
        let headers = [("X-API-Key", keys[number % keys.len()].as_str())];
        let phase = shared.phase.load(Ordering::SeqCst);
        let began = Instant::now();
        let answer = node.check(&headers, IP, "/api/data");
        let time = began.elapsed();
        let answers = phases.entry(phase).or_default();
        answers.times.push(time);
        match answer {
            Ok(grant) => {
                answers.admitted += 1;
                grant.finish(200);
            }
            Err(denial) if denial.status() == 503 => answers.unavailable += 1,
            Err(_) => answers.refused += 1,
        }
        thread::sleep(PAUSE);
    }
    phases
}

fn change(node: &KeyGuard, shared: &Shared) -> Changes {
    let mut changes = Changes::default();
    while !shared.is_over.load(Ordering::SeqCst) {
        match node.admin().create_key(CreateKey::new("acme", "change")) {
            Ok(created) => {
                let id = created.key.id;
                changes.created.push(id);
                match node.admin().revoke_key(id) {
                    Ok(_) => changes.revoked.push(id),
                    Err(_) => changes.failed += 1,
                }
            }
            Err(_) => changes.failed += 1,
        }
        thread::sleep(10 * PAUSE);
    }
    changes
}

impl Answers {
    fn add(&mut self, mut other: Self) {
        self.admitted += other.admitted;
        self.refused += other.refused;
        self.unavailable += other.unavailable;
        self.times.append(&mut other.times);
    }

    /// The time at this per-mille rank of sorted times.
    fn per_mille(&self, many: usize) -> Duration {
        let place = (self.times.len() * many).div_ceil(1_000).saturating_sub(1);
        self.times.get(place).copied().unwrap_or_default()
    }
}

pub(crate) struct Figures {
    phases: BTreeMap<u8, Answers>,
    changes: Changes,
}

impl Figures {
    pub(crate) fn print(&self, fault: &str) {
        println!(
            "{:<20}{:>9}{:>10}{:>9}{:>6}{:>10}{:>10}{:>10}{:>10}",
            fault, "checks", "admitted", "refused", "503", "p50 ms", "p99 ms", "p99.9 ms", "max ms"
        );
        for (phase, name) in PHASES {
            let Some(answers) = self.phases.get(&(phase as u8)) else {
                continue;
            };
            let millis = |many| answers.per_mille(many).as_secs_f64() * 1_000.0;
            println!(
                "  {name:<18}{:>9}{:>10}{:>9}{:>6}{:>10.2}{:>10.2}{:>10.2}{:>10.2}",
                answers.times.len(),
                answers.admitted,
                answers.refused,
                answers.unavailable,
                millis(500),
                millis(990),
                millis(999),
                millis(1_000),
            );
        }
        println!(
            "  changes: {} acknowledged, {} not",
            self.changes.created.len() + self.changes.revoked.len(),
            self.changes.failed
        );
    }

    pub(crate) fn slowest_p999(&self) -> Duration {
        let all = self.phases.values().map(|answers| answers.per_mille(999));
        all.max().unwrap_or_default()
    }

    /// Acknowledged changes that are missing in the database.
    pub(crate) fn lost_changes(&self, world: &World) -> Result<usize, Box<dyn Error>> {
        let node = world.fresh_node()?;
        let mut lost = 0;
        for id in &self.changes.created {
            lost += usize::from(node.admin().get_key(*id).is_err());
        }
        for id in &self.changes.revoked {
            lost += usize::from(node.admin().get_key(*id).is_ok_and(|key| key.is_active()));
        }
        Ok(lost)
    }
}
