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
    let proxies = policy.trusted_proxies.texts();
    if let Some(all) = proxies.iter().find(|net| net.ends_with("/0")) {
        warnings.push(format!(
            "trusted_proxies: `{all}` trusts every client to name its own address, so no limit and no \
             lock per address holds; list only your proxies"
        ));
    }
    warnings
}

fn lists(policy: &Policy) -> Option<String> {
    let nothing = !policy.allow.is_empty() && policy.deny.covers(&policy.allow);
    nothing.then(|| {
        "deny: contains every address of `allow`, so that every request is refused; narrow `deny`"
            .to_owned()
    })
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
                "trusted_proxies: `0.0.0.0/0` trusts every client",
            ),
            (
                "allow = [\"10.1.0.0/16\", \"local\"]\ndeny = [\"10.0.0.0/8\", \"local\"]",
                "deny: contains every address of `allow`",
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
        ] {
            assert_eq!(warnings(policy), [""; 0], "{policy}");
        }
    }
}
