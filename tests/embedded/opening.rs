//! `KeyGuard::open`: accepted and refused files, errors, and that refused files are not modified.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::common::{Home, SECRET, check, child, key};
use keyguard::{Config, KeyGuard, OpenError};

/// Expects an error that contains all of `words` but not the secret, and leaves the file and its
/// directory unchanged.
fn refused(file: &Path, config: Config, words: &[&str]) -> OpenError {
    let before = (fs::read(file).ok(), names_beside(file));
    let refused = KeyGuard::open(file, config).expect_err("opened");
    let after = (fs::read(file).ok(), names_beside(file));
    assert!(before == after, "the file or its directory was changed");

    let text = refused.to_string();
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
    assert!(!format!("{text}{refused:?}").contains(SECRET));
    refused
}

fn names_beside(file: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(file.parent().unwrap()).into_iter().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
}

fn name(file: &Path) -> &str {
    file.to_str().unwrap()
}

fn secret_file(file: &Path) -> PathBuf {
    file.with_file_name("keyguard.redb.secret")
}

/// A closed data file.
fn closed() -> Home {
    let home = Home::new();
    drop(home.open());
    home
}

/// The module of these tests, for children.
const MODULE: &str = module_path!();

/// Runs a test in a child without a secret in its environment. Returns the path of the file in the
/// child, and `None` in the parent.
fn in_child(test: &str, home: impl FnOnce() -> Home) -> Option<PathBuf> {
    let file = child::argument().map(PathBuf::from);
    if file.is_none() {
        let home = home();
        child::run(&mut child::command(MODULE, test, home.file()));
    }
    file
}

#[test]
fn new_file_opens_again_with_its_secret() {
    let home = Home::new();
    let kg = home.open();
    let created = key(&kg);
    kg.close().unwrap();
    assert!(check(&home.open(), &created).is_ok());
}

#[test]
fn another_secret_is_refused() {
    let home = closed();
    let refused = refused(
        &home.file(),
        Config::new("another secret"),
        &[
            name(&home.file()),
            "created with another secret",
            "give that secret",
        ],
    );
    assert!(matches!(refused, OpenError::WrongSecret { path, .. } if path == home.file()));
}

#[test]
fn empty_file_is_refused() {
    let home = Home::new();
    fs::write(home.file(), "").unwrap();
    let refused = refused(
        &home.file(),
        home.config(),
        &[
            name(&home.file()),
            "is empty",
            "not a data file",
            "restore it from a backup, or remove it",
        ],
    );
    assert!(matches!(refused, OpenError::Empty { path, .. } if path == home.file()));
}

#[test]
fn foreign_file_is_refused() {
    let long = "text\n".repeat(10_000);
    for content in ["x", "PRIMARY KEY (id)\n", "keyguard", &long] {
        let home = Home::new();
        fs::write(home.file(), content).unwrap();
        let refused = refused(
            &home.file(),
            home.config(),
            &[
                name(&home.file()),
                "not a data file of keyguard",
                "give another path",
            ],
        );
        assert!(matches!(refused, OpenError::NotADataFile { path, .. } if path == home.file()));
    }
}

#[test]
fn foreign_database_is_refused() {
    let home = Home::new();
    let db = redb::Database::create(home.file()).unwrap();
    let write = db.begin_write().unwrap();
    let table: redb::TableDefinition<'_, u64, u64> = redb::TableDefinition::new("keyguard");
    write.open_table(table).unwrap().insert(1, 2).unwrap();
    write.commit().unwrap();
    drop(db);
    let refused = refused(
        &home.file(),
        home.config(),
        &["not a data file of keyguard"],
    );
    assert!(matches!(refused, OpenError::NotADataFile { .. }));
}

/// A closed data file with another format number.
fn of_format(format: u32) -> Home {
    let home = closed();
    let mut bytes = fs::read(home.file()).unwrap();
    // The fixed layout of all versions: 12 magic bytes, the format, and the CRC-32 of eight zeros and
    // both.
    bytes[12..16].copy_from_slice(&format.to_le_bytes());
    let checksum = crc32fast::hash(&[&[0; 8], &bytes[..16]].concat());
    bytes[16..20].copy_from_slice(&checksum.to_le_bytes());
    fs::write(home.file(), bytes).unwrap();
    home
}

#[test]
fn file_of_an_older_format_is_refused() {
    let home = of_format(1);
    let refused = refused(
        &home.file(),
        Config::new("another secret"),
        &[
            name(&home.file()),
            "has format 1",
            "reads format 7",
            "use the version that wrote it",
        ],
    );
    assert!(matches!(refused, OpenError::OlderFormat { found: 1, .. }));
}

#[test]
fn file_of_a_newer_format_is_refused() {
    let home = of_format(8);
    // The format is checked first; other formats may store the secret's fingerprint differently.
    let refused = refused(
        &home.file(),
        Config::new("another secret"),
        &[
            name(&home.file()),
            "has format 8",
            "reads format 7",
            "use the version that wrote it",
        ],
    );
    assert!(matches!(
        refused,
        OpenError::NewerFormat {
            found: 8,
            supported: 7,
            ..
        }
    ));
}

#[test]
fn damaged_file_is_refused() {
    let home = closed();
    let sound = fs::read(home.file()).unwrap();
    let words = [
        name(&home.file()).to_owned(),
        "is damaged".into(),
        "restore it from a backup".into(),
    ];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let is_refused = |bytes: &[u8]| {
        fs::write(home.file(), bytes).unwrap();
        let refused = refused(&home.file(), home.config(), &words);
        assert!(matches!(refused, OpenError::Damaged { .. }), "{refused:?}");
    };
    for len in [
        10,
        4_096,
        5 * 4_096,
        sound.len() / 2,
        sound.len() - 4_096,
        sound.len() - 1,
    ] {
        is_refused(&sound[..len]);
    }
    // The format, both copies of a header or of the other, the checksums and a block from which they could be
    // computed again, and all blocks.
    let pages = |pages: std::ops::Range<usize>| pages.start * 4_096..pages.end * 4_096;
    let rest = 7 * 4_096..sound.len();
    for part in [12..13, pages(1..3), pages(3..5), pages(5..8), rest] {
        let mut bytes = sound.clone();
        bytes[part].fill(0xa5);
        is_refused(&bytes);
    }
    is_refused(&[sound, vec![0; 100]].concat());
}

#[test]
fn directory_is_refused() {
    let home = Home::new();
    let dir = home.dir().join("data");
    fs::create_dir(&dir).unwrap();
    let words = [
        name(&dir),
        "is a directory or a device",
        "give the path of a data file, or a new path",
    ];
    let refused = refused(&dir, home.config(), &words);
    assert!(matches!(refused, OpenError::NotAFile { path, .. } if path == dir));
}

#[test]
fn missing_directory_is_refused_and_not_created() {
    let home = Home::new();
    let file = home.dir().join("none").join("keyguard.redb");
    let words = [
        name(&file),
        "cannot be opened or created",
        "check that its directory exists",
    ];
    let missing = refused(&file, home.config(), &words);
    assert!(matches!(missing, OpenError::Io { .. }));
    assert!(!home.dir().join("none").exists());

    drop(home.open());
    let file = home.file().join("below");
    let missing = refused(&file, home.config(), &["cannot be opened or created"]);
    assert!(matches!(missing, OpenError::Io { .. }));
}

#[test]
fn second_open_of_a_file_is_refused() {
    let home = Home::new();
    let kg = home.open();
    let created = key(&kg);
    let words = [
        name(&home.file()).to_owned(),
        "is already open".into(),
        "clone the open".into(),
    ];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let held = refused(&home.file(), home.config(), &words);
    assert!(matches!(held, OpenError::InUse { .. }));

    let clone = kg.clone();
    drop(kg);
    let held = refused(&home.file(), home.config(), &words);
    assert!(
        matches!(held, OpenError::InUse { .. }),
        "a clone holds it too"
    );
    assert!(check(&clone, &created).is_ok());
    drop(clone);
    home.open();
}

#[test]
fn file_open_in_another_process_is_refused_until_it_exits() {
    if let Some(file) = child::argument() {
        let _kg = KeyGuard::open(file, Config::new(SECRET)).unwrap();
        println!("\nholding");
        // Waits until the parent closes the pipe or ends.
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        return;
    }
    let home = closed();
    let test = "file_open_in_another_process_is_refused_until_it_exits";
    let mut command = child::command(MODULE, test, home.file());
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut subject = command.spawn().unwrap();
    let lines = BufReader::new(subject.stdout.take().unwrap()).lines();
    let mut lines = lines.map(Result::unwrap);
    assert!(lines.any(|line| line == "holding"));

    let held = refused(
        &home.file(),
        home.config(),
        &["is already open by", "process", "stop that process"],
    );
    assert!(matches!(held, OpenError::InUse { path, .. } if path == home.file()));

    drop(subject.stdin.take());
    assert_eq!(lines.filter(|line| line.contains("1 passed")).count(), 1);
    assert!(subject.wait().unwrap().success());
    home.open();
}

#[test]
fn invalid_url_is_refused() {
    let home = Home::new();
    let config = home.config().redis_url("localhost:6379");
    let invalid = refused(&home.file(), config, &["redis_url", "redis://"]);
    assert!(matches!(invalid, OpenError::Config(_)));
}

#[test]
fn invalid_settings_are_refused_by_name() {
    let home = Home::new();
    let config = || home.config();
    let settings = [
        (
            "default_rate_limit_per_minute",
            config().default_rate_limit_per_minute(0),
        ),
        ("lockout_threshold", config().lockout_threshold(0)),
        ("key_header", config().key_header("")),
        ("key_header", config().key_header("X API Key")),
        ("key_header", config().key_header("Authorization")),
        (
            "usage_retention",
            config().usage_retention(Duration::from_secs(59)),
        ),
        ("usage_sink_only", config().usage_sink_only(true)),
        ("usage_queue_capacity", config().usage_queue_capacity(1_023)),
        ("key_cache_capacity", config().key_cache_capacity(15)),
        ("key_prefix", config().key_prefix("acme")),
        ("time_zone", config().time_zone("Europe/Atlantis")),
        ("quota_time_zone", config().quota_time_zone("Mars")),
        (
            "max_tracked_keys",
            config().key_cache_capacity(100).max_tracked_keys(99),
        ),
    ];
    for (setting, config) in settings {
        let refused = refused(&home.file(), config, &["invalid configuration: ", setting]);
        assert!(matches!(refused, OpenError::Config(_)));
    }
}

#[test]
fn blank_secret_is_refused() {
    let home = Home::new();
    for blank in ["", " \t\n"] {
        let words = [
            "the secret in the configuration is blank",
            "at least 32 random bytes",
        ];
        let refused = refused(&home.file(), Config::new(blank), &words);
        assert!(matches!(refused, OpenError::BlankSecret { .. }));
    }
}

#[test]
fn blank_secret_file_is_refused() {
    let Some(file) = in_child("blank_secret_file_is_refused", closed) else {
        return;
    };
    crate::common::write_private(&secret_file(&file), " \n");
    let words = [name(&secret_file(&file)).to_owned(), "is blank".to_owned()];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let blank = refused(&file, Config::default(), &words);
    assert!(matches!(blank, OpenError::BlankSecret { .. }));
}

#[test]
fn blank_variable_is_refused() {
    let Some(file) = child::argument().map(PathBuf::from) else {
        let home = closed();
        let mut command = child::command(MODULE, "blank_variable_is_refused", home.file());
        return child::run(command.env("KEYGUARD_SECRET", ""));
    };
    let words = ["the secret in the variable KEYGUARD_SECRET is blank"];
    let blank = refused(&file, Config::default(), &words);
    assert!(matches!(blank, OpenError::BlankSecret { .. }));
}

#[test]
fn file_without_its_secret_is_refused() {
    let Some(file) = in_child("file_without_its_secret_is_refused", closed) else {
        return;
    };
    let secret_file = secret_file(&file);
    let words = [
        name(&file),
        "exists, but its secret was given neither",
        "KEYGUARD_SECRET",
        name(&secret_file),
        "give the secret it was created with",
    ];
    let missing = refused(&file, Config::default(), &words);
    assert!(matches!(missing, OpenError::MissingSecret { .. }));

    // A foreign file is reported before a missing secret.
    fs::write(&file, "something else").unwrap();
    let foreign = refused(&file, Config::default(), &["not a data file of keyguard"]);
    assert!(matches!(foreign, OpenError::NotADataFile { .. }));
}

#[test]
fn invalid_secret_file_is_refused() {
    let test = "invalid_secret_file_is_refused";
    let Some(file) = in_child(test, closed) else {
        return;
    };
    let secret_file = secret_file(&file);
    fs::create_dir(&secret_file).unwrap();
    let words = [
        name(&secret_file),
        "cannot be read or created",
        "check the file and its directory",
    ];
    let unreadable = refused(&file, Config::default(), &words);
    assert!(matches!(unreadable, OpenError::SecretFile { path, .. } if path == secret_file));
}

#[test]
fn first_open_creates_a_secret_for_the_next() {
    let test = "first_open_creates_a_secret_for_the_next";
    let Some(file) = in_child(test, Home::new) else {
        return;
    };
    let created = {
        let kg = KeyGuard::open(&file, Config::default()).unwrap();
        key(&kg)
    };
    let secret = fs::read_to_string(secret_file(&file)).unwrap();
    assert_eq!(secret.trim_end().len(), 64);
    assert_eq!(names_beside(&file), [file.clone(), secret_file(&file)]);

    let kg = KeyGuard::open(&file, Config::default()).unwrap();
    assert!(check(&kg, &created).is_ok());
    drop(kg);
    // The file accepts only that secret.
    KeyGuard::open(&file, Config::new(secret.trim_end())).unwrap();
    let words = ["created with another secret"];
    refused(&file, Config::new(SECRET), &words);

    // A secret without a data file is used for a new file, and is not changed.
    fs::remove_file(&file).unwrap();
    drop(KeyGuard::open(&file, Config::default()).unwrap());
    assert_eq!(fs::read_to_string(secret_file(&file)).unwrap(), secret);
}

#[test]
fn secret_precedence_is_configuration_variable_file() {
    let test = "secret_precedence_is_configuration_variable_file";
    let Some(file) = child::argument().map(PathBuf::from) else {
        let home = closed();
        fs::write(secret_file(&home.file()), "not this one").unwrap();
        return child::run(
            child::command(MODULE, test, home.file()).env("KEYGUARD_SECRET", SECRET),
        );
    };
    drop(KeyGuard::open(&file, Config::default()).unwrap());
    let wrong = refused(&file, Config::new("not this one"), &["another secret"]);
    assert!(matches!(wrong, OpenError::WrongSecret { .. }));
    fs::remove_file(secret_file(&file)).unwrap();
    drop(KeyGuard::open(&file, Config::default()).unwrap());
    assert!(
        !secret_file(&file).exists(),
        "none is made where one was given"
    );
}

#[cfg(unix)]
mod unix {
    use super::*;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::os::unix::process::CommandExt;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Runs a test in a child as a user whom file modes restrict: a child of root runs as `nobody`, which
    /// then owns the files. Returns the path of the data file in the child.
    fn in_unprivileged_child(test: &str, home: impl FnOnce() -> Home) -> Option<PathBuf> {
        const NOBODY: u32 = 65_534;
        if let Some(file) = child::argument().map(PathBuf::from) {
            assert_ne!(
                fs::metadata(&file).unwrap().uid(),
                0,
                "root may do anything"
            );
            return Some(file);
        }
        let home = home();
        let mut command = child::command(MODULE, test, home.file());
        if fs::metadata(home.dir()).unwrap().uid() == 0 {
            // The build directory may be inaccessible to other users.
            let program = home.dir().join("test");
            fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
            set_mode(&program, 0o755);
            for path in names_beside(&home.file())
                .iter()
                .chain([&home.dir().to_path_buf()])
            {
                std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
            }
            command = child::again(command, program);
            command.uid(NOBODY).gid(NOBODY).current_dir("/");
        }
        child::run(&mut command);
        None
    }

    #[test]
    fn data_file_and_secret_file_are_private() {
        let Some(file) = in_child("unix::data_file_and_secret_file_are_private", Home::new) else {
            return;
        };
        let kg = KeyGuard::open(&file, Config::default()).unwrap();
        assert_eq!(mode(&file), 0o600);
        assert_eq!(mode(&secret_file(&file)), 0o600);
        drop(kg);

        set_mode(&file, 0o644);
        refused(&file, Config::new("another secret"), &["another secret"]);
        assert_eq!(mode(&file), 0o644, "what may not be ours stays as it was");
        drop(KeyGuard::open(&file, Config::default()).unwrap());
        assert_eq!(mode(&file), 0o600);
    }

    /// Such as on a read-only disk.
    #[test]
    fn read_only_backup_is_verified_and_restored() {
        let test = "unix::read_only_backup_is_verified_and_restored";
        let Some(file) = in_unprivileged_child(test, closed) else {
            return;
        };
        let dir = file.parent().unwrap();
        let backup = dir.join("backup/monday.redb");
        fs::create_dir(dir.join("backup")).unwrap();
        KeyGuard::backup(&file, &backup).unwrap();
        set_mode(&backup, 0o400);
        set_mode(&dir.join("backup"), 0o500);
        assert!(KeyGuard::verify(&backup).unwrap().is_sound());
        let restored = dir.join("restored.redb");
        KeyGuard::restore(&backup, &restored).unwrap();
        assert_eq!(mode(&restored), 0o600);
        assert!(KeyGuard::verify(&restored).unwrap().is_sound());
        assert!(matches!(
            KeyGuard::compact(&backup),
            Err(OpenError::ReadOnly { .. })
        ));
        set_mode(&dir.join("backup"), 0o700);
    }

    #[test]
    fn read_only_file_is_refused() {
        let test = "unix::read_only_file_is_refused";
        let Some(file) = in_unprivileged_child(test, closed) else {
            return;
        };
        for forbidding in [0o400, 0o200, 0o000] {
            set_mode(&file, forbidding);
            let words = [
                name(&file),
                "no permission to read and write",
                "change its owner or mode",
            ];
            let refused = KeyGuard::open(&file, Config::new(SECRET)).unwrap_err();
            for word in words {
                assert!(refused.to_string().contains(word), "{refused}");
            }
            assert!(matches!(refused, OpenError::ReadOnly { .. }), "{refused:?}");
            assert_eq!(mode(&file), forbidding);
        }
        set_mode(&file, 0o600);
        drop(KeyGuard::open(&file, Config::new(SECRET)).unwrap());
    }

    #[test]
    fn read_only_directory_is_refused() {
        let test = "unix::read_only_directory_is_refused";
        let Some(file) = in_unprivileged_child(test, closed) else {
            return;
        };
        let dir = file.parent().unwrap();
        set_mode(dir, 0o500);
        // An existing file can be opened.
        drop(KeyGuard::open(&file, Config::new(SECRET)).unwrap());
        let new = dir.join("new.redb");
        let words = [name(&new), "no permission to read and write"];
        let read_only = refused(&new, Config::new(SECRET), &words);
        assert!(matches!(read_only, OpenError::ReadOnly { .. }));
        let words = ["new.redb.secret", "cannot be read or created"];
        let read_only = refused(&new, Config::default(), &words);
        assert!(matches!(read_only, OpenError::SecretFile { .. }));
        set_mode(dir, 0o700);
    }

    #[test]
    fn unreadable_secret_file_is_refused() {
        let test = "unix::unreadable_secret_file_is_refused";
        let Some(file) = in_unprivileged_child(test, closed) else {
            return;
        };
        fs::write(secret_file(&file), SECRET).unwrap();
        set_mode(&secret_file(&file), 0o000);
        let words = ["keyguard.redb.secret", "cannot be read or created"];
        let unreadable = refused(&file, Config::default(), &words);
        assert!(matches!(unreadable, OpenError::SecretFile { .. }));
        set_mode(&secret_file(&file), 0o400);
        drop(KeyGuard::open(&file, Config::default()).unwrap());
    }

    #[test]
    fn device_is_refused_without_opening_it() {
        let refused = KeyGuard::open("/dev/null", Config::new(SECRET)).unwrap_err();
        assert!(matches!(refused, OpenError::NotAFile { .. }));
    }

    #[test]
    fn symbolic_link_opens_its_target() {
        let home = closed();
        let link = home.dir().join("link.redb");
        symlink(home.file(), &link).unwrap();
        let _kg = KeyGuard::open(&link, home.config()).unwrap();
        let held = refused(&home.file(), home.config(), &["is already open"]);
        assert!(matches!(held, OpenError::InUse { .. }));
    }

    #[test]
    fn dangling_link_is_refused() {
        let home = Home::new();
        symlink(home.dir().join("none"), home.file()).unwrap();
        let refused = refused(
            &home.file(),
            home.config(),
            &[
                "is a symbolic link to",
                "which does not exist",
                "or remove the link",
            ],
        );
        assert!(matches!(refused, OpenError::DanglingLink { .. }));
    }

    #[test]
    fn dangling_link_creates_no_secret() {
        let test = "unix::dangling_link_creates_no_secret";
        let Some(file) = in_child(test, Home::new) else {
            return;
        };
        symlink("none.redb", &file).unwrap();
        let refused = refused(&file, Config::default(), &["is a symbolic link to"]);
        let target = file.with_file_name("none.redb");
        assert!(
            matches!(refused, OpenError::DanglingLink { target: found, .. } if found == target)
        );
    }

    #[test]
    fn secret_accessible_to_others_is_refused() {
        let test = "unix::secret_accessible_to_others_is_refused";
        let Some(file) = in_child(test, Home::new) else {
            return;
        };
        drop(KeyGuard::open(&file, Config::default()).unwrap());
        let secret = secret_file(&file);
        for public in [0o640, 0o620, 0o604, 0o602] {
            set_mode(&secret, public);
            let command = format!("`chmod 600 {}`", name(&secret));
            let words = [name(&secret), "other users may read or change it", &command];
            let exposed = refused(&file, Config::default(), &words);
            assert!(matches!(exposed, OpenError::ExposedSecret { .. }));
        }
        set_mode(&secret, 0o400);
        drop(KeyGuard::open(&file, Config::default()).unwrap());
    }

    /// Requires root, to change owners. Unit tests cover accepted owners, too.
    #[test]
    fn secret_of_another_user_requires_a_data_file_of_that_user() {
        let test = "unix::secret_of_another_user_requires_a_data_file_of_that_user";
        let Some(file) = in_child(test, Home::new) else {
            return;
        };
        drop(KeyGuard::open(&file, Config::default()).unwrap());
        if fs::metadata(&file).unwrap().uid() != 0 {
            return;
        }
        let secret = secret_file(&file);
        std::os::unix::fs::chown(&secret, Some(65_534), None).unwrap();
        let exposed = refused(
            &file,
            Config::default(),
            &["belongs to user 65534", "chown 0"],
        );
        assert!(matches!(exposed, OpenError::ExposedSecret { .. }));
        std::os::unix::fs::chown(&file, Some(65_534), None).unwrap();
        let kg = KeyGuard::open(&file, Config::default()).unwrap();
        assert_eq!(kg.admin().stats().unwrap().warnings, [""; 0]);
        drop(kg);
        // If everybody can create files in the directory, another user may have planted both.
        set_mode(file.parent().unwrap(), 0o1777);
        let exposed = refused(&file, Config::default(), &["belongs to user 65534"]);
        assert!(matches!(exposed, OpenError::ExposedSecret { .. }));
        let text = fs::read_to_string(&secret).unwrap();
        let kg = KeyGuard::open(&file, Config::new(text.trim())).unwrap();
        let warnings = kg.admin().stats().unwrap().warnings;
        assert!(
            warnings.len() == 1 && warnings[0].contains("belongs to user 65534"),
            "{warnings:?}"
        );
    }

    /// Another user may plant a pipe or link, to have a known secret used or to block this process.
    /// Requires root, to change owners.
    #[test]
    fn pipe_or_link_of_another_user_is_refused() {
        let test = "unix::pipe_or_link_of_another_user_is_refused";
        let Some(file) = in_child(test, Home::new) else {
            return;
        };
        if fs::metadata(file.parent().unwrap()).unwrap().uid() != 0 {
            return;
        }
        let secret = secret_file(&file);
        make_pipe(&secret, 0o600);
        let links = ["/proc/self/personality", "/dev/zero", "/dev/null"];
        for link in [None, Some(links[0]), Some(links[1]), Some(links[2])] {
            if let Some(target) = link {
                fs::remove_file(&secret).unwrap();
                symlink(target, &secret).unwrap();
            }
            std::os::unix::fs::lchown(&secret, Some(65_534), None).unwrap();
            let words = [name(&secret), "belongs to user 65534", "run `ls -l "];
            let planted = KeyGuard::open(&file, Config::default()).expect_err("opened");
            let text = planted.to_string();
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
            assert!(matches!(planted, OpenError::ExposedSecret { .. }));
            assert!(!file.exists());
        }
    }

    #[test]
    fn endless_secret_is_refused() {
        let test = "unix::endless_secret_is_refused";
        let Some(file) = in_child(test, Home::new) else {
            return;
        };
        let secret = secret_file(&file);
        let refused = || {
            let refused = KeyGuard::open(&file, Config::default()).expect_err("opened");
            let OpenError::SecretFile { source, .. } = refused else {
                panic!("{refused}");
            };
            source.to_string()
        };
        symlink("/dev/zero", &secret).unwrap();
        assert_eq!(refused(), "it is neither a file nor a pipe");
        fs::remove_file(&secret).unwrap();
        crate::common::write_private(&secret, &"s".repeat(65_537));
        assert_eq!(refused(), "it is longer than 65536 bytes");
        crate::common::write_private(&secret, &"s".repeat(65_536));
        drop(KeyGuard::open(&file, Config::default()).unwrap());
    }

    #[test]
    fn private_pipe_may_hold_the_secret() {
        let test = "unix::private_pipe_may_hold_the_secret";
        let Some(file) = in_child(test, closed) else {
            return;
        };
        let secret = secret_file(&file);
        make_pipe(&secret, 0o622);
        let exposed = KeyGuard::open(&file, Config::default()).expect_err("opened");
        assert!(matches!(exposed, OpenError::ExposedSecret { .. }));
        set_mode(&secret, 0o600);
        let writer = std::thread::spawn(move || fs::write(secret, SECRET).unwrap());
        drop(KeyGuard::open(&file, Config::default()).unwrap());
        writer.join().unwrap();
    }

    fn make_pipe(path: &Path, mode: u32) {
        let made = std::process::Command::new("mkfifo").arg(path).status();
        assert!(made.unwrap().success());
        set_mode(path, mode);
    }

    #[test]
    fn public_data_file_is_made_private_with_a_warning() {
        let home = closed();
        set_mode(&home.file(), 0o644);
        let kg = home.open();
        let warnings = kg.admin().stats().unwrap().warnings;
        assert_eq!(warnings.len(), 1);
        assert!(
            warnings[0].contains("mode 644") && warnings[0].contains("chmod 600"),
            "{warnings:?}"
        );
        assert_eq!(mode(&home.file()), 0o600);
        drop(kg);
        assert_eq!(home.open().admin().stats().unwrap().warnings, [""; 0]);
    }

    #[test]
    fn variable_may_hold_any_bytes() {
        let secret = b"\xff\xfe a secret that is no text";
        let Some(file) = child::argument().map(PathBuf::from) else {
            let home = Home::new();
            let mut command =
                child::command(MODULE, "unix::variable_may_hold_any_bytes", home.file());
            let secret = std::ffi::OsStr::from_bytes(secret);
            return child::run(command.env("KEYGUARD_SECRET", secret));
        };
        drop(KeyGuard::open(&file, Config::default()).unwrap());
        assert!(!secret_file(&file).exists());
        drop(KeyGuard::open(&file, Config::new(secret.to_vec())).unwrap());
    }
}
