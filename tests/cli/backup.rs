//! `keyguard backup`, `restore` and `compact`: on a closed file, and through the process that holds it.

use std::fs;
use std::path::Path;

use crate::common::program::{done, error_of, keyguard, prepared, refused, run};
use crate::common::{key, wait_until};
use keyguard::{Config, CreateKey, KeyGuard, Page};
use serde_json::Value;
use tempfile::TempDir;

fn open(dir: &Path) -> KeyGuard {
    KeyGuard::open(dir.join("keyguard.redb"), Config::default()).unwrap()
}

/// A directory with a data file of one key.
fn home() -> TempDir {
    let dir = TempDir::new().unwrap();
    key(&open(dir.path()));
    dir
}

fn restored(dir: &TempDir, backup: &str) -> TempDir {
    let other = TempDir::new().unwrap();
    let secret = "keyguard.redb.secret";
    fs::copy(dir.path().join(secret), other.path().join(secret)).unwrap();
    let backup = dir.path().join(backup);
    done(other.path(), &["restore", backup.to_str().unwrap()]);
    other
}

/// The files in a directory but the data file, its secret and its socket.
fn others(dir: &TempDir) -> Vec<String> {
    let files = fs::read_dir(dir).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut others: Vec<_> = names
        .filter(|name| !name.starts_with("keyguard.redb"))
        .collect();
    others.sort();
    others
}

#[test]
fn closed_file_is_backed_up_and_restored_without_its_secret() {
    let dir = home();
    let shown = done(dir.path(), &["backup", "monday.redb"]);
    assert!(shown.contains("\nsecret: not included"), "{shown}");
    let restore = "\nrestore: keyguard --db NEW.redb restore monday.redb\n";
    assert!(shown.contains(restore), "{shown}");
    done(dir.path(), &["revoke-key", "1"]);

    let other = restored(&dir, "monday.redb");
    let keys = done(other.path(), &["list-keys", "--json"]);
    let keys: Value = serde_json::from_str(&keys).unwrap();
    assert_eq!(keys[0]["status"], "active");

    fs::remove_file(other.path().join("keyguard.redb")).unwrap();
    fs::remove_file(other.path().join("keyguard.redb.secret")).unwrap();
    let backup = dir.path().join("monday.redb");
    let shown = done(other.path(), &["restore", backup.to_str().unwrap()]);
    let secret = "\nsecret: put that of the backup in keyguard.redb.secret\n";
    assert!(shown.contains(secret), "{shown}");
    // Beside the secret of another file.
    fs::remove_file(other.path().join("keyguard.redb")).unwrap();
    done(other.path(), &["init"]);
    fs::remove_file(other.path().join("keyguard.redb")).unwrap();
    let beside_another = run(other.path(), &["restore", backup.to_str().unwrap()]);
    assert_eq!(beside_another.status.code(), Some(0));
    let warning = String::from_utf8(beside_another.stderr).unwrap();
    assert_eq!(
        warning,
        "warning: the secret is not that of the backup, so that the file cannot be used: put that of the \
         backup in keyguard.redb.secret\n"
    );
    let stats = run(other.path(), &["stats", "--json"]);
    let error: Value = serde_json::from_slice(&stats.stderr).unwrap();
    assert_eq!(error["error"]["code"], "wrong_secret");
    let restored_with = |secret: &str| {
        fs::remove_file(other.path().join("keyguard.redb")).unwrap();
        let file = ["--json", "restore", backup.to_str().unwrap()];
        let output = run(
            other.path(),
            &[&["--secret-file", secret], &file[..]].concat(),
        );
        assert_eq!(output.status.code(), Some(0));
        let reply: Value = serde_json::from_slice(&output.stdout).unwrap();
        reply["secret"].clone()
    };
    assert_eq!(restored_with("keyguard.redb.secret"), "wrong");
    let right = dir.path().join("keyguard.redb.secret");
    assert_eq!(restored_with(right.to_str().unwrap()), "right");
    assert_eq!(restored_with("absent"), "unusable");
    fs::remove_file(other.path().join("keyguard.redb")).unwrap();
    fs::remove_file(other.path().join("keyguard.redb.secret")).unwrap();
    let reply = done(
        other.path(),
        &["--json", "restore", backup.to_str().unwrap()],
    );
    let reply: Value = serde_json::from_str(&reply).unwrap();
    assert_eq!(reply["secret"], "missing");

    let reply = done(dir.path(), &["backup", "tuesday.redb", "--json"]);
    let reply: Value = serde_json::from_str(&reply).unwrap();
    assert_eq!(reply["file"], "tuesday.redb");
    assert_eq!(reply["lost_blocks"], 0);
    let length = fs::metadata(dir.path().join("tuesday.redb")).unwrap().len();
    assert_eq!(reply["bytes"], length);
}

#[test]
fn existing_files_are_not_overwritten() {
    let dir = home();
    done(dir.path(), &["backup", "monday.redb"]);
    let before = fs::read(dir.path().join("monday.redb")).unwrap();
    let error = refused(dir.path(), &["backup", "monday.redb"]);
    assert!(error.contains("a file is there already"), "{error}");
    let error = refused(dir.path(), &["backup", "keyguard.redb"]);
    assert!(error.contains("a file is there already"), "{error}");
    assert!(fs::read(dir.path().join("monday.redb")).unwrap() == before);
    let data = fs::read(dir.path().join("keyguard.redb")).unwrap();
    let error = refused(dir.path(), &["restore", "monday.redb"]);
    assert!(error.contains("a file is there already"), "{error}");
    assert!(fs::read(dir.path().join("keyguard.redb")).unwrap() == data);
    assert_eq!(others(&dir), ["monday.redb"]);
}

#[test]
fn damaged_backup_is_refused() {
    let dir = home();
    done(dir.path(), &["backup", "monday.redb"]);
    let backup = dir.path().join("monday.redb");
    let sound = fs::read(&backup).unwrap();
    let mut refusals = 0;
    for page in 0..sound.len() / 4_096 {
        let mut bytes = sound.clone();
        bytes[page * 4_096 + 100] ^= 1;
        fs::write(&backup, bytes).unwrap();
        let new = dir.path().join("new.redb");
        let output = run(dir.path(), &["--db", "new.redb", "restore", "monday.redb"]);
        if output.status.success() {
            // A page without content.
            fs::remove_file(&new).unwrap();
            continue;
        }
        refusals += 1;
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("monday.redb` is damaged"), "{error}");
        assert_eq!(others(&dir), ["monday.redb"], "page {page}");
    }
    assert!(refusals > 10, "{refusals}");
}

#[test]
fn problems_are_named_without_passwords() {
    let dir = home();
    let error = refused(dir.path(), &["backup", "absent/monday.redb"]);
    assert!(error.contains("monday.redb` was not written"), "{error}");
    let error = refused(
        dir.path(),
        &["--db", "new.redb", "restore", "old/absent.redb"],
    );
    let no_file = "there is no data file at `old/absent.redb`\nnext:  ls -l old\n";
    assert!(error.contains(no_file), "{error}");
    let error = refused(
        dir.path(),
        &["--db", "new.redb", "restore", "keyguard.redb/a"],
    );
    let next = "\nnext:  ls -ld keyguard.redb keyguard.redb/a\n";
    assert!(error.contains(next), "{error}");
    fs::write(dir.path().join("notes"), "something else").unwrap();
    let error = refused(dir.path(), &["--db", "new.redb", "restore", "notes"]);
    assert!(error.contains("`notes` is not a data file"), "{error}");
    let url = "postgres://user:hunter2@host/database";
    for arguments in [
        ["backup", url, "--json"].as_slice(),
        &["--db", url, "backup", "monday.redb"],
        &["--db", url, "restore", "monday.redb"],
        &["--db", url, "compact"],
        &["--db", "new.redb", "restore", url],
    ] {
        let error = refused(dir.path(), arguments);
        assert!(
            error.contains("`postgres:` is a database; use the tools"),
            "{error}"
        );
        assert!(error.contains("pg_dump"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn full_disk_leaves_no_copy() {
    let dir = home();
    let data = fs::read(dir.path().join("keyguard.redb")).unwrap();
    for arguments in [["backup", "monday.redb"].as_slice(), &["compact"]] {
        let command = keyguard(dir.path(), arguments);
        // In units of 512 bytes: 64 KiB. Without the trap the signal for it would end the program.
        let mut limited = prepared("trap '' XFSZ; ulimit -S -f 128", &command);
        let error = error_of(&mut limited);
        assert!(error.contains("File too large"), "{error}");
        assert_eq!(others(&dir), Vec::<String>::new());
    }
    assert!(fs::read(dir.path().join("keyguard.redb")).unwrap() == data);
}

#[cfg(unix)]
#[test]
fn open_file_is_backed_up_by_its_process_while_it_is_changed() {
    use std::sync::atomic::{AtomicBool, Ordering};

    let dir = home();
    let kg = open(dir.path());
    let is_done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for n in 0.. {
                let created = kg
                    .admin()
                    .create_key(CreateKey::new("acme", format!("key {n}")));
                created.unwrap();
                if is_done.load(Ordering::SeqCst) {
                    break;
                }
            }
        });
        wait_until(|| kg.admin().list_keys(None, Page::first()).unwrap().len() > 3);
        done(dir.path(), &["backup", "monday.redb"]);
        is_done.store(true, Ordering::SeqCst);
    });
    let error = refused(dir.path(), &["backup", "monday.redb"]);
    assert!(error.contains("a file is there already"), "{error}");
    assert!(
        error.contains("next:  keyguard backup OTHER.redb"),
        "{error}"
    );
    let error = refused(dir.path(), &["backup", "absent/monday.redb"]);
    let next = "\nnext:  df -h . DIR    # the directory of the copy\n";
    assert!(error.contains(next), "{error}");
    let error = refused(dir.path(), &["compact"]);
    assert!(error.contains("already open by process"), "{error}");

    let other = restored(&dir, "monday.redb");
    let found = open(other.path())
        .admin()
        .list_keys(None, Page::first())
        .unwrap();
    let all = kg.admin().list_keys(None, Page::first()).unwrap();
    assert!(found.len() > 3 && found.len() < all.len());
    assert_eq!(found, all[..found.len()]);
}

#[test]
fn compacted_file_keeps_everything_and_its_mode() {
    let dir = home();
    let before = done(dir.path(), &["list-keys", "--json"]);
    let shown = done(dir.path(), &["compact"]);
    assert!(shown.contains("\nbefore: "), "{shown}");
    assert_eq!(done(dir.path(), &["list-keys", "--json"]), before);
    assert_eq!(others(&dir), Vec::<String>::new());
    assert!(done(dir.path(), &["verify"]).contains("\nstate: sound\n"));
}

/// Temporary files of running processes are locked.
#[cfg(unix)]
#[test]
fn temporary_files_of_killed_processes_are_removed() {
    for arguments in [["backup", "monday.redb"].as_slice(), &["compact"]] {
        let dir = home();
        fs::write(dir.path().join(".keyguard-1.new"), "partly").unwrap();
        let held = fs::File::create(dir.path().join(".keyguard-2.new")).unwrap();
        held.lock().unwrap();
        done(dir.path(), arguments);
        let written = arguments.get(1).map(ToString::to_string);
        let expected: Vec<_> = [".keyguard-2.new".to_owned()]
            .into_iter()
            .chain(written)
            .collect();
        assert_eq!(others(&dir), expected);
    }
}

/// Stops the command when its temporary file appears, so that the signal comes before the end.
#[cfg(unix)]
#[test]
fn interrupted_copies_leave_nothing() {
    use rustix::process::{Pid, Signal, kill_process};

    let dir = home();
    let kg = open(dir.path());
    let keys: Vec<_> = (0..4_000)
        .map(|n| CreateKey::new("acme", format!("key {n}")))
        .collect();
    kg.admin().create_keys(&keys).unwrap();
    kg.close().unwrap();
    let data = fs::read(dir.path().join("keyguard.redb")).unwrap();
    done(dir.path(), &["backup", "original.redb"]);
    for arguments in [
        ["backup", "monday.redb"].as_slice(),
        &["compact"],
        &["--db", "new.redb", "restore", "original.redb"],
    ] {
        for signal in [Signal::INT, Signal::TERM] {
            let mut command = keyguard(dir.path(), arguments);
            let mut child = command
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let pid = Pid::from_child(&child);
            while others(&dir) == ["original.redb"] {
                assert!(child.try_wait().unwrap().is_none(), "it ended early");
            }
            for signal in [Signal::STOP, signal, Signal::CONT] {
                kill_process(pid, signal).unwrap();
            }
            let output = child.wait_with_output().unwrap();
            let error = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
            assert!(error.contains("it was cancelled"), "{error}");
            assert_eq!(others(&dir), ["original.redb"]);
        }
    }
    assert!(fs::read(dir.path().join("keyguard.redb")).unwrap() == data);
}

/// The secret may come from a pipe that nobody writes.
#[cfg(unix)]
#[test]
fn a_signal_after_the_copy_ends_the_command() {
    use std::os::unix::fs::OpenOptionsExt;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use rustix::fs::OFlags;
    use rustix::process::{Pid, Signal, kill_process};

    let dir = home();
    done(dir.path(), &["backup", "monday.redb"]);
    let pipe = dir.path().join("pipe");
    let made = Command::new("mkfifo")
        .args(["-m", "600"])
        .arg(&pipe)
        .status();
    assert!(made.unwrap().success());
    for signal in [Signal::INT, Signal::TERM] {
        let db = format!("after-{}.redb", signal.as_raw());
        let arguments = [
            "--db",
            &db,
            "--secret-file",
            "pipe",
            "restore",
            "monday.redb",
        ];
        let mut child = keyguard(dir.path(), &arguments).spawn().unwrap();
        // Can be opened once the command reads from it, which it does after the copy.
        let mut writer = None;
        wait_until(|| {
            let mut options = fs::OpenOptions::new();
            let opened = options
                .write(true)
                .custom_flags(OFlags::NONBLOCK.bits() as i32)
                .open(&pipe);
            writer = opened.ok();
            writer.is_some()
        });
        assert!(dir.path().join(&db).exists());
        kill_process(Pid::from_child(&child), signal).unwrap();
        // The end of the pipe would end the command, too.
        drop(writer);
        assert_eq!(child.wait().unwrap().signal(), Some(signal.as_raw()));
    }
}

/// Otherwise the service that uses the directory could not open it.
#[cfg(unix)]
#[test]
fn file_that_root_restores_belongs_to_the_owner_of_its_directory() {
    use std::os::unix::fs::{MetadataExt, chown};

    const NOBODY: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = home();
    let shown = done(dir.path(), &["backup", "monday.redb"]);
    assert!(!shown.contains("\nowner:"), "{shown}");
    let backup = dir.path().join("monday.redb");
    let other = TempDir::new().unwrap();
    chown(other.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let shown = done(other.path(), &["restore", backup.to_str().unwrap()]);
    let owner = "\nowner: user 65534, to whom the directory belongs\n";
    assert!(shown.contains(owner), "{shown}");
    let restored = fs::metadata(other.path().join("keyguard.redb")).unwrap();
    assert_eq!(
        (restored.uid(), restored.gid(), restored.mode() & 0o777),
        (NOBODY, NOBODY, 0o600)
    );
    assert_eq!(fs::metadata(&backup).unwrap().uid(), 0);
}
