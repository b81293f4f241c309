//! Recording of refusals.

use super::super::Guard;
use super::super::cached_key::CachedKey;
use super::super::denial::Denial;
use super::super::request::Headers;
use super::super::request::Request;
use super::context::RequestContext;
use super::{auth_failure, proxy};
use crate::lockout::AuthFailure;
use crate::log::{Event, Level};
use crate::model::Reason;
use crate::net::ClientIp;
use crate::policy::path;
use crate::store::UsageEvent;

/// Refuses a request that has an invalid client address.
#[cfg(feature = "serve")]
pub(crate) fn refuse_unreadable<H: ?Sized>(guard: &Guard, request: &Request<'_, H>) -> Denial {
    let reason = Reason::InvalidClientIp;
    log(guard, request, request.ip, None, reason);
    guard.recorder().record_keyless(request, request.ip, reason);
    Denial::new(reason)
}

/// Acts on a refusal and records it. Returns the denial.
#[inline(always)]
pub(super) async fn conclude<H: Headers + ?Sized>(
    guard: &Guard,
    context: &mut RequestContext<'_, H>,
    reason: Reason,
) -> Denial {
    if reason == Reason::IpLocked || AuthFailure::of(reason).is_some() {
        follow_up(guard, context, reason).await;
    }
    recorded(guard, context, reason)
}

/// Counts a failed authentication, or checks whether a locked address is a proxy.
#[cold]
async fn follow_up<H: Headers + ?Sized>(
    guard: &Guard,
    context: &RequestContext<'_, H>,
    reason: Reason,
) {
    match AuthFailure::of(reason) {
        Some(failure) => auth_failure::count(guard, context, failure).await,
        None => proxy::observe_locked(guard, context).await,
    }
}

/// Records a refusal, and returns the denial.
pub(super) fn recorded<H: ?Sized>(
    guard: &Guard,
    context: &mut RequestContext<'_, H>,
    reason: Reason,
) -> Denial {
    let recorder = guard.recorder();
    recorder.count_shadow_denied(context.shadow_denied());
    let key_of_denial = context.denial().and_then(Denial::key);
    let key = context.key.as_deref().or(key_of_denial);
    log(guard, context.request, context.ip, key, reason);
    match key {
        Some(key) => record_with_key(guard, context, key, reason),
        None => recorder.record_keyless(context.request, context.ip, reason),
    }
    context.take_denial(reason)
}

/// Logs a refusal by the thread that decides, in its span.
fn log<H: ?Sized>(
    guard: &Guard,
    request: &Request<'_, H>,
    ip: ClientIp,
    key: Option<&CachedKey>,
    reason: Reason,
) {
    let log = guard.log();
    if log.is_enabled(Level::Debug) {
        log.emit(&Event::Decision {
            reason,
            key_id: key.map(|key| key.key_id.0),
            ip,
            method: request.method.as_str(),
            path: &path::shown(request.path),
        });
    }
}

fn record_with_key<H: ?Sized>(
    guard: &Guard,
    context: &RequestContext<'_, H>,
    key: &CachedKey,
    reason: Reason,
) {
    if !guard.recorder().is_enabled() {
        return;
    }
    let path = path::stored(context.request.path).as_bytes();
    let event = UsageEvent {
        at: guard.clock.timestamp(),
        key_id: key.key_id,
        ip: context.ip,
        latency_micros: 0,
        status: reason.status(),
        // At most 256 bytes.
        path_len: path.len() as u16,
        method: context.request.method,
        refused: Some(reason),
    };
    guard.recorder().record(&event, path);
}
