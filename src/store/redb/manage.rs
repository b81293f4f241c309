//! Organizations and keys.

use std::ops::Bound;

use redb::{ReadTransaction, ReadableTable, Table, WriteTransaction};

use super::credentials::Credentials;
use super::rows::{find_key, find_org, missing, with_last_use};
use crate::input::text;
use crate::model::{Key, KeyId, KeyStatus, Org, OrgId, OrgStatus};
use crate::store::codec::{
    ACTIVITY, Counters, EXPIRIES, KEYS, META, ORG_KEYS, ORG_NAMES, ORG_SKELETONS, ORGS, Record,
    decode_key, decode_org, encode_key, encode_org, meta,
};
use crate::store::{KeyChange, NewCredential, NewKey, OrgChange, Rotation, StoreError, set};
use crate::time::Timestamp;

pub(super) fn create_org(
    txn: &WriteTransaction,
    name: &str,
    at: Timestamp,
) -> Result<Org, StoreError> {
    let mut names = txn.open_table(ORG_NAMES)?;
    if names.get(name)?.is_some() {
        return Err(StoreError::DuplicateOrg(name.into()));
    }
    let mut orgs = txn.open_table(ORGS)?;
    let mut skeletons = txn.open_table(ORG_SKELETONS)?;
    let skeleton = text::skeleton(name);
    let similar = skeletons.get(skeleton.as_str())?.map(|id| id.value());
    if let Some(similar) = similar
        && let Some(there) = find_org(&orgs, OrgId(similar))?
    {
        return Err(StoreError::SimilarOrg(there.name));
    }
    let mut counters = counters(txn)?;
    counters.last_org_id += 1;
    counters.orgs += 1;
    let org = Org {
        id: OrgId(counters.last_org_id),
        name: name.into(),
        status: OrgStatus::Active,
        limits: Vec::new(),
        lifts: Vec::new(),
        created_at: at,
    };
    names.insert(name, org.id.0)?;
    skeletons.insert(skeleton.as_str(), org.id.0)?;
    put_org(&mut orgs, &org)?;
    set_counters(txn, &counters)?;
    Ok(org)
}

pub(super) fn org(txn: &ReadTransaction, id: OrgId) -> Result<Org, StoreError> {
    find_org(&txn.open_table(ORGS)?, id)?.ok_or(StoreError::NoOrg(id))
}

pub(super) fn org_named(txn: &ReadTransaction, name: &str) -> Result<Org, StoreError> {
    match txn.open_table(ORG_NAMES)?.get(name)? {
        Some(id) => org(txn, OrgId(id.value())),
        None => Err(StoreError::NoOrgNamed(name.into())),
    }
}

pub(super) fn orgs(
    txn: &ReadTransaction,
    after: Option<OrgId>,
    limit: usize,
) -> Result<Vec<Org>, StoreError> {
    let orgs = txn.open_table(ORGS)?;
    let above = (above(after.map(|id| id.0)), Bound::Unbounded);
    let rows = orgs.range::<u64>(above)?.take(limit).map(|row| {
        let (id, bytes) = row?;
        decode_org(OrgId(id.value()), bytes.value())
    });
    rows.collect()
}

pub(super) fn update_org(
    txn: &WriteTransaction,
    id: OrgId,
    change: &OrgChange,
) -> Result<Org, StoreError> {
    let mut orgs = txn.open_table(ORGS)?;
    let mut org = find_org(&orgs, id)?.ok_or(StoreError::NoOrg(id))?;
    let OrgChange {
        status,
        limits,
        lift,
    } = change;
    set(&mut org.status, status);
    set(&mut org.limits, limits);
    if let Some(lift) = lift {
        lift.add_to(&mut org.lifts);
    }
    put_org(&mut orgs, &org)?;
    Ok(org)
}

pub(super) fn create_keys(
    txn: &WriteTransaction,
    new: &[(NewKey, NewCredential)],
) -> Result<Vec<Key>, StoreError> {
    let orgs = txn.open_table(ORGS)?;
    let mut keys = txn.open_table(KEYS)?;
    let mut org_keys = txn.open_table(ORG_KEYS)?;
    let mut credentials = Credentials::open(txn)?;
    let mut counters = counters(txn)?;

    let mut created = Vec::with_capacity(new.len());
    let mut hashes = Vec::with_capacity(new.len());
    for (new, credential) in new {
        if orgs.get(new.org_id.0)?.is_none() {
            return Err(StoreError::NoOrg(new.org_id));
        }
        counters.last_key_id += 1;
        counters.keys += 1;
        counters.active_keys += 1;
        let key = key_of(KeyId(counters.last_key_id), new, &credential.shown_prefix);
        keys.insert(key.id.0, encode_key(&key)?.as_slice())?;
        org_keys.insert((key.org_id.0, key.id.0), ())?;
        note_expiry(txn, None, &key)?;
        credentials.list(key.id, &credential.hash)?;
        hashes.push((credential.hash, key.id, credential.created_at));
        created.push(key);
    }
    // In the order of the table, many rows are written faster and take less room.
    hashes.sort_unstable_by_key(|(hash, ..)| hash.0);
    for (hash, key_id, created_at) in hashes {
        credentials.insert(hash, key_id, created_at)?;
    }
    set_counters(txn, &counters)?;
    Ok(created)
}

fn key_of(id: KeyId, new: &NewKey, prefix: &str) -> Key {
    Key {
        id,
        org_id: new.org_id,
        label: new.label.clone(),
        prefix: prefix.to_owned(),
        active: true,
        status: KeyStatus::Active,
        scopes: new.scopes.clone(),
        rate_limit_per_minute: new.rate_limit_per_minute,
        limits: new.limits.clone(),
        allowed_ips: new.allowed_ips.clone(),
        lifts: Vec::new(),
        created_at: new.created_at,
        expires_at: new.expires_at,
        last_used_at: None,
    }
}

pub(super) fn key(txn: &ReadTransaction, id: KeyId) -> Result<Key, StoreError> {
    let key = find_key(&txn.open_table(KEYS)?, id)?.ok_or(StoreError::NoKey(id))?;
    with_last_use(&txn.open_table(ACTIVITY)?, key)
}

pub(super) fn keys(
    txn: &ReadTransaction,
    org: Option<OrgId>,
    after: Option<KeyId>,
    limit: usize,
) -> Result<Vec<Key>, StoreError> {
    let keys = txn.open_table(KEYS)?;
    let activity = txn.open_table(ACTIVITY)?;
    let Some(org) = org else {
        let above = (above(after.map(|id| id.0)), Bound::Unbounded);
        let rows = keys.range::<u64>(above)?.take(limit).map(|row| {
            let (id, bytes) = row?;
            with_last_use(&activity, decode_key(KeyId(id.value()), bytes.value())?)
        });
        return rows.collect();
    };
    if txn.open_table(ORGS)?.get(org.0)?.is_none() {
        return Err(StoreError::NoOrg(org));
    }
    // Ids start at 1, so that nothing is at 0.
    let above = Bound::Excluded((org.0, after.map_or(0, |id| id.0)));
    let of_org = (above, Bound::Included((org.0, u64::MAX)));
    let rows = txn.open_table(ORG_KEYS)?.range::<(u64, u64)>(of_org)?;
    let rows = rows.take(limit).map(|row| {
        let id = KeyId(row?.0.value().1);
        let key = find_key(&keys, id)?.ok_or_else(|| missing("a key"))?;
        with_last_use(&activity, key)
    });
    rows.collect()
}

pub(super) fn update_key(
    txn: &WriteTransaction,
    id: KeyId,
    change: &KeyChange,
) -> Result<Key, StoreError> {
    change_key(txn, id, |key| change.apply(key))
}

pub(super) fn add_credential(
    txn: &WriteTransaction,
    id: KeyId,
    credential: &NewCredential,
    rotation: Rotation,
) -> Result<Key, StoreError> {
    let mut retire_at = rotation.retire_at;
    let key = change_key(txn, id, |key| {
        if !key.active {
            return Err(StoreError::Revoked(id));
        }
        retire_at = rotation.apply(key)?;
        key.prefix.clone_from(&credential.shown_prefix);
        Ok(())
    })?;
    let mut credentials = Credentials::open(txn)?;
    credentials.retire(id, retire_at)?;
    credentials.list(id, &credential.hash)?;
    credentials.insert(credential.hash, id, credential.created_at)?;
    Ok(key)
}

/// Revoking twice is revoking.
pub(super) fn revoke_key(txn: &WriteTransaction, id: KeyId) -> Result<Key, StoreError> {
    let mut was_active = false;
    let key = change_key(txn, id, |key| {
        was_active = std::mem::replace(&mut key.active, false);
        key.status = KeyStatus::Revoked;
        Ok(())
    })?;
    if was_active {
        let mut counters = counters(txn)?;
        counters.active_keys = counters.active_keys.saturating_sub(1);
        set_counters(txn, &counters)?;
    }
    Ok(key)
}

fn change_key(
    txn: &WriteTransaction,
    id: KeyId,
    change: impl FnOnce(&mut Key) -> Result<(), StoreError>,
) -> Result<Key, StoreError> {
    let mut keys = txn.open_table(KEYS)?;
    let before = find_key(&keys, id)?.ok_or(StoreError::NoKey(id))?;
    let mut key = before.clone();
    change(&mut key)?;
    keys.insert(id.0, encode_key(&key)?.as_slice())?;
    note_expiry(txn, Some(&before), &key)?;
    with_last_use(&txn.open_table(ACTIVITY)?, key)
}

/// Keeps the index of keys that expire, which revoked keys are not in.
pub(super) fn note_expiry(
    txn: &WriteTransaction,
    before: Option<&Key>,
    after: &Key,
) -> Result<(), StoreError> {
    let row = |key: &Key| {
        let at = key.expires_at.filter(|_| key.active)?;
        Some((at.unix_millis(), key.id.0))
    };
    let (before, after) = (before.and_then(row), row(after));
    if before == after {
        return Ok(());
    }
    let mut expiries = txn.open_table(EXPIRIES)?;
    if let Some(before) = before {
        expiries.remove(before)?;
    }
    if let Some(after) = after {
        expiries.insert(after, ())?;
    }
    Ok(())
}

fn put_org(orgs: &mut Table<'_, u64, &'static [u8]>, org: &Org) -> Result<(), StoreError> {
    orgs.insert(org.id.0, encode_org(org)?.as_slice())?;
    Ok(())
}

pub(super) fn counters(txn: &WriteTransaction) -> Result<Counters, StoreError> {
    match txn.open_table(META)?.get(meta::COUNTERS)? {
        Some(row) => Counters::decode(row.value()),
        None => Err(missing("the row of counters")),
    }
}

pub(super) fn set_counters(txn: &WriteTransaction, counters: &Counters) -> Result<(), StoreError> {
    txn.open_table(META)?
        .insert(meta::COUNTERS, counters.encode()?.as_slice())?;
    Ok(())
}

fn above(id: Option<u64>) -> Bound<u64> {
    id.map_or(Bound::Unbounded, Bound::Excluded)
}
