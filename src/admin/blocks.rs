//! The methods of [`Admin`] that lock clients out by hand.

use serde_json::json;

use super::{Admin, AdminError};
use crate::guard::refuses;
use crate::input::InvalidInput;
use crate::lockout::{Lock, LockCause, LockScope, Refuses};
use crate::model::Method;
use crate::net::ClientIp;
use crate::net::IpKey;
use crate::policy::path;
use crate::time::LockDuration;

impl Admin {
    /// Locks a client out for a time, of everything or of `path`. In force and durable when this
    /// returns. A client that is locked out of the same for longer stays so.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] for [`ClientIp::LOCAL`], which stands for many, or for a time of day
    /// without a time zone; [`AdminError::Conflict`] if there are too many locks.
    pub fn block(
        &self,
        ip: impl Into<ClientIp>,
        path: &str,
        time: LockDuration,
        scope: LockScope,
    ) -> Result<Lock, AdminError> {
        let ip = self
            .guard
            .compiled()
            .policy
            .nat64_prefixes
            .canonical(ip.into());
        let network = IpKey::of(ip).ok_or_else(|| {
            InvalidInput::new(
                "ip",
                "stands for every client of a Unix socket; give an address",
            )
        })?;
        self.block_network(network, path, time, scope)
    }

    pub(super) fn block_network(
        &self,
        network: IpKey,
        path: &str,
        time: LockDuration,
        scope: LockScope,
    ) -> Result<Lock, AdminError> {
        let now = self.guard.now();
        let lockouts = self.guard.lockouts();
        let until = time.ends_at(now, lockouts.zone())?;
        let lock = Lock {
            network,
            refuses: refuses(scope, path),
            cause: LockCause::Manual,
            since: now,
            until,
            step: 0,
            remembered_until: until,
        };
        let details = json!({ "network": network, "refuses": lock.refuses, "until": until });
        let audit = self.audit_context("block", None, details);
        let blocked = lockouts.block(self.guard.store(), lock, &audit)?;
        blocked.ok_or_else(|| {
            AdminError::Conflict(
                "there are as many locks as there can be; unblock some, or raise \
                 `Config::locked_addresses`"
                    .into(),
            )
        })
    }

    /// Ends the locks of a client, all of them or those of `path` and of the routes that match it, and
    /// forgets its failures. Returns those it ended, which are durably gone then.
    ///
    /// # Errors
    /// [`AdminError::NotFound`] if it has none.
    pub fn unblock(&self, network: IpKey, path: Option<&str>) -> Result<Vec<Lock>, AdminError> {
        let lockouts = self.guard.lockouts();
        let (store, limiter) = (self.guard.store(), self.guard.limiter());
        let details = json!({ "network": network, "path": path });
        let audit = self.audit_context("unblock", None, details);
        let compiled = self.guard.compiled();
        let place = path.map(|path| (path::normalised(path), compiled.place(path, Method::Other)));
        let meant = |refuses: &Refuses| match (&place, refuses) {
            (None, _) => true,
            (Some((path, _)), Refuses::Path(locked)) => path == locked,
            (Some((_, place)), Refuses::Route(name)) => {
                place.routes.iter().any(|route| *route.name == **name)
            }
            _ => false,
        };
        let ended = lockouts.unblock(store, limiter, network, meant, &audit)?;
        if !ended.is_empty() {
            return Ok(ended);
        }
        let parent = network.parent();
        let now = self.guard.now();
        let is_around = |lock: &Lock| lock.network == parent && parent != network;
        Err(AdminError::NotFound(
            if lockouts.active(now).iter().any(is_around) {
                format!("{network} has no such lock of its own, but {parent} around it is locked")
            } else {
                format!("{network} has no such lock")
            },
        ))
    }

    /// Every lock that is in force, by network.
    pub fn locks(&self) -> Vec<Lock> {
        self.guard.lockouts().active(self.guard.now())
    }
}
