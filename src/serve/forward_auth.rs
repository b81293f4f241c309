//! `/auth`: verdicts for proxies that ask before they hand a request on.
//!
//! | proxy | says where the request goes to by | and with which method by |
//! |---|---|---|
//! | nginx `auth_request` | `X-Original-URI` | `X-Original-Method` |
//! | Caddy, Traefik | `X-Forwarded-Uri` | `X-Forwarded-Method` |
//! | Envoy `ext_authz` | the path behind `/auth` | its own method |
//!
//! All name the client in the field that the policy calls `client_ip_header`, by default
//! `X-Forwarded-For`. What is missing, is said twice or is said in two different ways is not guessed:
//! the request is refused with 403, or with 400 if the field for the client cannot be read.
//!
//! An admission carries five fields for the server behind the proxy, all of them always:
//! `X-KeyGuard-Key-Id`, `X-KeyGuard-Org-Id`, `X-KeyGuard-Org`, `X-KeyGuard-Scopes` and
//! `X-KeyGuard-Ip`. Without a key all but the last are empty.

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;

use crate::guard::{Denial, Grant, Headers, Request};
use crate::http::problem::Problem;
use crate::http::response::set_headers;
use crate::keyguard::KeyGuard;
use crate::net::CidrSet;
use crate::net::forwarded;

pub(super) const PATH: &str = "/auth";
pub(super) const BELOW: &str = "/auth/";

/// The status that was meant, where a proxy hands on nothing but 401 and 403.
const MEANT: &str = "X-KeyGuard-Status";

pub(super) async fn answer(
    guard: &KeyGuard,
    trusted: &CidrSet,
    parts: &Parts,
) -> Result<Response<Full<Bytes>>, Problem> {
    let asked = Asked::read(parts)?;
    let compiled = guard.inner.compiled_full();
    let named = guard.inner.client_by(trusted, &compiled, &parts.headers);
    let named = match named {
        Ok(Some(named)) => named,
        Ok(None) => {
            let header = compiled.policy.client_ip_header.name();
            return Err(unclear(&format!("`{header}` does not say who asks")));
        }
        Err(reason) => {
            let peer = crate::net::ClientIp::LOCAL;
            let request = Request::new(&parts.headers, peer, asked.uri).method(asked.method);
            let denial = guard.inner.refuse_unnamed(&request, reason);
            return Ok(refused(&denial, asked.is_narrow));
        }
    };
    let is_trusted = guard.inner.trusts(named.ip);
    let headers = Forwarded {
        headers: &parts.headers,
        // A proxy further out may speak for somebody too, trusted or not.
        shows_hops: is_trusted || named.before.is_some(),
    };
    let mut request = Request::new(&headers, named.ip, asked.uri).method(asked.method);
    if !is_trusted {
        request = request.named_by_proxy();
    }
    Ok(match guard.decide_async(request).await {
        Ok(grant) => admitted(grant),
        Err(denial) => refused(&denial, asked.is_narrow),
    })
}

/// What the proxy was asked for.
struct Asked<'p> {
    uri: &'p str,
    method: &'p str,
    /// The proxy hands on no refusals but 401 and 403.
    is_narrow: bool,
}

impl<'p> Asked<'p> {
    fn read(parts: &'p Parts) -> Result<Self, Problem> {
        let headers = &parts.headers;
        let target = parts
            .uri
            .path_and_query()
            .map_or("", |target| target.as_str());
        let behind = target
            .strip_prefix(PATH)
            .filter(|rest| rest.starts_with('/'));
        let of_nginx = one(headers, "x-original-uri")?;
        let uri = agreed(
            "the original URI",
            [behind, of_nginx, one(headers, "x-forwarded-uri")?],
        )?;
        let method = agreed(
            "the original method",
            [
                behind.map(|_| parts.method.as_str()),
                one(headers, "x-original-method")?,
                one(headers, "x-forwarded-method")?,
            ],
        )?;
        if !uri.starts_with('/') && uri != "*" {
            return Err(unclear("the original URI has no path"));
        }
        Ok(Self {
            uri,
            method,
            is_narrow: of_nginx.is_some(),
        })
    }
}

/// The value of a field, which is there once at most.
fn one<'h>(headers: &'h HeaderMap, name: &'static str) -> Result<Option<&'h str>, Problem> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            let text = value.to_str();
            text.map(Some)
                .map_err(|_| unclear(&format!("{name} is not ASCII")))
        }
        _ => Err(unclear(&format!("{name} is there twice"))),
    }
}

/// What all say that say something.
fn agreed<'h>(what: &str, said: [Option<&'h str>; 3]) -> Result<&'h str, Problem> {
    let mut said = said.into_iter().flatten();
    let Some(first) = said.next() else {
        return Err(unclear(&format!("{what} is not said")));
    };
    match said.all(|other| other == first) {
        true => Ok(first),
        false => Err(unclear(&format!("{what} is said in two different ways"))),
    }
}

fn unclear(problem: &str) -> Problem {
    let detail = format!("The proxy has to be set up otherwise: {problem}.");
    Problem::new(StatusCode::FORBIDDEN, "unclear_request", detail)
}

/// The fields of a request that the guard is to see.
struct Forwarded<'h> {
    headers: &'h HeaderMap,
    shows_hops: bool,
}

impl Headers for Forwarded<'_> {
    fn header_values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let mut hops = forwarded::KNOWN_FIELDS.iter();
        let is_hidden = !self.shows_hops && hops.any(|hop| hop.eq_ignore_ascii_case(name));
        let values = (!is_hidden).then(|| self.headers.header_values(name));
        values.into_iter().flatten()
    }
}

fn admitted(grant: Grant) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    let headers = response.headers_mut();
    set_headers(headers, grant.headers());
    for (name, value) in identity(&grant) {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    // How the server behind will answer is not known here.
    grant.finish(200);
    response
}

/// The identity of the client, for the server behind the proxy. Every field is there, empty where
/// nothing is known: a proxy that copies it replaces what the client sent by its name.
fn identity(grant: &Grant) -> [(&'static str, String); 5] {
    let key = grant.key().map(|key| key.id.to_string());
    let org = grant.org();
    let scopes: Vec<&str> = grant.scopes().iter().map(|scope| scope.as_str()).collect();
    [
        ("x-keyguard-key-id", key.unwrap_or_default()),
        (
            "x-keyguard-org-id",
            org.map(|org| org.id.to_string()).unwrap_or_default(),
        ),
        (
            "x-keyguard-org",
            org.map(|org| encoded(&org.name)).unwrap_or_default(),
        ),
        ("x-keyguard-scopes", scopes.join(" ")),
        ("x-keyguard-ip", grant.ip().to_string()),
    ]
}

/// Names may hold what header fields do not: everything but printable ASCII, and `%`, is written as
/// `%` and two hexadecimal digits a byte.
fn encoded(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => text.push(char::from(byte)),
            _ => text += &format!("%{byte:02X}"),
        }
    }
    text
}

fn refused(denial: &Denial, is_narrow: bool) -> Response<Full<Bytes>> {
    let mut response: Response<Full<Bytes>> = denial.response();
    let meant = vec![(MEANT, denial.status().to_string())];
    set_headers(response.headers_mut(), meant);
    if is_narrow && denial.status() != 401 {
        *response.status_mut() = StatusCode::FORBIDDEN;
    }
    response
}
