//! Keys as they are shown: with their status, and the time until which replaced texts are accepted.

use std::collections::HashMap;
use std::slice;

use super::{Admin, AdminError};
use crate::model::{Key, KeyId};
use crate::store::StoreError;
use crate::time::Timestamp;

impl Admin {
    /// Returns stored keys as they are now.
    pub(super) fn shown(&self, keys: Vec<Key>) -> Result<Vec<Key>, AdminError> {
        let old_texts = self.old_texts_until(&keys)?;
        let now = self.guard.now();
        let shown = |key: Key| {
            let old_text_until = old_texts.get(&key.id).copied();
            shown_at(key, old_text_until, now)
        };
        Ok(keys.into_iter().map(shown).collect())
    }

    /// Returns a key after a change, which is in force even if the texts of the key cannot be read.
    pub(super) fn shown_after_change(&self, key: Key) -> Key {
        let old_texts = self.old_texts_until(slice::from_ref(&key));
        let old_text_until = old_texts.unwrap_or_default().get(&key.id).copied();
        shown_at(key, old_text_until, self.guard.now())
    }

    fn old_texts_until(&self, keys: &[Key]) -> Result<HashMap<KeyId, Timestamp>, StoreError> {
        let active = keys.iter().filter(|key| !key.is_revoked());
        let ids: Vec<KeyId> = active.map(|key| key.id).collect();
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        match self.guard.store().old_texts_until(&ids) {
            // What else is known of the keys is shown.
            Err(StoreError::Damaged(_)) => Ok(HashMap::new()),
            found => Ok(found?.into_iter().collect()),
        }
    }
}

/// Returns a key as it is at `now`. Replaced texts expire at a time, or earlier with the key.
pub(super) fn shown_at(key: Key, old_text_until: Option<Timestamp>, now: Timestamp) -> Key {
    let key = key.at(now);
    let until = old_text_until.map(|until| key.expires_at.map_or(until, |at| at.min(until)));
    Key {
        old_text_until: until.filter(|until| key.is_active() && *until > now),
        ..key
    }
}
