//! Creating and rotating keys for scripts, and what listings say about rotated keys.

use std::fs::{self, File};

use crate::common::program::{done, keyguard, refused, run};
use crate::common::{HOUR, Home, IP, MINUTE, NOON, check_with, key, wait_until};
use keyguard::{Config, KeyGuard, Reason, RotateKey, Timestamp};
use serde_json::Value;
use tempfile::TempDir;

#[test]
fn quiet_commands_print_the_key_alone() {
    let dir = TempDir::new().unwrap();
    done(dir.path(), &["init"]);
    done(dir.path(), &["create-org", "acme"]);
    let create = ["create-key", "--org", "acme", "--label", "ci"];
    let mut texts = Vec::new();
    for quiet in ["-q", "--quiet"] {
        texts.push(done(dir.path(), &[&create[..], &[quiet]].concat()));
        texts.push(done(
            dir.path(),
            &["rotate-key", "1", "--grace", "1h", quiet],
        ));
    }
    let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::default()).unwrap();
    for text in texts {
        let text = text.strip_suffix('\n').unwrap();
        kg.check(&[("X-API-Key", text)], IP, "/")
            .unwrap()
            .finish(200);
    }
    let both = run(dir.path(), &[&create[..], &["-q", "--json"]].concat());
    assert_eq!(both.status.code(), Some(2));
}

/// A key that nobody has seen must not be active, however it was to be printed.
#[cfg(target_os = "linux")]
#[test]
fn quietly_unprinted_key_is_revoked() {
    let dir = TempDir::new().unwrap();
    done(dir.path(), &["init"]);
    done(dir.path(), &["create-org", "acme"]);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command = keyguard(
        dir.path(),
        &["create-key", "--org", "acme", "--label", "x", "-q"],
    );
    assert_eq!(command.stdout(full).status().unwrap().code(), Some(1));
    assert!(done(dir.path(), &["list-keys"]).contains("\trevoked\t"));
}

/// Errors of invalid arguments quote them.
#[test]
fn keys_among_invalid_arguments_are_shortened() {
    let dir = TempDir::new().unwrap();
    done(dir.path(), &["init"]);
    let key = done(dir.path(), &["init", "--org", "acme", "-q"]);
    let key = key.trim_end();
    // Mistyped, and as the Python package made them.
    let mistyped = format!("{}x", &key[..key.len() - 1]);
    let option = format!("--{key}");
    let value = format!("--rate-limit={key}");
    let places: [&[&str]; 6] = [
        &["revoke-key", "1", key],
        &["revoke-key", "1", &mistyped],
        &["revoke-key", "1", &key[..51]],
        &["list-keys", &option],
        &["init", "--org", "acme", &value],
        &[key],
    ];
    for arguments in places {
        let output = run(dir.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!error.contains(&key[12..20]), "{error}");
        assert!(
            error.contains("Usage: ") || error.contains("--help"),
            "{error}"
        );
    }
    let error = run(dir.path(), &["revoke-key", "1", key]).stderr;
    let error = String::from_utf8(error).unwrap();
    assert!(error.contains(&format!("'{}…'", &key[..12])), "{error}");
}

/// Also in the next command.
#[test]
fn errors_shorten_keys_that_they_quote() {
    let dir = TempDir::new().unwrap();
    let key = done(dir.path(), &["init", "--org", "acme", "-q"]);
    let key = key.trim_end();
    fs::write(dir.path().join(key), "").unwrap();
    let within = format!("x/{key}");
    let places: [&[&str]; 8] = [
        &["create-key", "--org", key, "--label", "x"],
        &["--db", key, "stats"],
        &["--db", &key[1..], "stats"],
        &["verify", key],
        &["--db", &within, "init"],
        &["backup", &within],
        &["export-usage", "--format", "csv", "--to", key],
        &["doctor", "--policy", &key[1..]],
    ];
    for arguments in places {
        for json in [&[][..], &["--json"]] {
            let output = run(dir.path(), &[arguments, json].concat());
            assert_eq!(output.status.code(), Some(1), "{arguments:?}");
            let shown = [output.stdout, output.stderr].concat();
            let shown = String::from_utf8(shown).unwrap();
            assert!(shown.contains("next"), "{shown}");
            assert!(shown.contains('…'), "{shown}");
            assert!(!shown.contains(&key[13..20]), "{shown}");
        }
    }
}

/// The data file and the audit log must not hold keys.
#[test]
fn names_must_not_contain_keys() {
    let dir = TempDir::new().unwrap();
    let key = done(dir.path(), &["init", "--org", "acme", "-q"]);
    let key = key.trim_end();
    for name in [
        format!("old_{key}"),
        format!("x{key}"),
        format!("{key}y"),
        format!("my-{key}-old"),
    ] {
        for arguments in [
            &["create-key", "--org", "acme", "--label", &name][..],
            &["create-org", &name],
        ] {
            let error = refused(dir.path(), arguments);
            assert!(error.contains("contains the text of a key"), "{error}");
        }
    }
}

#[test]
fn rotation_and_listings_say_until_when_the_old_text_is_accepted() {
    let dir = TempDir::new().unwrap();
    done(dir.path(), &["init"]);
    done(dir.path(), &["create-org", "acme"]);
    for label in ["till", "shop"] {
        done(
            dir.path(),
            &["create-key", "--org", "acme", "--label", label],
        );
    }
    let column = |id: usize| {
        let listed = done(dir.path(), &["list-keys"]);
        let line = listed.lines().nth(id).unwrap();
        line.split('\t').next_back().unwrap().to_owned()
    };
    let rotated = done(dir.path(), &["rotate-key", "1", "--grace", "1 day"]);
    let (_, until) = rotated.split_once("old text: accepted until ").unwrap();
    let until = until.lines().next().unwrap();
    // The rotation begins after the text is printed, perhaps in the next second.
    let printed: Timestamp = until.parse().unwrap();
    let listed: Timestamp = column(1).parse().unwrap();
    assert!(
        listed.since(printed) <= MINUTE && printed <= listed,
        "{printed} {listed}"
    );
    assert_eq!(column(2), "-");
    let json: Value = serde_json::from_str(&done(dir.path(), &["list-keys", "--json"])).unwrap();
    assert!(json[0]["old_text_until"].is_string() && json[1]["old_text_until"].is_null());
    // Other changes show it, too.
    let updated = done(dir.path(), &["update-key", "1", "--label", "x"]);
    assert!(updated.contains("old text: accepted until "), "{updated}");

    done(dir.path(), &["rotate-key", "1", "--grace", "0"]);
    assert_eq!(column(1), "-", "the earlier text has ended, too");
    assert!(!done(dir.path(), &["rotate-key", "2", "--grace", "0"]).contains("old text"));
}

#[test]
fn old_text_ends_when_listings_say_so() {
    let home = Home::new();
    let kg = home.open();
    let old = key(&kg);
    let id = old.key.id;
    assert_eq!(kg.admin().get_key(id).unwrap().old_text_until, None);
    let rotation = RotateKey::new(id)
        .grace(2 * HOUR)
        .expires_at(NOON.plus(HOUR));
    let rotated = kg.admin().rotate_key(rotation).unwrap();
    let until = rotated.key.old_text_until.unwrap();
    assert_eq!(Some(until), rotated.key.expires_at, "no later than the key");
    let listed = || kg.admin().get_key(id).unwrap().old_text_until;
    assert_eq!(listed(), Some(until));
    home.clock
        .advance(HOUR - std::time::Duration::from_millis(1));
    check_with(&kg, old.raw_key.expose()).unwrap().finish(200);
    assert_eq!(listed(), Some(until));
    home.clock.advance(std::time::Duration::from_millis(1));
    let refusal = check_with(&kg, old.raw_key.expose()).unwrap_err();
    assert_eq!((refusal.reason(), listed()), (Reason::ExpiredKey, None));
}

/// A signal once ended commands whose keys were stored and not printed.
#[cfg(target_os = "linux")]
#[test]
fn signals_wait_until_the_key_is_printed() {
    use std::io::{Read, Write};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::os::unix::process::ExitStatusExt;

    use rustix::process::{Pid, Signal, kill_process};

    let commands: [&[&str]; 3] = [
        &["init", "--org", "acme", "-q"],
        &["create-key", "--org", "acme", "--label", "x", "-q"],
        &["rotate-key", "1", "-q"],
    ];
    for (command, signal) in commands
        .iter()
        .flat_map(|command| [Signal::INT, Signal::TERM].map(|signal| (command, signal)))
    {
        let dir = TempDir::new().unwrap();
        done(dir.path(), &["init", "--org", "acme"]);
        // Printing waits for the reader.
        let (mut reader, mut full) = UnixStream::pair().unwrap();
        full.set_nonblocking(true).unwrap();
        while full.write(b" ").is_ok() {}
        full.set_nonblocking(false).unwrap();
        let mut child = keyguard(dir.path(), command)
            .stdout(OwnedFd::from(full))
            .spawn()
            .unwrap();
        wait_until(|| catches(child.id(), signal));
        kill_process(Pid::from_child(&child), signal).unwrap();
        let mut printed = String::new();
        reader.read_to_string(&mut printed).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(signal.as_raw()));
        let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::default()).unwrap();
        kg.check(&[("X-API-Key", printed.trim())], IP, "/")
            .unwrap()
            .finish(200);
    }
}

/// Whether a process has a handler for a signal.
#[cfg(target_os = "linux")]
fn catches(pid: u32, signal: rustix::process::Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = u64::from_str_radix(caught.unwrap().trim(), 16).unwrap();
    caught >> (signal.as_raw() - 1) & 1 == 1
}
