//! Locks of addresses.

use super::{NOW, TestDatabase, audit_context};
use crate::lockout::{AuthFailure, LockChange};
use crate::store::UsageBatch;

pub(in crate::store) fn locks_are_added_and_removed(database: &dyn TestDatabase) {
    let store = database.open();
    let lock = |ip: &str| AuthFailure::BadKey.lock(ip.parse().unwrap(), NOW);
    let (manual, automatic) = (lock("192.0.2.1"), lock("2001:db8::1"));
    store
        .change_locks(&[LockChange::put(manual.clone())], &audit_context())
        .unwrap();
    let batch = UsageBatch {
        locks: vec![LockChange::put(automatic.clone())],
        ..UsageBatch::default()
    };
    store.record(&batch).unwrap();
    let mut locks = store.locks().unwrap();
    locks.sort_by_key(|lock| lock.id());
    let mut both = [manual.clone(), automatic.clone()];
    both.sort_by_key(|lock| lock.id());
    assert_eq!(locks, both);
    store
        .change_locks(&[LockChange::delete(&manual)], &audit_context())
        .unwrap();
    assert_eq!(store.locks().unwrap(), std::slice::from_ref(&automatic));
    let ended = UsageBatch {
        locks: vec![LockChange::delete(&automatic)],
        now: automatic.until,
        ..UsageBatch::default()
    };
    store.record(&ended).unwrap();
    assert_eq!(store.locks().unwrap(), []);
}
