//! Backups of a running server: scheduled ones, and one while requests change the data.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::common::program::{done, keyguard, refused};
use crate::common::server::{Server, check};
use crate::common::wait_until;
use crate::server::{data_file, terminate};
use keyguard::{Config, CreateKey, KeyGuard};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The number of files beside the backups of a data file: the one that its server locks.
const LOCK_FILE: usize = 1;

fn serve(dir: &Path, more: &[&str]) -> Server {
    let mut command = keyguard(dir, &["serve", "--listen", "127.0.0.1:0"]);
    command.args(more);
    Server::spawn(command)
}

fn names(dir: &Path) -> BTreeSet<String> {
    let files = fs::read_dir(dir).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".redb")).collect()
}

/// Returns the ids of data files in names such as `keyguard-1f3a9c02-20261127T030000Z.redb`.
fn ids(names: &BTreeSet<String>) -> BTreeSet<String> {
    let id = |name: &String| {
        let parts: Vec<_> = name.split('-').collect();
        let [stem, id, time] = parts[..] else {
            panic!("{name}");
        };
        assert!(
            stem == "keyguard" && id.len() == 8 && time.starts_with("20"),
            "{name}"
        );
        id.to_owned()
    };
    names.iter().map(id).collect()
}

/// Opens a backup beside a copy of the secret.
fn stats(dir: &Path, backup: &Path) -> keyguard::Stats {
    let secret = fs::read(dir.join("keyguard.redb.secret")).unwrap();
    let secret = Config::new(secret.trim_ascii().to_vec());
    let kg = KeyGuard::open(backup, secret.socket(false)).unwrap();
    kg.admin().stats().unwrap()
}

#[test]
fn scheduled_backups_are_complete_and_the_oldest_are_deleted() {
    let dir = TempDir::new().unwrap();
    let (dir, backups) = (dir.path(), TempDir::new().unwrap());
    let key = data_file(dir, 60);
    let schedule = ["--backup-dir", backups.path().to_str().unwrap()];
    let schedule = [&schedule[..], &["--backup-every", "1s", "--keep", "2"]].concat();
    let mut server = serve(dir, &schedule);
    let mut seen = BTreeSet::new();
    wait_until(|| {
        let body = json!({"key": key, "ip": "192.0.2.7", "method": "GET", "path": "/"});
        check(&server, &body);
        seen.append(&mut names(backups.path()));
        seen.len() >= 4
    });
    terminate(&mut server);
    let left = names(backups.path());
    assert!(left.len() <= 3, "{left:?}");
    assert_eq!(ids(&left).len(), 1, "{left:?}");
    let all = fs::read_dir(&backups).unwrap().count();
    assert_eq!(all, left.len() + LOCK_FILE, "a temporary file is left");
    let mut last = 0;
    for name in &left {
        let found = stats(dir, &backups.path().join(name));
        assert_eq!(found.active_keys, 1);
        assert!(found.requests >= last);
        last = found.requests;
    }
    assert!(last > 0);
}

/// Their names once had only the name of the data file.
#[test]
fn data_files_of_one_name_may_share_a_directory() {
    let (dirs, backups) = (
        [TempDir::new().unwrap(), TempDir::new().unwrap()],
        TempDir::new().unwrap(),
    );
    let mut servers = dirs.each_ref().map(|dir| {
        data_file(dir.path(), 60);
        let schedule = ["--backup-dir", backups.path().to_str().unwrap()];
        let schedule = [&schedule[..], &["--backup-every", "1s", "--keep", "1"]].concat();
        serve(dir.path(), &schedule)
    });
    let mut seen = BTreeSet::new();
    wait_until(|| {
        seen.append(&mut names(backups.path()));
        let written = |id: &String| {
            seen.iter()
                .filter(|name| name.contains(id.as_str()))
                .count()
        };
        let ids = ids(&seen);
        ids.len() == 2 && ids.iter().all(|id| written(id) >= 3)
    });
    servers.iter_mut().for_each(terminate);
    let left = names(backups.path());
    assert_eq!(ids(&left), ids(&seen), "{left:?}");
}

/// Regression: they deleted the backups of each other.
#[test]
fn servers_of_two_copies_cannot_share_a_directory() {
    let (dirs, backups) = (
        [TempDir::new().unwrap(), TempDir::new().unwrap()],
        TempDir::new().unwrap(),
    );
    let [first, second] = dirs.each_ref().map(TempDir::path);
    data_file(first, 60);
    for name in ["keyguard.redb", "keyguard.redb.secret"] {
        fs::copy(first.join(name), second.join(name)).unwrap();
    }
    let schedule = ["--backup-dir", backups.path().to_str().unwrap()];
    let mut server = serve(first, &schedule);
    let error = refused(second, &[&["serve"], &schedule[..]].concat());
    assert!(error.contains("another server writes backups"), "{error}");
    assert!(error.contains("name another directory"), "{error}");
    terminate(&mut server);
    terminate(&mut serve(second, &schedule));
}

/// Stops the server when the temporary file appears, so that the signal comes before the end of the backup.
#[test]
fn a_stop_does_not_wait_for_a_backup() {
    let dir = TempDir::new().unwrap();
    data_file(dir.path(), 60);
    let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::default()).unwrap();
    let keys: Vec<_> = (0..6_000)
        .map(|n| CreateKey::new("acme", format!("key {n}")))
        .collect();
    kg.admin().create_keys(&keys).unwrap();
    kg.close().unwrap();
    let backups = TempDir::new().unwrap();
    let mut server = serve(
        dir.path(),
        &["--backup-dir", backups.path().to_str().unwrap()],
    );
    let files = || fs::read_dir(&backups).unwrap().count();
    while files() <= LOCK_FILE {
        std::thread::yield_now();
    }
    let pid = Pid::from_child(&server.child);
    for signal in [Signal::STOP, Signal::TERM, Signal::CONT] {
        kill_process(pid, signal).unwrap();
    }
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    assert_eq!(
        files(),
        LOCK_FILE,
        "a backup was completed, or a temporary file is left"
    );
}

#[test]
fn directory_that_cannot_be_written_is_reported() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    data_file(dir, 60);
    let error = refused(dir, &["serve", "--backup-dir", "absent"]);
    assert!(
        error.contains("--backup-dir: `absent` cannot be used"),
        "{error}"
    );

    let output = keyguard(dir, &["serve", "--keep", "2"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));

    let backups = dir.join("backups");
    fs::create_dir(&backups).unwrap();
    let schedule = ["--backup-dir", "backups", "--backup-every", "1s"];
    let mut server = serve(dir, &schedule);
    wait_until(|| !names(&backups).is_empty());
    let away = dir.join("away");
    fs::rename(&backups, &away).unwrap();
    let warnings = || {
        let shown: Value = serde_json::from_str(&done(dir, &["stats", "--json"])).unwrap();
        shown["warnings"].to_string()
    };
    wait_until(|| warnings().contains("could not be backed up"));
    let examined = keyguard(dir, &["doctor", "--ignore", "secret,files,disk", "--json"]).output();
    let found: Value = serde_json::from_slice(&examined.unwrap().stdout).unwrap();
    let finding = &found["findings"][0];
    assert_eq!(finding["area"], "backup", "{found}");
    let problem = finding["problem"].as_str().unwrap();
    assert!(problem.contains("could not be backed up"), "{problem}");
    let next = finding["next"].as_str().unwrap();
    assert!(next.contains("--backup-dir"), "{next}");
    fs::rename(&away, &backups).unwrap();
    wait_until(|| !warnings().contains("could not be backed up"));
    terminate(&mut server);
}
