//! Rules of a policy that have no effect, or more than they seem to have.

use super::{CompiledPolicy, Pattern, Policy, Route};
use crate::limit::Limit;
use crate::net::ClientIpHeader;

impl CompiledPolicy {
    /// Returns a sentence for each rule that never applies or looks like a mistake.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let policy = &self.source;
        let mut warnings = Vec::new();
        warnings.extend(covered_paths(policy));
        warnings.extend(proxies(policy));
        warnings.extend(lists(policy));
        for route in &policy.routes {
            warnings.extend(unaffordable_cost(policy, route));
            warnings.extend(exempt_route(policy, route));
            warnings.extend(empty_route(policy, route));
            warnings.extend(loose_limits(policy, route));
        }
        warnings
    }
}

/// Protected paths below another protected path.
fn covered_paths(policy: &Policy) -> Vec<String> {
    let paths = policy.protect.as_deref().unwrap_or_default();
    let warning = |(index, path): (usize, &Pattern)| {
        let mut others = paths
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != index);
        // Of two equal paths, the later one is unnecessary.
        let (_, cover) = others
            .find(|(other, cover)| cover.covers(path) && (!path.covers(cover) || *other < index))?;
        Some(format!(
            "protect: `{path}` changes nothing, because `{cover}` covers it; remove it"
        ))
    };
    paths.iter().enumerate().filter_map(warning).collect()
}

fn proxies(policy: &Policy) -> Vec<String> {
    let mut warnings = Vec::new();
    if policy.trusted_proxies.is_empty() {
        if policy.client_ip_header != ClientIpHeader::default() {
            warnings.push(
                "client_ip_header: is never read without `trusted_proxies`; add the addresses of your \
                 proxies"
                    .to_owned(),
            );
        }
        if policy.require_client_ip {
            warnings.push(
                "require_client_ip: changes nothing without `trusted_proxies`; add the addresses of your \
                 proxies"
                    .to_owned(),
            );
        }
    }
    let trusted = &policy.trusted_proxies;
    let whole = trusted.whole_families().first().copied();
    if let Some(wide) = whole.map(str::to_owned).or_else(|| trusted.widest()) {
        warnings.push(format!(
            "trusted_proxies: `{wide}` trusts clients to name their own addresses, so no limit and no \
             lock per address holds; list only your proxies"
        ));
    }
    if !trusted.is_empty() && policy.deny.covers(trusted) && !policy.require_client_ip {
        warnings.push(
            "deny: contains every address of `trusted_proxies`, so that requests for which they report no \
             client are refused; say so with `require_client_ip`, or narrow `deny`"
                .to_owned(),
        );
    }
    warnings
}

fn lists(policy: &Policy) -> Option<String> {
    let Policy { allow, deny, .. } = policy;
    if !allow.is_empty() && deny.covers(allow) {
        return Some(
            "deny: contains every address of `allow`, so that every request is refused; narrow `deny`"
                .to_owned(),
        );
    }
    let all = deny.whole_families();
    (!all.is_empty()).then(|| {
        format!(
            "deny: `{}` refuses every client with such an address; to admit only some, list them in \
             `allow` instead",
            all.join("` and `")
        )
    })
}

/// A route whose requests are refused, whatever was used before, because their cost exceeds a limit. The limits
/// of the route itself are checked before.
fn unaffordable_cost(policy: &Policy, route: &Route) -> Option<String> {
    let enforced = policy.routes.iter().filter(|other| !other.shadow);
    let matching = enforced.filter(|other| other.path.covers(&route.path));
    let matching: Vec<&Route> = matching.collect();
    let costs = matching.iter().filter_map(|other| other.cost);
    let cost = costs.max()?;
    let exceeds = |limit: &&Limit| {
        !limit.is_shadow() && limit.amount() < u64::from(limit.period.takes(cost).get())
    };
    let of_policy = |name: &str, limits: &[Limit]| {
        let limit = limits.iter().find(exceeds)?;
        Some(format!("`{limit}` of `{name}`"))
    };
    let of_keys = || {
        let of_keys = of_policy("key_limits", &policy.key_limits);
        of_keys.or_else(|| of_policy("org_limits", &policy.org_limits))
    };
    let of_route = |other: &&Route| {
        let limit = other.all_limits().find(exceeds)?;
        Some(format!("`{limit}` of route `{}`", other.name()))
    };
    let of_routes = matching.iter().find_map(of_route);
    let limit = of_routes.or_else(|| needs_key(policy, route).then(of_keys).flatten())?;
    Some(format!(
        "route `{}`: no request is admitted, because each costs {cost} and {limit} admits less; lower the \
         cost or raise the limit",
        route.name()
    ))
}

/// Whether every request that matches a route needs a key.
fn needs_key(policy: &Policy, route: &Route) -> bool {
    let mut routes = policy.routes.iter();
    let protected = policy.protect.as_ref();
    let is_protected =
        protected.is_none_or(|paths| paths.iter().any(|path| path.covers(&route.path)));
    (is_protected || route.closes())
        && !routes.any(|other| other.is_open() && other.path.covers(&route.path))
}

/// A route whose own path is exempt from it.
fn exempt_route(policy: &Policy, route: &Route) -> Option<String> {
    let mut exempt = policy.exempt.iter();
    let path = exempt.find(|path| path.is_root_of(&route.path))?;
    Some(format!(
        "route `{}`: its rules do not apply to `{path}` itself, which is exempt; remove the exemption",
        route.name()
    ))
}

fn empty_route(policy: &Policy, route: &Route) -> Option<String> {
    let closes =
        route.closes() && policy.protect.is_none() && !policy.routes.iter().any(Route::is_open);
    let problem = match (route.has_rules(), route.requires_key()) {
        (true, _) => return None,
        (false, true) if closes => "requires a key, as every path does already",
        (false, true) => return None,
        (false, false) if route.is_open() => return None,
        (false, false) => "has no rules",
    };
    Some(format!(
        "route `{}`: {problem}; add `scopes`, `limits`, `ip_limits` or `cost`, or remove it",
        route.name()
    ))
}

/// Limits of a route that `key_limits` reach first.
fn loose_limits(policy: &Policy, route: &Route) -> Vec<String> {
    let is_tighter = |tight: &Limit, loose: &Limit| {
        tight.period == loose.period && tight.amount <= loose.amount && !tight.shadow
    };
    let warning = |loose: &Limit| {
        let mut limits = policy.key_limits.iter();
        let tight = limits.find(|tight| is_tighter(tight, loose))?;
        Some(format!(
            "route `{}`: its limit `{loose}` never refuses, because `{tight}` of `key_limits` does so \
             first; lower or remove it",
            route.name()
        ))
    };
    route.limits_per_key().iter().filter_map(warning).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(text: &str) -> Vec<String> {
        CompiledPolicy::new(text.parse().unwrap())
            .unwrap()
            .warnings()
    }

    #[test]
    fn rules_without_effect_are_found() {
        for (policy, warning) in [
            (
                "protect = [\"/api/v1\", \"/api\"]",
                "protect: `/api/v1` changes nothing, because `/api` covers it",
            ),
            (
                "protect = [\"/api\", \"/api\"]",
                "protect: `/api` changes nothing, because `/api` covers it",
            ),
            (
                "client_ip_header = \"x-real-ip\"",
                "client_ip_header: is never read",
            ),
            (
                "require_client_ip = true",
                "require_client_ip: changes nothing",
            ),
            (
                "trusted_proxies = [\"0.0.0.0/0\"]",
                "trusted_proxies: `0.0.0.0/0` trusts clients",
            ),
            (
                "allow = [\"10.1.0.0/16\", \"local\"]\ndeny = [\"10.0.0.0/8\", \"local\"]",
                "deny: contains every address of `allow`",
            ),
            (
                "trusted_proxies = [\"10.0.0.0/8\", \"0.0.0.0/1\"]",
                "trusted_proxies: `0.0.0.0/1` trusts clients",
            ),
            (
                "trusted_proxies = [\"::/1\"]",
                "trusted_proxies: `::/1` trusts clients",
            ),
            (
                "trusted_proxies = [\"10.0.0.1\"]\ndeny = [\"10.0.0.0/8\"]",
                "deny: contains every address of `trusted_proxies`",
            ),
            ("deny = [\"0.0.0.0/0\"]", "deny: `0.0.0.0/0` refuses"),
            ("deny = [\"::/0\"]", "deny: `::/0` refuses"),
            (
                "deny = [\"::/0\", \"0.0.0.0/1\", \"128.0.0.0/1\"]",
                "deny: `0.0.0.0/0` and `::/0` refuses",
            ),
            (
                "key_limits = [\"9/s\"]\n[[route]]\nname = \"x\"\npath = \"/x\"\ncost = 10",
                "route `x`: no request is admitted, because each costs 10 and `9/s` of `key_limits`",
            ),
            (
                "protect = [\"/x\"]\norg_limits = [\"9/day\"]\n[[route]]\nname = \"x\"\npath = \"/x/y\"\ncost = 10",
                "route `x`: no request is admitted, because each costs 10 and `9/day` of `org_limits`",
            ),
            (
                "[[route]]\nname = \"a\"\npath = \"/\"\ncost = 10\n[[route]]\nname = \"x\"\npath = \"/x\"\nip_limits = [\"9/s\"]",
                "route `x`: no request is admitted, because each costs 10 and `9/s` of route `x`",
            ),
            (
                "[[route]]\nname = \"a\"\npath = \"/\"\nlimits = [\"9/s\"]\n[[route]]\nname = \"x\"\npath = \"/x\"\ncost = 10",
                "route `x`: no request is admitted, because each costs 10 and `9/s` of route `a`",
            ),
            (
                "exempt = [\"/health\"]\n[[route]]\nname = \"h\"\npath = \"/health\"\nip_limits = [\"1/s\"]",
                "route `h`: its rules do not apply to `/health` itself",
            ),
            (
                "[[route]]\nname = \"x\"\npath = \"/x\"",
                "route `x`: has no rules",
            ),
            (
                "[[route]]\nname = \"x\"\npath = \"/x\"\nprotect = true",
                "route `x`: requires a key, as every path does already",
            ),
            (
                "key_limits = [\"50/s\"]\n[[route]]\nname = \"x\"\npath = \"/x\"\nlimits = [\"60/s\"]",
                "route `x`: its limit `60/s` never refuses, because `50/s`",
            ),
        ] {
            let found = warnings(policy);
            assert_eq!(found.len(), 1, "{policy}: {found:?}");
            assert!(found[0].starts_with(warning), "{found:?}");
        }
    }

    #[test]
    fn rules_with_an_effect_raise_no_warning() {
        for policy in [
            "",
            "protect = []",
            "protect = [\"/a\", \"/b\", \"GET /c\", \"POST /c\"]",
            "allow = [\"10.0.0.0/8\", \"192.0.2.7\"]\ndeny = [\"10.0.0.0/8\"]",
            "trusted_proxies = [\"10.0.0.0/8\"]\nclient_ip_header = \"x-real-ip\"\nrequire_client_ip = true",
            "protect = [\"/a\"]\n[[route]]\nname = \"x\"\npath = \"/x\"\nprotect = true",
            "[[route]]\nname = \"x\"\npath = \"/x\"\nprotect = false",
            "exempt = [\"/x/health\"]\n[[route]]\nname = \"x\"\npath = \"/x\"\ncost = 2",
            "key_limits = [\"50/s shadow\"]\n[[route]]\nname = \"x\"\npath = \"/x\"\nlimits = [\"60/s\"]",
            "key_limits = [\"50/min\"]\n[[route]]\nname = \"x\"\npath = \"/x\"\nlimits = [\"60/s\"]",
            "trusted_proxies = [\"10.0.0.0/8\", \"fc00::/7\", \"local\"]",
            "trusted_proxies = [\"10.0.0.1\"]\ndeny = [\"10.0.0.0/8\"]\nrequire_client_ip = true",
            "deny = [\"0.0.0.0/1\", \"::/1\"]",
            "key_limits = [\"9/s\"]\n[[route]]\nname = \"x\"\npath = \"/x\"\ncost = 9",
            "key_limits = [\"9/s shadow\", \"5 concurrent\"]\n[[route]]\nname = \"x\"\npath = \"/x\"\ncost = 10",
            "key_limits = [\"9/s\"]\n[[route]]\nname = \"x\"\npath = \"/x\"\ncost = 10\nprotect = false",
            "key_limits = [\"9/s\"]\nprotect = []\n[[route]]\nname = \"x\"\npath = \"/x\"\ncost = 10",
            "key_limits = [\"9/s\"]\n[[route]]\nname = \"x\"\npath = \"/x\"\ncost = 10\nshadow = true",
        ] {
            assert_eq!(warnings(policy), [""; 0], "{policy}");
        }
    }
}
