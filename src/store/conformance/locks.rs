//! Locks of addresses.

use super::{Changes, NOW, TestDatabase};
use crate::lockout::{AuthFailure, LockChange};
use crate::store::UsageBatch;

pub(in crate::store) fn locks_are_added_and_removed(database: &dyn TestDatabase) {
    let store = database.open();
    let lock = |ip: &str| AuthFailure::BadKey.lock(ip.parse().unwrap(), NOW);
    let (manual, automatic) = (lock("192.0.2.1"), lock("2001:db8::1"));
    store.apply_locks(&[LockChange::put(manual.clone())]);
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
    store.apply_locks(&[LockChange::delete(&manual)]);
    assert_eq!(store.locks().unwrap(), std::slice::from_ref(&automatic));
    let ended = UsageBatch {
        locks: vec![LockChange::delete(&automatic)],
        now: automatic.until,
        ..UsageBatch::default()
    };
    store.record(&ended).unwrap();
    assert_eq!(store.locks().unwrap(), []);
}
