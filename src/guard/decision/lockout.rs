//! Stage: the lists of addresses in the policy, and locks.

use std::cell::Cell;
use std::net::IpAddr;

use super::super::Guard;
use super::super::denial::Denial;
use super::super::request::Headers;
#[cfg(feature = "http")]
use super::super::request::Request;
use super::super::warnings::WarningKind;
use super::context::RequestContext;
use super::proxy;
#[cfg(feature = "http")]
use super::{client, refusal};
use crate::lockout::{LockScope, LockStatus};
use crate::model::Reason;
use crate::net::ClientIp;
use crate::time::Timestamp;

/// Refuses addresses that the policy denies, and those that are locked out of the path or a matching
/// route. Notes a lock that refuses requests without a key only.
#[inline(always)]
pub(super) fn check<H: Headers + ?Sized>(
    guard: &Guard,
    context: &mut RequestContext<'_, H>,
) -> Result<(), Reason> {
    check_lists(context)?;
    let routes = &context.route.routes;
    let has_name = |name: &str| routes.iter().any(|route| *route.name == *name);
    let keyless = match status(guard, context, has_name) {
        Ok(None) => return Ok(()),
        Ok(Some(status)) => enforce(guard, context, &status).map(|()| status.keyless),
        Err(denial) => Err(denial),
    };
    context.keyless_lock = keyless.map_err(|denial| context.refuse(denial))?;
    Ok(())
}

/// Refuses addresses that the policy denies, and those that are locked out of the path or by the limit
/// of this name.
pub(super) fn check_limit<H: Headers + ?Sized>(
    guard: &Guard,
    context: &RequestContext<'_, H>,
    limit: &str,
) -> Result<(), Denial> {
    check_lists(context).map_err(Denial::new)?;
    check_locks(guard, context, limit)
}

/// Refuses requests without a key from an address that is locked out of them.
#[cold]
pub(super) fn check_keyless<H: Headers + ?Sized>(
    guard: &Guard,
    context: &RequestContext<'_, H>,
) -> Result<(), Denial> {
    let until = context
        .keyless_lock
        .filter(|_| !is_exempt(context) && !proxy::is_found(guard, context.ip));
    require_over(guard, until)
}

/// Checks that the client is not locked out of the path or by the limit of this name. Ignores keys.
#[cfg(feature = "http")]
pub(crate) fn require_unlocked<H: Headers + ?Sized>(
    guard: &Guard,
    request: &Request<'_, H>,
    limit: &str,
) -> Result<ClientIp, Denial> {
    let policy = guard.policy_handle.snapshot();
    let mut context = RequestContext::new(request, &policy);
    client::identify(guard, &mut context)
        .map_err(|reason| refusal::recorded(guard, &mut context, reason))?;
    check_locks(guard, &context, limit)?;
    Ok(context.ip)
}

/// Whether neither failed authentications nor limits lock the client out.
pub(super) fn is_exempt<H: Headers + ?Sized>(context: &RequestContext<'_, H>) -> bool {
    context.policy.compiled().is_exempt(context.ip) || private_proxy(context).is_some()
}

/// Warns of a client that is exempt because it may be a proxy.
#[cold]
pub(super) fn warn_of_private_proxy<H: Headers + ?Sized>(
    guard: &Guard,
    context: &RequestContext<'_, H>,
) {
    let is_exempt_by_policy = context.policy.compiled().is_exempt(context.ip);
    let Some(header) = private_proxy(context).filter(|_| !is_exempt_by_policy) else {
        return;
    };
    let ip = context.request.ip;
    guard
        .warnings
        .add_once(WarningKind::PrivatePeer, (ip, header), || {
            Some(format!(
                "requests come through a proxy on the private address {ip} that is not configured \
                 as trusted: failed authentications through it do not lock any address. {line}",
                line = proxy::policy_hint(ip, header),
            ))
        });
}

/// The forwarding header of a peer that may be a proxy that the policy does not name: no proxy is
/// trusted, and its address is private. Its clients cannot be distinguished.
fn private_proxy<H: Headers + ?Sized>(context: &RequestContext<'_, H>) -> Option<&'static str> {
    let request = context.request;
    let trusted = &context.policy.compiled().source.trusted_proxies;
    if request.is_named_by_proxy || !is_private(request.ip) || !trusted.is_empty() {
        return None;
    }
    proxy::forwarding_header(request.headers)
}

/// Whether an address is on this machine, on a private network (RFC 1918, RFC 4193), behind the
/// translator of a carrier (RFC 6598), or on the local link.
fn is_private(ip: ClientIp) -> bool {
    match ip.ip() {
        None => false,
        Some(IpAddr::V4(ip)) => {
            let is_shared = matches!(ip.octets(), [100, 64..=127, ..]);
            ip.is_loopback() || ip.is_private() || ip.is_link_local() || is_shared
        }
        Some(IpAddr::V6(ip)) => {
            ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()
        }
    }
}

#[inline(always)]
fn check_lists<H: ?Sized>(context: &RequestContext<'_, H>) -> Result<(), Reason> {
    match context.policy.restrictions() {
        Some(policy) if policy.has_lists() && policy.denies(context.ip) => Err(Reason::IpDenied),
        _ => Ok(()),
    }
}

fn check_locks<H: Headers + ?Sized>(
    guard: &Guard,
    context: &RequestContext<'_, H>,
    limit: &str,
) -> Result<(), Denial> {
    match status(guard, context, |name| name == limit)? {
        Some(status) => enforce(guard, context, &status),
        None => Ok(()),
    }
}

/// Returns the locks of the client that apply to the path, and to the routes or limits that have one of
/// the names; `None` for almost every client.
///
/// # Errors
/// [`Reason::UnreadablePath`] if the client is locked out of a path only, and the path of the request
/// has too many readings.
#[inline(always)]
fn status<H: Headers + ?Sized>(
    guard: &Guard,
    context: &RequestContext<'_, H>,
    has_name: impl Fn(&str) -> bool,
) -> Result<Option<Box<LockStatus>>, Denial> {
    let is_unreadable = Cell::new(false);
    let applies = |scope: &LockScope| match scope {
        LockScope::All => true,
        LockScope::Keyless => false,
        LockScope::Path(path) => {
            let ignore_case = context.policy.compiled().source.ignore_case;
            let may_mean = context.request.may_mean(path, ignore_case);
            is_unreadable.set(is_unreadable.get() || may_mean.is_none());
            may_mean.unwrap_or(false)
        }
        LockScope::IpLimit(name) => has_name(name),
    };
    let status = guard.locks.status(&context.ip, applies, &guard.clock);
    if is_unreadable.get() {
        if let Some(status) = status {
            enforce(guard, context, &status)?;
        }
        return Err(Denial::new(Reason::UnreadablePath));
    }
    Ok(status)
}

#[cold]
fn enforce<H: Headers + ?Sized>(
    guard: &Guard,
    context: &RequestContext<'_, H>,
    status: &LockStatus,
) -> Result<(), Denial> {
    let automatic = match (status.limits, status.auth_failures) {
        (None, None) => None,
        _ if is_exempt(context) => None,
        (limits, Some(_)) if proxy::is_found(guard, context.ip) => limits,
        (limits, auth_failures) => limits.max(auth_failures),
    };
    require_over(guard, status.manual.max(automatic))
}

fn require_over(guard: &Guard, until: Option<Timestamp>) -> Result<(), Denial> {
    match until {
        Some(until) => Err(Denial::locked(until.since(guard.clock.timestamp()))),
        None => Ok(()),
    }
}
