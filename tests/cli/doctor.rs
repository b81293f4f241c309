//! `doctor`: each condition on a closed data file or one that a process holds, and its remedy.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::common::program::{done, keyguard, run};
use crate::common::{DAY, HOUR, Home, IP, MINUTE, NOON, SECRET, key, key_with, write_private};
#[cfg(feature = "redis")]
use crate::common::{redis::Redis, wait_until};
use crate::verify;
use keyguard::{Config, CreateKey, KeyGuard, ListUsage, ManualClock, Timestamp};
use serde_json::Value;
use tempfile::TempDir;

const RANDOM: &str = "5f2c9a81d07be346a9f0c2487d1e5b3690fa7c2de81b4563";

/// The tests do not depend on the free space of the machine.
const DOCTOR: [&str; 3] = ["doctor", "--ignore", "disk"];

/// Runs `doctor --json` and returns the area, the problem and the remedy of each finding.
fn findings(dir: &Path, arguments: &[&str]) -> Vec<[String; 3]> {
    let output = keyguard(
        dir,
        &[&["doctor", "--json", "--ignore", "disk"], arguments].concat(),
    )
    .env("KEYGUARD_SECRET", RANDOM)
    .output()
    .unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    let reply: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = reply["findings"].as_array().unwrap();
    let code = i32::from(!findings.is_empty());
    assert_eq!(output.status.code(), Some(code), "{reply}");
    let text = |finding: &Value, field: &str| finding[field].as_str().unwrap().to_owned();
    let fields = |finding| ["area", "problem", "next"].map(|field| text(finding, field));
    findings.iter().map(fields).collect()
}

/// The only finding, which is in this area.
#[track_caller]
fn only(dir: &Path, arguments: &[&str], area: &str) -> (String, String) {
    let found = findings(dir, arguments);
    let [[found_in, problem, next]] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!(found_in, area, "{problem}");
    (problem.clone(), next.clone())
}

/// The configuration of a process in a test directory.
fn config() -> Config {
    Config::new(RANDOM)
}

fn open(dir: &Path, config: Config) -> KeyGuard {
    KeyGuard::open(dir.join("keyguard.redb"), config).unwrap()
}

#[test]
fn nothing_is_found_in_a_new_installation_at_rest_and_live() {
    let dir = TempDir::new().unwrap();
    done(dir.path(), &["init"]);
    done(dir.path(), &["create-org", "acme"]);
    done(dir.path(), &["create-key", "--org", "acme", "--label", "x"]);
    assert_eq!(done(dir.path(), &DOCTOR), "Nothing found.\n");
    assert_eq!(
        done(dir.path(), &[&DOCTOR[..], &["--json"]].concat()),
        "{\"findings\":[]}\n"
    );
    let kg = open(dir.path(), Config::default());
    assert_eq!(done(dir.path(), &DOCTOR), "Nothing found.\n");
    drop(kg);
}

/// Also damage that no other examination meets, and none twice.
#[test]
fn damage_is_found_at_rest_and_live() {
    for table in ["org skeletons", "keys"] {
        let dir = TempDir::new().unwrap();
        key(&open(dir.path(), config()));
        verify::damage(&dir, table);
        let is_found = || {
            let (problem, next) = only(dir.path(), &[], "damage");
            let start = format!("the table `{table}` of the data file is damaged (block ");
            assert!(problem.starts_with(&start), "{problem}");
            assert!(next.starts_with("keyguard verify  "), "{next}");
        };
        is_found();
        let kg = open(dir.path(), config());
        is_found();
        drop(kg);
    }
}

/// Regression: the next step was `verify`, after which the same was found again.
#[test]
fn totals_that_were_set_aside_are_given_up_by_the_next_step() {
    let dir = TempDir::new().unwrap();
    let request = |kg: KeyGuard| {
        let key = key(&kg);
        let headers = [("X-API-Key", key.raw_key.expose())];
        kg.check(&headers, IP, "/").unwrap().finish(200);
        kg.close().unwrap();
    };
    request(open(dir.path(), config()));
    verify::damage(&dir, "minutes");
    request(open(dir.path(), config()));
    let is_found = || {
        let (problem, next) = only(dir.path(), &[], "damage");
        let start = "the table `damaged 1 minutes` of the data file is damaged (block ";
        assert!(problem.starts_with(start), "{problem}");
        assert!(next.starts_with("keyguard compact  "), "{next}");
    };
    is_found();
    let kg = open(dir.path(), config());
    is_found();
    drop(kg);
    let output = run(dir.path(), &["compact"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(findings(dir.path(), &[]), Vec::<[String; 3]>::new());
}

/// The length is that of a file with free space at its end, which no page is read of.
#[test]
fn long_file_is_said_not_to_be_searched_for_damage() {
    let dir = TempDir::new().unwrap();
    key(&open(dir.path(), config()));
    let file = fs::File::options()
        .write(true)
        .open(dir.path().join("keyguard.redb"));
    file.unwrap().set_len((64 << 20) + 1).unwrap();
    let output = keyguard(dir.path(), &DOCTOR)
        .env("KEYGUARD_SECRET", RANDOM)
        .output()
        .unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    let notice = "Not searched for damage, because the data file is long: keyguard verify\n";
    assert!(shown.ends_with(notice), "{shown}");
}

#[cfg(feature = "redis")]
#[test]
fn a_redis_server_that_refuses_writes_is_found_with_what_to_look_at() {
    let dir = TempDir::new().unwrap();
    let redis = Redis::start();
    let kg = open(dir.path(), config().redis_url(redis.url()));
    let is_up = || kg.backends()[0].is_up;
    assert!(is_up() && kg.readiness().is_ready());
    for (refuse, code, accept) in [
        ("REPLICAOF 127.0.0.1 1", "READONLY", "REPLICAOF NO ONE"),
        ("CONFIG SET maxmemory 1", "OOM", "CONFIG SET maxmemory 0"),
    ] {
        let _: () = redis.run(refuse);
        // A server that replies slowly is down for that reason.
        wait_until(|| {
            let problem = kg.backends()[0].problem.clone();
            problem.is_some_and(|problem| problem.contains(code))
        });
        assert!(!kg.readiness().is_ready());
        let (problem, next) = only(dir.path(), &[], "redis");
        assert!(problem.contains(code), "{problem}");
        let command = "redis-cli -u \"$KEYGUARD_REDIS\" INFO  ";
        assert!(next.starts_with(command), "{next}");
        let _: () = redis.run(accept);
        wait_until(|| is_up() && kg.readiness().is_ready());
    }
}

#[test]
fn files_that_others_can_access_are_found_and_the_commands_mend_them() {
    let dir = TempDir::new().unwrap();
    done(dir.path(), &["init"]);
    let kg = open(dir.path(), Config::default());
    let set = |file: &str, mode| {
        let path = dir.path().join(file);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    set("keyguard.redb", 0o644);
    set("keyguard.redb.secret", 0o640);
    set("", 0o777);
    let output = run(dir.path(), &DOCTOR);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "files: the data file `keyguard.redb` is not private: other users may read or change it (mode 644)\n",
        "files: the secret in `keyguard.redb.secret` is not private: ",
        "files: every user can replace the data file, because its directory `.` has the mode 777\n",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let commands = text
        .lines()
        .filter_map(|line| line.strip_prefix("  next:  "));
    for command in commands.filter(|command| command.starts_with("chmod")) {
        let status = Command::new("sh")
            .args(["-c", command])
            .current_dir(dir.path())
            .status();
        assert!(status.unwrap().success(), "{command}");
    }
    assert_eq!(done(dir.path(), &DOCTOR), "Nothing found.\n");
    set("", 0o770);
    let output = run(dir.path(), &DOCTOR);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        text,
        "files: every user of its group can replace the data file, because its directory `.` has the mode 770\n  \
         next:  chmod go-w .\n"
    );
    // As that of /tmp: only the owner of a file can replace it.
    set("", 0o1777);
    assert_eq!(done(dir.path(), &DOCTOR), "Nothing found.\n");
    drop(kg);

    // The process that has made a file private still warns of it.
    set("keyguard.redb", 0o644);
    let kg = open(dir.path(), Config::default());
    let warnings = kg.admin().stats().unwrap().warnings;
    assert!(warnings[0].contains("other users"), "{warnings:?}");
    assert_eq!(done(dir.path(), &DOCTOR), "Nothing found.\n");
    drop(kg);
}

#[test]
fn secret_that_may_be_known_is_found() {
    let dir = TempDir::new().unwrap();
    write_private(&dir.path().join("s"), "hunter2");
    let args = ["--secret-file", "s"];
    done(dir.path(), &[&args[..], &["init"]].concat());
    let weak = run(dir.path(), &[&args[..], &DOCTOR].concat());
    let text = String::from_utf8(weak.stdout).unwrap();
    assert!(
        text.starts_with("secret: the secret is short or regular"),
        "{text}"
    );
    assert!(!text.contains("hunter2"), "{text}");

    let dir = TempDir::new().unwrap();
    let kg = open(dir.path(), config().admin_key(RANDOM));
    let (problem, next) = only(dir.path(), &[], "secret");
    assert!(
        problem.contains("the admin key is the secret itself"),
        "{problem}"
    );
    assert!(next.starts_with("keyguard admin-key"), "{next}");
    drop(kg);
    let given = [&["--secret", RANDOM], &DOCTOR[..]].concat();
    let given = String::from_utf8(run(dir.path(), &given).stdout).unwrap();
    assert!(
        given.starts_with("secret_argument: the secret is an argument") && !given.contains(RANDOM),
        "{given}"
    );
}

#[test]
fn keys_that_are_unused_or_expire_soon_are_found() {
    let home = Home::new();
    let kg = home.open_with(config().clock(home.clock.clone()));
    let used = key(&kg);
    key_with(&kg, |key| key.expires_at(NOON.plus(100 * DAY)));
    let revoked = key_with(&kg, |key| key.expires_at(NOON.plus(100 * DAY)));
    kg.admin().revoke_key(revoked.key.id).unwrap();
    home.clock.advance(89 * DAY);
    let text = used.raw_key.expose();
    kg.check(&[("X-API-Key", text)], IP, "/")
        .unwrap()
        .finish(200);
    let (problem, next) = only(home.dir(), &[], "expiring_keys");
    assert!(
        problem.starts_with("key 2 `shop` expires at 2026-"),
        "{problem}"
    );
    assert_eq!(next, "keyguard update-key 2 --expires-at TIME");
    assert_eq!(
        findings(home.dir(), &["--expires-within", "11 days"]).len(),
        1
    );
    assert_eq!(
        findings(home.dir(), &["--expires-within", "10 days"]).len(),
        0
    );

    home.clock.advance(2 * DAY);
    let ignore = ["--ignore", "expiring_keys,proxy"];
    let (problem, next) = only(home.dir(), &ignore, "unused_keys");
    assert!(
        problem
            .starts_with("key 2 `shop` was never used since it was created at 2026-01-15T12:00:00"),
        "{problem}"
    );
    assert_eq!(next, "keyguard revoke-key 2    # unless it is still needed");
    let unused = findings(
        home.dir(),
        &["--unused-for", "1 day", "--ignore", "expiring_keys"],
    );
    assert!(
        unused[0][1].starts_with("key 1 `shop` was last used at "),
        "{unused:?}"
    );
    let all = ["--ignore", "unused_keys,expiring_keys"];
    assert_eq!(findings(home.dir(), &all), Vec::<[String; 3]>::new());
    let wrong = run(home.dir(), &["doctor", "--ignore", "weather"]);
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn many_keys_are_summed_up() {
    let home = Home::new();
    let kg = home.open_with(config().clock(home.clock.clone()));
    kg.admin().create_org("acme").unwrap();
    let keys = vec![CreateKey::new("acme", "x"); 2_500];
    kg.admin().create_keys(&keys).unwrap();
    home.clock.advance(91 * DAY);
    let found = findings(home.dir(), &[]);
    assert_eq!(found.len(), 21);
    assert_eq!(
        found[20],
        [
            "unused_keys",
            "2480 further keys were not used for as long",
            "keyguard list-keys"
        ]
    );
}

#[test]
fn rules_without_effect_and_invalid_policies_are_found() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("p.toml");
    fs::write(&file, "protect = [\"/a/b\", \"/a\"]").unwrap();
    drop(open(dir.path(), config()));
    let (problem, next) = only(dir.path(), &["--policy", "p.toml"], "policy");
    assert_eq!(
        problem,
        "protect: `/a/b` changes nothing, because `/a` covers it; remove it"
    );
    assert_eq!(
        next,
        "keyguard policy check p.toml    # then keyguard reload"
    );

    let kg = open(dir.path(), config().policy_file(&file));
    assert_eq!(
        only(dir.path(), &[], "policy").0,
        problem,
        "the one in force"
    );
    fs::write(&file, "protect = [\"/a\"]").unwrap();
    kg.admin().reload().unwrap();
    assert_eq!(findings(dir.path(), &[]), Vec::<[String; 3]>::new());
    // A reload or restart would fail.
    fs::write(&file, "protec = 1").unwrap();
    let (problem, _) = only(dir.path(), &[], "policy");
    assert!(
        problem.contains("would be refused") && problem.contains("line 1"),
        "{problem}"
    );
}

#[test]
fn untrusted_proxy_is_found_with_the_line_for_the_policy() {
    let dir = TempDir::new().unwrap();
    let kg = open(dir.path(), config());
    let headers = [
        ("X-API-Key", "kg_live_guessed"),
        ("X-Forwarded-For", "192.0.2.7"),
    ];
    let proxy = std::net::Ipv4Addr::new(10, 0, 0, 1);
    kg.check(&headers, proxy, "/").unwrap_err();
    let (problem, next) = only(dir.path(), &[], "proxy");
    assert!(
        problem.contains("trusted_proxies = [\"10.0.0.1/32\"]"),
        "{problem}"
    );
    assert!(next.starts_with("keyguard policy example"), "{next}");
}

#[test]
fn step_of_the_clock_is_found() {
    let home = Home::new();
    let kg = home.open_with(config().clock(home.clock.clone()));
    // Each stores usage, and compares the clocks if a minute has passed.
    let compare = || {
        home.clock.advance(2 * MINUTE);
        kg.admin().stats().unwrap()
    };
    compare();
    compare();
    assert_eq!(findings(home.dir(), &[]), Vec::<[String; 3]>::new());
    home.clock.set(NOON.plus(3 * HOUR));
    compare();
    let (problem, next) = only(home.dir(), &[], "clock");
    assert!(
        problem.contains("was set, or the machine slept"),
        "{problem}"
    );
    assert!(next.starts_with("timedatectl"), "{next}");
}

#[test]
fn change_in_the_future_is_found_at_rest() {
    let dir = TempDir::new().unwrap();
    let ahead: Timestamp = "2100-01-01T00:00:00Z".parse().unwrap();
    let clock = ManualClock::starting_at(ahead);
    let kg = open(dir.path(), config().clock(clock));
    kg.admin().create_org("acme").unwrap();
    kg.close().unwrap();
    let (problem, _) = only(dir.path(), &[], "clock");
    assert!(
        problem.contains("the last change was made at 2100-01-01"),
        "{problem}"
    );
}

#[test]
fn requests_that_were_not_recorded_are_found() {
    let dir = TempDir::new().unwrap();
    let kg = open(dir.path(), config().usage_queue_capacity(1_024));
    let key = key_with(&kg, |key| key.rate_limit_per_minute(u32::MAX));
    let headers = [("X-API-Key", key.raw_key.expose())];
    // More than fit into the chunk of a thread.
    for _ in 0..100_000 {
        kg.check(&headers, IP, "/").unwrap().finish(200);
    }
    assert!(kg.admin().stats().unwrap().dropped > 0);
    let (problem, next) = only(dir.path(), &[], "usage");
    assert!(problem.contains("usage_queue_capacity"), "{problem}");
    assert_eq!(next, "keyguard stats --watch");
}

#[test]
fn damage_is_found_with_its_cause_while_a_process_holds_the_file() {
    const BLOCK: usize = 4_096;

    let dir = TempDir::new().unwrap();
    let kg = open(dir.path(), config());
    for _ in 0..5 {
        key(&kg);
    }
    drop(kg);
    // Opened again, so that the pages are not in memory.
    let kg = open(dir.path(), config());
    let path = dir.path().join("keyguard.redb");
    let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let length = fs::metadata(&path).unwrap().len();
    for block in (4 * BLOCK as u64..length).step_by(BLOCK) {
        file.seek(SeekFrom::Start(block + 100)).unwrap();
        file.write_all(&[0xff; 40]).unwrap();
    }
    // The second time, earlier errors are known.
    for _ in 0..2 {
        let found = findings(dir.path(), &[]);
        assert!(!found.is_empty());
        for [area, problem, next] in found {
            assert_eq!((&*area, &*next), ("damage", "keyguard verify"), "{problem}");
            assert!(problem.contains(" was altered"), "{problem}");
        }
    }
    drop(kg);
}

#[test]
fn data_that_cannot_be_examined_is_a_finding() {
    let dir = TempDir::new().unwrap();
    let (problem, next) = only(dir.path(), &[], "data");
    assert_eq!(problem, "there is no data file at `keyguard.redb`");
    assert!(next.starts_with("keyguard init --org NAME  "), "{next}");
    drop(open(dir.path(), Config::new(SECRET)));
    let (problem, _) = only(dir.path(), &[], "data");
    assert!(problem.contains("another secret"), "{problem}");
    assert!(!problem.contains(SECRET) && !problem.contains(RANDOM));
}

/// The warning of the process about the same damage is not repeated.
#[test]
fn damaged_blocks_of_requests_are_found() {
    let dir = TempDir::new().unwrap();
    verify::damage_block_of_requests(&dir, open(dir.path(), config()));
    let kg = open(dir.path(), config());
    kg.admin().list_usage(ListUsage::new()).unwrap();
    let (problem, next) = only(dir.path(), &[], "damage");
    let start = "the table `usage blocks` of the data file is damaged (block ";
    assert!(problem.starts_with(start), "{problem}");
    assert!(next.starts_with("keyguard verify  "), "{next}");
    drop(kg);
}

/// The path of the policy leads elsewhere from the directory of the command, which is deeper.
#[test]
fn policy_of_a_process_in_another_directory_is_found() {
    let dir = TempDir::new().unwrap();
    let policy = dir.path().join("p.toml");
    fs::write(&policy, "protect = [\"/a\"]").unwrap();
    let depth = std::env::current_dir().unwrap().components().count() - 1;
    let below_root = policy.strip_prefix("/").unwrap().to_str().unwrap();
    let relative = "../".repeat(depth) + below_root;
    let deep = dir.path().join("d/".repeat(depth));
    fs::create_dir_all(&deep).unwrap();
    let kg = open(&deep, config().policy_file(relative));
    assert_eq!(findings(&deep, &[]), Vec::<[String; 3]>::new());
    drop(kg);
}

/// Regression: `--ignore` turned data that could not be examined into "Nothing found.".
#[test]
fn what_cannot_be_examined_is_a_finding_in_spite_of_ignored_areas() {
    let dir = TempDir::new().unwrap();
    let (problem, _) = only(dir.path(), &["--ignore", "data"], "data");
    assert!(problem.starts_with("there is no data file"), "{problem}");

    done(dir.path(), &["init"]);
    let secret = dir.path().join("keyguard.redb.secret");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    let file = ["--secret-file", "keyguard.redb.secret"];
    let (_, next) = only(dir.path(), &file, "files");
    assert_eq!(next, "chmod 600 keyguard.redb.secret");
    let ignored = [&file[..], &["--ignore", "files"]].concat();
    let (_, next) = only(dir.path(), &ignored, "secret");
    assert_eq!(next, "chmod 600 keyguard.redb.secret");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();

    let absent = [&file[..], &["--legacy-secret-file", "absent"]].concat();
    let (_, next) = only(dir.path(), &absent, "legacy_secret");
    assert_eq!(next, "keyguard --legacy-secret-file FILE …");
}

/// Regression: the secret was quoted where a file was expected.
#[test]
fn a_secret_in_the_wrong_place_is_shortened() {
    let dir = TempDir::new().unwrap();
    let secret = RANDOM.repeat(2)[..64].to_owned();
    for arguments in [
        &["--secret-file", &secret, "stats"][..],
        &["--db", &secret, "stats"],
        &[&secret],
    ] {
        let output = run(dir.path(), arguments);
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(
            !said.contains(&secret) && said.contains(&secret[..12]),
            "{said}"
        );
    }
}
