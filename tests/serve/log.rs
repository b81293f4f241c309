//! The log of `keyguard serve`.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::Path;

use crate::common::program::{done, keyguard, refused};
use crate::common::server::{Server, check, get, request};
use crate::common::wait_until;
use crate::metrics::metric;
use crate::server::{ADMIN_KEY, data_file, terminate};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Starts a server that logs to the file `log`.
pub(crate) fn serve(dir: &Path, more: &[&str]) -> Server {
    let log = File::create(dir.join("log")).unwrap();
    let mut command = keyguard(dir, &["serve", "--listen", "127.0.0.1:0"]);
    command.args(more).env("KEYGUARD_ADMIN_KEY", ADMIN_KEY);
    command.stderr(log);
    Server::spawn(command)
}

fn log(dir: &Path) -> String {
    fs::read_to_string(dir.join("log")).unwrap()
}

/// The events of a log of JSON lines.
pub(crate) fn events(dir: &Path) -> Vec<Value> {
    let log = log(dir);
    let lines = log.lines();
    let events = lines.map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")));
    events.collect()
}

fn named<'e>(events: &'e [Value], name: &str) -> Vec<&'e Value> {
    let found = events.iter().filter(|event| event["event"] == name);
    found.collect()
}

fn body(key: &str, path: &str) -> Value {
    json!({"key": key, "ip": "192.0.2.7", "path": path, "method": "GET"})
}

#[test]
fn start_refusals_requests_and_stop_are_logged() {
    let dir = TempDir::new().unwrap();
    let key = data_file(dir.path(), 1);
    fs::write(dir.path().join("policy.toml"), "").unwrap();
    let options = ["--policy", "policy.toml", "--log-format", "json"];
    let mut server = serve(dir.path(), &[&options[..], &["--log-requests"]].concat());
    for (key, status) in [(&*key, 200), (&key, 429), (&key, 429), ("nonsense", 401)] {
        let (_, verdict) = check(&server, &body(key, "/orders?a=b"));
        assert_eq!(verdict["status"], status);
    }
    let address = server.address.clone();
    terminate(&mut server);

    let events = events(dir.path());
    let names = events.iter().map(|event| event["event"].as_str().unwrap());
    let names: Vec<&str> = names.collect();
    assert_eq!(names[..2], ["started", "listening"]);
    assert_eq!(names[names.len() - 1], "stopped");
    assert!(names.contains(&"stopping"));
    let started = &events[0];
    assert_eq!(started["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        [&started["storage"], &started["limits"], &started["policy"]],
        ["keyguard.redb", "memory", "policy.toml"]
    );
    assert_eq!(events[1]["address"], address.as_str());
    let refused = named(&events, "refused");
    let counts = |reason: &str| {
        let of = refused.iter().filter(|event| event["reason"] == reason);
        of.map(|event| event["count"].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!((counts("rate_limited"), counts("malformed_key")), (2, 1));
    let sample = refused.iter().find(|event| event["key_id"] == 1).unwrap();
    assert_eq!([&sample["ip"], &sample["path"]], ["192.0.2.7", "/orders"]);
    let keyless = refused
        .iter()
        .find(|event| event["reason"] == "malformed_key");
    assert_eq!(keyless.unwrap()["path"], "/orders");
    let requests = named(&events, "request");
    assert_eq!(requests.len(), 4);
    assert_eq!(requests[0]["path"], "/v1/check");
    assert!(requests[0]["duration_us"].is_u64());
}

#[test]
fn errors_of_the_start_are_json_like_all_lines() {
    let dir = TempDir::new().unwrap();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--log-format", "json"];
    let failed = |more: &[&str]| {
        let error = refused(dir.path(), &[&serve[..], more].concat());
        let lines: Vec<Value> = error
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
            .collect();
        assert_eq!(named(&lines, "failed").len(), 1, "{error}");
        let line = lines[lines.len() - 1].clone();
        assert_eq!([&line["event"], &line["level"]], ["failed", "error"]);
        ["problem", "next"].map(|field| line[field].as_str().unwrap().to_owned())
    };
    let [problem, next] = failed(&["--log-level", "off"]);
    assert!(problem.starts_with("there is no data file"), "{problem}");
    assert!(next.starts_with("keyguard init --org NAME && "), "{next}");

    data_file(dir.path(), 1);
    fs::write(dir.path().join("policy.toml"), "protect = 1\n").unwrap();
    let [problem, _] = failed(&["--policy", "policy.toml"]);
    assert!(problem.contains("`policy.toml`"), "{problem}");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let [problem, _] = failed(&["--listen", &taken]);
    assert!(problem.contains(&taken), "{problem}");
}

#[test]
fn each_refusal_is_logged_on_request_and_each_wrong_admin_key() {
    let dir = TempDir::new().unwrap();
    let key = data_file(dir.path(), 1);
    let options = ["--log-format", "json", "--log-level", "debug"];
    let mut server = serve(dir.path(), &options);
    for (key, status) in [(&*key, 200), (&key, 429), (&key, 429), ("nonsense", 401)] {
        assert_eq!(check(&server, &body(key, "/orders")).1["status"], status);
    }
    let fields = [
        ("X-Original-URI", "/orders"),
        ("X-Original-Method", "GET"),
        ("X-Forwarded-For", "nonsense"),
    ];
    // For nginx, which accepts only 401 and 403.
    assert_eq!(get(&server.address, "/auth", &fields).status, 403);
    let wrong = &ADMIN_KEY[1..];
    for fields in [&[("X-Admin-Key", wrong)][..], &[]] {
        assert_eq!(get(&server.address, "/admin/orgs", fields).status, 401);
    }
    assert_eq!(metric(&server, "keyguard_admin_refused_total"), 1.0);
    terminate(&mut server);

    let events = events(dir.path());
    let decisions = named(&events, "decision");
    let reasons: Vec<_> = decisions.iter().map(|event| &event["reason"]).collect();
    assert_eq!(
        reasons,
        [
            "rate_limited",
            "rate_limited",
            "malformed_key",
            "invalid_client_ip"
        ]
    );
    assert_eq!(decisions[0]["key_id"], 1);
    let refused = named(&events, "admin_refused");
    assert_eq!(refused.len(), 1, "a missing key is no wrong one");
    assert_eq!(
        [&refused[0]["level"], &refused[0]["ip"]],
        ["warn", "127.0.0.1"]
    );
    assert!(named(&events, "request").is_empty());
    assert!(!log(dir.path()).contains(wrong));
}

#[test]
fn each_change_of_the_audit_log_is_logged() {
    let dir = TempDir::new().unwrap();
    data_file(dir.path(), 60);
    fs::write(dir.path().join("policy.toml"), "").unwrap();
    let options = ["--policy", "policy.toml", "--log-format", "json"];
    let server = serve(dir.path(), &options);
    let before = get(
        &server.address,
        "/admin/audit",
        &[("X-Admin-Key", ADMIN_KEY)],
    );
    let before: Vec<Value> = serde_json::from_str(&before.body).unwrap();
    for command in [
        &["create-org", "other"][..],
        &["create-key", "--org", "other", "--label", "till"],
        &["update-key", "2", "--label", "desk"],
        &["rotate-key", "2"],
        &["suspend-org", "other"],
        &["resume-org", "other"],
        &["update-org", "other", "--limit", "9/s"],
        &[
            "override-limit",
            "1",
            "--rule",
            "default",
            "--for",
            "1 hour",
        ],
        &["restore-limit", "1", "--rule", "default"],
        &["reset", "1"],
        &["reset", "--ip", "192.0.2.8"],
        &["block", "192.0.2.9", "--for", "1 hour"],
        &["unblock", "192.0.2.9"],
        &["revoke-key", "2"],
        &["reload"],
    ] {
        done(dir.path(), command);
    }
    let fields = [
        ("X-Admin-Key", ADMIN_KEY),
        ("Content-Type", "application/json"),
    ];
    let org = json!({"org_name": "third"}).to_string();
    let created = request(&server.address, "POST", "/admin/orgs", &fields, &org);
    assert_eq!(created.status, 201);
    // Changes nothing, so it is not logged.
    let again = request(&server.address, "POST", "/admin/orgs", &fields, &org);
    assert_eq!(again.status, 409);

    let audit = get(&server.address, "/admin/audit", &fields);
    let mut audit: Vec<Value> = serde_json::from_str(&audit.body).unwrap();
    audit.truncate(audit.len() - before.len());
    audit.reverse();
    assert!(audit.len() >= 16, "{audit:?}");
    let change = |entry: &Value| {
        let subject = entry.get("subject").unwrap_or(&Value::Null);
        let of = |name: &str| entry[name].clone();
        (
            of("action"),
            subject.clone(),
            of("actor"),
            of("ip"),
            of("details"),
        )
    };
    let audited: Vec<_> = audit.iter().map(change).collect();
    wait_until(|| named(&events(dir.path()), "changed").len() == audited.len());
    let events = events(dir.path());
    let logged: Vec<_> = named(&events, "changed").into_iter().map(change).collect();
    assert_eq!(logged, audited);
}

#[test]
fn texts_from_clients_are_escaped_and_keys_shortened() {
    for format in ["text", "json"] {
        let dir = TempDir::new().unwrap();
        let key = data_file(dir.path(), 60);
        let mut server = serve(
            dir.path(),
            &[
                "--log-format",
                format,
                "--log-level",
                "debug",
                "--log-requests",
            ],
        );
        let forged = "/a\n2026-11-26T00:00:00Z INFO changed\r\u{1b}[2J\u{9b}31m\u{202e}\u{2028}";
        check(&server, &body("nonsense", forged));
        check(&server, &body("nonsense", &format!("/{key}/b")));
        get(&server.address, &format!("/in/{key}?key={key}"), &[]);
        get(&server.address, &format!("/{}", &key[9..]), &[]);
        let fields = [
            ("X-Admin-Key", ADMIN_KEY),
            ("Content-Type", "application/json"),
        ];
        let org = json!({"org_name": "a\" status=200 \\"}).to_string();
        let created = request(&server.address, "POST", "/admin/orgs", &fields, &org);
        assert_eq!(created.status, 201);
        terminate(&mut server);

        let log = log(dir.path());
        assert!(log.contains("/in/kg_live_"), "{log}");
        for secret in [&key[20..40], &ADMIN_KEY[..10]] {
            assert!(!log.contains(secret), "{secret}: {log}");
        }
        let is_shown = |c: char| c == '\n' || c == '…' || (' '..='~').contains(&c);
        assert!(log.chars().all(is_shown), "{log}");
        for line in log.lines() {
            let start = line.trim_start_matches(r#"{"time":""#);
            assert!(start.starts_with("20") && start.contains('Z'), "{line}");
        }
        assert_eq!(
            log.matches(" INFO changed ").count(),
            usize::from(format == "text")
        );
    }
}

#[test]
fn a_level_is_the_least_that_is_logged() {
    let dir = TempDir::new().unwrap();
    data_file(dir.path(), 60);
    for (level, is_logged) in [("off", false), ("error", false), ("info", true)] {
        let mut server = serve(dir.path(), &["--log-level", level]);
        terminate(&mut server);
        assert_eq!(!log(dir.path()).is_empty(), is_logged, "{level}");
    }
}
