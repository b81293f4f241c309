//! The examples for frameworks with their own types, as `KEYGUARD_DB` and the first argument configure them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::server::{HttpResponse, Server, example};
use keyguard::{Config, CreateKey, KeyGuard};
use tempfile::TempDir;

const FILE: &str = "example.redb";

/// A method of the tonic server.
const METHOD: &str = "grpc.health.v1.Health/Check";

/// Creates a data file with a key that admits one request.
fn data_file(dir: &Path) -> String {
    let kg = KeyGuard::open(dir.join(FILE), Config::default()).unwrap();
    kg.admin().create_org("acme").unwrap();
    let key = CreateKey::new("acme", "shop").rate_limit_per_minute(1);
    let key = kg.admin().create_key(key).unwrap();
    key.raw_key.expose().to_owned()
}

fn start(name: &str, dir: &Path) -> Server {
    let mut program = example(name, dir);
    program.arg("127.0.0.1:0").env("KEYGUARD_DB", FILE);
    Server::spawn(program)
}

#[test]
fn actix_and_poem_admit_only_valid_keys() {
    for name in ["actix", "poem"] {
        let dir = TempDir::new().unwrap();
        let key = data_file(dir.path());
        let server = start(name, dir.path());
        let missing = server.get("/api/data", None);
        assert_eq!(missing.status, 401, "{name}");
        assert_eq!(missing.field("content-type"), "application/problem+json");
        assert!(missing.body.contains("missing_key"), "{name}");
        let admitted = server.get("/api/data", Some(&key));
        assert_eq!(
            (admitted.status, admitted.body.as_str()),
            (200, "Hello, acme!\n")
        );
        assert_eq!(admitted.field("x-ratelimit-remaining"), "0", "{name}");
        let limited = server.get("/api/data", Some(&key));
        assert_eq!(limited.status, 429, "{name}");
        assert!(limited.has("retry-after"), "{name}");
    }
}

#[test]
fn tonic_answers_with_a_grpc_status() {
    let dir = TempDir::new().unwrap();
    let key = data_file(dir.path());
    let server = start("tonic", dir.path());
    // A message without fields, for the health of the whole server.
    fs::write(dir.path().join("message"), [0; 5]).unwrap();
    let call = |key: &str, message: &[&str]| {
        let output = Command::new("curl")
            .args(["-sS", "--http2-prior-knowledge", "-o", "reply", "-D", "-"])
            .args(["-H", "content-type: application/grpc", "-H", "te: trailers"])
            .args(["-H", &format!("x-api-key: {key}")])
            .args(message)
            .arg(format!("http://{}/{METHOD}", server.address))
            .current_dir(dir.path())
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        let head = String::from_utf8(output.stdout).unwrap();
        let head = head.replacen("HTTP/2", "HTTP/1.1", 1);
        // Trailers follow the header fields and an empty line.
        HttpResponse::of_head(&head.replace("\r\n\r\n", "\r\n"))
    };
    let with_message = ["--data-binary", "@message"];
    // curl fails now and then if a response comes before it has sent the message.
    let without_message = ["-X", "POST"];

    let unknown = call("nonsense", &without_message);
    assert_eq!((unknown.status, unknown.field("grpc-status")), (200, "16"));
    let admitted = call(&key, &with_message);
    assert_eq!((admitted.status, admitted.field("grpc-status")), (200, "0"));
    assert_eq!(admitted.field("x-ratelimit-remaining"), "0");
    let limited = call(&key, &without_message);
    assert_eq!((limited.status, limited.field("grpc-status")), (200, "8"));
    let wait: u64 = limited.field("grpc-retry-pushback-ms").parse().unwrap();
    assert!((1_000..=60_000).contains(&wait), "{wait}");
}
