//! The quick start, run in an empty directory as a new user runs it.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::SECRET;
use crate::common::server::{Server, example};
use keyguard::{Config, CreateKey, KeyGuard};
use tempfile::TempDir;

#[test]
fn quick_start_admits_only_its_key() {
    let dir = TempDir::new().unwrap();
    let server = start(dir.path());
    let key = server.printed_key().expect("a key is printed");

    let open = server.get("/health", None);
    assert_eq!(
        (open.status, open.body.as_str()),
        (200, r#"{"status":"ok"}"#)
    );

    let keyless = server.get("/api/data", None);
    assert_eq!(keyless.status, 401);
    assert_eq!(keyless.field("Content-Type"), "application/problem+json");
    let challenge = r#"Bearer realm="api", ApiKey realm="api", header="X-API-Key""#;
    assert_eq!(keyless.field("WWW-Authenticate"), challenge);
    assert!(keyless.body.contains(r#""code":"missing_key""#));
    assert!(
        keyless.body.contains("`X-API-Key: KEY`"),
        "{}",
        keyless.body
    );

    let (most, last) = key.split_at(key.len() - 1);
    let mistyped = format!("{most}{}", if last == "A" { "B" } else { "A" });
    for wrong in ["nonsense", &mistyped, &key.to_uppercase()] {
        let refused = server.get("/api/data", Some(wrong));
        assert_eq!(refused.status, 401, "{wrong}");
        assert!(refused.body.contains(r#""code":"invalid_key""#));
    }

    let admitted = server.get("/api/data?page=2", Some(&key));
    assert_eq!(admitted.status, 200);
    assert_eq!(admitted.body, r#"{"message":"Hello, demo!"}"#);
    assert_eq!(admitted.field("Content-Type"), "application/json");
    assert_eq!(admitted.field("X-RateLimit-Limit"), "60");
    assert_eq!(admitted.field("X-RateLimit-Remaining"), "59");
    assert_eq!(admitted.field("RateLimit-Policy"), r#""default";q=60;w=60"#);
    assert!(
        admitted
            .field("RateLimit")
            .starts_with(r#""default";r=59;t="#)
    );
}

#[test]
fn sixty_first_request_in_a_minute_gets_retry_after() {
    let dir = TempDir::new().unwrap();
    let server = start(dir.path());
    let key = server.printed_key().expect("a key is printed");
    for left in (0..60).rev() {
        let admitted = server.get("/api/data", Some(&key));
        assert_eq!(admitted.status, 200);
        assert_eq!(admitted.field("X-RateLimit-Remaining"), left.to_string());
    }
    let refused = server.get("/api/data", Some(&key));
    assert_eq!(refused.status, 429);
    assert_eq!(refused.field("X-RateLimit-Remaining"), "0");
    let wait: u64 = refused.field("Retry-After").parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait} s");
    assert!(refused.body.contains(&format!(r#""retry_after":{wait}"#)));
    // Other clients are not delayed.
    assert_eq!(server.get("/health", None).status, 200);
}

#[test]
fn login_limit_locks_the_login_only() {
    let dir = TempDir::new().unwrap();
    let server = start(dir.path());
    let key = server.printed_key().expect("a key is printed");
    for _ in 0..3 {
        assert_eq!(server.get("/login", None).status, 401);
    }
    let limited = server.get("/login", None);
    assert_eq!(limited.status, 429);
    assert_eq!(limited.field("Retry-After"), "300");
    assert_eq!(limited.field("RateLimit-Policy"), r#""login";q=3;w=60"#);
    let locked = server.get("/login?again", None);
    assert_eq!(locked.status, 403);
    assert!(locked.body.contains(r#""code":"ip_locked""#));
    assert_eq!(server.get("/api/data", Some(&key)).status, 200);
}

/// The second terminal of the quick start.
#[cfg(feature = "cli")]
#[test]
fn command_line_manages_keys_while_it_runs() {
    let dir = TempDir::new().unwrap();
    let server = start(dir.path());
    let key = server.printed_key().expect("a key is printed");
    assert_eq!(server.get("/api/data", Some(&key)).status, 200);
    let keyguard = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_keyguard"))
            .args(arguments)
            .current_dir(dir.path())
            .env_remove("KEYGUARD_SECRET")
            .env_remove("KEYGUARD_DB")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(keyguard(&["stats"]).contains("requests: 1\n"));
    assert!(keyguard(&["list-keys"]).contains("quickstart"));
    keyguard(&["revoke-key", &key[..12]]);
    assert_eq!(server.get("/api/data", Some(&key)).status, 401);
}

#[test]
fn restart_continues_with_the_same_file() {
    let dir = TempDir::new().unwrap();
    let first = start(dir.path());
    let key = first.printed_key().expect("a key is printed");
    assert_eq!(first.get("/api/data", Some(&key)).status, 200);
    // Killed without warning.
    drop(first);

    let second = start(dir.path());
    assert_eq!(second.printed_key(), None);
    assert_eq!(second.get("/api/data", Some(&key)).status, 200);
    assert_eq!(second.get("/api/data", None).status, 401);
    let mut files: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    files.retain(|file| file != "keyguard.redb.sock");
    assert_eq!(files, ["keyguard.redb", "keyguard.redb.secret"]);
}

#[test]
fn data_file_can_be_chosen() {
    let dir = TempDir::new().unwrap();
    let mut example = example("quickstart", dir.path());
    example.env("KEYGUARD_DB", "named.redb");
    example.arg("127.0.0.1:0");
    let server = Server::spawn(example);
    assert!(server.printed_key().is_some());
    assert!(dir.path().join("named.redb").exists());
    assert!(!dir.path().join("keyguard.redb").exists());
}

#[test]
fn address_in_use_is_named() {
    let dir = TempDir::new().unwrap();
    let server = start(dir.path());
    let other_dir = TempDir::new().unwrap();
    let output = example("quickstart", other_dir.path())
        .arg(&server.address)
        .output()
        .unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains(&server.address), "{error}");
}

#[test]
fn embed_decides_every_line_of_a_log() {
    let dir = TempDir::new().unwrap();
    let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::new(SECRET)).unwrap();
    kg.admin().create_org("demo").unwrap();
    let key = kg
        .admin()
        .create_key(CreateKey::new("demo", "log").rate_limit_per_minute(2))
        .unwrap();
    kg.close().unwrap();

    let key = key.raw_key.expose();
    let log = format!(
        "192.0.2.7 {key} GET /api/data?page=2 200\n\
         192.0.2.8 - GET /api/data 200\n\
         2001:db8::7 {key} POST /api/data 500\n\
         local nonsense GET / 200\n\
         192.0.2.7 - {key} [24/Nov/2026:10:00:00 +0000] \"GET /api/data HTTP/1.1\" 200 12\n"
    );
    let mut embed = example("embed", dir.path());
    embed.env("KEYGUARD_SECRET", SECRET);
    let (succeeded, printed, _) = run(embed, &log);
    assert!(succeeded, "{printed}");
    let expected = [
        "1: admitted, 1 left",
        "2: 401 missing_key",
        "3: admitted, 0 left",
        "4: 401 malformed_key",
        "5: 429 rate_limited",
        "5 requests recorded, 4 of them errors",
    ];
    assert_eq!(printed.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn embed_names_an_invalid_line() {
    let dir = TempDir::new().unwrap();
    let good = "192.0.2.7 - GET / 200\n";
    for bad in [
        "192.0.2.7 - GET /",
        "192.0.2.7 - - [24/Nov/2026:10:00:00 +0000] \"GET /\"",
        "nowhere - GET / 200",
        "192.0.2.7 - GET / ok",
    ] {
        let embed = example("embed", dir.path());
        let (succeeded, _, error) = run(embed, &format!("{good}{bad}\n"));
        assert!(!succeeded, "{bad}");
        assert!(error.contains("line 2: "), "{error}");
    }
}

/// A running quick start.
fn start(dir: &Path) -> Server {
    let mut quickstart = example("quickstart", dir);
    quickstart.arg("127.0.0.1:0");
    Server::spawn(quickstart)
}

/// Runs `program` with `input`. Returns whether it succeeded, and its output.
fn run(mut program: Command, input: &str) -> (bool, String, String) {
    program.stdin(Stdio::piped());
    program.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = program.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // Fits into a pipe, and is closed at once to end the input.
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    (
        output.status.success(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}
