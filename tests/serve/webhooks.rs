//! Webhooks of a running server, with real receivers.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crate::common::program::{done, error_of, keyguard, refused};
use crate::common::server::{Server, check};
use crate::common::{free_port, wait_until, write_private};
use crate::leaks::Reporter;
use crate::metrics::metric;
use crate::server::{data_file, terminate};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::Sha256;
use tempfile::TempDir;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A request to a receiver.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Received {
    fn field(&self, name: &str) -> &str {
        let mut lines = self.head.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap_or_else(|| panic!("no {name}: {}", self.head))
    }

    pub(crate) fn id(&self) -> &str {
        self.field("webhook-id")
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// Verifies the signature as a receiver does.
    fn is_signed_by(&self, secret: &str) -> bool {
        let key = STANDARD
            .decode(secret.strip_prefix("whsec_").unwrap())
            .unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
        let (id, timestamp) = (self.id(), self.field("webhook-timestamp"));
        mac.update(format!("{id}.{timestamp}.{}", self.body).as_bytes());
        let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        self.field("webhook-signature") == expected
    }
}

/// A receiver that accepts every event. Its address is free again when it is dropped.
pub(crate) struct Receiver {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    is_ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Receiver {
    pub(crate) fn start() -> Self {
        Self::at(0, None)
    }

    /// Listens on a port; with TLS if it gets a configuration.
    fn at(port: u16, tls: Option<ServerConfig>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::<Mutex<Vec<Received>>>::default();
        let is_ended = Arc::<AtomicBool>::default();
        let (kept, ended) = (Arc::clone(&received), Arc::clone(&is_ended));
        let tls = tls.map(Arc::new);
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let stream = stream.unwrap();
                let request = match &tls {
                    None => answer(stream),
                    Some(tls) => {
                        let server = ServerConnection::new(Arc::clone(tls)).unwrap();
                        answer(StreamOwned::new(server, stream))
                    }
                };
                kept.lock().extend(request);
            }
        });
        Self {
            address,
            received,
            is_ended,
            thread: Some(thread),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/events", self.address)
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.is_ended.store(true, Ordering::SeqCst);
        // Wakes the thread.
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().unwrap().join();
    }
}

/// Reads a request and accepts it; `None` if the client ends the connection before.
fn answer(mut stream: impl Read + Write) -> Option<Received> {
    let mut text = String::new();
    loop {
        let mut chunk = [0; 4_096];
        let read = stream.read(&mut chunk).ok().filter(|read| *read > 0)?;
        text += std::str::from_utf8(&chunk[..read]).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let mut lines = head.lines();
        let length = lines.find_map(|line| line.strip_prefix("content-length: "));
        if body.len() == length.unwrap().parse::<usize>().unwrap() {
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").ok()?;
            let (head, body) = (head.to_owned(), body.to_owned());
            return Some(Received { head, body });
        }
    }
}

/// Starts a server that sends events, also to private addresses. It logs to the file `log`.
fn serve(dir: &Path, url: &str, more: &[&str]) -> Server {
    let mut command = keyguard(dir, &["serve", "--listen", "127.0.0.1:0"]);
    command
        .args(["--webhook", url, "--webhook-allow-private"])
        .args(more)
        .stderr(
            File::options()
                .create(true)
                .append(true)
                .open(dir.join("log"))
                .unwrap(),
        );
    Server::spawn(command)
}

fn log(dir: &Path) -> String {
    fs::read_to_string(dir.join("log")).unwrap()
}

/// The deliveries as the command lists them, the latest first.
fn deliveries(dir: &Path) -> Vec<Value> {
    let listed: Value = serde_json::from_str(&done(dir, &["webhooks", "--json"])).unwrap();
    listed.as_array().unwrap().clone()
}

fn secret(dir: &Path) -> String {
    let file = dir.join("keyguard.redb.webhook-secret");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    fs::read_to_string(file).unwrap().trim().to_owned()
}

fn block(dir: &Path, ip: &str) {
    done(dir, &["block", ip, "--for", "1 hour"]);
}

#[test]
fn events_reach_a_receiver_that_verifies_them() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    let key = data_file(dir, 5);
    let receiver = Receiver::start();
    let mut server = serve(dir, &receiver.url(), &[]);
    block(dir, "192.0.2.9");
    let body = json!({"key": key, "ip": "192.0.2.7", "method": "GET", "path": "/"});
    for _ in 0..6 {
        check(&server, &body);
    }
    wait_until(|| receiver.received().len() == 3);
    let received = receiver.received();
    let mut types: Vec<String> = received
        .iter()
        .map(|event| event.json()["type"].as_str().unwrap().to_owned())
        .collect();
    types.sort();
    assert_eq!(types, ["address.locked", "limit.reached", "limit.warning"]);
    let secret = secret(dir);
    for event in &received {
        assert!(event.is_signed_by(&secret), "{event:?}");
        let other = secret.replace("whsec_", "whsec_AAAA");
        assert!(!event.is_signed_by(&other));
        assert!(!event.body.contains(&key[12..]), "{event:?}");
    }
    wait_until(|| {
        deliveries(dir)
            .iter()
            .all(|one| one["state"] == "delivered")
    });
    let listed = deliveries(dir);
    assert_eq!(listed.len(), 3);
    assert_eq!(
        (&listed[0]["attempts"], &listed[0]["answer"]),
        (&json!(1), &json!("204 No Content"))
    );
    assert_eq!(
        done(dir, &["webhooks", "--json", "--rows", "1"])
            .matches("msg_")
            .count(),
        1
    );
    assert!(done(dir, &["webhooks"]).contains("\tdelivered\t1\t204 No Content\t"));
    let delivered = r#"keyguard_webhook_deliveries_total{result="delivered"}"#;
    assert_eq!(metric(&server, delivered), 3.0);
    assert_eq!(metric(&server, "keyguard_webhook_outbox_deliveries"), 0.0);

    // Once more, with the same id.
    let number = listed[2]["id"].to_string();
    done(dir, &["webhooks", "redeliver", &number]);
    wait_until(|| receiver.received().len() == 4);
    assert_eq!(
        receiver.received()[3].id(),
        listed[2]["event_id"].as_str().unwrap()
    );
    let error = refused(dir, &["webhooks", "redeliver", "99"]);
    assert!(error.contains("no delivery with the number 99"), "{error}");
    wait_until(|| deliveries(dir)[2]["state"] == "delivered");
    terminate(&mut server);

    // Nobody sends now.
    let error = refused(dir, &["webhooks", "redeliver", &number]);
    let problem = format!("no process sends events to the webhook of delivery {number}");
    assert!(error.contains(&problem), "{error}");
    assert!(
        error.contains("next:  keyguard serve --webhook URL"),
        "{error}"
    );
    assert_eq!(deliveries(dir)[2]["state"], "delivered");
}

#[test]
fn endless_response_delays_neither_decisions_nor_the_end() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    let key = data_file(dir, 99);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/events", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let _ = stream.read(&mut [0; 4_096]);
                let endless = "HTTP/1.1 100 Continue\r\n\r\n".repeat(20_000);
                while stream.write_all(endless.as_bytes()).is_ok() {}
            });
        }
    });
    let mut server = serve(dir, &url, &[]);
    let body = json!({"key": key, "ip": "192.0.2.7", "method": "GET", "path": "/"});
    for number in 0..8 {
        block(dir, &format!("198.51.100.{number}"));
        assert_eq!(check(&server, &body).0, 200);
    }
    wait_until(|| {
        let attempted = |one: &Value| one["attempts"] != 0;
        deliveries(dir).iter().all(attempted)
    });
    let listed = deliveries(dir);
    assert_eq!(listed.len(), 8);
    for one in listed {
        let answer = one["answer"].as_str().unwrap();
        assert!(answer.contains("within 65536 bytes"), "{answer}");
    }
    terminate(&mut server);
}

#[test]
fn urls_of_the_environment_are_not_shown() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    data_file(dir, 5);
    let receivers = [Receiver::start(), Receiver::start()];
    let urls = receivers.each_ref().map(Receiver::url).join(" ");
    let serving = |urls: &str| {
        let mut command = keyguard(dir, &["serve", "--listen", "127.0.0.1:0"]);
        command.arg("--webhook-allow-private");
        command.env("KEYGUARD_WEBHOOKS", urls);
        command
    };
    let mut server = Server::spawn(serving(&urls));
    done(dir, &["webhooks", "test"]);
    for receiver in &receivers {
        assert_eq!(receiver.received().len(), 1);
    }
    terminate(&mut server);
    let output = serving(&urls).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(help.contains("KEYGUARD_WEBHOOKS"), "{help}");
    assert!(!help.contains(&receivers[0].url()), "{help}");

    for invalid in [
        "https://user:hunter2@example.com",
        "https://example.com:99999/hunter2",
        "",
    ] {
        let error = error_of(&mut serving(invalid));
        assert!(
            error.contains("--webhook or KEYGUARD_WEBHOOKS: expected"),
            "{error}"
        );
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn new_secret_in_place_of_a_lost_one_is_told() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    data_file(dir, 5);
    let receiver = Receiver::start();
    let warning = "was missing and was created anew";
    let mut server = serve(dir, &receiver.url(), &[]);
    let first = secret(dir);
    done(dir, &["webhooks", "test"]);
    terminate(&mut server);
    let mut server = serve(dir, &receiver.url(), &[]);
    terminate(&mut server);
    assert!(!log(dir).contains(warning), "{}", log(dir));

    fs::remove_file(dir.join("keyguard.redb.webhook-secret")).unwrap();
    let mut server = serve(dir, &receiver.url(), &[]);
    wait_until(|| log(dir).contains(warning));
    assert_ne!(secret(dir), first);
    assert!(!log(dir).contains(&secret(dir)), "{}", log(dir));
    terminate(&mut server);
}

#[test]
fn outbox_survives_a_kill_and_a_receiver_that_was_away() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    data_file(dir, 5);
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}/token-of-the-path");
    let mut server = serve(dir, &url, &[]);
    block(dir, "192.0.2.9");
    wait_until(|| deliveries(dir)[0]["attempts"] != 0);
    let waiting = deliveries(dir).remove(0);
    assert_eq!(waiting["state"], "pending");
    assert!(
        waiting["answer"].as_str().unwrap().contains("refused"),
        "{waiting}"
    );
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    assert_eq!(deliveries(dir)[0]["event_id"], waiting["event_id"]);

    let receiver = Receiver::at(port, None);
    let mut server = serve(dir, &url, &[]);
    wait_until(|| deliveries(dir)[0]["state"] == "delivered");
    let received = receiver.received();
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].id(), waiting["event_id"].as_str().unwrap());
    assert!(received[0].is_signed_by(&secret(dir)));
    terminate(&mut server);
    let log = log(dir);
    assert!(
        log.contains("WARN webhook_failed webhook=http://127.0.0.1:"),
        "{log}"
    );
    assert!(!log.contains("token-of-the-path"), "{log}");
}

#[test]
fn test_prints_the_answer() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    data_file(dir, 5);
    let error = refused(dir, &["webhooks", "test"]);
    assert!(error.contains("no webhooks are configured"), "{error}");
    assert!(
        error.contains("next:  keyguard serve --webhook URL"),
        "{error}"
    );

    let receiver = Receiver::start();
    let mut server = serve(dir, &receiver.url(), &[]);
    let printed = done(dir, &["webhooks", "test"]);
    assert!(
        printed.contains("\ttest\tdelivered\t1\t204 No Content\t"),
        "{printed}"
    );
    assert_eq!(receiver.received()[0].json()["type"], "test");
    drop(receiver);
    let output = keyguard(dir, &["webhooks", "test"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("\ttest\tpending\t1\t"), "{printed}");
    // Enough failures for a warning.
    for _ in 0..2 {
        keyguard(dir, &["webhooks", "test"]).output().unwrap();
    }
    let doctor = || {
        let output = keyguard(dir, &["doctor"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    wait_until(|| doctor().contains("webhooks: events cannot be delivered"));
    assert!(
        doctor().contains("next:  keyguard webhooks"),
        "{}",
        doctor()
    );
    terminate(&mut server);
}

#[test]
fn private_receivers_are_not_connected_to_without_permission() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    data_file(dir, 5);
    let receiver = Receiver::start();
    // Its port takes no TLS, which does not matter: nothing connects.
    let url = format!("https://localhost:{}/events", receiver.address.port());
    let mut command = keyguard(dir, &["serve", "--listen", "127.0.0.1:0"]);
    command.args(["--webhook", &url]);
    let mut server = Server::spawn(command);
    let output = keyguard(dir, &["webhooks", "test"]).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("no public address"), "{printed}");
    assert_eq!(receiver.received().len(), 0);
    terminate(&mut server);

    let error = refused(dir, &["serve", "--webhook", &receiver.url()]);
    assert!(error.contains("without encryption"), "{error}");
}

#[test]
fn receivers_with_tls_need_a_trusted_certificate() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    data_file(dir, 5);
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(dir.join("ca.pem"), made.cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let chain: Vec<CertificateDer<'static>> = vec![made.cert.der().clone()];
    let tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let receiver = Receiver::at(0, Some(tls));
    let url = format!("https://localhost:{}/events", receiver.address.port());
    let mut server = serve(dir, &url, &[]);
    let output = keyguard(dir, &["webhooks", "test"]).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.contains("certificate"), "{printed}");
    terminate(&mut server);
    assert_eq!(receiver.received().len(), 0);

    let mut server = serve(dir, &url, &["--webhook-ca", "ca.pem"]);
    done(dir, &["webhooks", "test"]);
    assert!(receiver.received()[0].is_signed_by(&secret(dir)));
    terminate(&mut server);
    let error = refused(dir, &["serve", "--webhook", &url, "--webhook-ca", "absent"]);
    assert!(
        error.contains("--webhook-ca: `absent` cannot be used"),
        "{error}"
    );
}

#[test]
fn fault_of_the_disk_is_told_while_it_lasts() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    data_file(dir, 5);
    let receiver = Receiver::start();
    let mut server = serve(dir, &receiver.url(), &[]);
    let (file, away) = (dir.join("keyguard.redb"), dir.join("away"));
    fs::rename(&file, &away).unwrap();
    wait_until(|| !receiver.received().is_empty());
    let told = receiver.received().remove(0);
    assert_eq!(told.json()["type"], "disk.fault");
    let problem = told.json()["data"]["problem"].as_str().unwrap().to_owned();
    assert!(problem.contains("deleted or moved away"), "{problem}");
    assert!(told.is_signed_by(&secret(dir)));
    fs::rename(&away, &file).unwrap();
    // Stored, and sent again with the same id.
    wait_until(|| receiver.received().len() == 2);
    assert_eq!(receiver.received()[1].id(), told.id());
    wait_until(|| deliveries(dir)[0]["state"] == "delivered");
    terminate(&mut server);
}

#[test]
fn reported_keys_are_told() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    let key = data_file(dir, 5);
    let (receiver, reporter) = (Receiver::start(), Reporter::new("one"));
    Reporter::list(dir, &[&reporter]);
    let mut server = serve(
        dir,
        &receiver.url(),
        &["--leak-keys", "leak-keys.json", "--on-leak", "warn"],
    );
    let found = "https://example.com/octocat";
    let report = json!([{"token": key, "type": "kg", "url": found, "source": "content"}]);
    for _ in 0..2 {
        assert_eq!(reporter.send(&server, &report.to_string()).status, 200);
    }
    wait_until(|| receiver.received().len() == 1);
    let told = receiver.received().remove(0);
    assert!(!told.body.contains(&key[12..]), "{told:?}");
    let expected = json!({
        "key": { "id": 1, "label": "shop", "prefix": &key[..12] },
        "organization": { "id": 1, "name": "acme" },
        "source": "content",
        "url": found,
        "revoked": false,
    });
    assert_eq!(told.json()["type"], "key.leaked");
    assert_eq!(told.json()["data"], expected);
    assert_eq!(deliveries(dir).len(), 1, "a repeated report is not told");
    terminate(&mut server);
}

#[test]
fn secrets_and_storages_that_cannot_be_used_are_refused() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    data_file(dir, 5);
    let webhook = ["serve", "--webhook", "https://example.com/events"];
    let serve = |more: &[&str]| refused(dir, &[&webhook[..], more].concat());
    let with_file = ["--webhook-secret-file", "given.secret"];
    let error = serve(&with_file);
    assert!(error.contains("`given.secret` cannot be read"), "{error}");
    write_private(&dir.join("given.secret"), "whsec_canary-of-the-secret");
    let error = serve(&with_file);
    assert!(
        error.contains("`given.secret` holds no secret of webhooks"),
        "{error}"
    );
    assert!(!error.contains("canary"), "{error}");
    let valid = format!("whsec_{}", STANDARD.encode([7; 32]));
    write_private(&dir.join("given.secret"), &valid);
    fs::set_permissions(dir.join("given.secret"), fs::Permissions::from_mode(0o644)).unwrap();
    let error = serve(&with_file);
    assert!(error.contains("chmod 600"), "{error}");

    for more in [
        ["--db", "postgres://user:hunter2@127.0.0.1:1/none"],
        ["--redis", "redis://:hunter2@127.0.0.1:1"],
    ] {
        let error = serve(&more);
        assert!(
            error.contains("not yet with a database or Redis"),
            "{error}"
        );
        assert!(!error.contains("hunter2"), "{error}");
    }
    let output = keyguard(dir, &["serve", "--webhook-allow-private"]).output();
    assert_eq!(output.unwrap().status.code(), Some(2));
}

#[test]
fn two_secrets_sign_while_receivers_change() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    data_file(dir, 5);
    let secrets = [7, 8].map(|byte| format!("whsec_{}", STANDARD.encode([byte; 32])));
    write_private(&dir.join("given.secret"), &secrets.join("\n"));
    let receiver = Receiver::start();
    let mut server = serve(
        dir,
        &receiver.url(),
        &["--webhook-secret-file", "given.secret"],
    );
    done(dir, &["webhooks", "test"]);
    let event = receiver.received().remove(0);
    let signatures = event.field("webhook-signature").to_owned();
    for (secret, signature) in secrets.iter().zip(signatures.split(' ')) {
        let one = Received {
            head: event.head.replace(&signatures, signature),
            ..event.clone()
        };
        assert!(one.is_signed_by(secret));
    }
    assert!(!dir.join("keyguard.redb.webhook-secret").exists());
    terminate(&mut server);
}
