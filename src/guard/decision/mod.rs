//! The decision about a request: one sequence of stages over one [`RequestContext`].
//!
//! | stage | admits |
//! |---|---|
//! | [`client`] | peers, and clients with a valid address from a trusted proxy |
//! | [`route`] | paths without too many readings; a request for an exempt path skips all other stages |
//! | [`lockout`] | addresses that the policy accepts and that are not locked out of this path |
//! | [`ip_limit`] | addresses below the limits per address of all matching routes |
//! | [`credential`] | requests with one key, in its header or as a bearer token; none is needed on open paths and for preflight requests |
//! | [`key`] | keys that are known, active, unexpired, of an active organization, accepted from this address, and that hold the scopes and can afford the cost |
//! | [`limits`] | keys below all limits of the key, its organization and the routes |
//! | [`grant`] | issues the grant |
//!
//! [`refusal`] finishes the requests that a stage refuses.

mod auth_failure;
mod client;
mod context;
mod credential;
mod grant;
mod ip_limit;
mod key;
mod limits;
mod lockout;
mod proxy;
mod refusal;
mod route;

#[cfg(feature = "serve")]
pub(crate) use self::client::named_by_proxy;
pub(crate) use self::ip_limit::check_ip;
#[cfg(feature = "serve")]
pub(crate) use self::key::stored_key;
#[cfg(feature = "http")]
pub(crate) use self::lockout::require_unlocked;
#[cfg(feature = "serve")]
pub(crate) use self::refusal::refuse_unreadable;

use self::context::RequestContext;
use self::key::Lookup;
use super::Guard;
use super::denial::Denial;
use super::grant::Grant;
use super::request::{Headers, Request};
use super::verdict::Verdict;
use crate::model::{KeyId, Reason};
use crate::net::ClientIp;
use crate::policy::Access;
use crate::sys::block_on;

/// The key that a request is decided for.
#[derive(Clone, Copy)]
pub(crate) enum KeySource {
    /// The key in the headers.
    Presented,
    /// A key by its id, for the command line.
    Key(KeyId),
}

/// Decides about a request, and consumes its cost from every limit.
#[inline]
pub(crate) fn decide<H: Headers + ?Sized>(
    guard: &Guard,
    request: &Request<'_, H>,
    source: KeySource,
) -> Result<Grant, Denial> {
    let policy = guard.policy_handle.snapshot();
    let mut context = RequestContext::new(request, &policy);
    match block_on(run(guard, &mut context, source)) {
        Ok(()) => Ok(grant::issue(guard, &mut context)),
        Err(reason) => Err(block_on(refusal::conclude(guard, &mut context, reason))),
    }
}

/// Like [`decide`], for async code.
#[inline]
pub(crate) async fn decide_async<H: Headers + ?Sized>(
    guard: &Guard,
    request: &Request<'_, H>,
    source: KeySource,
) -> Result<Grant, Denial> {
    let policy = guard.policy_handle.snapshot();
    let mut context = RequestContext::new(request, &policy);
    match run(guard, &mut context, source).await {
        Ok(()) => Ok(grant::issue(guard, &mut context)),
        Err(reason) => Err(refusal::conclude(guard, &mut context, reason).await),
    }
}

/// Returns what [`decide`] would decide now, and the state of each limit. Consumes and records
/// nothing.
pub(crate) async fn preview<H: Headers + ?Sized>(
    guard: &Guard,
    request: &Request<'_, H>,
    source: KeySource,
) -> Verdict {
    let policy = guard.policy_handle.snapshot();
    let mut context = RequestContext::for_preview(request, &policy);
    let outcome = run(guard, &mut context, source).await;
    context.into_verdict(outcome)
}

/// Returns the address of the client behind the peer.
pub(crate) fn client_ip<H: Headers + ?Sized>(
    guard: &Guard,
    request: &Request<'_, H>,
) -> Result<ClientIp, Denial> {
    let policy = guard.policy_handle.snapshot();
    let mut context = RequestContext::new(request, &policy);
    match client::identify(guard, &mut context) {
        Ok(()) => Ok(context.ip),
        Err(reason) => Err(refusal::recorded(guard, &mut context, reason)),
    }
}

/// All stages, in their order. The context then has the key and the state of its limits. Only what may
/// wait is an `async fn` of its own, as each one costs each request some moves.
#[inline(always)]
async fn run<H: Headers + ?Sized>(
    guard: &Guard,
    context: &mut RequestContext<'_, H>,
    source: KeySource,
) -> Result<(), Reason> {
    client::identify(guard, context)?;
    route::find(context)?;
    if context.route.access == Access::Exempt {
        return Ok(());
    }
    lockout::check(guard, context)?;
    if let Some(ip_key) = ip_limit::limited_address(context) {
        ip_limit::consume(guard, context, ip_key).await?;
    }
    if !credential::is_required(guard, context) {
        return Ok(());
    }
    let key = match key::find(guard, context, source) {
        Ok(Lookup::Found(key)) => Ok(key),
        Ok(Lookup::ToLoad(credential, fingerprint)) => {
            key::load(guard, context, credential, fingerprint).await
        }
        Err(reason) => Err(reason),
    };
    let key = match key.and_then(|key| key::authorize(guard, context, key)) {
        Ok(key) => key,
        Err(reason) if route::admits_in_shadow(context, reason) => return Ok(()),
        Err(reason) => return Err(reason),
    };
    let admission = match limits::admit_plain(guard, context, &key) {
        Some(admission) => admission,
        None => limits::admit_key(guard, context, &key).await,
    };
    limits::conclude(context, key, admission)
}
