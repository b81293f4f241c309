//! Stage: the address of the client.

use super::super::Guard;
use super::super::request::Headers;
use super::super::warnings::WarningKind;
use super::context::RequestContext;
use super::credential;
use super::proxy::forwarding_header;
use crate::model::Reason;
use crate::net::{CidrSet, NamedClient, UnreadableClient, forwarded};
use crate::policy::CompiledPolicy;

/// Sets the address of the client: that of the peer, or the one that a trusted proxy names.
#[inline(always)]
pub(super) fn identify<H: Headers + ?Sized>(
    guard: &Guard,
    context: &mut RequestContext<'_, H>,
) -> Result<(), Reason> {
    if let Some(policy) = context.policy.restrictions()
        && policy.names_clients()
    {
        let peer = policy.source.nat64_prefixes.canonical(context.request.ip);
        context.ip = peer;
        let trusted = &policy.source.trusted_proxies;
        if trusted.contains(peer) {
            let headers = context.request.headers;
            match named_by_proxy(guard, trusted, policy, headers)? {
                Some(named) => context.ip = named.ip,
                None => accept_unnamed(guard, policy, headers)?,
            }
        }
    }
    Ok(())
}

/// Returns the client that a proxy names; `None` if it names none. `trusted` are the proxies to skip.
pub(crate) fn named_by_proxy<H: Headers + ?Sized>(
    guard: &Guard,
    trusted: &CidrSet,
    policy: &CompiledPolicy,
    headers: &H,
) -> Result<Option<NamedClient>, Reason> {
    let nat64 = &policy.source.nat64_prefixes;
    let header = &policy.source.client_ip_header;
    let values = headers.header_values(header.name());
    match forwarded::client(trusted, nat64, header, values) {
        Ok(Some(named)) => Ok(Some(named)),
        Ok(None) => {
            warn_of_other_header(guard, header.name(), headers);
            Ok(None)
        }
        Err(UnreadableClient) => {
            warn_of_unreadable(guard, header.name());
            Err(Reason::InvalidClientIp)
        }
    }
}

/// Whether a trusted proxy may send a request that names no client.
#[cold]
fn accept_unnamed<H: Headers + ?Sized>(
    guard: &Guard,
    policy: &CompiledPolicy,
    headers: &H,
) -> Result<(), Reason> {
    if policy.source.require_client_ip {
        return Err(Reason::InvalidClientIp);
    }
    let has_key = || !matches!(credential::presented(guard, headers), Ok(None));
    let header = policy.source.client_ip_header.name();
    warn_of_unnamed(guard, header, has_key);
    Ok(())
}

/// Warns that a trusted proxy sets another header field than the one that names clients.
#[cold]
fn warn_of_other_header<H: Headers + ?Sized>(guard: &Guard, header: &str, headers: &H) {
    warn_once(guard, ("other fields", header), || {
        let other = forwarding_header(headers)?;
        Some(format!(
            "a trusted proxy does not send `{header}`, so the proxy counts as the client and is never \
             locked; if it reports clients in `{other}`, add to the policy: client_ip_header = \"{other}\""
        ))
    });
}

/// Warns that a trusted proxy forwards a request with a key and does not name the client.
#[cold]
fn warn_of_unnamed(guard: &Guard, header: &str, has_key: impl FnOnce() -> bool) {
    warn_once(guard, ("unnamed", header), || {
        has_key().then(|| {
            format!(
                "a trusted proxy sends a request with a key and without `{header}`, so the proxy \
                 counts as the client and is never locked (some proxies remove fields that the client \
                 lists in `Connection`); if yours reports every client, add to the policy: \
                 require_client_ip = true"
            )
        })
    });
}

/// Warns that a trusted proxy forwards a header field that names no client.
#[cold]
fn warn_of_unreadable(guard: &Guard, header: &str) {
    warn_once(guard, ("unreadable", header), || {
        Some(format!(
            "a trusted proxy sends a `{header}` without a valid client address; such requests are \
             refused; configure the proxy to set or extend this field on every request, or add the \
             field that it sets to the policy as `client_ip_header`"
        ))
    });
}

fn warn_once(guard: &Guard, cause: (&str, &str), text: impl FnOnce() -> Option<String>) {
    guard
        .warnings
        .add_once(WarningKind::TrustedProxy, cause, text);
}
