//! Limits per address: every rule counts exactly, regardless of other requests and floods.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use crate::common::{Home, IP, MINUTE};
use keyguard::{Denial, Grant, IpLimit, KeyGuard, Reason, Request};

const NONE: [(&str, &str); 0] = [];

fn check(kg: &KeyGuard, ip: IpAddr, path: &str) -> Result<Grant, Denial> {
    kg.decide(Request::new(&NONE, ip, path).method("GET"))
}

fn reason(outcome: Result<Grant, Denial>) -> Option<Reason> {
    outcome.err().map(|denial| denial.reason())
}

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0000 + number).into()
}

/// `/login` with 5 per minute, and this many other routes with 100.
fn login_beside(others: u32) -> String {
    let mut policy = String::from(
        "protect = [\"/api\"]\n\
         [[route]]\nname = \"login\"\npath = \"/login\"\nip_limits = [\"5/min\"]\n",
    );
    for i in 0..others {
        writeln!(
            policy,
            "[[route]]\nname = \"r{i}\"\npath = \"/r{i}\"\nip_limits = [\"100/min\"]"
        )
        .unwrap();
    }
    policy
}

#[test]
fn requests_for_other_routes_do_not_reset_a_route_limit() {
    let home = Home::new();
    let kg = home.open_under(&login_beside(100));
    let mut logins = 0;
    for round in 0..200 {
        logins += u32::from(check(&kg, IP, "/login").is_ok());
        for i in 0..8 {
            assert!(check(&kg, IP, &format!("/r{}", (round + 13 * i) % 100)).is_ok());
        }
    }
    assert_eq!(logins, 5);
}

#[test]
fn requests_for_routes_do_not_clear_failures() {
    let home = Home::new();
    let kg = home.open_under(&login_beside(20));
    let guess = [("X-API-Key", "guess")];
    for i in 0..101 {
        let denial = kg.check(&guess, IP, "/api").unwrap_err();
        assert_eq!(denial.reason(), Reason::MalformedKey, "{i}");
        for route in 0..20 {
            let _ = check(&kg, IP, &format!("/r{route}"));
        }
    }
    assert_eq!(reason(kg.check(&guess, IP, "/api")), Some(Reason::IpLocked));
}

#[test]
fn every_rule_on_a_request_is_enforced() {
    let home = Home::new();
    let mut policy = String::from("protect = [\"/api\"]\n");
    for (i, path) in ["/a", "/a/b", "/a/b/c"].iter().enumerate() {
        let limits: Vec<String> = (1..=8)
            .map(|n| format!("\"{}/{n}min\"", 40 - 8 * i - n))
            .collect();
        writeln!(
            policy,
            "[[route]]\nname = \"r{i}\"\npath = \"{path}\"\nip_limits = [{}]",
            limits.join(", ")
        )
        .unwrap();
    }
    let kg = home.open_under(&policy);
    // 24 rules, of which `16/8min` of the third route is the tightest.
    let admitted = (0..40).filter(|_| check(&kg, IP, "/a/b/c").is_ok()).count();
    assert_eq!(admitted, 16);
    home.clock.advance(MINUTE + Duration::from_secs(1));
    assert_eq!(reason(check(&kg, IP, "/a/b/c")), Some(Reason::IpLimited));
    // The remainder of `24/8min` of the second route.
    let admitted = (0..40).filter(|_| check(&kg, IP, "/a/b").is_ok()).count();
    assert_eq!(admitted, 8);
}

#[test]
fn limit_and_its_shadow_count_separately() {
    let home = Home::new();
    let kg = home.open_under(
        "protect = [\"/api\"]\n\
         [[route]]\nname = \"a\"\npath = \"/a\"\nip_limits = [\"4/min\", \"2/min shadow\"]",
    );
    let admitted = (0..9).filter(|_| check(&kg, IP, "/a").is_ok()).count();
    assert_eq!(admitted, 4);
}

#[test]
fn flood_evicts_neither_refused_nor_failing_addresses() {
    let home = Home::new();
    let policy = login_beside(3).parse().unwrap();
    let config = home.config().policy(policy).max_tracked_ips(64);
    let kg = home.open_with(config.record_usage(false));
    let guess = [("X-API-Key", "guess")];
    let (refused, failed) = (address(1), address(2));
    for _ in 0..5 {
        assert!(check(&kg, refused, "/login").is_ok());
    }
    for _ in 0..51 {
        let _ = kg.check(&guess, failed, "/api");
    }
    for i in 1_000..20_000 {
        let _ = check(&kg, address(i), "/login");
        let _ = check(&kg, address(i), "/r1");
    }
    assert_eq!(
        reason(check(&kg, refused, "/login")),
        Some(Reason::IpLimited)
    );
    for _ in 0..50 {
        assert!(kg.admin().list_blocks().is_empty());
        let _ = kg.check(&guess, failed, "/api");
    }
    assert_eq!(kg.admin().list_blocks().len(), 1, "the 101st failure");
}

#[test]
fn new_addresses_in_a_full_table_are_limited_but_not_locked() {
    let home = Home::new();
    let policy = login_beside(0) + "lockout = \"1 hour\"";
    let config = home.config().policy(policy.parse().unwrap());
    let kg = home.open_with(config.max_tracked_ips(16).record_usage(false));
    // Each address stays just below its lock.
    for i in 0..200 {
        for _ in 0..5 {
            let _ = check(&kg, address(i), "/login");
        }
    }
    home.clock.advance(MINUTE + Duration::from_secs(1));
    for i in 0..200 {
        for _ in 0..4 {
            assert_eq!(reason(check(&kg, address(i), "/login")), None, "{i}");
        }
        if i == 9 {
            break;
        }
    }
    for i in 300..360 {
        for _ in 0..5 {
            let _ = check(&kg, address(i), "/login");
        }
    }
    assert_eq!(
        kg.admin().list_blocks(),
        [],
        "nobody went over a limit of their own"
    );
    let newcomer = address(999_999);
    let mut admitted = 0;
    while admitted < 1_000 {
        match check(&kg, newcomer, "/login") {
            Ok(_) => admitted += 1,
            Err(denial) => {
                assert_eq!((denial.status(), denial.reason()), (429, Reason::IpLimited));
                assert!(denial.retry_after().unwrap() <= MINUTE);
                break;
            }
        }
    }
    assert!(admitted <= 8 * 5, "{admitted}");
    assert_eq!(
        kg.admin().list_blocks(),
        [],
        "it shared the limit with others"
    );
    home.clock.advance(MINUTE + Duration::from_secs(1));
    assert_eq!(reason(check(&kg, newcomer, "/login")), None);
}

/// Once, the number of routes did not bound the windows of an address, nor the shared ones.
#[test]
fn request_without_room_to_count_is_refused() {
    let home = Home::new();
    let mut policy = String::from("protect = [\"/api\"]\n");
    for i in 0..600 {
        writeln!(
            policy,
            "[[route]]\nname = \"r{i}\"\npath = \"/r{i}\"\nip_limits = [\"1/min\"]"
        )
        .unwrap();
    }
    let config = home.config().policy(policy.parse().unwrap());
    let kg = home.open_with(config.max_tracked_ips(16).record_usage(false));
    let (mut admitted, mut overloaded) = (0, 0);
    for from in 0..6 {
        for route in 0..600 {
            let path = format!("/r{route}");
            let foreseen = kg.dry_run(Request::new(&NONE, address(from), &path));
            let denial = check(&kg, address(from), &path).err();
            let reason = denial.as_ref().map(Denial::reason);
            assert!(!foreseen.key_checked, "{reason:?}");
            assert_eq!(foreseen.denial.map(|denial| denial.reason()), reason);
            match reason {
                None => admitted += 1,
                Some(Reason::Overloaded) => overloaded += 1,
                other => assert_eq!(other, Some(Reason::IpLimited)),
            }
            if let Some(denial) = denial.filter(|denial| denial.status() == 503) {
                assert_eq!(denial.retry_after(), None);
            } else {
                let again = check(&kg, address(from), &path);
                let of_others = reason.is_none() && again.is_ok();
                assert!(of_others || again.unwrap_err().status() == 429);
            }
        }
    }
    assert!(
        admitted >= 600 && overloaded >= 500,
        "{admitted} {overloaded}"
    );
    assert_eq!(
        reason(check(&kg, address(0), "/r0")),
        Some(Reason::IpLimited)
    );
    home.clock.advance(MINUTE + Duration::from_secs(1));
    for route in 0..600 {
        assert!(check(&kg, address(0), &format!("/r{route}")).is_ok());
    }
}

#[test]
fn shared_failure_counts_lock_nobody() {
    let home = Home::new();
    let config = home.config().max_tracked_ips(16).record_usage(false);
    let kg = home.open_with(config);
    let created = crate::common::key(&kg);
    let guess = [("X-API-Key", "guess")];
    for i in 0..64 {
        for _ in 0..60 {
            let _ = kg.check(&guess, address(i), "/");
        }
    }
    let newcomer = address(999_999);
    for i in 0..1_000 {
        let reason = reason(kg.check(&guess, newcomer, "/"));
        assert_eq!(reason, Some(Reason::MalformedKey), "{i}");
    }
    assert_eq!(kg.admin().list_blocks(), []);
    let good = [("X-API-Key", created.raw_key.expose())];
    kg.check(&good, newcomer, "/").unwrap().finish(200);
    // Tracked addresses are locked out at their own 101st failure, not earlier.
    let mut locked = Vec::new();
    for i in 0..64 {
        for _ in 0..41 {
            let _ = kg.check(&guess, address(i), "/");
        }
        locked.extend(kg.admin().list_blocks().get(locked.len()).map(|_| i));
    }
    assert_eq!(locked.len(), 16);
    // The table has space again when the failures of the others have expired.
    home.clock.advance(61 * MINUTE);
    for _ in 0..101 {
        let _ = kg.check(&guess, newcomer, "/");
    }
    assert_eq!(
        reason(kg.check(&good, newcomer, "/")),
        Some(Reason::IpLocked)
    );
}

#[test]
fn cost_above_the_limit_is_a_bad_request() {
    let home = Home::new();
    let kg = home.open_under(
        "protect = [\"/api\"]\n\
         [[route]]\nname = \"a\"\npath = \"/a\"\nip_limits = [\"3/min\"]\nlockout = \"1 hour\"\n\
         [[route]]\nname = \"b\"\npath = \"/b\"\nip_limits = [\"3/min shadow\"]",
    );
    let costly = |path| Request::new(&NONE, IP, path).cost(NonZeroU32::new(4).unwrap());
    for _ in 0..3 {
        let denial = kg.decide(costly("/a")).unwrap_err();
        assert_eq!(
            (denial.status(), denial.reason()),
            (400, Reason::CostAboveLimit)
        );
        assert_eq!(crate::common::field(&denial.headers(), "Retry-After"), None);
    }
    let denial = kg.dry_run(costly("/a")).denial.unwrap();
    assert_eq!(denial.reason(), Reason::CostAboveLimit);
    assert_eq!(kg.admin().list_blocks(), []);
    assert!(check(&kg, IP, "/a").is_ok(), "nothing was consumed");
    let grant = kg.decide(costly("/b")).unwrap();
    assert_eq!(grant.shadow_denied(), ["b ip 3/min shadow"]);
}

#[test]
fn limit_from_code_is_as_exact_as_a_route_limit() {
    let home = Home::new();
    let kg = home.open_under(&login_beside(30));
    let limit = |name: String| IpLimit::new(&name, "2/min").unwrap();
    for round in 0..5 {
        for i in 0..20 {
            let outcome = kg.check_ip(&limit(format!("limit{i}")), Request::new(&(), IP, "/x"));
            assert_eq!(outcome.is_ok(), round < 2, "{round} {i}");
        }
        for i in 0..30 {
            assert!(check(&kg, IP, &format!("/r{i}")).is_ok());
        }
    }
}
