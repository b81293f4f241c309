//! Stage: the address of the client.

use super::super::Guard;
use super::super::request::Headers;
use super::context::RequestContext;
use super::credential;
use crate::model::Reason;
use crate::net::CidrSet;
use crate::net::{NamedClient, UnreadableClient, forwarded};
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
        let peer = policy.policy.nat64_prefixes.canonical(context.request.ip);
        context.ip = peer;
        let trusted = &policy.policy.trusted_proxies;
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

/// Returns the client that a proxy names, if the proxies in `trusted` are trusted; `None` if it names
/// none.
pub(crate) fn named_by_proxy<H: Headers + ?Sized>(
    guard: &Guard,
    trusted: &CidrSet,
    policy: &CompiledPolicy,
    headers: &H,
) -> Result<Option<NamedClient>, Reason> {
    let nat64 = &policy.policy.nat64_prefixes;
    let header = &policy.policy.client_ip_header;
    let values = headers.header_values(header.name());
    match forwarded::client(trusted, nat64, header, values) {
        Ok(Some(named)) => Ok(Some(named)),
        Ok(None) => {
            guard.lockouts.note_other_fields(header.name(), headers);
            Ok(None)
        }
        Err(UnreadableClient) => {
            guard.lockouts.warn_of_unreadable(header.name());
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
    if policy.policy.require_client_ip {
        return Err(Reason::InvalidClientIp);
    }
    let has_key = || !matches!(credential::presented(guard, headers), Ok(None));
    let header = policy.policy.client_ip_header.name();
    guard.lockouts.warn_of_unnamed(header, has_key);
    Ok(())
}
