//! Whether the time of a refusal tells why a key is refused: `cargo bench --bench timing`.
//!
//! Measures single checks of two classes of keys in random order, and compares both samples by Welch's
//! *t*-test, also without their slowest parts, as dudect does (Reparaz, Balasch, Verbauwhede: *Dude, is my
//! code constant time?*, DATE 2017). |t| grows with the root of the number of checks if the means differ.
//! Above 10 the classes are told apart; below 4.5 there is no sign of a difference.
//!
//! Two classes with the same reason are a control: they differ only in their keys and where these lie in
//! memory. So a |t| that is no larger than that of a control does not come from the reason. `--smoke` runs
//! briefly.

use std::hint::black_box;
use std::time::Instant;

use keyguard::{Config, KeyGuard, ManualClock, Reason, Timestamp};
use keyguard_benches::measure::Random;
use keyguard_benches::world::{
    NotInForce, PATH, SECRET, UNREACHED, create_keys, keys_not_in_force, limited, peer,
    with_checksum,
};
use keyguard_benches::{Fallible, Run};

/// Checks of each pair of classes.
const CHECKS: usize = 400_000;

/// Keys of each class.
const KEYS: usize = 64;

/// Above this |t|, two classes are told apart.
const APART: f64 = 10.0;

/// Below this |t|, there is no sign of a difference.
const ALIKE: f64 = 4.5;

/// A class of keys, and why they are refused.
struct Class {
    name: &'static str,
    texts: Vec<String>,
    reason: Reason,
}

fn main() -> Fallible<()> {
    let is_smoke = std::env::args().any(|argument| argument == "--smoke");
    let run = Run::new(is_smoke)?;
    let (kg, classes) = world(&run)?;
    let class = |name: &str| classes.iter().find(|class| class.name == name);
    println!(
        "{:<22}{:<22}{:>8}{:>8}{:>10}",
        "one", "other", "ns", "ns", "|t|"
    );
    let mut of_controls: f64 = 0.0;
    for (one, other) in CONTROLS.into_iter().chain(PAIRS) {
        let (Some(one), Some(other)) = (class(one), class(other)) else {
            return Err(format!("{one} or {other} is no class").into());
        };
        let is_control = CONTROLS.contains(&(one.name, other.name));
        let times = measure(&run, &kg, [one, other])?;
        let t = largest_t(&times);
        let verdict = match t {
            _ if is_control => "control",
            APART.. if t <= of_controls => "as a control",
            APART.. => "told apart",
            ALIKE.. => "perhaps",
            _ => "alike",
        };
        if is_control {
            of_controls = of_controls.max(t);
        }
        let [one_mean, other_mean] = times.map(|times| moments(&times).0);
        println!(
            "{:<22}{:<22}{one_mean:>8.0}{other_mean:>8.0}{t:>10.1}  {verdict}",
            one.name, other.name
        );
    }
    Ok(())
}

/// Pairs of classes with the same reason.
const CONTROLS: [(&str, &str); 5] = [
    ("unknown", "other unknown"),
    ("revoked", "other revoked"),
    ("expired", "other expired"),
    ("suspended", "other suspended"),
    ("of suspended org", "of other such org"),
];

/// The pairs that are compared. Of the last two, a difference is no secret: the form of a key is public, and
/// an unknown key is looked up in the file each time, a known one once.
const PAIRS: [(&str, &str); 10] = [
    ("unknown", "almost a key"),
    ("unknown", "almost revoked"),
    ("revoked", "expired"),
    ("revoked", "suspended"),
    ("revoked", "of suspended org"),
    ("expired", "suspended"),
    ("expired", "of suspended org"),
    ("suspended", "of suspended org"),
    ("unknown", "malformed"),
    ("unknown", "revoked"),
];

/// A guard, and keys of all classes. Keys that the guard knows are in its cache.
fn world(run: &Run) -> Fallible<(KeyGuard, Vec<Class>)> {
    let unknown = || -> Fallible<Vec<String>> {
        let elsewhere = tempfile::tempdir()?;
        let kg = KeyGuard::open(elsewhere.path().join("other.redb"), config())?;
        kg.admin().create_org("other")?;
        create_keys(&kg, &vec![limited("other", UNREACHED); KEYS])
    };
    let clock = ManualClock::starting_at(Timestamp::from_unix_millis(1_768_478_400_000));
    let file = run.world.path("timing.redb");
    let setting_up = KeyGuard::open(&file, config().clock(clock.clone()))?;
    setting_up.admin().create_org("active")?;
    let accepted = create_keys(&setting_up, &vec![limited("active", UNREACHED); KEYS])?;
    let mut refused = Vec::new();
    for (org, name, why, reason) in [
        ("1", "revoked", NotInForce::Revoked, Reason::RevokedKey),
        ("2", "expired", NotInForce::Expired, Reason::ExpiredKey),
        (
            "3",
            "suspended",
            NotInForce::SuspendedKey,
            Reason::SuspendedKey,
        ),
        (
            "4",
            "of suspended org",
            NotInForce::SuspendedOrg,
            Reason::SuspendedOrg,
        ),
        (
            "5",
            "other revoked",
            NotInForce::Revoked,
            Reason::RevokedKey,
        ),
        (
            "6",
            "other expired",
            NotInForce::Expired,
            Reason::ExpiredKey,
        ),
        (
            "7",
            "other suspended",
            NotInForce::SuspendedKey,
            Reason::SuspendedKey,
        ),
        (
            "8",
            "of other such org",
            NotInForce::SuspendedOrg,
            Reason::SuspendedOrg,
        ),
    ] {
        let texts = keys_not_in_force(&setting_up, &clock, org, KEYS, why)?;
        refused.push(Class::new(name, texts, reason));
    }
    setting_up.close()?;

    let unknown_texts = unknown()?;
    let malformed = unknown_texts.iter().map(|text| with_wrong_checksum(text));
    let mut classes = vec![
        Class::new("malformed", malformed.collect(), Reason::MalformedKey),
        Class::new("almost a key", almost(&accepted), Reason::UnknownKey),
        Class::new(
            "almost revoked",
            almost(&refused[0].texts),
            Reason::UnknownKey,
        ),
        Class::new("unknown", unknown_texts, Reason::UnknownKey),
        Class::new("other unknown", unknown()?, Reason::UnknownKey),
    ];
    classes.append(&mut refused);
    // With the clock of the system, by which the keys have expired long ago.
    let kg = KeyGuard::open(&file, config())?;
    for text in &accepted {
        drop(kg.check(&[("X-API-Key", text)], peer(), PATH));
    }
    Ok((kg, classes))
}

/// Refusals do not lock the client out.
fn config() -> Config {
    Config::new(SECRET).lockout_threshold(u32::MAX)
}

impl Class {
    fn new(name: &'static str, texts: Vec<String>, reason: Reason) -> Self {
        Self {
            name,
            texts,
            reason,
        }
    }
}

/// Keys that differ from others in the last random character, with the right checksum.
fn almost(texts: &[String]) -> Vec<String> {
    let changed = texts.iter().map(|text| {
        let (body, _) = text.split_at(text.len() - 6);
        let (start, last) = body.split_at(body.len() - 1);
        // The last character has 4 significant bits.
        with_checksum(format!("{start}{}", if last == "A" { "E" } else { "A" }))
    });
    changed.collect()
}

fn with_wrong_checksum(text: &str) -> String {
    let (body, checksum) = text.split_at(text.len() - 1);
    format!("{body}{}", if checksum == "0" { "1" } else { "0" })
}

/// The times of single checks of two classes, in nanoseconds.
fn measure(run: &Run, kg: &KeyGuard, classes: [&Class; 2]) -> Fallible<[Vec<f64>; 2]> {
    let mut random = Random(7);
    let mut times = [Vec::new(), Vec::new()];
    for number in 0..run.size(CHECKS) {
        let which = random.below(2);
        let class = classes[which];
        // In the same memory each time.
        let text = black_box(class.texts[random.below(KEYS)].clone());
        let headers = [("X-API-Key", text.as_str())];
        let start = Instant::now();
        let checked = kg.check(black_box(&headers), peer(), PATH);
        let time = start.elapsed();
        let Err(denial) = checked else {
            return Err(format!("a key was accepted that is {}", class.name).into());
        };
        if denial.reason() != class.reason {
            return Err(format!("{denial:?} for a key that is {}", class.name).into());
        }
        // The first checks fill caches.
        if number > 8 * KEYS || run.is_smoke {
            times[which].push(time.as_nanos() as f64);
        }
    }
    Ok(times)
}

/// The largest |t| of both samples, whole and without what is above some percentiles of both together.
fn largest_t(samples: &[Vec<f64>; 2]) -> f64 {
    let mut all = samples.concat();
    all.sort_by(f64::total_cmp);
    let crops = [0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0].map(|part| {
        let most = all[((all.len() - 1) as f64 * part) as usize];
        let cropped = samples.each_ref().map(|sample| {
            let sample = sample.iter().copied();
            sample.filter(|time| *time <= most).collect::<Vec<f64>>()
        });
        welch(&cropped)
    });
    crops.into_iter().fold(0.0, f64::max)
}

/// |t| of two samples.
fn welch([one, other]: &[Vec<f64>; 2]) -> f64 {
    let ((one_mean, one_error), (other_mean, other_error)) = (moments(one), moments(other));
    let error = (one_error + other_error).sqrt();
    if error > 0.0 {
        (one_mean - other_mean).abs() / error
    } else {
        0.0
    }
}

/// The mean of a sample, and the variance of the mean.
fn moments(sample: &[f64]) -> (f64, f64) {
    let count = sample.len().max(2) as f64;
    let mean = sample.iter().sum::<f64>() / count;
    let squares = sample
        .iter()
        .map(|value| (value - mean).powi(2))
        .sum::<f64>();
    (mean, squares / (count - 1.0) / count)
}
