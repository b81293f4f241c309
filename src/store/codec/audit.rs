//! The audit log, and what is not to be done twice.

use serde::{Deserialize, Serialize};

use super::record::{V1, decode_as, encode_as};
use super::{StoreError, damaged};
use crate::model::AuditEntry;
use crate::store::{AuditContext, IdempotencyKey};
use crate::time::Timestamp;

#[derive(Serialize, Deserialize)]
struct StoredEntry<'a> {
    at: u64,
    actor: &'a str,
    ip: String,
    action: &'a str,
    subject: Option<u64>,
    /// JSON.
    details: String,
}

pub(crate) fn encode_entry(
    audit: &AuditContext,
    subject: Option<u64>,
) -> Result<Vec<u8>, StoreError> {
    let stored = StoredEntry {
        at: audit.at.unix_millis(),
        actor: &audit.actor,
        ip: audit.ip.to_string(),
        action: audit.action,
        subject,
        details: audit.details.to_string(),
    };
    encode_as(V1, &stored)
}

pub(crate) fn decode_entry(id: u64, bytes: &[u8]) -> Result<AuditEntry, StoreError> {
    let stored: StoredEntry<'_> = decode_as(V1, "an entry of the audit log", bytes)?;
    let ip = stored.ip.parse();
    let details = serde_json::from_str(&stored.details);
    Ok(AuditEntry {
        id,
        at: Timestamp::from_unix_millis(stored.at),
        actor: stored.actor.to_owned(),
        ip: ip.map_err(|_| damaged("an entry of the audit log has no address"))?,
        action: stored.action.to_owned(),
        subject: stored.subject,
        details: details.map_err(|_| damaged("an entry of the audit log has no details"))?,
    })
}

/// What was done under an idempotency key.
#[derive(Serialize, Deserialize)]
pub(crate) struct Done {
    at: u64,
    pub(crate) request: [u8; 32],
    pub(crate) subject: Option<u64>,
}

impl Done {
    pub(crate) fn is_over(&self, now: Timestamp) -> bool {
        IdempotencyKey::is_over(Timestamp::from_unix_millis(self.at), now)
    }
}

pub(crate) fn encode_done(
    once: &IdempotencyKey,
    at: Timestamp,
    subject: Option<u64>,
) -> Result<Vec<u8>, StoreError> {
    let done = Done {
        at: at.unix_millis(),
        request: once.request,
        subject,
    };
    encode_as(V1, &done)
}

pub(crate) fn decode_done(bytes: &[u8]) -> Result<Done, StoreError> {
    decode_as(V1, "an idempotency key", bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(mut bytes: Vec<u8>, tagged: bool) {
            if let (true, Some(tag)) = (tagged, bytes.first_mut()) {
                *tag = V1;
            }
            let _ = decode_entry(1, &bytes);
            let _ = decode_done(&bytes);
        }
    }
}
