//! Search for proxies that the policy does not name: see [`Proxies`](super::super::proxies::Proxies).

use ipnet::IpNet;

use super::super::Guard;
use super::super::cached_key::CachedKey;
use super::super::proxies::AcceptedKey;
use super::super::request::Headers;
use super::super::warnings::WarningKind;
use super::context::RequestContext;
use super::key::{self, FoundKey};
use super::{client, credential};
use crate::model::key_text;
use crate::net::{ClientIp, ClientIpHeader, IpKey, forwarded};

/// Whether an address was found to be a proxy.
pub(super) fn is_found(guard: &Guard, ip: ClientIp) -> bool {
    IpKey::of(ip).is_some_and(|ip_key| guard.proxies.contains(ip_key, guard.clock.now()))
}

/// Records a failed authentication of a client that may be a proxy.
#[cold]
pub(super) fn observe_failed<H: Headers + ?Sized>(
    guard: &Guard,
    context: &RequestContext<'_, H>,
    ip_key: IpKey,
) {
    if forwarding_field_of_peer(context).is_some() {
        guard.proxies.observe(ip_key, guard.clock.now());
    }
}

/// Notes that a key was accepted, if its client may be a proxy.
#[inline(always)]
pub(super) fn observe_accepted<H: Headers + ?Sized>(
    guard: &Guard,
    context: &RequestContext<'_, H>,
    key: &CachedKey,
) {
    if guard.proxies.observes(|| IpKey::of(context.ip)) && !context.is_preview {
        note_accepted(guard, context, key);
    }
}

#[cold]
fn note_accepted<H: Headers + ?Sized>(
    guard: &Guard,
    context: &RequestContext<'_, H>,
    key: &CachedKey,
) {
    let (Some(ip_key), Some(field)) = (IpKey::of(context.ip), forwarding_field_of_peer(context))
    else {
        return;
    };
    let clients: Vec<&[u8]> = context.request.headers.header_values(field).collect();
    let accepted = AcceptedKey {
        org: key.org_id,
        client: guard.proxies.hash(clients),
    };
    if guard
        .proxies
        .note_accepted(ip_key, accepted, guard.clock.now())
    {
        let warning = format!(
            "requests of many clients come through {ip}, which is not configured as trusted: \
             failed authentications through it do not lock any address, and limits by address count \
             all of them as one. Only if it is a proxy of yours: {line}",
            ip = context.ip,
            line = policy_hint(context.ip, field),
        );
        guard.warnings.add_of(WarningKind::FoundProxy, &warning);
    }
}

/// Looks up the key of a locked client that may be a proxy, rate-limited. The client may have been
/// locked before its keys revealed it.
#[cold]
pub(super) async fn observe_locked<H: Headers + ?Sized>(
    guard: &Guard,
    context: &RequestContext<'_, H>,
) {
    let (Some(ip_key), Some(_)) = (IpKey::of(context.ip), forwarding_field_of_peer(context)) else {
        return;
    };
    let Ok(Some(presented)) = credential::presented(guard, context.request.headers) else {
        return;
    };
    let now = guard.clock.now();
    if !key_text::is_well_formed(presented.text) || !guard.proxies.may_look_up(now) {
        return;
    }
    let found = match key::find_cached(guard, presented.text) {
        Ok(found) => Some(found),
        Err(fingerprint) => {
            let hash = guard.hasher.hash(presented.text);
            let loaded = key::load_stored(guard, fingerprint, &hash, &context.deadline).await;
            let key = loaded.unwrap_or_default();
            key.map(|key| FoundKey::now(guard, key))
        }
    };
    if let Some(found) = found.filter(|found| found.refusal.is_none()) {
        guard.proxies.observe(ip_key, now);
        note_accepted(guard, context, &found.key);
    }
}

/// Warns that a client that may be a proxy was locked out.
#[cold]
pub(super) fn warn_of_locked<H: Headers + ?Sized>(guard: &Guard, context: &RequestContext<'_, H>) {
    if let Some(field) = forwarding_field(guard, context) {
        let warning = format!(
            "{ip} failed to authenticate too often and is locked out; its requests name other \
             clients by `{field}`, which any client can send. Only if it is a proxy of yours: {line}",
            ip = context.ip,
            line = policy_hint(context.ip, &field),
        );
        guard.warnings.add_of(WarningKind::LockedProxy, &warning);
    }
}

/// The field in which the client names other clients, if it is the peer itself.
fn forwarding_field_of_peer<H: Headers + ?Sized>(
    context: &RequestContext<'_, H>,
) -> Option<&'static str> {
    if context.request.is_named_by_proxy {
        return None;
    }
    let policy = &context.policy.compiled().source;
    let peer = policy.nat64_prefixes.canonical(context.request.ip);
    match policy.trusted_proxies.contains(peer) {
        true => None,
        false => forwarding_header(context.request.headers),
    }
}

/// The field in which the client names other clients; if a trusted proxy names the client, the field
/// that names a previous hop.
fn forwarding_field<H: Headers + ?Sized>(
    guard: &Guard,
    context: &RequestContext<'_, H>,
) -> Option<String> {
    if let Some(field) = forwarding_field_of_peer(context) {
        return Some(field.to_owned());
    }
    let headers = context.request.headers;
    if context.request.is_named_by_proxy {
        return forwarding_header(headers).map(str::to_owned);
    }
    let policy = context.policy.compiled();
    let trusted = &policy.source.trusted_proxies;
    let named = client::named_by_proxy(guard, trusted, policy, headers);
    named.ok().flatten()?.before?;
    Some(policy.source.client_ip_header.name().to_owned())
}

/// The first known header field in which a proxy names the client, if the request has one.
pub(super) fn forwarding_header<H: Headers + ?Sized>(headers: &H) -> Option<&'static str> {
    let mut names = forwarded::KNOWN_FIELDS.into_iter();
    names.find(|name| headers.header_values(name).next().is_some())
}

/// What to add to the policy for a proxy that names clients in the field `header`.
pub(super) fn policy_hint(ip: ClientIp, header: &str) -> String {
    let proxy = ip.ip().map(|ip| IpNet::from(ip).to_string());
    let header = match header {
        _ if header == ClientIpHeader::default().name() => String::new(),
        other => format!(" and client_ip_header = \"{other}\""),
    };
    format!(
        "Add to the policy: trusted_proxies = [\"{}\"]{header}",
        proxy.unwrap_or_else(|| ip.to_string())
    )
}
