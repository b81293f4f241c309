//! Opening after kills and by several openers. Refusals are tested from outside.

use super::*;
use crate::store::redb::file::DataFile;

#[test]
fn another_secret_is_refused_after_a_kill_without_changing_the_file() {
    let file = File::new();
    let store = with_keys(&file, 1_000);
    let killed = file.killed();
    drop(store);
    assert_ne!(
        fs::read(&killed.path).unwrap(),
        fs::read(&file.path).unwrap(),
        "a live file differs from a closed one"
    );
    let before = fs::read(&killed.path).unwrap();
    let refused = RedbStore::open(&killed.path, OTHER_SECRET, &clock(), CACHE);
    assert!(matches!(refused, Err(OpenError::WrongSecret { .. })));
    assert!(
        fs::read(&killed.path).unwrap() == before,
        "the file was changed"
    );
    assert_eq!(killed.open().totals(NOW).unwrap().keys, 1_000);
}

/// Returns whether redb has to read all pages of a file before it can be used.
fn needs_repair(file: &File) -> bool {
    let repaired = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&repaired);
    let bytes = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&file.path);
    let db = ::redb::Database::builder()
        .set_repair_callback(move |_| seen.store(true, Ordering::SeqCst))
        .create_with_backend(DataFile::staged(FileBackend::new(bytes.unwrap()).unwrap()));
    drop(db.unwrap());
    repaired.load(Ordering::SeqCst)
}

#[test]
fn no_kill_makes_reopening_slow() {
    let file = File::new();
    let store = file.open();
    assert!(!needs_repair(&file.killed()), "after creation");
    store.add_org("acme");
    assert!(!needs_repair(&file.killed()), "after a change");
    store.add_key(OrgId(1), 1);
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
fn concurrent_openers_create_one_file() {
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

/// The copies stand for a child process that was forked while the file was open.
#[cfg(target_os = "linux")]
#[test]
fn a_closed_file_is_unlocked_while_a_copy_of_its_descriptor_is_open() {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

    let file = File::new();
    drop(file.open());
    let store = file.open();
    let this = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let of_file = descriptors.filter(|entry| {
        fs::read_link(entry.path())
            .is_ok_and(|target| Some(target) == file.path.canonicalize().ok())
    });
    let copies: Vec<_> = of_file
        .map(|entry| entry.file_name().to_str().unwrap().parse().unwrap())
        .map(|descriptor| pidfd_getfd(&this, descriptor, PidfdGetfdFlags::empty()).unwrap())
        .collect();
    assert!(!copies.is_empty());
    drop(store);
    drop(file.open());
    drop(copies);
}
