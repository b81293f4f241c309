//! A hyper service behind the layer, over real sockets.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::server::{HttpResponse, connect, get, request, send};
use crate::common::{Home, key, key_limited_to, key_with};
use bytes::Bytes;
use http_body_util::{Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use keyguard::http::{IpLimitLayer, KeyGuardLayer, LimitedClient};
use keyguard::{ClientIp, Grant, IpLimit, KeyGuard, ListUsage, LockDuration, Policy, Reason};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Runtime;
use tower_layer::Layer;

/// Serves a handler; `$wrap` wraps it in layers for each connection.
macro_rules! serve {
    ($runtime:expr, $wrap:expr, $handler:expr) => {{
        let listener = $runtime.block_on(listen());
        let address = listener.local_addr().unwrap().to_string();
        let (wrap, handler) = ($wrap, $handler);
        $runtime.spawn(async move {
            loop {
                let (stream, peer) = listener.accept().await.unwrap();
                let service = wrap(peer, service_fn(handler.clone()));
                tokio::spawn(async move {
                    let _ = Builder::new(TokioExecutor::new())
                        .serve_connection_with_upgrades(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        address
    }};
}

/// Listens with a long queue: clients would retry a refused connection only after a second.
async fn listen() -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    socket.listen(4_096).unwrap()
}

/// A server whose handler responds with the id of the key and the identity header fields it received.
struct Served {
    address: String,
    handled: Arc<AtomicUsize>,
    _runtime: Runtime,
}

impl Served {
    fn new(kg: &KeyGuard) -> Self {
        let runtime = Runtime::new().unwrap();
        let handled = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&handled);
        let layer = KeyGuardLayer::new(kg.clone());
        let handler = move |request: Request<Incoming>| {
            count.fetch_add(1, Ordering::Relaxed);
            async move { Ok::<_, Infallible>(describe(&request)) }
        };
        let wrap = move |peer: SocketAddr, service| layer.for_peer(peer).layer(service);
        let address = serve!(runtime, wrap, handler);
        Self {
            address,
            handled,
            _runtime: runtime,
        }
    }

    fn get(&self, target: &str, fields: &[(&str, &str)]) -> HttpResponse {
        get(&self.address, target, fields)
    }

    fn handled(&self) -> usize {
        self.handled.load(Ordering::Relaxed)
    }
}

fn describe(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let grant = request.extensions().get::<Arc<Grant>>().unwrap();
    if request.uri().path() == "/write"
        && let Err(denial) = grant.require("write")
    {
        return denial.response();
    }
    let key = grant.key().map(|key| key.id.0);
    let forwarded: Vec<&str> = request
        .headers()
        .keys()
        .map(|name| name.as_str())
        .filter(|name| name.starts_with("x-keyguard"))
        .collect();
    let mut response = Response::new(Full::from(format!("{key:?} {forwarded:?}")));
    if request.uri().path() == "/teapot" {
        *response.status_mut() = StatusCode::IM_A_TEAPOT;
    }
    // The inner service may set the same header field.
    let value = HeaderValue::from_static("99999");
    response.headers_mut().insert("x-ratelimit-limit", value);
    response
}

#[test]
fn every_documented_status_is_sent() {
    let home = Home::new();
    let kg = home.open();
    let good = key_limited_to(&kg, 3);
    let text = good.raw_key.expose();
    let other = key(&kg);
    let revoked = key(&kg);
    kg.admin().revoke_key(revoked.key.id).unwrap();
    let served = Served::new(&kg);

    let missing = served.get("/", &[]);
    assert_eq!(missing.status, 401);
    assert_eq!(
        missing.field("www-authenticate"),
        r#"Bearer realm="api", ApiKey realm="api", header="X-API-Key""#
    );
    assert_eq!(missing.field("content-type"), "application/problem+json");
    assert!(missing.body.contains(r#""code":"missing_key""#));

    let mut bodies = Vec::new();
    for bad in ["nonsense", "", revoked.raw_key.expose(), &text[1..]] {
        let response = served.get("/", &[("X-API-Key", bad)]);
        assert_eq!(response.status, 401, "{bad}");
        if !bad.is_empty() {
            bodies.push(response.body);
        }
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1);

    let repeated = served.get("/", &[("X-API-Key", text), ("x-api-key", text)]);
    assert_eq!(repeated.status, 400);
    let bearer = format!("Bearer {}", other.raw_key.expose());
    let two = served.get("/", &[("X-API-Key", text), ("Authorization", &bearer)]);
    assert_eq!(two.status, 400);
    let oversized = served.get("/", &[("X-API-Key", &"k".repeat(300))]);
    assert_eq!(oversized.status, 400);
    // The server may refuse long heads itself.
    let huge = served.get("/", &[("X-API-Key", &"k".repeat(1 << 20))]);
    assert!([400, 431].contains(&huge.status), "{}", huge.status);
    let bytes: &[u8] =
        b"GET / HTTP/1.1\r\nHost: h\r\nX-API-Key: \xff\xfe\xd0\xba\r\nConnection: close\r\n\r\n";
    assert_eq!(send(&served.address, bytes).status, 401);
    assert_eq!(served.handled(), 0, "a refusal has reached the service");

    let admitted = served.get("/a?b=c", &[("X-API-Key", text)]);
    assert_eq!(admitted.status, 200);
    assert_eq!(admitted.body, format!("Some({}) []", good.key.id));
    assert_eq!(admitted.field("x-ratelimit-limit"), "3");
    assert_eq!(admitted.field("x-ratelimit-remaining"), "2");
    assert_eq!(admitted.field("ratelimit-policy"), r#""default";q=3;w=60"#);
    assert!(admitted.field("ratelimit").starts_with(r#""default";r=2;"#));

    let unscoped = served.get("/write", &[("X-API-Key", text)]);
    assert_eq!(unscoped.status, 403);
    assert!(unscoped.body.contains("missing_scope"));
    assert_eq!(served.get("/", &[("X-API-Key", text)]).status, 200);

    let exhausted = served.get("/", &[("X-API-Key", text)]);
    assert_eq!(exhausted.status, 429);
    let wait: u64 = exhausted.field("retry-after").parse().unwrap();
    assert!((1..=60).contains(&wait));
    assert_eq!(exhausted.field("x-ratelimit-remaining"), "0");
    home.clock.advance(Duration::from_secs(wait));
    assert_eq!(served.get("/", &[("X-API-Key", text)]).status, 200);

    kg.admin()
        .block("127.0.0.1".parse::<ClientIp>().unwrap(), None, day())
        .unwrap();
    let locked = served.get("/", &[("X-API-Key", text)]);
    assert_eq!(locked.status, 403);
    assert!(locked.has("retry-after"));
}

fn day() -> LockDuration {
    "24 hours".parse().unwrap()
}

#[test]
fn bearer_scheme_is_case_insensitive_and_other_tokens_are_ignored() {
    let home = Home::new();
    let kg = home.open();
    let good = key(&kg);
    let served = Served::new(&kg);
    for scheme in ["Bearer", "bearer", "BEARER", "bEaReR"] {
        let value = format!("{scheme} {}", good.raw_key.expose());
        let response = served.get("/", &[("Authorization", &value)]);
        assert_eq!(response.status, 200, "{scheme}");
    }
    let fields = [
        ("Authorization", "Bearer eyJhbGciOi.eyJzdWIi.c2ln"),
        ("X-API-Key", good.raw_key.expose()),
    ];
    assert_eq!(served.get("/", &fields).status, 200);
}

#[test]
fn identity_headers_from_clients_are_removed() {
    let home = Home::new();
    let kg = home.open();
    let good = key(&kg);
    let served = Served::new(&kg);
    let fields = [
        ("X-API-Key", good.raw_key.expose()),
        ("X-KeyGuard-Key-Id", "1"),
        ("x-keyguard-org", "acme"),
        ("X-KEYGUARD-ORG", "other"),
    ];
    let response = served.get("/", &fields);
    assert_eq!(response.body, format!("Some({}) []", good.key.id));
}

#[test]
fn identity_headers_from_clients_are_removed_by_the_ip_limit_in_every_spelling() {
    let home = Home::new();
    let kg = home.open();
    let runtime = Runtime::new().unwrap();
    let limit = IpLimit::new("login", "100/min").unwrap();
    let layer = IpLimitLayer::new(kg.clone(), limit);
    let handler = |request: Request<Incoming>| async move {
        let mut names: Vec<&str> = request.headers().keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(names.join(" "))))
    };
    let wrap = move |peer: SocketAddr, service| layer.for_peer(peer).layer(service);
    let address = serve!(runtime, wrap, handler);
    let fields = [
        ("X-KeyGuard-Key-Id", "1"),
        ("x-keyguard-org", "acme"),
        ("X_KeyGuard_Scopes", "admin"),
        ("X-KeyGuard_Ip", "192.0.2.1"),
        ("X-KeyGuardian", "mine"),
    ];
    let response = get(&address, "/login", &fields);
    assert_eq!(response.body, "connection host x-keyguardian");
}

#[test]
fn path_is_decided_with_the_prefix_that_a_router_removed() {
    let home = Home::new();
    let policy: Policy = r#"protect = ["/api"]"#.parse().unwrap();
    let kg = home.open_with(home.config().policy(policy));
    let good = key(&kg);
    let runtime = Runtime::new().unwrap();
    let layer = KeyGuardLayer::new(kg.clone()).prefix("/api/");
    let handler =
        |request: Request<Incoming>| async move { Ok::<_, Infallible>(describe(&request)) };
    let wrap = move |peer: SocketAddr, service| layer.for_peer(peer).layer(service);
    let address = serve!(runtime, wrap, handler);
    for target in ["/data", "/", "/..%2fweb"] {
        assert_eq!(get(&address, target, &[]).status, 401, "{target}");
    }
    let fields = [("X-API-Key", good.raw_key.expose())];
    assert_eq!(get(&address, "/data?x=1", &fields).status, 200);
    let usage = kg.admin().list_usage(ListUsage::new()).unwrap();
    assert_eq!(usage[0].path, "/api/data");
    assert_eq!(kg.admin().stats().unwrap().warnings, [""; 0]);
}

#[test]
fn protected_path_outside_every_layer_causes_a_warning() {
    let home = Home::new();
    let policy: Policy = r#"
        protect = ["/api", "/internal", "/*/both"]
        [[route]]
        name = "orders"
        path = "POST /orders"
        scopes = ["write"]
        [[route]]
        name = "login"
        path = "/login"
        ip_limits = ["3/min"]
    "#
    .parse()
    .unwrap();
    let kg = home.open_with(home.config().policy(policy));
    let unreached = || {
        let warnings = kg.admin().stats().unwrap().warnings;
        let mut texts = warnings
            .iter()
            .filter_map(|text| text.split_once(", which the policy protects"));
        let (patterns, _) = texts.next().unwrap_or_default();
        let patterns = patterns.split('`').skip(1).step_by(2);
        patterns.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(unreached(), [""; 0], "there is no layer yet");
    let layer = KeyGuardLayer::new(kg.clone());
    drop(layer.clone().prefix("/api").layer(()));
    assert_eq!(unreached(), ["/internal", "POST /orders"]);
    // Several layers of one guard may cover the policy together, and the policy may change.
    drop(layer.clone().prefix("/internal/v1").layer(()));
    assert_eq!(unreached(), ["POST /orders"]);
    kg.admin()
        .set_policy(r#"protect = ["/apis"]"#.parse().unwrap())
        .unwrap();
    assert_eq!(unreached(), ["/apis"]);
    drop(layer.layer(()));
    assert_eq!(unreached(), [""; 0]);
}

#[test]
fn second_layer_reuses_the_grant_of_the_same_guard() {
    let (home, elsewhere) = (Home::new(), Home::new());
    let (kg, other) = (home.open(), elsewhere.open());
    let good = key_limited_to(&kg, 10);
    let runtime = Runtime::new().unwrap();
    let (layer, foreign) = (
        KeyGuardLayer::new(kg.clone()),
        KeyGuardLayer::new(other.clone()),
    );
    let handler =
        |request: Request<Incoming>| async move { Ok::<_, Infallible>(describe(&request)) };
    let fetch =
        |address: &str, target: &str| get(address, target, &[("X-API-Key", good.raw_key.expose())]);

    let own = layer.clone();
    let wrap = move |peer: SocketAddr, service| {
        let own = own.for_peer(peer);
        own.layer(own.layer(own.layer(service)))
    };
    let address = serve!(runtime, wrap, handler);
    let admitted = fetch(&address, "/");
    assert_eq!(admitted.body, format!("Some({}) []", good.key.id));
    assert_eq!(admitted.field("x-ratelimit-remaining"), "9");
    // The outer layer has decided about the missing key.
    assert_eq!(fetch(&address, "/write").status, 403);
    let usage = kg.admin().list_usage(ListUsage::new()).unwrap();
    let mut statuses: Vec<u16> = usage.iter().map(|usage| usage.status).collect();
    // Requests of different threads are recorded in any order.
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 403]);
    assert_eq!(kg.admin().key_limits(good.key.id).unwrap()[0].remaining, 8);

    // The other guard does not know the key.
    let own = layer.clone();
    let wrap = move |peer: SocketAddr, service| {
        let foreign = foreign.for_peer(peer);
        own.for_peer(peer).layer(foreign.layer(service))
    };
    let address = serve!(runtime, wrap, handler);
    assert_eq!(fetch(&address, "/").status, 401);

    // A rewritten request is a different request.
    let own = layer.clone();
    let wrap = move |peer: SocketAddr, service| {
        let own = own.for_peer(peer);
        let inner = own.layer(service);
        own.layer(service_fn(move |mut request: Request<Incoming>| {
            *request.uri_mut() = "/elsewhere".parse().unwrap();
            hyper::service::Service::call(&inner, request)
        }))
    };
    let address = serve!(runtime, wrap, handler);
    assert_eq!(fetch(&address, "/").status, 200);
    assert_eq!(kg.admin().key_limits(good.key.id).unwrap()[0].remaining, 5);
}

#[test]
fn unusual_requests_are_decided_by_their_path() {
    let home = Home::new();
    let policy = r#"protect = ["/api"]"#.parse::<Policy>().unwrap();
    let kg = home.open_with(home.config().policy(policy));
    let good = key(&kg);
    let served = Served::new(&kg);
    let text = good.raw_key.expose();
    let fetch = |line: &str, fields: &str| {
        let request = format!("{line}\r\n{fields}Connection: close\r\n\r\n");
        send(&served.address, request.as_bytes()).status
    };
    let key = format!("X-API-Key: {text}\r\n");
    let host = "Host: localhost\r\n";

    assert_eq!(fetch("GET /open HTTP/1.1", host), 200);
    for spelling in [
        "/api",
        "/api/x",
        "//api/x",
        "/%61pi/x",
        "/open/../api",
        "/API/..%2fapi",
    ] {
        let line = format!("GET {spelling} HTTP/1.1");
        assert_eq!(fetch(&line, host), 401, "{spelling}");
        assert_eq!(fetch(&line, &format!("{host}{key}")), 200, "{spelling}");
    }
    assert_eq!(fetch("GET /apiary HTTP/1.1", host), 200);
    // In too many ways, by any of which it may be protected or not.
    let line = format!("GET /open/%{}61 HTTP/1.1", "25".repeat(40));
    assert_eq!(fetch(&line, &format!("{host}{key}")), 400);
    // The path of the absolute form (RFC 9112 §3.2.2) counts.
    assert_eq!(fetch("GET http://elsewhere/api/x HTTP/1.1", host), 401);
    assert_eq!(fetch("GET http://elsewhere/open HTTP/1.1", host), 200);
    // A path in `Host` does not count.
    assert_eq!(
        fetch("GET /api/x HTTP/1.1", "Host: localhost/open\r\n"),
        401
    );
    assert_eq!(
        fetch("GET /api/x HTTP/1.1", "Host: localhost:80/open?\r\n"),
        401
    );
    // The query does not count.
    assert_eq!(fetch("GET /open?/api HTTP/1.1", host), 200);
    assert_eq!(fetch("GET /api?/open HTTP/1.1", host), 401);
    // Protection applies to every method.
    for method in ["HEAD", "POST", "DELETE", "PROPFIND", "OPTIONS"] {
        let line = format!("{method} /api/x HTTP/1.1");
        let head = format!("{line}\r\n{host}Connection: close\r\n\r\n");
        let mut stream = connect(&served.address);
        stream.write_all(head.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 401"), "{method}: {text}");
        let body = text.split_once("\r\n\r\n").unwrap().1;
        assert_eq!(body.is_empty(), method == "HEAD", "{method}");
    }
}

#[test]
fn conflicting_lengths_smuggle_no_second_request() {
    let home = Home::new();
    let kg = home.open();
    let good = key(&kg);
    let served = Served::new(&kg);
    // With `Content-Length`, the rest of the body would become the next request.
    let next = format!(
        "GET /teapot HTTP/1.1\r\nHost: h\r\nX-API-Key: {}\r\nConnection: close\r\n\r\n",
        good.raw_key.expose()
    );
    let disputed = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\
        Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let mut stream = connect(&served.address);
    stream
        .write_all(format!("{disputed}{next}").as_bytes())
        .unwrap();
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    let statuses: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("HTTP/1.1 "))
        .map(|status| &status[..3])
        .collect();
    // The server refuses the message or reads its chunks; it may close the connection.
    let sound: [&[&str]; 3] = [&["400"], &["401"], &["401", "418"]];
    assert!(sound.contains(&statuses.as_slice()), "{statuses:?}");
}

#[test]
fn preflight_request_passes_without_a_key_or_a_failure() {
    let home = Home::new();
    let kg = home.open_with(home.config().lockout_threshold(2));
    let good = key(&kg);
    let served = Served::new(&kg);
    let requests = [
        ("Origin", "https://shop.example"),
        ("Access-Control-Request-Method", "GET"),
    ];
    for _ in 0..5 {
        let response = request(&served.address, "OPTIONS", "/a", &requests, "");
        assert_eq!((response.status, response.body.as_str()), (200, "None []"));
    }
    // A request without both header fields, or with a key, is no preflight request.
    let response = request(&served.address, "OPTIONS", "/a", &requests[..1], "");
    assert_eq!(response.status, 401);
    let with_guess = [requests[0], requests[1], ("X-API-Key", "guess")];
    let response = request(&served.address, "OPTIONS", "/a", &with_guess, "");
    assert_eq!(response.status, 401);
    // The same header fields have no effect on other methods.
    assert_eq!(served.get("/a", &requests).status, 401);
    let fields = [("X-API-Key", good.raw_key.expose())];
    assert_eq!(served.get("/a", &fields).status, 200);
    // Locks apply to preflight requests, too.
    kg.admin()
        .block("127.0.0.1".parse::<ClientIp>().unwrap(), None, day())
        .unwrap();
    let response = request(&served.address, "OPTIONS", "/a", &requests, "");
    assert_eq!(response.status, 403);
}

#[test]
fn status_and_latency_are_recorded_at_the_response_head() {
    let home = Home::new();
    let kg = home.open();
    let good = key(&kg);
    let served = Served::new(&kg);
    let fields = [("X-API-Key", good.raw_key.expose())];
    served.get("/teapot", &fields);
    served.get("/write?secret=1", &fields);
    let usage = kg.admin().list_usage(ListUsage::new()).unwrap();
    let mut seen: Vec<_> = usage
        .iter()
        .map(|row| {
            (
                row.status,
                row.path.as_str(),
                row.method.as_str(),
                row.refused,
            )
        })
        .collect();
    // Two threads may have responded.
    seen.sort_unstable_by_key(|(_, path, ..)| *path);
    let expected = [
        (418, "/teapot", "GET", None),
        (403, "/write", "GET", Some(Reason::MissingScope)),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn request_is_in_flight_until_its_response_body_is_sent() {
    let home = Home::new();
    let kg = home.open();
    let good = key_with(&kg, |key| key.limits(vec!["1 concurrent"]));
    let runtime = Runtime::new().unwrap();
    let layer = KeyGuardLayer::new(kg.clone());
    let (sender, receiver) = tokio::sync::mpsc::channel::<()>(8);
    let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
    let handler = move |_: Request<Incoming>| {
        let receiver = Arc::clone(&receiver);
        async move {
            let chunks = one_late_chunk(receiver);
            Ok::<_, Infallible>(Response::new(StreamBody::new(chunks)))
        }
    };
    let wrap = move |peer: SocketAddr, service| layer.for_peer(peer).layer(service);
    let address = serve!(runtime, wrap, handler);

    let head = format!(
        "GET / HTTP/1.1\r\nHost: h\r\nX-API-Key: {}\r\n\r\n",
        good.raw_key.expose()
    );
    let mut streaming = connect(&address);
    streaming.write_all(head.as_bytes()).unwrap();
    let mut first = [0; 12];
    streaming.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    // The head is recorded, but the slot is still occupied.
    assert_eq!(kg.admin().list_usage(ListUsage::new()).unwrap().len(), 1);
    assert_eq!(send(&address, head.as_bytes()).status, 429);
    sender.blocking_send(()).unwrap();
    let mut text = Vec::new();
    while !text.ends_with(b"0\r\n\r\n") {
        let mut byte = [0];
        streaming.read_exact(&mut byte).unwrap();
        text.push(byte[0]);
    }
    sender.blocking_send(()).unwrap();
    let mut next = connect(&address);
    next.write_all(head.as_bytes()).unwrap();
    next.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
}

/// A body of one chunk, which the test sends.
fn one_late_chunk(
    receiver: Arc<tokio::sync::Mutex<tokio::sync::mpsc::Receiver<()>>>,
) -> impl futures_core::Stream<Item = Result<Frame<Bytes>, Infallible>> {
    futures_util::stream::once(async move {
        receiver.lock().await.recv().await;
        Ok(Frame::data(Bytes::from_static(b"late")))
    })
}

#[test]
fn upgrade_requires_a_key() {
    let home = Home::new();
    let kg = home.open();
    let good = key(&kg);
    let runtime = Runtime::new().unwrap();
    let layer = KeyGuardLayer::new(kg.clone());
    let handler = |request: Request<Incoming>| async move {
        tokio::spawn(async move {
            let upgraded = hyper::upgrade::on(request).await.unwrap();
            let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
            tokio::io::copy(&mut reader, &mut writer).await.unwrap();
        });
        let mut response = Response::new(Full::<Bytes>::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert("upgrade", HeaderValue::from_static("websocket"));
        headers.insert("connection", HeaderValue::from_static("upgrade"));
        Ok::<_, Infallible>(response)
    };
    let wrap = move |peer: SocketAddr, service| layer.for_peer(peer).layer(service);
    let address = serve!(runtime, wrap, handler);

    let upgrade = "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    assert_eq!(
        send(&address, format!("{upgrade}\r\n").as_bytes()).status,
        401
    );
    let mut stream = connect(&address);
    let key = format!("{upgrade}X-API-Key: {}\r\n\r\n", good.raw_key.expose());
    stream.write_all(key.as_bytes()).unwrap();
    let response = HttpResponse::read_from(&mut stream).unwrap();
    assert_eq!(response.status, 101);
    stream.write_all(b"hello").unwrap();
    let mut echo = [0; 5];
    stream.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"hello");
    let usage = kg.admin().list_usage(ListUsage::new()).unwrap();
    assert_eq!(usage[0].status, 101);
}

#[test]
fn ip_limit_applies_to_a_route_and_its_handler_can_block() {
    let home = Home::new();
    let kg = home.open();
    let runtime = Runtime::new().unwrap();
    let layer = |name| {
        let limit = IpLimit::new(name, "3/min").unwrap();
        let layer = IpLimitLayer::new(kg.clone(), limit.lockout(day()).unwrap());
        move |peer: SocketAddr, service| layer.for_peer(peer).layer(service)
    };
    let guard = kg.clone();
    let handler = move |request: Request<Incoming>| {
        let guard = guard.clone();
        async move {
            let LimitedClient(client) = *request.extensions().get().unwrap();
            if request.uri().query() == Some("block") {
                guard.admin().block(client, None, day()).unwrap();
            }
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(client.to_string())))
        }
    };
    let other_handler = handler.clone();
    let address = serve!(runtime, layer("login"), handler);
    let other = serve!(runtime, layer("other"), other_handler);

    for _ in 0..3 {
        let response = get(&address, "/login", &[]);
        assert_eq!(
            (response.status, response.body.as_str()),
            (200, "127.0.0.1")
        );
    }
    let limited = get(&address, "/login", &[]);
    assert_eq!(limited.status, 429);
    assert_eq!(limited.field("retry-after"), "86400");
    assert_eq!(get(&address, "/login", &[]).status, 403);
    home.clock.advance(Duration::from_secs(61));
    assert_eq!(get(&address, "/login", &[]).status, 403, "locked out");
    assert_eq!(
        get(&address, "/login/x", &[]).status,
        403,
        "whatever the path"
    );
    assert_eq!(
        get(&other, "/login", &[]).status,
        200,
        "of that limit alone"
    );
    assert_eq!(get(&other, "/other?block", &[]).status, 200);
    assert_eq!(get(&other, "/other", &[]).status, 403);
    assert_eq!(kg.admin().list_blocks().len(), 2);
}

#[test]
fn requests_without_peer_address_are_refused() {
    let home = Home::new();
    let kg = home.open();
    let good = key(&kg);
    let runtime = Runtime::new().unwrap();
    let layer = KeyGuardLayer::new(kg.clone());
    let handler = |_: Request<Incoming>| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    };
    let wrap = move |_: SocketAddr, service| layer.layer(service);
    let address = serve!(runtime, wrap, handler);
    let response = get(&address, "/", &[("X-API-Key", good.raw_key.expose())]);
    assert_eq!(response.status, 500);
    assert!(response.body.contains("peer_unknown"));
    assert!(
        response
            .body
            .contains("into_make_service_with_connect_info")
    );
    let warnings = kg.admin().stats().unwrap().warnings;
    assert!(warnings.iter().any(|text| text.contains("for_peer")));
}

#[test]
fn two_thousand_keep_alive_connections_are_answered() {
    const CONNECTIONS: usize = 2_000;
    rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit {
            current: rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum,
            ..rustix::process::getrlimit(rustix::process::Resource::Nofile)
        },
    )
    .unwrap();
    let home = Home::new();
    let kg = home.open();
    let good = key_limited_to(&kg, 1_000_000);
    let served = Served::new(&kg);
    let head = format!(
        "GET / HTTP/1.1\r\nHost: h\r\nX-API-Key: {}\r\n\r\n",
        good.raw_key.expose()
    );
    let mut streams: Vec<_> = (0..CONNECTIONS).map(|_| connect(&served.address)).collect();
    for _ in 0..2 {
        for stream in &mut streams {
            stream.write_all(head.as_bytes()).unwrap();
        }
        for stream in &mut streams {
            assert_eq!(HttpResponse::read_from(stream).unwrap().status, 200);
        }
    }
    drop(streams);
    assert_eq!(served.handled(), 2 * CONNECTIONS);
    assert_eq!(kg.admin().stats().unwrap().requests, 2 * CONNECTIONS as u64);
}

#[test]
fn refused_grpc_requests_get_a_grpc_status() {
    let home = Home::new();
    let kg = home.open();
    let good = key_limited_to(&kg, 1);
    let served = Served::new(&kg);
    let call = |key: &str| {
        let kind = ("Content-Type", "application/grpc+proto");
        served.get("/shop.Orders/List", &[kind, ("X-API-Key", key)])
    };

    let unknown = call("nonsense");
    assert_eq!((unknown.status, unknown.body.as_str()), (200, ""));
    assert_eq!(unknown.field("content-type"), "application/grpc+proto");
    assert_eq!(unknown.field("grpc-status"), "16");
    assert_eq!(unknown.field("grpc-message"), "The API key is not valid.");
    assert!(!unknown.has("grpc-retry-pushback-ms"));
    // A cache stores responses with status 200.
    assert_eq!(unknown.field("cache-control"), "no-store");

    let key = good.raw_key.expose();
    assert!(!call(key).has("grpc-status"));
    let limited = call(key);
    assert_eq!((limited.status, limited.field("grpc-status")), (200, "8"));
    assert_eq!(limited.field("retry-after"), "60");
    assert_eq!(limited.field("grpc-retry-pushback-ms"), "60000");

    let client: ClientIp = "127.0.0.1".parse().unwrap();
    kg.admin().block(client, None, day()).unwrap();
    assert_eq!(call(key).field("grpc-status"), "7");
    // What was recorded is the reason, not the status of the response.
    let usage = kg.admin().list_usage(ListUsage::new()).unwrap();
    let reasons = usage.iter().map(|usage| usage.refused);
    assert_eq!(reasons.flatten().collect::<Vec<_>>(), [Reason::RateLimited]);
}
