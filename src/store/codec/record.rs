//! Single records: a schema tag byte, then a struct of its own in postcard.

use std::num::{NonZeroU32, NonZeroU64};

use serde::{Deserialize, Serialize};

use super::{StoreError, damaged};
use crate::limit::Limit;
use crate::model::HashedKey;
use crate::model::Scope;
use crate::model::{
    Credential, HashScheme, Key, KeyId, KeyStatus, LimitOverride, Org, OrgId, OrgStatus, Reason,
};
use crate::net::CidrSet;
use crate::store::Count;
use crate::time::Timestamp;

/// The first schema of every record.
pub(super) const V1: u8 = 1;
/// The second schema, of those that have one.
pub(super) const V2: u8 = 2;

#[derive(Serialize, Deserialize)]
struct StoredOrgV1<'a> {
    name: &'a str,
    suspended: bool,
    created_at: u64,
}

#[derive(Serialize, Deserialize)]
struct StoredOrg<'a> {
    name: &'a str,
    suspended: bool,
    created_at: u64,
    limits: Vec<String>,
    #[serde(borrow)]
    lifts: Vec<(&'a str, u64)>,
}

pub(crate) fn encode_org(org: &Org) -> Result<Vec<u8>, StoreError> {
    let stored = StoredOrg {
        name: &org.name,
        suspended: org.status == OrgStatus::Suspended,
        created_at: org.created_at.unix_millis(),
        limits: org.limits.iter().map(Limit::to_string).collect(),
        lifts: store_lifts(&org.lifts),
    };
    encode_as(V2, &stored)
}

pub(crate) fn decode_org(id: OrgId, bytes: &[u8]) -> Result<Org, StoreError> {
    const WHAT: &str = "an organization";
    let stored = match bytes.first() {
        Some(&V1) => {
            let StoredOrgV1 {
                name,
                suspended,
                created_at,
            } = decode_as(V1, WHAT, bytes)?;
            StoredOrg {
                name,
                suspended,
                created_at,
                limits: Vec::new(),
                lifts: Vec::new(),
            }
        }
        _ => decode_as(V2, WHAT, bytes)?,
    };
    Ok(Org {
        id,
        name: stored.name.to_owned(),
        status: if stored.suspended {
            OrgStatus::Suspended
        } else {
            OrgStatus::Active
        },
        limits: read_limits(&stored.limits)?,
        lifts: read_lifts(stored.lifts),
        created_at: Timestamp::from_unix_millis(stored.created_at),
    })
}

fn store_lifts(lifts: &[LimitOverride]) -> Vec<(&str, u64)> {
    lifts
        .iter()
        .map(|lift| (lift.rule.as_str(), lift.until.unix_millis()))
        .collect()
}

fn read_lifts(stored: Vec<(&str, u64)>) -> Vec<LimitOverride> {
    let lift = |(rule, until): (&str, u64)| LimitOverride {
        rule: rule.to_owned(),
        until: Timestamp::from_unix_millis(until),
    };
    stored.into_iter().map(lift).collect()
}

fn read_limits(stored: &[String]) -> Result<Vec<Limit>, StoreError> {
    let limits = stored.iter().map(|text| text.parse());
    limits
        .collect::<Result<_, _>>()
        .map_err(|_| damaged("a limit cannot be read"))
}

#[derive(Serialize, Deserialize)]
struct StoredKeyV1<'a> {
    org_id: u64,
    #[serde(borrow)]
    label: &'a str,
    prefix: &'a str,
    active: bool,
    scopes: Vec<&'a str>,
    rate_limit_per_minute: NonZeroU32,
    monthly_limit: Option<NonZeroU64>,
    created_at: u64,
    expires_at: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct StoredKey<'a> {
    org_id: u64,
    #[serde(borrow)]
    label: &'a str,
    prefix: &'a str,
    active: bool,
    scopes: Vec<&'a str>,
    rate_limit_per_minute: NonZeroU32,
    limits: Vec<String>,
    allowed_ips: Vec<String>,
    lifts: Vec<(&'a str, u64)>,
    created_at: u64,
    expires_at: Option<u64>,
}

impl<'a> From<StoredKeyV1<'a>> for StoredKey<'a> {
    fn from(old: StoredKeyV1<'a>) -> Self {
        let monthly = old.monthly_limit.map(|limit| format!("{limit} monthly"));
        Self {
            org_id: old.org_id,
            label: old.label,
            prefix: old.prefix,
            active: old.active,
            scopes: old.scopes,
            rate_limit_per_minute: old.rate_limit_per_minute,
            limits: monthly.into_iter().collect(),
            allowed_ips: Vec::new(),
            lifts: Vec::new(),
            created_at: old.created_at,
            expires_at: old.expires_at,
        }
    }
}

/// `last_used_at` is not part of it: see [`Activity`].
pub(crate) fn encode_key(key: &Key) -> Result<Vec<u8>, StoreError> {
    let stored = StoredKey {
        org_id: key.org_id.0,
        label: &key.label,
        prefix: &key.prefix,
        active: key.active,
        scopes: key.scopes.iter().map(Scope::as_str).collect(),
        rate_limit_per_minute: key.rate_limit_per_minute,
        limits: key.limits.iter().map(Limit::to_string).collect(),
        allowed_ips: key.allowed_ips.texts(),
        lifts: store_lifts(&key.lifts),
        created_at: key.created_at.unix_millis(),
        expires_at: key.expires_at.map(Timestamp::unix_millis),
    };
    encode_as(V2, &stored)
}

pub(crate) fn decode_key(id: KeyId, bytes: &[u8]) -> Result<Key, StoreError> {
    const WHAT: &str = "a key";
    let stored: StoredKey<'_> = match bytes.first() {
        Some(&V1) => decode_as::<StoredKeyV1<'_>>(V1, WHAT, bytes)?.into(),
        _ => decode_as(V2, WHAT, bytes)?,
    };
    let scopes = stored.scopes.iter().map(|text| text.parse::<Scope>());
    Ok(Key {
        id,
        org_id: OrgId(stored.org_id),
        label: stored.label.to_owned(),
        prefix: stored.prefix.to_owned(),
        active: stored.active,
        status: KeyStatus::stored(stored.active),
        scopes: scopes
            .collect::<Result<_, _>>()
            .map_err(|_| damaged("a key holds a scope that is none"))?,
        rate_limit_per_minute: stored.rate_limit_per_minute,
        limits: read_limits(&stored.limits)?,
        allowed_ips: CidrSet::parse("allowed_ips", &stored.allowed_ips)
            .map_err(|_| damaged("a key is allowed from an address that is none"))?,
        lifts: read_lifts(stored.lifts),
        created_at: Timestamp::from_unix_millis(stored.created_at),
        expires_at: stored.expires_at.map(Timestamp::from_unix_millis),
        last_used_at: None,
    })
}

#[derive(Serialize, Deserialize)]
struct StoredCredential {
    scheme: u8,
    secret_id: u32,
    key_id: u64,
    created_at: u64,
    expires_at: Option<u64>,
}

const KEYED_BLAKE3: u8 = 1;
const SHA256: u8 = 2;

pub(crate) fn encode_credential(credential: &Credential) -> Result<Vec<u8>, StoreError> {
    encode(&StoredCredential {
        scheme: match credential.scheme {
            HashScheme::KeyedBlake3 => KEYED_BLAKE3,
            HashScheme::Sha256 => SHA256,
        },
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
        scheme: match stored.scheme {
            KEYED_BLAKE3 => HashScheme::KeyedBlake3,
            SHA256 => HashScheme::Sha256,
            _ => return Err(damaged("a credential has an unknown hash scheme")),
        },
        secret_id: stored.secret_id,
        key_id: KeyId(stored.key_id),
        created_at: Timestamp::from_unix_millis(stored.created_at),
        expires_at: stored.expires_at.map(Timestamp::from_unix_millis),
    })
}

/// How many there are and which ids were given out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counters {
    pub(crate) last_org_id: u64,
    pub(crate) last_key_id: u64,
    pub(crate) orgs: u64,
    pub(crate) keys: u64,
    pub(crate) active_keys: u64,
}

/// What one key has done. Its running hour and day are here until they end, so that a batch of
/// usage costs one write per key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Activity {
    /// When it was last admitted.
    pub(crate) last_used_at: Option<Timestamp>,
    pub(crate) all_time: Count,
    pub(crate) hour: u64,
    pub(crate) in_hour: Count,
    pub(crate) day: u64,
    pub(crate) in_day: Count,
    /// What was used of which month, counted from January of year 0, before there were
    /// [balances](super::BALANCES): read where a key has none, never written.
    pub(crate) old_quota: (u32, u64),
}

#[derive(Serialize, Deserialize)]
struct StoredActivity {
    last_used_at: Option<u64>,
    all_time: StoredCount,
    hour: u64,
    in_hour: StoredCount,
    day: u64,
    in_day: StoredCount,
    old_quota: (u32, u64),
}

#[derive(Serialize, Deserialize)]
struct StoredCount {
    requests: u64,
    errors: u64,
}

impl From<Count> for StoredCount {
    fn from(Count { requests, errors }: Count) -> Self {
        Self { requests, errors }
    }
}

impl From<StoredCount> for Count {
    fn from(StoredCount { requests, errors }: StoredCount) -> Self {
        Self { requests, errors }
    }
}

/// Requests over some time, and why those that were refused were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) count: Count,
    /// By the code of the reason.
    pub(crate) refused: [u64; Reason::COUNT],
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.count.add(other.count);
        for (sum, more) in self.refused.iter_mut().zip(other.refused) {
            *sum = sum.saturating_add(more);
        }
    }
}

/// Everything ever recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lifetime {
    pub(crate) tally: Tally,
    pub(crate) dropped: u64,
}

/// Only reasons that occurred, so that a new reason is no new schema.
#[derive(Serialize, Deserialize)]
struct StoredTally {
    count: StoredCount,
    refused: Vec<(u8, u64)>,
}

impl From<&Tally> for StoredTally {
    fn from(tally: &Tally) -> Self {
        let refused = (0..).zip(tally.refused).filter(|&(_, count)| count > 0);
        Self {
            count: tally.count.into(),
            refused: refused.collect(),
        }
    }
}

impl TryFrom<StoredTally> for Tally {
    type Error = StoreError;

    fn try_from(stored: StoredTally) -> Result<Self, StoreError> {
        let mut refused = [0; Reason::COUNT];
        for (code, count) in stored.refused {
            *refused
                .get_mut(usize::from(code))
                .ok_or_else(|| damaged("a total counts an unknown reason"))? = count;
        }
        Ok(Self {
            count: stored.count.into(),
            refused,
        })
    }
}

/// The ten keys with the most requests ever, most first; of equals the older one first.
///
/// Requests of a key only grow, so whichever key enters the ten does so by a batch of its own,
/// and looking at the keys of each batch keeps the ten exact.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TopKeys(pub(crate) Vec<(u64, u64)>);

impl TopKeys {
    const LEN: usize = 10;

    /// Notes that `key` has now made `requests` requests ever.
    pub(crate) fn note(&mut self, key: u64, requests: u64) {
        // Most keys end here.
        if self.0.len() == Self::LEN
            && self
                .0
                .last()
                .is_some_and(|&(last, least)| rank(key, requests) > rank(last, least))
        {
            return;
        }
        match self.0.iter_mut().find(|(listed, _)| *listed == key) {
            Some(entry) => entry.1 = requests,
            None => self.0.push((key, requests)),
        }
        self.0
            .sort_unstable_by_key(|&(key, requests)| rank(key, requests));
        self.0.truncate(Self::LEN);
    }
}

fn rank(key: u64, requests: u64) -> (std::cmp::Reverse<u64>, u64) {
    (std::cmp::Reverse(requests), key)
}

/// A record of counts, known by its type alone.
pub(crate) trait Record: Sized {
    fn encode(&self) -> Result<Vec<u8>, StoreError>;
    fn decode(bytes: &[u8]) -> Result<Self, StoreError>;
}

impl Record for Tally {
    fn encode(&self) -> Result<Vec<u8>, StoreError> {
        encode(&StoredTally::from(self))
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        decode::<StoredTally>("a total", bytes)?.try_into()
    }
}

impl Record for Lifetime {
    fn encode(&self) -> Result<Vec<u8>, StoreError> {
        encode(&(StoredTally::from(&self.tally), self.dropped))
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let (tally, dropped): (StoredTally, u64) = decode("the total", bytes)?;
        Ok(Self {
            tally: tally.try_into()?,
            dropped,
        })
    }
}

impl Record for Activity {
    fn encode(&self) -> Result<Vec<u8>, StoreError> {
        encode(&StoredActivity {
            last_used_at: self.last_used_at.map(Timestamp::unix_millis),
            all_time: self.all_time.into(),
            hour: self.hour,
            in_hour: self.in_hour.into(),
            day: self.day,
            in_day: self.in_day.into(),
            old_quota: self.old_quota,
        })
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let stored: StoredActivity = decode("the activity of a key", bytes)?;
        Ok(Self {
            last_used_at: stored.last_used_at.map(Timestamp::from_unix_millis),
            all_time: stored.all_time.into(),
            hour: stored.hour,
            in_hour: stored.in_hour.into(),
            day: stored.day,
            in_day: stored.in_day.into(),
            old_quota: stored.old_quota,
        })
    }
}

impl Record for Count {
    fn encode(&self) -> Result<Vec<u8>, StoreError> {
        encode(&StoredCount::from(*self))
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        decode::<StoredCount>("a total of a key", bytes).map(Self::from)
    }
}

impl Record for Counters {
    fn encode(&self) -> Result<Vec<u8>, StoreError> {
        encode(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        decode("the counters", bytes)
    }
}

impl Record for TopKeys {
    fn encode(&self) -> Result<Vec<u8>, StoreError> {
        encode(self)
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        decode("the list of top keys", bytes)
    }
}

pub(super) fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, StoreError> {
    encode_as(V1, record)
}

pub(super) fn decode<'a, T: Deserialize<'a>>(
    what: &'static str,
    bytes: &'a [u8],
) -> Result<T, StoreError> {
    decode_as(V1, what, bytes)
}

pub(super) fn encode_as<T: Serialize>(schema: u8, record: &T) -> Result<Vec<u8>, StoreError> {
    postcard::to_extend(record, vec![schema]).map_err(|error| StoreError::Unavailable(error.into()))
}

pub(super) fn decode_as<'a, T: Deserialize<'a>>(
    schema: u8,
    what: &'static str,
    bytes: &'a [u8],
) -> Result<T, StoreError> {
    let unreadable = || StoreError::Damaged(format!("{what} cannot be read"));
    match bytes.split_first() {
        Some((&found, body)) if found == schema => match postcard::take_from_bytes(body) {
            Ok((record, [])) => Ok(record),
            _ => Err(unreadable()),
        },
        _ => Err(unreadable()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> Key {
        Key {
            id: KeyId(7),
            org_id: OrgId(3),
            label: "web".into(),
            prefix: "kg_live_abcd".into(),
            active: true,
            status: KeyStatus::Active,
            scopes: vec!["read".parse().unwrap(), "orders:write".parse().unwrap()],
            rate_limit_per_minute: NonZeroU32::new(60).unwrap(),
            limits: vec!["1000000 monthly".parse().unwrap()],
            allowed_ips: CidrSet::default(),
            lifts: Vec::new(),
            created_at: Timestamp::from_unix_millis(1_700_000_000_000),
            expires_at: None,
            last_used_at: None,
        }
    }

    #[test]
    fn records_come_back() {
        let key = key();
        assert_eq!(decode_key(key.id, &encode_key(&key).unwrap()).unwrap(), key);
        let mut lifetime = Lifetime::default();
        lifetime.tally.refused[Reason::COUNT - 1] = 9;
        lifetime.dropped = 1 << 40;
        let bytes = lifetime.encode().unwrap();
        assert_eq!(Lifetime::decode(&bytes).unwrap(), lifetime);
    }

    /// Bytes that earlier versions wrote.
    #[test]
    fn a_key_of_the_first_schema_is_read() {
        let expected = [
            &[1, 3, 3][..],
            b"web",
            &[12],
            b"kg_live_abcd",
            &[1, 2, 4],
            b"read",
            &[12],
            b"orders:write",
            &[60, 1, 0xc0, 0x84, 0x3d],
            &[0x80, 0xd0, 0x95, 0xff, 0xbc, 0x31, 0],
        ];
        assert_eq!(decode_key(KeyId(7), &expected.concat()).unwrap(), key());
    }

    #[test]
    fn credentials_of_both_schemes_come_back() {
        let hash = HashedKey([7; 32]);
        for scheme in [HashScheme::KeyedBlake3, HashScheme::Sha256] {
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
        // Bytes that earlier versions wrote.
        let first = decode_credential(hash, &[1, 1, 1, 9, 5, 0]).unwrap();
        assert_eq!(first.scheme, HashScheme::KeyedBlake3);
    }

    #[test]
    fn limits_addresses_and_lifts_come_back() {
        let lift = LimitOverride {
            rule: "10/s".into(),
            until: Timestamp::from_unix_millis(5),
        };
        let key = Key {
            limits: crate::limit::list(["10/s", "5000 credits +1/h shadow"]).unwrap(),
            allowed_ips: "10.0.0.0/8,local".parse().unwrap(),
            lifts: vec![lift.clone()],
            ..key()
        };
        assert_eq!(decode_key(key.id, &encode_key(&key).unwrap()).unwrap(), key);
        let org = Org {
            id: OrgId(3),
            name: "acme".into(),
            status: OrgStatus::Active,
            limits: key.limits.clone(),
            lifts: vec![lift],
            created_at: Timestamp::default(),
        };
        assert_eq!(decode_org(org.id, &encode_org(&org).unwrap()).unwrap(), org);
    }

    #[test]
    fn truncated_prolonged_and_newer_records_are_damaged() {
        let bytes = encode_key(&key()).unwrap();
        for len in 0..bytes.len() {
            assert!(decode_key(KeyId(7), &bytes[..len]).is_err());
        }
        assert!(decode_key(KeyId(7), &[&bytes[..], &[0]].concat()).is_err());
        let newer = [&[V2 + 1], &bytes[1..]].concat();
        assert!(decode_key(KeyId(7), &newer).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(mut bytes: Vec<u8>, tagged: bool) {
            if let (true, Some(tag)) = (tagged, bytes.first_mut()) {
                *tag = 1 + (*tag & 1);
            }
            let _ = decode_key(KeyId(1), &bytes);
            let _ = decode_org(OrgId(1), &bytes);
            let _ = decode_credential(HashedKey([0; 32]), &bytes);
            let _ = Counters::decode(&bytes);
            let _ = Activity::decode(&bytes);
            let _ = Lifetime::decode(&bytes);
            let _ = TopKeys::decode(&bytes);
        }

        #[test]
        fn the_top_keys_are_exact(steps in prop::collection::vec((0_u64..30, 1_u64..5), 0..400)) {
            let mut top = TopKeys::default();
            let mut all = std::collections::BTreeMap::new();
            for (key, more) in steps {
                let requests = all.entry(key).or_insert(0);
                *requests += more;
                top.note(key, *requests);
            }
            let mut naive: Vec<(u64, u64)> = all.into_iter().collect();
            naive.sort_by_key(|&(key, requests)| rank(key, requests));
            naive.truncate(TopKeys::LEN);
            prop_assert_eq!(top.0, naive);
        }
    }
}
