//! `keyguard verify`: on a closed file, and through the process that holds it.

use std::fs;

use crate::common::program::{done, refused, run};
use crate::common::{IP, key, key_with};
use keyguard::{Config, KeyGuard};
use serde_json::Value;
use tempfile::TempDir;

/// A directory with a data file of one key.
fn home() -> TempDir {
    let dir = TempDir::new().unwrap();
    key(&KeyGuard::open(dir.path().join("keyguard.redb"), Config::default()).unwrap());
    dir
}

/// Alters the page of the data file that contains only rows of a table.
pub(crate) fn damage(dir: &TempDir, table: &str) {
    let file = dir.path().join("keyguard.redb");
    let sound = fs::read(&file).unwrap();
    for page in 0..sound.len() / 4_096 {
        let mut bytes = sound.clone();
        bytes[page * 4_096 + 1_000] ^= 1;
        fs::write(&file, bytes).unwrap();
        let found = KeyGuard::verify(&file).map_or(Vec::new(), |found| found.damage);
        if matches!(found.as_slice(), [damage] if damage.table == table) {
            return;
        }
    }
    panic!("no page contains {table}");
}

/// Records 12,000 requests with 200, and alters a page that contains only some of them.
pub(crate) fn damage_block_of_requests(dir: &TempDir, kg: KeyGuard) {
    let file = dir.path().join("keyguard.redb");
    let key = key_with(&kg, |key| key.rate_limit_per_minute(u32::MAX));
    let headers = [("X-API-Key", key.raw_key.expose())];
    for _ in 0..12 {
        for _ in 0..1_000 {
            kg.check(&headers, IP, "/").unwrap().finish(200);
        }
        kg.admin().stats().unwrap();
    }
    kg.close().unwrap();
    let sound = fs::read(&file).unwrap();
    let is_damaged = |page: &usize| {
        let mut bytes = sound.clone();
        bytes[page * 4_096 + 1_000] ^= 1;
        fs::write(&file, bytes).unwrap();
        let found = KeyGuard::verify(&file).map_or(Vec::new(), |found| found.damage);
        matches!(found.as_slice(), [damage] if damage.lost.starts_with("requests from"))
    };
    let page = (0..sound.len() / 4_096).find(is_damaged);
    assert!(page.is_some(), "no page of a block");
}

/// Regression: counts and exports lacked these requests without a word.
#[test]
fn reports_warn_of_requests_in_damaged_blocks() {
    let dir = TempDir::new().unwrap();
    let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::default()).unwrap();
    damage_block_of_requests(&dir, kg);
    let by_status = ["usage", "--by", "status", "--ip", "127.0.0.1"];
    let warning =
        "damaged blocks of requests that are missing here: 1; `keyguard verify` shows what is lost";
    let commands = [
        by_status.to_vec(),
        [&by_status[..], &["--csv"]].concat(),
        [&by_status[..], &["--json"]].concat(),
        vec!["export-usage", "--to", "all.csv"],
        vec!["export-usage", "--to", "all.ndjson"],
        vec!["export-usage", "--to", "-"],
    ];
    for command in commands {
        let output = run(dir.path(), &command);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{command:?}: {error}");
        assert_eq!(error.matches(warning).count(), 1, "{command:?}: {error}");
        if command.contains(&"--json") {
            let reply: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(reply["omitted_blocks"], 1);
            assert!(reply["requests"].as_u64() < Some(12_000), "{reply}");
        }
    }
    // Totals have them.
    let output = done(dir.path(), &["usage", "--json"]);
    let reply: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(reply["requests"], 12_000);
    assert_eq!(reply["omitted_blocks"], 0);
}

#[test]
fn file_with_altered_first_bytes_is_damaged() {
    let dir = home();
    let file = dir.path().join("keyguard.redb");
    let mut bytes = fs::read(&file).unwrap();
    bytes[..4_096].fill(0);
    fs::write(&file, bytes).unwrap();
    for command in ["verify", "list-keys", "stats"] {
        let error = refused(dir.path(), &[command]);
        assert!(error.contains("is damaged and was not changed"), "{error}");
        assert!(error.contains("its first bytes were altered"), "{error}");
        assert!(error.contains("restore"), "{error}");
    }
}

#[test]
fn sound_file_is_verified_without_its_secret() {
    let dir = home();
    fs::remove_file(dir.path().join("keyguard.redb.secret")).unwrap();
    let shown = done(dir.path(), &["verify"]);
    assert!(shown.contains("\nstate: sound\n"), "{shown}");
    let shown = done(dir.path(), &["verify", "keyguard.redb", "--json"]);
    let reply: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(reply["damage"], Value::Array(Vec::new()));
    assert!(reply["rows"].as_u64() > Some(5), "{reply}");
}

#[test]
fn damage_is_named_and_exits_with_1() {
    let dir = home();
    damage(&dir, "keys");
    let output = run(dir.path(), &["verify"]);
    assert_eq!(output.status.code(), Some(1));
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("\nkeys\t1\tkeys 1\tblock "), "{shown}");
    let output = run(dir.path(), &["verify", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let reply: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(reply["damage"][0]["lost"], "keys 1");
    let error = refused(dir.path(), &["list-keys"]);
    assert!(error.contains("next:  keyguard verify"), "{error}");
}

#[test]
fn refused_file_is_an_error_with_the_next_step() {
    let dir = home();
    fs::write(dir.path().join("other"), "something else").unwrap();
    let error = refused(dir.path(), &["verify", "other"]);
    assert!(error.contains("is not a data file of keyguard"), "{error}");
    let error = refused(dir.path(), &["verify", "absent.redb"]);
    assert!(
        error.contains("next:  keyguard --db absent.redb init"),
        "{error}"
    );
    let url = "postgres://user:hunter2@host/database";
    let error = refused(dir.path(), &["verify", url]);
    assert!(!error.contains("hunter2"), "{error}");
}

#[cfg(unix)]
#[test]
fn file_is_verified_through_the_process_that_holds_it() {
    let dir = home();
    let file = dir.path().join("keyguard.redb");
    let kg = KeyGuard::open(&file, Config::default()).unwrap();
    let found = kg.admin().verify().unwrap();
    let shown = done(dir.path(), &["verify", "--json"]);
    let reply: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(reply, serde_json::to_value(&found).unwrap());
    assert!(found.is_sound());
}

/// What else is known of the keys is shown.
#[test]
fn listings_do_without_a_damaged_table_of_old_texts() {
    let dir = home();
    let before = done(dir.path(), &["list-keys", "--json"]);
    damage(&dir, "key credentials");
    assert_eq!(done(dir.path(), &["list-keys", "--json"]), before);
}
