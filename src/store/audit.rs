//! The context of an audited change, and idempotency.

use std::time::Duration;

use super::StoreError;
use crate::log::{Event, Log};
use crate::model::{Key, Org, WebhookEvent};
use crate::net::ClientIp;
use crate::time::Timestamp;

/// Who makes a change, for the audit log.
#[derive(Clone, Debug)]
pub(crate) struct AuditContext {
    pub(crate) at: Timestamp,
    pub(crate) actor: String,
    pub(crate) ip: ClientIp,
    pub(crate) action: &'static str,
    /// The id of the changed key or organization; `None` if the change creates it.
    pub(crate) subject: Option<u64>,
    pub(crate) details: serde_json::Value,
    /// Makes the change at most once.
    pub(crate) idempotency_key: Option<IdempotencyKey>,
    /// Events for webhooks, which are stored together with the change. A database ignores them.
    pub(crate) webhook_events: Vec<WebhookEvent>,
    /// Gets the change once it is committed.
    pub(crate) log: Log,
}

impl AuditContext {
    /// The context of a change that the program makes by itself.
    pub(crate) fn of_program(
        at: Timestamp,
        action: &'static str,
        details: serde_json::Value,
    ) -> Self {
        Self {
            at,
            actor: PROGRAM.to_owned(),
            ip: ClientIp::LOCAL,
            action,
            subject: None,
            details,
            idempotency_key: None,
            webhook_events: Vec::new(),
            log: Log::default(),
        }
    }

    /// The same context, with an event for webhooks.
    pub(crate) fn announcing(mut self, event: WebhookEvent) -> Self {
        self.webhook_events.push(event);
        self
    }

    /// Logs the change, which is committed. `subject` is the key or organization that it created.
    pub(super) fn committed(&self, created: Option<u64>) {
        self.log.emit(&Event::Changed {
            action: self.action,
            subject: created.or(self.subject),
            actor: &self.actor,
            ip: self.ip,
            details: &self.details,
        });
    }
}

/// The actor of changes for which no other is named.
pub(crate) const PROGRAM: &str = "program";

/// The result of an audited change.
pub(super) trait AuditSubject {
    /// Returns the id of the key or organization that was created or changed, if any.
    fn audit_subject(&self) -> Option<u64>;
}

impl AuditSubject for () {
    fn audit_subject(&self) -> Option<u64> {
        None
    }
}

impl AuditSubject for Org {
    fn audit_subject(&self) -> Option<u64> {
        Some(self.id.0)
    }
}

impl AuditSubject for Key {
    fn audit_subject(&self) -> Option<u64> {
        Some(self.id.0)
    }
}

impl AuditSubject for Vec<Key> {
    fn audit_subject(&self) -> Option<u64> {
        self.first()?.audit_subject()
    }
}

/// Identifies a request that a client may repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdempotencyKey {
    /// The hash of the key that the client sent.
    pub(crate) name: [u8; 32],
    /// The hash of the request.
    pub(crate) request: [u8; 32],
}

impl IdempotencyKey {
    /// How long a completed request is remembered.
    pub(crate) const KEPT: Duration = Duration::from_secs(86_400);

    /// Fails if `completed`, which has the same name, forbids the request at `now`.
    pub(super) fn check(
        &self,
        completed: &CompletedRequest,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if completed.is_expired(now) {
            return Ok(());
        }
        match completed.request == self.request {
            true => Err(StoreError::AlreadyDone(completed.subject)),
            false => Err(StoreError::IdempotencyKeyReused),
        }
    }
}

/// A request that was completed under an [`IdempotencyKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CompletedRequest {
    pub(crate) at: Timestamp,
    /// [`IdempotencyKey::request`].
    pub(crate) request: [u8; 32],
    /// The id of the changed key or organization.
    pub(crate) subject: Option<u64>,
}

impl CompletedRequest {
    pub(super) fn is_expired(&self, now: Timestamp) -> bool {
        // A time that lies further ahead comes from a wrong clock.
        self.at.plus(IdempotencyKey::KEPT) <= now || self.at.since(now) > IdempotencyKey::KEPT
    }
}
