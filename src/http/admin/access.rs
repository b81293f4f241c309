//! Who may use the admin API.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, StatusCode, Uri, header};

use crate::admin::AdminError;
use crate::client_ip::ClientIp;
use crate::guard::{self, Actor, KeyGuard};
use crate::http::problem::Problem;
use crate::ip_limit::IpLimit;
use crate::lock_time::LockTime;
use crate::lockout::LockScope;
use crate::store::Once;
use crate::waiting::block_on;

/// What wrong admin keys are counted and locked out by, whatever path they came for.
const LIMIT: &str = "keyguard-admin";
const PATH: &str = "/admin";
const WRONG_KEYS_A_MINUTE: u32 = 10;
const LOCKED_FOR: Duration = Duration::from_secs(15 * 60);

/// That the request is meant for this service, and not for a name that somebody else gave our
/// address (DNS rebinding), and that no page of another origin sends it.
pub(in crate::http) fn require_own_name(
    headers: &HeaderMap,
    uri: &Uri,
    hosts: &BTreeSet<String>,
) -> Result<(), Problem> {
    let mut values = headers.get_all(header::HOST).iter();
    let host = match (values.next(), values.next(), uri.authority()) {
        (Some(host), None, _) => host.to_str().ok().map(str::to_owned),
        (None, None, Some(authority)) => Some(authority.to_string()),
        _ => None,
    };
    let host = host.and_then(|host| host.parse::<Authority>().ok());
    let is_own = |authority: &Authority| {
        let name = authority.host().to_ascii_lowercase();
        let address = name.trim_start_matches('[').trim_end_matches(']');
        !authority.as_str().contains('@')
            && (name == "localhost" || address.parse::<IpAddr>().is_ok() || hosts.contains(&name))
    };
    let Some(host) = host.filter(is_own) else {
        let detail = "`Host` is no name of this service: use an address or `localhost`, or name \
                      the host with `AdminService::hosts` (`keyguard serve --host`).";
        return Err(Problem::new(StatusCode::FORBIDDEN, "foreign_host", detail));
    };
    for origin in headers.get_all(header::ORIGIN) {
        let authority = origin
            .to_str()
            .ok()
            .and_then(|o| Some(o.split_once("://")?.1));
        if authority.is_none_or(|origin| !origin.eq_ignore_ascii_case(host.as_str())) {
            let detail = "A page of another origin may not use this service.";
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "foreign_origin",
                detail,
            ));
        }
    }
    Ok(())
}

/// That the request carries the admin key; returns the address of the client.
pub(super) fn require_admin(
    guard: &KeyGuard,
    parts: &Parts,
    peer: ClientIp,
) -> Result<ClientIp, Problem> {
    let asked = guard::Request::new(&parts.headers, peer, PATH);
    let inner = &guard.inner;
    let client = inner.require_unlocked(&asked)?;
    let mut keys = parts.headers.get_all("x-admin-key").iter();
    let unauthorized = |code, detail: &str| {
        Problem::new(StatusCode::UNAUTHORIZED, code, detail)
            .with_field("WWW-Authenticate", r#"AdminKey realm="admin""#)
    };
    match (keys.next(), keys.next()) {
        (Some(key), None) if inner.is_admin_key(key.as_bytes()) => Ok(client),
        // Whoever sends none is not guessing.
        (None, _) => Err(unauthorized(
            "missing_admin_key",
            "Admin key required: send it in X-Admin-Key.",
        )),
        _ => {
            block_on(inner.check_ip(&limit()?, &asked))?;
            Err(unauthorized(
                "invalid_admin_key",
                "The admin key is not valid.",
            ))
        }
    }
}

fn limit() -> Result<IpLimit, Problem> {
    let minute = Duration::from_secs(60);
    let limit = IpLimit::new(LIMIT, WRONG_KEYS_A_MINUTE, minute).map_err(AdminError::from)?;
    let locked_for = LockTime::try_from(LOCKED_FOR).map_err(AdminError::from)?;
    Ok(limit.lockout(locked_for).scope(LockScope::Path))
}

/// The guard as it acts for who sent a request.
pub(super) fn acting(
    guard: &KeyGuard,
    parts: &Parts,
    body: &[u8],
    client: ClientIp,
) -> Result<KeyGuard, Problem> {
    const NAME: &str = "Idempotency-Key";
    let mut names = parts.headers.get_all(NAME).iter();
    let once = match (names.next(), names.next()) {
        (None, _) => None,
        (Some(name), None) if is_name(name.as_bytes()) => {
            let mut request = blake3::Hasher::new();
            request.update(parts.method.as_str().as_bytes());
            request.update(b" ");
            request.update(parts.uri.path().as_bytes());
            request.update(b"\n");
            request.update(body);
            Some(Once {
                name: *blake3::hash(name.as_bytes()).as_bytes(),
                request: *request.finalize().as_bytes(),
            })
        }
        _ => {
            let detail = "is sent once and has 1 to 255 visible ASCII characters";
            return Err(Problem::invalid(NAME, format!("{NAME}: {detail}")));
        }
    };
    let once = once.filter(|_| parts.method == http::Method::POST);
    Ok(guard.with_actor(Actor::new("admin key".into(), client, once)))
}

fn is_name(text: &[u8]) -> bool {
    (1..=255).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic)
}
