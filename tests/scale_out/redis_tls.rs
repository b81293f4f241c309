//! Redis over TLS, with an authority that the system trusts.

use std::fs;
use std::time::{Duration, Instant};

use crate::common::redis::Redis;
use crate::common::{Home, IP, child};
use keyguard::{Fallback, KeyGuard};
use tempfile::TempDir;

#[test]
fn limits_work_over_tls_with_trusted_servers_only() {
    if let Some(argument) = child::argument() {
        return check(argument.to_str().unwrap());
    }
    let dir = TempDir::new().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(at("cert.pem"), made.cert.pem()).unwrap();
    fs::write(at("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(at("other.pem"), other.cert.pem()).unwrap();
    let port = crate::common::free_port().to_string();
    let _redis = Redis::with(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &at("cert.pem"),
        "--tls-key-file",
        &at("key.pem"),
        "--tls-auth-clients",
        "no",
    ]);
    let test = "limits_work_over_tls_with_trusted_servers_only";
    for (authority, expected) in [("cert.pem", "up"), ("other.pem", "down")] {
        let mut command = child::command(module_path!(), test, format!("{port} {expected}"));
        command.env("SSL_CERT_FILE", at(authority));
        let output = command.output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(
            printed.contains(&format!("redis is {expected}")),
            "{printed}"
        );
    }
}

/// A long deadline for a server that is trusted.
fn check(argument: &str) {
    let (port, expected) = argument.split_once(' ').unwrap();
    let home = Home::new();
    let config = home
        .config()
        .redis_url(format!("rediss://localhost:{port}"))
        .limiter_fallback(Fallback::Deny)
        .backend_deadline(Duration::from_secs(20));
    let kg = KeyGuard::open(home.file(), config).unwrap();
    let key = crate::common::key(&kg);
    let headers = [("X-API-Key", key.raw_key.expose())];
    let until = Instant::now() + Duration::from_secs(60);
    let is_up = loop {
        let is_admitted = kg.check(&headers, IP, "/").is_ok();
        if is_admitted || expected == "down" || Instant::now() > until {
            assert_eq!(is_admitted, kg.backends()[0].is_up);
            break is_admitted;
        }
    };
    println!("redis is {}", if is_up { "up" } else { "down" });
}
