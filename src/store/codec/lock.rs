//! Locks: a row each, keyed by whom it refuses what.

use serde::{Deserialize, Serialize};

use super::record::{V1, V2, decode_as, encode_as};
use super::{StoreError, damaged};
use crate::lockout::{Lock, LockCause, LockId, Refuses};
use crate::net::IpKey;
use crate::time::Timestamp;

/// [`IpKey::to_bytes`], then a byte for what is refused and by whom, then the path or the name of the
/// route.
pub(crate) fn lock_key(id: &LockId) -> Vec<u8> {
    let mut key = id.network.to_bytes().to_vec();
    let (kind, text) = match &id.refuses {
        Refuses::All => (0, ""),
        Refuses::Keyless => (1, ""),
        Refuses::Path(path) => (2, path.as_str()),
        Refuses::Route(name) => (3, name.as_str()),
    };
    key.push(kind | if id.is_manual { BY_HAND } else { 0 });
    key.extend_from_slice(text.as_bytes());
    key
}

/// `None` if [`lock_key`] never wrote that.
pub(crate) fn decode_lock_key(key: &[u8]) -> Option<LockId> {
    let (network, rest) = key.split_first_chunk()?;
    let (kind, rest) = rest.split_first()?;
    let text = |bytes| Some(std::str::from_utf8(bytes).ok()?.to_owned());
    let refuses = match (kind & !BY_HAND, rest) {
        (0, []) => Refuses::All,
        (1, []) => Refuses::Keyless,
        (2, path) => Refuses::Path(text(path)?),
        (3, name) => Refuses::Route(text(name)?),
        _ => return None,
    };
    Some(LockId {
        network: IpKey::from_bytes(*network)?,
        refuses,
        is_manual: kind & BY_HAND != 0,
    })
}

/// Added to the byte for what is refused by a manual lock.
const BY_HAND: u8 = 0x80;

#[derive(Serialize, Deserialize)]
struct StoredLock<'a> {
    cause: u8,
    /// The limit's name, if the cause is one.
    name: &'a str,
    since: u64,
    until: u64,
    step: u32,
    remembered_until: u64,
}

/// Of the first schema.
#[derive(Serialize, Deserialize)]
struct StoredLockV1<'a> {
    cause: u8,
    name: &'a str,
    since: u64,
    until: u64,
}

impl<'a> From<StoredLockV1<'a>> for StoredLock<'a> {
    fn from(old: StoredLockV1<'a>) -> Self {
        Self {
            cause: old.cause,
            name: old.name,
            since: old.since,
            until: old.until,
            step: 0,
            remembered_until: old.until,
        }
    }
}

const BAD_KEYS: u8 = 1;
const MISSING_KEYS: u8 = 2;
const IP_LIMIT: u8 = 3;
const MANUAL: u8 = 4;

pub(crate) fn encode_lock(lock: &Lock) -> Result<Vec<u8>, StoreError> {
    let (cause, name) = match &lock.cause {
        LockCause::BadKeys => (BAD_KEYS, ""),
        LockCause::MissingKeys => (MISSING_KEYS, ""),
        LockCause::IpLimit(name) => (IP_LIMIT, name.as_str()),
        LockCause::Manual => (MANUAL, ""),
    };
    let stored = StoredLock {
        cause,
        name,
        since: lock.since.unix_millis(),
        until: lock.until.unix_millis(),
        step: lock.step,
        remembered_until: lock.remembered_until.unix_millis(),
    };
    encode_as(V2, &stored)
}

pub(crate) fn decode_lock(key: &[u8], bytes: &[u8]) -> Result<Lock, StoreError> {
    let LockId {
        network,
        refuses,
        is_manual,
    } = decode_lock_key(key).ok_or_else(|| damaged("a lock is of nobody or of nothing"))?;
    let stored: StoredLock<'_> = match bytes.first() {
        Some(&V1) => decode_as::<StoredLockV1<'_>>(V1, "a lock", bytes)?.into(),
        _ => decode_as(V2, "a lock", bytes)?,
    };
    Ok(Lock {
        network,
        refuses,
        cause: match (stored.cause, is_manual) {
            (BAD_KEYS, false) => LockCause::BadKeys,
            (MISSING_KEYS, false) => LockCause::MissingKeys,
            (IP_LIMIT, false) => LockCause::IpLimit(stored.name.to_owned()),
            (MANUAL, true) => LockCause::Manual,
            _ => return Err(damaged("a lock has an unknown cause")),
        },
        since: Timestamp::from_unix_millis(stored.since),
        until: Timestamp::from_unix_millis(stored.until),
        step: stored.step,
        remembered_until: Timestamp::from_unix_millis(stored.remembered_until),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_read_back() {
        let causes = [
            LockCause::BadKeys,
            LockCause::MissingKeys,
            LockCause::IpLimit("login".into()),
            LockCause::Manual,
        ];
        let refuses = [
            Refuses::All,
            Refuses::Keyless,
            Refuses::Path("/é".into()),
            Refuses::Route("login".into()),
        ];
        for cause in causes {
            for refuses in refuses.clone() {
                let lock = Lock {
                    network: "2001:db8::/64".parse().unwrap(),
                    refuses,
                    cause: cause.clone(),
                    since: Timestamp::from_unix_millis(7),
                    until: Timestamp::from_unix_millis(9),
                    step: 2,
                    remembered_until: Timestamp::from_unix_millis(11),
                };
                let (key, row) = (lock_key(&lock.id()), encode_lock(&lock).unwrap());
                assert_eq!(decode_lock(&key, &row).unwrap(), lock);
                assert!(decode_lock(&key[1..], &row).is_err());
                assert!(decode_lock(&key, &row[1..]).is_err());
            }
        }
    }

    #[test]
    fn a_lock_of_the_first_schema_is_read() {
        let id = LockId {
            network: "192.0.2.7".parse().unwrap(),
            refuses: Refuses::All,
            is_manual: true,
        };
        let lock = decode_lock(&lock_key(&id), &[1, MANUAL, 0, 7, 9]).unwrap();
        assert_eq!((lock.cause, lock.step), (LockCause::Manual, 0));
        assert_eq!(lock.remembered_until, lock.until);
    }
}
