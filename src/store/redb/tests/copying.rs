//! Backups, copies and compaction: what is in the new file, and what is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ::redb::{ReadableTableMetadata, TableDefinition, TableHandle};

use super::block_file::ReadOnlyFile;
use super::copy::{NewFile, OmittedRows};
use super::disk::Failure;
use super::faults::{all_outcomes, refused, world};
use super::verification::{ALL, ORIGINAL, all_usage, damaged, full_blocks};
use super::*;
use crate::counter::{SavedValue, SubjectId};
use crate::limit::{Period, WindowLength};
use crate::model::AuditEntry;
use crate::store::conformance::{contents, counter, full};

/// Copies an open file; returns the copy.
fn back_up(store: &RedbStore) -> (File, FileCopy) {
    let copy = File::new();
    let copied = store.backup(&copy.path, &CopyProgress::default()).unwrap();
    assert_eq!(copied.bytes, fs::metadata(&copy.path).unwrap().len());
    (copy, copied)
}

/// Copies a file at rest.
fn copy_at_rest(file: &File) -> (File, Result<FileCopy, OpenError>) {
    let copy = File::new();
    let copied = RedbStore::back_up_file(&file.path, &copy.path, &CopyProgress::default());
    (copy, copied)
}

fn compact(file: &File) -> Result<FileCopy, OpenError> {
    RedbStore::compact_file(&file.path, &CopyProgress::default())
}

/// The number of rows of each table.
fn rows(store: &RedbStore) -> BTreeMap<String, u64> {
    let read = store.database().begin_read().unwrap();
    let tables = read.list_tables().unwrap();
    let rows = tables.map(|table| {
        let name = table.name().to_owned();
        (name, read.open_untyped_table(table).unwrap().len().unwrap())
    });
    rows.collect()
}

/// Collects the names of the visited tables.
struct Names(BTreeSet<String>);

impl TableVisitor for Names {
    type Error = ();

    fn visit<K: ::redb::Key + 'static, V: ::redb::Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
        _: impl Fn(K::SelfType<'_>) -> Option<String>,
    ) -> Result<(), ()> {
        assert!(self.0.insert(table.name().to_owned()), "visited twice");
        Ok(())
    }
}

/// Returns the names of the files in the directory of a file.
fn files_beside(file: &File) -> Vec<String> {
    let files = fs::read_dir(file.dir.path()).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.collect()
}

/// A store with rows in every table but that of addresses.
fn with_all_tables() -> (File, RedbStore) {
    let file = File::new();
    drop(full(&file));
    let store = file.open();
    let (expiring, credential) = new_key(OrgId(1), 9_999);
    let expiring = NewKey {
        expires_at: Some(after(1_000_000)),
        ..expiring
    };
    let request = AuditContext {
        idempotency_key: Some(IdempotencyKey {
            name: [1; 32],
            request: [0; 32],
        }),
        ..audit_context()
    };
    let created = store.create_keys(vec![(expiring, credential)], &request);
    created.unwrap();
    for hours in 0..30 {
        store
            .record(&requests(1, after(60 * hours), 1_000))
            .unwrap();
    }
    let hits = SavedValue::Hits(vec![(NOW, 3)]);
    let window = counter(Period::Sliding(WindowLength::MINUTE), hits);
    let mut windows = std::iter::once((SubjectId::key(KeyId(1)), vec![window]));
    store.save_windows(&mut windows).unwrap();
    store.send_events_to(vec!["https://example.com/events".into()]);
    store
        .add_events(&[super::outbox::event_at("a", NOW)])
        .unwrap();
    (file, store)
}

/// Those that are missing from it would be missing from copies.
#[test]
fn list_of_tables_has_all_tables_in_use() {
    let (_file, store) = with_all_tables();
    let mut listed = Names(BTreeSet::new());
    visit_all(&mut listed).unwrap();
    let in_use: BTreeSet<String> = rows(&store).into_keys().collect();
    assert_eq!(listed.0, in_use);
}

#[test]
fn backup_has_all_rows_of_all_tables() {
    let (file, store) = with_all_tables();
    let (copied_file, copied) = back_up(&store);
    let copy = copied_file.open();
    let found = rows(&copy);
    assert_eq!(found, rows(&store));
    let empty = found.iter().filter(|(_, rows)| **rows == 0);
    let empty: Vec<_> = empty.map(|(table, _)| table.as_str()).collect();
    assert_eq!(empty, ["ip windows"]);
    assert_eq!(copied.rows, found.values().sum::<u64>());
    assert_eq!(copied.lost_blocks, 0);
    assert_eq!(all_outcomes(&copy), all_outcomes(&store));
    assert_eq!(contents(&copy), contents(&store));
    assert_eq!(all_usage(&copy).unwrap(), all_usage(&store).unwrap());
    drop(copy);
    assert!(
        RedbStore::verify_file(&copied_file.path)
            .unwrap()
            .is_sound()
    );

    // Both go on, apart from each other.
    let copy = copied_file.open();
    copy.add_org("only in the copy");
    copy.record(&requests(1, after(60 * 31), 20_000)).unwrap();
    assert_eq!(store.orgs(None, 9).unwrap().len(), 2);
    assert_eq!(files_beside(&copied_file), ["keyguard.redb"]);
    drop(store);
    let (at_rest, copied_at_rest) = copy_at_rest(&file);
    assert_eq!(copied_at_rest.unwrap().rows, copied.rows);
    assert_eq!(rows(&at_rest.open()), found);
}

#[cfg(unix)]
#[test]
fn backup_is_private() {
    use std::os::unix::fs::PermissionsExt;

    let (copy, _) = back_up(&with_keys(&File::new(), 1));
    let mode = fs::metadata(&copy.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// Each change adds an organization, and then a key with its number.
#[test]
fn backup_during_changes_is_one_state() {
    let file = File::new();
    let store = with_keys(&file, 1);
    let is_done = AtomicBool::new(false);
    let backups = std::thread::scope(|threads| {
        threads.spawn(|| {
            for n in 2..=300 {
                let org = store.add_org(&format!("org {n}"));
                store.add_key(org.id, n);
                store.record(&requests(n, after(n), 200)).unwrap();
            }
            is_done.store(true, Ordering::SeqCst);
        });
        let mut backups = Vec::new();
        while !is_done.load(Ordering::SeqCst) {
            backups.push(back_up(&store).0);
        }
        backups
    });
    assert!(backups.len() > 3, "{}", backups.len());
    let (orgs, keys) = (
        store.orgs(None, 999).unwrap(),
        store.keys(None, None, 999).unwrap(),
    );
    let audit: Vec<AuditEntry> = store.audit_log(None, 9_999).unwrap();
    let mut between = 0;
    for backup in &backups {
        let copy = backup.open();
        let found = copy.orgs(None, 999).unwrap();
        assert_eq!(found, orgs[..found.len()]);
        let found_keys = copy.keys(None, None, 999).unwrap().len();
        assert!((found.len() - 1..=found.len()).contains(&found_keys));
        let changes = copy.audit_log(None, 9_999).unwrap();
        assert_eq!(changes.len(), found.len() + found_keys);
        assert_eq!(changes, audit[audit.len() - changes.len()..]);
        // The requests of each key but the last.
        let requests = copy.totals(NOW).unwrap().all_time.requests;
        assert_eq!(requests as usize, all_usage(&copy).unwrap());
        assert!(requests.div_ceil(200) as usize + 2 >= found_keys);
        between += usize::from(found.len() < orgs.len());
    }
    assert!(between > 0, "all backups are of the end");
    assert_eq!(keys.len(), 300);
}

#[test]
fn nothing_is_overwritten() {
    let file = File::new();
    let store = with_keys(&file, 1);
    let (taken, _) = back_up(&store);
    let before = fs::read(&taken.path).unwrap();
    store.add_org("next");
    let error = store
        .backup(&taken.path, &CopyProgress::default())
        .unwrap_err();
    let CopyError::Target(error) = error else {
        panic!("{error:?}")
    };
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    let error = store.backup(&file.path, &CopyProgress::default());
    assert!(matches!(error, Err(CopyError::Target(_))), "{error:?}");
    assert!(fs::read(&taken.path).unwrap() == before);
    assert_eq!(files_beside(&taken), ["keyguard.redb"]);
    drop(store);
    let error = RedbStore::back_up_file(&file.path, &taken.path, &CopyProgress::default());
    assert!(
        matches!(error, Err(OpenError::NotWritten { .. })),
        "{error:?}"
    );
    assert!(fs::read(&taken.path).unwrap() == before);
}

#[test]
fn cancelled_backup_leaves_nothing() {
    let store = with_keys(&File::new(), 1);
    let (copy, progress) = (File::new(), CopyProgress::default());
    progress.cancel();
    store.backup(&copy.path, &progress).unwrap_err();
    assert_eq!(files_beside(&copy), Vec::<String>::new());
}

#[test]
fn cancelled_backup_is_not_read_back() {
    let store = with_keys(&File::new(), 1);
    for is_cancelled in [false, true] {
        let (copy, progress) = (File::new(), CopyProgress::default());
        let snapshot = store.engine.snapshot(CACHE).unwrap();
        let new = NewFile::create(&copy.path).unwrap();
        let rows = new.fill(&snapshot, &OmittedRows::default(), &progress);
        let rows = rows.unwrap();
        if is_cancelled {
            progress.cancel();
        }
        let read = new.read_back(rows, &progress);
        assert_eq!(read.is_err(), is_cancelled);
        drop(read);
        assert_eq!(files_beside(&copy), Vec::<String>::new());
    }
}

/// Unlocked temporary files are removed.
#[test]
fn new_copy_is_locked_until_it_has_its_name() {
    let store = with_keys(&File::new(), 1);
    let target = File::new();
    let is_held = || {
        let names = files_beside(&target);
        assert_eq!(names.len(), 1);
        let file = fs::File::open(target.dir.path().join(&names[0])).unwrap();
        file.try_lock().is_err()
    };
    let progress = CopyProgress::default();
    let new = NewFile::create(&target.path).unwrap();
    assert!(is_held());
    let snapshot = store.engine.snapshot(CACHE).unwrap();
    let rows = new.fill(&snapshot, &OmittedRows::default(), &progress);
    let read = new.read_back(rows.unwrap(), &progress).unwrap();
    assert!(is_held());
    drop(read);
    let copied = super::copy::copy(|| store.engine.snapshot(CACHE), &target.path, &progress);
    let copied = copied.unwrap();
    assert!(is_held());
    copied.take_name(&target.path).unwrap();
    assert!(!is_held());
    assert_eq!(files_beside(&target), ["keyguard.redb"]);
}

#[test]
fn several_readers_share_a_file_and_no_writer_joins_them() {
    let file = File::new();
    drop(with_keys(&file, 1));
    let (copy, progress) = (File::new(), CopyProgress::default());
    let in_use = |error: Option<OpenError>| matches!(error, Some(OpenError::InUse { .. }));
    let opened = fs::File::open(&file.path).unwrap();
    let disk = ReadOnlyFile::of(FileBackend::new(opened).unwrap());
    let data = super::file::DataFile::staged(disk);
    let reader = super::engine::OpenDatabase::open(data, CACHE).unwrap();
    assert!(RedbStore::verify_file(&file.path).unwrap().is_sound());
    RedbStore::back_up_file(&file.path, &copy.path, &progress).unwrap();
    assert!(in_use(compact(&file).err()));
    assert!(in_use(open(&file.path).err()));
    drop(reader);
    let store = file.open();
    assert!(in_use(RedbStore::verify_file(&file.path).err()));
    drop(store);
}

#[test]
fn damaged_blocks_of_usage_are_left_out_and_counted() {
    let blocks = full_blocks();
    let two = [blocks[0].0, blocks[2].0];
    let file = damaged(&ORIGINAL.bytes, &two);
    let store = file.open();
    let left = all_usage(&store).unwrap();
    assert!(left < ALL);
    let (open_copy, copied) = back_up(&store);
    drop(store);
    let (copy, copied_at_rest) = copy_at_rest(&file);
    assert_eq!(copied_at_rest.unwrap(), copied);
    assert_eq!(copied.lost_blocks, 2);
    for copy in [open_copy, copy] {
        assert!(RedbStore::verify_file(&copy.path).unwrap().is_sound());
        let copy = copy.open();
        assert_eq!(all_usage(&copy).unwrap(), left);
        assert_eq!(copy.warnings(), Vec::<String>::new());
        assert_eq!(copy.totals(NOW).unwrap().all_time.requests as usize, ALL);
        copy.record(&requests(1, after(99), 20_000)).unwrap();
        assert_eq!(all_usage(&copy).unwrap(), left + 20_000);
    }
    // Perhaps they can be read at another time.
    let bytes = fs::read(&file.path).unwrap();
    assert!(matches!(compact(&file), Err(OpenError::Damaged { .. })));
    assert!(fs::read(&file.path).unwrap() == bytes);
}

/// A key that cannot be read must not be missing from a copy without notice.
#[test]
fn damage_anywhere_is_left_out_only_of_usage_and_totals() {
    let (mut refused, mut complete) = (0, 0);
    let (mut without_blocks, mut without_totals) = (0, 0);
    for (page, found) in ORIGINAL.found.iter().step_by(3) {
        let file = damaged(&ORIGINAL.bytes, &[*page]);
        let (copy, copied) = copy_at_rest(&file);
        let is_lost = found.as_ref().is_none_or(|found| !found.is_sound());
        match copied {
            Err(OpenError::Damaged { .. }) => {
                refused += 1;
                assert!(is_lost, "page {page}");
                assert_eq!(files_beside(&copy), Vec::<String>::new());
            }
            Err(error) => panic!("page {page}: {error:?}"),
            Ok(copied) if copied.lost_blocks > 0 => without_blocks += 1,
            Ok(copied) if copied.lost_totals > 0 => without_totals += 1,
            Ok(_) => {
                complete += 1;
                assert_eq!(all_usage(&copy.open()).unwrap(), ALL, "page {page}");
            }
        }
    }
    println!(
        "refused {refused}, complete {complete}, without blocks {without_blocks}, without totals {without_totals}"
    );
    assert!(refused > 5 && complete > 10 && without_blocks > 5);
}

#[test]
fn compaction_returns_the_space_of_deleted_rows() {
    let file = File::new();
    let store = with_keys(&file, 100);
    for minute in 0..40 {
        store.record(&requests(1, after(minute), 20_000)).unwrap();
    }
    store.prune(after(39), after(39)).unwrap();
    store.add_org("next");
    let expected = all_outcomes(&store);
    drop(store);
    let before = fs::metadata(&file.path).unwrap().len();
    let copied = compact(&file).unwrap();
    println!("{before} bytes before, {} after", copied.bytes);
    assert!(copied.bytes * 2 < before);
    assert_eq!(copied.bytes, fs::metadata(&file.path).unwrap().len());
    assert_eq!(files_beside(&file), ["keyguard.redb"]);
    assert_eq!(all_outcomes(&file.open()), expected);
    let again = compact(&file).unwrap();
    assert_eq!(again, copied);

    let store = file.open();
    assert!(matches!(compact(&file), Err(OpenError::InUse { .. })));
    store.add_org("after");
}

#[test]
fn a_process_that_waited_for_the_end_of_a_compaction_opens_the_new_file() {
    let file = File::new();
    drop(with_keys(&file, 1));
    let other = File::new();
    drop(with_keys(&other, 2));
    let is_first = std::cell::Cell::new(true);
    // Replaced between opening and locking.
    let store = RedbStore::open_on(&file.path, SECRET, &clock(), CACHE, |disk| {
        if is_first.replace(false) {
            fs::rename(&other.path, &file.path).unwrap();
        }
        disk
    });
    let store = store.unwrap();
    assert_eq!(store.keys(None, None, 9).unwrap().len(), 2);
    store.add_org("next");
    drop(store);
    assert_eq!(file.open().orgs(None, 9).unwrap().len(), 2);
}

/// Otherwise changes after the reopening would overwrite what is being copied.
#[test]
fn backup_fails_if_the_file_is_reopened_meanwhile() {
    let (_file, disk, clock, store) = world();
    let snapshot = store.engine.snapshot(0).unwrap();
    assert!(snapshot.is_pinned());
    disk.fail(0, Failure::ReadOnly);
    refused(store.create_org("lost", &audit_context()));
    assert!(!snapshot.is_pinned());
    let copy = File::new();
    let failed = store.backup(&copy.path, &CopyProgress::default());
    assert!(
        matches!(failed, Err(CopyError::Source(StoreError::Unavailable(_)))),
        "{failed:?}"
    );
    disk.heal();
    clock.advance(Duration::from_secs(5));
    store.recover(false);
    back_up(&store);
}
