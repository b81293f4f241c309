//! A disk that fails: at any of its operations, once or until it is well again.

use std::ops::Bound;
use std::sync::Mutex;
use std::time::Duration;

use ::redb::StorageBackend;

use super::altered::{Answer, answers, say};
use super::*;
use crate::lockout::{AuthFailure, LockChange};

/// What goes wrong from an operation on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// One operation of any kind fails and does nothing.
    IdempotencyKey,
    /// One operation fails, and if it is a write the first half of it is done.
    Halfway,
    /// One operation is done and reported as failed.
    Unacknowledged,
    /// The same, and everything after it fails.
    UnacknowledgedThenGone,
    /// What is read by one operation is not as it was written.
    BadBlock,
    /// Writes and syncs fail.
    ReadOnly,
    /// Everything fails.
    Gone,
}

const FAILURES: [Failure; 5] = [
    Failure::IdempotencyKey,
    Failure::Halfway,
    Failure::Unacknowledged,
    Failure::ReadOnly,
    Failure::Gone,
];

/// A disk in memory, under a cache of the system. A sync that fails drops from the disk what was
/// written since the one before, and goes on showing it in the cache, as Linux does.
#[derive(Debug, Default)]
struct Sim {
    cache: Vec<u8>,
    disk: Vec<u8>,
    unsynced: Vec<Op>,
    operations: u64,
    /// From which operation on what goes wrong.
    failure: Option<(u64, Failure)>,
    has_failed: bool,
}

#[derive(Clone, Debug)]
enum Op {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

impl Op {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(at, data) => {
                bytes.resize(bytes.len().max(at + data.len()), 0);
                bytes[*at..at + data.len()].copy_from_slice(data);
            }
            Self::SetLen(len) => bytes.resize(*len, 0),
        }
    }
}

impl Sim {
    /// What happens to the next operation.
    fn next(&mut self, is_change: bool) -> Option<Failure> {
        self.operations += 1;
        let (from, failure) = self.failure?;
        let fails = match failure {
            Failure::IdempotencyKey
            | Failure::Halfway
            | Failure::Unacknowledged
            | Failure::BadBlock => self.operations == from,
            Failure::ReadOnly => self.operations >= from && is_change,
            Failure::Gone | Failure::UnacknowledgedThenGone => self.operations >= from,
        };
        self.has_failed |= fails;
        fails.then_some(match failure {
            Failure::UnacknowledgedThenGone if self.operations == from => Failure::Unacknowledged,
            failure => failure,
        })
    }

    fn make(&mut self, op: &Op) {
        op.apply(&mut self.cache);
        self.unsynced.push(op.clone());
    }

    fn change(&mut self, op: Op) -> io::Result<()> {
        match (self.next(true), op) {
            (None, op) => self.make(&op),
            (Some(Failure::Halfway), Op::Write(at, mut data)) => {
                data.truncate(data.len() / 2);
                self.make(&Op::Write(at, data));
                return Err(eio());
            }
            (Some(Failure::Unacknowledged), op) => {
                self.make(&op);
                return Err(eio());
            }
            _ => return Err(eio()),
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let failure = self.next(true);
        let unsynced = std::mem::take(&mut self.unsynced);
        if matches!(failure, None | Some(Failure::Unacknowledged)) {
            unsynced.iter().for_each(|op| op.apply(&mut self.disk));
        }
        failure.map_or(Ok(()), |_| Err(eio()))
    }
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

#[derive(Clone, Debug)]
struct Disk(Arc<Mutex<Sim>>);

impl Disk {
    fn holding(bytes: &[u8]) -> Self {
        Self(Arc::new(Mutex::new(Sim {
            cache: bytes.to_vec(),
            disk: bytes.to_vec(),
            ..Sim::default()
        })))
    }

    fn sim(&self) -> std::sync::MutexGuard<'_, Sim> {
        self.0.lock().unwrap()
    }

    /// Lets what goes wrong start `after` so many operations.
    fn fail(&self, after: u64, failure: Failure) {
        let mut sim = self.sim();
        sim.failure = Some((sim.operations + after + 1, failure));
    }

    fn heal(&self) {
        self.sim().failure = None;
    }

    fn open(&self, file: &File, clock: &ManualClock) -> RedbStore {
        self.open_with_cache(file, clock, CACHE).unwrap()
    }

    fn open_with_cache(
        &self,
        file: &File,
        clock: &ManualClock,
        cache_bytes: usize,
    ) -> Result<RedbStore, OpenError> {
        let clock = clock.clone().into();
        RedbStore::open_on(&file.path, SECRET, &clock, cache_bytes, |_| self.clone())
    }

    /// The disk as a power cut leaves it.
    fn cut_off(&self) -> Self {
        Self::holding(&self.sim().disk)
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.sim().cache.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut sim = self.sim();
        let failure = sim.next(false);
        if !matches!(failure, None | Some(Failure::BadBlock)) {
            return Err(eio());
        }
        let at = offset as usize;
        let bytes = sim.cache.get(at..at + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        if failure.is_some() {
            out[0] ^= 1;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.sim().change(Op::SetLen(len as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sim().sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.sim().change(Op::Write(offset as usize, data.to_vec()))
    }

    fn try_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }
}

/// A file with some of everything, and its bytes.
fn template() -> (File, Vec<u8>) {
    let file = File::new();
    let store = with_keys(&file, 5);
    store.record(&requests(1, NOW, 300)).unwrap();
    drop(store);
    let bytes = fs::read(&file.path).unwrap();
    (file, bytes)
}

type Step = fn(&RedbStore) -> Result<(), StoreError>;

/// Some of every kind of change, in an order in which each can be made once.
const STEPS: [(&str, Step); 8] = [
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
        let id = lock.id();
        store.change_locks(
            &[LockChange {
                id,
                lock: Some(lock),
            }],
            &audit_context(),
        )
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

fn all_answers(store: &RedbStore) -> Vec<Answer> {
    let mut all = answers(store);
    all.push(say(store.locks()));
    all.push(say(store.audit(None, 100)));
    all
}

/// What the store says before all steps and after each.
fn expected(file: &File, bytes: &[u8]) -> Vec<Vec<Answer>> {
    let store = Disk::holding(bytes).open(file, &ManualClock::starting_at(NOW));
    let mut expected = vec![all_answers(&store)];
    for (_, step) in STEPS {
        step(&store).unwrap();
        expected.push(all_answers(&store));
    }
    expected
}

/// Makes each step until it is made, on a disk that fails `at` an operation. Returns whether it was
/// reached.
fn survive(file: &File, bytes: &[u8], expected: &[Vec<Answer>], at: u64, failure: Failure) -> bool {
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
            // What failed changed nothing, and can be read without a restart.
            clock.advance(Duration::from_secs(5));
            store.recover(false);
            assert_eq!(store.fault(), None, "{}", context());
            let now = all_answers(&store);
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
        // Nor is anything lost if the power is cut now.
        let cut = disk.cut_off().open(file, &clock);
        assert!(all_answers(&cut) == expected[number + 1], "{}", context());
    }
    let has_failed = disk.sim().has_failed;
    disk.heal();
    drop(store);
    let closed = Disk::holding(&disk.sim().cache).open(file, &clock);
    assert!(all_answers(&closed) == expected[STEPS.len()]);
    has_failed
}

/// At each operation by one or two of the failures: all of them together would take too long.
#[test]
fn a_fault_at_any_operation_loses_nothing_and_ends_without_a_restart() {
    const STRIDE: u64 = 3;

    let (file, bytes) = template();
    let expected = expected(&file, &bytes);
    for (offset, failure) in (0..).zip(FAILURES) {
        let mut at = offset % STRIDE;
        while survive(&file, &bytes, &expected, at, failure) {
            at += STRIDE;
        }
        assert!(at > 50, "{failure:?}: {at}");
    }
}

/// A store, its disk and its clock.
fn world() -> (File, Disk, ManualClock, RedbStore) {
    let (file, bytes) = template();
    let (disk, clock) = (Disk::holding(&bytes), ManualClock::starting_at(NOW));
    let store = disk.open(&file, &clock);
    (file, disk, clock, store)
}

fn refused(result: Result<impl std::fmt::Debug, StoreError>) -> String {
    match result {
        Err(error @ StoreError::Unavailable(_)) => error.describe(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn changes_are_refused_at_growing_intervals_while_the_disk_fails_and_reads_go_on() {
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
        assert!(resolve(&store, 1).unwrap().unwrap().key.active);
        assert_eq!(store.usage(None, NOW, 10_000).unwrap().len(), 300);
    }
    disk.heal();
    // Whoever asks for it does not wait.
    store.recover(true);
    assert_eq!(store.fault(), None);
    store.revoke_key(KeyId(1), &audit_context()).unwrap();
}

#[test]
fn a_look_up_that_fails_does_not_wait_and_the_file_is_opened_anew_meanwhile() {
    let (file, disk, clock, store) = world();
    drop(store);
    // Without a cache of its own every look reaches the disk.
    let store = disk.open_with_cache(&file, &clock, 0).unwrap();
    disk.fail(0, Failure::IdempotencyKey);
    refused(resolve(&store, 1));
    // By a thread of its own; a change waits for it.
    store.create_org("other", &audit_context()).unwrap();
    assert!(resolve(&store, 1).unwrap().is_some());
    assert_eq!(store.fault(), None);
}

#[test]
fn a_bad_block_fails_the_listing_that_meets_it_and_nothing_else() {
    let (file, disk, clock, store) = world();
    drop(store);
    let store = disk.open_with_cache(&file, &clock, 0).unwrap();
    let list = || store.usage(None, NOW, 10_000).map(|rows| rows.len());
    let mut met = 0;
    loop {
        disk.fail(met, Failure::BadBlock);
        let listed = list();
        disk.heal();
        if listed.is_ok() {
            break;
        }
        met += 1;
        assert!(matches!(listed, Err(StoreError::Damaged(_))), "{listed:?}");
        assert_eq!(store.fault(), None);
        // Neither a look-up nor a change has to wait for the next attempt.
        assert!(resolve(&store, 1).unwrap().is_some());
        let org = format!("org {met}");
        store.create_org(&org, &audit_context()).unwrap();
        assert_eq!(list().unwrap(), 300);
    }
    assert!(met >= 3, "{met}");
}

#[test]
fn an_older_file_in_the_place_of_the_open_one_is_refused() {
    let (_file, disk, _, store) = world();
    let older = disk.sim().cache.clone();
    store.revoke_key(KeyId(1), &audit_context()).unwrap();
    store.revoke_key(KeyId(2), &audit_context()).unwrap();
    disk.sim().cache = older;
    disk.fail(0, Failure::IdempotencyKey);
    let _ = store.revoke_key(KeyId(3), &audit_context());
    disk.heal();
    store.recover(true);
    assert!(store.fault().is_some());
    refused(store.revoke_key(KeyId(3), &audit_context()));
}

#[test]
fn no_other_opener_comes_in_between() {
    let file = File::new();
    let store = with_keys(&file, 1);
    store.session().fail();
    assert!(matches!(open(&file.path), Err(OpenError::InUse { .. })));
    store.create_org("other", &audit_context()).unwrap();
    assert!(matches!(open(&file.path), Err(OpenError::InUse { .. })));
    drop(store);
    assert_eq!(open(&file.path).unwrap().totals(NOW).unwrap().orgs, 2);
}

#[test]
fn a_file_that_was_deleted_or_replaced_takes_no_changes_until_it_is_back() {
    let file = File::new();
    let clock = ManualClock::starting_at(NOW);
    let store = RedbStore::open(&file.path, SECRET, &clock.clone().into(), CACHE).unwrap();
    let away = file.path.with_extension("away");
    fs::rename(&file.path, &away).unwrap();
    let refusal = refused(store.create_org("lost", &audit_context()));
    assert!(refusal.contains("deleted or moved away"), "{refusal}");

    fs::write(&file.path, b"another").unwrap();
    clock.advance(Duration::from_secs(5));
    let refusal = refused(store.create_org("lost", &audit_context()));
    assert!(
        refusal.contains("another file is in the place"),
        "{refusal}"
    );
    assert_eq!(fs::read(&file.path).unwrap(), b"another");
    assert_eq!(store.totals(NOW).unwrap().orgs, 0);

    fs::rename(&away, &file.path).unwrap();
    clock.advance(Duration::from_secs(5));
    store.recover(false);
    assert_eq!(store.fault(), None);
    store.create_org("acme", &audit_context()).unwrap();

    // Noticed without a change too.
    fs::remove_file(&file.path).unwrap();
    store.recover(false);
    assert!(store.fault().unwrap().contains("deleted or moved away"));
}

#[test]
fn a_file_that_was_cut_off_or_overwritten_takes_no_changes_until_it_is_back() {
    type Damage = fn(&Path, older: &[u8]);
    let damages: [Damage; 4] = [
        |path, _| fs::write(path, b"").unwrap(),
        |path, _| fs::write(path, b"something else\n".repeat(1_000_000)).unwrap(),
        |path, older| fs::write(path, older).unwrap(),
        |path, _| {
            let file = fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(file.metadata().unwrap().len() - 1).unwrap();
        },
    ];
    for damage in damages {
        let file = File::new();
        let clock = ManualClock::starting_at(NOW);
        drop(with_keys(&file, 2));
        let store = RedbStore::open(&file.path, SECRET, &clock.clone().into(), CACHE).unwrap();
        store.create_org("one", &audit_context()).unwrap();
        let older = fs::read(&file.path).unwrap();
        store.create_org("two", &audit_context()).unwrap();
        let sound = fs::read(&file.path).unwrap();

        damage(&file.path, &older);
        let damaged = fs::read(&file.path).unwrap();
        let refusal = refused(store.revoke_key(KeyId(1), &audit_context()));
        assert!(refusal.contains("cut off or overwritten"), "{refusal}");
        assert!(store.fault().unwrap().contains("cut off or overwritten"));
        assert!(fs::read(&file.path).unwrap() == damaged);

        fs::write(&file.path, &sound).unwrap();
        clock.advance(Duration::from_secs(5));
        store.recover(false);
        assert_eq!(store.fault(), None);
        store.revoke_key(KeyId(1), &audit_context()).unwrap();

        // Noticed without a change too, and closing writes nothing to it.
        damage(&file.path, &older);
        let damaged = fs::read(&file.path).unwrap();
        store.recover(false);
        assert!(store.fault().unwrap().contains("cut off or overwritten"));
        drop(store);
        assert!(fs::read(&file.path).unwrap() == damaged);
    }
}

#[test]
fn a_batch_whose_commit_turns_out_to_be_there_later_is_counted_once() {
    let (file, disk, clock, store) = world();
    let batch = requests(2, after(1), 100);
    let sound = disk.sim().cache.clone();
    store.record(&batch).unwrap();
    let expected = all_answers(&store);
    drop(store);

    let mut surfaced = 0;
    for at in 0.. {
        let disk = Disk::holding(&sound);
        let store = disk.open_with_cache(&file, &clock, 0).unwrap();
        disk.fail(at, Failure::UnacknowledgedThenGone);
        let recorded = store.record(&batch);
        if !disk.sim().has_failed {
            break;
        }
        disk.heal();
        clock.advance(Duration::from_secs(5));
        store.recover(false);
        if recorded.is_err() {
            surfaced += u32::from(all_answers(&store) == expected);
            store.record(&batch).unwrap();
        }
        assert!(all_answers(&store) == expected, "at operation {at}");
    }
    assert!(
        surfaced > 0,
        "no commit was reported as failed and was there"
    );
}

#[test]
fn a_lock_whose_removal_turns_out_to_be_stored_later_is_told_to_be_gone() {
    let (file, disk, clock, store) = world();
    let lock = |ip: &str| AuthFailure::BadKey.lock(ip.parse().unwrap(), NOW);
    let change = |lock: &Lock, is_there: bool| LockChange {
        id: lock.id(),
        lock: is_there.then(|| lock.clone()),
    };
    let (first, second) = (lock("192.0.2.1"), lock("192.0.2.2"));
    let both = [change(&first, true), change(&second, true)];
    store.change_locks(&both, &audit_context()).unwrap();
    let sound = disk.sim().cache.clone();
    drop(store);

    let mut surfaced = 0;
    for at in 0.. {
        let disk = Disk::holding(&sound);
        let store = disk.open_with_cache(&file, &clock, 0).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let listener = Arc::clone(&told);
        store.follow(Box::new(move |change| {
            if let Change::AllLocks(locks) = change {
                *listener.lock().unwrap() = locks;
            }
        }));
        disk.fail(at, Failure::UnacknowledgedThenGone);
        let lifted = store.change_locks(&[change(&first, false)], &audit_context());
        if !disk.sim().has_failed {
            break;
        }
        disk.heal();
        clock.advance(Duration::from_secs(5));
        store.recover(false);
        if lifted.is_err() && store.locks().unwrap().len() == 1 {
            surfaced += 1;
            assert_eq!(*told.lock().unwrap(), std::slice::from_ref(&second));
        }
    }
    assert!(
        surfaced > 0,
        "no commit was reported as failed and was there"
    );
}
