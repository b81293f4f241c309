//! Locks: a row each, keyed by whom it refuses what.

use serde::{Deserialize, Serialize};

use super::record::{decode, encode};
use super::{StoreError, damaged};
use crate::clock::Timestamp;
use crate::lockout::{Lock, LockCause, LockId, Refuses};
use crate::network::Network;

/// [`Network::to_bytes`], then a byte for what is refused, then the path if that is one.
pub(crate) fn lock_key(id: &LockId) -> Vec<u8> {
    let mut key = id.network.to_bytes().to_vec();
    let (kind, path) = match &id.refuses {
        Refuses::All => (0, ""),
        Refuses::Keyless => (1, ""),
        Refuses::Path(path) => (2, path.as_str()),
    };
    key.push(kind);
    key.extend_from_slice(path.as_bytes());
    key
}

fn decode_lock_key(key: &[u8]) -> Option<LockId> {
    let (network, rest) = key.split_first_chunk()?;
    let refuses = match rest {
        [0] => Refuses::All,
        [1] => Refuses::Keyless,
        [2, path @ ..] => Refuses::Path(std::str::from_utf8(path).ok()?.to_owned()),
        _ => return None,
    };
    let network = Network::from_bytes(*network)?;
    Some(LockId { network, refuses })
}

#[derive(Serialize, Deserialize)]
struct StoredLock<'a> {
    cause: u8,
    /// The limit's name, if the cause is one.
    name: &'a str,
    since: u64,
    until: u64,
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
    encode(&StoredLock {
        cause,
        name,
        since: lock.since.unix_millis(),
        until: lock.until.unix_millis(),
    })
}

pub(crate) fn decode_lock(key: &[u8], bytes: &[u8]) -> Result<Lock, StoreError> {
    let LockId { network, refuses } =
        decode_lock_key(key).ok_or_else(|| damaged("a lock is of nobody or of nothing"))?;
    let stored: StoredLock<'_> = decode("a lock", bytes)?;
    Ok(Lock {
        network,
        refuses,
        cause: match stored.cause {
            BAD_KEYS => LockCause::BadKeys,
            MISSING_KEYS => LockCause::MissingKeys,
            IP_LIMIT => LockCause::IpLimit(stored.name.to_owned()),
            MANUAL => LockCause::Manual,
            _ => return Err(damaged("a lock has an unknown cause")),
        },
        since: Timestamp::from_unix_millis(stored.since),
        until: Timestamp::from_unix_millis(stored.until),
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
        let refuses = [Refuses::All, Refuses::Keyless, Refuses::Path("/é".into())];
        for cause in causes {
            for refuses in refuses.clone() {
                let lock = Lock {
                    network: "2001:db8::/64".parse().unwrap(),
                    refuses,
                    cause: cause.clone(),
                    since: Timestamp::from_unix_millis(7),
                    until: Timestamp::from_unix_millis(9),
                };
                let (key, row) = (lock_key(&lock.id()), encode_lock(&lock).unwrap());
                assert_eq!(decode_lock(&key, &row).unwrap(), lock);
                assert!(decode_lock(&key[1..], &row).is_err());
                assert!(decode_lock(&key, &row[1..]).is_err());
            }
        }
    }
}
