//! New keys and credentials, and changes of organizations and keys.
//!
//! Each `apply` validates and applies one change; a backend reads the record, calls it and writes the
//! result.

use std::num::NonZeroU32;

use super::StoreError;
use crate::limit::Limit;
use crate::model::{
    Credential, HashScheme, HashedKey, Key, KeyId, KeyStatus, LimitOverride, Org, OrgId, OrgStatus,
    Scope,
};
use crate::net::CidrSet;
use crate::time::Timestamp;

/// The id of the secret that a store is created with. A rotated secret will be 2.
pub(crate) const FIRST_SECRET: u32 = 1;

pub(super) fn new_org(id: OrgId, name: &str, created_at: Timestamp) -> Org {
    Org {
        id,
        name: name.to_owned(),
        status: OrgStatus::Active,
        limits: Vec::new(),
        overrides: Vec::new(),
        created_at,
    }
}

/// The error of creating an organization while one with the same or a similar name exists.
pub(super) fn org_exists(existing: String, name: &str) -> StoreError {
    match existing == name {
        true => StoreError::DuplicateOrg(existing),
        false => StoreError::SimilarOrg(existing),
    }
}

pub(crate) struct NewKey {
    pub(crate) org_id: OrgId,
    pub(crate) label: String,
    pub(crate) scopes: Vec<Scope>,
    pub(crate) rate_limit_per_minute: NonZeroU32,
    pub(crate) limits: Vec<Limit>,
    pub(crate) allowed_ips: CidrSet,
    pub(crate) created_at: Timestamp,
    pub(crate) expires_at: Option<Timestamp>,
}

impl NewKey {
    pub(super) fn with_id(&self, id: KeyId, credential: &NewCredential) -> Key {
        Key {
            id,
            org_id: self.org_id,
            label: self.label.clone(),
            shown_prefix: credential.shown_prefix.clone(),
            status: KeyStatus::Active,
            scopes: self.scopes.clone(),
            rate_limit_per_minute: self.rate_limit_per_minute,
            limits: self.limits.clone(),
            allowed_ips: self.allowed_ips.clone(),
            overrides: Vec::new(),
            created_at: self.created_at,
            expires_at: self.expires_at,
            last_used_at: None,
            old_text_until: None,
        }
    }
}

/// A credential of a key that may not have an id yet.
pub(crate) struct NewCredential {
    pub(crate) hash: HashedKey,
    /// The start of the key's text, for listings.
    pub(crate) shown_prefix: String,
    pub(crate) created_at: Timestamp,
}

impl NewCredential {
    pub(super) fn of_key(&self, key_id: KeyId) -> Credential {
        Credential {
            hash: self.hash,
            scheme: HashScheme::KeyedBlake3,
            secret_id: FIRST_SECRET,
            key_id,
            created_at: self.created_at,
            expires_at: None,
        }
    }
}

/// How a key gets a new credential.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rotation {
    /// The time of the rotation.
    pub(crate) now: Timestamp,
    /// When the other credentials expire.
    pub(crate) retire_at: Timestamp,
    /// The new time of expiry of the key; `None` leaves it as it is.
    pub(crate) expires_at: Option<Option<Timestamp>>,
}

impl Rotation {
    /// Changes a key, and returns when its other credentials expire. Credentials of an expired key are
    /// never accepted again.
    pub(super) fn apply(
        &self,
        key: &mut Key,
        credential: &NewCredential,
    ) -> Result<Timestamp, StoreError> {
        if key.is_revoked() {
            return Err(StoreError::Revoked(key.id));
        }
        let is_expired = key.is_expired(self.now);
        match self.expires_at {
            None if is_expired => return Err(StoreError::Expired(key.id)),
            None => {}
            Some(expires_at) => key.expires_at = expires_at,
        }
        key.shown_prefix.clone_from(&credential.shown_prefix);
        Ok(match is_expired {
            true => self.retire_at.min(self.now),
            false => self.retire_at,
        })
    }
}

/// A credential whose hash is to be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rehash {
    pub(crate) old: HashedKey,
    pub(crate) new: HashedKey,
}

/// Texts that the Python package issued.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LegacyKeys {
    /// Those of keys in force.
    All,
    /// Those of keys in force among the first so many credentials in the order of their hashes, which is random.
    Sample(usize),
    /// Those of one key, if it is in force.
    Of(KeyId),
    /// Those that were used here, so that they are stored under our hash. Their keys need not be in force.
    Rehashed,
}

impl LegacyKeys {
    /// The number of credentials to examine; `None` for all.
    pub(super) fn most(self) -> Option<usize> {
        match self {
            Self::Sample(most) => Some(most),
            Self::All | Self::Of(_) | Self::Rehashed => None,
        }
    }

    /// Whether their keys may also be revoked, suspended or expired.
    pub(super) fn in_any_state(self) -> bool {
        matches!(self, Self::Rehashed)
    }

    pub(super) fn schemes(self) -> &'static [HashScheme] {
        match self {
            Self::Rehashed => &[HashScheme::RehashedSha256],
            Self::All | Self::Sample(_) | Self::Of(_) => {
                &[HashScheme::Sha256, HashScheme::RehashedSha256]
            }
        }
    }
}

/// Fields of a key to change; `None` leaves a field as it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyChange {
    pub(crate) label: Option<String>,
    pub(crate) scopes: Option<Vec<Scope>>,
    pub(crate) rate_limit_per_minute: Option<NonZeroU32>,
    pub(crate) limits: Option<Vec<Limit>>,
    pub(crate) allowed_ips: Option<CidrSet>,
    pub(crate) limit_override: Option<NewOverride>,
    pub(crate) suspended: Option<bool>,
    pub(crate) expires_at: Option<Option<Timestamp>>,
    /// Fails with [`StoreError::Expired`] if the key has expired by this time.
    pub(crate) unless_expired_at: Option<Timestamp>,
}

impl KeyChange {
    /// Changes a key that is not revoked.
    pub(super) fn apply(&self, key: &mut Key) -> Result<(), StoreError> {
        if key.is_revoked() {
            return Err(StoreError::Revoked(key.id));
        }
        if self
            .unless_expired_at
            .is_some_and(|now| key.is_expired(now))
        {
            return Err(StoreError::Expired(key.id));
        }
        set(&mut key.label, &self.label);
        set(&mut key.scopes, &self.scopes);
        set(&mut key.rate_limit_per_minute, &self.rate_limit_per_minute);
        set(&mut key.limits, &self.limits);
        set(&mut key.allowed_ips, &self.allowed_ips);
        set(&mut key.expires_at, &self.expires_at);
        if let Some(suspended) = self.suspended {
            key.status = match suspended {
                true => KeyStatus::Suspended,
                false => KeyStatus::Active,
            };
        }
        if let Some(limit_override) = &self.limit_override {
            limit_override.apply(&mut key.overrides);
        }
        Ok(())
    }
}

/// Revokes a key. Returns whether it was not revoked before.
pub(super) fn revoke(key: &mut Key) -> bool {
    std::mem::replace(&mut key.status, KeyStatus::Revoked) != KeyStatus::Revoked
}

/// By how much a change of a key changes the number of enabled keys.
pub(super) fn enabled_growth(before: Option<&Key>, after: &Key) -> i64 {
    i64::from(after.is_enabled()) - i64::from(before.is_some_and(Key::is_enabled))
}

/// Fields of an organization to change; `None` leaves a field as it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct OrgChange {
    pub(crate) status: Option<OrgStatus>,
    pub(crate) limits: Option<Vec<Limit>>,
    pub(crate) limit_override: Option<NewOverride>,
}

impl OrgChange {
    pub(super) fn apply(&self, org: &mut Org) {
        set(&mut org.status, &self.status);
        set(&mut org.limits, &self.limits);
        if let Some(limit_override) = &self.limit_override {
            limit_override.apply(&mut org.overrides);
        }
    }
}

fn set<T: Clone>(field: &mut T, value: &Option<T>) {
    if let Some(value) = value {
        field.clone_from(value);
    }
}

/// A limit override to add, in place of an earlier one of the same rule. Other overrides are kept, so
/// that concurrent changes of different rules do not undo each other.
#[derive(Clone, Debug)]
pub(crate) struct NewOverride {
    pub(crate) limit_override: LimitOverride,
    /// Removes overrides that have ended by this time, including this one.
    pub(crate) now: Timestamp,
}

impl NewOverride {
    fn apply(&self, overrides: &mut Vec<LimitOverride>) {
        let new = &self.limit_override;
        overrides.retain(|known| known.limit != new.limit && known.until > self.now);
        if new.until > self.now {
            overrides.push(new.clone());
        }
    }
}
