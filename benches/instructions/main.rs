//! Instructions and simulated cache misses per check: `cargo bench --bench instructions`.
//!
//! Runs each case, or those named as arguments, twice under Callgrind, with different numbers of checks.
//! `--profiles DIR` keeps the profiles; `--smoke` runs briefly. Needs `valgrind` (`apt install valgrind`),
//! and does nothing without it. How to read the table: `src/lib.rs` of this package.

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use keyguard::{Config, Denial, Grant, KeyGuard, ManualClock, Timestamp};
use keyguard_benches::checks::floor;
use keyguard_benches::world::{
    NotInForce, PATH, RICH_PATH, SECRET, UNREACHED, create_keys, guard_at, headers,
    keys_not_in_force, limited, peer, rich_at, rich_config, unrecorded,
};
use keyguard_benches::{Fallible, Run};

/// The work of a run.
struct Case {
    name: &'static str,
    /// Creates the file with this many keys, and returns them.
    create: fn(&Path, usize) -> Fallible<Vec<String>>,
    /// The child: opens the file, and checks each key this often.
    check: fn(&Path, &[String], usize) -> Fallible<()>,
}

const CASES: &[Case] = &[
    Case {
        name: "floor",
        create: create_hot,
        check: |_, keys, passes| {
            floor(keys, passes);
            Ok(())
        },
    },
    Case {
        name: "hot",
        create: create_hot,
        check: |file, keys, passes| {
            let kg = KeyGuard::open(file, unrecorded())?;
            check_each(&kg, keys, PATH, passes, drop, Result::is_ok)
        },
    },
    Case {
        name: "recorded",
        create: create_hot,
        check: |file, keys, passes| {
            let kg = KeyGuard::open(file, Config::new(SECRET))?;
            let finish = |outcome: Outcome| {
                if let Ok(grant) = outcome {
                    grant.finish(200);
                }
            };
            check_each(&kg, keys, PATH, passes, finish, Result::is_ok)
        },
    },
    Case {
        name: "rich",
        create: |file, count| {
            let (kg, keys) = rich_at(file, count)?;
            kg.close()?;
            Ok(keys)
        },
        check: |file, keys, passes| {
            let kg = KeyGuard::open(file, rich_config())?;
            check_each(&kg, keys, RICH_PATH, passes, drop, Result::is_ok)
        },
    },
    Case {
        name: "refused",
        create: |file, count| {
            let kg = KeyGuard::open(file, unrecorded())?;
            kg.admin().create_org("exhausted")?;
            let new = limited("exhausted", UNREACHED).limits(["1/day"]);
            let keys = create_keys(&kg, &vec![new; count])?;
            check_each(&kg, &keys, PATH, 1, drop, Result::is_ok)?;
            kg.close()?;
            Ok(keys)
        },
        check: |file, keys, passes| {
            let kg = KeyGuard::open(file, unrecorded())?;
            let read = |outcome: Outcome| {
                if let Err(denial) = outcome {
                    black_box(denial.retry_after());
                }
            };
            check_each(&kg, keys, PATH, passes, read, Result::is_err)
        },
    },
    Case {
        name: "revoked",
        create: |file, count| create_not_in_force(file, count, NotInForce::Revoked),
        check: check_not_in_force,
    },
    Case {
        name: "expired",
        create: |file, count| create_not_in_force(file, count, NotInForce::Expired),
        check: check_not_in_force,
    },
    Case {
        name: "suspended",
        create: |file, count| create_not_in_force(file, count, NotInForce::SuspendedKey),
        check: check_not_in_force,
    },
    Case {
        name: "suspended_org",
        create: |file, count| create_not_in_force(file, count, NotInForce::SuspendedOrg),
        check: check_not_in_force,
    },
    Case {
        name: "locked",
        create: create_hot,
        check: |file, keys, passes| {
            let kg = KeyGuard::open(file, unrecorded().lockout_threshold(1))?;
            for _ in 0..2 {
                let _ = kg.check(&headers("nonsense"), peer(), PATH);
            }
            check_each(&kg, keys, PATH, passes, drop, Result::is_err)
        },
    },
];

fn create_hot(file: &Path, count: usize) -> Fallible<Vec<String>> {
    let (kg, keys) = guard_at(file, count, UNREACHED, unrecorded())?;
    kg.close()?;
    Ok(keys)
}

fn create_not_in_force(file: &Path, count: usize, why: NotInForce) -> Fallible<Vec<String>> {
    let clock = ManualClock::starting_at(Timestamp::from_unix_millis(1_768_478_400_000));
    let kg = KeyGuard::open(file, Config::new(SECRET).clock(clock.clone()))?;
    let keys = keys_not_in_force(&kg, &clock, "refused", count, why)?;
    kg.close()?;
    Ok(keys)
}

/// The refusals are recorded.
fn check_not_in_force(file: &Path, keys: &[String], passes: usize) -> Fallible<()> {
    let kg = KeyGuard::open(file, Config::new(SECRET))?;
    check_each(&kg, keys, PATH, passes, drop, Result::is_err)
}

type Outcome = Result<Grant, Denial>;

/// Checks each key this often.
#[inline(always)]
fn check_each(
    kg: &KeyGuard,
    keys: &[String],
    path: &str,
    passes: usize,
    end: impl Fn(Outcome),
    is_expected: impl Fn(&Outcome) -> bool,
) -> Fallible<()> {
    for _ in 0..passes {
        for key in keys {
            let outcome = kg.check(&headers(key), peer(), path);
            if !is_expected(black_box(&outcome)) {
                return Err("a check has another outcome".into());
            }
            end(outcome);
        }
    }
    Ok(())
}

/// The first argument of a child.
const CHECK: &str = "check";

fn main() -> Fallible<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, case, file, passes] = arguments.as_slice()
        && command == CHECK
    {
        return run_child(case, Path::new(file), passes.parse()?);
    }
    let options = Options::parse(&arguments)?;
    if !has_valgrind() {
        eprintln!("skipped: valgrind is not installed (apt install valgrind)");
        return Ok(());
    }
    let run = Run::new(options.is_smoke)?;
    println!(
        "{:<16}{:>14}{:>12}{:>12}",
        "per check", "instructions", "L1 misses", "LL misses"
    );
    for case in options.cases {
        let [instructions, l1, ll] = case.measure(&run, options.profiles.as_deref())?;
        println!("{:<16}{instructions:>14.0}{l1:>12.2}{ll:>12.2}", case.name);
    }
    Ok(())
}

struct Options {
    is_smoke: bool,
    profiles: Option<PathBuf>,
    cases: Vec<&'static Case>,
}

impl Options {
    fn parse(arguments: &[String]) -> Fallible<Self> {
        let (mut is_smoke, mut profiles, mut cases) = (false, None, Vec::new());
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                // Added by `cargo bench`.
                "--bench" => {}
                "--smoke" => is_smoke = true,
                "--profiles" => {
                    profiles = Some(PathBuf::from(arguments.next().ok_or("--profiles DIR")?));
                }
                name => cases.push(Case::named(name)?),
            }
        }
        if cases.is_empty() {
            cases = CASES.iter().collect();
        }
        Ok(Self {
            is_smoke,
            profiles,
            cases,
        })
    }
}

impl Case {
    fn named(name: &str) -> Fallible<&'static Self> {
        let case = CASES.iter().find(|case| case.name == name);
        let names: Vec<_> = CASES.iter().map(|case| case.name).collect();
        case.ok_or_else(|| format!("no case is named `{name}`; there are: {names:?}").into())
    }

    /// Instructions, and misses of the first and the last level, per check.
    fn measure(&self, run: &Run, profiles: Option<&Path>) -> Fallible<[f64; 3]> {
        let file = run.world.path(&format!("{}.redb", self.name));
        let keys = (self.create)(&file, run.size(1_000))?;
        fs::write(keys_of(&file), keys.join("\n"))?;
        let profile = match profiles {
            Some(dir) => dir.join(format!("{}.callgrind", self.name)),
            None => file.with_extension("callgrind"),
        };
        let [few, many] = if run.is_smoke { [1, 2] } else { [10, 50] };
        let short = self.count(&file, few, &profile)?;
        let long = self.count(&file, many, &profile)?;
        let checks = (many - few) * keys.len();
        // Noise may make a difference of nothing negative.
        Ok([0, 1, 2].map(|at| (long[at] - short[at]).max(0.0) / checks as f64))
    }

    /// Instructions and misses of the main thread of a run.
    fn count(&self, file: &Path, passes: usize, profile: &Path) -> Fallible<[f64; 3]> {
        // A run must not find the counters and usage of an earlier one.
        let copy = file.with_extension("copy");
        fs::copy(file, &copy)?;
        let output = Command::new("valgrind")
            .args([
                "--tool=callgrind",
                "--cache-sim=yes",
                "--separate-threads=yes",
            ])
            .args(["--I1=32768,8,64", "--D1=32768,8,64", "--LL=1048576,16,64"])
            .arg(format!("--callgrind-out-file={}", profile.display()))
            .arg(std::env::current_exe()?)
            .args([CHECK, self.name])
            .arg(copy)
            .arg(passes.to_string())
            .output()?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            return Err(format!("the run of `{}` failed: {error}", self.name).into());
        }
        let mut main_thread = profile.as_os_str().to_owned();
        main_thread.push("-01");
        sums(&fs::read_to_string(main_thread)?)
    }
}

fn run_child(name: &str, file: &Path, passes: usize) -> Fallible<()> {
    let keys = fs::read_to_string(keys_of(file))?;
    let keys: Vec<String> = keys.lines().map(str::to_owned).collect();
    (Case::named(name)?.check)(file, &keys, passes)
}

/// The file with the keys of a data file.
fn keys_of(file: &Path) -> PathBuf {
    file.with_extension("keys")
}

fn has_valgrind() -> bool {
    let version = Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    version.is_ok_and(|status| status.success())
}

/// The sums in a profile of Callgrind.
fn sums(profile: &str) -> Fallible<[f64; 3]> {
    let line = |start: &str| {
        let line = profile
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix(start));
        line.ok_or_else(|| format!("the profile has no line `{start}`"))
    };
    let totals = line("totals:")?.split_whitespace();
    let totals: Vec<f64> = totals.map(str::parse).collect::<Result<_, _>>()?;
    let events: Vec<&str> = line("events:")?.split_whitespace().collect();
    let sum = |names: &[&str]| -> f64 {
        let counted = events.iter().zip(&totals);
        counted
            .filter(|(event, _)| names.contains(event))
            .map(|(_, count)| count)
            .sum()
    };
    Ok([
        sum(&["Ir"]),
        sum(&["I1mr", "D1mr", "D1mw"]),
        sum(&["ILmr", "DLmr", "DLmw"]),
    ])
}
