//! Who is locked out.

use redb::{ReadTransaction, ReadableTable, WriteTransaction};

use crate::lockout::{Lock, LockChange};
use crate::store::StoreError;
use crate::store::codec::{LOCKS, decode_lock, encode_lock, lock_key};

pub(super) fn all(txn: &ReadTransaction) -> Result<Vec<Lock>, StoreError> {
    let mut locks = Vec::new();
    for row in txn.open_table(LOCKS)?.iter()? {
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
