//! Stage: limits per IP address.

use std::num::NonZeroU32;
use std::time::Duration;

use smallvec::SmallVec;

use super::super::Guard;
use super::super::denial::Denial;
use super::super::request::{Headers, Request};
use super::context::{RequestContext, ShadowLog};
use super::{client, limits, lockout, refusal};
use crate::counter::Rule;
use crate::limiter::{Admission, Demand, Subjects};
use crate::lockout::LockScope;
use crate::model::Reason;
use crate::net::{ClientIp, IpKey};
use crate::policy::{IpLimit, RouteMatch, RouteRules};
use crate::time::LockDuration;

/// Returns the address of the client if a matching route limits addresses.
#[inline(always)]
pub(super) fn limited_address<H: ?Sized>(context: &RequestContext<'_, H>) -> Option<IpKey> {
    match context.route.limits_addresses {
        true => IpKey::of(context.ip),
        false => None,
    }
}

/// Consumes the cost from the limits per address of all matching routes, or from none.
pub(super) async fn consume<H: Headers + ?Sized>(
    guard: &Guard,
    context: &mut RequestContext<'_, H>,
    ip_key: IpKey,
) -> Result<(), Reason> {
    let cost = u64::from(context.cost.get());
    let is_below = |rule: &Rule| !rule.limit.shadow && rule.limit.amount.get() < cost;
    if cost > 1 && rules(&context.route).any(|(_, rule)| is_below(rule)) {
        return Err(Reason::CostAboveLimit);
    }
    let routes = context.route.routes.iter();
    let lists: SmallVec<[&[Rule]; 2]> = routes.map(|route| &*route.ip_rules).collect();
    let demand = Demand {
        subjects: Subjects::Address(ip_key),
        rules: &lists,
        cost: context.cost,
    };
    let admission = limits::admit(guard, context, demand).get().await;
    if let Admission::Admitted(_, receipt) = &admission {
        for index in receipt.iter().flat_map(|remarks| &remarks.skipped) {
            if let Some((_, rule)) = rules(&context.route).nth(usize::from(*index)) {
                ShadowLog::deny(&mut context.shadow_log, rule.name());
            }
        }
    }
    let limit = |index| {
        let (route, rule) = rules(&context.route).nth(index)?;
        let lockout = LimitLockout {
            name: &route.name,
            duration: route.lockout,
            all_paths: false,
        };
        Some((rule, lockout))
    };
    require_admitted(guard, context, ip_key, admission, limit)
        .map_err(|denial| context.refuse(denial))
}

/// The lockout that a limit causes.
#[derive(Clone, Copy)]
struct LimitLockout<'a> {
    /// The name of the limit.
    name: &'a str,
    /// `None` for no lockout.
    duration: Option<LockDuration>,
    all_paths: bool,
}

/// Refuses what the limiter did not admit. Locks out an address above a limit, if the limit says so.
/// `limit` returns a limit by its index.
fn require_admitted<'r, H: Headers + ?Sized>(
    guard: &Guard,
    context: &RequestContext<'_, H>,
    ip_key: IpKey,
    admission: Admission,
    limit: impl Fn(usize) -> Option<(&'r Rule, LimitLockout<'r>)>,
) -> Result<(), Denial> {
    let (state, retry_at, is_shared) = match admission {
        Admission::Admitted(..) => return Ok(()),
        Admission::Full => return Err(Denial::new(Reason::Overloaded)),
        Admission::Undecided => return Err(Denial::new(Reason::Unavailable)),
        Admission::Refused(state, retry_at) => (state, retry_at, false),
        Admission::RefusedShared(state, retry_at) => (state, retry_at, true),
    };
    let Some((rule, lockout)) = limit(state.rule) else {
        return Err(Denial::new(Reason::IpLimited));
    };
    let locked_for = match is_shared {
        true => None,
        false => lock_out(guard, context, ip_key, lockout),
    };
    let headers = guard.backends.rate_limit_headers;
    let denial = Denial::exhausted(rule, state, retry_at, headers);
    Err(denial.and_locked(locked_for))
}

/// Decides whether a request is admitted by its address alone, and counts it; returns the address of
/// the client.
pub(crate) async fn check_ip<H: Headers + ?Sized>(
    guard: &Guard,
    request: &Request<'_, H>,
    limit: &IpLimit,
) -> Result<ClientIp, Denial> {
    let policy = guard.policy_handle.snapshot();
    let mut context = RequestContext::new(request, &policy);
    match run(guard, &mut context, limit).await {
        Ok(()) => Ok(context.ip),
        Err(reason) => Err(refusal::recorded(guard, &mut context, reason)),
    }
}

async fn run<H: Headers + ?Sized>(
    guard: &Guard,
    context: &mut RequestContext<'_, H>,
    limit: &IpLimit,
) -> Result<(), Reason> {
    client::identify(guard, context)?;
    let Some(ip_key) = IpKey::of(context.ip) else {
        return Ok(());
    };
    lockout::check_limit(guard, context, &limit.name).map_err(|denial| context.refuse(denial))?;
    let rule = limit.rule();
    let cost = context.request.cost.unwrap_or(NonZeroU32::MIN);
    if rule.limit.amount.get() < u64::from(cost.get()) {
        return Err(Reason::CostAboveLimit);
    }
    let demand = Demand {
        subjects: Subjects::Address(ip_key),
        rules: &[std::slice::from_ref(&rule)],
        cost,
    };
    let admission = limits::admit(guard, context, demand).get().await;
    let lockout = LimitLockout {
        name: &limit.name,
        duration: limit.lockout,
        all_paths: limit.locks_all_paths,
    };
    let limit = |_| Some((&rule, lockout));
    require_admitted(guard, context, ip_key, admission, limit)
        .map_err(|denial| context.refuse(denial))
}

/// Locks out an address, if the limit says so; returns for how long.
fn lock_out<H: Headers + ?Sized>(
    guard: &Guard,
    context: &RequestContext<'_, H>,
    ip_key: IpKey,
    lockout: LimitLockout<'_>,
) -> Option<Duration> {
    let duration = lockout.duration.filter(|_| !context.is_preview)?;
    if lockout::is_exempt(context) {
        lockout::warn_of_private_proxy(guard, context);
        return None;
    }
    let scope = match lockout.all_paths {
        true => LockScope::All,
        false => LockScope::IpLimit(lockout.name.to_owned()),
    };
    guard
        .locks
        .lock_exceeding(lockout.name, duration, scope, ip_key, guard.now())
}

/// The limits per address of the matching routes.
fn rules<'m, 'p: 'm>(
    route_match: &'m RouteMatch<'p>,
) -> impl Iterator<Item = (&'p RouteRules, &'p Rule)> + 'm {
    let routes = route_match.routes.iter();
    routes.flat_map(|route| route.ip_rules.iter().map(move |rule| (*route, rule)))
}
