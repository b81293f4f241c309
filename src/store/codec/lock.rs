//! Locks, keyed by address, scope and kind.

use serde::{Deserialize, Serialize};

use super::StoreError;
use super::record::{decode, encode};
use crate::lockout::{Lock, LockCause, LockId, LockScope};
use crate::net::IpKey;
use crate::time::Timestamp;

/// Returns the key of a lock: [`IpKey::to_bytes`], a byte for the scope and the kind, and the path or the
/// name of the limit.
pub(crate) fn lock_key(id: &LockId) -> Vec<u8> {
    let mut key = id.ip.to_bytes().to_vec();
    let (kind, text) = match &id.scope {
        LockScope::All => (0, ""),
        LockScope::Keyless => (1, ""),
        LockScope::Path(path) => (2, path.as_str()),
        LockScope::IpLimit(name) => (3, name.as_str()),
    };
    key.push(kind | if id.is_manual { MANUAL_BIT } else { 0 });
    key.extend_from_slice(text.as_bytes());
    key
}

/// The inverse of [`lock_key`].
pub(crate) fn decode_lock_key(key: &[u8]) -> Option<LockId> {
    let (ip, rest) = key.split_first_chunk()?;
    let (kind, rest) = rest.split_first()?;
    let text = |bytes| Some(std::str::from_utf8(bytes).ok()?.to_owned());
    let scope = match (kind & !MANUAL_BIT, rest) {
        (0, []) => LockScope::All,
        (1, []) => LockScope::Keyless,
        (2, path) => LockScope::Path(text(path)?),
        (3, name) => LockScope::IpLimit(text(name)?),
        _ => return None,
    };
    Some(LockId {
        ip: IpKey::from_bytes(*ip)?,
        scope,
        is_manual: kind & MANUAL_BIT != 0,
    })
}

/// Marks a manual lock in the byte of the scope.
const MANUAL_BIT: u8 = 0x80;

#[derive(Serialize, Deserialize)]
struct StoredLock<'a> {
    cause: u8,
    /// The name of the limit, if the cause is a limit.
    name: &'a str,
    since: u64,
    until: u64,
    step: u32,
    remembered_until: u64,
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
    encode(&stored)
}

pub(crate) fn decode_lock(key: &[u8], bytes: &[u8]) -> Result<Lock, StoreError> {
    let LockId {
        ip,
        scope,
        is_manual,
    } = decode_lock_key(key).ok_or_else(|| StoreError::damaged("a lock has an invalid key"))?;
    let stored: StoredLock<'_> = decode("a lock", bytes)?;
    Ok(Lock {
        ip,
        scope,
        cause: match (stored.cause, is_manual) {
            (BAD_KEYS, false) => LockCause::BadKeys,
            (MISSING_KEYS, false) => LockCause::MissingKeys,
            (IP_LIMIT, false) => LockCause::IpLimit(stored.name.to_owned()),
            (MANUAL, true) => LockCause::Manual,
            _ => return Err(StoreError::damaged("a lock has an unknown cause")),
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
    fn locks_of_every_cause_and_scope_read_back() {
        let causes = [
            LockCause::BadKeys,
            LockCause::MissingKeys,
            LockCause::IpLimit("login".into()),
            LockCause::Manual,
        ];
        let scopes = [
            LockScope::All,
            LockScope::Keyless,
            LockScope::Path("/é".into()),
            LockScope::IpLimit("login".into()),
        ];
        for cause in causes {
            for scope in scopes.clone() {
                let lock = Lock {
                    ip: "2001:db8::/64".parse().unwrap(),
                    scope,
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
}
