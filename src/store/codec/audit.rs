//! Entries of the audit log, and completed requests.

use serde::{Deserialize, Serialize};

use super::StoreError;
use super::record::{decode, encode};
use crate::model::AuditEntry;
use crate::store::{AuditContext, CompletedRequest};
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
    encode(&StoredEntry {
        at: audit.at.unix_millis(),
        actor: &audit.actor,
        ip: audit.ip.to_string(),
        action: audit.action,
        subject,
        details: audit.details.to_string(),
    })
}

pub(crate) fn decode_entry(id: u64, bytes: &[u8]) -> Result<AuditEntry, StoreError> {
    let stored: StoredEntry<'_> = decode("an entry of the audit log", bytes)?;
    let ip = stored.ip.parse();
    let details = serde_json::from_str(&stored.details);
    Ok(AuditEntry {
        id,
        at: Timestamp::from_unix_millis(stored.at),
        actor: stored.actor.to_owned(),
        ip: ip
            .map_err(|_| StoreError::damaged("an entry of the audit log has an invalid address"))?,
        action: stored.action.to_owned(),
        subject: stored.subject,
        details: details
            .map_err(|_| StoreError::damaged("an entry of the audit log has invalid details"))?,
    })
}

#[derive(Serialize, Deserialize)]
struct StoredRequest {
    at: u64,
    request: [u8; 32],
    subject: Option<u64>,
}

pub(crate) fn encode_completed_request(
    completed: &CompletedRequest,
) -> Result<Vec<u8>, StoreError> {
    encode(&StoredRequest {
        at: completed.at.unix_millis(),
        request: completed.request,
        subject: completed.subject,
    })
}

pub(crate) fn decode_completed_request(bytes: &[u8]) -> Result<CompletedRequest, StoreError> {
    let stored: StoredRequest = decode("an idempotency key", bytes)?;
    Ok(CompletedRequest {
        at: Timestamp::from_unix_millis(stored.at),
        request: stored.request,
        subject: stored.subject,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn decoding_never_panics(body: Vec<u8>) {
            for bytes in [&body[..], &[&[1], &body[..]].concat()] {
                let _ = decode_entry(1, bytes);
                let _ = decode_completed_request(bytes);
            }
        }
    }
}
