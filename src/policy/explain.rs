//! A policy in sentences.

use std::time::Duration;

use serde::Serialize;

use super::{Access, CompiledPolicy, Lockout, Policy, Route, RouteMatch, RouteRules};
use crate::input::text::with_commas;
use crate::limit::{Limit, LimitKind};
use crate::model::{Method, Scope};
use crate::net::{CidrSet, ClientIp, ClientIpHeader};
use crate::time::LockDuration;

/// Sentences about one part of a policy.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Section {
    pub(crate) about: String,
    pub(crate) sentences: Vec<String>,
}

/// A request to explain the rules of.
pub(crate) struct ExampleRequest<'a> {
    pub(crate) path: &'a str,
    pub(crate) method: Method,
    pub(crate) ip: Option<ClientIp>,
}

impl CompiledPolicy {
    /// Describes all rules.
    pub(crate) fn explained(&self) -> Vec<Section> {
        let policy = &self.source;
        let mut sections = vec![
            section("keys", protection(policy)),
            section("client addresses", client_addresses(policy)),
            section("failed authentications", lockout(&policy.lockout)),
        ];
        sections.extend(limits(
            "every key, in addition to its own limits",
            &policy.key_limits,
        ));
        sections.extend(limits(
            "every organization, in addition to its own limits",
            &policy.org_limits,
        ));
        sections.extend(self.explained_routes().map(|(_, section)| section));
        sections
    }

    /// Describes the rules that apply to a request.
    pub(crate) fn explained_for(&self, request: &ExampleRequest<'_>) -> Vec<Section> {
        let found = self.route_match(request.path, request.method);
        let mut sections = vec![section("the request", self.outcome(request, &found))];
        let matches =
            |rules: &RouteRules| found.routes.iter().any(|known| std::ptr::eq(*known, rules));
        let routes = self.explained_routes().filter(|(rules, _)| matches(rules));
        sections.extend(routes.map(|(_, section)| section));
        if matches!(found.access, Access::Protected | Access::OpenInShadow) {
            let policy = &self.source;
            sections.extend(limits(
                "the key, in addition to its own limits",
                &policy.key_limits,
            ));
            sections.extend(limits(
                "the organization, in addition to its own limits",
                &policy.org_limits,
            ));
        }
        sections
    }

    fn explained_routes(&self) -> impl Iterator<Item = (&RouteRules, Section)> {
        let routes = self.routes().zip(&self.source.routes);
        routes.map(|(rules, route)| {
            let about = format!("route `{}`: {} and all below", route.name(), route.path);
            (
                rules,
                section(&about, route_rules(rules, route, &self.source)),
            )
        })
    }

    fn outcome(&self, request: &ExampleRequest<'_>, found: &RouteMatch<'_>) -> Vec<String> {
        let access = match found.access {
            Access::Exempt => {
                "It is exempt: it needs no key, and no list, lock or limit applies to it."
            }
            Access::Open => "It needs no key.",
            Access::OpenInShadow => {
                "It needs no key: the routes that require one are in shadow mode."
            }
            Access::Protected => "It needs a key.",
            Access::Unreadable => {
                "It is refused with status 400: its path can be read in too many ways."
            }
        };
        let mut sentences = vec![access.to_owned()];
        if let Some(ip) = request.ip.filter(|_| found.access != Access::Exempt) {
            sentences.extend(self.address(self.source.nat64_prefixes.canonical(ip)));
        }
        let names: Vec<String> = found
            .routes
            .iter()
            .map(|route| format!("`{}`", route.name))
            .collect();
        sentences.push(match names.as_slice() {
            [] => "No route matches it.".to_owned(),
            names => format!("Matching routes: {}.", names.join(", ")),
        });
        let enforced = found.routes.iter().filter(|route| !route.shadow);
        if let Some(cost) = enforced.filter_map(|route| route.cost).max() {
            sentences.push(format!("It costs {cost}, unless it has a cost of its own."));
        }
        sentences
    }

    /// What the lists of the policy say about an address.
    fn address(&self, ip: ClientIp) -> Option<String> {
        let policy = &self.source;
        if policy.trusted_proxies.contains(ip) {
            let header = policy.client_ip_header.name();
            return Some(format!(
                "{ip} is a trusted proxy: the address that it reports in `{header}` counts."
            ));
        }
        if self.denies(ip) {
            return Some(format!(
                "{ip} is refused with status 403, by `allow` or `deny`."
            ));
        }
        self.is_exempt(ip)
            .then(|| format!("{ip} is never locked automatically."))
    }
}

fn section(about: &str, sentences: Vec<String>) -> Section {
    Section {
        about: about.to_owned(),
        sentences,
    }
}

fn protection(policy: &Policy) -> Vec<String> {
    let mut sentences = vec![match policy.protect.as_deref() {
        None => "Every path needs a key, unless a route or an exemption says otherwise.".to_owned(),
        Some([]) => "Only the paths of routes that require a key need one.".to_owned(),
        Some(paths) => format!(
            "These paths and all below them need a key, and no others unless a route requires one: {}.",
            quoted(paths)
        ),
    }];
    if !policy.exempt.is_empty() {
        sentences.push(format!(
            "Exactly these paths need no key, and no list, lock or limit applies to them: {}.",
            quoted(&policy.exempt)
        ));
    }
    if policy.ignore_case {
        sentences.push("Upper and lower case letters in paths are the same.".to_owned());
    }
    sentences
}

fn client_addresses(policy: &Policy) -> Vec<String> {
    let mut sentences = Vec::new();
    let header = policy.client_ip_header.name();
    match list(&policy.trusted_proxies) {
        None => sentences.push(
            "The address of the peer counts; header fields such as `x-forwarded-for` are ignored."
                .to_owned(),
        ),
        Some(proxies) => {
            let which = match policy.client_ip_header {
                ClientIpHeader::Single(_) => "the address",
                _ => "the last address that is not a trusted proxy",
            };
            sentences.push(format!(
                "If the peer is a trusted proxy ({proxies}), {which} in the header field `{header}` \
                 counts, otherwise that of the peer."
            ));
            sentences.push(match policy.require_client_ip {
                true => format!(
                    "A request of a trusted proxy without `{header}` is refused with status 400."
                ),
                false => format!("Without `{header}`, the trusted proxy counts as the client."),
            });
        }
    }
    if !policy.nat64_prefixes.is_empty() {
        sentences
            .push("An address under a NAT64 prefix counts as the IPv4 address in it.".to_owned());
    }
    for (addresses, sentence) in [
        (&policy.allow, "Only these addresses are accepted"),
        (&policy.deny, "These addresses are refused with status 403"),
        (
            &policy.never_lock,
            "These addresses are never locked automatically",
        ),
    ] {
        sentences.extend(list(addresses).map(|addresses| format!("{sentence}: {addresses}.")));
    }
    sentences
}

fn lockout(lockout: &Lockout) -> Vec<String> {
    let threshold = match lockout.threshold {
        Some(threshold) => format!("more than {threshold} unknown or malformed keys"),
        None => "more unknown or malformed keys than the configured threshold, by default 100,"
            .to_owned(),
    };
    let mut steps = lockout.steps.iter().map(|step| length(*step));
    let first = steps.next().unwrap_or_default();
    let later: Vec<String> = steps.collect();
    let mut sentences = vec![match later.last() {
        None => format!("An address that sends {threshold} in an hour is locked out for {first}."),
        Some(_) => format!(
            "An address that sends {threshold} in an hour is locked out for {first}, and the next times \
             for {}.",
            later.join(", ")
        ),
    }];
    if !later.is_empty() {
        sentences.push(format!(
            "Each {} without a lock takes an address one step back.",
            without_one(&length(lockout.decay))
        ));
    }
    sentences.push(
        "After as many requests without a key, only requests without a key are refused from it."
            .to_owned(),
    );
    sentences
}

fn route_rules(rules: &RouteRules, route: &Route, policy: &Policy) -> Vec<String> {
    let mut sentences = Vec::new();
    if rules.shadow {
        sentences.push("It is in shadow mode: its rules count and refuse nothing.".to_owned());
    }
    sentences.push(key_of_route(rules, route, policy));
    for rule in &rules.key_rules {
        sentences.push(format!("Each key: {}.", amount(&rule.limit)));
    }
    for rule in &rules.ip_rules {
        sentences.push(format!(
            "Each address, with or without a key: {}.",
            amount(&rule.limit)
        ));
    }
    if let Some(lockout) = rules.lockout {
        let time = match lockout.length() {
            Some(time) => format!("for {}", length(time)),
            None => format!("until {lockout}"),
        };
        sentences.push(format!(
            "An address that exceeds this is locked out of the route {time}."
        ));
    }
    if let Some(cost) = rules.cost {
        sentences.push(format!(
            "Each request costs {cost}: it counts as {cost} requests."
        ));
    }
    sentences
}

/// Whether requests of a route need a key, and why.
fn key_of_route(rules: &RouteRules, route: &Route, policy: &Policy) -> String {
    let mut protected = policy.protect.iter().flatten();
    match rules.scopes.as_slice() {
        [scope] => return format!("It needs a key with the scope `{scope}`."),
        scopes @ [_, ..] => {
            let scopes: Vec<String> = scopes
                .iter()
                .map(|scope: &Scope| format!("`{scope}`"))
                .collect();
            return format!(
                "It needs a key with all of the scopes {}.",
                scopes.join(", ")
            );
        }
        [] => {}
    }
    if rules.requires_key {
        "It needs a key.".to_owned()
    } else if rules.opens.is_some() {
        "It needs no key.".to_owned()
    } else if policy.protect.is_none() {
        "It needs a key, as every path.".to_owned()
    } else if let Some(cover) = protected.find(|pattern| pattern.covers(&route.path)) {
        format!("It needs a key, because `{cover}` is protected.")
    } else {
        "It requires no key itself; protected paths below it need one.".to_owned()
    }
}

fn limits(about: &str, limits: &[Limit]) -> Option<Section> {
    let sentences = limits
        .iter()
        .map(|limit| format!("At most {}.", amount(limit)));
    (!limits.is_empty()).then(|| section(about, sentences.collect()))
}

/// What a limit admits, such as `10 requests in any second`.
fn amount(limit: &Limit) -> String {
    let requests = |number| match number {
        1 => "1 request".to_owned(),
        number => format!("{} requests", with_commas(number)),
    };
    let admitted = requests(limit.amount());
    let mut text = match limit.kind() {
        LimitKind::Window(window) => format!("{admitted} in any {}", without_one(&length(window))),
        LimitKind::Daily => format!("{admitted} in a calendar day"),
        LimitKind::Monthly => format!("{admitted} in a calendar month"),
        LimitKind::Credits => format!("{admitted} in total"),
        LimitKind::RefilledCredits { refill, interval } => format!(
            "{admitted} in total, of which {} are returned every {}",
            with_commas(refill.into()),
            without_one(&length(interval))
        ),
        LimitKind::Concurrent => format!("{admitted} at a time"),
    };
    if limit.is_shadow() {
        text += " (in shadow mode: counts and refuses nothing)";
    }
    text
}

fn length(time: Duration) -> String {
    match LockDuration::try_from(time) {
        Ok(whole) if time.subsec_millis() == 0 => whole.to_string(),
        _ => format!("{} ms", time.as_millis()),
    }
}

/// `1 minute` → `minute`
fn without_one(length: &str) -> &str {
    let unit = length.strip_prefix("1 ").unwrap_or(length);
    if unit.contains(' ') { length } else { unit }
}

fn quoted(patterns: &[impl std::fmt::Display]) -> String {
    let texts = patterns.iter().map(|pattern| format!("`{pattern}`"));
    texts.collect::<Vec<_>>().join(", ")
}

/// The members of a set of addresses; `None` without any.
fn list(addresses: &CidrSet) -> Option<String> {
    (!addresses.is_empty()).then(|| addresses.texts().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(text: &str) -> CompiledPolicy {
        CompiledPolicy::new(text.parse().unwrap()).unwrap()
    }

    #[test]
    fn limits_read_as_sentences() {
        for (limit, sentence) in [
            ("10/s", "10 requests in any second"),
            ("1/min", "1 request in any minute"),
            ("5/15min", "5 requests in any 15 minutes"),
            ("5/90min", "5 requests in any 1 hour 30 minutes"),
            ("2/250ms", "2 requests in any 250 ms"),
            ("20000 daily", "20,000 requests in a calendar day"),
            (
                "500000 monthly shadow",
                "500,000 requests in a calendar month (in shadow mode: counts and refuses nothing)",
            ),
            ("5000 credits", "5,000 requests in total"),
            (
                "5000 credits +100/hour",
                "5,000 requests in total, of which 100 are returned every hour",
            ),
            ("8 concurrent", "8 requests at a time"),
        ] {
            assert_eq!(amount(&limit.parse().unwrap()), sentence);
        }
    }

    #[test]
    fn every_field_of_a_policy_has_a_sentence() {
        let policy = compiled(
            r#"
            protect = ["/api"]
            exempt = ["GET /api/health"]
            ignore_case = true
            trusted_proxies = ["10.0.0.0/8"]
            client_ip_header = "x-real-ip"
            require_client_ip = true
            allow = ["192.0.2.0/24"]
            deny = ["192.0.2.9"]
            never_lock = ["192.0.2.8"]
            key_limits = ["50/s"]
            org_limits = ["1000/s shadow"]
            [lockout]
            threshold = 20
            steps = ["1 min", "1 hour"]
            decay = "1 day"
            [[route]]
            name = "orders"
            path = "POST /api/orders"
            scopes = ["orders:write", "read"]
            limits = ["10/s"]
            cost = 5
            [[route]]
            name = "login"
            path = "/login"
            protect = false
            ip_limits = ["3/min"]
            lockout = "5 minutes"
            [[route]]
            name = "try"
            path = "/try"
            shadow = true
            "#,
        );
        let sections = policy.explained();
        let text = serde_json::to_string(&sections).unwrap();
        for part in [
            "no others unless a route requires one: `/api`.",
            "no list, lock or limit applies to them: `GET /api/health`.",
            "Upper and lower case",
            "If the peer is a trusted proxy (10.0.0.0/8), the address in the header field `x-real-ip` counts",
            "without `x-real-ip` is refused with status 400",
            "Only these addresses are accepted: 192.0.2.0/24.",
            "refused with status 403: 192.0.2.9.",
            "never locked automatically: 192.0.2.8.",
            "At most 50 requests in any second.",
            "At most 1,000 requests in any second (in shadow mode",
            "An address that sends more than 20 unknown or malformed keys in an hour is locked out for 1 \
             minute, and the next times for 1 hour.",
            "Each day without a lock takes an address one step back.",
            "route `orders`: POST /api/orders and all below",
            "It needs a key with all of the scopes `orders:write`, `read`.",
            "Each key: 10 requests in any second.",
            "Each request costs 5: it counts as 5 requests.",
            "It needs no key.",
            "Each address, with or without a key: 3 requests in any minute.",
            "locked out of the route for 5 minutes.",
            "It is in shadow mode",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn only_the_rules_of_a_request_are_explained() {
        let policy = compiled(
            r#"
            protect = ["/api"]
            exempt = ["/api/health"]
            deny = ["203.0.113.0/24"]
            key_limits = ["50/s"]
            [[route]]
            name = "orders"
            path = "POST /api/orders"
            scopes = ["orders:write"]
            cost = 5
            "#,
        );
        let about = |method: &str, path: &str, ip: &str| {
            let sections = policy.explained_for(&ExampleRequest {
                path,
                method: method.into(),
                ip: Some(ip.parse().unwrap()),
            });
            let names: Vec<String> = sections.iter().map(|s| s.about.clone()).collect();
            (names, sections[0].sentences.join(" "))
        };
        let (names, outcome) = about("POST", "/api/%6frders/7", "203.0.113.9");
        assert_eq!(
            names,
            [
                "the request",
                "route `orders`: POST /api/orders and all below",
                "the key, in addition to its own limits"
            ]
        );
        assert_eq!(
            outcome,
            "It needs a key. 203.0.113.9 is refused with status 403, by `allow` or `deny`. Matching \
             routes: `orders`. It costs 5, unless it has a cost of its own."
        );
        let (names, outcome) = about("GET", "/api/health", "203.0.113.9");
        assert_eq!(names, ["the request"]);
        assert!(outcome.starts_with("It is exempt"), "{outcome}");
        let (names, outcome) = about("GET", "/", "192.0.2.7");
        assert_eq!(names, ["the request"]);
        assert_eq!(outcome, "It needs no key. No route matches it.");
    }
}
