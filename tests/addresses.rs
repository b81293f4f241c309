//! From where requests come: trusted proxies, lists of addresses, and locks that grow longer.

#![cfg(test)]

mod common;

use std::net::IpAddr;
use std::time::Duration;

use common::{Home, admit, key};
use keyguard::{ClientIp, KeyGuard, Reason, Stats};

const HOUR: Duration = Duration::from_secs(3_600);
const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

fn guard(home: &Home, policy: &str) -> KeyGuard {
    home.open_with(home.config().policy(policy.parse().unwrap()))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The address that a request is decided for, of a peer with these header fields.
fn client(kg: &KeyGuard, peer: &str, headers: &[(&str, &str)]) -> String {
    let peer: ClientIp = peer.parse().unwrap();
    let ip = kg.check(headers, peer, "/open").unwrap().ip();
    assert_eq!(kg.client_ip(headers, peer), ip);
    ip.to_string()
}

#[test]
fn without_trusted_proxies_the_peer_is_the_client() {
    let home = Home::new();
    let kg = guard(&home, r#"protect = ["/api"]"#);
    let headers = [
        ("X-Forwarded-For", "203.0.113.9"),
        ("Forwarded", "for=203.0.113.9"),
    ];
    assert_eq!(client(&kg, "10.0.0.1", &headers), "10.0.0.1");
}

#[test]
fn a_trusted_proxy_names_the_client() {
    let home = Home::new();
    let kg = guard(
        &home,
        "protect = [\"/api\"]\ntrusted_proxies = [\"10.0.0.0/8\", \"local\"]",
    );
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
        (
            "10.0.0.1",
            &[("Forwarded", "for=203.0.113.9:80")],
            "203.0.113.9",
        ),
        // Lines are one list, in their order.
        (
            "10.0.0.1",
            &[
                ("X-Forwarded-For", "1.1.1.1"),
                ("x-forwarded-for", "203.0.113.9, 10.2.2.2"),
            ],
            "203.0.113.9",
        ),
        // Names that some servers take for the same are not.
        (
            "10.0.0.1",
            &[("X_Forwarded_For", "203.0.113.9")],
            "10.0.0.1",
        ),
        ("10.0.0.1", &[("X-Real-IP", "203.0.113.9")], "10.0.0.1"),
        (
            "10.0.0.1",
            &[("X-Forwarded-For", "203.0.113.9, unknown")],
            "10.0.0.1",
        ),
    ] {
        assert_eq!(client(&kg, peer, headers), expected, "{peer} {headers:?}");
    }
    assert!(kg.stats().unwrap().warnings.is_empty());
    let disputed = [
        ("X-Forwarded-For", "203.0.113.9"),
        ("Forwarded", "for=203.0.113.8"),
    ];
    assert_eq!(client(&kg, "10.0.0.1", &disputed), "10.0.0.1");
    let Stats { warnings, .. } = kg.stats().unwrap();
    assert!(warnings[0].contains("that it does not set"), "{warnings:?}");
}

#[test]
fn who_hides_behind_a_trusted_proxy_is_locked_out_alone() {
    let home = Home::new();
    let kg = guard(&home, r#"trusted_proxies = ["10.0.0.0/8"]"#);
    let key = key(&kg);
    let from = |client: &str, key: &str| {
        let headers = [("X-API-Key", key), ("X-Forwarded-For", client)];
        kg.check(&headers, ip("10.0.0.1"), "/")
            .map(drop)
            .map_err(|d| d.reason())
    };
    for _ in 0..101 {
        assert_eq!(from("203.0.113.9", "nonsense"), Err(Reason::MalformedKey));
        assert_eq!(from("garbage", "nonsense"), Err(Reason::MalformedKey));
    }
    let text = key.raw_key.expose();
    assert_eq!(from("203.0.113.9", text), Err(Reason::IpLocked));
    assert_eq!(from("203.0.113.10", text), Ok(()));
    // The proxy itself collects nothing.
    assert_eq!(from("garbage", text), Ok(()));
    let locks: Vec<String> = kg.locks().iter().map(|l| l.network.to_string()).collect();
    assert_eq!(locks, ["203.0.113.9"]);
}

#[test]
fn lists_say_from_where_requests_are_accepted() {
    let home = Home::new();
    let kg = guard(
        &home,
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
    assert_eq!(kg.stats().unwrap().refused, [(Reason::IpDenied, 3)]);
    kg.set_policy(r#"deny = ["192.0.2.7"]"#.parse().unwrap());
    assert_eq!(from("192.0.2.7", "/"), Err((Reason::IpDenied, 403)));
    assert_eq!(from("192.0.2.200", "/"), Ok(()));
}

#[test]
fn addresses_that_are_never_locked_collect_no_strikes() {
    let home = Home::new();
    let kg = guard(
        &home,
        "never_lock = [\"192.0.2.0/24\"]\n[lockout]\nthreshold = 5",
    );
    let key = key(&kg);
    let bad = |from: &str| {
        let _ = kg.check(&[("X-API-Key", "nonsense")], ip(from), "/");
    };
    for _ in 0..10 {
        bad("192.0.2.7");
        bad("198.51.100.7");
    }
    let locks: Vec<String> = kg.locks().iter().map(|l| l.network.to_string()).collect();
    assert_eq!(locks, ["198.51.100.7"]);
    admit(&kg, &key);
    // By hand it can be.
    kg.block(
        ip("192.0.2.7"),
        "/",
        MINUTE.try_into().unwrap(),
        keyguard::LockScope::Global,
    )
    .unwrap();
    assert_eq!(common::refusal(common::ask(&kg, &key)), Reason::IpLocked);
}

#[test]
fn limits_by_address_go_by_the_lists_too() {
    let home = Home::new();
    let kg = guard(
        &home,
        "never_lock = [\"192.0.2.7\"]\ndeny = [\"192.0.2.9\"]\n[[route]]\nname = \"x\"\npath = \"/x\"\nprotect = false\nip_limits = [\"1/min\"]\nlockout = \"1 hour\"",
    );
    let limit = keyguard::IpLimit::new("login", 1, MINUTE)
        .unwrap()
        .lockout(HOUR.try_into().unwrap());
    let check = |from: &str| {
        kg.check_ip(&limit, ip(from), "/login")
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

/// Fails until the address is locked out, and returns for how long it is.
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
fn each_further_lock_is_a_step_longer_until_the_last() {
    let home = Home::new();
    let mut kg = guard(&home, STEPS);
    for expected in [MINUTE, 10 * MINUTE, HOUR, 24 * HOUR, 24 * HOUR] {
        assert_eq!(lock(&kg), expected);
        home.clock.advance(expected);
        assert!(kg.locks().is_empty());
        // What is remembered survives a restart.
        drop(kg);
        kg = guard(&home, STEPS);
    }
}

#[test]
fn who_behaves_goes_back_step_by_step() {
    let home = Home::new();
    let kg = guard(&home, STEPS);
    assert_eq!(lock(&kg), MINUTE);
    home.clock.advance(MINUTE);
    assert_eq!(lock(&kg), 10 * MINUTE);
    // Not quite one decay after its end: a step further.
    home.clock.advance(10 * MINUTE + 6 * HOUR - SECOND);
    assert_eq!(lock(&kg), HOUR);
    assert_eq!(kg.locks()[0].step, 2);
    // One decay: the step stays as it is. Three: the first again.
    home.clock.advance(HOUR + 6 * HOUR);
    assert_eq!(lock(&kg), HOUR);
    home.clock.advance(HOUR + 18 * HOUR);
    assert_eq!(lock(&kg), MINUTE);
}

#[test]
fn unblocking_forgets_what_was_before() {
    let home = Home::new();
    let kg = guard(&home, STEPS);
    assert_eq!(lock(&kg), MINUTE);
    kg.unblock("192.0.2.7".parse().unwrap(), None).unwrap();
    assert_eq!(lock(&kg), MINUTE);
}

#[test]
fn by_default_every_lock_lasts_a_day() {
    let home = Home::new();
    let kg = home.open();
    for _ in 0..3 {
        assert_eq!(lock(&kg), 24 * HOUR);
        home.clock.advance(24 * HOUR);
    }
}
