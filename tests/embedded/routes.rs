//! Routes: protected and exempt paths, and rules of routes, for every reading of a path.

use std::time::Duration;

use crate::common::{Home, IP, MINUTE, admitted_of, field, key_with};
use keyguard::{
    CreatedKey, Denial, Grant, IpLimit, IpTarget, KeyGuard, Policy, Reason, Request, Route,
};

const NONE: [(&str, &str); 0] = [];

fn with_scopes(kg: &KeyGuard, scopes: &[&str]) -> CreatedKey {
    key_with(kg, |key| key.scopes(scopes.iter().copied()))
}

/// Decides a request without a key.
fn anonymously(kg: &KeyGuard, method: &str, path: &str) -> Result<Grant, Denial> {
    kg.decide(Request::new(&NONE, IP, path).method(method))
}

fn check(kg: &KeyGuard, key: &CreatedKey, method: &str, path: &str) -> Result<Grant, Denial> {
    let headers = [("X-API-Key", key.raw_key.expose())];
    kg.decide(Request::new(&headers, IP, path).method(method))
}

fn reason(outcome: Result<Grant, Denial>) -> Option<Reason> {
    outcome.err().map(|denial| denial.reason())
}

#[test]
fn every_spelling_of_a_protected_path_is_protected() {
    let home = Home::new();
    let kg = home.open_under(r#"protect = ["/api"]"#);
    for path in [
        "/api",
        "/api/",
        "//api",
        "/./api",
        "/%61pi",
        "/x/../api",
        "/api/orders?x=1",
        "/%2561pi",
        "/x/%2e%2e/api",
        "/x/..%2fapi",
        "\\api",
        "/x\\..\\api",
        "/api;v=1",
        "/x;/../api",
        "/..;/api",
        "/api%00.png",
        "/%c0%afapi",
        "/x/%c0%ae%c0%ae/api",
        "/api%3Fx",
        "/x#/../api",
        "http://host/api",
        "api",
        "/%zz/../api",
        "/x//../api",
    ] {
        let missing = Some(Reason::MissingKey);
        assert_eq!(reason(anonymously(&kg, "GET", path)), missing, "{path}");
    }
    for path in [
        "/apiary",
        "/ap",
        "/files/a%25b",
        "/x/api",
        "/",
        "/%zz",
        "",
        "/API",
        "/a%70/i",
    ] {
        let grant = anonymously(&kg, "GET", path).unwrap_or_else(|d| panic!("{path}: {d}"));
        assert!(grant.key().is_none() && grant.org().is_none());
        assert!(grant.headers().is_empty());
        assert_eq!(grant.require("read").unwrap_err().status(), 403);
    }
}

#[test]
fn paths_are_case_sensitive_by_default() {
    let home = Home::new();
    let kg = home.open_under("protect = [\"/api\"]\nignore_case = true");
    for path in ["/API", "/Api/x", "/%41PI"] {
        assert_eq!(
            reason(anonymously(&kg, "GET", path)),
            Some(Reason::MissingKey),
            "{path}"
        );
    }
}

#[test]
fn exemption_covers_the_exact_path_only() {
    let home = Home::new();
    let kg = home.open_under(r#"exempt = ["GET /health", "/robots.txt"]"#);
    for (method, path) in [
        ("GET", "/health"),
        ("GET", "/health?x"),
        ("POST", "/robots.txt"),
    ] {
        assert!(anonymously(&kg, method, path).is_ok(), "{method} {path}");
    }
    for (method, path) in [
        ("POST", "/health"),
        ("", "/health"),
        ("GET", "/health/"),
        ("GET", "//health"),
        ("GET", "/%68ealth"),
        ("GET", "/x/../health"),
        ("GET", "/health%2f..%2fapi"),
        ("GET", "/health;x"),
        ("GET", "/Health"),
        ("GET", "/health#"),
    ] {
        let missing = Some(Reason::MissingKey);
        assert_eq!(
            reason(anonymously(&kg, method, path)),
            missing,
            "{method} {path}"
        );
    }
    // Locks and address lists do not apply.
    kg.admin().block(IP, None, MINUTE).unwrap();
    assert!(anonymously(&kg, "GET", "/health").is_ok());
    assert_eq!(
        reason(anonymously(&kg, "GET", "/x")),
        Some(Reason::IpLocked)
    );
}

const ORDERS: &str = r#"
    protect = ["/api"]

    [[route]]
    name = "orders"
    path = "POST,PUT /api/orders"
    scopes = ["orders:write"]
    limits = ["2/min"]
    cost = 2

    [[route]]
    name = "item"
    path = "/api/orders/{id}/items"
    scopes = ["items"]
"#;

#[test]
fn all_matching_routes_apply() {
    let home = Home::new();
    let kg = home.open_under(ORDERS);
    let (reader, writer) = (with_scopes(&kg, &[]), with_scopes(&kg, &["orders:write"]));
    let lacks = Some(Reason::MissingScope);
    assert_eq!(reason(check(&kg, &reader, "GET", "/api/orders")), None);
    assert_eq!(reason(check(&kg, &reader, "POST", "/api/orders")), lacks);
    assert_eq!(
        reason(check(&kg, &reader, "POST", "/x/..%2fapi/orders")),
        lacks
    );
    // A request without a method may have any.
    assert_eq!(reason(check(&kg, &reader, "", "/api/orders")), lacks);
    assert_eq!(reason(check(&kg, &reader, "BREW", "/api/orders")), lacks);
    assert_eq!(
        reason(check(&kg, &writer, "GET", "/api/orders/7/items")),
        lacks
    );
    assert_eq!(
        reason(check(&kg, &writer, "PUT", "/api/orders/7/items")),
        lacks
    );
    let both = with_scopes(&kg, &["orders:write", "items"]);
    assert_eq!(
        reason(check(&kg, &both, "GET", "/api/orders/7/items/9")),
        None
    );
}

#[test]
fn route_limits_each_key_beside_its_own_limits() {
    let home = Home::new();
    let kg = home.open_under(&ORDERS.replace("cost = 2", ""));
    let keys = [
        with_scopes(&kg, &["orders:write"]),
        with_scopes(&kg, &["orders:write"]),
    ];
    for key in &keys {
        for expected in [None, None, Some(Reason::RateLimited)] {
            assert_eq!(reason(check(&kg, key, "POST", "/api/orders")), expected);
        }
        let denial = check(&kg, key, "POST", "/api/orders").unwrap_err();
        assert_eq!(denial.limit_name().as_deref(), Some("orders 2/min"));
        let headers = denial.headers();
        let policy = field(&headers, "RateLimit-Policy");
        assert_eq!(policy, Some(r#""orders 2/min";q=2;w=60"#));
        // Other paths have only the limits of the key.
        let grant = check(&kg, key, "GET", "/api/other").unwrap();
        assert_eq!(grant.remaining(), Some(57));
    }
    let states = kg.admin().key_limits(keys[0].key.id).unwrap();
    assert!(
        states
            .iter()
            .any(|s| s.name == "orders 2/min" && s.remaining == 0)
    );
    kg.admin()
        .reset_key(keys[0].key.id, Some("orders 2/min"))
        .unwrap();
    assert_eq!(reason(check(&kg, &keys[0], "POST", "/api/orders")), None);
}

#[test]
fn route_cost_is_the_default_of_a_request() {
    let home = Home::new();
    let kg = home.open_under(
        r#"
        [[route]]
        name = "search"
        path = "/search"
        protect = true
        cost = 7
        [[route]]
        name = "deep"
        path = "/search/deep"
        cost = 20
        "#,
    );
    let key = with_scopes(&kg, &[]);
    assert_eq!(
        check(&kg, &key, "GET", "/search").unwrap().remaining(),
        Some(53)
    );
    assert_eq!(
        check(&kg, &key, "GET", "/search/deep").unwrap().remaining(),
        Some(33)
    );
    let headers = [("X-API-Key", key.raw_key.expose())];
    let one = Request::new(&headers, IP, "/search").cost(std::num::NonZeroU32::MIN);
    assert_eq!(kg.decide(one).unwrap().remaining(), Some(32));
}

/// Once, a route that requires a key opened all other paths.
#[test]
fn route_leaves_other_paths_protected() {
    let home = Home::new();
    let missing = Some(Reason::MissingKey);
    let login = "[[route]]\nname = \"login\"\npath = \"POST /login\"\nip_limits = [\"9/min\"]\n";
    let orders = "[[route]]\nname = \"orders\"\npath = \"POST /orders\"\nlimits = [\"9/min\"]\n";
    let kg = home.open();
    for routes in ["", login, orders, &format!("{login}{orders}")] {
        kg.admin().set_policy(routes.parse().unwrap()).unwrap();
        for (method, path) in [("GET", "/billing"), ("POST", "/orders"), ("POST", "/login")] {
            assert_eq!(
                reason(anonymously(&kg, method, path)),
                missing,
                "{routes} {path}"
            );
        }
        kg.admin()
            .set_policy(format!("protect = []\n{routes}").parse().unwrap())
            .unwrap();
        for (method, path) in [("GET", "/billing"), ("POST", "/login"), ("POST", "/orders")] {
            let needs_key = path == "/orders" && routes.contains("orders");
            let expected = needs_key.then_some(Reason::MissingKey);
            assert_eq!(
                reason(anonymously(&kg, method, path)),
                expected,
                "{routes} {path}"
            );
        }
    }
    let nothing = Policy::new().protect_nothing();
    assert_eq!(nothing, "protect = []".parse().unwrap());
    kg.admin().set_policy(nothing).unwrap();
    assert_eq!(reason(anonymously(&kg, "GET", "/billing")), None);
}

#[test]
fn open_route_needs_no_key_and_keeps_limits_and_locks() {
    let home = Home::new();
    let kg = home.open_under(
        r#"
        [[route]]
        name = "login"
        path = "GET,POST /login"
        protect = false
        ip_limits = ["8/min"]
        lockout = "5 minutes"
        [[route]]
        name = "codes"
        path = "/login/codes"
        scopes = ["admin"]
        "#,
    );
    let missing = Some(Reason::MissingKey);
    for (method, path) in [
        // Other methods, an unknown one, and paths that some servers read differently.
        ("DELETE", "/login"),
        ("BREW", "/login"),
        ("", "/login"),
        ("POST", "/login/..;/admin"),
        ("POST", "/login/%2e%2e/admin"),
        ("POST", "//login"),
        ("POST", "/loginx"),
        // Another route requires a key.
        ("POST", "/login/codes"),
    ] {
        assert_eq!(
            reason(anonymously(&kg, method, path)),
            missing,
            "{method} {path}"
        );
    }
    kg.admin()
        .reset_ip("192.0.2.7".parse::<IpTarget>().unwrap())
        .unwrap();
    for (method, path) in [
        ("GET", "/login?x"),
        ("POST", "/login/"),
        ("HEAD", "/login/a"),
    ] {
        let grant = anonymously(&kg, method, path).unwrap();
        assert!(grant.key().is_none());
    }
    for _ in 0..5 {
        assert_eq!(reason(anonymously(&kg, "POST", "/login")), None);
    }
    assert_eq!(
        reason(anonymously(&kg, "POST", "/login")),
        Some(Reason::IpLimited)
    );
    assert_eq!(
        reason(anonymously(&kg, "POST", "/login")),
        Some(Reason::IpLocked)
    );
}

#[test]
fn invalid_open_route_is_refused() {
    let home = Home::new();
    let kg = home.open();
    let open = |name: &str, path: &str| Route::new(name, path).open();
    let limited = Policy::new().route(open("a", "/a").limits(["1/s"]));
    let error = kg.admin().set_policy(limited).unwrap_err().to_string();
    assert!(error.contains("limits per key"), "{error}");
    let api = Route::new("api", "POST /api").protect();
    let policy = Policy::new().route(api);
    let covered = policy.clone().route(open("in", "POST /api/login"));
    let error = kg.admin().set_policy(covered).unwrap_err();
    assert!(error.to_string().contains("route `api`"), "{error}");
    // It stays open for other methods.
    let wider = policy.route(open("in", "/api/login"));
    kg.admin().set_policy(wider).unwrap();
}

#[test]
fn route_limits_each_address_and_locks_it() {
    let home = Home::new();
    let kg = home.open_under(
        r#"
        protect = ["/api"]
        [[route]]
        name = "login"
        path = "POST /login"
        ip_limits = ["3/min", "5/hour"]
        lockout = "5 minutes"
        "#,
    );
    for _ in 0..3 {
        assert!(anonymously(&kg, "POST", "/login").unwrap().key().is_none());
    }
    let denial = anonymously(&kg, "POST", "/login").unwrap_err();
    assert_eq!((denial.reason(), denial.status()), (Reason::IpLimited, 429));
    assert_eq!(denial.limit_name().as_deref(), Some("login ip 3/min"));
    assert_eq!(denial.retry_after(), Some(5 * MINUTE));
    assert_eq!(
        reason(anonymously(&kg, "POST", "//login/")),
        Some(Reason::IpLocked)
    );
    // Only that path and that address are locked.
    assert!(anonymously(&kg, "GET", "/x").is_ok());
    let other: std::net::IpAddr = "192.0.2.8".parse().unwrap();
    assert!(kg.check(&NONE, other, "/login").is_ok());
    let states = kg
        .admin()
        .ip_limits("192.0.2.7".parse::<IpTarget>().unwrap())
        .unwrap();
    let left: Vec<_> = states
        .iter()
        .map(|s| (s.name.as_str(), s.remaining))
        .collect();
    assert_eq!(left[2..], [("login ip 3/min", 0), ("login ip 5/hour", 2)]);

    // The locks survive a restart.
    drop(kg);
    home.clock.advance(5 * MINUTE);
    let kg =
        home.open_under("[[route]]\nname = \"login\"\npath = \"/login\"\nip_limits = [\"5/hour\"]");
    for expected in [
        Some(Reason::MissingKey),
        Some(Reason::MissingKey),
        Some(Reason::IpLimited),
    ] {
        assert_eq!(reason(anonymously(&kg, "POST", "/login")), expected);
    }
    kg.admin()
        .reset_ip("192.0.2.7".parse::<IpTarget>().unwrap())
        .unwrap();
    assert_eq!(
        reason(anonymously(&kg, "POST", "/login")),
        Some(Reason::MissingKey)
    );
}

#[test]
fn route_lock_follows_the_name_not_the_path() {
    let home = Home::new();
    let policy = r#"
        protect = ["/api"]
        [[route]]
        name = "login"
        path = "/login"
        ip_limits = ["3/min"]
        lockout = "5 minutes"
        "#;
    let kg = home.open_under(policy);
    for _ in 0..4 {
        let _ = anonymously(&kg, "POST", "/login");
    }
    let locked = Some(Reason::IpLocked);
    for i in 0..19 {
        let path = format!("/login/a{i}");
        assert_eq!(reason(anonymously(&kg, "POST", &path)), locked, "{path}");
    }
    for path in [
        "/login",
        "//login",
        "/login;x",
        "/%256cogin",
        "/x/..;/login",
    ] {
        assert_eq!(reason(anonymously(&kg, "POST", path)), locked, "{path}");
    }
    assert_eq!(reason(anonymously(&kg, "POST", "/x")), None);
    drop(kg);
    let kg = home.open_under(policy);
    assert_eq!(reason(anonymously(&kg, "GET", "/login")), locked);
    let ip_key: keyguard::IpKey = "192.0.2.7".parse().unwrap();
    assert!(kg.admin().unblock(ip_key, Some("/x")).is_err());
    let ended = kg.admin().unblock(ip_key, Some("/login/x")).unwrap();
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].scope.to_string(), "requests under limit `login`");
    assert_eq!(reason(anonymously(&kg, "GET", "/login")), None);
}

#[test]
fn manual_lock_of_a_path_ignores_case_where_the_policy_does() {
    let home = Home::new();
    let kg = home.open_under("protect = [\"/api\"]\nignore_case = true");
    kg.admin().block(IP, Some("/login"), MINUTE).unwrap();
    let locked = Some(Reason::IpLocked);
    assert_eq!(reason(anonymously(&kg, "GET", "/LOGIN")), locked);
}

#[test]
fn shadow_route_reports_but_does_not_refuse() {
    let home = Home::new();
    let kg = home.open_under(
        r#"
        protect = ["/api"]
        [[route]]
        name = "next"
        path = "/next"
        scopes = ["admin"]
        limits = ["1/min"]
        ip_limits = ["4/min"]
        shadow = true
        [[route]]
        name = "orders"
        path = "/api/orders"
        scopes = ["admin"]
        shadow = true
        "#,
    );
    let key = with_scopes(&kg, &["admin"]);
    let shadow_denied = |grant: Grant| grant.shadow_denied().to_vec();
    assert_eq!(
        shadow_denied(anonymously(&kg, "GET", "/next").unwrap()),
        ["next"]
    );
    assert!(shadow_denied(check(&kg, &key, "GET", "/next").unwrap()).is_empty());
    let grant = check(&kg, &key, "GET", "/next").unwrap();
    assert_eq!(
        field(&grant.headers(), "X-KeyGuard-Shadow"),
        Some(r#""next 1/min shadow""#)
    );
    drop(grant);
    drop(anonymously(&kg, "GET", "/next").unwrap());
    assert_eq!(
        shadow_denied(anonymously(&kg, "GET", "/next").unwrap()),
        ["next ip 4/min shadow", "next"]
    );
    let unscoped = with_scopes(&kg, &[]);
    assert_eq!(
        shadow_denied(check(&kg, &unscoped, "GET", "/api/orders").unwrap()),
        ["orders"]
    );
    // Other rules are enforced.
    assert_eq!(
        reason(anonymously(&kg, "GET", "/api/orders")),
        Some(Reason::MissingKey)
    );
    // An invalid key is no failure where no key is required yet.
    let headers = [("X-API-Key", "nonsense")];
    assert!(kg.check(&headers, IP, "/next").is_ok());
    assert_eq!(
        kg.admin()
            .ip_limits("192.0.2.7".parse::<IpTarget>().unwrap())
            .unwrap()[0]
            .remaining,
        100
    );
    let counts = kg.admin().stats().unwrap().shadow_denied;
    assert_eq!(counts["next"], 4);
    assert_eq!(counts["next ip 4/min shadow"], 2);
}

/// Regression: a shadow route was listed and counted twice if the key was also refused for another
/// reason.
#[test]
fn shadow_route_is_listed_once() {
    let home = Home::new();
    let route = "[[route]]\nname = \"next\"\npath = \"/next\"\nscopes = [\"admin\"]\nshadow = true";
    let kg = home.open_under(&format!("protect = [\"/api\"]\n{route}"));
    let key = with_scopes(&kg, &[]);
    let headers = [("X-API-Key", key.raw_key.expose())];
    let costly = Request::new(&headers, IP, "/next").cost(100.try_into().unwrap());
    assert_eq!(kg.dry_run(costly).shadow_denied, ["next"]);
    assert_eq!(kg.decide(costly).unwrap().shadow_denied(), ["next"]);
    assert_eq!(kg.admin().stats().unwrap().shadow_denied["next"], 1);
}

#[test]
fn shadow_rules_are_also_counted_for_refused_requests() {
    let home = Home::new();
    let kg = home.open_under(
        "[[route]]\nname = \"r\"\npath = \"/r\"\nip_limits = [\"1/min\"]\nshadow = true",
    );
    let key = key_with(&kg, |key| key.rate_limit_per_minute(2));
    for expected in [None, None, Some(Reason::RateLimited)] {
        assert_eq!(reason(check(&kg, &key, "GET", "/r")), expected);
    }
    let counts = kg.admin().stats().unwrap().shadow_denied;
    assert_eq!(counts.values().copied().collect::<Vec<_>>(), [2]);
}

#[test]
fn policy_from_code_equals_policy_from_a_file() {
    let made = Policy::new()
        .protect("/api")
        .route(
            Route::new("orders", "POST,PUT /api/orders")
                .scopes(["orders:write"])
                .limits(["2/min"])
                .cost(2),
        )
        .route(Route::new("item", "/api/orders/*/items").scopes(["items"]));
    assert_eq!(made, ORDERS.parse().unwrap());
    let twice = Route::new("item", "/x");
    let made = made.route(twice.lockout(MINUTE));
    assert!(Home::new().open().admin().set_policy(made).is_err());
}

#[test]
fn policy_limits_apply_to_cached_keys() {
    let home = Home::new();
    let kg = home.open_under("");
    let key = with_scopes(&kg, &[]);
    assert_eq!(admitted_of(&kg, &key, 10, Reason::RateLimited), 10);
    kg.admin()
        .set_policy(
            "key_limits = [\"2/s\"]\norg_limits = [\"20/min\"]"
                .parse()
                .unwrap(),
        )
        .unwrap();
    home.clock.advance(Duration::from_secs(1));
    assert_eq!(admitted_of(&kg, &key, 10, Reason::RateLimited), 2);
    kg.admin().set_policy(Policy::new()).unwrap();
    assert_eq!(admitted_of(&kg, &key, 48, Reason::RateLimited), 48);
}

/// Once, a page with a hundred pictures with spaces in their names locked its visitors out.
#[test]
fn every_reading_below_an_open_route_is_open() {
    let home = Home::new();
    let policy = r#"
        [[route]]
        name = "open"
        path = "GET /open/*/files"
        protect = false
        [[route]]
        name = "secret"
        path = "/open/a/files/secret"
        scopes = ["read"]
    "#;
    let kg = home.open_under(policy);
    for path in [
        "/open/a/files",
        "/open/a/files/x/",
        "/open/a/files/my%20file.pdf",
        "/open/a/files/caf%C3%A9.png",
        "/open/a/files/logo%402x.png",
        "/open/a/files/a;v=1/b.css",
        "/open/a/files//x",
        "/open/a/files/x%5cy",
        "/open/b%20c/files/x",
        "/open/a/files/%D1%84",
    ] {
        assert_eq!(reason(anonymously(&kg, "GET", path)), None, "{path}");
        let other = reason(anonymously(&kg, "POST", path));
        assert_eq!(other, Some(Reason::MissingKey), "{path}");
    }
    for path in [
        "/open/a/file%20s",
        "/open/a/files%2f..%2f..%2fx",
        "/open/a/files/../../../x",
        "/open/a/files/..;/..;/x",
        "/open/a/files/x/..",
        "/open/a/files/..%20/x",
        "/open/a/files/%c0%ae%c0%ae/x",
        "/open/a/files/%u002e%u002e/x",
        "/open/a/files/%EF%BC%8E%EF%BC%8E/x",
        "/open/a/files/%ff",
        "/open//files/x",
        "//open/a/files/x",
        "/open/..%2fb/files/x",
        "/open/a%2fb/files/x",
        "/open/a/files/%73ecret",
        "/open/a/files/secret;x",
    ] {
        let outcome = reason(anonymously(&kg, "GET", path));
        assert_eq!(outcome, Some(Reason::MissingKey), "{path}");
    }
}

/// A target with too many readings.
const UNREADABLE: &str = "/%61/..;a//%2e/b\\c%2f%00#d/%c0%af%3f;x";

#[test]
fn unreadable_path_is_a_bad_request_without_counting() {
    let limited = "[[route]]\nname = \"r\"\npath = \"/r\"\nip_limits = [\"1/min\"]\n\
                   limits = [\"1/min\"]\nlockout = \"1 hour\"";
    for policy in [r#"protect = ["/api"]"#, r#"exempt = ["/health"]"#, limited] {
        let home = Home::new();
        let kg = home.open_under(policy);
        let key = with_scopes(&kg, &[]);
        for _ in 0..150 {
            for denied in [
                check(&kg, &key, "GET", UNREADABLE),
                anonymously(&kg, "POST", UNREADABLE),
            ] {
                let denial = denied.unwrap_err();
                let said = (denial.status(), denial.reason().to_string());
                assert_eq!(said, (400, "unreadable_path".to_owned()), "{policy}");
            }
        }
        let foreseen = kg.dry_run(Request::new(&NONE, IP, UNREADABLE));
        let reason = foreseen.denial.map(|denial| denial.reason().to_string());
        assert_eq!(reason.as_deref(), Some("unreadable_path"), "{policy}");
        assert!(!foreseen.key_checked && foreseen.rules.is_empty());
        // Only refusals are counted: no failed authentication, lock or limit.
        assert!(check(&kg, &key, "GET", "/r").is_ok(), "{policy}");
        assert!(kg.admin().list_blocks().is_empty());
        let refused = kg.admin().stats().unwrap().refused.into_iter();
        let refused: Vec<_> = refused.map(|(r, count)| (r.to_string(), count)).collect();
        assert_eq!(refused, [("unreadable_path".to_owned(), 300)]);
    }
}

#[test]
fn unreadable_path_is_accepted_without_path_rules() {
    for (policy, missing) in [("", Some(Reason::MissingKey)), ("protect = []", None)] {
        let home = Home::new();
        let kg = home.open_under(policy);
        let key = with_scopes(&kg, &[]);
        assert!(check(&kg, &key, "GET", UNREADABLE).is_ok());
        assert_eq!(reason(anonymously(&kg, "GET", UNREADABLE)), missing);
    }
}

#[test]
fn unreadable_path_is_a_bad_request_under_a_path_lock() {
    let home = Home::new();
    let kg = home.open_under("");
    let key = with_scopes(&kg, &[]);
    kg.admin().block(IP, Some("/login"), "1 hour").unwrap();
    let denial = check(&kg, &key, "GET", UNREADABLE).unwrap_err();
    assert_eq!(denial.reason().to_string(), "unreadable_path");
    assert_eq!(
        reason(check(&kg, &key, "GET", "/login")),
        Some(Reason::IpLocked)
    );
    let headers = [("X-API-Key", key.raw_key.expose())];
    let other = std::net::IpAddr::from([192, 0, 2, 99]);
    assert!(kg.check(&headers, other, UNREADABLE).is_ok());
    let login = IpLimit::new("login", "3/min").unwrap();
    let denial = kg
        .check_ip(&login, Request::new(&(), IP, UNREADABLE))
        .unwrap_err();
    assert_eq!(denial.reason().to_string(), "unreadable_path");
    // A lock of all paths refuses this one as well.
    kg.admin().block(IP, None, "1 hour").unwrap();
    let locked = Some(Reason::IpLocked);
    assert_eq!(reason(check(&kg, &key, "GET", UNREADABLE)), locked);
    let denial = kg
        .check_ip(&login, Request::new(&(), IP, UNREADABLE))
        .unwrap_err();
    assert_eq!(denial.reason(), Reason::IpLocked);
}
