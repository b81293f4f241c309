//! `/auth`: decisions for proxies that ask before they forward a request.
//!
//! | proxy | original URI | original method |
//! |---|---|---|
//! | nginx `auth_request` | `X-Original-URI` | `X-Original-Method` |
//! | Caddy, Traefik | `X-Forwarded-Uri` | `X-Forwarded-Method` |
//! | Envoy `ext_authz` | the path after `/auth` | the method of the request |
//!
//! All send the client in the header field that the policy calls `client_ip_header`, by default
//! `X-Forwarded-For`. Missing, repeated or conflicting values are refused with status 403, or 400 if the
//! field of the client is invalid.
//!
//! An admission always has five header fields for the server behind the proxy: `X-KeyGuard-Key-Id`,
//! `X-KeyGuard-Org-Id`, `X-KeyGuard-Org`, `X-KeyGuard-Scopes` and `X-KeyGuard-Ip`. Without a key all but
//! the last are empty.

use std::fmt::Write;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, Response, StatusCode};
use http_body_util::Full;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::otlp::note_reason;
use crate::guard::{
    Denial, Grant, Headers, Request, named_by_proxy, push_number, refuse_unreadable,
};
use crate::http::problem::Problem;
use crate::http::response::{HttpResult, set_grant_headers, set_headers, set_values};
use crate::keyguard::KeyGuard;
use crate::net::{CidrSet, ClientIp, forwarded};

const PATH: &str = "/auth";

/// The header field with the actual status, for proxies that accept only 401 and 403.
const STATUS_HEADER: &str = "X-KeyGuard-Status";

pub(super) fn is_path(path: &str) -> bool {
    path.strip_prefix(PATH)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

pub(super) async fn respond(guard: &KeyGuard, trusted: &CidrSet, parts: &Parts) -> HttpResult {
    let original = OriginalRequest::read(parts)?;
    let compiled = guard.inner.compiled_full();
    let client = match named_by_proxy(&guard.inner, trusted, &compiled, &parts.headers) {
        Ok(Some(client)) => client,
        Ok(None) => {
            let header = compiled.source.client_ip_header.name();
            return Err(unclear(&format!("`{header}` does not contain the client")));
        }
        Err(_) => {
            let request = Request::new(&parts.headers, ClientIp::LOCAL, original.uri);
            let request = request.method(original.method);
            let denial = refuse_unreadable(&guard.inner, &request);
            return Ok(refused(&denial, original.is_nginx));
        }
    };
    let is_trusted = compiled.source.trusted_proxies.contains(client.ip);
    let headers = ClientHeaders {
        headers: &parts.headers,
        // A proxy farther out, trusted or not, may have forwarded the request.
        has_forwarding_headers: is_trusted || client.before.is_some(),
    };
    let mut request = Request::new(&headers, client.ip, original.uri).method(original.method);
    if !is_trusted {
        request = request.named_by_proxy();
    }
    Ok(match guard.decide_async(request).await {
        Ok(grant) => admitted(grant),
        Err(denial) => refused(&denial, original.is_nginx),
    })
}

/// The request that the client sent to the proxy.
struct OriginalRequest<'p> {
    uri: &'p str,
    method: &'p str,
    /// Whether nginx sent it, which accepts only refusals with 401 and 403.
    is_nginx: bool,
}

impl<'p> OriginalRequest<'p> {
    fn read(parts: &'p Parts) -> Result<Self, Problem> {
        static ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
        static FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
        static ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
        static FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");

        let headers = &parts.headers;
        let target = parts.uri.path_and_query();
        let target = target.map_or("", |target| target.as_str());
        let envoy = target.strip_prefix(PATH);
        let envoy = envoy.filter(|rest| rest.starts_with('/'));
        let nginx = single_value(headers, &ORIGINAL_URI)?;
        let uris = [envoy, nginx, single_value(headers, &FORWARDED_URI)?];
        let methods = [
            envoy.map(|_| parts.method.as_str()),
            single_value(headers, &ORIGINAL_METHOD)?,
            single_value(headers, &FORWARDED_METHOD)?,
        ];
        let uri = only("the original URI", uris)?;
        if !uri.starts_with('/') && uri != "*" {
            return Err(unclear("the original URI must start with `/`"));
        }
        Ok(Self {
            uri,
            method: only("the original method", methods)?,
            is_nginx: nginx.is_some(),
        })
    }
}

/// Returns the value of a header field that may occur once.
fn single_value<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, Problem> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            let text = value.to_str();
            text.map(Some)
                .map_err(|_| unclear(&format!("`{name}` must be ASCII")))
        }
        _ => Err(unclear(&format!("`{name}` must occur once only"))),
    }
}

/// Returns the one value that all sources agree on.
fn only<'h>(what: &str, sources: [Option<&'h str>; 3]) -> Result<&'h str, Problem> {
    let mut values = sources.into_iter().flatten();
    let Some(first) = values.next() else {
        return Err(unclear(&format!("{what} is missing")));
    };
    match values.all(|other| other == first) {
        true => Ok(first),
        false => Err(unclear(&format!("there are conflicting values for {what}"))),
    }
}

fn unclear(problem: &str) -> Problem {
    let detail =
        format!("Invalid request of the proxy: {problem}. Correct the proxy's configuration.");
    Problem::new(StatusCode::FORBIDDEN, "unclear_request", detail)
}

/// The header fields of the client, without those that the proxy added.
struct ClientHeaders<'h> {
    headers: &'h HeaderMap,
    has_forwarding_headers: bool,
}

impl Headers for ClientHeaders<'_> {
    fn header_values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let mut forwarding = forwarded::KNOWN_FIELDS.iter();
        let is_hidden = !self.has_forwarding_headers
            && forwarding.any(|known| known.eq_ignore_ascii_case(name));
        let values = (!is_hidden).then(|| self.headers.header_values(name));
        values.into_iter().flatten()
    }
}

fn admitted(grant: Grant) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    let headers = response.headers_mut();
    set_grant_headers(headers, &grant);
    set_identity(headers, &grant);
    // The status of the server behind the proxy is unknown.
    grant.finish(200);
    response
}

/// Sets the identity of the client. All fields are always present, so that a proxy that copies them
/// replaces fields of the same names from the client.
fn set_identity(headers: &mut HeaderMap, grant: &Grant) {
    const NAMES: [HeaderName; 5] = [
        HeaderName::from_static("x-keyguard-key-id"),
        HeaderName::from_static("x-keyguard-org-id"),
        HeaderName::from_static("x-keyguard-org"),
        HeaderName::from_static("x-keyguard-scopes"),
        HeaderName::from_static("x-keyguard-ip"),
    ];
    // Organization names may contain characters that header fields must not.
    const ENCODED: &AsciiSet = &CONTROLS.add(b'%');

    let mut text = String::with_capacity(128);
    let mut ends = [0; 5];
    if let Some(key) = grant.key() {
        push_number(&mut text, key.id.0);
    }
    ends[0] = text.len();
    if let Some(org) = grant.org() {
        push_number(&mut text, org.id.0);
        ends[1] = text.len();
        text.extend(utf8_percent_encode(&org.name, ENCODED));
    }
    ends[2] = text.len();
    for (number, scope) in grant.scopes().iter().enumerate() {
        text.push_str(if number == 0 { "" } else { " " });
        text.push_str(scope.as_str());
    }
    ends[3] = text.len();
    // Writing to a `String` never fails.
    let _ = write!(text, "{}", grant.ip());
    ends[4] = text.len();
    set_values(headers, text, NAMES.into_iter().zip(ends));
}

fn refused(denial: &Denial, is_nginx: bool) -> Response<Full<Bytes>> {
    let mut response: Response<Full<Bytes>> = denial.response();
    note_reason(&mut response, denial.reason());
    let status = vec![(STATUS_HEADER, denial.status().to_string())];
    set_headers(response.headers_mut(), status);
    if is_nginx && denial.status() != 401 {
        *response.status_mut() = StatusCode::FORBIDDEN;
    }
    response
}
