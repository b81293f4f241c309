//! Merging of imported records with existing ones.

use crate::counter::{SavedCounter, SavedValue};
use crate::lockout::Lock;
use crate::model::{Credential, HashScheme, Key, KeyId, KeyStatus, Org};
use crate::store::StoreError;
use crate::store::changes::enabled_growth;
use crate::time::Timestamp;

/// Fails unless `existing`, which has the id or the name of `incoming`, is the same organization.
pub(in crate::store) fn require_same_org(existing: &Org, incoming: &Org) -> Result<(), StoreError> {
    let identity = |org: &Org| (org.id, org.created_at);
    if identity(existing) == identity(incoming) && existing.name == incoming.name {
        return Ok(());
    }
    Err(StoreError::Occupied(format!(
        "organization {} `{}` conflicts with organization {} `{}` of the target",
        incoming.id, incoming.name, existing.id, existing.name
    )))
}

/// Fails unless `existing`, which has the id of `incoming`, is the same key.
pub(in crate::store) fn require_same_key(existing: &Key, incoming: &Key) -> Result<(), StoreError> {
    let identity = |key: &Key| (key.id, key.org_id, key.created_at);
    if identity(existing) == identity(incoming) {
        return Ok(());
    }
    Err(StoreError::Occupied(format!(
        "key {} of organization {} conflicts with key {} of organization {} of the target",
        incoming.id, incoming.org_id, existing.id, existing.org_id
    )))
}

/// Fails unless the hash of `incoming` authenticates the same key in the target.
pub(in crate::store) fn require_same_owner(
    existing: KeyId,
    incoming: &Credential,
) -> Result<(), StoreError> {
    if existing == incoming.key_id {
        return Ok(());
    }
    Err(StoreError::Occupied(format!(
        "key {} has the same credential as key {existing} of the target",
        incoming.key_id
    )))
}

/// Returns the key to store. A revoked key stays revoked, and a suspended one suspended.
pub(in crate::store) fn merge_key(existing: Option<&Key>, incoming: &Key) -> Key {
    let Some(existing) = existing else {
        return incoming.clone();
    };
    Key {
        status: stricter(existing.status, incoming.status),
        last_used_at: existing.last_used_at.max(incoming.last_used_at),
        ..incoming.clone()
    }
}

fn stricter(one: KeyStatus, other: KeyStatus) -> KeyStatus {
    let either_is = |status| one == status || other == status;
    let strict = [KeyStatus::Revoked, KeyStatus::Suspended];
    let strict = strict.into_iter().find(|status| either_is(*status));
    strict.unwrap_or(KeyStatus::Active)
}

/// Returns the credential to store, if any; `existing` has the same hash. An expiry never moves later.
///
/// A credential of the Python package is imported only together with its key: an existing key may have
/// been rehashed.
pub(in crate::store) fn merge_credential(
    existing: Option<&Credential>,
    incoming: &Credential,
    is_new_key: bool,
) -> Option<Credential> {
    match existing {
        None if incoming.scheme == HashScheme::Sha256 && !is_new_key => None,
        None => Some(incoming.clone()),
        Some(existing) => {
            let expiries = [existing.expires_at, incoming.expires_at];
            Some(Credential {
                expires_at: expiries.into_iter().flatten().min(),
                ..existing.clone()
            })
        }
    }
}

/// Returns the balances of both sides. Of a balance on both, the later day, month or refill stays, and
/// within one the greater use.
pub(in crate::store) fn merge_balances(
    existing: Vec<SavedCounter>,
    incoming: &[SavedCounter],
) -> Vec<SavedCounter> {
    let mut merged = existing;
    for incoming in incoming {
        match merged.iter_mut().find(|known| known.id == incoming.id) {
            Some(known) if state(known) < state(incoming) => *known = incoming.clone(),
            Some(_) => {}
            None => merged.push(incoming.clone()),
        }
    }
    merged
}

fn state(counter: &SavedCounter) -> Option<(Timestamp, u64)> {
    match &counter.value {
        SavedValue::Balance(balance) => Some((balance.at(), balance.used())),
        SavedValue::Hits(_) => None,
    }
}

/// Returns the lock to store; `None` if the existing one stays.
pub(in crate::store) fn merge_lock(existing: Option<&Lock>, incoming: &Lock) -> Option<Lock> {
    let merged = match existing {
        Some(existing) => incoming.clone().joined(existing),
        None => incoming.clone(),
    };
    (existing != Some(&merged)).then_some(merged)
}

/// By how much an import changes the numbers of organizations and keys.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::store) struct Growth {
    pub(in crate::store) orgs: i64,
    pub(in crate::store) keys: i64,
    pub(in crate::store) active_keys: i64,
}

impl Growth {
    pub(in crate::store) fn add_key(&mut self, existing: Option<&Key>, merged: &Key) {
        self.keys += i64::from(existing.is_none());
        self.active_keys += enabled_growth(existing, merged);
    }
}
