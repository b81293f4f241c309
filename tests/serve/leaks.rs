//! Reports of leaked keys: who may send them, and what they do.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyguard::{Config, CreateKey, CreatedKey, KeyGuard, ManualClock};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, SigningKey};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::program::{done, keyguard, refused};
use crate::common::server::{HttpResponse, Server, check, get, request};
use crate::common::{HOUR, NOON, wait_until, write_private};
use crate::server::{ADMIN_KEY, serve};

/// The form of a key, with another checksum.
const FOREIGN: &str = "kg_live_abcdefghijabcdefghijabcdefghijabcdefghijabc0aZ81c";
const URL: &str =
    "https://example.com/octocat/hello/blob/12345600b9cbe38a219f39a9941c9319b600c002/a.py";

/// One who signs reports.
pub(crate) struct Reporter {
    name: &'static str,
    key: KeyPair,
}

impl Reporter {
    pub(crate) fn new(name: &'static str) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        Self { name, key }
    }

    /// Lists these reporters in the file `leak-keys.json`.
    pub(crate) fn list(dir: &Path, reporters: &[&Self]) {
        let keys = reporters.iter().map(|reporter| {
            json!({
                "key_identifier": reporter.name,
                "key": reporter.key.public_key_pem(),
                "is_current": true,
            })
        });
        let keys = json!({ "public_keys": keys.collect::<Vec<_>>() });
        write_private(&dir.join("leak-keys.json"), &keys.to_string());
    }

    fn signature(&self, body: &str) -> String {
        STANDARD.encode(self.key.sign(body.as_bytes()).unwrap())
    }

    pub(crate) fn send(&self, server: &Server, body: &str) -> HttpResponse {
        send(server, self.name, &self.signature(body), body)
    }

    /// Reports texts at [`URL`]; returns their labels.
    fn report(&self, server: &Server, tokens: &[&str]) -> Vec<String> {
        let body = report_of(tokens, URL);
        let response = self.send(server, &body);
        assert_eq!(response.status, 200, "{}", response.body);
        let feedback: Vec<Value> = serde_json::from_str(&response.body).unwrap();
        let labels = feedback.iter().map(|row| row["label"].as_str().unwrap());
        labels.map(str::to_owned).collect()
    }
}

fn report_of(tokens: &[&str], url: &str) -> String {
    let found = tokens
        .iter()
        .map(|token| json!({"token": token, "type": "kg", "url": url, "source": "content"}));
    Value::from_iter(found).to_string()
}

fn send(server: &Server, name: &str, signature: &str, body: &str) -> HttpResponse {
    let fields = [
        ("Content-Type", "application/json"),
        ("Github-Public-Key-Identifier", name),
        ("Github-Public-Key-Signature", signature),
    ];
    request(&server.address, "POST", "/v1/leaks", &fields, body)
}

/// Creates a data file with keys of the organization `acme`.
fn keys(dir: &Path, labels: &[&str]) -> Vec<CreatedKey> {
    let kg = KeyGuard::open(dir.join("keyguard.redb"), Config::default()).unwrap();
    kg.admin().create_org("acme").unwrap();
    let create = |label: &&str| {
        kg.admin()
            .create_key(CreateKey::new("acme", *label))
            .unwrap()
    };
    labels.iter().map(create).collect()
}

fn serve_for(reporter: &Reporter, dir: &Path, more: &[&str]) -> Server {
    Reporter::list(dir, &[reporter]);
    serve(
        dir,
        &[&["--leak-keys", "leak-keys.json"][..], more].concat(),
    )
}

fn text(key: &CreatedKey) -> &str {
    key.raw_key.expose()
}

/// The status of a decision about a request with a key.
fn status_of(server: &Server, key: &str) -> Value {
    let (_, verdict) = check(server, &json!({"key": key, "ip": "192.0.2.7", "path": "/"}));
    verdict["status"].clone()
}

fn admin_get(server: &Server, target: &str) -> Value {
    let response = get(&server.address, target, &[("X-Admin-Key", ADMIN_KEY)]);
    assert_eq!(response.status, 200, "{target}: {}", response.body);
    serde_json::from_str(&response.body).unwrap()
}

/// What reports have entered in the audit log, the latest first.
fn entries(server: &Server) -> Vec<Value> {
    let all = admin_get(server, "/admin/audit");
    let all = all.as_array().unwrap().iter();
    all.filter(|entry| entry["actor"] == "leak report")
        .cloned()
        .collect()
}

fn warnings(server: &Server) -> Vec<String> {
    let stats = admin_get(server, "/admin/stats");
    let warnings = stats["warnings"].as_array().unwrap().iter();
    let texts = warnings.map(|warning| warning.as_str().unwrap().to_owned());
    texts.collect()
}

#[test]
fn a_reported_key_is_revoked_and_no_other() {
    let dir = TempDir::new().unwrap();
    let created = keys(dir.path(), &["leaked", "safe"]);
    let [leaked, safe] = created.as_slice() else {
        panic!("{created:?}");
    };
    let reporter = Reporter::new("one");
    let server = serve_for(&reporter, dir.path(), &[]);
    let other = "ghp_000000000000000000000000000000000000";
    let body = report_of(&[text(leaked), FOREIGN, other], URL);
    let response = reporter.send(&server, &body);
    assert_eq!(response.status, 200, "{}", response.body);
    for token in [text(leaked), FOREIGN, other] {
        assert!(!response.body.contains(token), "{}", response.body);
    }
    let feedback: Vec<Value> = serde_json::from_str(&response.body).unwrap();
    let label =
        |label: &str, hash: &str| json!({"label": label, "token_hash": hash, "token_type": "kg"});
    // By `sha256sum`.
    let foreign = "b0c8084d0c92eb2411bd5430cfcfdef9871674bea217776979eab2af7da0d13b";
    let ghp = "91303c1d649e836acdc4565dca58c6c49325558ac5ca98d33aeff56e735fc857";
    assert_eq!(feedback[0]["label"], "true_positive");
    assert_eq!(
        feedback[1..],
        [
            label("false_positive", foreign),
            label("false_positive", ghp)
        ]
    );

    assert_eq!(status_of(&server, text(leaked)), 401);
    assert_eq!(status_of(&server, text(safe)), 200);
    let entered = entries(&server);
    let [entry] = entered.as_slice() else {
        panic!("{entered:?}");
    };
    assert_eq!(entry["action"], "revoke_key");
    assert_eq!(entry["subject"], leaked.key.id.0);
    assert_eq!(entry["ip"], "127.0.0.1");
    assert_eq!(entry["details"], json!({"source": "content", "url": URL}));
    let warning =
        format!("key 1 `leaked` was found at {URL}, and is revoked: its owner needs another one");
    assert_eq!(warnings(&server), [warning.as_str()]);
    let findings = keyguard(dir.path(), &["doctor", "--ignore", "disk"])
        .output()
        .unwrap();
    let findings = String::from_utf8(findings.stdout).unwrap();
    assert!(
        findings.contains("leaked_keys") && findings.contains(&warning),
        "{findings}"
    );

    // A repeated report changes nothing.
    let repeated = reporter.send(&server, &body);
    assert_eq!((repeated.status, &repeated.body), (200, &response.body));
    assert_eq!((entries(&server).len(), warnings(&server).len()), (1, 1));
}

#[test]
fn without_a_valid_signature_every_request_gets_the_same_refusal() {
    let dir = TempDir::new().unwrap();
    let created = keys(dir.path(), &["leaked"]);
    let key = text(&created[0]);
    let [reporter, stranger] = ["one", "other"].map(Reporter::new);
    let server = serve_for(&reporter, dir.path(), &[]);
    let body = report_of(&[key], URL);
    let signature = reporter.signature(&body);
    let of_foreign = report_of(&[FOREIGN], URL);
    let spaced = body.replacen(':', ": ", 1);
    let unsigned = request(&server.address, "POST", "/v1/leaks", &[], &body);
    assert_eq!(unsigned.status, 401, "{}", unsigned.body);
    assert!(
        unsigned.body.contains("invalid_signature"),
        "{}",
        unsigned.body
    );
    let without_date = |response: &HttpResponse| -> HashMap<String, String> {
        let mut fields = response.fields.clone();
        fields.remove("date");
        fields
    };
    for (what, name, signature, body) in [
        (
            "a stranger",
            "other",
            stranger.signature(&body),
            body.as_str(),
        ),
        (
            "the name of another",
            "one",
            stranger.signature(&body),
            body.as_str(),
        ),
        (
            "the signature of another report",
            "one",
            signature.clone(),
            of_foreign.as_str(),
        ),
        ("another space", "one", signature.clone(), spaced.as_str()),
        ("another name", "two", signature.clone(), body.as_str()),
        ("no name", "", signature.clone(), body.as_str()),
        ("no signature", "one", String::new(), body.as_str()),
        ("no base64", "one", "?".into(), body.as_str()),
        ("no DER", "one", STANDARD.encode("?"), body.as_str()),
        ("no JSON", "one", signature.clone(), "?"),
        ("nothing", "one", signature.clone(), ""),
    ] {
        let response = send(&server, name, &signature, body);
        assert_eq!(response.status, 401, "{what}");
        assert_eq!(response.body, unsigned.body, "{what}");
        assert_eq!(without_date(&response), without_date(&unsigned), "{what}");
    }
    let fields = [
        ("Github-Public-Key-Identifier", "one"),
        ("Github-Public-Key-Signature", &*signature),
        ("Github-Public-Key-Signature", &*signature),
    ];
    let twice = request(&server.address, "POST", "/v1/leaks", &fields, &body);
    assert_eq!((twice.status, &twice.body), (401, &unsigned.body));

    assert_eq!(status_of(&server, key), 200);
    assert_eq!(entries(&server), [Value::Null; 0]);
    // The key is there, and so is the name of the header field.
    assert_eq!(reporter.report(&server, &[key]), ["true_positive"]);
    assert_eq!(status_of(&server, key), 401);
}

#[test]
fn keys_are_only_warned_of_on_request() {
    let dir = TempDir::new().unwrap();
    let created = keys(dir.path(), &["leaked"]);
    let key = text(&created[0]);
    let reporter = Reporter::new("one");
    let server = serve_for(&reporter, dir.path(), &["--on-leak", "warn"]);
    for _ in 0..3 {
        assert_eq!(reporter.report(&server, &[key, key]), ["true_positive"; 2]);
    }
    let elsewhere = report_of(&[key], "");
    assert_eq!(reporter.send(&server, &elsewhere).status, 200);
    assert_eq!(status_of(&server, key), 200);
    let entries = entries(&server);
    let found: Vec<_> = entries
        .iter()
        .map(|entry| {
            assert_eq!(
                (&entry["action"], &entry["subject"]),
                (&json!("report_leak"), &json!(1))
            );
            entry["details"]["url"].as_str().unwrap()
        })
        .collect();
    // One for each place.
    assert_eq!(found, ["", URL]);
    let next = "and is still accepted: `keyguard rotate-key 1 --grace 0` replaces its text";
    assert_eq!(
        warnings(&server),
        [
            format!("key 1 `leaked` was found at {URL}, {next}"),
            format!("key 1 `leaked` was found in public, {next}"),
        ]
    );
}

#[test]
fn a_replaced_text_does_not_revoke_its_key_and_an_expired_one_does() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("keyguard.redb");
    // Long ago.
    let clock = ManualClock::starting_at(NOON);
    let kg = KeyGuard::open(&file, Config::default().clock(clock)).unwrap();
    kg.admin().create_org("acme").unwrap();
    let create = |key| kg.admin().create_key(key).unwrap();
    let rotated = create(CreateKey::new("acme", "rotated"));
    let expired = create(CreateKey::new("acme", "expired").expires_at(NOON.plus(HOUR)));
    drop(kg);
    let reporter = Reporter::new("one");
    let server = serve_for(&reporter, dir.path(), &[]);
    let new = done(dir.path(), &["rotate-key", "1", "--grace", "0", "--quiet"]);
    let tokens = [text(&rotated), text(&expired)];
    assert_eq!(reporter.report(&server, &tokens), ["true_positive"; 2]);
    assert_eq!(status_of(&server, new.trim()), 200);
    assert_eq!(admin_get(&server, "/admin/keys/1")["status"], "active");
    assert_eq!(admin_get(&server, "/admin/keys/2")["status"], "revoked");
    // The text in use does.
    assert_eq!(reporter.report(&server, &[new.trim()]), ["true_positive"]);
    assert_eq!(status_of(&server, new.trim()), 401);
}

#[test]
fn signed_reports_that_cannot_be_read_are_refused_without_their_texts() {
    let dir = TempDir::new().unwrap();
    let created = keys(dir.path(), &["leaked"]);
    let key = text(&created[0]);
    let reporter = Reporter::new("one");
    let server = serve_for(&reporter, dir.path(), &["--max-body", "4096"]);
    for body in [
        "".to_owned(),
        format!("[{{\"{key}\": "),
        format!("[\"{key}\"]"),
        json!([{"token": key}]).to_string(),
        json!([{"token": [key], "type": "kg"}]).to_string(),
        json!({"token": key, "type": "kg"}).to_string(),
    ] {
        let response = reporter.send(&server, &body);
        assert_eq!(response.status, 422, "{body}");
        assert!(response.body.contains("JSON array"), "{}", response.body);
        assert!(!response.body.contains(&key[12..]), "{}", response.body);
    }
    let long = report_of(&[key], &"a".repeat(5_000));
    assert_eq!(reporter.send(&server, &long).status, 413);
    assert_eq!(status_of(&server, key), 200);
    // Unknown fields and absent ones are no problem.
    let body = json!([{"token": key, "type": "kg", "more": 1}]).to_string();
    assert_eq!(reporter.send(&server, &body).status, 200);
    assert_eq!(status_of(&server, key), 401);
}

#[test]
fn sighup_reads_the_keys_of_the_reporters_again() {
    let dir = TempDir::new().unwrap();
    keys(dir.path(), &[]);
    let [old, new] = ["old", "new"].map(Reporter::new);
    let server = serve_for(&old, dir.path(), &[]);
    let status = |reporter: &Reporter| reporter.send(&server, "[]").status;
    let hangup = || kill_process(Pid::from_child(&server.child), Signal::HUP).unwrap();
    assert_eq!((status(&old), status(&new)), (200, 401));
    // Reporters replace their keys.
    let warned = warnings(&server);
    let [unknown] = warned.as_slice() else {
        panic!("{warned:?}");
    };
    assert!(
        unknown.contains("`leak-keys.json` does not have the key"),
        "{unknown}"
    );

    fs::write(dir.path().join("leak-keys.json"), "{}").unwrap();
    hangup();
    wait_until(|| warnings(&server)[0].contains("missing field `public_keys`"));
    assert_eq!((status(&old), status(&new)), (200, 401));

    Reporter::list(dir.path(), &[&new]);
    hangup();
    wait_until(|| status(&new) == 200);
    assert_eq!(status(&old), 401);
}

/// Who can change the file can revoke keys.
#[test]
fn keys_of_reporters_that_other_users_can_change_are_refused() {
    let dir = TempDir::new().unwrap();
    keys(dir.path(), &[]);
    let [old, new] = ["old", "new"].map(Reporter::new);
    Reporter::list(dir.path(), &[&old]);
    let file = dir.path().join("leak-keys.json");
    let set_mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    for mode in [0o664, 0o646] {
        set_mode(mode);
        let error = refused(dir.path(), &["serve", "--leak-keys", "leak-keys.json"]);
        let expected = format!(
            "--leak-keys: `leak-keys.json`: other users may change it (mode {mode:o}); run `chmod go-w \
             leak-keys.json`"
        );
        assert!(error.contains(&expected), "{error}");
    }
    set_mode(0o644);
    let server = serve(dir.path(), &["--leak-keys", "leak-keys.json"]);
    let status = |reporter: &Reporter| reporter.send(&server, "[]").status;
    assert_eq!(status(&old), 200);
    Reporter::list(dir.path(), &[&new]);
    set_mode(0o666);
    kill_process(Pid::from_child(&server.child), Signal::HUP).unwrap();
    wait_until(|| {
        let mut warnings = warnings(&server).into_iter();
        warnings.any(|text| text.contains("other users may change it (mode 666)"))
    });
    assert_eq!((status(&old), status(&new)), (200, 401));
}

#[test]
fn the_endpoint_is_there_only_for_reporters_of_a_file() {
    let dir = TempDir::new().unwrap();
    keys(dir.path(), &[]);
    let reporter = Reporter::new("one");
    let documented = |server: &Server| {
        let document = get(&server.address, "/openapi.json", &[]);
        let document: Value = serde_json::from_str(&document.body).unwrap();
        document["paths"]["/v1/leaks"]["post"].clone()
    };
    let server = serve(dir.path(), &[]);
    assert_eq!(reporter.send(&server, "[]").status, 404);
    assert_eq!(documented(&server), Value::Null);
    drop(server);

    let server = serve_for(&reporter, dir.path(), &[]);
    assert_eq!(reporter.send(&server, "[]").body, "[]\n");
    assert_eq!(get(&server.address, "/v1/leaks", &[]).status, 405);
    let operation = documented(&server);
    assert_eq!(operation["security"], json!([]));
    let fields = operation["parameters"].as_array().unwrap().iter();
    let names: Vec<_> = fields
        .map(|field| field["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "Github-Public-Key-Identifier",
            "Github-Public-Key-Signature"
        ]
    );
    drop(server);

    let error = |arguments: &[&str]| refused(dir.path(), &[&["serve"][..], arguments].concat());
    let absent = error(&["--leak-keys", "absent.json"]);
    assert!(absent.contains("--leak-keys: `absent.json`: "), "{absent}");
    write_private(&dir.path().join("leak-keys.json"), "{\"public_keys\":[]}");
    let empty = error(&["--leak-keys", "leak-keys.json"]);
    assert!(empty.contains("`public_keys` is empty"), "{empty}");
    let alone = keyguard(dir.path(), &["serve", "--on-leak", "warn"])
        .output()
        .unwrap();
    assert_eq!(alone.status.code(), Some(2));
}
