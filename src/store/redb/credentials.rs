//! Credentials: the keys that hashes authenticate.

use std::ops::RangeInclusive;

use redb::{ReadTransaction, ReadableTable, Table, WriteTransaction};

use super::rows::{find_key, find_org, missing};
use super::tables::{CREDENTIALS, KEY_CREDENTIALS, KEYS, ORGS};
use crate::model::{Credential, HashScheme, HashedKey, KeyId};
use crate::store::codec::{decode_credential, encode_credential};
use crate::store::{LegacyKeys, Rehash, Resolved, StoreError};
use crate::time::Timestamp;

pub(super) fn resolve(
    txn: &ReadTransaction,
    hash: &HashedKey,
) -> Result<Option<Resolved>, StoreError> {
    let credentials = txn.open_table(CREDENTIALS)?;
    let Some(row) = credentials.get(&hash.0)? else {
        return Ok(None);
    };
    let credential = decode_credential(*hash, row.value())?;
    let resolved = resolve_id(txn, credential.key_id)?.ok_or_else(|| missing("a key"))?;
    Ok(Some(Resolved {
        credential_expires_at: credential.expires_at,
        ..resolved
    }))
}

pub(super) fn resolve_id(txn: &ReadTransaction, id: KeyId) -> Result<Option<Resolved>, StoreError> {
    let Some(key) = find_key(&txn.open_table(KEYS)?, id)? else {
        return Ok(None);
    };
    let org = find_org(&txn.open_table(ORGS)?, key.org_id)?;
    Ok(Some(Resolved {
        org: org.ok_or_else(|| missing("an organization"))?,
        key,
        credential_expires_at: None,
        balances: None,
    }))
}

/// Returns the credentials of a key, by hash.
pub(super) fn of_key(txn: &ReadTransaction, id: KeyId) -> Result<Vec<Credential>, StoreError> {
    let credentials = Credentials {
        by_hash: txn.open_table(CREDENTIALS)?,
        of_key: txn.open_table(KEY_CREDENTIALS)?,
    };
    credentials.all_of(id)
}

/// Returns the rotated keys among these, with the latest time at which a replaced credential expires.
pub(super) fn old_texts_until(
    txn: &ReadTransaction,
    ids: &[KeyId],
) -> Result<Vec<(KeyId, Timestamp)>, StoreError> {
    let credentials = Credentials {
        by_hash: txn.open_table(CREDENTIALS)?,
        of_key: txn.open_table(KEY_CREDENTIALS)?,
    };
    let mut rotated = Vec::new();
    for id in ids {
        // Most keys have one credential, which need not be read.
        if !credentials.are_several(*id)? {
            continue;
        }
        let all = credentials.all_of(*id)?.into_iter();
        let until = all.filter_map(|credential| credential.expires_at).max();
        rotated.extend(until.map(|until| (*id, until)));
    }
    Ok(rotated)
}

/// See [`Store::has_legacy_keys`](crate::store::Store::has_legacy_keys).
pub(super) fn has_legacy(
    txn: &ReadTransaction,
    which: LegacyKeys,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let keys = txn.open_table(KEYS)?;
    let is_found = |credential: &Credential| -> Result<bool, StoreError> {
        if !which.schemes().contains(&credential.scheme) {
            return Ok(false);
        }
        if which.in_any_state() {
            return Ok(true);
        }
        if credential.expires_at.is_some_and(|end| end <= now) {
            return Ok(false);
        }
        let key = find_key(&keys, credential.key_id)?;
        Ok(key.is_some_and(|key| key.is_enabled() && !key.is_expired(now)))
    };
    if let LegacyKeys::Of(id) = which {
        for credential in of_key(txn, id)? {
            if is_found(&credential)? {
                return Ok(true);
            }
        }
        return Ok(false);
    }
    let credentials = txn.open_table(CREDENTIALS)?;
    for row in credentials.iter()?.take(which.most().unwrap_or(usize::MAX)) {
        let (hash, row) = row?;
        if is_found(&decode_credential(HashedKey(*hash.value()), row.value())?)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the key of a rehashed credential; `None` if there is nothing to do.
pub(super) fn rehash(
    txn: &WriteTransaction,
    &Rehash { old, new }: &Rehash,
) -> Result<Option<KeyId>, StoreError> {
    let mut credentials = Credentials::open(txn)?;
    if credentials.get(&new)?.is_some() {
        return Ok(None);
    }
    let Some(credential) = credentials.get(&old)? else {
        return Ok(None);
    };
    let key_id = credential.key_id;
    credentials.by_hash.remove(&old.0)?;
    credentials.of_key.remove((key_id.0, &old.0))?;
    credentials.put(&Credential {
        hash: new,
        scheme: HashScheme::RehashedSha256,
        ..credential
    })?;
    Ok(Some(key_id))
}

/// Credentials by hash, and the hashes of each key.
pub(super) struct Credentials<ByHash, OfKey> {
    by_hash: ByHash,
    of_key: OfKey,
}

pub(super) type WritableCredentials<'txn> = Credentials<
    Table<'txn, &'static [u8; 32], &'static [u8]>,
    Table<'txn, (u64, &'static [u8; 32]), ()>,
>;

impl<'txn> WritableCredentials<'txn> {
    pub(super) fn open(txn: &'txn WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            by_hash: txn.open_table(CREDENTIALS)?,
            of_key: txn.open_table(KEY_CREDENTIALS)?,
        })
    }

    /// Adds new credentials.
    pub(super) fn insert(&mut self, mut new: Vec<Credential>) -> Result<(), StoreError> {
        for credential in &new {
            self.of_key
                .insert((credential.key_id.0, &credential.hash.0), ())?;
        }
        // In the order of the table, many rows are written faster and take less space.
        new.sort_unstable_by_key(|credential| credential.hash.0);
        for credential in new {
            let row = encode_credential(&credential)?;
            let existing = self.by_hash.insert(&credential.hash.0, row.as_slice())?;
            if existing.is_some() {
                // The transaction must not commit.
                return Err(StoreError::DuplicateCredential);
            }
        }
        Ok(())
    }

    /// Adds or replaces a credential.
    pub(super) fn put(&mut self, credential: &Credential) -> Result<(), StoreError> {
        self.of_key
            .insert((credential.key_id.0, &credential.hash.0), ())?;
        let row = encode_credential(credential)?;
        self.by_hash.insert(&credential.hash.0, row.as_slice())?;
        Ok(())
    }

    /// Lets all credentials of a key expire at `at`, or earlier if they already do.
    pub(super) fn retire(&mut self, id: KeyId, at: Timestamp) -> Result<(), StoreError> {
        for credential in self.all_of(id)? {
            let expires_at = credential.expires_at.map_or(at, |earlier| earlier.min(at));
            self.put(&Credential {
                expires_at: Some(expires_at),
                ..credential
            })?;
        }
        Ok(())
    }
}

impl<ByHash, OfKey> Credentials<ByHash, OfKey>
where
    ByHash: ReadableTable<&'static [u8; 32], &'static [u8]>,
    OfKey: ReadableTable<(u64, &'static [u8; 32]), ()>,
{
    pub(super) fn get(&self, hash: &HashedKey) -> Result<Option<Credential>, StoreError> {
        let row = self.by_hash.get(&hash.0)?;
        row.map(|row| decode_credential(*hash, row.value()))
            .transpose()
    }

    /// Whether a key has more than one credential.
    fn are_several(&self, id: KeyId) -> Result<bool, StoreError> {
        let mut rows = self.of_key.range(rows_of(id))?;
        Ok(rows.nth(1).transpose()?.is_some())
    }

    fn all_of(&self, id: KeyId) -> Result<Vec<Credential>, StoreError> {
        let mut all = Vec::new();
        for row in self.of_key.range(rows_of(id))? {
            let hash = HashedKey(*row?.0.value().1);
            all.push(self.get(&hash)?.ok_or_else(|| missing("a credential"))?);
        }
        Ok(all)
    }
}

/// The rows of a key in the table of the hashes of each key.
fn rows_of(id: KeyId) -> RangeInclusive<(u64, &'static [u8; 32])> {
    (id.0, &[0; 32])..=(id.0, &[0xff; 32])
}
