//! Organizations, and the overrides that keys have too.

use serde::{Deserialize, Serialize};

use super::record::{decode, encode};
use super::{StoreError, read_limits, texts};
use crate::model::{LimitOverride, Org, OrgId, OrgStatus};
use crate::time::Timestamp;

#[derive(Serialize, Deserialize)]
struct StoredOrg<'a> {
    name: &'a str,
    suspended: bool,
    created_at: u64,
    limits: Vec<String>,
    #[serde(borrow)]
    overrides: Vec<StoredOverride<'a>>,
}

/// The name of a rule, and until when it is overridden.
pub(super) type StoredOverride<'a> = (&'a str, u64);

pub(crate) fn encode_org(org: &Org) -> Result<Vec<u8>, StoreError> {
    encode(&StoredOrg {
        name: &org.name,
        suspended: org.status == OrgStatus::Suspended,
        created_at: org.created_at.unix_millis(),
        limits: texts(&org.limits),
        overrides: store_overrides(&org.overrides),
    })
}

pub(crate) fn decode_org(id: OrgId, bytes: &[u8]) -> Result<Org, StoreError> {
    let stored: StoredOrg<'_> = decode("an organization", bytes)?;
    Ok(Org {
        id,
        name: stored.name.to_owned(),
        status: match stored.suspended {
            true => OrgStatus::Suspended,
            false => OrgStatus::Active,
        },
        limits: read_limits(stored.limits)?,
        overrides: read_overrides(stored.overrides),
        created_at: Timestamp::from_unix_millis(stored.created_at),
    })
}

pub(super) fn store_overrides(overrides: &[LimitOverride]) -> Vec<StoredOverride<'_>> {
    overrides
        .iter()
        .map(|known| (known.limit.as_str(), known.until.unix_millis()))
        .collect()
}

pub(super) fn read_overrides(stored: Vec<StoredOverride<'_>>) -> Vec<LimitOverride> {
    let read = |(limit, until): StoredOverride<'_>| LimitOverride {
        limit: limit.to_owned(),
        until: Timestamp::from_unix_millis(until),
    };
    stored.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn organizations_read_back() {
        let org = Org {
            id: OrgId(3),
            name: "acme".into(),
            status: OrgStatus::Active,
            limits: crate::limit::list("limits", ["10/s", "5000 credits +1/h shadow"]).unwrap(),
            overrides: vec![LimitOverride {
                limit: "10/s".into(),
                until: Timestamp::from_unix_millis(5),
            }],
            created_at: Timestamp::default(),
        };
        assert_eq!(decode_org(org.id, &encode_org(&org).unwrap()).unwrap(), org);
    }

    proptest! {
        #[test]
        fn decoding_never_panics(body: Vec<u8>) {
            let _ = decode_org(OrgId(1), &body);
            let _ = decode_org(OrgId(1), &[&[1], &body[..]].concat());
        }
    }
}
