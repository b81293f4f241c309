//! Policies from files and from code: validation, and replacement while requests run.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::{Home, SECOND, admitted_of, check, child, key};
use keyguard::{AdminError, KeyGuard, Lockout, OpenError, Page, Policy, Reason, Route};

#[test]
fn errors_name_line_field_and_expectation() {
    let route = "[[route]]\nname = \"orders\"\npath = \"/api\"\n";
    for (text, line, parts) in [
        (
            "protect = [\"api\"]",
            1,
            &["protect", "does not start with `/`"][..],
        ),
        ("\nexempt = [\"/x/*\"]", 2, &["exempt", "wildcard"]),
        (
            "protected = [\"/api\"]",
            1,
            &["unknown field `protected`", "protect"],
        ),
        (
            "trusted_proxies = [\"10.1.2.3/8\"]",
            1,
            &["trusted_proxies", "10.0.0.0/8"],
        ),
        (
            "deny = [\"example.com\"]",
            1,
            &["deny", "not an IP address"],
        ),
        (
            "key_limits = [\"10/fortnight\"]",
            1,
            &["\nkey_limits: ", "10/s"],
        ),
        (
            "key_limits = [\"10/min\", \"9/60s\"]",
            1,
            &["\nkey_limits: ", "same counter"],
        ),
        (
            "org_limits = [\"0/s\"]",
            1,
            &["\norg_limits: 0 would refuse every request"],
        ),
        (
            "org_limits = \"10/s\"",
            1,
            &["org_limits", "expected a list"],
        ),
        ("ignore_case = 1", 1, &["ignore_case", "boolean"]),
        (
            "[lockout]\nthreshold = 0",
            2,
            &["\nthreshold: expected at least 1"],
        ),
        ("[lockout]\nsteps = []", 2, &["steps", "1 to 16"]),
        ("[lockout]\nsteps = [\"soon\"]", 2, &["steps", "30 minutes"]),
        ("[lockout]\ndecay = \"0\"", 2, &["decay", "not a duration"]),
        (
            "[[route]]\nname = \"a b\"\npath = \"/x\"",
            2,
            &["name", "1 to 64 letters"],
        ),
        ("[[route]]\nname = \"a\"", 1, &["missing field `path`"]),
        (
            &format!("{route}scopes = [\"a b\"]"),
            4,
            &["scopes", "printable ASCII"],
        ),
        (
            &format!("{route}limits = [\"5 daily\"]"),
            4,
            &["\nlimits: ", "not a sliding window"],
        ),
        (
            &format!("{route}ip_limits = [\"0/s\"]"),
            4,
            &["\nip_limits: 0 would refuse every request"],
        ),
        (
            &format!("{route}lockout = \"4pmish\""),
            4,
            &["lockout", "time of day"],
        ),
        (
            &format!("{route}cost = 0"),
            4,
            &["\ncost: expected at least 1"],
        ),
        (&format!("{route}cost = -1"), 4, &["cost", "-1"]),
        (
            &format!("{route}shade = true"),
            4,
            &["unknown field `shade`", "shadow"],
        ),
        (
            &format!("{route}lockout = \"1 hour\""),
            1,
            &["lockout", "`orders`", "`ip_limits`"],
        ),
        (
            &format!("{route}limits = [\"1/s\"]\nprotect = false"),
            1,
            &["protect", "`orders` requires no key", "limits per key"],
        ),
        (
            &format!("{route}[[route]]\nname = \"b\"\npath = \"/x\"\nlockout = \"1 hour\""),
            4,
            &["lockout", "`b`", "`ip_limits`"],
        ),
        (
            &format!("{route}\n{route}"),
            5,
            &["name", "two routes are named `orders`"],
        ),
        ("route = [1]", 1, &["expected a route"]),
        ("protect = [", 1, &["unclosed array"]),
        ("deny = []\ndeny = []", 2, &["duplicate key"]),
    ] {
        let error = text.parse::<Policy>().unwrap_err().to_string();
        assert!(error.contains(&format!("line {line},")), "{text}\n{error}");
        for part in parts {
            assert!(error.contains(part), "{text}\n{error}\nlacks {part}");
        }
    }
    let dear = format!("{route}limits = [\"5/s\"]\ncost = 6")
        .parse::<Policy>()
        .unwrap_err();
    assert!(
        dear.to_string().contains("exceeds its limit `5/s`"),
        "{dear}"
    );
    let twice = format!("{route}{route}").parse::<Policy>().unwrap_err();
    assert!(twice.to_string().contains("two routes are named `orders`"));
}

/// The rest is not read, which would compare each route with all earlier ones.
#[test]
fn a_file_with_too_many_routes_is_refused_at_the_first_one_too_many() {
    let route = |n| format!("[[route]]\nname = \"r{n}\"\npath = \"/r{n}\"\n");
    let routes = |count| (0..count).map(route).collect::<String>();
    assert!(routes(1_000).parse::<Policy>().is_ok());
    let error = routes(20_000).parse::<Policy>().unwrap_err().to_string();
    assert!(error.contains("line 3001,"), "{error}");
    assert!(error.contains("expected at most 1000"), "{error}");
}

#[test]
fn invalid_values_from_code_are_reported_when_the_policy_is_installed() {
    let home = Home::new();
    let kg = home.open();
    let route = || Route::new("orders", "/api");
    let with = |route| Policy::new().route(route);
    let with_lockout = |lockout| Policy::new().lockout(lockout);
    for (policy, parts) in [
        (
            Policy::new().key_limits(["10/fortnight"]),
            &["key_limits", "10/s"][..],
        ),
        (
            Policy::new().org_limits(["10/min", "9/60s"]),
            &["org_limits", "same counter"],
        ),
        (Policy::new().protect("api"), &["protect", "`/PATH`"]),
        (Policy::new().exempt("/a/*"), &["exempt", "wildcard"]),
        (
            Policy::new().trusted_proxies("10.1.2.3/8"),
            &["trusted_proxies", "`10.0.0.0/8`"],
        ),
        (
            Policy::new().deny(["10.0.0.0/8", "x"]),
            &["deny", "`x` is not an IP address"],
        ),
        (
            Policy::new().client_ip_header("x y"),
            &["client_ip_header", "RFC 9110"],
        ),
        (
            Policy::new().nat64_prefixes(["10.0.0.0/8"]),
            &["nat64_prefixes", "2001:db8:64::/96"],
        ),
        (
            with(Route::new("a b", "/api")),
            &["name", "`a b`", "1 to 64"],
        ),
        (
            with(Route::new("orders", "api")),
            &["path", "`orders`", "`/PATH`"],
        ),
        (
            with(route().ip_limits(["3/min"]).lockout("4pmish")),
            &["lockout", "`orders`", "`4pmish` is neither"],
        ),
        (
            with(route().scopes(["a b"])),
            &["scopes", "`orders`", "printable ASCII"],
        ),
        (
            with(route().limits(["5 daily"])),
            &["limits", "`orders`", "not a sliding window"],
        ),
        (
            with(route().ip_limits(["0/s"])),
            &["ip_limits", "`orders`", "at least 1"],
        ),
        (with(route().cost(0)), &["cost", "`orders`", "at least 1"]),
        (
            with(route().limits(["5/s"]).cost(6)),
            &["cost", "`orders`", "`5/s`"],
        ),
        (
            with(route()).route(route()),
            &["name", "two routes are named `orders`"],
        ),
        (
            with_lockout(Lockout::new().threshold(0)),
            &["lockout.threshold", "at least 1"],
        ),
        (
            with_lockout(Lockout::new().steps([Duration::ZERO; 0])),
            &["lockout.steps", "1 to 16"],
        ),
        (
            with_lockout(Lockout::new().steps(["1 min", "16:00"])),
            &["lockout.steps", "is a time of day"],
        ),
        (
            with_lockout(Lockout::new().decay("soon")),
            &["lockout.decay", "`soon` is neither"],
        ),
        (
            with_lockout(Lockout::new().decay(Duration::ZERO)),
            &["lockout.decay", "1 second"],
        ),
    ] {
        let other = Home::new();
        let opened = KeyGuard::open(other.file(), other.config().policy(policy.clone()));
        assert!(matches!(opened, Err(OpenError::Policy(_))), "{policy:?}");
        assert!(!other.file().exists());
        let error = kg.admin().set_policy(policy).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{error}\nlacks {part}");
        }
    }
}

#[test]
fn invalid_policy_file_prevents_opening_and_creates_no_data_file() {
    let home = Home::new();
    let file = home.dir().join("keyguard.toml");
    let open = || KeyGuard::open(home.file(), home.config().policy_file(&file));
    let error = open().unwrap_err();
    assert!(matches!(error, OpenError::Policy(_)));
    assert!(error.to_string().contains("keyguard.toml"), "{error}");
    fs::write(&file, "protect = [\"api\"]").unwrap();
    let error = open().unwrap_err().to_string();
    assert!(
        error.contains("keyguard.toml") && error.contains("line 1"),
        "{error}"
    );
    assert!(!home.file().exists());
    fs::write(&file, "protect = [\"/api\"]").unwrap();
    open().unwrap();
}

#[test]
fn reload_applies_at_once_and_an_invalid_file_changes_nothing() {
    let home = Home::new();
    let file = home.dir().join("keyguard.toml");
    fs::write(&file, "key_limits = [\"5/min\"]").unwrap();
    let kg = home.open_with(home.config().policy_file(&file));
    let key = key(&kg);
    assert_eq!(admitted_of(&kg, &key, 9, Reason::RateLimited), 5);
    fs::write(&file, "key_limits = [\"7/min\"]").unwrap();
    kg.admin().reload().unwrap();
    assert_eq!(admitted_of(&kg, &key, 9, Reason::RateLimited), 2);
    fs::write(&file, "key_limits = [\"9/min\"").unwrap();
    let error = kg.admin().reload().unwrap_err();
    assert!(matches!(error, AdminError::Policy(_)));
    assert_eq!(admitted_of(&kg, &key, 9, Reason::RateLimited), 0);

    let without = Home::new();
    let error = without.open().admin().reload().unwrap_err();
    assert!(error.to_string().contains("policy_file"), "{error}");
}

#[test]
fn every_policy_field_can_be_added_and_removed() {
    let home = Home::new();
    let kg = home.open();
    let key = key(&kg);
    let none: [(&str, &str); 0] = [];
    let reason = || {
        kg.check(&none, crate::common::IP, "/x")
            .err()
            .map(|d| d.reason())
    };
    let missing = Some(Reason::MissingKey);
    for (policy, expected) in [
        ("protect = [\"/api\"]", None),
        ("exempt = [\"/x\"]", None),
        ("deny = [\"192.0.2.0/24\"]", Some(Reason::IpDenied)),
        ("allow = [\"10.0.0.0/8\"]", Some(Reason::IpDenied)),
        ("protect = []", None),
        (
            "[[route]]\nname = \"x\"\npath = \"/x\"\nprotect = false",
            None,
        ),
    ] {
        assert_eq!(reason(), missing);
        kg.admin().set_policy(policy.parse().unwrap()).unwrap();
        assert_eq!(reason(), expected, "{policy}");
        kg.admin().set_policy(Policy::new()).unwrap();
    }
    assert_eq!(reason(), missing);
    let forwarded = [
        ("X-Forwarded-For", "203.0.113.9"),
        ("X-API-Key", key.raw_key.expose()),
    ];
    let client = || {
        kg.check(&forwarded, crate::common::IP, "/x")
            .unwrap()
            .ip()
            .to_string()
    };
    assert_eq!(client(), "192.0.2.7");
    kg.admin()
        .set_policy("trusted_proxies = [\"192.0.2.0/24\"]".parse().unwrap())
        .unwrap();
    assert_eq!(client(), "203.0.113.9");
}

#[test]
fn requests_succeed_while_policies_change() {
    let home = Home::new();
    let kg = home.open();
    let keys: Vec<_> = (0..4)
        .map(|_| crate::common::key_limited_to(&kg, 1_000_000))
        .collect();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for key in &keys {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    check(&kg, key).unwrap().finish(200);
                }
            });
        }
        for round in 0..100 {
            // The requests of a round are below all limits.
            home.clock.advance(Duration::from_secs(3_600));
            let policy = match round % 3 {
                0 => "",
                1 => {
                    "protect = [\"/api\"]\n[[route]]\nname = \"a\"\npath = \"/api\"\nlimits = [\"9999999/s\"]"
                }
                _ => "key_limits = [\"999999/hour\"]\ntrusted_proxies = [\"10.0.0.0/8\"]",
            };
            kg.admin().set_policy(policy.parse().unwrap()).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn threads_see_the_policy_that_was_set_last() {
    let home = Home::new();
    let kg = home.open();
    let key = crate::common::key_limited_to(&kg, 1_000_000);
    let (request, requests) = std::sync::mpsc::channel::<()>();
    let (answer, answers) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for () in requests {
                answer.send(check(&kg, &key).is_ok()).unwrap();
            }
        });
        let policies = [
            ("", true),
            ("deny = [\"192.0.2.0/24\"]", false),
            ("deny = [\"198.51.100.0/24\"]", true),
            ("deny = [\"192.0.2.0/25\"]", false),
        ];
        for (policy, is_admitted) in policies.iter().cycle().take(400) {
            kg.admin().set_policy(policy.parse().unwrap()).unwrap();
            request.send(()).unwrap();
            assert_eq!(answers.recv().unwrap(), *is_admitted, "{policy}");
        }
        drop(request);
    });
}

/// Runs in a child process, which signals itself.
#[cfg(unix)]
#[test]
fn sighup_reloads_the_policy_file() {
    if child::argument().is_none() {
        let test = "sighup_reloads_the_policy_file";
        return child::run(&mut child::command(module_path!(), test, ""));
    }
    let home = Home::new();
    let file = home.dir().join("keyguard.toml");
    fs::write(&file, "key_limits = [\"5/min\"]").unwrap();
    let config = home.config().policy_file(&file).reload_on_hangup(true);
    let kg = home.open_with(config);
    let key = key(&kg);
    assert_eq!(admitted_of(&kg, &key, 9, Reason::RateLimited), 5);
    let hang_up = |text: &str| {
        fs::write(&file, text).unwrap();
        // Delivered to this thread before the call returns.
        signal_hook::low_level::raise(signal_hook::consts::SIGHUP).unwrap();
        // The writer handles the signal before it completes a flush.
        kg.flush().unwrap();
        kg.flush().unwrap();
    };
    hang_up("key_limits = [\"7/min\"]");
    assert_eq!(admitted_of(&kg, &key, 9, Reason::RateLimited), 2);
    let entry = &kg.admin().list_audit(Page::first().limit(1)).unwrap()[0];
    assert_eq!((&*entry.actor, &*entry.action), ("program", "reload"));
    assert_eq!(entry.details["signal"], "SIGHUP");
    hang_up("key_limits = [\"9\"]");
    assert_eq!(admitted_of(&kg, &key, 9, Reason::RateLimited), 0);
    let warnings = kg.admin().stats().unwrap().warnings;
    assert!(
        warnings[0].contains("the policy in force stays"),
        "{warnings:?}"
    );
    home.clock.advance(SECOND);
}
