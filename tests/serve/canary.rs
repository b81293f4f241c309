//! A secret, a secret of webhooks, an admin key and a key that are searched for in everything that the program writes, sends or
//! shows to other users.

use std::fs::{self, File};
use std::io::Write;
#[cfg(target_os = "linux")]
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::common::program::{keyguard, prepared, run};
use crate::common::server::{Server, get, request};
use crate::common::{wait_until, write_private};
use crate::leaks::Reporter;
use crate::webhooks::Receiver;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

const SECRET: &str = "canary-of-the-secret-A7x_9-and-more-bytes";
const ADMIN_KEY: &str = "canary-of-the-admin-key-B8y_0";
const SECRET_FILE: &str = "given.secret";
/// Base64 of `canary-of-the-webhooks-C9z_1-and-more`.
const WEBHOOK_SECRET: &str = "whsec_Y2FuYXJ5LW9mLXRoZS13ZWJob29rcy1DOXpfMS1hbmQtbW9yZQ==";
const WEBHOOK_SECRET_FILE: &str = "webhook.secret";

/// A command with the secret in a file.
fn command(dir: &Path, arguments: &[&str]) -> Command {
    keyguard(dir, &[&["--secret-file", SECRET_FILE], arguments].concat())
}

fn text(output: &Output) -> String {
    let [out, error] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{out}{error}")
}

/// Everything that was written, sent or shown, with its source.
struct Seen(Vec<(String, Vec<u8>)>);

impl Seen {
    fn add(&mut self, source: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.0.push((source.into(), bytes.into()));
    }

    fn add_file(&mut self, path: &Path) {
        self.add(path.display().to_string(), fs::read(path).unwrap());
    }

    fn sources_with(&self, wanted: &[u8]) -> Vec<&str> {
        let has = |bytes: &[u8]| bytes.windows(wanted.len()).any(|window| window == wanted);
        let sources = self.0.iter().filter(|(_, bytes)| has(bytes));
        sources.map(|(source, _)| source.as_str()).collect()
    }

    #[track_caller]
    fn assert_without(&self, what: &str, canary: &str) {
        assert_eq!(self.sources_with(canary.as_bytes()), [""; 0], "{what}");
    }
}

#[test]
fn no_secret_and_no_key_leaves_the_program() {
    let home = TempDir::new().unwrap();
    let dir = home.path();
    write_private(&dir.join(SECRET_FILE), SECRET);
    write_private(&dir.join(WEBHOOK_SECRET_FILE), WEBHOOK_SECRET);
    let receiver = Receiver::start();
    let mut seen = Seen(Vec::new());
    for arguments in [&["init"][..], &["create-org", "acme"]] {
        seen.add(
            arguments[0],
            text(&command(dir, arguments).output().unwrap()),
        );
    }
    let create = ["--json", "create-key", "--org", "acme", "--label", "shop"];
    let created = command(dir, &create).output().unwrap();
    let created: Value = serde_json::from_slice(&created.stdout).unwrap();
    let key = created["raw_key"].as_str().unwrap().to_owned();

    let reporter = Reporter::new("one");
    Reporter::list(dir, &[&reporter]);
    let log = File::create(dir.join("server.log")).unwrap();
    let mut serving = command(dir, &["serve", "--listen", "127.0.0.1:0"]);
    serving
        .args([
            "--usage-log",
            "usage.ndjson",
            "--log-level",
            "debug",
            "--log-requests",
            "--leak-keys",
            "leak-keys.json",
            "--on-leak",
            "warn",
            "--webhook-allow-private",
            "--webhook-secret-file",
            WEBHOOK_SECRET_FILE,
            "--webhook",
            receiver.url().as_str(),
        ])
        .env("KEYGUARD_ADMIN_KEY", ADMIN_KEY)
        .stderr(log);
    let mut server = Server::spawn(serving);
    seen.add("welcome", server.welcome.clone());
    add_process(&mut seen, "the server", server.child.id());
    add_reports(&mut seen, &server, &reporter, &key);
    add_responses(&mut seen, &server.address, &key);
    add_commands(&mut seen, dir, &key);

    kill_process(Pid::from_child(&server.child), Signal::TERM).unwrap();
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    for (number, event) in receiver.received().iter().enumerate() {
        seen.add(format!("event {number}"), format!("{event:?}"));
    }
    let secret_files = [SECRET_FILE, WEBHOOK_SECRET_FILE];
    for file in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let is_secret = secret_files.iter().any(|name| file.file_name() == *name);
        if !is_secret && file.file_type().unwrap().is_file() {
            seen.add_file(&file.path());
        }
    }

    // Shows that the search finds what is there: in a log, in the data file and in responses.
    let shown_prefix = &key[..key.len() - 45];
    let public = [
        ("/in/a/path", 2),
        ("acme", 5),
        (shown_prefix, 4),
        // A request, the data file and a listing.
        ("msg_", 3),
    ];
    for (public, least) in public {
        let sources = seen.sources_with(public.as_bytes());
        assert!(sources.len() >= least, "{public}: {sources:?}");
    }
    seen.assert_without("the secret", &SECRET[..16]);
    seen.assert_without("the admin key", &ADMIN_KEY[..16]);
    seen.assert_without("the secret of webhooks", &WEBHOOK_SECRET[6..22]);
    seen.assert_without("the secret of webhooks", "canary-of-the-webhooks");
    seen.assert_without("the key", &key[key.len() - 45..key.len() - 25]);
}

/// What other users see of a process.
#[cfg(target_os = "linux")]
fn add_process(seen: &mut Seen, name: &str, id: u32) {
    let mut arguments = Vec::new();
    // Empty while the process starts.
    wait_until(|| {
        arguments = fs::read(format!("/proc/{id}/cmdline")).unwrap();
        !arguments.is_empty()
    });
    seen.add(format!("arguments of {name}"), arguments);
}

#[cfg(not(target_os = "linux"))]
fn add_process(_: &mut Seen, _: &str, _: u32) {}

/// Sends the key and the admin key where they belong, and where they do not.
fn add_responses(seen: &mut Seen, address: &str, key: &str) {
    let in_path = format!("/in/a/path?key={key}#{key}");
    let bearer = format!("Bearer {key}");
    let cut = &key[1..];
    for (name, value) in [
        ("X-API-Key", key),
        ("X-API-Key", cut),
        ("Authorization", bearer.as_str()),
        ("X-Forwarded-For", key),
        ("X-Admin-Key", key),
        ("Cookie", key),
        (key, "a name"),
    ] {
        for target in [
            "/auth",
            "/metrics",
            "/admin/stats",
            "/docs",
            "/admin/ui/",
            in_path.as_str(),
        ] {
            let fields = [(name, value), ("X-Forwarded-Uri", in_path.as_str())];
            let response = get(address, target, &fields);
            seen.add(format!("{target} with {name}"), format!("{response:?}"));
        }
    }
    let json = ("Content-Type", "application/json");
    let admin = ("X-Admin-Key", ADMIN_KEY);
    for (target, fields, body) in [
        (
            "/v1/check",
            &[json][..],
            json!({"key": key, "ip": "192.0.2.7", "path": in_path, "method": "GET"}).to_string(),
        ),
        (
            "/v1/check",
            &[json][..],
            json!({"key": key, "ip": key, "path": in_path}).to_string(),
        ),
        (
            "/v1/check",
            &[json][..],
            format!("{{\"{key}\": {ADMIN_KEY}"),
        ),
        (
            "/v1/check",
            &[json][..],
            json!({"ip": "192.0.2.7", "path": "/", key: 1}).to_string(),
        ),
        (
            "/admin/orgs",
            &[json, admin][..],
            json!({ "name": key }).to_string(),
        ),
        (
            "/admin/keys",
            &[json, admin][..],
            json!({"org_name": "acme", "label": format!("of {key}")}).to_string(),
        ),
        (
            "/admin/keys",
            &[json, admin][..],
            json!({"org_name": "acme", "label": "shop", "limits": [key]}).to_string(),
        ),
        (
            "/admin/orgs",
            &[json, ("X-Admin-Key", &ADMIN_KEY[1..])][..],
            json!({"name": "b"}).to_string(),
        ),
    ] {
        let response = request(address, "POST", target, fields, &body);
        seen.add(
            format!("{target} {}", response.status),
            format!("{response:?}"),
        );
    }
    for target in [
        "/admin/stats",
        "/admin/orgs",
        "/admin/keys",
        "/admin/audit",
        "/admin/blocks",
        "/metrics",
        "/readyz",
        "/openapi.json",
    ] {
        let response = get(address, target, &[admin]);
        assert_eq!(response.status, 200, "{target}");
        seen.add(target, format!("{response:?}"));
    }
}

/// Reports the key as leaked, with and without a signature.
fn add_reports(seen: &mut Seen, server: &Server, reporter: &Reporter, key: &str) {
    let found = json!([{
        "token": key,
        "type": "kg",
        "url": format!("https://example.com/in/a/path?key={key}"),
        "source": key,
    }]);
    for (body, status) in [
        (found.to_string(), 200),
        (json!([{ "token": key, key: key }]).to_string(), 422),
        (format!("[{key}"), 422),
    ] {
        let response = reporter.send(server, &body);
        assert_eq!(response.status, status, "{}", response.body);
        seen.add("a report", format!("{response:?}"));
        let response = request(&server.address, "POST", "/v1/leaks", &[], &body);
        assert_eq!(response.status, 401);
        seen.add("an unsigned report", format!("{response:?}"));
    }
}

/// Runs commands beside the server, which gets them through its socket.
fn add_commands(seen: &mut Seen, dir: &Path, key: &str) {
    for arguments in [
        &["stats"][..],
        &["list-keys"],
        &["audit"],
        &["list-blocks"],
        &["--json", "list-keys"],
        &["limits", "1"],
        &["create-org", "acme"],
        &["rotate-key", "99"],
        &["webhooks", "test"],
        &["webhooks", "--json"],
    ] {
        let output = command(dir, arguments).output().unwrap();
        seen.add(format!("keyguard {}", arguments.join(" ")), text(&output));
    }
    // The key from the standard input, while other users look at the process.
    let mut checking = command(dir, &["check", "--ip", "192.0.2.7", "--path", "/in/a/path"]);
    let checking = checking
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = checking.spawn().unwrap();
    add_process(seen, "the command", child.id());
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(key.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(text(&output).contains("admitted"), "{}", text(&output));
    seen.add("keyguard check", text(&output));
    // Another secret.
    write_private(&dir.join("other.secret"), &format!("not {SECRET}"));
    let wrong = [
        "--secret-file",
        "other.secret",
        "--db",
        "copy.redb",
        "stats",
    ];
    fs::copy(dir.join("keyguard.redb"), dir.join("copy.redb")).unwrap();
    let output = run(dir, &wrong);
    assert_eq!(output.status.code(), Some(1));
    seen.add("another secret", text(&output));
    fs::remove_file(dir.join("other.secret")).unwrap();
}

/// A core dump would have the secret, the admin key and the keys of requests.
#[cfg(target_os = "linux")]
#[test]
fn killed_server_leaves_no_core_dump() {
    let home = TempDir::new().unwrap();
    run(home.path(), &["init"]);
    let serve = keyguard(home.path(), &["serve", "--listen", "127.0.0.1:0"]);
    let mut server = Server::spawn(prepared("ulimit -c unlimited", &serve));
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.child.id())).unwrap();
    let of_core = limits.lines().find(|line| line.contains("core file size"));
    let of_core: Vec<&str> = of_core.unwrap().split_whitespace().collect();
    assert_eq!(of_core[4..6], ["0", "0"], "{of_core:?}");

    kill_process(Pid::from_child(&server.child), Signal::ABORT).unwrap();
    let status = server.child.wait().unwrap();
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()));
    assert!(!status.core_dumped());
}
