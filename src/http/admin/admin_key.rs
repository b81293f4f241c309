//! Authentication of administrators.

use std::time::Duration;

use http::StatusCode;
use http::request::Parts;

use crate::admin::AdminError;
use crate::guard;
use crate::http::problem::Problem;
use crate::keyguard::KeyGuard;
use crate::net::ClientIp;
use crate::policy::IpLimit;
use crate::sys::block_on;

/// The limit and the path under which wrong admin keys are counted and locked out.
const LIMIT: &str = "keyguard-admin";
const PATH: &str = "/admin";
const WRONG_KEYS: &str = "10/min";
const LOCK_TIME: Duration = Duration::from_secs(15 * 60);

/// Checks the admin key; returns the address of the client.
pub(super) fn require_admin(
    guard: &KeyGuard,
    parts: &Parts,
    peer: ClientIp,
) -> Result<ClientIp, Problem> {
    let request = guard::Request::new(&parts.headers, peer, PATH);
    let inner = &guard.inner;
    let client = guard::require_unlocked(inner, &request, LIMIT)?;
    let mut keys = parts.headers.get_all("x-admin-key").iter();
    let unauthorized = |code, detail: &str| {
        Problem::new(StatusCode::UNAUTHORIZED, code, detail)
            .with_header("WWW-Authenticate", r#"AdminKey realm="admin""#)
    };
    match (keys.next(), keys.next()) {
        (Some(key), None) if inner.is_admin_key(key.as_bytes()) => Ok(client),
        // A missing key is no attempt to guess one.
        (None, _) => Err(unauthorized(
            "missing_admin_key",
            "Admin key required: send it in `X-Admin-Key`.",
        )),
        _ => {
            // At most ten a minute from an address, which is then locked out.
            inner.note_wrong_admin_key(client);
            block_on(guard::check_ip(inner, &request, &limit()?))?;
            Err(unauthorized("invalid_admin_key", "Invalid admin key."))
        }
    }
}

fn limit() -> Result<IpLimit, Problem> {
    let limit = IpLimit::new(LIMIT, WRONG_KEYS).and_then(|limit| limit.lockout(LOCK_TIME));
    Ok(limit.map_err(AdminError::from)?)
}
