//! Administration: the handle, and the commands that the socket, the command line and the HTTP service
//! have in common.

mod actor;
mod backup;
pub(crate) mod command;
mod diagnosis;
mod error;
mod failure;
mod ip_target;
mod key_requests;
mod keys;
#[cfg(feature = "serve")]
mod leaks;
mod limits;
mod locks;
mod orgs;
mod page;
#[cfg(all(unix, feature = "cli"))]
pub(crate) mod remote;
mod search;
mod shown;
#[cfg(unix)]
mod socket;
#[cfg(unix)]
mod socket_path;
mod stats;
mod usage;
mod webhooks;
#[cfg(unix)]
pub(crate) mod wire;

use std::fmt;
use std::sync::Arc;

pub use self::error::AdminError;
pub use self::ip_target::IpTarget;
pub use self::key_requests::{CreateKey, RotateKey, UpdateKey};
pub use self::keys::CreatedKey;
pub use self::orgs::UpdateOrg;
pub use self::page::Page;
pub use self::stats::{Stats, TopKey};
pub use self::usage::{ListUsage, UsageReport, UsageRow, UsageValue, UsedKey};

pub(crate) use self::actor::AuditActor;
pub(crate) use self::failure::{Failure, FailureCode};
#[cfg(feature = "serve")]
pub(crate) use self::leaks::{Leak, OnLeak};
#[cfg(unix)]
pub(crate) use self::socket::SocketServer;
#[cfg(all(unix, feature = "cli"))]
pub(crate) use self::socket::system_user;
#[cfg(all(unix, feature = "serve"))]
pub(crate) use self::socket::{BACKLOG, SocketFile, bind_socket};
pub(crate) use self::usage::{RequestPage, TailReply};

pub(crate) use self::diagnosis::{Diagnosis, KeyAges};
use self::key_requests::nullable;
use crate::guard::Guard;
use crate::input::{self, InvalidInput};
use crate::net::ClientIp;
use crate::store::AuditContext;

/// Management of the organizations, keys, limits and locks of a guard:
/// [`KeyGuard::admin`](crate::KeyGuard::admin).
///
/// Cheap to clone. Changes to organizations, keys, limits and manual locks are durable and in force when
/// the method returns; each is entered in the audit log in the same transaction. A new policy is in force
/// in this process only, and is entered before.
///
/// Methods block on I/O with the disk or a server: in async code call them through the runtime's
/// `spawn_blocking`. Besides the errors listed, every method can return [`AdminError::Unavailable`] and
/// [`AdminError::Damaged`].
///
/// ```
/// # use keyguard::{Config, CreateKey, KeyGuard};
/// # let dir = tempfile::tempdir()?;
/// # let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::new("a long random secret"))?;
/// let admin = kg.admin().acting_as("alice", std::net::IpAddr::from([192, 0, 2, 7]))?;
/// admin.create_org("acme")?;
/// let created = admin.create_key(CreateKey::new("acme", "web shop"))?;
/// admin.revoke_key(created.key.id)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Besides the errors listed, every method that returns a [`Result`] of [`AdminError`] can return
/// [`AdminError::Unavailable`] and [`AdminError::Damaged`].
#[derive(Clone)]
pub struct Admin {
    guard: Arc<Guard>,
    actor: AuditActor,
}

impl Admin {
    pub(crate) fn new(guard: Arc<Guard>) -> Self {
        Self {
            guard,
            actor: AuditActor::default(),
        }
    }

    /// Returns a handle whose changes the audit log attributes to `actor` at the address `ip`.
    ///
    /// # Errors
    /// [`InvalidInput`] if the name is not 1 to 255 visible characters and spaces.
    pub fn acting_as(&self, actor: &str, ip: impl Into<ClientIp>) -> Result<Self, InvalidInput> {
        let name = input::name("actor", actor)?;
        Ok(self.with_actor(AuditActor::new(name, ip.into(), None)))
    }

    pub(crate) fn with_actor(&self, actor: AuditActor) -> Self {
        Self {
            guard: Arc::clone(&self.guard),
            actor,
        }
    }

    /// The audit context of a change that is made now.
    pub(crate) fn audit_context(
        &self,
        action: &'static str,
        subject: Option<u64>,
        details: serde_json::Value,
    ) -> AuditContext {
        AuditContext {
            at: self.guard.now(),
            actor: self.actor.name().to_owned(),
            ip: self.actor.ip(),
            action,
            subject,
            details,
            idempotency_key: self.actor.idempotency_key(),
            webhook_events: Vec::new(),
            log: self.guard.log().clone(),
        }
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}
