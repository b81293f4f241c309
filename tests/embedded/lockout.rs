//! Lockouts: thresholds, durations, and scope.

use std::net::IpAddr;
use std::time::Duration;

use crate::common::{DAY, HOUR, Home, IP, child, key, key_limited_to};
use keyguard::{
    AdminError, ClientIp, Config, CreateKey, IpKey, IpLimit, KeyGuard, LockCause, LockDuration,
    LockScope, Page, Policy, Reason, Request,
};

const ELSEWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1));

const NO_HEADERS: [(&str, &str); 0] = [];

/// The preflight request of a browser.
const PREFLIGHT: [(&str, &str); 2] = [
    ("Origin", "https://example.com"),
    ("Access-Control-Request-Method", "GET"),
];

/// The reason of a refusal; `None` if the request is admitted.
fn refused(kg: &KeyGuard, headers: &[(&str, &str)], ip: IpAddr) -> Option<Reason> {
    kg.check(headers, ip, "/")
        .err()
        .map(|denial| denial.reason())
}

fn random_key(number: u32) -> String {
    format!("kg_live_{number:049}")
}

/// Sends this many malformed keys.
fn guess(kg: &KeyGuard, times: u32, ip: IpAddr) {
    for i in 0..times {
        let guess = random_key(i);
        let reason = refused(kg, &[("X-API-Key", &guess)], ip);
        assert_eq!(reason, Some(Reason::MalformedKey), "{i}");
    }
}

#[test]
fn hundred_and_one_bad_keys_lock_the_address_for_a_day() {
    let home = Home::new();
    let kg = home.open();
    let created = key(&kg);
    let good = [("X-API-Key", created.raw_key.expose())];
    guess(&kg, 100, IP);
    assert_eq!(refused(&kg, &good, IP), None, "100 are borne");
    guess(&kg, 1, IP);

    let denial = kg.check(&good, IP, "/").unwrap_err();
    assert_eq!((denial.status(), denial.reason()), (403, Reason::IpLocked));
    assert_eq!(denial.retry_after(), Some(DAY));
    assert_eq!(refused(&kg, &NO_HEADERS, IP), Some(Reason::IpLocked));
    assert_eq!(refused(&kg, &good, ELSEWHERE), None);

    home.clock.advance(DAY - Duration::from_millis(1));
    assert_eq!(refused(&kg, &good, IP), Some(Reason::IpLocked));
    home.clock.advance(Duration::from_millis(1));
    assert_eq!(refused(&kg, &good, IP), None, "exactly then it is admitted");
}

#[test]
fn hundred_and_one_keyless_requests_lock_keyless_requests_only() {
    let home = Home::new();
    let kg = home.open();
    let created = key(&kg);
    let good = [("X-API-Key", created.raw_key.expose())];
    for _ in 0..101 {
        assert_eq!(refused(&kg, &NO_HEADERS, IP), Some(Reason::MissingKey));
    }
    assert_eq!(refused(&kg, &NO_HEADERS, IP), Some(Reason::IpLocked));
    assert_eq!(
        refused(&kg, &good, IP),
        None,
        "no page in a browser locks a key out"
    );
    assert_eq!(
        refused(&kg, &NO_HEADERS, ELSEWHERE),
        Some(Reason::MissingKey)
    );
    let locks = kg.admin().list_blocks();
    assert_eq!(locks.len(), 1);
    assert_eq!(
        (&locks[0].scope, &locks[0].cause),
        (&LockScope::Keyless, &LockCause::MissingKeys)
    );
}

#[test]
fn failures_older_than_an_hour_do_not_count() {
    let home = Home::new();
    let kg = home.open();
    guess(&kg, 100, IP);
    home.clock.advance(HOUR + Duration::from_secs(1));
    guess(&kg, 100, IP);
    guess(&kg, 1, IP);
    assert_eq!(refused(&kg, &NO_HEADERS, IP), Some(Reason::IpLocked));
}

#[test]
fn ipv6_counts_by_64_and_mapped_addresses_as_ipv4() {
    let home = Home::new();
    let kg = home.open();
    for i in 0..101_u16 {
        let ip: IpAddr = format!("2001:db8::{i:x}").parse().unwrap();
        guess(&kg, 1, ip);
    }
    assert_eq!(
        refused(&kg, &NO_HEADERS, "2001:db8::ffff".parse().unwrap()),
        Some(Reason::IpLocked)
    );
    assert_ne!(
        refused(&kg, &NO_HEADERS, "2001:db8:0:1::1".parse().unwrap()),
        Some(Reason::IpLocked)
    );
    guess(&kg, 101, "::ffff:203.0.113.5".parse().unwrap());
    assert_eq!(
        refused(&kg, &NO_HEADERS, "203.0.113.5".parse().unwrap()),
        Some(Reason::IpLocked)
    );
}

#[test]
fn requests_that_are_no_guess_do_not_count_as_failures() {
    let home = Home::new();
    let kg = home.open_with(home.config().lockout_threshold(1));
    let revoked = key(&kg);
    kg.admin().revoke_key(revoked.key.id).unwrap();
    let limited = key_limited_to(&kg, 1);
    let doubled = [("X-API-Key", "a"), ("X-API-Key", "b")];
    for _ in 0..5 {
        refused(&kg, &[("X-API-Key", revoked.raw_key.expose())], IP);
        refused(&kg, &[("X-API-Key", limited.raw_key.expose())], IP);
        refused(&kg, &doubled, IP);
        let preflight = Request::new(&PREFLIGHT, IP, "/").method("OPTIONS");
        assert!(kg.decide(preflight).unwrap().key().is_none());
        let socket = Request::new(&NO_HEADERS, ClientIp::LOCAL, "/");
        assert_eq!(kg.decide(socket).unwrap_err().reason(), Reason::MissingKey);
    }
    assert_eq!(kg.admin().list_blocks(), []);
}

#[test]
fn preflight_method_or_field_does_not_hide_a_guess() {
    let home = Home::new();
    let kg = home.open();
    let [origin, method] = PREFLIGHT;
    let with_key = [origin, method, ("X-API-Key", "guess")];
    for i in 0..101 {
        let preflight = Request::new(&with_key, IP, "/").method("OPTIONS");
        let denial = kg.decide(preflight).unwrap_err();
        assert_eq!(denial.reason(), Reason::MalformedKey, "{i}");
    }
    assert_eq!(refused(&kg, &NO_HEADERS, IP), Some(Reason::IpLocked));
    // Without both fields of a preflight request, it counts as a request without a key.
    for (headers, times) in [([origin; 2], 51), ([method; 2], 50)] {
        for _ in 0..times {
            let options = Request::new(&headers, ELSEWHERE, "/").method("OPTIONS");
            let denial = kg.decide(options).unwrap_err();
            assert_eq!(denial.reason(), Reason::MissingKey);
        }
    }
    assert_eq!(refused(&kg, &NO_HEADERS, ELSEWHERE), Some(Reason::IpLocked));
    let preflight = Request::new(&PREFLIGHT, ELSEWHERE, "/").method("OPTIONS");
    assert!(kg.decide(preflight).is_ok());
}

#[test]
fn untrusted_proxy_is_not_locked_and_causes_a_warning() {
    let home = Home::new();
    let kg = home.open_with(home.config().lockout_threshold(1));
    let forwarded = [("X-Forwarded-For", "203.0.113.1"), ("X-API-Key", "guess")];
    let proxy: IpAddr = "10.0.0.1".parse().unwrap();
    let shared: IpAddr = "100.64.0.1".parse().unwrap();
    for proxy in [proxy, shared] {
        for _ in 0..5 {
            assert_eq!(refused(&kg, &forwarded, proxy), Some(Reason::MalformedKey));
        }
        assert_eq!(kg.admin().list_blocks(), []);
        let warnings = kg.admin().stats().unwrap().warnings.join("\n");
        let line = format!("trusted_proxies = [\"{proxy}/32\"]");
        assert!(warnings.contains(&line), "{warnings}");
    }

    // Forwarding fields from a public address are no evidence.
    for _ in 0..2 {
        refused(&kg, &forwarded, IP);
    }
    assert_eq!(refused(&kg, &forwarded, IP), Some(Reason::IpLocked));
    // Manual locks apply to proxies, too.
    kg.admin().block(proxy, None, HOUR).unwrap();
    assert_eq!(refused(&kg, &forwarded, proxy), Some(Reason::IpLocked));
}

#[test]
fn lock_survives_a_restart() {
    let home = Home::new();
    let kg = home.open();
    guess(&kg, 101, IP);
    kg.close().unwrap();
    let kg = home.open();
    assert_eq!(refused(&kg, &NO_HEADERS, IP), Some(Reason::IpLocked));
    drop(kg);
    home.clock.advance(DAY);
    let kg = home.open();
    assert_eq!(refused(&kg, &NO_HEADERS, IP), Some(Reason::MissingKey));
    assert_eq!(kg.admin().list_blocks(), []);
}

#[test]
fn stored_lock_survives_a_kill() {
    if let Some(file) = child::argument() {
        let kg = KeyGuard::open(file, Config::new(crate::common::SECRET)).unwrap();
        guess(&kg, 101, IP);
        kg.flush().unwrap();
        kg.admin().block(ELSEWHERE, None, HOUR).unwrap();
        // As after a kill.
        std::process::abort();
    }
    let home = Home::new();
    let status = child::command(module_path!(), "stored_lock_survives_a_kill", home.file())
        .output()
        .unwrap()
        .status;
    assert!(!status.success());
    let kg = KeyGuard::open(home.file(), Config::new(crate::common::SECRET)).unwrap();
    assert_eq!(refused(&kg, &NO_HEADERS, IP), Some(Reason::IpLocked));
    assert_eq!(refused(&kg, &NO_HEADERS, ELSEWHERE), Some(Reason::IpLocked));
}

#[test]
fn ip_limit_refuses_and_locks() {
    let home = Home::new();
    let kg = home.open();
    let login = IpLimit::new("login", "3/min")
        .unwrap()
        .lockout(HOUR)
        .unwrap()
        .lock_all_paths();
    for _ in 0..3 {
        kg.check_ip(&login, Request::new(&(), IP, "/login"))
            .unwrap();
    }
    let denial = kg
        .check_ip(&login, Request::new(&(), IP, "/login"))
        .unwrap_err();
    assert_eq!((denial.status(), denial.reason()), (429, Reason::IpLimited));
    assert_eq!(
        denial.retry_after(),
        Some(HOUR),
        "as long as the lock, not as the window"
    );
    let fields = denial.headers();
    assert_eq!(
        crate::common::field(&fields, "RateLimit-Policy"),
        Some("\"login\";q=3;w=60")
    );
    assert_eq!(crate::common::field(&fields, "Retry-After"), Some("3600"));

    let denial = kg
        .check_ip(&login, Request::new(&(), IP, "/login"))
        .unwrap_err();
    assert_eq!((denial.status(), denial.reason()), (403, Reason::IpLocked));
    assert_eq!(
        refused(&kg, &NO_HEADERS, IP),
        Some(Reason::IpLocked),
        "a global lock"
    );
    kg.check_ip(&login, Request::new(&(), ELSEWHERE, "/login"))
        .unwrap();
    home.clock.advance(HOUR);
    kg.check_ip(&login, Request::new(&(), IP, "/login"))
        .unwrap();
}

#[test]
fn ip_limit_counts_the_client_behind_a_trusted_proxy() {
    let home = Home::new();
    let policy = Policy::new()
        .trusted_proxies("10.0.0.0/8")
        .require_client_ip(true);
    let kg = home.open_with(home.config().policy(policy));
    let login = IpLimit::new("login", "1/min").unwrap();
    let check = |client: &str| {
        let headers = [("X-Forwarded-For", client)];
        let proxy = IpAddr::from([10, 0, 0, 1]);
        let checked = kg.check_ip(&login, Request::new(&headers, proxy, "/login"));
        checked.map_err(|denial| denial.status())
    };
    assert_eq!(check("192.0.2.7"), Ok("192.0.2.7".parse().unwrap()));
    assert_eq!(check("192.0.2.7"), Err(429));
    // Also a client in the network of the proxies.
    for client in ["192.0.2.8", "10.0.0.9"] {
        assert_eq!(check(client), Ok(client.parse().unwrap()));
    }
    let unnamed = kg.check_ip(&login, Request::new(&(), IpAddr::from([10, 0, 0, 1]), "/"));
    assert_eq!(unnamed.unwrap_err().reason(), Reason::InvalidClientIp);
}

#[test]
fn ip_limit_consumes_the_cost_of_a_request() {
    let home = Home::new();
    let kg = home.open();
    let limit = IpLimit::new("export", "5/min").unwrap();
    let check = |cost: u32| {
        let request = Request::new(&(), IP, "/export").cost(cost.try_into().unwrap());
        let checked = kg.check_ip(&limit, request);
        checked.err().map(|denial| denial.reason())
    };
    assert_eq!(check(6), Some(Reason::CostAboveLimit));
    assert_eq!(check(3), None);
    assert_eq!(check(3), Some(Reason::IpLimited));
    assert_eq!(check(2), None);
}

#[test]
fn ip_limit_without_lockout_admits_when_the_window_has_room() {
    let home = Home::new();
    let kg = home.open();
    let search = IpLimit::new("search", "1/min").unwrap();
    kg.check_ip(&search, Request::new(&(), IP, "/search"))
        .unwrap();
    let wait = kg
        .check_ip(&search, Request::new(&(), IP, "/search"))
        .unwrap_err()
        .retry_after()
        .unwrap();
    home.clock.advance(wait - Duration::from_millis(1));
    kg.check_ip(&search, Request::new(&(), IP, "/search"))
        .unwrap_err();
    home.clock.advance(Duration::from_millis(1));
    kg.check_ip(&search, Request::new(&(), IP, "/search"))
        .unwrap();
    assert_eq!(kg.admin().list_blocks(), []);
}

#[test]
fn path_lock_covers_every_reading_of_its_path_only() {
    let home = Home::new();
    let kg = home.open();
    let created = key(&kg);
    let good = [("X-API-Key", created.raw_key.expose())];
    kg.admin().block(IP, Some("/login"), HOUR).unwrap();
    for path in [
        "/login",
        "/login/",
        "/login?x",
        "//login",
        "/%6Cogin",
        "/%256cogin",
        "/login;x",
        "/x/..;/login",
        "/login%00",
        "http://host/login",
        "/x\\..\\login",
    ] {
        let denial = kg.check(&good, IP, path).unwrap_err();
        assert_eq!(denial.reason(), Reason::IpLocked, "{path}");
    }
    for path in ["/api", "/logins", "/x?/login"] {
        kg.check(&good, IP, path).unwrap().finish(200);
    }
}

#[test]
fn ip_limit_locks_its_own_routes_by_default() {
    let home = Home::new();
    let kg = home.open();
    let created = key(&kg);
    let good = [("X-API-Key", created.raw_key.expose())];
    let limit = |name| IpLimit::new(name, "1/min").unwrap();
    let login = limit("login").lockout(HOUR).unwrap();
    kg.check_ip(&login, Request::new(&(), IP, "/login/a0"))
        .unwrap();
    kg.check_ip(&login, Request::new(&(), IP, "/login/a0"))
        .unwrap_err();
    // The lock applies to the name, for any number of paths.
    for i in 0..20 {
        let denial = kg.check_ip(&login, Request::new(&(), IP, &format!("/login/a{i}")));
        assert_eq!(denial.unwrap_err().reason(), Reason::IpLocked);
    }
    let locks = kg.admin().list_blocks();
    assert_eq!(locks.len(), 1);
    assert_eq!(locks[0].scope.to_string(), "requests under limit `login`");
    kg.check_ip(&limit("search"), Request::new(&(), IP, "/login"))
        .unwrap();
    kg.check(&good, IP, "/api").unwrap().finish(200);
    drop(kg);
    let kg = home.open();
    kg.check_ip(&login, Request::new(&(), IP, "/x"))
        .unwrap_err();
    kg.admin().unblock(IP, None).unwrap();
    kg.check_ip(&login, Request::new(&(), IP, "/x")).unwrap();
}

/// Once, the two were one manual lock that lasted as long as the automatic one.
#[test]
fn manual_lock_ends_on_time_beside_a_longer_automatic_lock() {
    let home = Home::new();
    let kg = home.open();
    guess(&kg, 101, IP);
    let automatic = kg.admin().list_blocks().remove(0);
    let manual = kg.admin().block(IP, None, HOUR).unwrap();
    assert_eq!(manual.until, home.clock.timestamp().plus(HOUR));
    assert_eq!(manual.cause, LockCause::Manual);
    let both = [automatic, manual];
    assert_eq!(kg.admin().list_blocks(), both);
    drop(kg);
    let never_lock = Policy::new().never_lock(IP.to_string());
    let kg = home.open_with(home.config().policy(never_lock));
    assert_eq!(kg.admin().list_blocks(), both);
    assert_eq!(refused(&kg, &NO_HEADERS, IP), Some(Reason::IpLocked));
    home.clock.advance(HOUR);
    assert_eq!(refused(&kg, &NO_HEADERS, IP), Some(Reason::MissingKey));
    // A manual lock also applies to a proxy, unlike an automatic one.
    let forwarded = [("X-Forwarded-For", "203.0.113.1"), ("X-API-Key", "guess")];
    let proxy: IpAddr = "10.0.0.1".parse().unwrap();
    guess(&kg, 101, proxy);
    assert_eq!(refused(&kg, &forwarded, proxy), Some(Reason::MalformedKey));
    kg.admin().block(proxy, None, HOUR).unwrap();
    assert_eq!(refused(&kg, &forwarded, proxy), Some(Reason::IpLocked));
}

#[test]
fn two_locks_in_a_network_are_not_merged_when_the_table_is_full() {
    let home = Home::new();
    let config = home.config().lockout_threshold(1).record_usage(false);
    let kg = home.open_with(config.max_locks(24));
    let lock = |ip: String| guess(&kg, 2, ip.parse().unwrap());
    lock("192.0.2.1".into());
    lock("192.0.2.2".into());
    for i in 0..13 {
        lock(format!("10.0.{i}.1"));
    }
    for i in 0..9 {
        lock(format!("203.0.113.{i}"));
    }
    assert_eq!(kg.admin().list_blocks().len(), 24);
    for i in 0..20 {
        guess(&kg, 2, format!("10.1.{i}.1").parse().unwrap());
    }
    let neighbour = "192.0.2.99".parse().unwrap();
    assert_eq!(
        refused(&kg, &NO_HEADERS, neighbour),
        Some(Reason::MissingKey)
    );
    let hostile = "203.0.113.99".parse().unwrap();
    assert_eq!(refused(&kg, &NO_HEADERS, hostile), Some(Reason::IpLocked));
}

#[test]
fn automatic_lock_without_room_is_counted_and_evicts_none() {
    let home = Home::new();
    let config = home.config().lockout_threshold(1).max_locks(16);
    let kg = home.open_with(config);
    let created = key(&kg);
    let good = [("X-API-Key", created.raw_key.expose())];
    let address = |number: u8| IpAddr::from([10, 0, number, 1]);
    for number in 0..16 {
        guess(&kg, 2, address(number));
    }
    assert_eq!(kg.admin().stats().unwrap().rejected_locks, 0);
    guess(&kg, 2, address(16));
    let stats = kg.admin().stats().unwrap();
    assert_eq!((stats.locks, stats.rejected_locks), (16, 1));
    assert_eq!(refused(&kg, &good, address(16)), None);
    for number in 0..16 {
        assert_eq!(refused(&kg, &good, address(number)), Some(Reason::IpLocked));
    }
}

#[test]
fn manual_lock_starts_and_ends_at_once() {
    let home = Home::new();
    let kg = home.open();
    let created = key(&kg);
    let good = [("X-API-Key", created.raw_key.expose())];
    let time: LockDuration = "13:00".parse().unwrap();
    let config = home.config().time_zone("UTC");
    drop(kg);
    let kg = home.open_with(config);
    let lock = kg.admin().block(IP, None, time).unwrap();
    assert_eq!(
        lock.until,
        home.clock.timestamp().plus(HOUR),
        "the clock stands at noon"
    );
    assert_eq!(refused(&kg, &good, IP), Some(Reason::IpLocked));
    // A shorter lock does not shorten it, in memory or in the file.
    let second = kg.admin().block(IP, None, "1s");
    assert_eq!(second.unwrap().until, lock.until);
    drop(kg);
    let kg = home.open();
    assert_eq!(kg.admin().list_blocks()[0].until, lock.until);
    home.clock.advance(Duration::from_secs(2));
    assert_eq!(refused(&kg, &good, IP), Some(Reason::IpLocked));

    let ip_key: IpKey = IP.to_string().parse().unwrap();
    assert_eq!(kg.admin().unblock(ip_key, None).unwrap().len(), 1);
    assert_eq!(refused(&kg, &good, IP), None);
    assert!(matches!(
        kg.admin().unblock(ip_key, None),
        Err(AdminError::LockNotFound { .. })
    ));
    drop(kg);
    assert_eq!(home.open().admin().list_blocks(), []);
}

#[test]
fn unblocking_clears_the_failures() {
    let home = Home::new();
    let kg = home.open();
    guess(&kg, 101, IP);
    kg.admin().unblock(IP, None).unwrap();
    guess(&kg, 100, IP);
    assert_eq!(kg.admin().list_blocks(), []);
}

#[test]
fn local_socket_cannot_be_blocked() {
    let home = Home::new();
    let kg = home.open();
    let invalid = |outcome| matches!(outcome, Err(AdminError::Invalid(_)));
    assert!(invalid(
        kg.admin().block(ClientIp::LOCAL, None, HOUR).map(drop)
    ));
    assert_eq!(kg.admin().list_blocks(), []);
}

#[test]
fn dry_run_sees_locks_and_counts_no_failure() {
    let home = Home::new();
    let kg = home.open_with(home.config().lockout_threshold(1));
    for _ in 0..5 {
        let verdict = kg.dry_run(Request::new(&NO_HEADERS, IP, "/"));
        assert_eq!(verdict.denial.unwrap().reason(), Reason::MissingKey);
    }
    kg.admin().block(IP, None, HOUR).unwrap();
    let verdict = kg.dry_run(Request::new(&NO_HEADERS, IP, "/"));
    assert_eq!(verdict.denial.unwrap().reason(), Reason::IpLocked);
}

/// The reason of a refusal of a request through a peer that reports a client.
fn through(kg: &KeyGuard, peer: IpAddr, client: &str, key: &str) -> Option<Reason> {
    refused(kg, &[("X-Forwarded-For", client), ("X-API-Key", key)], peer)
}

/// Once, failed authentications behind an unconfigured CDN locked out all of its clients for a day.
#[test]
fn unconfigured_public_proxy_is_detected_and_not_locked() {
    let home = Home::new();
    let kg = home.open_with(home.config().lockout_threshold(3));
    let texts = [key_of(&kg, "acme"), key_of(&kg, "globex")];
    let client = |number: usize| format!("203.0.113.{number}");
    for round in 0..20 {
        assert_eq!(
            through(&kg, IP, &client(round), "guess"),
            Some(Reason::MalformedKey)
        );
        assert_eq!(
            through(&kg, IP, &client(100 + round % 2), &texts[round % 2]),
            None
        );
    }
    assert_eq!(kg.admin().list_blocks(), []);
    let warnings = kg.admin().stats().unwrap().warnings.join("\n");
    let line = format!("trusted_proxies = [\"{IP}/32\"]");
    assert!(warnings.contains(&line), "{warnings}");
    // It can be locked manually.
    kg.admin().block(IP, None, HOUR).unwrap();
    assert_eq!(
        through(&kg, IP, "203.0.113.1", &texts[0]),
        Some(Reason::IpLocked)
    );
}

#[test]
fn forged_forwarding_headers_do_not_prevent_a_lock() {
    let home = Home::new();
    let kg = home.open_with(home.config().lockout_threshold(3));
    let keys = [key(&kg), key(&kg)];
    let texts = keys.each_ref().map(|key| key.raw_key.expose());
    let forged = |number: usize| format!("203.0.113.{number}");
    // Without a key; with one key and any headers; and beside clients that send no headers.
    let office: IpAddr = "198.51.100.2".parse().unwrap();
    for number in 0..4 {
        through(&kg, IP, &forged(number), "guess");
        through(&kg, ELSEWHERE, &forged(number), "guess");
        through(&kg, ELSEWHERE, &forged(number), texts[0]);
        through(&kg, office, &forged(number), "guess");
        refused(&kg, &[("X-API-Key", texts[number % 2])], office);
    }
    for peer in [IP, ELSEWHERE, office] {
        assert_eq!(
            through(&kg, peer, "203.0.113.9", texts[0]),
            Some(Reason::IpLocked),
            "{peer}"
        );
    }
    let warnings = kg.admin().stats().unwrap().warnings.join("\n");
    assert!(
        warnings.contains(&format!("{IP} failed to authenticate")),
        "{warnings}"
    );
}

#[test]
fn locked_proxy_is_still_detected() {
    let home = Home::new();
    let config = home.config().lockout_threshold(3);
    let kg = home.open_with(config.clone());
    let texts = [key_of(&kg, "acme"), key_of(&kg, "globex")];
    for number in 0..4 {
        through(&kg, IP, &format!("203.0.113.{number}"), "guess");
    }
    kg.close().unwrap();
    let kg = home.open_with(config);
    let locked = Some(Reason::IpLocked);
    assert_eq!(through(&kg, IP, "203.0.113.1", &texts[0]), locked);
    // Look-ups of keys from a locked address are rate-limited.
    assert_eq!(through(&kg, IP, "203.0.113.2", &texts[1]), locked);
    home.clock.advance(Duration::from_millis(10));
    assert_eq!(through(&kg, IP, "203.0.113.2", &texts[1]), locked);
    assert_eq!(through(&kg, IP, "203.0.113.2", &texts[1]), None);
    assert_eq!(through(&kg, IP, "203.0.113.1", &texts[0]), None);
}

/// Once, a forged hop before the client's own address counted as a client behind it.
#[test]
fn headers_of_a_client_of_a_trusted_proxy_reveal_no_proxy() {
    let home = Home::new();
    let policy = "trusted_proxies = [\"10.0.0.0/8\"]\n[lockout]\nthreshold = 3";
    let kg = home.open_with(home.config().policy(policy.parse().unwrap()));
    let keys = [key_of(&kg, "acme"), key_of(&kg, "globex")];
    let nginx: IpAddr = "10.0.0.1".parse().unwrap();
    let chain = |client: usize| format!("203.0.113.{client}, 198.51.100.9");
    for round in 0..4 {
        through(&kg, nginx, &chain(round), "guess");
        through(&kg, nginx, &chain(100 + round), &keys[round % 2]);
    }
    for round in 0..4 {
        home.clock.advance(Duration::from_secs(1));
        assert_eq!(
            through(&kg, nginx, &chain(100 + round), &keys[round % 2]),
            Some(Reason::IpLocked)
        );
    }
    // The warning leaves the decision to an administrator.
    let warnings = kg.admin().stats().unwrap().warnings.join("\n");
    assert!(
        warnings.contains(r#"trusted_proxies = ["198.51.100.9/32"]"#),
        "{warnings}"
    );
}

/// Creates an organization with a key.
fn key_of(kg: &KeyGuard, org: &str) -> String {
    kg.admin().create_org(org).unwrap();
    let created = kg.admin().create_key(CreateKey::new(org, "label")).unwrap();
    created.raw_key.expose().to_owned()
}

/// Has an address detected as a proxy: keys of two organizations are accepted through it.
fn is_found(kg: &KeyGuard, peer: IpAddr, keys: &[String; 2]) {
    through(kg, peer, "203.0.113.1", "guess");
    for (number, key) in keys.iter().enumerate() {
        let client = format!("203.0.113.{}", 100 + number);
        assert_eq!(through(kg, peer, &client, key), None);
    }
}

/// Once, a client with two keys could have its own address detected as a proxy with forged headers.
#[test]
fn keys_of_one_organization_reveal_no_proxy() {
    let home = Home::new();
    let kg = home.open_with(home.config().lockout_threshold(3));
    let keys = [key(&kg), key(&kg)];
    for number in 0..4 {
        through(&kg, IP, &format!("203.0.113.{number}"), "guess");
        let text = keys[number % 2].raw_key.expose();
        through(&kg, IP, &format!("198.51.100.{number}"), text);
    }
    let locked = Some(Reason::IpLocked);
    for number in 0..4 {
        home.clock.advance(Duration::from_secs(1));
        let text = keys[number % 2].raw_key.expose();
        assert_eq!(
            through(&kg, IP, &format!("198.51.100.{number}"), text),
            locked
        );
    }
}

/// Once, a detected proxy was exempt from all automatic locks.
#[test]
fn detected_proxy_is_locked_by_a_route_limit() {
    let home = Home::new();
    let policy = r#"
        [lockout]
        threshold = 3
        [[route]]
        name = "login"
        path = "POST /login"
        protect = false
        ip_limits = ["3/min"]
        lockout = "5 hours"
    "#;
    let kg = home.open_with(home.config().policy(policy.parse().unwrap()));
    let keys = [key_of(&kg, "acme"), key_of(&kg, "globex")];
    let login = |ip| {
        let request = Request::new(&NO_HEADERS, ip, "/login").method("POST");
        kg.decide(request).err().map(|denial| denial.reason())
    };
    let (limited, locked) = (Some(Reason::IpLimited), Some(Reason::IpLocked));
    // Locked before it is detected.
    let logins = [login(IP), login(IP), login(IP), login(IP), login(IP)];
    assert_eq!(logins, [None, None, None, limited, locked]);
    is_found(&kg, IP, &keys);
    assert_eq!(login(IP), locked);
    // Detected before it is locked.
    is_found(&kg, ELSEWHERE, &keys);
    for number in 0..9 {
        through(&kg, ELSEWHERE, &format!("203.0.113.{number}"), "guess");
    }
    assert_eq!(through(&kg, ELSEWHERE, "203.0.113.1", &keys[0]), None);
    let logins = [ELSEWHERE; 5].map(login);
    assert_eq!(logins, [None, None, None, limited, locked]);

    // An `IpLimit` of the application.
    let limit = IpLimit::new("sign-up", "1/hour").unwrap();
    let limit = limit.lockout(HOUR).unwrap();
    let sign_ups = [ELSEWHERE; 3].map(|ip| {
        let checked = kg.check_ip(&limit, Request::new(&(), ip, "/sign-up"));
        checked.err().map(|denial| denial.reason())
    });
    assert_eq!(sign_ups, [None, limited, locked]);
}

/// A longer lock by failed authentications, which does not apply to a proxy, hides no lock that does.
#[test]
fn limit_lock_applies_beside_a_longer_failure_lock() {
    let home = Home::new();
    let kg = home.open_with(home.config().lockout_threshold(3));
    let keys = [key_of(&kg, "acme"), key_of(&kg, "globex")];
    for number in 0..4 {
        through(&kg, IP, &format!("203.0.113.{number}"), "guess");
    }
    let limit = IpLimit::new("all", "1/hour").unwrap();
    let limit = limit.lockout(HOUR).unwrap();
    let limit = limit.lock_all_paths();
    for number in 0..3 {
        through(&kg, IP, &format!("203.0.113.{number}"), &keys[number % 2]);
        home.clock.advance(Duration::from_secs(1));
    }
    let check = || {
        let checked = kg.check_ip(&limit, Request::new(&(), IP, "/"));
        checked.err().map(|denial| denial.reason())
    };
    assert_eq!(check(), None, "found");
    assert_eq!(check(), Some(Reason::IpLimited));
    assert_eq!(check(), Some(Reason::IpLocked));
    let admitted = through(&kg, IP, "203.0.113.1", &keys[0]);
    assert_eq!(admitted, Some(Reason::IpLocked));
}

/// Once, an address stopped being a proxy a day after its detection, regardless of its traffic.
#[test]
fn detected_proxy_stays_detected_while_it_fails() {
    let home = Home::new();
    let kg = home.open_with(home.config().lockout_threshold(3));
    let keys = [key_of(&kg, "acme"), key_of(&kg, "globex")];
    is_found(&kg, IP, &keys);
    for _ in 0..3 {
        home.clock.advance(DAY - HOUR);
        for number in 0..5 {
            through(&kg, IP, &format!("203.0.113.{number}"), "guess");
        }
        assert_eq!(through(&kg, IP, "203.0.113.1", &keys[0]), None);
    }
}

/// Once, requests without evidence used up the look-ups of those with it.
#[test]
fn keyless_requests_do_not_hide_a_locked_proxy() {
    let home = Home::new();
    let kg = home.open_with(home.config().lockout_threshold(3));
    let keys = [key_of(&kg, "acme"), key_of(&kg, "globex")];
    guess(&kg, 4, ELSEWHERE);
    for number in 0..4 {
        through(&kg, IP, &format!("203.0.113.{number}"), "guess");
    }
    let locked = Some(Reason::IpLocked);
    for (number, text) in keys.iter().enumerate() {
        home.clock.advance(Duration::from_millis(10));
        assert_eq!(refused(&kg, &[("X-API-Key", text)], ELSEWHERE), locked);
        assert_eq!(through(&kg, ELSEWHERE, "203.0.113.1", "guess"), locked);
        let client = format!("203.0.113.{number}");
        assert_eq!(through(&kg, IP, &client, text), locked);
    }
    assert_eq!(through(&kg, IP, "203.0.113.1", &keys[0]), None);
}

/// Once, the lock was stored, removed and stored again, and a repeated request reported success.
#[test]
fn block_without_room_changes_nothing() {
    let home = Home::new();
    let config = home.config().max_locks(16);
    let kg = home.open_with(config.clone());
    let block = |kg: &KeyGuard, number: u8| {
        let ip = IpAddr::from([10, 0, number, 1]);
        kg.admin().block(ip, None, DAY)
    };
    for number in 0..16 {
        block(&kg, number).unwrap();
    }
    let before = kg.admin().list_audit(Page::first().limit(100)).unwrap();
    let refused = block(&kg, 16);
    assert!(
        matches!(refused, Err(AdminError::TooManyLocks)),
        "{refused:?}"
    );
    assert_eq!(
        kg.admin().list_audit(Page::first().limit(100)).unwrap(),
        before
    );
    // An existing lock can still be renewed.
    home.clock.advance(HOUR);
    let renewed = block(&kg, 3).unwrap();
    assert_eq!(renewed.until, home.clock.timestamp().plus(DAY));
    let locks = kg.admin().list_blocks();
    kg.close().unwrap();
    assert_eq!(home.open_with(config).admin().list_blocks(), locks);
}
