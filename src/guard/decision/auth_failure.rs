//! Counting of failed authentications, which lock addresses out.

use super::super::Guard;
use super::super::active_locks::auth_failure_rule;
use super::super::request::Headers;
use super::context::RequestContext;
use super::{lockout, proxy};
use crate::limiter::{Admission, Demand, Subjects};
use crate::lockout::AuthFailure;
use crate::net::IpKey;

/// Counts a failed authentication. The first one above the threshold locks the address out.
#[cold]
pub(super) async fn count<H: Headers + ?Sized>(
    guard: &Guard,
    context: &RequestContext<'_, H>,
    failure: AuthFailure,
) {
    let Some(ip_key) = IpKey::of(context.ip) else {
        return;
    };
    if lockout::is_exempt(context) {
        lockout::warn_of_private_proxy(guard, context);
        return;
    }
    proxy::observe_failed(guard, context, ip_key);
    if proxy::is_found(guard, context.ip) {
        return;
    }
    let rules = &context.policy.compiled().source.lockout;
    let rule = auth_failure_rule(failure, guard.locks.threshold(rules));
    let lists = [std::slice::from_ref(&rule)];
    let demand = Demand::new(Subjects::Address(ip_key), &lists);
    let admission = guard.limiter().admit(demand, &context.deadline).get().await;
    if matches!(admission, Admission::Refused(..)) {
        let now = guard.now();
        guard.locks.lock_failing(failure, ip_key, rules, now);
        proxy::warn_of_locked(guard, context);
    }
}
