//! Single rows, looked up and decoded.

use redb::{ReadOnlyTable, ReadTransaction, ReadableTable, TableDefinition, TableError, Value};

use crate::model::{Key, KeyId, Org, OrgId};
use crate::store::StoreError;
use crate::store::codec::{Activity, Record, decode_key, decode_org};

pub(super) fn find_org(
    orgs: &impl ReadableTable<u64, &'static [u8]>,
    id: OrgId,
) -> Result<Option<Org>, StoreError> {
    let row = orgs.get(id.0)?;
    row.map(|row| decode_org(id, row.value())).transpose()
}

pub(super) fn find_key(
    keys: &impl ReadableTable<u64, &'static [u8]>,
    id: KeyId,
) -> Result<Option<Key>, StoreError> {
    let row = keys.get(id.0)?;
    row.map(|row| decode_key(id, row.value())).transpose()
}

pub(super) fn with_last_use(
    activity: &impl ReadableTable<u64, &'static [u8]>,
    key: Key,
) -> Result<Key, StoreError> {
    let row = activity.get(key.id.0)?;
    let activity = row.map(|row| Activity::decode(row.value())).transpose()?;
    Ok(Key {
        last_used_at: activity.and_then(|activity| activity.last_used_at),
        ..key
    })
}

pub(super) fn missing(what: &str) -> StoreError {
    StoreError::Damaged(format!("{what} is not where it must be"))
}

/// A table, unless the file is from before there was one; the first row makes it.
pub(super) fn existing<K: redb::Key, V: Value>(
    txn: &ReadTransaction,
    table: TableDefinition<'static, K, V>,
) -> Result<Option<ReadOnlyTable<K, V>>, StoreError> {
    match txn.open_table(table) {
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        table => Ok(Some(table?)),
    }
}
