//! Administration of locks.

use serde_json::json;

use super::{Admin, AdminError, IpTarget};
use crate::input::{self, InvalidInput};
use crate::lockout::{Lock, LockCause, LockScope};
use crate::model::Method;
use crate::model::key_words::contains_key;
use crate::policy::path;
use crate::time::LockDuration;

impl Admin {
    /// Locks a client for `duration`: out of `path`, or out of all requests if `path` is `None`. If the
    /// client already has a manual lock of the same scope that ends later, that lock stays.
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
        let ip_key = self.lockable_ip_key(input::valid(ip)?)?;
        if path.is_some_and(contains_key) {
            let problem = "contains the text of a key; lock the path without it";
            return Err(InvalidInput::new("path", problem).into());
        }
        let duration: LockDuration = input::valid(duration)?;
        let now = self.guard.now();
        let locks = self.guard.locks();
        let until = duration.ends_at(now, locks.zone())?;
        let lock = Lock {
            ip: ip_key,
            scope: path.map_or(LockScope::All, |path| {
                LockScope::Path(path::normalized(path))
            }),
            cause: LockCause::Manual,
            since: now,
            until,
            step: 0,
            remembered_until: until,
        };
        let details = json!({ "ip": ip_key, "scope": lock.scope, "until": until });
        let audit = self.audit_context("block", None, details);
        let locked = locks.lock(self.guard.store(), lock, &audit)?;
        locked.ok_or(AdminError::TooManyLocks)
    }

    /// Ends the locks of a client and resets its failed authentications. Returns the ended locks.
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
        let ip_key = self.ip_key(ip)?;
        let locks = self.guard.locks();
        let (store, limiter) = (self.guard.store(), self.guard.limiter());
        let details = json!({ "ip": ip_key, "path": path });
        let audit = self.audit_context("unblock", None, details);
        let compiled = self.guard.compiled();
        let matched = path.map(|path| {
            (
                path::normalized(path),
                compiled.route_match(path, Method::Other),
            )
        });
        let is_meant = |scope: &LockScope| match (&matched, scope) {
            (None, _) => true,
            (Some((path, _)), LockScope::Path(locked)) => path == locked,
            (Some((_, matched)), LockScope::IpLimit(name)) => {
                matched.routes.iter().any(|route| *route.name == **name)
            }
            _ => false,
        };
        let ended = locks.unlock(store, &**limiter, ip_key, is_meant, &audit)?;
        if !ended.is_empty() {
            return Ok(ended);
        }
        let parent = ip_key.parent();
        let is_around = |lock: &Lock| lock.ip == parent && parent != ip_key;
        Err(AdminError::LockNotFound {
            ip: ip_key,
            parent: self.list_blocks().iter().any(is_around).then_some(parent),
        })
    }

    /// Returns all locks in force, manual and automatic, ordered by address.
    pub fn list_blocks(&self) -> Vec<Lock> {
        self.guard.locks().list(self.guard.now())
    }
}
