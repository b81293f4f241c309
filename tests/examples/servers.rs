//! The examples that are HTTP servers.

use crate::common::server::{HttpResponse, Server, example, get};
use keyguard::{Config, KeyGuard};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Runs a test with each example.
fn each(test: impl Fn(&str, &TempDir, Server)) {
    for name in ["hyper", "axum"] {
        let dir = TempDir::new().unwrap();
        let server = start(name, &dir);
        test(name, &dir, server);
    }
}

fn start(name: &str, dir: &TempDir) -> Server {
    let mut command = example(name, dir.path());
    command.arg("127.0.0.1:0");
    Server::spawn(command)
}

#[test]
fn servers_admit_only_valid_keys() {
    each(|name, dir, mut server| {
        let key = server.printed_key().expect("a key is printed");
        assert_eq!(server.get("/health", None).status, 200, "{name}");
        let missing = server.get("/api/data", None);
        assert_eq!(missing.status, 401, "{name}");
        assert_eq!(missing.field("content-type"), "application/problem+json");
        assert_eq!(server.get("/api/data", Some("nonsense")).status, 401);
        let admitted = server.get("/api/data?page=2", Some(&key));
        assert_eq!(admitted.status, 200, "{name}");
        assert_eq!(admitted.body, r#"{"message":"Hello, demo!"}"#);
        assert_eq!(admitted.field("x-ratelimit-remaining"), "59");
        let unscoped = server.get("/api/write", Some(&key));
        assert_eq!(unscoped.status, 403, "{name}");
        assert!(unscoped.body.contains("missing_scope"));
        for left in (0..58).rev() {
            let admitted = server.get("/api/data", Some(&key));
            assert_eq!(admitted.status, 200, "{name}");
            assert_eq!(admitted.field("x-ratelimit-remaining"), left.to_string());
        }
        let limited = server.get("/api/data", Some(&key));
        assert_eq!(limited.status, 429, "{name}");
        let wait: u64 = limited.field("retry-after").parse().unwrap();
        assert!((1..=60).contains(&wait));
        assert_eq!(server.get("/elsewhere", None).status, 404, "{name}");

        // An orderly stop loses nothing.
        kill_process(Pid::from_child(&server.child), Signal::TERM).unwrap();
        assert_eq!(server.child.wait().unwrap().code(), Some(0), "{name}");
        let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::default()).unwrap();
        let stats = kg.admin().stats().unwrap();
        assert_eq!((stats.requests, stats.errors), (63, 4), "{name}");
        drop(kg);
        // The next start continues with the file.
        let again = start(name, dir);
        assert_eq!(again.printed_key(), None, "{name}");
        assert_eq!(again.get("/api/data", Some(&key)).status, 429, "{name}");
    });
}

#[test]
fn login_limit_locks_the_login_only() {
    each(|name, _, server| {
        for _ in 0..3 {
            assert_eq!(server.get("/login", None).status, 401, "{name}");
        }
        let limited = server.get("/login", None);
        assert_eq!((limited.status, limited.field("retry-after")), (429, "300"));
        assert_eq!(server.get("/login", None).status, 403, "{name}");
        assert_eq!(server.get("/health", None).status, 200, "{name}");
    });
}

#[test]
fn handler_can_lock_the_client() {
    let dir = TempDir::new().unwrap();
    let server = start("axum", &dir);
    assert_eq!(server.get("/trap", None).body, "goodbye");
    let locked = server.get("/health", None);
    assert_eq!((locked.status, locked.field("retry-after")), (403, "3600"));
}

#[test]
fn admin_service_runs_beside_the_app() {
    let dir = TempDir::new().unwrap();
    let server = start("axum", &dir);
    let fetch = |target: &str, fields: &[(&str, &str)]| -> HttpResponse {
        get(&server.address, target, fields)
    };
    assert_eq!(fetch("/admin/stats", &[]).status, 401);
    assert_eq!(fetch("/docs/", &[]).status, 200);
    assert_eq!(fetch("/openapi.json", &[]).status, 200);
}
