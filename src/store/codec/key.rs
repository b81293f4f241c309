//! Keys and their credentials.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::org::{StoredOverride, read_overrides, store_overrides};
use super::record::{decode, encode};
use super::{StoreError, read_allowed_ips, read_limits, read_scopes, texts};
use crate::model::{Credential, HashScheme, HashedKey, Key, KeyId, KeyStatus, OrgId, Scope};
use crate::time::Timestamp;

#[derive(Serialize, Deserialize)]
struct StoredKey<'a> {
    org_id: u64,
    #[serde(borrow)]
    label: &'a str,
    prefix: &'a str,
    status: u8,
    scopes: Vec<&'a str>,
    rate_limit_per_minute: NonZeroU32,
    limits: Vec<String>,
    allowed_ips: Vec<String>,
    overrides: Vec<StoredOverride<'a>>,
    created_at: u64,
    expires_at: Option<u64>,
}

/// Encodes all of a key but its last use, which is part of its [`Activity`](crate::store::totals::Activity).
pub(crate) fn encode_key(key: &Key) -> Result<Vec<u8>, StoreError> {
    encode(&StoredKey {
        org_id: key.org_id.0,
        label: &key.label,
        prefix: &key.shown_prefix,
        status: status_code(key.status),
        scopes: key.scopes.iter().map(Scope::as_str).collect(),
        rate_limit_per_minute: key.rate_limit_per_minute,
        limits: texts(&key.limits),
        allowed_ips: key.allowed_ips.texts(),
        overrides: store_overrides(&key.overrides),
        created_at: key.created_at.unix_millis(),
        expires_at: key.expires_at.map(Timestamp::unix_millis),
    })
}

pub(crate) fn decode_key(id: KeyId, bytes: &[u8]) -> Result<Key, StoreError> {
    let stored: StoredKey<'_> = decode("a key", bytes)?;
    Ok(Key {
        id,
        org_id: OrgId(stored.org_id),
        label: stored.label.to_owned(),
        shown_prefix: stored.prefix.to_owned(),
        status: read_status(stored.status)?,
        scopes: read_scopes(stored.scopes)?,
        rate_limit_per_minute: stored.rate_limit_per_minute,
        limits: read_limits(stored.limits)?,
        allowed_ips: read_allowed_ips(stored.allowed_ips)?,
        overrides: read_overrides(stored.overrides),
        created_at: Timestamp::from_unix_millis(stored.created_at),
        expires_at: stored.expires_at.map(Timestamp::from_unix_millis),
        last_used_at: None,
        old_text_until: None,
    })
}

/// Expiry is not part of the stored status.
fn status_code(status: KeyStatus) -> u8 {
    match status {
        KeyStatus::Revoked => 0,
        KeyStatus::Active | KeyStatus::Expired => 1,
        KeyStatus::Suspended => 2,
    }
}

fn read_status(code: u8) -> Result<KeyStatus, StoreError> {
    match code {
        0 => Ok(KeyStatus::Revoked),
        1 => Ok(KeyStatus::Active),
        2 => Ok(KeyStatus::Suspended),
        _ => Err(StoreError::damaged("a key has an unknown status")),
    }
}

#[derive(Serialize, Deserialize)]
struct StoredCredential {
    scheme: u8,
    secret_id: u32,
    key_id: u64,
    created_at: u64,
    expires_at: Option<u64>,
}

pub(crate) fn encode_credential(credential: &Credential) -> Result<Vec<u8>, StoreError> {
    encode(&StoredCredential {
        scheme: credential.scheme as u8,
        secret_id: credential.secret_id,
        key_id: credential.key_id.0,
        created_at: credential.created_at.unix_millis(),
        expires_at: credential.expires_at.map(Timestamp::unix_millis),
    })
}

pub(crate) fn decode_credential(hash: HashedKey, bytes: &[u8]) -> Result<Credential, StoreError> {
    let stored: StoredCredential = decode("a credential", bytes)?;
    Ok(Credential {
        hash,
        scheme: read_scheme(stored.scheme)?,
        secret_id: stored.secret_id,
        key_id: KeyId(stored.key_id),
        created_at: Timestamp::from_unix_millis(stored.created_at),
        expires_at: stored.expires_at.map(Timestamp::from_unix_millis),
    })
}

/// Reads the code of a hash scheme.
pub(crate) fn read_scheme(code: impl TryInto<u8>) -> Result<HashScheme, StoreError> {
    let scheme = code.try_into().ok().and_then(HashScheme::from_code);
    scheme.ok_or_else(|| StoreError::damaged("a credential has an unknown hash scheme"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LimitOverride;
    use proptest::prelude::*;

    fn key() -> Key {
        Key {
            id: KeyId(7),
            org_id: OrgId(3),
            label: "web".into(),
            shown_prefix: "kg_live_abcd".into(),
            status: KeyStatus::Active,
            scopes: vec!["read".parse().unwrap(), "orders:write".parse().unwrap()],
            rate_limit_per_minute: NonZeroU32::new(60).unwrap(),
            limits: crate::limit::list("limits", ["10/s", "5000 credits +1/h shadow"]).unwrap(),
            allowed_ips: "10.0.0.0/8,local".parse().unwrap(),
            overrides: vec![LimitOverride {
                limit: "10/s".into(),
                until: Timestamp::from_unix_millis(5),
            }],
            created_at: Timestamp::from_unix_millis(1_700_000_000_000),
            expires_at: None,
            last_used_at: None,
            old_text_until: None,
        }
    }

    #[test]
    fn keys_read_back() {
        for status in [KeyStatus::Active, KeyStatus::Suspended, KeyStatus::Revoked] {
            let key = Key { status, ..key() };
            assert_eq!(decode_key(key.id, &encode_key(&key).unwrap()).unwrap(), key);
        }
    }

    #[test]
    fn credentials_of_all_schemes_read_back() {
        let hash = HashedKey([7; 32]);
        for scheme in [
            HashScheme::KeyedBlake3,
            HashScheme::Sha256,
            HashScheme::RehashedSha256,
        ] {
            let credential = Credential {
                hash,
                scheme,
                secret_id: 1,
                key_id: KeyId(9),
                created_at: Timestamp::from_unix_millis(5),
                expires_at: Some(Timestamp::from_unix_millis(6)),
            };
            let bytes = encode_credential(&credential).unwrap();
            assert_eq!(decode_credential(hash, &bytes).unwrap(), credential);
        }
        // The layout of the current format.
        let first = decode_credential(hash, &[1, 1, 1, 9, 5, 0]).unwrap();
        assert_eq!(first.scheme, HashScheme::KeyedBlake3);
    }

    #[test]
    fn truncated_extended_and_newer_records_are_damaged() {
        let bytes = encode_key(&key()).unwrap();
        for len in 0..bytes.len() {
            assert!(decode_key(KeyId(7), &bytes[..len]).is_err());
        }
        assert!(decode_key(KeyId(7), &[&bytes[..], &[0]].concat()).is_err());
        let newer = [&[bytes[0] + 1], &bytes[1..]].concat();
        assert!(decode_key(KeyId(7), &newer).is_err());
    }

    proptest! {
        #[test]
        fn decoding_never_panics(body: Vec<u8>) {
            for bytes in [&body[..], &[&[1], &body[..]].concat()] {
                let _ = decode_key(KeyId(1), bytes);
                let _ = decode_credential(HashedKey([0; 32]), bytes);
            }
        }
    }
}
