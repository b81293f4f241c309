//! Who is locked out.

use redb::{ReadTransaction, ReadableTable, WriteTransaction};

use super::rows::existing;
use crate::lockout::{Lock, LockChange};
use crate::store::StoreError;
use crate::store::codec::{LOCKS, decode_lock, encode_lock, lock_key};

pub(super) fn all(txn: &ReadTransaction) -> Result<Vec<Lock>, StoreError> {
    let Some(table) = existing(txn, LOCKS)? else {
        return Ok(Vec::new());
    };
    let mut locks = Vec::new();
    for row in table.iter()? {
        let (key, row) = row?;
        locks.push(decode_lock(key.value(), row.value())?);
    }
    Ok(locks)
}

pub(super) fn change(txn: &WriteTransaction, changes: &[LockChange]) -> Result<(), StoreError> {
    let mut locks = txn.open_table(LOCKS)?;
    for LockChange { id, lock } in changes {
        let key = lock_key(id);
        match lock {
            Some(lock) => locks.insert(key.as_slice(), encode_lock(lock)?.as_slice())?,
            None => locks.remove(key.as_slice())?,
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lockout::AuthFailure;
    use crate::store::Store;
    use crate::store::redb::RedbStore;
    use crate::store::redb::tests::audit_context;
    use crate::time::{Clock, Timestamp};

    #[test]
    fn a_file_from_before_there_were_locks_takes_them() {
        let dir = tempfile::tempdir().unwrap();
        let secret = crate::model::Secret::from("secret").fingerprint();
        let file = dir.path().join("old.redb");
        let store = RedbStore::open(&file, secret, &Clock::system(), 1 << 20).unwrap();
        store.write(|txn| Ok(txn.delete_table(LOCKS)?)).unwrap();
        assert_eq!(store.locks().unwrap(), []);
        let lock = AuthFailure::BadKey.lock("192.0.2.1".parse().unwrap(), Timestamp::default());
        let stored = LockChange {
            id: lock.id(),
            lock: Some(lock.clone()),
        };
        store
            .change_locks(std::slice::from_ref(&stored), &audit_context())
            .unwrap();
        assert_eq!(store.locks().unwrap(), [lock]);
        let gone = LockChange {
            lock: None,
            ..stored
        };
        store.change_locks(&[gone], &audit_context()).unwrap();
        assert_eq!(store.locks().unwrap(), []);
    }
}
