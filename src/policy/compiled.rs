//! Compiled policies and their application to requests.

use std::sync::atomic::{AtomicU64, Ordering};

use smallvec::SmallVec;

use super::scope_set::{ScopeNumbers, ScopeSet};
use super::{InvalidPolicy, Policy, RouteRules};
use crate::model::{Method, Scope};
use crate::net::ClientIp;
use crate::policy::path::Matcher;

/// A policy compiled for fast matching.
#[derive(Debug)]
pub(crate) struct CompiledPolicy {
    /// Unique in the process, and at least 1.
    pub(crate) id: u64,
    pub(crate) source: Policy,
    /// Matches protected patterns first, then routes.
    matcher: Matcher,
    /// Index of the first route in the matcher.
    first_route: usize,
    routes: Vec<RouteRules>,
    scope_numbers: ScopeNumbers,
    protects_everything: bool,
    /// The access of every path, if no rule depends on paths.
    everywhere: Option<Access>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// The rules that apply to a request target.
#[derive(Debug)]
pub(crate) struct RouteMatch<'p> {
    pub(crate) access: Access,
    pub(crate) routes: SmallVec<[&'p RouteRules; 2]>,
    /// Whether any route has limits per key.
    pub(crate) limits_keys: bool,
    /// Whether any route has limits per address.
    pub(crate) limits_addresses: bool,
}

impl RouteMatch<'_> {
    #[inline]
    pub(crate) fn without_routes(access: Access) -> Self {
        Self {
            access,
            routes: SmallVec::new(),
            limits_keys: false,
            limits_addresses: false,
        }
    }

    /// Adds the rules of another possible target: the stricter access and the routes of both.
    #[cold]
    pub(crate) fn add(&mut self, other: Self) {
        self.access = self.access.max(other.access);
        self.limits_keys |= other.limits_keys;
        self.limits_addresses |= other.limits_addresses;
        for route in other.routes {
            if !self.routes.iter().any(|known| std::ptr::eq(*known, route)) {
                self.routes.push(route);
            }
        }
    }
}

/// Access levels, from most lenient to strictest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Access {
    /// Exempt from all rules.
    Exempt,
    /// No key is required.
    Open,
    /// A key would be required if a route were not in shadow mode.
    OpenInShadow,
    /// A key is required.
    Protected,
    /// The path has too many readings to be matched with the rules.
    Unreadable,
}

impl CompiledPolicy {
    /// Checks and compiles a policy.
    pub(crate) fn new(policy: Policy) -> Result<Self, InvalidPolicy> {
        policy.check()?;
        let policy = policy.translated();
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let required = policy.routes.iter().flat_map(|route| &route.scopes);
        // Numbers of policies that differ in the upper half of the id never meet: keys are loaded anew
        // after each change of the policy.
        let scope_numbers = ScopeNumbers::new(id as u32, required);
        let routes = policy
            .routes
            .iter()
            .map(|route| route.rules(&scope_numbers));
        let routes: Vec<RouteRules> = routes.collect();
        let protected = policy.protect.as_deref().unwrap_or_default();
        let patterns = protected
            .iter()
            .chain(policy.routes.iter().map(|route| &route.path));
        Ok(Self {
            id,
            matcher: Matcher::new(patterns, policy.ignore_case),
            first_route: protected.len(),
            protects_everything: policy.protect.is_none(),
            everywhere: match &policy.protect {
                _ if !policy.exempt.is_empty() || !routes.is_empty() => None,
                None => Some(Access::Protected),
                Some(protected) => protected.is_empty().then_some(Access::Open),
            },
            routes,
            scope_numbers,
            source: policy,
        })
    }

    /// Whether no rule applies to a request before its key is known.
    pub(crate) fn is_unrestricted(&self) -> bool {
        let Policy { allow, deny, .. } = &self.source;
        self.everywhere == Some(Access::Protected)
            && allow.is_empty()
            && deny.is_empty()
            && !self.names_clients()
    }

    /// Whether the client may differ from the peer.
    #[inline]
    pub(crate) fn names_clients(&self) -> bool {
        !self.source.trusted_proxies.is_empty() || !self.source.nat64_prefixes.is_empty()
    }

    #[inline]
    pub(crate) fn route_match(&self, target: &str, method: Method) -> RouteMatch<'_> {
        if let Some(access) = self.everywhere {
            return RouteMatch::without_routes(access);
        }
        self.match_target(target, method)
    }

    fn match_target(&self, target: &str, method: Method) -> RouteMatch<'_> {
        let mut exempt = self.source.exempt.iter();
        if exempt.any(|path| path.matches(target, method)) {
            return RouteMatch::without_routes(Access::Exempt);
        }
        let Some(matching) = self.matcher.matching(target, method) else {
            return RouteMatch::without_routes(Access::Unreadable);
        };
        let mut found = RouteMatch::without_routes(Access::Open);
        let mut is_protected = self.protects_everything;
        let (mut is_open, mut requires_key, mut would_require) = (false, false, false);
        for index in &matching {
            let index = usize::from(*index);
            let Some(route) = index
                .checked_sub(self.first_route)
                .and_then(|index| self.routes.get(index))
            else {
                is_protected = true;
                continue;
            };
            requires_key |= route.requires_key && !route.shadow;
            would_require |= route.requires_key;
            is_open |= route
                .opens
                .as_ref()
                .is_some_and(|path| path.matches_surely(target, method, self.source.ignore_case));
            found.limits_keys |= !route.key_rules.is_empty();
            found.limits_addresses |= !route.ip_rules.is_empty();
            found.routes.push(route);
        }
        is_protected &= !is_open;
        found.access = match (is_protected || requires_key, would_require) {
            (true, _) => Access::Protected,
            (false, true) => Access::OpenInShadow,
            (false, false) => Access::Open,
        };
        found
    }

    /// The set of those scopes that routes require.
    pub(crate) fn scope_set(&self, scopes: &[Scope]) -> ScopeSet {
        self.scope_numbers.set(scopes)
    }

    pub(crate) fn routes(&self) -> impl Iterator<Item = &RouteRules> {
        self.routes.iter()
    }

    /// Whether there are allow or deny lists.
    #[inline]
    pub(crate) fn has_lists(&self) -> bool {
        !self.source.allow.is_empty() || !self.source.deny.is_empty()
    }

    /// Whether the lists refuse an address.
    pub(crate) fn denies(&self, ip: ClientIp) -> bool {
        let Policy { allow, deny, .. } = &self.source;
        deny.contains(ip) || (!allow.is_empty() && !allow.contains(ip))
    }

    /// Whether an address is exempt from counting of failed authentications and from automatic
    /// locks.
    pub(crate) fn is_exempt(&self, ip: ClientIp) -> bool {
        self.source.never_lock.contains(ip) || self.source.trusted_proxies.contains(ip)
    }
}
