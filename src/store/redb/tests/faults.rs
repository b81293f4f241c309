//! Disks that fail at any operation, once or until they are healed.

use std::sync::Mutex;
use std::time::Duration;

use super::altered::{Outcome, described, outcomes};
use super::disk::{Disk, FAILURES, Failure};
use super::*;
use crate::lockout::{AuthFailure, LockChange};

/// A file with all kinds of data, and its bytes.
fn template(requested: usize) -> (File, Vec<u8>) {
    let file = File::new();
    let store = with_keys(&file, 5);
    store.record(&requests(1, NOW, requested)).unwrap();
    drop(store);
    let bytes = fs::read(&file.path).unwrap();
    (file, bytes)
}

pub(super) type Step = fn(&RedbStore) -> Result<(), StoreError>;

/// All kinds of changes, in an order in which each can be made once.
pub(super) const STEPS: [(&str, Step); 8] = [
    ("create_org", |store| {
        store.create_org("other", &audit_context()).map(drop)
    }),
    ("create_keys", |store| {
        let keys = (6..=9).map(|n| new_key(OrgId(2), n)).collect();
        store.create_keys(keys, &audit_context()).map(drop)
    }),
    ("record", |store| store.record(&requests(2, after(1), 100))),
    ("revoke_key", |store| {
        store.revoke_key(KeyId(3), &audit_context()).map(drop)
    }),
    ("change_locks", |store| {
        let lock = AuthFailure::BadKey.lock("192.0.2.1".parse().unwrap(), NOW);
        store.change_locks(&[LockChange::put(lock)], &audit_context())
    }),
    ("record again", |store| {
        store.record(&requests(2, after(2), 100))
    }),
    ("update_org", |store| {
        store
            .update_org(OrgId(2), suspended(), &audit_context())
            .map(drop)
    }),
    ("prune", |store| store.prune(after(2), after(2))),
];

pub(super) fn all_outcomes(store: &RedbStore) -> Vec<Outcome> {
    let mut all = outcomes(store);
    all.push(described(store.locks()));
    all.push(described(store.audit_log(None, 100)));
    all
}

/// The outcomes of the store before all steps and after each.
pub(super) fn expected(file: &File, bytes: &[u8]) -> Vec<Vec<Outcome>> {
    let store = Disk::holding(bytes).open(file, &ManualClock::starting_at(NOW));
    let mut expected = vec![all_outcomes(&store)];
    for (_, step) in STEPS {
        step(&store).unwrap();
        expected.push(all_outcomes(&store));
    }
    expected
}

/// Repeats each step until it succeeds, on a disk that fails `at` an operation. Returns whether that
/// operation was reached.
fn survive(
    file: &File,
    bytes: &[u8],
    expected: &[Vec<Outcome>],
    at: u64,
    failure: Failure,
) -> bool {
    let disk = Disk::holding(bytes);
    let clock = ManualClock::starting_at(NOW);
    let store = disk.open(file, &clock);
    disk.fail(at, failure);
    let mut is_cut = false;
    for (number, (name, step)) in STEPS.iter().enumerate() {
        let context = || format!("{failure:?} at {at} in {name}");
        let mut attempts = 0;
        while let Err(error) = step(&store) {
            attempts += 1;
            assert!(attempts < 4, "{}: {error:?}", context());
            let StoreError::Unavailable(_) = error else {
                panic!("{}: {error:?}", context());
            };
            disk.heal();
            // A failed step changes nothing, and reads work without a restart.
            clock.advance(Duration::from_secs(5));
            store.recover(false);
            assert_eq!(store.fault(), None, "{}", context());
            let now = all_outcomes(&store);
            assert!(
                now == expected[number],
                "{}: a change is half there",
                context()
            );
        }
        assert_eq!(store.fault(), None, "{}", context());
        if !disk.sim().has_failed {
            continue;
        }
        disk.heal();
        if std::mem::replace(&mut is_cut, true) {
            continue;
        }
        // A power cut now loses nothing.
        let cut = disk.cut_off().open(file, &clock);
        assert!(all_outcomes(&cut) == expected[number + 1], "{}", context());
    }
    let has_failed = disk.sim().has_failed;
    disk.heal();
    drop(store);
    let closed = Disk::holding(&disk.sim().cache).open(file, &clock);
    assert!(all_outcomes(&closed) == expected[STEPS.len()]);
    has_failed
}

#[test]
fn a_failure_at_any_operation_loses_nothing_and_needs_no_restart() {
    let (file, bytes) = template(20);
    let expected = expected(&file, &bytes);
    std::thread::scope(|scope| {
        for failure in FAILURES {
            let (file, bytes, expected) = (&file, &bytes, &expected);
            scope.spawn(move || {
                let reached = (0..).take_while(|at| survive(file, bytes, expected, *at, failure));
                let reached = reached.count();
                println!("{failure:?}: {reached} operations");
                assert!(reached > 50, "{failure:?}: {reached}");
            });
        }
    });
}

/// A store, its disk and its clock.
pub(super) fn world() -> (File, Disk, ManualClock, RedbStore) {
    let (file, bytes) = template(300);
    let (disk, clock) = (Disk::holding(&bytes), ManualClock::starting_at(NOW));
    let store = disk.open(&file, &clock);
    (file, disk, clock, store)
}

pub(super) fn refused(result: Result<impl std::fmt::Debug, StoreError>) -> String {
    match result {
        Err(error @ StoreError::Unavailable(_)) => error.describe(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn failed_changes_are_retried_at_growing_intervals_and_reads_continue() {
    let (_file, disk, clock, store) = world();
    disk.fail(0, Failure::ReadOnly);
    refused(store.create_org("lost", &audit_context()));
    assert!(store.fault().unwrap().contains("os error 5"));
    for pause in [200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
        let operations = disk.sim().operations;
        clock.advance(Duration::from_millis(pause - 1));
        store.recover(false);
        let refusal = refused(store.revoke_key(KeyId(1), &audit_context()));
        assert!(refusal.contains("changes are refused"), "{refusal}");
        assert_eq!(refusal.matches("cannot be read").count(), 1, "{refusal}");
        assert_eq!(disk.sim().operations, operations, "tried too early");
        clock.advance(Duration::from_millis(1));
        store.recover(false);
        assert!(disk.sim().operations > operations, "not tried");
        assert!(resolve(&store, 1).unwrap().unwrap().key.is_active());
        assert_eq!(store.usage(None, NOW, 10_000).unwrap().len(), 300);
    }
    disk.heal();
    // `at_once` does not wait for the interval.
    store.recover(true);
    assert_eq!(store.fault(), None);
    store.revoke(KeyId(1));
}

#[test]
fn a_failed_look_up_returns_at_once_and_the_file_is_reopened_meanwhile() {
    let (file, disk, clock, store) = world();
    drop(store);
    // Without a cache, every read reaches the disk.
    let store = disk.open_with_cache(&file, &clock, 0).unwrap();
    disk.fail(0, Failure::Once);
    refused(resolve(&store, 1));
    // Another thread reopens it; a change waits for that.
    store.add_org("other");
    assert!(resolve(&store, 1).unwrap().is_some());
    assert_eq!(store.fault(), None);
}

#[test]
fn a_damaged_block_fails_only_the_listings_that_read_it() {
    let (file, disk, clock, store) = world();
    drop(store);
    let store = disk.open_with_cache(&file, &clock, 0).unwrap();
    let list = || store.usage(None, NOW, 10_000).map(|rows| rows.len());
    let mut met = 0;
    loop {
        disk.fail(met, Failure::BadBlock);
        let listed = list();
        disk.heal();
        match listed {
            Ok(300) => break,
            // Without the block of all requests.
            Ok(0) => assert_eq!(store.warnings().len(), 1),
            listed => assert!(matches!(listed, Err(StoreError::Damaged(_))), "{listed:?}"),
        }
        met += 1;
        assert_eq!(store.fault(), None);
        // Neither look-ups nor changes wait for a retry.
        assert!(resolve(&store, 1).unwrap().is_some());
        let org = format!("org {met}");
        store.add_org(&org);
        assert_eq!(list().unwrap(), 300);
    }
    assert!(met >= 3, "{met}");
}

#[test]
fn a_batch_committed_without_acknowledgement_is_counted_once() {
    let (file, disk, clock, store) = world();
    let batch = requests(2, after(1), 100);
    let sound = disk.sim().cache.clone();
    store.record(&batch).unwrap();
    let expected = all_outcomes(&store);
    drop(store);

    let mut late_commits = 0;
    record_unacknowledged(&file, &clock, &sound, &batch, |store, recorded, at| {
        if recorded.is_err() {
            late_commits += u32::from(all_outcomes(store) == expected);
            store.record(&batch).unwrap();
        }
        assert!(all_outcomes(store) == expected, "at operation {at}");
    });
    assert!(
        late_commits > 0,
        "no commit was reported as failed and took effect"
    );
}

/// Regression: the lock was written again with the batch.
#[test]
fn a_lock_committed_without_acknowledgement_can_be_lifted_before_its_batch_is_recorded_again() {
    let (file, disk, clock, store) = world();
    let sound = disk.sim().cache.clone();
    drop(store);
    let lock = AuthFailure::BadKey.lock("192.0.2.1".parse().unwrap(), NOW);
    let batch = UsageBatch {
        locks: vec![LockChange::put(lock.clone())],
        now: NOW,
        ..UsageBatch::default()
    };

    let mut late_commits = 0;
    record_unacknowledged(&file, &clock, &sound, &batch, |store, recorded, at| {
        let is_stored = !store.locks().unwrap().is_empty();
        if recorded.is_err() {
            late_commits += u32::from(is_stored);
            store.apply_locks(&[LockChange::delete(&lock)]);
            store.record(&batch).unwrap();
            assert_eq!(
                store.locks().unwrap().is_empty(),
                is_stored,
                "at operation {at}"
            );
        }
    });
    assert!(
        late_commits > 0,
        "no commit was reported as failed and took effect"
    );
}

/// Records a batch once for each operation of the disk, which takes effect and is reported as failed. `then` gets the
/// recovered store, what recording returned, and the number of the operation.
fn record_unacknowledged(
    file: &File,
    clock: &ManualClock,
    sound: &[u8],
    batch: &UsageBatch,
    mut then: impl FnMut(&RedbStore, Result<(), StoreError>, u64),
) {
    for at in 0.. {
        let disk = Disk::holding(sound);
        let store = disk.open_with_cache(file, clock, 0).unwrap();
        disk.fail(at, Failure::UnacknowledgedThenGone);
        let recorded = store.record(batch);
        if !disk.sim().has_failed {
            break;
        }
        disk.heal();
        clock.advance(Duration::from_secs(5));
        store.recover(false);
        then(&store, recorded, at);
    }
}

/// Regression: the growing block was continued after pieces that no longer existed, and no batch could
/// be recorded any more.
#[test]
fn recording_continues_after_a_prune_committed_without_acknowledgement() {
    let (file, bytes) = template(300);
    let clock = ManualClock::starting_at(NOW);
    let batch = requests(2, NOW, 1);

    let mut surfaced = 0;
    for at in 0.. {
        let disk = Disk::holding(&bytes);
        let store = disk.open_with_cache(&file, &clock, 0).unwrap();
        // From now on the growing block is in memory.
        store.record(&batch).unwrap();
        disk.fail(at, Failure::UnacknowledgedThenGone);
        let pruned = store.prune(after(1), after(1));
        if !disk.sim().has_failed {
            break;
        }
        disk.heal();
        clock.advance(Duration::from_secs(5));
        store.recover(false);
        let left = store.usage(None, NOW, 10_000).unwrap().len();
        surfaced += u32::from(pruned.is_err() && left == 0);
        store.record(&batch).unwrap();
        assert_eq!(store.usage(None, NOW, 10_000).unwrap().len(), left + 1);
    }
    assert!(
        surfaced > 0,
        "no commit was reported as failed and took effect"
    );
}

#[test]
fn a_lock_removed_without_acknowledgement_is_reported() {
    let (file, disk, clock, store) = world();
    let lock = |ip: &str| AuthFailure::BadKey.lock(ip.parse().unwrap(), NOW);
    let (first, second) = (lock("192.0.2.1"), lock("192.0.2.2"));
    let both = [&first, &second].map(|lock| LockChange::put(lock.clone()));
    store.apply_locks(&both);
    let sound = disk.sim().cache.clone();
    drop(store);

    let mut late_commits = 0;
    for at in 0.. {
        let disk = Disk::holding(&sound);
        let store = disk.open_with_cache(&file, &clock, 0).unwrap();
        let reported = Arc::new(Mutex::new(Vec::new()));
        let listener = Arc::clone(&reported);
        store.subscribe(Box::new(move |change| {
            if let ChangeEvent::AllLocks { locks, .. } = change {
                *listener.lock().unwrap() = locks;
            }
        }));
        disk.fail(at, Failure::UnacknowledgedThenGone);
        let removed = store.change_locks(&[LockChange::delete(&first)], &audit_context());
        if !disk.sim().has_failed {
            break;
        }
        disk.heal();
        clock.advance(Duration::from_secs(5));
        store.recover(false);
        if removed.is_err() && store.locks().unwrap().len() == 1 {
            late_commits += 1;
            assert_eq!(*reported.lock().unwrap(), std::slice::from_ref(&second));
        }
    }
    assert!(
        late_commits > 0,
        "no commit was reported as failed and took effect"
    );
}
