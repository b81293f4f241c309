//! `init --org`: a data file, an organization and a key in one step.

use std::path::Path;

use crate::common::IP;
use crate::common::program::{done, keyguard, refused, run};
use keyguard::{Config, KeyGuard, Page};
use keyguard_test_support::names_in;
use serde_json::Value;
use tempfile::TempDir;

#[test]
fn one_command_makes_the_file_the_organization_and_a_key() {
    let dir = TempDir::new().unwrap();
    let printed = init(dir.path(), &["--org", "acme", "--rate-limit", "5"]);
    for (field, expected) in [
        ("db", Value::from("keyguard.redb")),
        ("created", true.into()),
        ("org_created", true.into()),
        ("org_name", "acme".into()),
        ("label", "first key".into()),
        ("rate_limit_per_minute", 5.into()),
    ] {
        assert_eq!(printed[field], expected, "{field}");
    }
    assert!(dir.path().join("keyguard.redb.secret").exists());
    let kg = open(dir.path());
    let raw_key = printed["raw_key"].as_str().unwrap();
    let grant = kg.check(&[("X-API-Key", raw_key)], IP, "/").unwrap();
    assert_eq!(grant.org().unwrap().name, "acme");
    drop(grant);
    assert_eq!(changes(&kg), ["create_key", "create_org"]);
}

/// A program that has opened the file first holds it.
#[cfg(unix)]
#[test]
fn a_held_file_gets_the_organization_and_a_key() {
    let dir = TempDir::new().unwrap();
    let kg = open(dir.path());
    let printed = init(dir.path(), &["--org", "acme"]);
    assert_eq!(printed["created"], false);
    assert_eq!(printed["org_created"], true);
    let raw_key = printed["raw_key"].as_str().unwrap();
    kg.check(&[("X-API-Key", raw_key)], IP, "/")
        .unwrap()
        .finish(200);
    assert_eq!(changes(&kg), ["create_key", "create_org"]);
}

#[test]
fn what_exists_is_kept_and_named() {
    let dir = TempDir::new().unwrap();
    let made = |org_name: &str| {
        let printed = init(dir.path(), &["--org", org_name]);
        [printed["created"].clone(), printed["org_created"].clone()]
    };
    assert_eq!(made("acme"), [true, true]);
    assert_eq!(made("globex"), [false, true]);
    assert_eq!(made("acme"), [false, false]);
    let again = done(dir.path(), &["init", "--org", "acme"]);
    assert!(again.contains("\nfile: keyguard.redb\nsecret: keyguard.redb.secret\n"));

    let lookalike = refused(dir.path(), &["init", "--org", "аcme"]);
    assert!(
        lookalike.contains("looks like that of the existing organization `acme`"),
        "{lookalike}"
    );
    assert!(
        lookalike.contains("next:  keyguard list-orgs"),
        "{lookalike}"
    );
    let kg = open(dir.path());
    let made = changes(&kg).into_iter().filter(|made| made == "create_key");
    assert_eq!(made.count(), 4);
}

#[test]
fn quiet_init_prints_the_key_alone() {
    let dir = TempDir::new().unwrap();
    let printed = done(dir.path(), &["init", "--org", "acme", "-q"]);
    let raw_key = printed.strip_suffix('\n').unwrap();
    let kg = open(dir.path());
    assert!(kg.check(&[("X-API-Key", raw_key)], IP, "/").is_ok());
}

/// A key that nobody has seen must not be active.
#[cfg(target_os = "linux")]
#[test]
fn unprinted_key_of_init_is_revoked() {
    let dir = TempDir::new().unwrap();
    let full = std::fs::File::options().write(true).open("/dev/full");
    let mut command = keyguard(dir.path(), &["init", "--org", "acme"]);
    let status = command.stdout(full.unwrap()).status().unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(done(dir.path(), &["list-keys"]).contains("\trevoked\t"));
}

#[test]
fn options_of_a_key_need_an_organization() {
    let dir = TempDir::new().unwrap();
    for options in [&["--label", "x"][..], &["-q"], &["--rate-limit", "5"]] {
        let output = run(dir.path(), &[&["init"], options].concat());
        assert_eq!(output.status.code(), Some(2), "{options:?}");
        assert!(!dir.path().join("keyguard.redb").exists(), "{options:?}");
    }
}

#[test]
fn missing_file_and_organization_are_followed_by_the_command_that_makes_both() {
    let dir = TempDir::new().unwrap();
    let create = ["create-key", "--org", "acme", "--label", "x"];
    let no_file = refused(dir.path(), &create);
    assert!(
        no_file.contains("next:  keyguard init --org NAME  "),
        "{no_file}"
    );
    done(dir.path(), &["init"]);
    let no_org = refused(dir.path(), &create);
    assert!(
        no_org.contains("next:  keyguard create-org acme\n"),
        "{no_org}"
    );
}

/// What `init` with these options prints as JSON.
fn init(dir: &Path, options: &[&str]) -> Value {
    let printed = done(dir, &[&["--json", "init"], options].concat());
    serde_json::from_str(&printed).unwrap()
}

fn open(dir: &Path) -> KeyGuard {
    KeyGuard::open(dir.join("keyguard.redb"), Config::default()).unwrap()
}

/// The changes in the audit log, the latest first.
fn changes(kg: &KeyGuard) -> Vec<String> {
    let audit = kg.admin().list_audit(Page::first()).unwrap();
    audit.into_iter().map(|change| change.action).collect()
}

#[test]
fn refused_requests_create_nothing() {
    let dir = TempDir::new().unwrap();
    let refuse_all = || {
        for invalid in [
            ["--rate-limit", "0"],
            ["--limit", "often"],
            ["--prefix", "a b"],
            ["--scopes", "a b"],
            ["--allow-ip", "here"],
            ["--label", ""],
            ["--expires-at", "2020-01-01T00:00:00Z"],
        ] {
            let arguments = [&["init", "--org", "acme"][..], &invalid].concat();
            let error = refused(dir.path(), &arguments);
            assert!(error.contains(invalid[0]), "{error}");
        }
        refused(dir.path(), &["init", "--org", "a\u{7}b"]);
    };
    refuse_all();
    assert_eq!(names_in(dir.path()), [""; 0]);
    done(dir.path(), &["init"]);
    refuse_all();
    assert!(!done(dir.path(), &["list-orgs", "--json"]).contains("acme"));
}

/// Those of the secret and of exports.
#[cfg(unix)]
#[test]
fn temporary_files_of_killed_commands_are_removed() {
    let dir = TempDir::new().unwrap();
    let abandoned = dir.path().join(".keyguard-0123456789abcdef.new");
    for arguments in [&["init"][..], &["export-usage", "--to", "all.csv"]] {
        std::fs::write(&abandoned, "").unwrap();
        done(dir.path(), arguments);
        assert!(!abandoned.exists(), "{arguments:?}");
    }
}
