//! Administration of locks.

use serde_json::json;

use super::{Admin, AdminError, IpTarget};
use crate::guard::refuses;
use crate::lockout::{Lock, LockCause, LockScope, Refuses};
use crate::model::Method;
use crate::policy::path;
use crate::time::LockDuration;

impl Admin {
    /// Locks a client out for a time: of `path`, or of everything if `path` is `None`.
    ///
    /// A client that is locked out of the same for longer stays so.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] for [`ClientIp::LOCAL`](crate::ClientIp::LOCAL), which stands for many
    /// clients, and for a time of day without a time zone; [`AdminError::Conflict`] if there are
    /// [`Config::max_locks`](crate::Config::max_locks) locks.
    pub fn block(
        &self,
        ip: impl Into<IpTarget>,
        path: Option<&str>,
        duration: LockDuration,
    ) -> Result<Lock, AdminError> {
        let network = self.lockable_ip_key(ip.into())?;
        let now = self.guard.now();
        let locks = self.guard.locks();
        let until = duration.ends_at(now, locks.zone())?;
        let lock = Lock {
            network,
            refuses: match path {
                Some(path) => refuses(LockScope::Path, path),
                None => Refuses::All,
            },
            cause: LockCause::Manual,
            since: now,
            until,
            step: 0,
            remembered_until: until,
        };
        let details = json!({ "network": network, "refuses": lock.refuses, "until": until });
        let audit = self.audit_context("block", None, details);
        let blocked = locks.block(self.guard.store(), lock, &audit)?;
        blocked.ok_or_else(|| {
            AdminError::Conflict(
                "the maximum number of locks is reached; unblock some, or raise `Config::max_locks`"
                    .into(),
            )
        })
    }

    /// Ends locks of a client, and forgets its failed authentications. Returns the ended locks.
    ///
    /// With a `path` only the locks of that path and of the routes that match it end.
    ///
    /// # Errors
    /// [`AdminError::NotFound`] if there is no such lock; [`AdminError::Invalid`] for
    /// [`ClientIp::LOCAL`](crate::ClientIp::LOCAL).
    pub fn unblock(
        &self,
        ip: impl Into<IpTarget>,
        path: Option<&str>,
    ) -> Result<Vec<Lock>, AdminError> {
        let network = self.ip_key(ip)?;
        let locks = self.guard.locks();
        let (store, limiter) = (self.guard.store(), self.guard.limiter());
        let details = json!({ "network": network, "path": path });
        let audit = self.audit_context("unblock", None, details);
        let compiled = self.guard.compiled();
        let matched = path.map(|path| {
            (
                path::normalized(path),
                compiled.route_match(path, Method::Other),
            )
        });
        let is_meant = |refuses: &Refuses| match (&matched, refuses) {
            (None, _) => true,
            (Some((path, _)), Refuses::Path(locked)) => path == locked,
            (Some((_, matched)), Refuses::Route(name)) => {
                matched.routes.iter().any(|route| *route.name == **name)
            }
            _ => false,
        };
        let ended = locks.unblock(store, limiter, network, is_meant, &audit)?;
        if !ended.is_empty() {
            return Ok(ended);
        }
        let parent = network.parent();
        let is_around = |lock: &Lock| lock.network == parent && parent != network;
        Err(AdminError::NotFound(
            if self.list_blocks().iter().any(is_around) {
                format!("{network} has no such lock of its own, but {parent} around it is locked")
            } else {
                format!("{network} has no such lock")
            },
        ))
    }

    /// Returns every lock in force, manual and automatic, by network.
    pub fn list_blocks(&self) -> Vec<Lock> {
        self.guard.locks().list(self.guard.now())
    }
}
