//! Administration of locks.

use serde_json::json;

use super::{Admin, AdminError, IpTarget};
use crate::guard::refuses;
use crate::input::{self, InvalidInput};
use crate::lockout::{Lock, LockCause, LockScope, Refuses};
use crate::model::Method;
use crate::policy::path;
use crate::time::LockDuration;

impl Admin {
    /// Locks a client out for a time: of `path`, or of everything if `path` is `None`.
    ///
    /// A client that is locked out of the same for longer stays so.
    ///
    /// ```
    /// # use keyguard::{Config, KeyGuard};
    /// # let dir = tempfile::tempdir()?;
    /// # let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::new("a long random secret"))?;
    /// kg.admin().block("192.0.2.7", None, "4:00 PM")?;
    /// kg.admin().block("192.0.2.7", Some("/login"), "1 day")?;
    /// assert_eq!(kg.admin().list_blocks().len(), 2);
    /// kg.admin().unblock("192.0.2.7", None)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`AdminError::Invalid`] for [`ClientIp::LOCAL`](crate::ClientIp::LOCAL), which stands for many
    /// clients, and for a time of day without a time zone; [`AdminError::TooManyLocks`].
    pub fn block(
        &self,
        ip: impl TryInto<IpTarget, Error: Into<InvalidInput>>,
        path: Option<&str>,
        duration: impl TryInto<LockDuration, Error: Into<InvalidInput>>,
    ) -> Result<Lock, AdminError> {
        let network = self.lockable_ip_key(input::valid(ip)?)?;
        let duration: LockDuration = input::valid(duration)?;
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
        blocked.ok_or(AdminError::TooManyLocks)
    }

    /// Ends locks of a client, and forgets its failed authentications. Returns the ended locks.
    ///
    /// With a `path` only the locks of that path and of the routes that match it end.
    ///
    /// # Errors
    /// [`AdminError::LockNotFound`]; [`AdminError::Invalid`] for
    /// [`ClientIp::LOCAL`](crate::ClientIp::LOCAL).
    pub fn unblock(
        &self,
        ip: impl TryInto<IpTarget, Error: Into<InvalidInput>>,
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
        Err(AdminError::LockNotFound {
            ip: network,
            parent: self.list_blocks().iter().any(is_around).then_some(parent),
        })
    }

    /// Returns every lock in force, manual and automatic, by network.
    pub fn list_blocks(&self) -> Vec<Lock> {
        self.guard.locks().list(self.guard.now())
    }
}
