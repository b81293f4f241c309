//! Who makes changes.

use std::sync::Arc;

use crate::net::ClientIp;
use crate::store::{IdempotencyKey, PROGRAM};

/// Who makes changes, for the audit log; the program itself by default.
#[derive(Clone, Default)]
pub(crate) struct AuditActor(Option<Arc<Named>>);

struct Named {
    name: String,
    ip: ClientIp,
    idempotency_key: Option<IdempotencyKey>,
}

impl AuditActor {
    pub(crate) fn new(name: String, ip: ClientIp, idempotency_key: Option<IdempotencyKey>) -> Self {
        Self(Some(Arc::new(Named {
            name,
            ip,
            idempotency_key,
        })))
    }

    pub(super) fn name(&self) -> &str {
        self.0.as_deref().map_or(PROGRAM, |named| &named.name)
    }

    pub(super) fn ip(&self) -> ClientIp {
        self.0.as_deref().map_or(ClientIp::LOCAL, |named| named.ip)
    }

    pub(super) fn idempotency_key(&self) -> Option<IdempotencyKey> {
        self.0.as_deref()?.idempotency_key
    }
}
