//! The audit log: an entry for each change, in the transaction that makes it.

use redb::{ReadTransaction, ReadableTable, WriteTransaction};

use super::rows::existing;
use crate::model::AuditEntry;
use crate::store::codec::{AUDIT, DONE, decode_done, decode_entry, encode_done, encode_entry};
use crate::store::{AuditContext, StoreError};
use crate::time::Timestamp;

/// That the act was not done before.
pub(super) fn begin(txn: &WriteTransaction, audit: &AuditContext) -> Result<(), StoreError> {
    let Some(once) = &audit.once else {
        return Ok(());
    };
    let table = txn.open_table(DONE)?;
    let Some(row) = table.get(&once.name)? else {
        return Ok(());
    };
    let done = decode_done(row.value())?;
    if done.is_over(audit.at) {
        return Ok(());
    }
    match done.request == once.request {
        true => Err(StoreError::Done(done.subject)),
        false => Err(StoreError::OtherDone),
    }
}

/// Enters an act that was done.
pub(super) fn enter(
    txn: &WriteTransaction,
    audit: &AuditContext,
    subject: Option<u64>,
) -> Result<(), StoreError> {
    let mut table = txn.open_table(AUDIT)?;
    let id = table.last()?.map_or(1, |(id, _)| id.value() + 1);
    table.insert(id, encode_entry(audit, subject)?.as_slice())?;
    if let Some(once) = &audit.once {
        let done = encode_done(once, audit.at, subject)?;
        txn.open_table(DONE)?.insert(&once.name, done.as_slice())?;
    }
    Ok(())
}

pub(super) fn before(
    txn: &ReadTransaction,
    id: Option<u64>,
    limit: usize,
) -> Result<Vec<AuditEntry>, StoreError> {
    let Some(table) = existing(txn, AUDIT)? else {
        return Ok(Vec::new());
    };
    let rows = table.range(..id.unwrap_or(u64::MAX))?.rev().take(limit);
    let entry = |row: Result<_, redb::StorageError>| {
        let (id, bytes): (redb::AccessGuard<'_, u64>, redb::AccessGuard<'_, &[u8]>) = row?;
        decode_entry(id.value(), bytes.value())
    };
    rows.map(entry).collect()
}

/// Idempotency keys that are forgotten by now, at most `most`.
pub(super) fn over(
    txn: &ReadTransaction,
    now: Timestamp,
    most: usize,
) -> Result<Vec<[u8; 32]>, StoreError> {
    let Some(table) = existing(txn, DONE)? else {
        return Ok(Vec::new());
    };
    let mut over = Vec::new();
    // All of them are looked at: they lie by their hashes, the old among the new.
    for row in table.iter()? {
        let (name, done) = row?;
        if decode_done(done.value())?.is_over(now) {
            over.push(*name.value());
        }
        if over.len() == most {
            break;
        }
    }
    Ok(over)
}
