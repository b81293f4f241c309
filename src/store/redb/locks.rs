//! Locks of addresses.

use redb::{ReadTransaction, ReadableTable, WriteTransaction};

use super::tables::LOCKS;
use crate::lockout::{Lock, LockChange};
use crate::store::StoreError;
use crate::store::codec::{decode_lock, encode_lock, lock_key};

pub(super) fn all(txn: &ReadTransaction) -> Result<Vec<Lock>, StoreError> {
    let table = txn.open_table(LOCKS)?;
    let rows = table.iter()?.map(|row| {
        let (key, row) = row?;
        decode_lock(key.value(), row.value())
    });
    rows.collect()
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
