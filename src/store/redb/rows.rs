//! Single rows, looked up and decoded.

use redb::ReadableTable;

use crate::model::{Key, KeyId, Org, OrgId};
use crate::store::StoreError;
use crate::store::codec::{Record, decode_key, decode_org};
use crate::store::totals::Activity;

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

/// Returns the activity of a key; the default for a key that was never used.
pub(super) fn activity_of(
    activity: &impl ReadableTable<u64, &'static [u8]>,
    id: KeyId,
) -> Result<Activity, StoreError> {
    let row = activity.get(id.0)?;
    let activity = row.map(|row| Activity::decode(row.value())).transpose()?;
    Ok(activity.unwrap_or_default())
}

pub(super) fn with_last_use(
    activity: &impl ReadableTable<u64, &'static [u8]>,
    key: Key,
) -> Result<Key, StoreError> {
    Ok(Key {
        last_used_at: activity_of(activity, key.id)?.last_used_at,
        ..key
    })
}

pub(super) fn missing(what: &str) -> StoreError {
    StoreError::damaged(format!("{what} is missing"))
}
