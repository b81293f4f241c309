//! Who makes changes.

use std::sync::Arc;

use super::KeyGuard;
#[cfg(feature = "http")]
use super::config::Config;
use crate::input::{self, InvalidInput};
#[cfg(feature = "http")]
use crate::model::Secret;
use crate::net::ClientIp;
use crate::store::{AuditContext, IdempotencyKey};

/// Who makes changes through a guard; `None` for the program itself.
#[derive(Clone, Default)]
pub(crate) struct AuditActor(Option<Arc<Named>>);

struct Named {
    name: String,
    ip: ClientIp,
    once: Option<IdempotencyKey>,
}

impl AuditActor {
    pub(crate) fn new(name: String, ip: ClientIp, once: Option<IdempotencyKey>) -> Self {
        Self(Some(Arc::new(Named { name, ip, once })))
    }
}

/// What administrators identify themselves with.
#[cfg(feature = "http")]
pub(super) struct AdminKeys {
    hashes: Vec<blake3::Hash>,
    #[cfg(feature = "serve")]
    are_weak: bool,
}

#[cfg(feature = "http")]
impl AdminKeys {
    pub(super) fn new(config: &Config, secret: &Secret) -> Self {
        let own = match &config.admin_key {
            Some(key) => blake3::hash(key.expose()),
            None => blake3::hash(secret.admin_key().as_bytes()),
        };
        let opted_in = config
            .secret_as_admin_key
            .then(|| blake3::hash(secret.expose()));
        Self {
            hashes: std::iter::once(own).chain(opted_in).collect(),
            #[cfg(feature = "serve")]
            are_weak: secret.expose().len() < 32
                && (config.admin_key.is_none() || config.secret_as_admin_key),
        }
    }

    #[cfg(feature = "serve")]
    pub(super) fn are_weak(&self) -> bool {
        self.are_weak
    }

    /// Hashes are compared in constant time.
    pub(super) fn contain(&self, text: &[u8]) -> bool {
        let hash = blake3::hash(text);
        self.hashes
            .iter()
            .fold(false, |found, key| found | (*key == hash))
    }
}

impl KeyGuard {
    /// The same guard, whose changes the audit log enters as those of `actor`, who asks from `from`.
    ///
    /// # Errors
    /// [`InvalidInput`] if the name is not 1 to 255 visible characters and spaces.
    pub fn acting_as(&self, actor: &str, from: impl Into<ClientIp>) -> Result<Self, InvalidInput> {
        let name = input::name("actor", actor)?;
        Ok(self.with_actor(AuditActor::new(name, from.into(), None)))
    }

    pub(crate) fn with_actor(&self, actor: AuditActor) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            actor,
        }
    }

    /// What is done now, as it is to be entered in the audit log.
    pub(crate) fn audit_context(
        &self,
        action: &'static str,
        subject: Option<u64>,
        details: serde_json::Value,
    ) -> AuditContext {
        let named = self.actor.0.as_deref();
        AuditContext {
            at: self.inner.now(),
            actor: named.map_or("program", |named| &named.name).to_owned(),
            ip: named.map_or(ClientIp::LOCAL, |named| named.ip),
            action,
            subject,
            details,
            once: named.and_then(|named| named.once),
        }
    }
}
