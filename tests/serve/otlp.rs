//! Spans for a collector of OpenTelemetry (feature `otlp`).

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use crate::common::program::{done, keyguard, refused};
use crate::common::server::{Server, get, request};
use crate::common::wait_until;
use crate::log;
use crate::server::{data_file, serve, terminate};
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// A collector that keeps what it receives.
struct Collector {
    url: String,
    /// Heads and bodies.
    received: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Collector {
    fn start() -> Self {
        Self::with(None)
    }

    /// Listens on a port; with TLS if it gets a configuration.
    fn with(tls: Option<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let url = match tls {
            None => format!("http://127.0.0.1:{port}"),
            Some(_) => format!("https://localhost:{port}"),
        };
        let received = Arc::<Mutex<Vec<(String, Value)>>>::default();
        let kept = Arc::clone(&received);
        let tls = tls.map(Arc::new);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                kept.lock().extend(match &tls {
                    None => accept(stream),
                    Some(tls) => {
                        let server = ServerConnection::new(Arc::clone(tls)).unwrap();
                        accept(StreamOwned::new(server, stream))
                    }
                });
            }
        });
        Self { url, received }
    }

    fn spans(&self) -> Vec<Value> {
        let received = self.received.lock();
        let spans = received.iter().map(|(_, export)| {
            let resource = &export["resourceSpans"][0];
            let name = &resource["resource"]["attributes"][0];
            assert_eq!(
                *name,
                json!({"key": "service.name", "value": {"stringValue": "keyguard"}})
            );
            resource["scopeSpans"][0]["spans"]
                .as_array()
                .unwrap()
                .clone()
        });
        spans.flatten().collect()
    }
}

/// Reads an export and accepts it; `None` if the client ends the connection before.
fn accept(mut stream: impl Read + Write) -> Option<(String, Value)> {
    let mut text = Vec::new();
    let (head, body) = loop {
        let mut chunk = [0; 4_096];
        let read = stream.read(&mut chunk).ok().filter(|read| *read > 0)?;
        text.extend_from_slice(&chunk[..read]);
        let whole = String::from_utf8_lossy(&text).into_owned();
        let Some((head, body)) = whole.split_once("\r\n\r\n") else {
            continue;
        };
        assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
        let mut lines = head.lines();
        let length = lines.find_map(|line| line.strip_prefix("content-length: "));
        if body.len() == length.unwrap().parse::<usize>().unwrap() {
            break (head.to_owned(), body.to_owned());
        }
    };
    let response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
    stream.write_all(response).unwrap();
    Some((head, serde_json::from_str(&body).unwrap()))
}

#[test]
fn decisions_about_sampled_requests_are_spans_of_their_trace() {
    let collector = Collector::start();
    let dir = TempDir::new().unwrap();
    let key = data_file(dir.path(), 60);
    let mut server = serve(dir.path(), &["--otlp-endpoint", &collector.url]);
    let body = json!({"key": key, "ip": "192.0.2.7", "path": "/"}).to_string();
    let parent = |flags: &str| format!("00-{TRACE}-{PARENT}-{flags}");
    let (sampled, other) = (parent("01"), parent("00"));
    let json = ("Content-Type", "application/json");
    for fields in [
        &[json, ("traceparent", &sampled), ("tracestate", "a=1")][..],
        &[json, ("traceparent", &other)],
        &[json],
    ] {
        let response = request(&server.address, "POST", "/v1/check", fields, &body);
        assert_eq!(response.status, 200);
    }
    wait_until(|| collector.spans().len() == 1);
    let span = collector.spans().remove(0);
    assert_eq!(span["name"], "keyguard.check");
    assert_eq!(
        [&span["traceId"], &span["parentSpanId"], &span["traceState"]],
        [TRACE, PARENT, "a=1"]
    );
    assert_eq!(span["spanId"].as_str().unwrap().len(), 16);
    let nanos = |name: &str| span[name].as_str().unwrap().parse::<u64>().unwrap();
    let (start, end) = (nanos("startTimeUnixNano"), nanos("endTimeUnixNano"));
    assert!(start < end && end - start < 60_000_000_000, "{start} {end}");
    let status = json!([{"key": "http.response.status_code", "value": {"intValue": "200"}}]);
    assert_eq!(span["attributes"], status);

    let fields = [
        ("X-Original-URI", "/"),
        ("X-Original-Method", "GET"),
        ("X-Forwarded-For", "192.0.2.7"),
        ("traceparent", &sampled),
    ];
    assert_eq!(get(&server.address, "/auth", &fields).status, 401);
    // The end of the server does not lose it.
    terminate(&mut server);
    let span = collector.spans().remove(1);
    assert_eq!(span["name"], "keyguard.auth");
    let reason = json!({"key": "keyguard.reason", "value": {"stringValue": "missing_key"}});
    assert_eq!(span["attributes"][1], reason);
    assert_eq!(collector.spans().len(), 2);
}

/// Writes the certificate of an authority to `NAME.pem`. Returns TLS with a certificate of it for `localhost`.
fn tls_of_authority(dir: &Path, name: &str) -> ServerConfig {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&ca_key).unwrap();
    fs::write(dir.join(format!("{name}.pem")), ca.pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let issuer = Issuer::new(params, ca_key);
    let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let cert = params.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap()
}

/// Sends a request with a sampled trace, which is admitted.
fn traced(server: &Server, key: &str) {
    let body = json!({"key": key, "ip": "192.0.2.7", "path": "/"}).to_string();
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let fields = [
        ("Content-Type", "application/json"),
        ("traceparent", &*parent),
    ];
    let response = request(&server.address, "POST", "/v1/check", &fields, &body);
    assert_eq!(response.status, 200);
}

#[test]
fn spans_are_sent_with_tls_to_a_collector_with_a_trusted_certificate() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    let key = data_file(dir, 60);
    let collector = Collector::with(Some(tls_of_authority(dir, "ours")));
    tls_of_authority(dir, "other");
    let endpoint = ["--otlp-endpoint", &collector.url];
    let mut server = serve(dir, &[&endpoint[..], &["--otlp-ca", "ours.pem"]].concat());
    traced(&server, &key);
    terminate(&mut server);
    assert_eq!(collector.spans().len(), 1);

    let mut command = keyguard(dir, &["serve", "--listen", "127.0.0.1:0"]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url);
    command.env("OTEL_EXPORTER_OTLP_CERTIFICATE", "ours.pem");
    let mut server = Server::spawn(command);
    traced(&server, &key);
    terminate(&mut server);
    assert_eq!(collector.spans().len(), 2);

    // The public authorities are trusted without a file.
    for trusted in [&["--otlp-ca", "other.pem"][..], &[]] {
        let options = [&endpoint[..], &["--log-format", "json"], trusted].concat();
        let mut server = log::serve(dir, &options);
        traced(&server, &key);
        traced(&server, &key);
        terminate(&mut server);
        let events = log::events(dir);
        let failed = events
            .iter()
            .find(|event| event["event"] == "export_failed");
        let problem = failed.unwrap()["problem"].as_str().unwrap();
        assert!(problem.contains("certificate"), "{problem}");
    }
    assert_eq!(collector.spans().len(), 2);
}

#[test]
fn unusable_file_of_authorities_is_named() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    data_file(dir, 60);
    let endpoint = ["serve", "--otlp-endpoint", "https://localhost:4318"];
    let error = refused(dir, &[&endpoint[..], &["--otlp-ca", "absent.pem"]].concat());
    assert!(
        error.contains("--otlp-ca: `absent.pem` cannot be used"),
        "{error}"
    );

    let mut command = keyguard(dir, &endpoint);
    command.args(["--listen", "127.0.0.1:0"]);
    command.env("OTEL_EXPORTER_OTLP_CERTIFICATE", "absent.pem");
    let mut server = Server::spawn(command);
    let stats: Value = serde_json::from_str(&done(dir, &["stats", "--json"])).unwrap();
    let warnings = stats["warnings"].to_string();
    let warning = "no spans are exported: OTEL_EXPORTER_OTLP_CERTIFICATE: `absent.pem` cannot";
    assert!(warnings.contains(warning), "{warnings}");
    terminate(&mut server);
}

#[test]
fn logged_requests_name_their_trace() {
    let dir = TempDir::new().unwrap();
    data_file(dir.path(), 60);
    let options = ["--log-format", "json", "--log-requests"];
    let mut server = log::serve(dir.path(), &options);
    let parent = |flags: &str| format!("00-{TRACE}-{PARENT}-{flags}");
    let (sampled, other) = (parent("01"), parent("00"));
    for fields in [
        &[("traceparent", &*sampled)][..],
        &[("traceparent", &other)],
        &[("traceparent", "x")],
        &[],
    ] {
        assert_eq!(get(&server.address, "/healthz", fields).status, 200);
    }
    terminate(&mut server);
    let events = log::events(dir.path());
    let requests = events.iter().filter(|event| event["event"] == "request");
    let traces: Vec<_> = requests.map(|request| &request["trace_id"]).collect();
    assert_eq!(
        traces,
        [&json!(TRACE), &json!(TRACE), &Value::Null, &Value::Null]
    );
}

#[test]
fn a_collector_that_is_away_delays_nothing() {
    let dir = TempDir::new().unwrap();
    let key = data_file(dir.path(), 60);
    let away = format!("http://127.0.0.1:{}", crate::common::free_port());
    let mut server = serve(dir.path(), &["--otlp-endpoint", &away]);
    let body = json!({"key": key, "ip": "192.0.2.7", "path": "/"}).to_string();
    let parent = format!("00-{TRACE}-{PARENT}-01");
    let fields = [
        ("Content-Type", "application/json"),
        ("traceparent", &*parent),
    ];
    for _ in 0..20 {
        let response = request(&server.address, "POST", "/v1/check", &fields, &body);
        assert_eq!(response.status, 200);
    }
    terminate(&mut server);
}

#[test]
fn header_fields_of_the_environment_are_sent_to_the_collector() {
    let (collector, dir) = (Collector::start(), TempDir::new().unwrap());
    let key = data_file(dir.path(), 60);
    let mut command = keyguard(dir.path(), &["serve", "--listen", "127.0.0.1:0"]);
    command.args(["--otlp-endpoint", &collector.url]);
    let fields = "authorization=Bearer%20abc,content-type=text/plain";
    command.env("OTEL_EXPORTER_OTLP_HEADERS", fields);
    let mut server = Server::spawn(command);
    traced(&server, &key);
    terminate(&mut server);
    let received = collector.received.lock();
    let (head, _) = &received[0];
    for field in [
        "authorization: Bearer abc",
        "content-type: application/json",
    ] {
        assert_eq!(head.matches(field).count(), 1, "{head}");
    }
    assert_eq!(head.matches("content-type").count(), 1, "{head}");
}

#[test]
fn unusable_header_fields_in_the_environment_are_a_warning_without_them() {
    let dir = TempDir::new().unwrap();
    data_file(dir.path(), 60);
    let mut command = keyguard(dir.path(), &["serve", "--listen", "127.0.0.1:0"]);
    command.args(["--otlp-endpoint", "http://127.0.0.1:4318"]);
    command.env("OTEL_EXPORTER_OTLP_HEADERS", "Bearer hidden");
    let mut server = Server::spawn(command);
    let stats = done(dir.path(), &["stats", "--json"]);
    let warning = "no spans are exported: OTEL_EXPORTER_OTLP_HEADERS cannot be used: ";
    assert!(stats.contains(warning), "{stats}");
    assert!(!stats.contains("hidden"), "{stats}");
    terminate(&mut server);
}

/// The variable may be meant for all programs of a machine.
#[test]
fn an_unusable_address_in_the_environment_is_a_warning() {
    let dir = TempDir::new().unwrap();
    data_file(dir.path(), 60);
    let mut command = keyguard(dir.path(), &["serve", "--listen", "127.0.0.1:0"]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "grpc://127.0.0.1:4317");
    let mut server = Server::spawn(command);
    let stats: Value = serde_json::from_str(&done(dir.path(), &["stats", "--json"])).unwrap();
    let warning = "no spans are exported: OTEL_EXPORTER_OTLP_ENDPOINT cannot be used: ";
    let warnings = stats["warnings"].as_array().unwrap();
    let mut texts = warnings.iter().map(|text| text.as_str().unwrap());
    assert!(texts.any(|text| text.starts_with(warning)), "{warnings:?}");
    terminate(&mut server);

    let mut command = keyguard(dir.path(), &["serve", "--listen", "127.0.0.1:0"]);
    command.args(["--otlp-endpoint", "grpc://127.0.0.1:4317"]);
    assert_eq!(command.output().unwrap().status.code(), Some(2));
}
