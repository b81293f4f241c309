//! Requests of administrators: HTTP, and frames of the socket.

use std::cell::RefCell;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tower_service::Service;

use super::{directory, small};
use crate::admin::wire;
use crate::http::AdminService;
use crate::keyguard::KeyGuard;
use crate::net::ClientIp;
use crate::sys::block_on;

/// The byte that stands for the admin key in header values.
const ADMIN_KEY: u8 = 1;

const ADMIN_KEY_TEXT: &str = "an admin key of the fuzz target";

/// The number of inputs after which the data file is created anew, so that it stays small.
const INPUTS_PER_FILE: u32 = 5_000;

/// Calls a function with a guard that several inputs share.
fn with_guard(call: impl FnOnce(&KeyGuard)) {
    thread_local! {
        static GUARD: RefCell<Option<(KeyGuard, u32)>> = const { RefCell::new(None) };
    }
    GUARD.with_borrow_mut(|guard| {
        let (kg, inputs) = guard.get_or_insert_with(|| (new_guard(), 0));
        call(kg);
        *inputs += 1;
        if *inputs == INPUTS_PER_FILE {
            *guard = None;
        }
    });
}

fn new_guard() -> KeyGuard {
    let file = directory().join("admin.redb");
    let _ = std::fs::remove_file(&file);
    let config = small().admin_key(ADMIN_KEY_TEXT);
    let kg = KeyGuard::open(file, config).expect("a new file");
    kg.admin().create_org("acme").expect("a new organization");
    kg
}

/// Sends a request to the admin service: a line `METHOD TARGET`, lines `NAME:VALUE` of header fields, an empty
/// line and a body.
pub fn admin_request(data: &[u8]) {
    let Some(request) = parsed(data) else {
        return;
    };
    let keys = request.headers().get_all("x-admin-key").iter();
    let is_admin = keys
        .map(|key| key.as_bytes())
        .eq([ADMIN_KEY_TEXT.as_bytes()]);
    let path = request.uri().path().to_owned();
    with_guard(|kg| {
        let mut service = AdminService::new(kg.clone()).for_peer(ClientIp::LOCAL);
        let Ok(response) = block_on(service.call(request));
        let status = response.status();
        assert!(status.as_u16() < 500, "{path}: {status}");
        assert!(is_admin || !status.is_success(), "{path}: {status}");
        if status != StatusCode::NO_CONTENT {
            let Ok(body) = block_on(response.into_body().collect());
            let body: Result<serde_json::Value, _> = serde_json::from_slice(&body.to_bytes());
            assert!(body.is_ok(), "{path}: {body:?}");
        }
    });
}

fn parsed(data: &[u8]) -> Option<Request<Full<Bytes>>> {
    let head_len = data.windows(2).position(|bytes| bytes == b"\n\n");
    let head_len = head_len.unwrap_or(data.len());
    let (head, body) = data.split_at(head_len);
    let body = body.get(2..).unwrap_or_default().to_vec();
    let mut lines = head.split(|byte| *byte == b'\n');
    let mut words = lines.next()?.splitn(2, |byte| *byte == b' ');
    let mut request = Request::builder().method(words.next()?).uri(words.next()?);
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let value = match &line[colon + 1..] {
            [ADMIN_KEY] => ADMIN_KEY_TEXT.as_bytes(),
            value => value,
        };
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        request = request.header(name, HeaderValue::from_bytes(value).ok()?);
    }
    request.body(Full::new(body.into())).ok()
}

/// Handles bytes as frames of the socket.
pub fn socket_frame(data: &[u8]) {
    let mut stream = data;
    while let Ok(Some(request)) = wire::read(&mut stream) {
        run(request);
    }
    // The same bytes as a command in a valid frame.
    if let Ok(command) = serde_json::from_slice(data) {
        run(wire::Request {
            version: wire::VERSION,
            command,
        });
    }
    // The same bytes as replies.
    let mut stream = data;
    while let Ok(Some(response)) = wire::read::<wire::Response>(&mut stream) {
        let mut written = Vec::new();
        wire::write(&mut written, &response).expect("a reply that was read can be written");
        let again = wire::read::<wire::Response>(&mut written.as_slice());
        assert!(matches!(again, Ok(Some(_))));
    }
}

fn run(request: wire::Request) {
    if let Ok(command) = request.into_command() {
        with_guard(|guard| {
            let _ = command.run(&guard.admin());
        });
    }
}
