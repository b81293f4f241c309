//! Routes: rules for the requests that match a pattern.

use std::num::NonZeroU32;

use serde::Deserialize;

use super::file;
use super::scope_set::{ScopeNumbers, ScopeSet};
use crate::counter::{Events, Rule, RuleName, Subject};
use crate::input::{self, FirstError, InvalidInput};
use crate::limit::{self, Limit, Period};
use crate::model::Scope;
use crate::policy::path::Pattern;
use crate::time::LockDuration;

/// Rules for the requests that match a [`Pattern`].
///
/// A route with scopes, with limits per key, or with [`Route::protect`] requires a key. A route
/// with [`Route::open`] requires none. For other routes,
/// [`Policy::protect`](crate::Policy::protect) decides.
///
/// ```
/// use keyguard::Route;
/// let orders = Route::new("orders", "POST /api/orders")
///     .scopes(["orders:write"])
///     .limits(["10/s", "100/min shadow"])
///     .cost(5);
/// ```
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[must_use]
pub struct Route {
    /// The name of the route and of the counters of its limits: 1 to 64 letters, digits, `-`, `_` and `.`.
    /// Names are unique. Required.
    name: RuleName,
    /// The path and everything below it, for all methods or the given ones. Required.
    pub(super) path: Pattern,
    /// `true` requires a key. `false` requires none, even if [`Policy::protect`] covers the path; locks, address
    /// lists and limits per address still apply. Default: a key is required if the route has scopes or limits
    /// per key, or if [`Policy::protect`] covers the path.
    protect: Option<bool>,
    #[serde(default)]
    pub(super) scopes: Vec<Scope>,
    #[serde(default, deserialize_with = "file::limits")]
    limits: Vec<Limit>,
    #[serde(default, deserialize_with = "file::ip_limits")]
    ip_limits: Vec<Limit>,
    lockout: Option<LockDuration>,
    #[serde(default, deserialize_with = "file::cost")]
    pub(super) cost: Option<NonZeroU32>,
    /// Whether the rules of the route are evaluated and counted without refusing requests. Default: `false`.
    #[serde(default)]
    pub(super) shadow: bool,
    #[serde(skip)]
    error: FirstError,
}

impl Route {
    /// Creates a route without rules. The name has 1 to 64 letters, digits, `-`, `_` and `.`; it
    /// names the counters of its limits.
    pub fn new(name: &str, path: impl TryInto<Pattern, Error: Into<InvalidInput>>) -> Self {
        let mut error = FirstError::default();
        error.ok(name.parse::<RuleName>());
        let path = error.valid("path", path);
        Self {
            name: name.into(),
            path: path.unwrap_or_else(Pattern::root),
            protect: None,
            scopes: Vec::new(),
            limits: Vec::new(),
            ip_limits: Vec::new(),
            lockout: None,
            cost: None,
            shadow: false,
            error,
        }
    }

    /// Requires a key. In a file: `protect = true`.
    pub fn protect(mut self) -> Self {
        self.protect = Some(true);
        self
    }

    /// Requires no key, even if [`Policy::protect`] covers it, such as a login form. Locks, address
    /// lists and limits per address still apply. In a file: `protect = false`.
    ///
    /// Applies only if the pattern covers the path in every reading: `/login/a%20b` requires no
    /// key, `/login/..;/admin` and `/login/%u002e%u002e/admin` require one. If another matching
    /// route requires a key, a key is required.
    ///
    /// [`Policy::protect`]: crate::Policy::protect
    pub fn open(mut self) -> Self {
        self.protect = Some(false);
        self
    }

    /// Requires a key with all of these [scopes](Scope). Default: none.
    pub fn scopes(
        mut self,
        scopes: impl IntoIterator<Item: TryInto<Scope, Error: Into<InvalidInput>>>,
    ) -> Self {
        let scopes = scopes.into_iter();
        let scopes = scopes.map_while(|scope| self.error.valid("scopes", scope));
        self.scopes = scopes.collect();
        self
    }

    /// Sliding-window [limits](Limit) per key, in addition to the limits of the key: at most 8, each with
    /// a counter of its own. Default: none.
    pub fn limits(
        mut self,
        limits: impl IntoIterator<Item: TryInto<Limit, Error: Into<InvalidInput>>>,
    ) -> Self {
        let limits = self.error.ok(intervals("limits", limits));
        self.limits = limits.unwrap_or_default();
        self
    }

    /// Sliding-window [limits](Limit) per address, with or without a key: at most 8, each with a counter
    /// of its own. Default: none.
    pub fn ip_limits(
        mut self,
        limits: impl IntoIterator<Item: TryInto<Limit, Error: Into<InvalidInput>>>,
    ) -> Self {
        let limits = self.error.ok(intervals("ip_limits", limits));
        self.ip_limits = limits.unwrap_or_default();
        self
    }

    /// Locks addresses that exceed [`Route::ip_limits`] out of all paths of the route. A route with a
    /// lockout must have such limits. Default: no lock.
    pub fn lockout(
        mut self,
        duration: impl TryInto<LockDuration, Error: Into<InvalidInput>>,
    ) -> Self {
        self.lockout = self.error.valid("lockout", duration);
        self
    }

    /// The cost of requests that do not specify one, at least 1. Of several matching routes, the
    /// highest cost applies. Default: 1.
    pub fn cost(mut self, cost: u32) -> Self {
        self.cost = self.error.ok(input::at_least_one("cost", cost));
        self
    }

    /// Evaluates and counts the rules of the route without refusing requests.
    pub fn shadow(mut self) -> Self {
        self.shadow = true;
        self
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether every matching request requires a key.
    pub(super) fn closes(&self) -> bool {
        self.requires_key() && !self.shadow
    }

    pub(super) fn requires_key(&self) -> bool {
        self.protect == Some(true) || !self.scopes.is_empty() || !self.limits.is_empty()
    }

    /// Checks that the fields are valid and fit together.
    pub(super) fn check(&self) -> Result<(), InvalidInput> {
        self.error.check().map_err(|error| {
            let problem = format!("route `{}`: {}", self.name.escape_debug(), error.problem());
            InvalidInput::new(error.field(), problem)
        })?;
        let problem = format!(
            "route `{}` requires no key, but has scopes or limits per key; remove \
             `protect = false`, or use `ip_limits`",
            self.name
        );
        input::require("protect", !self.is_open() || !self.requires_key(), problem)?;
        let problem = format!(
            "route `{}` has a lockout but no `ip_limits`; add some, such as \
             `ip_limits = [\"3/min\"]`",
            self.name
        );
        let can_lock = !self.ip_limits.is_empty();
        input::require("lockout", self.lockout.is_none() || can_lock, problem)?;
        self.check_cost()
    }

    /// Checks that the route is not open while `closing` requires a key for all of its requests.
    pub(super) fn check_against(&self, closing: &Self) -> Result<(), InvalidInput> {
        if !self.is_open() || !closing.path.covers(&self.path) {
            return Ok(());
        }
        let problem = format!(
            "route `{}` requires no key, but route `{}`, which matches all of its requests, \
             requires one; narrow the path of the latter",
            self.name, closing.name
        );
        Err(InvalidInput::new("protect", problem))
    }

    pub(super) fn is_open(&self) -> bool {
        self.protect == Some(false)
    }

    /// Whether it does more than to require a key, or none.
    pub(super) fn has_rules(&self) -> bool {
        !self.scopes.is_empty()
            || !self.limits.is_empty()
            || !self.ip_limits.is_empty()
            || self.cost.is_some()
    }

    pub(super) fn limits_per_key(&self) -> &[Limit] {
        &self.limits
    }

    /// The limits per key and per address.
    pub(super) fn all_limits(&self) -> impl Iterator<Item = &Limit> {
        self.limits.iter().chain(&self.ip_limits)
    }

    /// Checks that the limits can admit the cost.
    fn check_cost(&self) -> Result<(), InvalidInput> {
        let cost = self.cost.map_or(1, |cost| u64::from(cost.get()));
        let mut limits = self.all_limits();
        let is_exceeded = |limit: &&Limit| !limit.shadow && limit.amount.get() < cost;
        match limits.find(is_exceeded) {
            None => Ok(()),
            Some(limit) => Err(InvalidInput::new(
                "cost",
                format!(
                    "requests of route `{}` cost {cost}, which exceeds its limit `{limit}`; \
                     lower the cost or raise the limit",
                    self.name
                ),
            )),
        }
    }

    pub(super) fn rules(&self, scope_numbers: &ScopeNumbers) -> RouteRules {
        let enforced_or_not = |limit: &Limit| match self.shadow {
            true => limit.shadow(),
            false => *limit,
        };
        let rule = |limit: &Limit, subject| Rule {
            events: Events::Route(self.name.clone()),
            ..Rule::new(enforced_or_not(limit), subject)
        };
        RouteRules {
            name: self.name.clone(),
            requires_key: self.requires_key(),
            opens: self.is_open().then(|| self.path.clone()),
            scope_set: scope_numbers.whole_set(&self.scopes),
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

/// Checks the limits of a route: sliding windows.
pub(super) fn intervals(
    field: &'static str,
    limits: impl IntoIterator<Item: TryInto<Limit, Error: Into<InvalidInput>>>,
) -> Result<Vec<Limit>, InvalidInput> {
    let limits = limit::list(field, limits)?;
    let is_window = |limit: &&Limit| matches!(limit.period, Period::Sliding(_));
    match limits.iter().find(|limit| !is_window(limit)) {
        None => Ok(limits),
        Some(limit) => Err(InvalidInput::new(
            field,
            format!(
                "`{limit}` is not a sliding window such as `10/s`; use it for keys or organizations"
            ),
        )),
    }
}

/// The compiled rules of a route.
#[derive(Debug)]
pub(crate) struct RouteRules {
    pub(crate) name: RuleName,
    pub(crate) requires_key: bool,
    /// The pattern of requests that require no key.
    pub(super) opens: Option<Pattern>,
    pub(crate) scopes: Vec<Scope>,
    /// The same scopes as a set; `None` if one of them has no number.
    pub(crate) scope_set: Option<ScopeSet>,
    pub(crate) key_rules: Vec<Rule>,
    pub(crate) ip_rules: Vec<Rule>,
    pub(crate) lockout: Option<LockDuration>,
    pub(crate) cost: Option<NonZeroU32>,
    pub(crate) shadow: bool,
}
