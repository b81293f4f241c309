//! `keyguard serve` as a process.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::common::program::{done, keyguard, refused, run};
use crate::common::server::{HttpResponse, Server, check, connect, get, request, unconfigured};
use crate::common::wait_until;
use crate::metrics::{ADMITTED, metric};
use keyguard::{Config, CreateKey, KeyGuard};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

pub(crate) const ADMIN_KEY: &str = "an admin key of 16+ bytes";

/// Creates a data file with an organization and a key; returns the text of the key.
pub(crate) fn data_file(dir: &Path, limit: u32) -> String {
    let kg = KeyGuard::open(dir.join("keyguard.redb"), Config::default()).unwrap();
    kg.admin().create_org("acme").unwrap();
    let key = kg
        .admin()
        .create_key(
            CreateKey::new("acme", "shop")
                .rate_limit_per_minute(limit)
                .scopes(vec!["read"]),
        )
        .unwrap();
    key.raw_key.expose().to_owned()
}

/// Starts a server on a free port.
pub(crate) fn serve(dir: &Path, more: &[&str]) -> Server {
    let mut command = keyguard(dir, &["serve", "--listen", "127.0.0.1:0"]);
    command.args(more).env("KEYGUARD_ADMIN_KEY", ADMIN_KEY);
    Server::spawn(command)
}

pub(crate) fn terminate(server: &mut Server) {
    let pid = Pid::from_child(&server.child);
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

pub(crate) fn stats_of(server: &Server) -> Value {
    let stats = get(
        &server.address,
        "/admin/stats",
        &[("X-Admin-Key", ADMIN_KEY)],
    );
    assert_eq!(stats.status, 200, "{}", stats.body);
    serde_json::from_str(&stats.body).unwrap()
}

fn stats(dir: &Path) -> keyguard::Stats {
    let kg = KeyGuard::open(dir.join("keyguard.redb"), Config::default()).unwrap();
    kg.admin().stats().unwrap()
}

#[test]
fn doctor_finds_a_secret_among_the_arguments_of_the_server() {
    const SECRET: &str = "5f2c9a81d07be346a9f0c2487d1e5b3690fa7c2de81b4563";
    let dir = TempDir::new().unwrap();
    let doctor = ["doctor", "--ignore", "disk", "--json"];
    let found = |more: &[&str]| {
        let mut doctor = keyguard(dir.path(), &[more, &doctor].concat());
        let output = doctor.env("KEYGUARD_SECRET", SECRET).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let mut init = keyguard(dir.path(), &["init"]);
    init.env("KEYGUARD_SECRET", SECRET).output().unwrap();
    let mut server = serve(dir.path(), &["--secret", SECRET]);
    for more in [&[][..], &["--secret", SECRET]] {
        let found = found(more);
        let problems = found
            .matches("the secret is an argument of a process")
            .count();
        assert!(problems == 1 && !found.contains(SECRET), "{found}");
        assert!(found.contains("keyguard --secret-file FILE"), "{found}");
    }
    terminate(&mut server);
    assert_eq!(found(&[]), "{\"findings\":[]}\n");
}

#[test]
fn lock_for_wrong_admin_keys_is_found_and_ended_on_the_command_line() {
    let dir = TempDir::new().unwrap();
    data_file(dir.path(), 60);
    let server = serve(dir.path(), &[]);
    let status = |key| get(&server.address, "/admin/stats", &[("X-Admin-Key", key)]).status;
    assert!((0..10).all(|_| status("wrong") == 401));
    assert_eq!((status("wrong"), status(ADMIN_KEY)), (429, 403));
    let examined = run(dir.path(), &["doctor", "--ignore", "disk"]);
    let found = String::from_utf8(examined.stdout).unwrap();
    assert!(found.contains("then keyguard unblock ADDRESS"), "{found}");
    done(dir.path(), &["unblock", "127.0.0.1"]);
    assert_eq!(status(ADMIN_KEY), 200);
}

#[test]
fn check_endpoint_returns_verdicts() {
    let dir = TempDir::new().unwrap();
    let key = data_file(dir.path(), 2);
    let server = serve(dir.path(), &[]);
    let body = |more: Value| {
        let mut body = json!({"key": key, "ip": "192.0.2.7", "path": "/a?b", "method": "GET"});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        body
    };
    let (status, verdict) = check(&server, &body(json!({"scopes": ["read"]})));
    assert_eq!((status, &verdict["allowed"]), (200, &json!(true)));
    assert_eq!(verdict["key_id"], 1);
    assert_eq!(verdict["key_label"], "shop");
    assert_eq!(verdict["org_id"], 1);
    assert_eq!(verdict["org_name"], "acme");
    assert_eq!(verdict["remaining"], 1);
    assert_eq!(verdict["scopes"], json!(["read"]));
    assert_eq!(verdict["headers"]["X-RateLimit-Remaining"], "1");

    let (status, verdict) = check(&server, &body(json!({"scopes": ["write"]})));
    assert_eq!((status, &verdict["status"]), (200, &json!(403)));
    assert_eq!(verdict["reason"], "missing_scope");
    let (_, verdict) = check(&server, &body(json!({"cost": 3})));
    assert_eq!(verdict["status"], 400);
    assert_eq!(check(&server, &body(json!({}))).1["remaining"], 0);
    let (_, verdict) = check(&server, &body(json!({})));
    assert_eq!(verdict["status"], 429);
    let wait = verdict["retry_after"].as_u64().unwrap();
    assert_eq!(verdict["headers"]["Retry-After"], wait.to_string());
    assert_eq!(verdict["problem"]["code"], "rate_limited");
    let (_, verdict) = check(&server, &body(json!({"key": null})));
    assert_eq!(
        (&verdict["status"], &verdict["key_id"]),
        (&json!(401), &Value::Null)
    );

    for (field, wrong) in [
        ("ip", json!("nowhere")),
        ("path", json!("a")),
        ("cost", json!(0)),
        ("scopes", json!("read")),
        ("surplus", json!(1)),
    ] {
        let (status, problem) = check(&server, &body(json!({ field: wrong })));
        assert_eq!((status, &problem["field"]), (422, &json!(field)));
    }
    let metrics = get(&server.address, "/metrics", &[]);
    assert!(
        metrics
            .field("content-type")
            .starts_with("text/plain; version=0.0.4")
    );
    assert!(metrics.body.contains("\nkeyguard_active_keys 1\n"));
}

#[test]
fn browsers_must_not_guess_the_type_of_a_reply() {
    let dir = TempDir::new().unwrap();
    data_file(dir.path(), 2);
    let server = serve(dir.path(), &[]);
    let admin_key = [("X-Admin-Key", ADMIN_KEY)];
    let auth = [
        ("X-Original-URI", "/orders"),
        ("X-Original-Method", "GET"),
        ("X-Forwarded-For", "192.0.2.7"),
    ];
    for (target, fields, status, kind) in [
        ("/admin/stats", &admin_key[..], 200, "application/json"),
        ("/admin/stats", &[], 401, "application/problem+json"),
        ("/nothing", &admin_key, 404, "application/problem+json"),
        ("/auth", &auth, 401, "application/problem+json"),
        ("/openapi.json", &[], 200, "application/json"),
        ("/docs/", &[], 200, "text/html"),
        ("/readyz", &[], 200, "application/json"),
        (
            "/metrics",
            &[],
            200,
            "text/plain; version=0.0.4; charset=utf-8",
        ),
    ] {
        let reply = get(&server.address, target, fields);
        assert_eq!(
            (reply.status, reply.field("content-type")),
            (status, kind),
            "{target}"
        );
        assert_eq!(reply.field("x-content-type-options"), "nosniff", "{target}");
    }
}

#[test]
fn only_one_json_object_without_duplicate_fields_is_checked() {
    let dir = TempDir::new().unwrap();
    let key = data_file(dir.path(), 60);
    let server = serve(dir.path(), &[]);
    let post = |target: &str, kind: &str, body: &str| {
        let fields = [("Content-Type", kind)];
        request(&server.address, "POST", target, &fields, body).status
    };
    let json = |body: &str| post("/v1/check", "application/json", body);
    let good = format!(r#"{{"key": "{key}", "ip": "192.0.2.7", "path": "/"}}"#);
    for space in ["", " ", "\r\n\t"] {
        assert_eq!(json(&format!("{space}{good}{space}")), 200);
    }
    let rest = good.trim_start_matches('{');
    for twice in [
        format!(r#"{{"ip": "192.0.2.8", {rest}"#),
        format!(r#"{{"i\u0070": "192.0.2.8", {rest}"#),
        format!("{good}{good}"),
        format!("{good}]"),
        good.replace('}', ""),
    ] {
        assert_eq!(json(&twice), 400, "{twice}");
    }
    let array = format!(r#"["{key}", "192.0.2.7", null, "/", "GET", [], null]"#);
    assert_eq!(json(&array), 422);
    assert_eq!(json("null"), 422);
    assert_eq!(post("/v1/check?a=b", "application/json", &good), 422);
    assert_eq!(post("/v1/check", "text/plain", &good), 415);
    let charset = "Application/JSON; charset=utf-8";
    assert_eq!(post("/v1/check", charset, &good), 200);
}

#[test]
fn fields_of_verdicts_are_in_alphabetical_order() {
    let dir = TempDir::new().unwrap();
    let key = data_file(dir.path(), 60);
    let server = serve(dir.path(), &[]);
    let body = format!(r#"{{"key": "{key}", "ip": "192.0.2.7", "path": "/"}}"#);
    let fields = [("Content-Type", "application/json")];
    let response = request(&server.address, "POST", "/v1/check", &fields, &body);
    // A `Value` sorts its fields.
    let verdict: Value = serde_json::from_str(&response.body).unwrap();
    assert_eq!(response.body, format!("{verdict}\n"));
    assert_eq!(verdict.as_object().unwrap().len(), 12);
    assert_eq!(verdict["headers"].as_object().unwrap().len(), 4);
}

#[test]
fn rate_limit_headers_are_selected_on_the_command_line() {
    for (selected, has_x, has_ietf) in [
        ("both", true, true),
        ("x-ratelimit", true, false),
        ("ietf", false, true),
        ("none", false, false),
    ] {
        let dir = TempDir::new().unwrap();
        let key = data_file(dir.path(), 60);
        let server = serve(dir.path(), &["--rate-limit-headers", selected]);
        let asked = json!({"key": key, "ip": "192.0.2.7", "path": "/"});
        let (_, verdict) = check(&server, &asked);
        let fields = [
            ("X-API-Key", &*key),
            ("X-Original-URI", "/"),
            ("X-Original-Method", "GET"),
            ("X-Forwarded-For", "192.0.2.7"),
        ];
        let admitted = auth(&server, "GET", "/auth", &fields);
        assert_eq!(admitted.status, 200);
        for (name, is_sent) in [
            ("X-RateLimit-Limit", has_x),
            ("X-RateLimit-Remaining", has_x),
            ("RateLimit-Policy", has_ietf),
            ("RateLimit", has_ietf),
        ] {
            assert_eq!(
                verdict["headers"].get(name).is_some(),
                is_sent,
                "{selected} {name}"
            );
            assert_eq!(
                admitted.has(&name.to_lowercase()),
                is_sent,
                "{selected} {name}"
            );
        }
    }
}

#[test]
fn verdicts_are_for_trusted_peers_only() {
    let dir = TempDir::new().unwrap();
    data_file(dir.path(), 60);
    let server = serve(dir.path(), &["--trust", "10.0.0.0/8,local"]);
    for (method, target) in [
        ("POST", "/v1/check"),
        ("GET", "/auth"),
        ("GET", "/auth/x"),
        ("GET", "/metrics"),
    ] {
        let response = request(&server.address, method, target, &[], "");
        assert_eq!(response.status, 403, "{target}");
        assert!(
            response.body.contains("untrusted_peer"),
            "{}",
            response.body
        );
    }
    assert_eq!(get(&server.address, "/healthz", &[]).status, 200);
    let fields = [("X-Admin-Key", ADMIN_KEY)];
    assert_eq!(get(&server.address, "/admin/stats", &fields).status, 200);
    assert_eq!(get(&server.address, "/elsewhere", &[]).status, 404);
    let response = request(&server.address, "DELETE", "/healthz", &[], "");
    assert_eq!(
        (response.status, response.field("allow")),
        (405, "GET, HEAD")
    );
}

#[test]
fn dns_rebinding_gets_no_verdicts() {
    let dir = TempDir::new().unwrap();
    data_file(dir.path(), 60);
    let server = serve(dir.path(), &["--host", "Guard.internal"]);
    let status = |fields: &[(&str, &str)]| get(&server.address, "/metrics", fields).status;
    for own in [
        "localhost:8700",
        "127.0.0.1",
        "[::1]",
        "guard.internal:8700",
    ] {
        assert_eq!(status(&[("Host", own)]), 200, "{own}");
    }
    assert_eq!(status(&[("Host", "evil.example")]), 403);
    let foreign = [("Host", "localhost"), ("Origin", "https://evil.example")];
    assert_eq!(status(&foreign), 403);
    let fields = [
        ("Host", "evil.example"),
        ("Content-Type", "application/json"),
    ];
    let body = r#"{"ip":"192.0.2.7","path":"/"}"#;
    let response = request(&server.address, "POST", "/v1/check", &fields, body);
    assert_eq!(response.status, 403);
    assert!(response.body.contains("--host"), "{}", response.body);
    // The absolute form with another `Host`.
    let target = "http://evil.example/metrics";
    let response = get(&server.address, target, &[("Host", "localhost")]);
    assert_eq!(response.status, 400);
    assert!(
        response.body.contains("conflicting_hosts"),
        "{}",
        response.body
    );
}

#[test]
fn verdict_covers_a_client_behind_a_proxy() {
    let dir = TempDir::new().unwrap();
    data_file(dir.path(), 100);
    let policy = "protect = []\ntrusted_proxies = [\"10.0.0.0/8\"]\nclient_ip_header = \"x-real-ip\"\n\
        deny = [\"203.0.113.9\"]\n";
    fs::write(dir.path().join("policy.toml"), policy).unwrap();
    let server = serve(dir.path(), &["--policy", "policy.toml"]);
    let fields = [("Content-Type", "application/json")];
    let fetch = |client: &str| {
        let body = format!(r#"{{"ip":"10.0.0.1","path":"/"{client}}}"#);
        request(&server.address, "POST", "/v1/check", &fields, &body).body
    };
    for (client, part) in [
        ("", r#""status":200"#),
        (r#","client_ip_header":"203.0.113.8""#, r#""status":200"#),
        (
            r#","client_ip_header":"203.0.113.9""#,
            r#""reason":"ip_denied""#,
        ),
        (
            r#","client_ip_header":"nobody""#,
            r#""reason":"invalid_client_ip""#,
        ),
    ] {
        let verdict = fetch(client);
        assert!(verdict.contains(part), "{client}: {verdict}");
    }
}

/// Sends a request with these header fields to `/auth`.
fn auth(server: &Server, method: &str, target: &str, fields: &[(&str, &str)]) -> HttpResponse {
    request(&server.address, method, target, fields, "")
}

#[test]
fn headers_of_every_supported_proxy_work() {
    let dir = TempDir::new().unwrap();
    let key = data_file(dir.path(), 100);
    let policy = "protect = [\"/api\"]\n[[route]]\nname = \"w\"\npath = \"POST /api\"\n\
        scopes = [\"write\"]\n";
    fs::write(dir.path().join("policy.toml"), policy).unwrap();
    let server = serve(dir.path(), &["--policy", "policy.toml"]);
    let client = ("X-Forwarded-For", "203.0.113.9");
    let key = ("X-API-Key", key.as_str());
    type Ask<'a> = (&'a str, String, Vec<(&'a str, &'a str)>);
    let nginx = |method, uri| -> Ask<'_> {
        let fields = vec![("X-Original-URI", uri), ("X-Original-Method", method)];
        ("GET", "/auth".to_owned(), fields)
    };
    let caddy = |method, uri| -> Ask<'_> {
        let fields = vec![("X-Forwarded-Uri", uri), ("X-Forwarded-Method", method)];
        ("GET", "/auth".to_owned(), fields)
    };
    let envoy = |method, uri| -> Ask<'_> { (method, format!("/auth{uri}"), Vec::new()) };
    let proxies: [&dyn Fn(&'static str, &'static str) -> Ask<'static>; 3] =
        [&nginx, &caddy, &envoy];
    for proxy in proxies {
        let status = |method, uri, more: &[(&str, &str)]| {
            let (sent, target, mut fields) = proxy(method, uri);
            fields.push(client);
            fields.extend_from_slice(more);
            auth(&server, sent, &target, &fields)
        };
        let anonymous = status("GET", "/open?x=/api", &[]);
        assert_eq!(anonymous.status, 200);
        // Empty header fields, so that a proxy replaces those of the client.
        for unknown in ["key-id", "org-id", "org", "scopes"] {
            assert_eq!(anonymous.field(&format!("x-keyguard-{unknown}")), "");
        }
        assert_eq!(anonymous.field("x-keyguard-ip"), "203.0.113.9");
        assert_eq!(status("GET", "/api/x", &[]).status, 401);
        let admitted = status("GET", "/api/x?y=1", &[key]);
        assert_eq!(admitted.status, 200);
        assert_eq!(admitted.field("x-keyguard-key-id"), "1");
        assert_eq!(admitted.field("x-keyguard-org-id"), "1");
        assert_eq!(admitted.field("x-keyguard-org"), "acme");
        assert_eq!(admitted.field("x-keyguard-scopes"), "read");
        assert_eq!(admitted.field("x-keyguard-ip"), "203.0.113.9");
        assert!(admitted.has("x-ratelimit-remaining"));
        assert_eq!(status("POST", "/api", &[key]).status, 403);
    }

    // A full limit is 403 for nginx, and 429 for other proxies.
    let too_much = [("X-API-Key", "a"), ("x-api-key", "b")];
    let of = |(method, target, mut fields): Ask<'_>| {
        fields.push(client);
        fields.extend(too_much);
        let response = auth(&server, method, &target, &fields);
        let meant = response.field("x-keyguard-status").to_owned();
        (response.status, meant)
    };
    assert_eq!(of(nginx("GET", "/api")), (403, "400".into()));
    assert_eq!(of(caddy("GET", "/api")), (400, "400".into()));
    assert_eq!(of(envoy("GET", "/api")), (400, "400".into()));

    // Missing and conflicting values are refused, even on open paths.
    let original = ("X-Original-URI", "/open");
    let method = ("X-Original-Method", "GET");
    for fields in [
        vec![],
        vec![client],
        vec![client, method],
        vec![client, original],
        vec![original, method],
        vec![client, original, original, method],
        vec![client, original, method, ("X-Forwarded-Uri", "/api")],
        vec![client, original, method, ("X-Forwarded-Method", "POST")],
        vec![client, method, ("X-Original-URI", "open")],
        vec![client, method, ("X-Original-URI", "http://elsewhere/open")],
        // In a header field that the policy does not name.
        vec![original, method, ("Forwarded", "for=203.0.113.9")],
    ] {
        let response = auth(&server, "GET", "/auth", &fields);
        assert_eq!(response.status, 403, "{fields:?}");
        assert!(
            response.body.contains("unclear_request"),
            "{}",
            response.body
        );
    }
    let unreadable = ("X-Forwarded-For", "unknown");
    let response = auth(&server, "GET", "/auth", &[unreadable, original, method]);
    let meant = (response.status, response.field("x-keyguard-status"));
    assert_eq!(meant, (403, "400"));
    let path = format!("/open/%{}61", "25".repeat(40));
    let response = auth(
        &server,
        "GET",
        "/auth",
        &[client, ("X-Original-URI", &path), method],
    );
    let meant = (response.status, response.field("x-keyguard-status"));
    assert_eq!(meant, (403, "400"));
    let body = format!(r#"{{"ip":"192.0.2.1","path":"{path}"}}"#);
    let json = [("Content-Type", "application/json")];
    let verdict = request(&server.address, "POST", "/v1/check", &json, &body).body;
    assert!(
        verdict.contains(r#""reason":"unreadable_path""#),
        "{verdict}"
    );
    let forged = [client, original, method, ("Forwarded", "for=8.8.8.8")];
    let response = auth(&server, "GET", "/auth", &forged);
    assert_eq!(response.field("x-keyguard-ip"), "203.0.113.9");
    let both = [client, original, method];
    assert_eq!(auth(&server, "GET", "/auth", &both).status, 200);
    assert_eq!(auth(&server, "GET", "/auth/api", &both).status, 403);
    // A path of this server is not a path of the application.
    assert_eq!(auth(&server, "GET", "/authority", &both).status, 404);
}

/// Keys of two organizations from two clients show that a peer is a proxy, but not that a client named
/// by a trusted proxy is one.
#[test]
fn client_named_by_a_trusted_proxy_is_locked() {
    let dir = TempDir::new().unwrap();
    let first = data_file(dir.path(), 100);
    let second = {
        let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::default()).unwrap();
        kg.admin().create_org("other").unwrap();
        let created = kg.admin().create_key(CreateKey::new("other", "shop"));
        created.unwrap().raw_key.expose().to_owned()
    };
    fs::write(dir.path().join("policy.toml"), "[lockout]\nthreshold = 3\n").unwrap();
    let server = serve(dir.path(), &["--policy", "policy.toml"]);
    for named in ["203.0.113.19", "10.1.2.3"] {
        let fetch = |client: &str, key: &str| {
            let chain = format!("{client}, {named}");
            let fields = [
                ("X-Forwarded-Uri", "/"),
                ("X-Forwarded-Method", "GET"),
                ("X-Forwarded-For", chain.as_str()),
                ("X-API-Key", key),
            ];
            auth(&server, "GET", "/auth", &fields).status
        };
        assert_eq!(fetch("1.1.1.1", "nonsense"), 401);
        assert_eq!(fetch("1.1.1.1", &first), 200);
        assert_eq!(fetch("2.2.2.2", &second), 200);
        for _ in 0..3 {
            assert_eq!(fetch("1.1.1.1", "nonsense"), 401);
        }
        assert_eq!(fetch("2.2.2.2", &first), 403, "{named}");
    }
}

#[test]
fn client_behind_a_proxy_is_locked_and_the_proxy_is_not() {
    let dir = TempDir::new().unwrap();
    let key = data_file(dir.path(), 100);
    fs::write(dir.path().join("policy.toml"), "[lockout]\nthreshold = 3\n").unwrap();
    let server = serve(dir.path(), &["--policy", "policy.toml"]);
    let fetch = |ip: &str, key: &str| {
        let fields = [
            ("X-Forwarded-Uri", "/"),
            ("X-Forwarded-Method", "GET"),
            ("X-Forwarded-For", ip),
            ("X-API-Key", key),
        ];
        auth(&server, "GET", "/auth", &fields).status
    };
    // The same applies to a private address, because the client is known.
    for ip in ["203.0.113.9", "10.1.2.3"] {
        for _ in 0..4 {
            assert_eq!(fetch(ip, "nonsense"), 401);
        }
        assert_eq!(fetch(ip, &key), 403, "{ip}");
    }
    assert_eq!(fetch("203.0.113.10", &key), 200);
}

#[test]
fn orderly_shutdown_loses_nothing() {
    let dir = TempDir::new().unwrap();
    let key = data_file(dir.path(), 4_000_000);
    let mut server = serve(dir.path(), &[]);
    let body = json!({"key": key, "ip": "192.0.2.7", "path": "/"}).to_string();
    let head = format!(
        "POST /v1/check HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let (address, pid) = (server.address.clone(), Pid::from_child(&server.child));
    let answered: u64 = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|client| {
                let (address, head) = (&address, &head);
                scope.spawn(move || {
                    let mut stream = connect(address);
                    let mut answered = 0;
                    loop {
                        if client == 0 && answered == 100 {
                            kill_process(pid, Signal::TERM).unwrap();
                        }
                        if stream.write_all(head.as_bytes()).is_err() {
                            return answered;
                        }
                        match HttpResponse::read_from(&mut stream) {
                            Ok(response) => assert_eq!(response.status, 200),
                            Err(_) => return answered,
                        }
                        answered += 1;
                    }
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .sum()
    });
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    let stats = stats(dir.path());
    assert!(answered >= 100);
    assert_eq!((stats.requests, stats.dropped), (answered, 0));
}

#[test]
fn unix_socket_is_private_and_removed() {
    let dir = TempDir::new().unwrap();
    data_file(dir.path(), 60);
    let path = dir.path().join("http.sock");
    let place = format!("unix:{}", path.display());
    // A socket file left behind by a killed server.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let mut server = serve(dir.path(), &["--listen", &place, "--socket-mode", "660"]);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let fetch = |target: &str| {
        let mut stream = UnixStream::connect(&path).unwrap();
        let head = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        HttpResponse::read_from(&mut stream).unwrap().status
    };
    assert_eq!(fetch("/healthz"), 200);
    assert_eq!(fetch("/metrics"), 200);
    assert_eq!(fetch("/admin/stats"), 401);

    let other = TempDir::new().unwrap();
    data_file(other.path(), 60);
    let error = refused(other.path(), &["serve", "--listen", &place]);
    assert!(error.contains("cannot listen on unix:"), "{error}");
    assert_eq!(fetch("/healthz"), 200);
    terminate(&mut server);
    assert!(!path.exists());
}

/// Starts a TLS server on a free port; returns it and the certificates to trust.
fn serve_tls(dir: &TempDir, more: &[&str]) -> (Server, RootCertStore) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(dir.path().join("cert.pem"), made.cert.pem()).unwrap();
    fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let tls = ["--tls-cert", "cert.pem", "--tls-key", "key.pem"];
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    (serve(dir.path(), &[&tls, more].concat()), roots)
}

fn connect_tls(
    server: &Server,
    roots: &RootCertStore,
    protocol: Option<&str>,
) -> StreamOwned<ClientConnection, TcpStream> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots.clone())
        .with_no_client_auth();
    config.alpn_protocols = protocol.into_iter().map(Vec::from).collect();
    let client = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    StreamOwned::new(client, connect(&server.address))
}

#[test]
fn tls_uses_the_given_certificate() {
    let dir = TempDir::new().unwrap();
    data_file(dir.path(), 60);
    let (server, roots) = serve_tls(&dir, &[]);
    let mut stream = connect_tls(&server, &roots, None);
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    assert_eq!(HttpResponse::read_from(&mut stream).unwrap().status, 200);
    // A client without TLS gets no plain-text response.
    let mut plain = connect(&server.address);
    plain
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut text = Vec::new();
    let _ = plain.read_to_end(&mut text);
    assert!(!text.starts_with(b"HTTP"));
}

#[test]
fn startup_errors_name_the_remedy() {
    let dir = TempDir::new().unwrap();
    let error = refused(dir.path(), &["serve"]);
    assert!(error.contains("there is no data file"), "{error}");
    assert!(
        error.contains("next:  keyguard init --org NAME && keyguard serve "),
        "{error}"
    );
    data_file(dir.path(), 60);
    fs::write(dir.path().join("no.pem"), "nonsense").unwrap();
    let tls = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--tls-cert",
        "no.pem",
        "--tls-key",
        "no.pem",
    ];
    let error = refused(dir.path(), &tls);
    assert!(error.contains("no.pem"), "{error}");
    fs::write(dir.path().join("bad.toml"), "protekt = []").unwrap();
    let error = refused(dir.path(), &["serve", "--policy", "bad.toml"]);
    assert!(error.contains("protekt"), "{error}");
    for (file, listen) in [
        ("keyguard.redb.sock", "127.0.0.1:0"),
        ("http.sock", "unix:http.sock"),
    ] {
        let file = dir.path().join(file);
        fs::write(&file, "precious").unwrap();
        let error = refused(dir.path(), &["serve", "--listen", listen]);
        let next = format!(
            "{}    # then move it away",
            file.file_name().unwrap().display()
        );
        assert!(
            error.contains("is not a socket") && error.contains(&next),
            "{error}"
        );
        fs::remove_file(&file).unwrap();
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = taken.local_addr().unwrap().to_string();
    let error = refused(dir.path(), &["serve", "--listen", &place]);
    assert!(error.contains(&place), "{error}");
    for wrong in [
        vec!["--listen", "localhost"],
        vec!["--trust", "nowhere"],
        vec!["--socket-mode", "999"],
        vec!["--timeout", "4pmish"],
        vec!["--backend-deadline", "50"],
        vec!["--max-connections", "0"],
        vec!["--max-head", "8191"],
        vec!["--tls-cert", "no.pem"],
    ] {
        let arguments = [&["serve"], wrong.as_slice()].concat();
        let output = keyguard(dir.path(), &arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn short_secret_is_refused_on_public_addresses() {
    let dir = TempDir::new().unwrap();
    let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::new("short"));
    drop(kg.unwrap());
    let open = ["serve", "--listen", "0.0.0.0:0", "--secret", "short"];
    let error = refused(dir.path(), &open);
    assert!(
        error.contains("32 bytes") && error.contains("KEYGUARD_ADMIN_KEY"),
        "{error}"
    );
    // Served on loopback, and with an admin key.
    let mut local = keyguard(dir.path(), &["serve", "--listen", "127.0.0.1:0"]);
    local.args(["--secret", "short"]);
    drop(Server::spawn(local));
    let mut own = keyguard(dir.path(), &open);
    own.env("KEYGUARD_ADMIN_KEY", ADMIN_KEY);
    drop(Server::spawn(own));
    let mut weak = keyguard(dir.path(), &open);
    weak.env("KEYGUARD_ADMIN_KEY", "too short");
    assert_eq!(weak.output().unwrap().status.code(), Some(1));
}

#[test]
fn large_or_slow_requests_are_refused() {
    let dir = TempDir::new().unwrap();
    data_file(dir.path(), 60);
    let server = serve(dir.path(), &["--max-body", "1000"]);
    let long = "x".repeat(20_000);
    let response = get(&server.address, "/healthz", &[("X-Long", &long)]);
    assert_eq!(response.status, 431);
    let fields = [("Content-Type", "application/json")];
    let response = request(&server.address, "POST", "/v1/check", &fields, &long);
    assert_eq!(response.status, 413);
    drop(server);

    let server = serve(dir.path(), &["--timeout", "3s"]);
    let mut unfinished = connect(&server.address);
    unfinished
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: loc")
        .unwrap();
    let mut silent = connect(&server.address);
    let mut text = String::new();
    let _ = unfinished.read_to_string(&mut text);
    assert!(
        text.is_empty() || text.starts_with("HTTP/1.1 408"),
        "{text}"
    );
    text.clear();
    let _ = silent.read_to_string(&mut text);
    assert!(
        text.is_empty() || text.starts_with("HTTP/1.1 408"),
        "{text}"
    );
    let mut half = connect(&server.address);
    half.write_all(
        b"POST /v1/check HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
          Content-Length: 100\r\n\r\n{",
    )
    .unwrap();
    assert_eq!(HttpResponse::read_from(&mut half).unwrap().status, 408);
}

/// Requests the largest page until nothing more can be sent, and reads nothing.
fn send_without_reading(stream: &mut (impl Read + Write)) -> io::Result<()> {
    let fetch = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n";
    loop {
        stream.write_all(fetch)?;
    }
}

#[test]
fn clients_that_never_read_are_disconnected() {
    let (dir, tls_dir) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    data_file(dir.path(), 60);
    data_file(tls_dir.path(), 60);
    let socket = dir.path().join("http.sock");
    let place = format!("unix:{}", socket.display());
    let plain = serve(dir.path(), &["--listen", &place, "--timeout", "8s"]);
    let (tls, roots) = serve_tls(&tls_dir, &["--timeout", "8s"]);
    let minute = Some(Duration::from_secs(60));
    let cut_off = |outcome: io::Result<()>| {
        use io::ErrorKind::{BrokenPipe, ConnectionReset};
        let kind = outcome.unwrap_err().kind();
        assert!(matches!(kind, BrokenPipe | ConnectionReset), "{kind}");
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut tcp = connect(&plain.address);
            tcp.set_write_timeout(minute).unwrap();
            cut_off(send_without_reading(&mut tcp));
        });
        scope.spawn(|| {
            let mut unix = UnixStream::connect(&socket).unwrap();
            unix.set_write_timeout(minute).unwrap();
            cut_off(send_without_reading(&mut unix));
        });
        scope.spawn(|| {
            let mut stream = connect_tls(&tls, &roots, None);
            stream.sock.set_write_timeout(minute).unwrap();
            cut_off(send_without_reading(&mut stream));
        });
        // An HTTP/2 client may read everything but the response: its window stays closed.
        scope.spawn(|| {
            let mut http2 = Http2(connect_tls(&tls, &roots, Some("h2")));
            http2.start(&[0, 4, 0, 0, 0, 0]).unwrap();
            let page = "/docs/swagger-ui-bundle.js";
            http2.get(1, page, "localhost", "localhost").unwrap();
            let mut statuses = Vec::new();
            while let Ok(Some(frame)) = http2.read() {
                statuses.extend(frame.status());
            }
            assert_eq!(statuses, [200]);
        });
    });
}

#[test]
fn conflicting_host_and_authority_are_refused_over_http2() {
    let dir = TempDir::new().unwrap();
    data_file(dir.path(), 60);
    let (server, roots) = serve_tls(&dir, &[]);
    let mut http2 = Http2(connect_tls(&server, &roots, Some("h2")));
    http2.start(&[]).unwrap();
    let mut fetch = |stream, authority, host| {
        http2.get(stream, "/openapi.json", authority, host).unwrap();
        loop {
            let frame = http2.read().unwrap().expect("a response");
            if let Some(status) = frame.status() {
                return status;
            }
        }
    };
    assert_eq!(fetch(1, "localhost", "localhost"), 200);
    assert_eq!(fetch(3, "localhost", "evil.example"), 400);
    assert_eq!(fetch(5, "evil.example", "localhost"), 400);
}

/// A minimal HTTP/2 client.
struct Http2<S>(S);

struct Frame {
    kind: u8,
    payload: Vec<u8>,
}

impl Frame {
    /// Returns the status of a response, which is the first header field, in the static table of HPACK
    /// (RFC 7541, appendix A).
    fn status(&self) -> Option<u16> {
        let is_head = self.kind == 1;
        is_head.then(
            || match self.payload.iter().find(|byte| **byte & 0xe0 != 0x20) {
                Some(0x88) => 200,
                Some(0x8c) => 400,
                other => panic!("{other:?}"),
            },
        )
    }
}

impl<S: Read + Write> Http2<S> {
    fn send(&mut self, kind: u8, flags: u8, stream: u8, payload: &[u8]) -> io::Result<()> {
        let length = u8::try_from(payload.len()).unwrap();
        self.0
            .write_all(&[&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat())
    }

    fn start(&mut self, settings: &[u8]) -> io::Result<()> {
        self.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
        self.send(4, 0, 0, settings)
    }

    /// Encodes header fields for HPACK without a dynamic table and without Huffman codes.
    fn get(&mut self, stream: u8, path: &str, authority: &str, host: &str) -> io::Result<()> {
        let text = |index: &[u8], text: &str| {
            let length = u8::try_from(text.len()).unwrap();
            [index, &[length], text.as_bytes()].concat()
        };
        let fields = [
            vec![0x82, 0x87],
            text(&[4], path),
            text(&[1], authority),
            text(&[0x0f, 0x17], host),
        ];
        self.send(1, 5, stream, &fields.concat())
    }

    /// Returns the next frame; `None` at the end. Acknowledges settings and pings.
    fn read(&mut self) -> io::Result<Option<Frame>> {
        let mut head = [0; 9];
        if self.0.read(&mut head[..1])? == 0 {
            return Ok(None);
        }
        self.0.read_exact(&mut head[1..])?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut payload)?;
        let (kind, flags) = (head[3], head[4]);
        match (kind, flags & 1) {
            (4, 0) => self.send(4, 1, 0, &[])?,
            (6, 0) => self.send(6, 1, 0, &payload)?,
            _ => {}
        }
        Ok(Some(Frame { kind, payload }))
    }
}

#[test]
fn sighup_reloads_the_policy() {
    let dir = TempDir::new().unwrap();
    data_file(dir.path(), 60);
    let policy = dir.path().join("policy.toml");
    fs::write(&policy, "protect = [\"/api\"]").unwrap();
    let server = serve(dir.path(), &["--policy", "policy.toml"]);
    let allowed = |path: &str| {
        let (_, verdict) = check(&server, &json!({"ip": "192.0.2.7", "path": path}));
        verdict["allowed"].as_bool().unwrap()
    };
    assert!(!allowed("/api") && allowed("/web"));
    fs::write(&policy, "protect = [\"/web\"]").unwrap();
    kill_process(Pid::from_child(&server.child), Signal::HUP).unwrap();
    wait_until(|| allowed("/api") && !allowed("/web"));
}

/// Returns the lines of standard error.
fn errors_of(server: &mut Server) -> impl Iterator<Item = String> + use<> {
    let errors = BufReader::new(server.child.stderr.take().unwrap());
    errors.lines().map(Result::unwrap)
}

#[test]
fn sighup_does_not_end_the_server() {
    let dir = TempDir::new().unwrap();
    let key = data_file(dir.path(), 60);
    let mut server = serve(dir.path(), &[]);
    for _ in 0..3 {
        kill_process(Pid::from_child(&server.child), Signal::HUP).unwrap();
        let body = json!({"key": key, "ip": "192.0.2.7", "path": "/"});
        assert_eq!(check(&server, &body).0, 200);
    }
    terminate(&mut server);
    assert_eq!(stats(dir.path()).requests, 3, "all is stored");
}

#[test]
fn invalid_policy_is_logged_once_with_its_line() {
    let dir = TempDir::new().unwrap();
    data_file(dir.path(), 60);
    let policy = dir.path().join("policy.toml");
    fs::write(&policy, "").unwrap();
    let mut command = keyguard(dir.path(), &["serve", "--listen", "127.0.0.1:0"]);
    command
        .args(["--policy", "policy.toml"])
        .stderr(Stdio::piped());
    let mut server = Server::spawn(command);
    let errors = errors_of(&mut server);
    let warnings = || {
        let output = keyguard(dir.path(), &["stats", "--json"]).output().unwrap();
        let stats: Value = serde_json::from_slice(&output.stdout).unwrap();
        stats["warnings"].as_array().unwrap().clone()
    };
    let reload = || {
        keyguard(dir.path(), &["reload"])
            .output()
            .unwrap()
            .status
            .success()
    };

    fs::write(&policy, "\n\nfirst = 1").unwrap();
    kill_process(Pid::from_child(&server.child), Signal::HUP).unwrap();
    wait_until(|| !warnings().is_empty());
    assert!(!reload() && !reload());
    fs::write(&policy, "second = 2").unwrap();
    assert!(!reload());
    let shown = warnings();
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert!(shown[0].as_str().unwrap().contains("second"));
    fs::write(&policy, "").unwrap();
    assert!(reload());
    assert_eq!(warnings(), [json!(null); 0]);

    terminate(&mut server);
    let errors: Vec<String> = errors.collect();
    let logged = |text: &str| errors.iter().filter(|line| line.contains(text)).count();
    assert_eq!(logged("the policy in force stays"), 2, "{errors:?}");
    assert_eq!((logged("line 3"), logged("line 1")), (1, 1), "{errors:?}");
}

#[test]
fn clients_wait_for_descriptors_and_a_warning_is_logged() {
    let dir = TempDir::new().unwrap();
    data_file(dir.path(), 60);
    let serve = keyguard(dir.path(), &["serve", "--listen", "127.0.0.1:0"]);
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -n 64; exec \"$@\"", "sh"])
        .arg(serve.get_program())
        .args(serve.get_args())
        .stderr(Stdio::piped());
    let mut server = Server::spawn(unconfigured(command, dir.path()));
    let mut errors = errors_of(&mut server);
    let connections: Vec<TcpStream> = (0..80).map(|_| connect(&server.address)).collect();
    assert!(
        errors.any(|line| line.contains("could not be accepted") && line.contains("ulimit -n"))
    );
    drop(connections);
    assert_eq!(get(&server.address, "/healthz", &[]).status, 200);
}

#[test]
fn command_line_manages_keys_of_a_running_server() {
    let dir = TempDir::new().unwrap();
    let key = data_file(dir.path(), 60);
    let server = serve(dir.path(), &[]);
    let body = json!({"key": key, "ip": "192.0.2.7", "path": "/"});
    assert_eq!(check(&server, &body).1["allowed"], true);
    let output = keyguard(dir.path(), &["revoke-key", "1"]).output().unwrap();
    assert!(output.status.success());
    assert_eq!(check(&server, &body).1["reason"], "revoked_key");
    let fields = [("X-Admin-Key", ADMIN_KEY)];
    let log = get(&server.address, "/admin/audit?limit=1", &fields);
    let log: Value = serde_json::from_str(&log.body).unwrap();
    assert_eq!(log[0]["action"], "revoke_key");
    assert!(log[0]["actor"].as_str().unwrap().starts_with("user "));
}

#[test]
fn slow_connections_do_not_delay_others() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    // Fewer only if the system allows fewer file descriptors.
    let most = limit.maximum.unwrap_or(u64::MAX).saturating_sub(2_200);
    let slow = usize::try_from(most.min(10_000)).unwrap();
    assert!(slow >= 1_000, "a process may have {most} descriptors");

    let dir = TempDir::new().unwrap();
    let key = data_file(dir.path(), 4_000_000);
    let server = serve(dir.path(), &["--timeout", "10 minutes"]);
    let (first, second) = ("GET /healthz HTTP/1.1\r\nHo", "st: localhost\r\n\r\n");
    let mut slow: Vec<TcpStream> = (0..slow)
        .map(|_| {
            let mut stream = connect(&server.address);
            stream.write_all(first.as_bytes()).unwrap();
            stream
        })
        .collect();
    let body = json!({"key": key, "ip": "192.0.2.7", "path": "/"}).to_string();
    let fetch = format!(
        "POST /v1/check HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut quick: Vec<TcpStream> = (0..2_000).map(|_| connect(&server.address)).collect();
    for _ in 0..3 {
        for stream in &mut quick {
            stream.write_all(fetch.as_bytes()).unwrap();
        }
        for stream in &mut quick {
            assert_eq!(HttpResponse::read_from(stream).unwrap().status, 200);
        }
    }
    for stream in &mut slow {
        stream.write_all(second.as_bytes()).unwrap();
    }
    for stream in &mut slow {
        assert_eq!(HttpResponse::read_from(stream).unwrap().status, 200);
    }
    assert_eq!(stats_of(&server)["requests"], 6_000);
}

#[test]
fn connections_beyond_the_limit_wait() {
    let dir = TempDir::new().unwrap();
    data_file(dir.path(), 60);
    let server = serve(dir.path(), &["--max-connections", "2"]);
    let head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut first = connect(&server.address);
    let mut second = connect(&server.address);
    for stream in [&mut first, &mut second] {
        stream.write_all(head).unwrap();
        assert_eq!(HttpResponse::read_from(stream).unwrap().status, 200);
    }
    let mut third = connect(&server.address);
    third.write_all(head).unwrap();
    third
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    assert!(
        HttpResponse::read_from(&mut third).is_err(),
        "there was no room"
    );
    third
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    drop(first);
    assert_eq!(HttpResponse::read_from(&mut third).unwrap().status, 200);
}

#[test]
fn usage_log_receives_single_requests() {
    let dir = TempDir::new().unwrap();
    let key = data_file(dir.path(), 60);
    let mut server = serve(dir.path(), &["--usage-log", "usage.ndjson"]);
    let body = json!({"key": key, "ip": "192.0.2.7", "path": "/a?b", "method": "PUT"});
    assert_eq!(check(&server, &body).1["allowed"], true);
    terminate(&mut server);
    let log = fs::read_to_string(dir.path().join("usage.ndjson")).unwrap();
    let line: Value = serde_json::from_str(log.trim_end()).unwrap();
    assert_eq!(
        (&line["path"], &line["method"]),
        (&json!("/a"), &json!("PUT"))
    );
    assert_eq!(stats(dir.path()).requests, 1);
    let error = refused(dir.path(), &["serve", "--usage-log", "none/usage.ndjson"]);
    assert!(error.contains("none/usage.ndjson"), "{error}");
}

#[test]
fn sighup_reopens_the_usage_log() {
    for only in [false, true] {
        let dir = TempDir::new().unwrap();
        let key = data_file(dir.path(), 60);
        let mut options = vec!["--usage-log", "usage.ndjson"];
        options.extend(only.then_some("--usage-sink-only"));
        let mut server = serve(dir.path(), &options);
        let fetch = |key: &str| {
            check(
                &server,
                &json!({"key": key, "ip": "192.0.2.7", "path": "/"}),
            )
        };
        let log = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap_or_default();
        fetch(&key);
        wait_until(|| !log("usage.ndjson").is_empty());
        let rotated = dir.path().join("usage.ndjson.1");
        fs::rename(dir.path().join("usage.ndjson"), rotated).unwrap();
        kill_process(Pid::from_child(&server.child), Signal::HUP).unwrap();
        // The signal is on its way.
        wait_until(|| {
            fetch("nonsense");
            !log("usage.ndjson").is_empty()
        });
        terminate(&mut server);
        assert!(log("usage.ndjson.1").contains(r#""key_id":1,"#));
        assert!(log("usage.ndjson").contains(r#""key_id":null,"#));
        let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::default()).unwrap();
        let kept = kg.admin().list_usage(keyguard::ListUsage::new()).unwrap();
        assert_eq!(kept.len(), usize::from(!only));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn metrics_work_while_the_usage_log_is_not_writable() {
    let dir = TempDir::new().unwrap();
    let key = data_file(dir.path(), 60);
    let server = serve(dir.path(), &["--usage-log", "/dev/full"]);
    let body = json!({"key": key, "ip": "192.0.2.7", "path": "/"});
    assert_eq!(check(&server, &body).1["allowed"], true);
    wait_until(|| {
        metric(&server, "keyguard_usage_sink_failures_total") > 0.0
            && metric(&server, ADMITTED) == 1.0
    });
    let stats = stats_of(&server);
    assert!(stats.to_string().contains("usage sink"), "{stats}");
}

#[test]
fn requests_in_flight_at_shutdown_are_answered() {
    let dir = TempDir::new().unwrap();
    let key = data_file(dir.path(), 60);
    let mut server = serve(dir.path(), &[]);
    let body = json!({"key": key, "ip": "192.0.2.7", "path": "/"}).to_string();
    let (first, second) = body.split_at(10);
    let mut stream = connect(&server.address);
    let head = format!(
        "POST /v1/check HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Expect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(first.as_bytes()).unwrap();
    kill_process(Pid::from_child(&server.child), Signal::TERM).unwrap();
    // New connections are refused from then on.
    wait_until(|| TcpStream::connect(&server.address).is_err());
    stream.write_all(second.as_bytes()).unwrap();
    let response = HttpResponse::read_from(&mut stream).unwrap();
    assert_eq!(
        (response.status, response.field("connection")),
        (200, "close")
    );
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    assert_eq!(stats(dir.path()).requests, 1);
}

/// The terminal shows a table instead.
#[test]
fn demo_prints_requests_and_leaves_nothing_behind() {
    let dir = TempDir::new().unwrap();
    let mut command = keyguard(dir.path(), &["demo", "--listen", "127.0.0.1:0"]);
    command.env("TMPDIR", dir.path()).stdout(Stdio::piped());
    let mut demo = command.spawn().unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    let mut next = |start: &str| {
        let mut lines = lines.by_ref().map(Result::unwrap);
        lines
            .find(|line| line.trim_start().starts_with(start))
            .unwrap()
    };
    let key = next("kg_live_").trim().to_owned();
    let revocation = next("keyguard --db");
    let address = next("listening on ")["listening on ".len()..].to_owned();

    assert_eq!(get(&address, "/", &[]).status, 401);
    assert!(next("20").contains("\t401\tGET\t/\t-\t127.0.0.1\tmissing_key"));
    let key = ("X-API-Key", key.as_str());
    assert_eq!(get(&address, "/", &[key]).body, "Hello, demo!\n");
    for _ in 1..5 {
        assert_eq!(get(&address, "/", &[key]).status, 200);
    }
    assert_eq!(get(&address, "/", &[key]).status, 429);
    let db = revocation.split_whitespace().nth(2).unwrap();
    done(dir.path(), &["--db", db, "revoke-key", "1"]);
    assert_eq!(get(&address, "/", &[key]).status, 401);

    kill_process(Pid::from_child(&demo), Signal::INT).unwrap();
    assert_eq!(demo.wait().unwrap().code(), Some(0));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// A terminal that is closed sends SIGHUP.
#[test]
fn demo_leaves_nothing_behind_in_a_closed_terminal() {
    let dir = TempDir::new().unwrap();
    let mut command = keyguard(dir.path(), &["demo", "--listen", "127.0.0.1:0"]);
    command.env("TMPDIR", dir.path());
    let mut demo = Server::spawn(command);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    kill_process(Pid::from_child(&demo.child), Signal::HUP).unwrap();
    assert_eq!(demo.child.wait().unwrap().code(), Some(0));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// The directory once came before the handlers of signals.
#[test]
fn demo_leaves_nothing_behind_if_it_is_stopped_at_its_start() {
    let dir = TempDir::new().unwrap();
    let mut command = keyguard(dir.path(), &["demo", "--listen", "127.0.0.1:0"]);
    command.env("TMPDIR", dir.path()).stdout(Stdio::null());
    let mut demo = command.spawn().unwrap();
    while fs::read_dir(dir.path()).unwrap().count() == 0 {
        assert!(demo.try_wait().unwrap().is_none(), "it ended early");
        std::thread::yield_now();
    }
    kill_process(Pid::from_child(&demo), Signal::TERM).unwrap();
    assert_eq!(demo.wait().unwrap().code(), Some(0));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
