//! Client addresses: trusted proxies, address lists, and escalating locks.

use std::net::IpAddr;
use std::time::Duration;

use crate::common::{HOUR, Home, MINUTE, SECOND, admit, key};
use keyguard::{ClientIp, IpTarget, KeyGuard, Reason, Request};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The client address of a request from a peer with these header fields, or the reason of the refusal.
fn client(kg: &KeyGuard, peer: &str, headers: &[(&str, &str)]) -> String {
    let peer: ClientIp = peer.parse().unwrap();
    let decided = kg.check(headers, peer, "/open").map(|grant| grant.ip());
    assert_eq!(kg.client_ip(headers, peer), decided);
    decided.map_or_else(
        |d| format!("{} {}", d.status(), d.reason()),
        |ip| ip.to_string(),
    )
}

#[test]
fn without_trusted_proxies_the_peer_is_the_client() {
    let home = Home::new();
    let kg = home.open_under(r#"protect = ["/api"]"#);
    let headers = [
        ("X-Forwarded-For", "203.0.113.9"),
        ("Forwarded", "for=203.0.113.9"),
    ];
    assert_eq!(client(&kg, "10.0.0.1", &headers), "10.0.0.1");
}

#[test]
fn trusted_proxy_names_the_client() {
    let home = Home::new();
    let kg = home.open_under("protect = [\"/api\"]\ntrusted_proxies = [\"10.0.0.0/8\", \"local\"]");
    for (peer, headers, expected) in [
        ("10.0.0.1", &[][..], "10.0.0.1"),
        (
            "10.0.0.1",
            &[("X-Forwarded-For", "203.0.113.9")],
            "203.0.113.9",
        ),
        (
            "local",
            &[("X-Forwarded-For", "203.0.113.9")],
            "203.0.113.9",
        ),
        (
            "192.0.2.1",
            &[("X-Forwarded-For", "203.0.113.9")],
            "192.0.2.1",
        ),
        // Several lines form one list.
        (
            "10.0.0.1",
            &[
                ("X-Forwarded-For", "1.1.1.1"),
                ("x-forwarded-for", "203.0.113.9, 10.2.2.2"),
            ],
            "203.0.113.9",
        ),
        // Names that some servers consider equal are different.
        (
            "10.0.0.1",
            &[("X_Forwarded_For", "203.0.113.9")],
            "10.0.0.1",
        ),
        ("10.0.0.1", &[("X-Real-IP", "203.0.113.9")], "10.0.0.1"),
        // Other fields may be forged.
        (
            "10.0.0.1",
            &[
                ("Forwarded", "for=8.8.8.8"),
                ("X-Forwarded-For", "203.0.113.9"),
                ("CF-Connecting-IP", "8.8.8.8"),
            ],
            "203.0.113.9",
        ),
    ] {
        assert_eq!(client(&kg, peer, headers), expected, "{peer} {headers:?}");
    }
    let unreadable = [("X-Forwarded-For", "203.0.113.9, unknown")];
    assert_eq!(client(&kg, "192.0.2.1", &unreadable), "192.0.2.1");
    assert_eq!(
        client(&kg, "10.0.0.1", &unreadable),
        "400 invalid_client_ip"
    );
}

/// Once, a client with a second field or an open quote counted as the proxy, which is never locked out.
#[test]
fn only_the_configured_forwarding_header_is_used() {
    let home = Home::new();
    let kg = home.open();
    for (header, value, unreadable) in [
        (
            "forwarded",
            "for=203.0.113.9",
            "for=8.8.8.8;x=\", for=203.0.113.9",
        ),
        ("X-Real-IP", "203.0.113.9", "203.0.113.9, 8.8.8.8"),
        ("cf-connecting-ip", "203.0.113.9", "unknown"),
    ] {
        let policy = format!(
            "protect = []\ntrusted_proxies = [\"10.0.0.0/8\"]\nclient_ip_header = \"{header}\""
        );
        kg.admin().set_policy(policy.parse().unwrap()).unwrap();
        let named = |headers: &[(&str, &str)]| client(&kg, "10.0.0.1", headers);
        let forged = ("X-Forwarded-For", "8.8.8.8");
        assert_eq!(named(&[(header, value), forged]), "203.0.113.9");
        assert_eq!(
            named(&[(header, unreadable), forged]),
            "400 invalid_client_ip"
        );
        let warnings = kg.admin().stats().unwrap().warnings.join("\n");
        assert!(
            warnings.contains("without a valid client address"),
            "{warnings}"
        );
        // A health check of the proxy.
        assert_eq!(named(&[]), "10.0.0.1");
        assert_eq!(named(&[forged]), "10.0.0.1");
        let warnings = kg.admin().stats().unwrap().warnings.join("\n");
        let line = r#"client_ip_header = "x-forwarded-for""#;
        assert!(warnings.contains(line), "{warnings}");
    }
    let refused = kg.admin().stats().unwrap().refused;
    assert_eq!(refused, [(Reason::InvalidClientIp, 6)]);
    let error = "client_ip_header = \"a b\"".parse::<keyguard::Policy>();
    assert!(error.unwrap_err().to_string().contains("header field name"));
}

/// Once, a client whose proxy removed the field, because of `Connection`, silently counted as the proxy.
#[test]
fn proxy_without_client_address_warns_or_is_refused() {
    let home = Home::new();
    let kg = home.open();
    let policy = "protect = []\ntrusted_proxies = [\"10.0.0.0/8\"]";
    kg.admin().set_policy(policy.parse().unwrap()).unwrap();
    let warnings = || kg.admin().stats().unwrap().warnings.join("\n");
    // A health check of the proxy.
    assert_eq!(client(&kg, "10.0.0.1", &[]), "10.0.0.1");
    assert_eq!(warnings(), "");
    let keys = [("X-API-Key", "guess")];
    assert_eq!(client(&kg, "10.0.0.1", &keys), "10.0.0.1");
    assert!(warnings().contains("require_client_ip = true"));

    kg.admin()
        .set_policy(
            format!("{policy}\nrequire_client_ip = true")
                .parse()
                .unwrap(),
        )
        .unwrap();
    for headers in [&keys[..], &[]] {
        assert_eq!(client(&kg, "10.0.0.1", headers), "400 invalid_client_ip");
        assert_eq!(client(&kg, "192.0.2.1", headers), "192.0.2.1");
    }
    let named = [("X-Forwarded-For", "203.0.113.9")];
    assert_eq!(client(&kg, "10.0.0.1", &named), "203.0.113.9");
}

#[test]
fn unknown_client_is_refused_by_every_entry_point() {
    let home = Home::new();
    let kg = home.open_under("trusted_proxies = [\"10.0.0.1\"]\nexempt = [\"/open\"]");
    let key = key(&kg);
    let headers = [
        ("X-API-Key", key.raw_key.expose()),
        ("X-Forwarded-For", "nobody"),
    ];
    let request = keyguard::Request::new(&headers, ip("10.0.0.1"), "/");
    let reason = Some(Reason::InvalidClientIp);
    assert_eq!(kg.decide(request).err().map(|d| d.reason()), reason);
    assert_eq!(kg.dry_run(request).denial.map(|d| d.reason()), reason);
    assert_eq!(client(&kg, "10.0.0.1", &headers), "400 invalid_client_ip");
    assert!(kg.check(&headers, ip("10.0.0.2"), "/").is_ok());
}

#[test]
fn nat64_address_counts_as_its_ipv4_address() {
    let home = Home::new();
    let kg = home.open_under(
        r#"
        nat64_prefixes = ["2001:db8:64::/96", "2001:db8:100::/40"]
        trusted_proxies = ["10.0.0.0/8"]
        deny = ["198.51.100.0/24"]
        [lockout]
        threshold = 3
        "#,
    );
    let key = keyguard::CreateKey::new(&crate::common::org(&kg, "acme").name, "bound")
        .allowed_ips(vec!["192.0.2.0/24", "198.51.100.1"]);
    let key = kg.admin().create_key(key).unwrap();
    let text = key.raw_key.expose();
    let from = |peer: &str, key: &str| {
        let peer: ClientIp = peer.parse().unwrap();
        let granted = kg.check(&[("X-API-Key", key)], peer, "/");
        granted
            .map(|grant| grant.ip().to_string())
            .map_err(|d| d.reason())
    };
    let written = [
        "64:ff9b::192.0.2.7",
        "2001:db8:64::192.0.2.7",
        "2001:db8:1c0:2:7::",
        "192.0.2.7",
    ];
    for peer in written {
        assert_eq!(from(peer, text), Ok("192.0.2.7".into()), "{peer}");
    }
    for peer in ["64:ff9b::198.51.100.1", "2001:db8:64::198.51.100.1"] {
        assert_eq!(from(peer, text), Err(Reason::IpDenied), "{peer}");
    }
    assert_eq!(
        from("2001:db8:64::203.0.113.1", text),
        Err(Reason::IpNotAllowed)
    );
    let forwarded = [
        ("X-Forwarded-For", "2001:db8:64::192.0.2.9"),
        ("X-API-Key", text),
    ];
    let grant = kg.check(
        &forwarded,
        "2001:db8:64::10.0.0.1".parse::<ClientIp>().unwrap(),
        "/",
    );
    assert_eq!(grant.unwrap().ip().to_string(), "192.0.2.9");
    // All spellings of the address are counted and locked out as one.
    for peer in written {
        assert_eq!(from(peer, "nonsense"), Err(Reason::MalformedKey));
    }
    for peer in written {
        assert_eq!(from(peer, text), Err(Reason::IpLocked), "{peer}");
    }
    assert!(from("2001:db8:64::192.0.2.8", text).is_ok());
    kg.admin()
        .unblock("192.0.2.7".parse::<IpTarget>().unwrap(), None)
        .unwrap();
    // Manual locks, too.
    let peer: ClientIp = "2001:db8:64::192.0.2.7".parse().unwrap();
    let lock = kg.admin().block(peer, None, MINUTE);
    assert_eq!(lock.unwrap().ip.to_string(), "192.0.2.7");
}

#[test]
fn client_behind_a_trusted_proxy_is_locked_alone() {
    let home = Home::new();
    let kg = home.open_under(r#"trusted_proxies = ["10.0.0.0/8"]"#);
    let key = key(&kg);
    let from = |client: &str, key: &str| {
        let headers = [("X-API-Key", key), ("X-Forwarded-For", client)];
        kg.check(&headers, ip("10.0.0.1"), "/")
            .map(drop)
            .map_err(|d| d.reason())
    };
    for _ in 0..101 {
        assert_eq!(from("203.0.113.9", "nonsense"), Err(Reason::MalformedKey));
        assert_eq!(from("garbage", "nonsense"), Err(Reason::InvalidClientIp));
    }
    let text = key.raw_key.expose();
    assert_eq!(from("203.0.113.9", text), Err(Reason::IpLocked));
    assert_eq!(from("203.0.113.10", text), Ok(()));
    assert_eq!(from("garbage", text), Err(Reason::InvalidClientIp));
    let locks: Vec<String> = kg
        .admin()
        .list_blocks()
        .iter()
        .map(|l| l.ip.to_string())
        .collect();
    assert_eq!(locks, ["203.0.113.9"]);
}

#[test]
fn allow_and_deny_lists_decide_by_address() {
    let home = Home::new();
    let kg = home.open_under(
        r#"
        allow = ["192.0.2.0/24", "2001:db8::/32"]
        deny = ["192.0.2.128/25"]
        exempt = ["/health"]
        "#,
    );
    let key = key(&kg);
    let headers = [("X-API-Key", key.raw_key.expose())];
    let from = |text: &str, path: &str| {
        let peer: ClientIp = text.parse().unwrap();
        kg.check(&headers, peer, path)
            .map(drop)
            .map_err(|d| (d.reason(), d.status()))
    };
    for text in ["192.0.2.7", "2001:db8::1", "::ffff:192.0.2.7"] {
        assert_eq!(from(text, "/"), Ok(()), "{text}");
    }
    for text in ["192.0.2.200", "198.51.100.1", "local"] {
        assert_eq!(from(text, "/"), Err((Reason::IpDenied, 403)), "{text}");
        assert_eq!(from(text, "/health"), Ok(()), "{text}");
    }
    assert_eq!(kg.admin().stats().unwrap().refused, [(Reason::IpDenied, 3)]);
    kg.admin()
        .set_policy(r#"deny = ["192.0.2.7"]"#.parse().unwrap())
        .unwrap();
    assert_eq!(from("192.0.2.7", "/"), Err((Reason::IpDenied, 403)));
    assert_eq!(from("192.0.2.200", "/"), Ok(()));
}

#[test]
fn never_locked_addresses_collect_no_failures() {
    let home = Home::new();
    let kg = home.open_under("never_lock = [\"192.0.2.0/24\"]\n[lockout]\nthreshold = 5");
    let key = key(&kg);
    let bad = |from: &str| {
        let _ = kg.check(&[("X-API-Key", "nonsense")], ip(from), "/");
    };
    for _ in 0..10 {
        bad("192.0.2.7");
        bad("198.51.100.7");
    }
    let locks: Vec<String> = kg
        .admin()
        .list_blocks()
        .iter()
        .map(|l| l.ip.to_string())
        .collect();
    assert_eq!(locks, ["198.51.100.7"]);
    admit(&kg, &key);
    // It can be locked manually.
    kg.admin().block(ip("192.0.2.7"), None, MINUTE).unwrap();
    assert_eq!(
        crate::common::refusal(crate::common::check(&kg, &key)),
        Reason::IpLocked
    );
}

#[test]
fn ip_limits_follow_the_lists() {
    let home = Home::new();
    let kg = home.open_under("never_lock = [\"192.0.2.7\"]\ndeny = [\"192.0.2.9\"]\n[[route]]\nname = \"x\"\npath = \"/x\"\nprotect = false\nip_limits = [\"1/min\"]\nlockout = \"1 hour\"",
    );
    let limit = keyguard::IpLimit::new("login", "1/min")
        .unwrap()
        .lockout(HOUR)
        .unwrap();
    let check = |from: &str| {
        kg.check_ip(&limit, Request::new(&(), ip(from), "/login"))
            .map(drop)
            .map_err(|d| d.reason())
    };
    let none: [(&str, &str); 0] = [];
    let visit = |from: &str| {
        kg.check(&none, ip(from), "/x")
            .map(drop)
            .map_err(|d| d.reason())
    };
    for from in ["192.0.2.7", "192.0.2.8"] {
        assert_eq!((check(from), visit(from)), (Ok(()), Ok(())));
        let limited = Err(Reason::IpLimited);
        assert_eq!((visit(from), check(from)), (limited, limited));
    }
    assert_eq!(check("192.0.2.9"), Err(Reason::IpDenied));
    home.clock.advance(MINUTE);
    assert_eq!((check("192.0.2.7"), visit("192.0.2.7")), (Ok(()), Ok(())));
    assert_eq!(check("192.0.2.8"), Err(Reason::IpLocked));
    assert_eq!(visit("192.0.2.8"), Err(Reason::IpLocked));
}

/// Fails until the address is locked out. Returns the duration of the lock.
fn lock(kg: &KeyGuard) -> Duration {
    for _ in 0..200 {
        let denial = kg
            .check(&[("X-API-Key", "nonsense")], ip("192.0.2.7"), "/")
            .unwrap_err();
        if denial.reason() == Reason::IpLocked {
            return denial.retry_after().unwrap();
        }
    }
    panic!("not locked");
}

const STEPS: &str = r#"
    [lockout]
    threshold = 3
    steps = ["1 min", "10 min", "1 hour", "24 hours"]
    decay = "6 hours"
"#;

#[test]
fn repeated_locks_escalate_to_the_last_step() {
    let home = Home::new();
    let mut kg = home.open_under(STEPS);
    for expected in [MINUTE, 10 * MINUTE, HOUR, 24 * HOUR, 24 * HOUR] {
        assert_eq!(lock(&kg), expected);
        home.clock.advance(expected);
        assert!(kg.admin().list_blocks().is_empty());
        // The step survives a restart.
        drop(kg);
        kg = home.open_under(STEPS);
    }
}

#[test]
fn escalation_decays_step_by_step() {
    let home = Home::new();
    let kg = home.open_under(STEPS);
    assert_eq!(lock(&kg), MINUTE);
    home.clock.advance(MINUTE);
    assert_eq!(lock(&kg), 10 * MINUTE);
    // Just before one decay has passed: the next step.
    home.clock.advance(10 * MINUTE + 6 * HOUR - SECOND);
    assert_eq!(lock(&kg), HOUR);
    assert_eq!(kg.admin().list_blocks()[0].step, 2);
    // After one decay, the same step; after three, the first.
    home.clock.advance(HOUR + 6 * HOUR);
    assert_eq!(lock(&kg), HOUR);
    home.clock.advance(HOUR + 18 * HOUR);
    assert_eq!(lock(&kg), MINUTE);
}

#[test]
fn unblocking_resets_the_escalation() {
    let home = Home::new();
    let kg = home.open_under(STEPS);
    assert_eq!(lock(&kg), MINUTE);
    kg.admin()
        .unblock("192.0.2.7".parse::<IpTarget>().unwrap(), None)
        .unwrap();
    assert_eq!(lock(&kg), MINUTE);
}

#[test]
fn locks_last_a_day_by_default() {
    let home = Home::new();
    let kg = home.open();
    for _ in 0..3 {
        assert_eq!(lock(&kg), 24 * HOUR);
        home.clock.advance(24 * HOUR);
    }
}

/// Once, such addresses in a list matched nothing.
#[test]
fn nat64_address_matches_every_list_that_names_it() {
    let home = Home::new();
    let kg = home.open_under(
        r#"
        protect = []
        nat64_prefixes = ["2001:db8:64::/96", "2001:db8:100::/40", "2001:db8:222:344::/64"]
        trusted_proxies = ["2001:db8:64::10.0.0.1"]
        deny = [
            "2001:db8:64::192.0.2.1", "2001:db8:64::198.51.0.0/112", "2001:db8:1cb:7100::/56",
            "2001:db8:222:344:cb:7300::/88", "2001:db8:ffff::/48",
        ]
        [lockout]
        threshold = 3
        "#,
    );
    for (peer, is_denied) in [
        ("2001:db8:64::192.0.2.1", true),
        ("192.0.2.1", true),
        ("64:ff9b::192.0.2.1", true),
        ("2001:db8:64::192.0.2.2", false),
        ("2001:db8:64::198.51.100.1", true),
        ("2001:db8:64::198.52.100.1", false),
        // 203.113.0.0/16 and 203.115.0.0/16.
        ("203.113.7.7", true),
        ("203.115.7.7", true),
        ("2001:db8:222:344:cb:7307:700::", true),
        ("203.114.7.7", false),
        ("2001:db8:ffff::1", true),
        ("2001:db8:fffe::1", false),
    ] {
        let expected = if is_denied {
            "403 ip_denied".to_owned()
        } else {
            kg.client_ip(&[("x", "y")], peer.parse::<ClientIp>().unwrap())
                .unwrap()
                .to_string()
        };
        let peer_ip: ClientIp = peer.parse().unwrap();
        let decided = kg.check(&[("x", "y")], peer_ip, "/open");
        let decided = decided.map_or_else(
            |d| format!("{} {}", d.status(), d.reason()),
            |grant| grant.ip().to_string(),
        );
        assert_eq!(decided, expected, "{peer}");
    }
    let forwarded = [("X-Forwarded-For", "192.0.2.9")];
    assert_eq!(client(&kg, "10.0.0.1", &forwarded), "192.0.2.9");

    let key = keyguard::CreateKey::new(&crate::common::org(&kg, "acme").name, "bound")
        .allowed_ips(vec!["2001:db8:64::203.0.113.0/120"]);
    let key = kg.admin().create_key(key).unwrap();
    assert_eq!(
        key.key.allowed_ips.to_string(),
        "2001:db8:64::cb00:7100/120"
    );
    kg.admin()
        .set_policy("nat64_prefixes = [\"2001:db8:64::/96\"]".parse().unwrap())
        .unwrap();
    let check = |peer: &str| {
        let peer: ClientIp = peer.parse().unwrap();
        let headers = [("X-API-Key", key.raw_key.expose())];
        kg.check(&headers, peer, "/").err().map(|d| d.reason())
    };
    assert_eq!(check("2001:db8:64::203.0.113.77"), None);
    assert_eq!(check("203.0.113.77"), None);
    assert_eq!(check("203.0.114.77"), Some(Reason::IpNotAllowed));
    // Without the prefix in the policy, the address is plain IPv6.
    kg.admin()
        .set_policy("protect = [\"/\"]".parse().unwrap())
        .unwrap();
    assert_eq!(check("2001:db8:64::203.0.113.77"), None);
    assert_eq!(check("203.0.113.77"), Some(Reason::IpNotAllowed));
}
