//! The audit log: an entry for each change, in the transaction that makes it.

use redb::{ReadTransaction, ReadableTable, WriteTransaction};

use super::tables::{AUDIT, COMPLETED_REQUESTS};
use crate::model::AuditEntry;
use crate::store::codec::{
    decode_completed_request, decode_entry, encode_completed_request, encode_entry,
};
use crate::store::{AuditContext, CompletedRequest, StoreError};
use crate::time::Timestamp;

/// Fails if the request was completed before.
pub(super) fn begin(txn: &WriteTransaction, audit: &AuditContext) -> Result<(), StoreError> {
    let Some(key) = &audit.idempotency_key else {
        return Ok(());
    };
    match txn.open_table(COMPLETED_REQUESTS)?.get(&key.name)? {
        Some(row) => key.check(&decode_completed_request(row.value())?, audit.at),
        None => Ok(()),
    }
}

/// Appends an entry for a change, and completes its request.
pub(super) fn append(
    txn: &WriteTransaction,
    audit: &AuditContext,
    subject: Option<u64>,
) -> Result<(), StoreError> {
    let mut log = txn.open_table(AUDIT)?;
    let id = log.last()?.map_or(1, |(id, _)| id.value() + 1);
    log.insert(id, encode_entry(audit, subject)?.as_slice())?;
    if let Some(key) = &audit.idempotency_key {
        let completed = encode_completed_request(&CompletedRequest {
            at: audit.at,
            request: key.request,
            subject,
        })?;
        txn.open_table(COMPLETED_REQUESTS)?
            .insert(&key.name, completed.as_slice())?;
    }
    Ok(())
}

pub(super) fn log(
    txn: &ReadTransaction,
    before: Option<u64>,
    limit: usize,
) -> Result<Vec<AuditEntry>, StoreError> {
    let log = txn.open_table(AUDIT)?;
    let rows = log.range(..before.unwrap_or(u64::MAX))?.rev().take(limit);
    let entry = |row: Result<_, redb::StorageError>| {
        let (id, bytes): (redb::AccessGuard<'_, u64>, redb::AccessGuard<'_, &[u8]>) = row?;
        decode_entry(id.value(), bytes.value())
    };
    rows.map(entry).collect()
}

/// Returns the names of at most `most` completed requests that are no longer remembered at `now`.
pub(super) fn expired_requests(
    txn: &ReadTransaction,
    now: Timestamp,
    most: usize,
) -> Result<Vec<[u8; 32]>, StoreError> {
    let mut expired = Vec::new();
    // Reads all of them: rows are in the order of hashes, not of times.
    for row in txn.open_table(COMPLETED_REQUESTS)?.iter()? {
        let (name, completed) = row?;
        if decode_completed_request(completed.value())?.is_expired(now) {
            expired.push(*name.value());
        }
        if expired.len() == most {
            break;
        }
    }
    Ok(expired)
}
