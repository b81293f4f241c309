//! What is opened, what is refused, and that a refused file keeps its bytes.

use super::*;
use crate::store::codec::frame;
use crate::store::redb::file::DataFile;

fn assert_refused(path: &Path, secret: Fingerprint) -> OpenError {
    let before = fs::read(path).unwrap();
    let refused = RedbStore::open(path, secret, NOW, CACHE).err().unwrap();
    assert_eq!(fs::read(path).unwrap(), before, "the file was changed");
    println!("{refused}");
    refused
}

#[test]
fn a_file_opens_again_with_its_secret() {
    let file = File::new();
    drop(with_keys(&file, 3));
    let store = file.open();
    assert_eq!(store.totals(NOW).unwrap().keys, 3);
    assert!(store.resolve(&hash(3)).unwrap().is_some());
}

#[test]
fn another_secret_is_refused() {
    let file = File::new();
    drop(with_keys(&file, 1));
    let refused = assert_refused(&file.path, OTHER_SECRET);
    assert!(matches!(refused, OpenError::WrongSecret { path } if path == file.path));
}

#[test]
fn another_secret_is_refused_after_a_kill_and_the_file_kept_as_it_was() {
    let file = File::new();
    let store = with_keys(&file, 1_000);
    let killed = file.killed();
    drop(store);
    assert_ne!(
        fs::read(&killed.path).unwrap(),
        fs::read(&file.path).unwrap(),
        "a live file differs from a closed one"
    );
    let refused = assert_refused(&killed.path, OTHER_SECRET);
    assert!(matches!(refused, OpenError::WrongSecret { .. }));
    assert_eq!(killed.open().totals(NOW).unwrap().keys, 1_000);
}

/// Whether redb has to read a file page by page before it can be used.
fn needs_repair(file: &File) -> bool {
    let repaired = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&repaired);
    let bytes = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&file.path);
    let db = Database::builder()
        .set_repair_callback(move |_| seen.store(true, Ordering::SeqCst))
        .create_with_backend(DataFile::staged(bytes.unwrap()).unwrap());
    drop(db.unwrap());
    repaired.load(Ordering::SeqCst)
}

#[test]
fn no_kill_makes_reopening_slow() {
    let file = File::new();
    let store = file.open();
    assert!(!needs_repair(&file.killed()), "after creation");
    store.create_org("acme", NOW).unwrap();
    assert!(!needs_repair(&file.killed()), "after a change");
    store.create_keys(vec![new_key(OrgId(1), 1)]).unwrap();
    store.record(&requests(1, NOW, 9)).unwrap();
    assert!(!needs_repair(&file.killed()), "after usage");
    store.prune(after(1), after(1)).unwrap();
    assert!(!needs_repair(&file.killed()), "after pruning");
    drop(store);
    let store = file.open();
    assert!(!needs_repair(&file.killed()), "after opening");
    drop(store);
}

#[test]
fn an_empty_file_is_refused() {
    let file = File::new();
    fs::write(&file.path, "").unwrap();
    let refused = assert_refused(&file.path, SECRET);
    assert!(matches!(refused, OpenError::Empty { .. }));
}

#[test]
fn a_foreign_file_is_refused() {
    for content in ["x", "PRIMARY KEY (id)\n", &"text\n".repeat(10_000)] {
        let file = File::new();
        fs::write(&file.path, content).unwrap();
        let refused = assert_refused(&file.path, SECRET);
        assert!(matches!(refused, OpenError::NotADataFile { .. }));
    }
}

#[test]
fn a_database_of_something_else_is_refused() {
    let tables = ["settings", "keyguard"];
    for table in tables {
        let file = File::new();
        let db = Database::create(&file.path).unwrap();
        let write = db.begin_write().unwrap();
        let table: TableDefinition<'_, u64, u64> = TableDefinition::new(table);
        write.open_table(table).unwrap().insert(1, 2).unwrap();
        write.commit().unwrap();
        let killed = file.killed();
        drop(db);
        for file in [&file, &killed] {
            let refused = assert_refused(&file.path, SECRET);
            assert!(matches!(refused, OpenError::NotADataFile { .. }));
        }
    }
}

#[test]
fn a_newer_format_is_refused() {
    let file = File::new();
    drop(file.open());
    let newer = codec::FORMAT + 1;
    let mut bytes = fs::read(&file.path).unwrap();
    bytes[..frame::PREAMBLE_LEN].copy_from_slice(&frame::preamble(newer));
    fs::write(&file.path, &bytes).unwrap();
    // The format comes first: what another one calls a secret is unknown.
    let refused = assert_refused(&file.path, OTHER_SECRET);
    assert!(matches!(
        refused,
        OpenError::NewerFormat { found, supported, .. }
            if found == newer && supported == codec::FORMAT
    ));
}

#[test]
fn a_file_is_open_once() {
    let file = File::new();
    let store = file.open();
    let refused = open(&file.path).err().unwrap();
    assert!(matches!(refused, OpenError::InUse { .. }));
    assert_eq!(store.totals(NOW).unwrap().orgs, 0);
    drop(store);
    file.open();
}

#[test]
fn a_directory_is_refused() {
    let file = File::new();
    let refused = open(file.dir.path()).err().unwrap();
    assert!(matches!(refused, OpenError::NotAFile { .. }));
}

#[test]
fn a_missing_directory_is_not_created() {
    let file = File::new();
    let refused = open(&file.path.join("below")).err().unwrap();
    assert!(matches!(refused, OpenError::Io { .. }));
    let refused = open(&file.dir.path().join("none/keyguard.redb"))
        .err()
        .unwrap();
    assert!(matches!(refused, OpenError::Io { .. }));
}

#[cfg(unix)]
mod unix {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_new_file_is_private_and_alone() {
        let file = File::new();
        let _store = file.open();
        assert_eq!(mode(&file.path), 0o600);
        assert_eq!(fs::read_dir(file.dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_is_made_private_once_it_is_known_to_be_ours() {
        let file = File::new();
        drop(file.open());
        set_mode(&file.path, 0o644);
        assert_refused(&file.path, OTHER_SECRET);
        assert_eq!(mode(&file.path), 0o644);
        drop(file.open());
        assert_eq!(mode(&file.path), 0o600);
    }

    #[test]
    fn a_file_that_may_not_be_written_is_refused() {
        let file = File::new();
        drop(file.open());
        set_mode(&file.path, 0o400);
        match open(&file.path) {
            Err(refused) => assert!(matches!(refused, OpenError::ReadOnly { .. })),
            // For root every file may be written.
            Ok(_) => assert!(fs::OpenOptions::new().write(true).open(&file.path).is_ok()),
        }
    }
}

#[test]
fn whoever_creates_a_file_second_opens_the_first_ones() {
    let file = File::new();
    let openers: Vec<_> = (0..8)
        .map(|_| {
            let path = file.path.clone();
            std::thread::spawn(move || open(&path))
        })
        .collect();
    let stores: Vec<_> = openers
        .into_iter()
        .map(|opener| opener.join().unwrap())
        .collect();
    assert_eq!(stores.iter().flatten().count(), 1);
    for refused in stores.iter().filter_map(|store| store.as_ref().err()) {
        assert!(matches!(refused, OpenError::InUse { .. }), "{refused:?}");
    }
    assert_eq!(fs::read_dir(file.dir.path()).unwrap().count(), 1);
}

#[test]
fn a_truncated_file_is_damaged_or_foreign_and_never_a_panic() {
    let file = File::new();
    drop(with_keys(&file, 500));
    let bytes = fs::read(&file.path).unwrap();
    for len in [
        9,
        100,
        320,
        4_100,
        8_200,
        8_201,
        bytes.len() / 2,
        bytes.len() - 1,
    ] {
        fs::write(&file.path, &bytes[..len]).unwrap();
        let refused = assert_refused(&file.path, SECRET);
        assert!(
            matches!(refused, OpenError::Damaged { .. }),
            "{len} bytes: {refused:?}"
        );
    }
}
