//! Power cuts before any operation of a store on a simulated disk, and again while it recovers.
//!
//! `POWER_CUT_CASE=N` repeats one case. `POWER_CUT_ROUNDS=N` runs so many rounds, each of which cuts every
//! operation on a small file once, in one of the ways; `POWER_CUT_SEED=N` runs other rounds.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::altered::Outcome;
use super::disk::{Disk, Op};
use super::faults::{STEPS, all_outcomes, expected};
use super::history::{CUTS, Cut, History, LIES, Lie, Random};
use super::*;
use crate::store::codec::data_file::table_offset;

/// A store that makes all [`STEPS`], from its opening to its end.
struct World {
    file: File,
    /// The outcomes before all steps and after each.
    expected: Vec<Vec<Outcome>>,
    cache_bytes: usize,
    life: Life,
}

/// The operations of a store from its opening to its end.
struct Life {
    history: History,
    /// The number of steps that were made before.
    before: usize,
    /// The number of operations at the end of each step.
    acknowledged: Vec<usize>,
}

impl Life {
    /// Returns the numbers of steps that the disk may contain after `at` operations: all acknowledged ones,
    /// and the next one whole or not at all.
    fn allowed(&self, at: usize) -> RangeInclusive<usize> {
        let made = self.acknowledged.iter().filter(|end| **end <= at).count();
        let made = self.before + made;
        made..=STEPS.len().min(made + 1)
    }
}

impl World {
    /// A store on a file with five keys and `more`.
    fn new(more: u64, cache_bytes: usize) -> Self {
        let file = File::new();
        let store = with_keys(&file, 5);
        let more = (0..more).map(|n| new_key(OrgId(1), 1_000 + n));
        store.create_keys(more.collect(), &audit_context()).unwrap();
        store.record(&requests(1, NOW, 20)).unwrap();
        drop(store);
        let bytes = fs::read(&file.path).unwrap();
        let mut world = Self {
            expected: expected(&file, &bytes),
            file,
            cache_bytes,
            life: Life {
                history: History {
                    start: Vec::new(),
                    ops: Vec::new(),
                },
                before: 0,
                acknowledged: Vec::new(),
            },
        };
        world.life = world.live(&bytes, 0..=0, STEPS.len());
        world
    }

    fn open(&self, disk: &Disk) -> Result<RedbStore, OpenError> {
        disk.open_with_cache(&self.file, &ManualClock::starting_at(NOW), self.cache_bytes)
    }

    /// Opens a disk, which must contain one of the `allowed` numbers of steps, and makes the next ones.
    fn live(&self, bytes: &[u8], allowed: RangeInclusive<usize>, steps: usize) -> Life {
        let disk = Disk::recording(bytes);
        let store = self.open(&disk).expect("the file is refused");
        let found = all_outcomes(&store);
        let before = allowed.clone().find(|steps| found == self.expected[*steps]);
        let Some(before) = before else {
            panic!("neither of {allowed:?} steps: {found:#?}")
        };
        let mut acknowledged = Vec::new();
        for (number, (name, step)) in STEPS.iter().enumerate().skip(before).take(steps) {
            step(&store).expect(name);
            acknowledged.push(disk.sim().history.as_ref().map_or(0, Vec::len));
            assert!(all_outcomes(&store) == self.expected[number + 1], "{name}");
        }
        drop(store);
        let ops = disk.sim().history.take().unwrap_or_default();
        Life {
            history: History {
                start: bytes.to_vec(),
                ops,
            },
            before,
            acknowledged,
        }
    }

    /// Cuts the power, or kills the process; then cuts the power while the store recovers or makes the next
    /// step, and makes one more.
    fn cut_twice(&self, case: usize) {
        let (cut, at, mut random) = self.place(case, &CUTS);
        let bytes = self.life.history.cut(at, cut, &mut random);
        let allowed = self.life.allowed(at);
        let mut life = self.live(&bytes, allowed.clone(), 1);
        let next = random.below(life.history.ops.len() + 1);
        let synced = life.history.ops[..next]
            .iter()
            .any(|op| matches!(op, Op::Sync));
        let mut allowed_next = life.allowed(next);
        let mut at_next = next;
        if cut == Cut::Kept {
            // What the killed process wrote is still in flight.
            life.history = self.life.history.continued(at, &life.history);
            at_next += at;
            if !synced {
                allowed_next = *allowed.start()..=*allowed_next.end();
            }
        }
        let cut = CUTS[random.below(CUTS.len())];
        let bytes = life.history.cut(at_next, cut, &mut random);
        self.live(&bytes, allowed_next, 1);
    }

    /// Opens a disk that lost writes. Nothing that it shows may be wrong.
    fn lie(&self, case: usize) -> Noticed {
        let (lie, at, mut random) = self.place(case, &LIES);
        let bytes = self.life.history.lie(at, lie, &mut random);
        let allowed = self.life.allowed(at);
        let acknowledged = *allowed.start();
        let allowed = match lie {
            Lie::LostWrite => allowed,
            // The disk may contain an earlier state, which no file can tell from the last one.
            Lie::NoSyncs => 0..=*allowed.end(),
        };
        let store = match self.open(&Disk::holding(&bytes)) {
            Ok(store) => store,
            Err(refused @ OpenError::Damaged { .. }) => {
                assert!(!format!("{refused:?}").contains(PANICKED), "{refused:?}");
                return Noticed::AtOpening;
            }
            Err(refused) => panic!("{refused:?}"),
        };
        let found = all_outcomes(&store);
        let steps = allowed
            .rev()
            .find(|steps| is_right(&found, &self.expected[*steps]));
        let steps = steps.unwrap_or_else(|| panic!("silently wrong: {found:#?}"));
        if let Some((name, step)) = STEPS.get(steps) {
            match step(&store) {
                Ok(()) => assert!(
                    is_right(&all_outcomes(&store), &self.expected[steps + 1]),
                    "silently wrong after {name}"
                ),
                Err(error) => assert!(is_damage(&format!("{error:?}")), "{name}: {error:?}"),
            }
        }
        match found.iter().any(is_damaged) {
            true => Noticed::AtReading,
            false if steps < acknowledged => Noticed::Not,
            false => Noticed::WithoutLoss,
        }
    }

    /// Returns the way, the operation and the random numbers of a case. A round of subsequent cases has every
    /// operation, each round in other ways.
    fn place<T: Copy>(&self, case: usize, ways: &[T]) -> (T, usize, Random) {
        let operations = self.life.history.ops.len() + 1;
        let (round, at) = (case / operations, case % operations);
        (ways[(at + round) % ways.len()], at, Random(case as u64))
    }
}

/// How a fault of the disk was noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Noticed {
    AtOpening,
    AtReading,
    /// The lost writes were in flight, or of blocks that are no longer in use.
    WithoutLoss,
    /// An earlier state, whole.
    Not,
}

fn is_right(found: &[Outcome], expected: &[Outcome]) -> bool {
    let mut pairs = found.iter().zip(expected);
    pairs.all(|(found, expected)| found == expected || is_damaged(found))
}

fn is_damaged(outcome: &Outcome) -> bool {
    outcome.as_ref().is_err_and(|error| is_damage(error))
}

fn is_damage(error: &str) -> bool {
    error.contains("Damaged") && !error.contains(PANICKED)
}

/// Prints how to repeat a case that panics.
struct Repeat(&'static str, usize);

impl Drop for Repeat {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(test, case) = self;
            eprintln!("to repeat it: POWER_CUT_CASE={case} cargo test --lib power_cuts::{test}");
        }
    }
}

/// Tests cases of a small and of a large file, on all processors. Returns the results.
fn each<T: Send>(
    test: &'static str,
    rounds: usize,
    check: impl Fn(&World, usize) -> T + Sync,
) -> Vec<T> {
    // The large file has two groups of blocks, and its cache is too small for a transaction.
    let worlds = [World::new(0, CACHE), World::new(LARGE, 0)];
    let second_group = table_offset(1, 0) as usize;
    let large = &worlds[1].life.history;
    let is_in_second_group = |op: &Op| matches!(op, Op::Write(at, _) if *at == second_group);
    let bytes = large.start.len();
    assert!(large.ops.iter().any(is_in_second_group), "{bytes} bytes");
    let from_environment = |name| std::env::var(name).ok().map(|text| text.parse().unwrap());
    let one: Option<usize> = from_environment("POWER_CUT_CASE");
    let rounds = from_environment("POWER_CUT_ROUNDS").unwrap_or(rounds);
    let seed: usize = from_environment("POWER_CUT_SEED").unwrap_or(0);
    let operations = worlds[0].life.history.ops.len() + 1;
    // Opening the large file takes longer.
    let count = operations.div_ceil(7) * 8;
    let cases = match one {
        Some(case) => case..case + 1,
        None => seed * count..(seed + rounds) * count,
    };
    let next = AtomicUsize::new(cases.start);
    let results = parking_lot::Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let case = next.fetch_add(1, Ordering::Relaxed);
                    if !cases.contains(&case) {
                        break;
                    }
                    let _repeat = Repeat(test, case);
                    let result = match case % 8 {
                        7 => check(&worlds[1], case / 8),
                        _ => check(&worlds[0], case - case / 8),
                    };
                    results.lock().push(result);
                }
            });
        }
    });
    results.into_inner()
}

/// More keys than fit in the first group of blocks, with the space that a change adds.
const LARGE: u64 = 12_000;

#[test]
fn an_acknowledged_change_survives_any_two_power_cuts() {
    let test = "an_acknowledged_change_survives_any_two_power_cuts";
    let cases = each(test, 10, World::cut_twice).len();
    println!("{cases} cases");
    assert!(cases > 1_000 || std::env::var_os("POWER_CUT_CASE").is_some());
}

#[test]
fn a_disk_that_loses_writes_is_noticed() {
    let test = "a_disk_that_loses_writes_is_noticed";
    let noticed = each(test, 6, World::lie);
    let count = |how| noticed.iter().filter(|noticed| **noticed == how).count();
    for how in [
        Noticed::AtOpening,
        Noticed::AtReading,
        Noticed::WithoutLoss,
        Noticed::Not,
    ] {
        println!("{how:?}: {} of {}", count(how), noticed.len());
    }
    // This test would not notice a lost change otherwise.
    assert!(count(Noticed::Not) > 0 || std::env::var_os("POWER_CUT_CASE").is_some());
}
