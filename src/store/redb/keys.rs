//! Keys and their indices.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Bound;

use redb::{ReadTransaction, ReadableTable, Table, WriteTransaction};

use super::credentials::Credentials;
use super::rows::{find_key, find_org, missing, with_last_use};
use super::tables::{ACTIVITY, EXPIRIES, KEY_PREFIXES, KEYS, ORG_KEYS, ORGS, meta, update_meta};
use crate::model::{Key, KeyId, OrgId};
use crate::store::codec::{RecordCounts, decode_key, encode_key};
use crate::store::{KeyChange, NewCredential, NewKey, Rotation, Search, StoreError, changes};

pub(super) fn create(
    txn: &WriteTransaction,
    new: &[(NewKey, NewCredential)],
) -> Result<Vec<Key>, StoreError> {
    let count = new.len() as u64;
    let last = update_meta(txn, meta::RECORD_COUNTS, |counts: &mut RecordCounts| {
        let last = counts.last_key_id;
        counts.last_key_id += count;
        counts.keys += count;
        counts.active_keys += count;
        last
    })?;
    let orgs = txn.open_table(ORGS)?;
    let mut table = Keys::open(txn)?;
    let mut created = Vec::with_capacity(new.len());
    let mut credentials = Vec::with_capacity(new.len());
    for (id, (new, credential)) in (last + 1..).zip(new) {
        if orgs.get(new.org_id.0)?.is_none() {
            return Err(StoreError::NoOrg(new.org_id));
        }
        let key = new.with_id(KeyId(id), credential);
        table.put(None, &key)?;
        credentials.push(credential.of_key(key.id));
        created.push(key);
    }
    Credentials::open(txn)?.insert(credentials)?;
    Ok(created)
}

pub(super) fn get(txn: &ReadTransaction, id: KeyId) -> Result<Key, StoreError> {
    let key = find_key(&txn.open_table(KEYS)?, id)?.ok_or(StoreError::NoKey(id))?;
    with_last_use(&txn.open_table(ACTIVITY)?, key)
}

pub(super) fn list(
    txn: &ReadTransaction,
    org: Option<OrgId>,
    after: Option<KeyId>,
    limit: usize,
) -> Result<Vec<Key>, StoreError> {
    match org {
        Some(org) => of_org(txn, org, after, limit),
        None => all(txn, after, limit),
    }
}

fn all(txn: &ReadTransaction, after: Option<KeyId>, limit: usize) -> Result<Vec<Key>, StoreError> {
    let keys = txn.open_table(KEYS)?;
    let activity = txn.open_table(ACTIVITY)?;
    let start = after.map_or(Bound::Unbounded, |id| Bound::Excluded(id.0));
    let rows = keys.range::<u64>((start, Bound::Unbounded))?;
    let rows = rows.take(limit).map(|row| {
        let (id, bytes) = row?;
        with_last_use(&activity, decode_key(KeyId(id.value()), bytes.value())?)
    });
    rows.collect()
}

fn of_org(
    txn: &ReadTransaction,
    org: OrgId,
    after: Option<KeyId>,
    limit: usize,
) -> Result<Vec<Key>, StoreError> {
    if txn.open_table(ORGS)?.get(org.0)?.is_none() {
        return Err(StoreError::NoOrg(org));
    }
    // Ids start at 1.
    let start = Bound::Excluded((org.0, after.map_or(0, |id| id.0)));
    let range = (start, Bound::Included((org.0, u64::MAX)));
    let rows = txn.open_table(ORG_KEYS)?.range::<(u64, u64)>(range)?;
    let ids = rows.take(limit).map(|row| Ok(KeyId(row?.0.value().1)));
    indexed(txn, ids)
}

pub(super) fn with_prefix(
    txn: &ReadTransaction,
    text: &str,
    limit: usize,
) -> Result<Vec<Key>, StoreError> {
    let mut ids = Vec::new();
    let prefixes = txn.open_table(KEY_PREFIXES)?;
    for row in prefixes.range((text, 0)..)?.take(limit) {
        let (row, _) = row?;
        let (prefix, id) = row.value();
        if !prefix.starts_with(text) {
            break;
        }
        ids.push(Ok(KeyId(id)));
    }
    indexed(txn, ids.into_iter())
}

pub(super) fn search(
    txn: &ReadTransaction,
    search: &Search,
    org: Option<OrgId>,
) -> Result<Vec<Key>, StoreError> {
    let keys = txn.open_table(KEYS)?;
    let ids = search.ids.clone();
    match org {
        None => {
            let rows = keys.range::<u64>(ids)?.map(|row| {
                let (id, bytes) = row?;
                decode_key(KeyId(id.value()), bytes.value())
            });
            found_among(txn, search, rows)
        }
        Some(org) => {
            let range = (org.0, *ids.start())..=(org.0, *ids.end());
            let rows = txn.open_table(ORG_KEYS)?.range::<(u64, u64)>(range)?;
            let rows = rows.map(|row| {
                let id = KeyId(row?.0.value().1);
                find_key(&keys, id)?.ok_or_else(|| missing("a key"))
            });
            found_among(txn, search, rows)
        }
    }
}

fn found_among(
    txn: &ReadTransaction,
    search: &Search,
    keys: impl Iterator<Item = Result<Key, StoreError>>,
) -> Result<Vec<Key>, StoreError> {
    let (orgs, activity) = (txn.open_table(ORGS)?, txn.open_table(ACTIVITY)?);
    // Whether the text is in the name of each organization.
    let mut names = HashMap::new();
    let mut found = Vec::new();
    for key in keys {
        if found.len() == search.limit {
            break;
        }
        let key = key?;
        let is_in_name = match names.entry(key.org_id) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(entry) => {
                let org = find_org(&orgs, key.org_id)?.ok_or_else(|| missing("an organization"))?;
                *entry.insert(search.text.is_in(&org.name))
            }
        };
        if is_in_name || search.text.finds_key(&key) {
            found.push(with_last_use(&activity, key)?);
        }
    }
    Ok(found)
}

/// Returns the keys of ids from an index.
fn indexed(
    txn: &ReadTransaction,
    ids: impl Iterator<Item = Result<KeyId, StoreError>>,
) -> Result<Vec<Key>, StoreError> {
    let keys = txn.open_table(KEYS)?;
    let activity = txn.open_table(ACTIVITY)?;
    let key = |id: Result<KeyId, StoreError>| {
        let key = find_key(&keys, id?)?.ok_or_else(|| missing("a key"))?;
        with_last_use(&activity, key)
    };
    ids.map(key).collect()
}

pub(super) fn update(
    txn: &WriteTransaction,
    id: KeyId,
    change: &KeyChange,
) -> Result<Key, StoreError> {
    change_key(txn, id, |key| change.apply(key)).map(|(key, ())| key)
}

pub(super) fn add_credential(
    txn: &WriteTransaction,
    id: KeyId,
    credential: &NewCredential,
    rotation: Rotation,
) -> Result<Key, StoreError> {
    let (key, retire_at) = change_key(txn, id, |key| rotation.apply(key, credential))?;
    let mut credentials = Credentials::open(txn)?;
    credentials.retire(id, retire_at)?;
    credentials.insert(vec![credential.of_key(id)])?;
    Ok(key)
}

pub(super) fn revoke(txn: &WriteTransaction, id: KeyId) -> Result<Key, StoreError> {
    change_key(txn, id, |key| Ok(changes::revoke(key))).map(|(key, _)| key)
}

fn change_key<T>(
    txn: &WriteTransaction,
    id: KeyId,
    change: impl FnOnce(&mut Key) -> Result<T, StoreError>,
) -> Result<(Key, T), StoreError> {
    let mut table = Keys::open(txn)?;
    let before = find_key(&table.by_id, id)?.ok_or(StoreError::NoKey(id))?;
    let mut key = before.clone();
    let result = change(&mut key)?;
    table.put(Some(&before), &key)?;
    let growth = changes::enabled_growth(Some(&before), &key);
    if growth != 0 {
        update_meta(txn, meta::RECORD_COUNTS, |counts: &mut RecordCounts| {
            counts.active_keys = counts.active_keys.saturating_add_signed(growth);
        })?;
    }
    Ok((with_last_use(&txn.open_table(ACTIVITY)?, key)?, result))
}

/// Keys and their indices.
pub(super) struct Keys<'txn> {
    pub(super) by_id: Table<'txn, u64, &'static [u8]>,
    of_org: Table<'txn, (u64, u64), ()>,
    expiries: Table<'txn, (u64, u64), ()>,
    prefixes: Table<'txn, (&'static str, u64), ()>,
}

impl<'txn> Keys<'txn> {
    pub(super) fn open(txn: &'txn WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            by_id: txn.open_table(KEYS)?,
            of_org: txn.open_table(ORG_KEYS)?,
            expiries: txn.open_table(EXPIRIES)?,
            prefixes: txn.open_table(KEY_PREFIXES)?,
        })
    }

    /// Adds a key, or replaces `before`.
    pub(super) fn put(&mut self, before: Option<&Key>, key: &Key) -> Result<(), StoreError> {
        let id = key.id.0;
        self.by_id.insert(id, encode_key(key)?.as_slice())?;
        if before.is_none() {
            self.of_org.insert((key.org_id.0, id), ())?;
        }
        let (expired, expires) = (before.and_then(expiry), expiry(key));
        if expired != expires {
            if let Some(at) = expired {
                self.expiries.remove((at, id))?;
            }
            if let Some(at) = expires {
                self.expiries.insert((at, id), ())?;
            }
        }
        let before = before.map(|before| before.shown_prefix.as_str());
        if before != Some(&key.shown_prefix) {
            if let Some(before) = before {
                self.prefixes.remove((before, id))?;
            }
            self.prefixes.insert((key.shown_prefix.as_str(), id), ())?;
        }
        Ok(())
    }
}

/// Suspended and revoked keys are not in the index of expiries.
fn expiry(key: &Key) -> Option<u64> {
    let expires_at = key.expires_at.filter(|_| key.is_enabled())?;
    Some(expires_at.unix_millis())
}
