//! One route: a pattern, and what holds for the requests that it matches.

use std::num::NonZeroU32;

use serde::Deserialize;

use super::file;
use crate::counter::{Counts, Rule, RuleName, Subject};
use crate::input::InvalidInput;
use crate::limit::{self, Limit, Period};
use crate::model::Scope;
use crate::policy::path::Pattern;
use crate::time::LockDuration;

/// What holds for the requests whose path is, or is below, that of a [`Pattern`].
///
/// A route with scopes, with limits by key, or with [`Route::protect`] requires a key. One with
/// [`Route::open`] needs none, whatever the policy protects. Any other route leaves that to
/// [`Policy::protect`](crate::Policy::protect).
///
/// ```
/// use keyguard::Route;
/// let orders = Route::new("orders", "POST /api/orders".parse()?)?
///     .scopes(["orders:write"])?
///     .limits(["10/s", "100/min shadow"])?
///     .cost(5)?;
/// # Ok::<(), keyguard::InvalidInput>(())
/// ```
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[must_use]
pub struct Route {
    #[serde(deserialize_with = "file::name")]
    name: RuleName,
    pub(super) path: Pattern,
    /// In a file `true` for [`Route::protect`], `false` for [`Route::open`].
    protect: Option<bool>,
    #[serde(default, deserialize_with = "file::scopes")]
    scopes: Vec<Scope>,
    #[serde(default, deserialize_with = "file::intervals")]
    limits: Vec<Limit>,
    #[serde(default, deserialize_with = "file::intervals")]
    ip_limits: Vec<Limit>,
    #[serde(default, deserialize_with = "file::lock_time")]
    lockout: Option<LockDuration>,
    #[serde(default, deserialize_with = "file::cost")]
    cost: Option<NonZeroU32>,
    #[serde(default)]
    shadow: bool,
}

impl Route {
    /// A route that changes nothing yet. The name is 1 to 64 letters, digits, `-`, `_` and `.`;
    /// limits are shown with it, and counted by it.
    ///
    /// # Errors
    /// [`InvalidInput`] for the name.
    pub fn new(name: &str, path: Pattern) -> Result<Self, InvalidInput> {
        Ok(Self {
            name: RuleName::parse(name)?,
            path,
            protect: None,
            scopes: Vec::new(),
            limits: Vec::new(),
            ip_limits: Vec::new(),
            lockout: None,
            cost: None,
            shadow: false,
        })
    }

    /// Requires a key. In a file: `protect = true`.
    pub fn protect(mut self) -> Self {
        self.protect = Some(true);
        self
    }

    /// Needs no key, as a login form or a sign-up, although [`Policy::protect`] covers it. Locks,
    /// lists and limits by address hold all the same. In a file: `protect = false`.
    ///
    /// It holds for requests by a method that the pattern names, and for paths that it covers in every
    /// way in which a server might read them: `/login/a%20b` needs no key, `/login/..;/admin` and
    /// `/login/%u002e%u002e/admin` need one. Where another route requires a key, that one is
    /// required.
    ///
    /// [`Policy::protect`]: crate::Policy::protect
    pub fn open(mut self) -> Self {
        self.protect = Some(false);
        self
    }

    /// Requires a key that holds all of these scopes.
    ///
    /// # Errors
    /// [`InvalidInput`] for a text that is no [`Scope`].
    pub fn scopes<T: AsRef<str>>(
        mut self,
        scopes: impl IntoIterator<Item = T>,
    ) -> Result<Self, InvalidInput> {
        let scopes = scopes.into_iter().map(|scope| scope.as_ref().parse());
        self.scopes = scopes.collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// Limits each key, over intervals, beside the limits that it has everywhere.
    ///
    /// # Errors
    /// [`InvalidInput`] for a text that is no [`Limit`], or none over an interval.
    pub fn limits<T: AsRef<str>>(
        mut self,
        limits: impl IntoIterator<Item = T>,
    ) -> Result<Self, InvalidInput> {
        self.limits = intervals(limits)?;
        Ok(self)
    }

    /// Limits each address, over intervals, whether or not it has a key.
    ///
    /// # Errors
    /// As [`Route::limits`].
    pub fn ip_limits<T: AsRef<str>>(
        mut self,
        limits: impl IntoIterator<Item = T>,
    ) -> Result<Self, InvalidInput> {
        self.ip_limits = intervals(limits)?;
        Ok(self)
    }

    /// Locks an address that goes over one of [`Route::ip_limits`], which it needs, out of the route
    /// for a time: of every path that it matches, by whatever path the limit was exceeded.
    pub fn lockout(mut self, time: LockDuration) -> Self {
        self.lockout = Some(time);
        self
    }

    /// What a request costs that does not say so itself, at least 1; the most of all routes that
    /// match counts. Default: 1.
    ///
    /// # Errors
    /// [`InvalidInput`] for 0.
    pub fn cost(mut self, cost: u32) -> Result<Self, InvalidInput> {
        self.cost = Some(crate::input::limit("cost", cost)?);
        Ok(self)
    }

    /// Decides and counts all that the route says, and refuses nobody because of it.
    pub fn shadow(mut self) -> Self {
        self.shadow = true;
        self
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether no request that it matches gets in without a key.
    pub(super) fn closes(&self) -> bool {
        self.requires_key() && !self.shadow
    }

    pub(super) fn requires_key(&self) -> bool {
        self.protect == Some(true) || !self.scopes.is_empty() || !self.limits.is_empty()
    }

    /// Checks that the fields fit together.
    pub(super) fn check(&self) -> Result<(), InvalidInput> {
        if self.is_open() && self.requires_key() {
            return Err(InvalidInput::new(
                "protect",
                format!(
                    "route `{}` needs no key, but has scopes or limits that count by key; leave \
                     `protect = false` out, or use `ip_limits`",
                    self.name
                ),
            ));
        }
        if self.lockout.is_some() && self.ip_limits.is_empty() {
            return Err(InvalidInput::new(
                "lockout",
                format!(
                    "route `{}` locks out who exceeds its `ip_limits`, but has none; add some, such as \
                     `ip_limits = [\"3/min\"]`",
                    self.name
                ),
            ));
        }
        self.check_cost()
    }

    /// Checks that the route is not open while `closing` requires a key for all of its requests.
    pub(super) fn check_against(&self, closing: &Self) -> Result<(), InvalidInput> {
        if !self.is_open() || !closing.path.covers(&self.path) {
            return Ok(());
        }
        Err(InvalidInput::new(
            "protect",
            format!(
                "route `{}` needs no key, but route `{}`, which matches all of its requests, \
                 requires one; narrow the latter",
                self.name, closing.name
            ),
        ))
    }

    fn is_open(&self) -> bool {
        self.protect == Some(false)
    }

    /// Checks that the limits can admit the cost.
    fn check_cost(&self) -> Result<(), InvalidInput> {
        let cost = self.cost.map_or(1, |cost| u64::from(cost.get()));
        let limits = self.limits.iter().chain(&self.ip_limits);
        match limits
            .filter(|limit| !limit.shadow)
            .find(|limit| limit.amount.get() < cost)
        {
            None => Ok(()),
            Some(limit) => Err(InvalidInput::new(
                "cost",
                format!(
                    "a request for route `{}` costs {cost}, but its limit `{limit}` never admits so \
                     much; lower the cost or raise the limit",
                    self.name
                ),
            )),
        }
    }

    pub(super) fn rules(&self) -> RouteRules {
        let enforced_or_not = |limit: &Limit| match self.shadow {
            true => limit.shadow(),
            false => *limit,
        };
        let rule = |limit: &Limit, subject| Rule {
            counts: Counts::Route(self.name.clone()),
            ..Rule::new(enforced_or_not(limit), subject)
        };
        RouteRules {
            name: self.name.clone(),
            requires_key: self.requires_key(),
            opens: self.is_open().then(|| self.path.clone()),
            scopes: self.scopes.clone(),
            key_rules: self.limits.iter().map(|l| rule(l, Subject::Key)).collect(),
            ip_rules: self
                .ip_limits
                .iter()
                .map(|l| rule(l, Subject::Address))
                .collect(),
            lockout: self.lockout,
            cost: self.cost,
            shadow: self.shadow,
        }
    }
}

pub(super) fn intervals<T: AsRef<str>>(
    limits: impl IntoIterator<Item = T>,
) -> Result<Vec<Limit>, InvalidInput> {
    let limits = limit::list(limits)?;
    match limits
        .iter()
        .find(|limit| !matches!(limit.period, Period::Sliding(_)))
    {
        None => Ok(limits),
        Some(limit) => Err(InvalidInput::new(
            "limits",
            format!(
                "`{limit}` is not over an interval such as `10/s`; give it to keys or organizations"
            ),
        )),
    }
}

/// A route as requests are decided by it.
#[derive(Debug)]
pub(crate) struct RouteRules {
    pub(crate) name: RuleName,
    pub(crate) requires_key: bool,
    /// What needs no key, although the policy protects it.
    pub(super) opens: Option<Pattern>,
    pub(crate) scopes: Vec<Scope>,
    pub(crate) key_rules: Vec<Rule>,
    pub(crate) ip_rules: Vec<Rule>,
    pub(crate) lockout: Option<LockDuration>,
    pub(crate) cost: Option<NonZeroU32>,
    pub(crate) shadow: bool,
}
