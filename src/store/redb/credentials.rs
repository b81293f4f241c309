//! From the text of a key to the key: credentials.

use redb::{ReadTransaction, ReadableTable, Table, WriteTransaction};

use super::rows::{find_key, find_org, missing};
use crate::model::HashedKey;
use crate::model::{Credential, HashScheme, KeyId};
use crate::store::codec::{
    CREDENTIALS, KEY_CREDENTIALS, KEYS, ORGS, decode_credential, encode_credential,
};
use crate::store::{FIRST_SECRET, Rehash, Resolved, StoreError};
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

/// Returns whose credential it was; `None` if there is nothing to do.
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
        scheme: HashScheme::KeyedBlake3,
        ..credential
    })?;
    Ok(Some(key_id))
}

/// Credentials by hash, and the hashes of each key.
pub(super) struct Credentials<'txn> {
    by_hash: Table<'txn, &'static [u8; 32], &'static [u8]>,
    of_key: Table<'txn, (u64, &'static [u8; 32]), ()>,
}

impl<'txn> Credentials<'txn> {
    pub(super) fn open(txn: &'txn WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            by_hash: txn.open_table(CREDENTIALS)?,
            of_key: txn.open_table(KEY_CREDENTIALS)?,
        })
    }

    /// Lists a hash as one of a key's; [`insert`](Self::insert) comes after.
    pub(super) fn list(&mut self, key_id: KeyId, hash: &HashedKey) -> Result<(), StoreError> {
        self.of_key.insert((key_id.0, &hash.0), ())?;
        Ok(())
    }

    /// Adds one that is listed.
    pub(super) fn insert(
        &mut self,
        hash: HashedKey,
        key_id: KeyId,
        created_at: Timestamp,
    ) -> Result<(), StoreError> {
        let credential = encode_credential(&Credential {
            hash,
            scheme: HashScheme::KeyedBlake3,
            secret_id: FIRST_SECRET,
            key_id,
            created_at,
            expires_at: None,
        })?;
        match self.by_hash.insert(&hash.0, credential.as_slice())? {
            None => Ok(()),
            // The text of one key would from now on open another: the transaction must not commit.
            Some(_) => Err(StoreError::Unavailable(
                "a key with this text exists already".into(),
            )),
        }
    }

    pub(super) fn get(&self, hash: &HashedKey) -> Result<Option<Credential>, StoreError> {
        let row = self.by_hash.get(&hash.0)?;
        row.map(|row| decode_credential(*hash, row.value()))
            .transpose()
    }

    /// Lists and adds one, in place of what has its hash.
    pub(super) fn put(&mut self, credential: &Credential) -> Result<(), StoreError> {
        self.list(credential.key_id, &credential.hash)?;
        let row = encode_credential(credential)?;
        self.by_hash.insert(&credential.hash.0, row.as_slice())?;
        Ok(())
    }

    /// Lets all of a key expire at `at`, or earlier if they would anyway.
    pub(super) fn retire(&mut self, id: KeyId, at: Timestamp) -> Result<(), StoreError> {
        for row in self.of_key.range((id.0, &[0; 32])..=(id.0, &[0xff; 32]))? {
            let (row, _) = row?;
            let hash = HashedKey(*row.value().1);
            let credential = match self.by_hash.get(&hash.0)? {
                Some(bytes) => decode_credential(hash, bytes.value())?,
                None => return Err(missing("a credential")),
            };
            let expires_at = credential.expires_at.map_or(at, |earlier| earlier.min(at));
            let retired = encode_credential(&Credential {
                expires_at: Some(expires_at),
                ..credential
            })?;
            self.by_hash.insert(&hash.0, retired.as_slice())?;
        }
        Ok(())
    }
}
