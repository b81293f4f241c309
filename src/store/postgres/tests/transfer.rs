//! Tests of transfers between a file and a database.

use super::*;
use crate::lockout::AuthFailure;
use crate::model::HashScheme;
use crate::store::RedbStore;
use crate::store::conformance::{assert_same, contents, full, retiring};
use crate::store::transfer::transfer_all;
use crate::time::Clock;

struct File(tempfile::TempDir);

impl File {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
}

impl TestDatabase for File {
    fn open(&self) -> Box<dyn Store> {
        let path = self.0.path().join("keyguard.redb");
        Box::new(RedbStore::open(&path, SECRET, &Clock::system(), 16 << 20).unwrap())
    }

    fn another(&self) -> Box<dyn TestDatabase> {
        Box::new(Self::new())
    }
}

#[test]
fn transfers_round_trip() {
    let (from, database, to) = (File::new(), Database::new(), File::new());
    let (original, between, copy) = (full(&from), open(&database), to.open());
    for _ in 0..2 {
        transfer_all(&*original, &between, |_| {}).unwrap();
        assert_same(&between, &*original);
        transfer_all(&between, &*copy, |_| {}).unwrap();
        assert_same(&*copy, &*original);
    }
    // The displayed credential follows.
    let shown = "SELECT string_agg(hashed_key, ' ' ORDER BY id) FROM api_keys WHERE id < 3";
    let hashes = [hash(1), hash(5_001)].map(|hash| rows::hex(&hash.0));
    assert_eq!(database.value(shown), hashes.join(" "));
}

#[test]
fn imports_are_reported_once() {
    let (database, source) = (Database::new(), Database::new());
    let (from, one) = (with_keys(&source, 2), open(&database));
    transfer_all(&*from, &one, |_| {}).unwrap();
    let other = open(&database);
    let changes = changes_of(&other);
    assert!(resolve(&other, 3).unwrap().is_none());

    from.suspend(OrgId(1));
    from.revoke(KeyId(2));
    from.add_key(OrgId(1), 3);
    let lock = AuthFailure::BadKey.lock("192.0.2.1".parse().unwrap(), NOW);
    from.apply_locks(&[LockChange::put(lock.clone())]);
    transfer_all(&*from, &one, |_| {}).unwrap();
    wait_for(&changes, |change| {
        matches!(change, ChangeEvent::Org(OrgId(1)))
    });
    wait_for(&changes, is_of_key(2));
    wait_for(
        &changes,
        |change| matches!(change, ChangeEvent::Locks(locks) if locks[0].lock.as_ref() == Some(&lock)),
    );
    wait_until(|| resolve(&other, 3).unwrap().is_some());

    // Nothing changed, so the next change is the next report.
    transfer_all(&*from, &one, |_| {}).unwrap();
    one.revoke(KeyId(1));
    let next = changes.recv_timeout(SOON).unwrap();
    assert!(is_of_key(1)(&next), "{next:?}");
}

#[test]
fn rehashed_credentials_are_reported_and_displayed() {
    let database = Database::new();
    let mut page = contents(&*with_keys(&Database::new(), 2));
    for (moved, n) in page.keys.iter_mut().zip(901..) {
        moved.credentials[0].scheme = HashScheme::Sha256;
        moved.credentials[0].hash = hash(n);
    }
    let (one, other) = (open(&database), open(&database));
    one.import(&page).unwrap();
    // An older text is not displayed.
    one.add_credential(
        KeyId(2),
        new_key(OrgId(1), 3).1,
        retiring(NOW),
        &audit_context(),
    )
    .unwrap();
    let changes = changes_of(&other);
    let jobs = [1, 2].map(|n| Rehash {
        old: hash(900 + n),
        new: hash(n),
    });
    one.rehash(&jobs, &audit_context()).unwrap();
    wait_for(&changes, is_of_key(1));
    wait_for(&changes, is_of_key(2));
    let shown = "SELECT string_agg(hashed_key, ' ' ORDER BY id) FROM api_keys";
    let hashes = [hash(1), hash(3)].map(|hash| rows::hex(&hash.0));
    assert_eq!(database.value(shown), hashes.join(" "));
    assert_eq!(one.audit_log(None, 9).unwrap().len(), 3);
}
