//! Limits of addresses.

use crate::counter::{Events, Rule, RuleName, Subject};
use crate::input::{self, InvalidInput};
use crate::limit::{Limit, Period};
use crate::time::LockDuration;

/// A limit on the requests of each address, with or without a key: for a login form, a sign-up or a
/// search. Enforced by [`KeyGuard::check_ip`](crate::KeyGuard::check_ip).
///
/// ```
/// use keyguard::IpLimit;
/// let login = IpLimit::new("login", "3/min")?.lockout("30 minutes")?;
/// # Ok::<(), keyguard::InvalidInput>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct IpLimit {
    pub(crate) name: RuleName,
    pub(crate) limit: Limit,
    pub(crate) lockout: Option<LockDuration>,
    pub(crate) locks_all_paths: bool,
}

impl IpLimit {
    /// Creates a limit from a sliding-window [`Limit`] or its text, such as `10/s` or `600/min`.
    ///
    /// An `IpLimit` is complete once it is created, and nothing checks it later. So its methods report
    /// invalid values themselves, unlike those of a [`Policy`](crate::Policy).
    ///
    /// Limits of the same name and window share their counters. The name is 1 to 64 letters, digits,
    /// `-`, `_` and `.`; header fields show it.
    ///
    /// # Errors
    /// [`InvalidInput`] for an invalid name or limit, or a limit that is not a sliding window or is in
    /// shadow mode.
    pub fn new(
        name: &str,
        limit: impl TryInto<Limit, Error: Into<InvalidInput>>,
    ) -> Result<Self, InvalidInput> {
        let limit: Limit = input::valid(limit)?;
        let is_enforced = !limit.shadow && matches!(limit.period, Period::Sliding(_));
        let problem =
            format!("`{limit}` is not an enforced sliding window; expected for example `10/s`");
        input::require("limit", is_enforced, problem)?;
        Ok(Self {
            name: name.parse()?,
            limit,
            lockout: None,
            locks_all_paths: false,
        })
    }

    /// Locks an address that exceeds the limit for a time, out of the requests that are checked against
    /// a limit of this name, or match a [`Route`](crate::Route) of this name. Default: no lock; requests
    /// are admitted again as soon as the window has room.
    ///
    /// # Errors
    /// [`InvalidInput`] for an invalid duration.
    pub fn lockout(
        mut self,
        duration: impl TryInto<LockDuration, Error: Into<InvalidInput>>,
    ) -> Result<Self, InvalidInput> {
        self.lockout = Some(input::valid(duration)?);
        Ok(self)
    }

    /// Extends the lock of [`IpLimit::lockout`] to all requests of the address.
    pub fn lock_all_paths(mut self) -> Self {
        self.locks_all_paths = true;
        self
    }

    pub(crate) fn rule(&self) -> Rule {
        Rule {
            events: Events::IpLimit(self.name.clone()),
            ..Rule::new(self.limit, Subject::Address)
        }
    }
}
