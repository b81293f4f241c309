//! Last stage: the grant.

use super::super::Guard;
use super::super::cached_key::CachedKey;
use super::super::grant::{Extra, Grant};
use super::context::{RequestContext, ShadowLog};
use super::limits;
use crate::limiter::{Receipt, rule_at};
use crate::policy::path;

/// Issues the grant of an admitted request.
#[inline(always)]
pub(super) fn issue<H: ?Sized>(guard: &Guard, context: &mut RequestContext<'_, H>) -> Grant {
    let Some(key) = context.key.take() else {
        return without_key(guard, context);
    };
    let receipt = context.receipt.take();
    let needs_extra =
        context.route.limits_keys || receipt.is_some() || context.shadow_log.is_some();
    let extra = needs_extra.then(|| extra(guard, context, &key, receipt));
    let is_recorded = guard.recorder().is_enabled();
    let path = is_recorded.then(|| path::stored(context.request.path));
    let (ip, method, cost) = (context.ip, context.request.method, context.cost);
    Grant::new(key, context.limit_state, ip, method, path, cost, extra)
}

#[cold]
fn without_key<H: ?Sized>(guard: &Guard, context: &mut RequestContext<'_, H>) -> Grant {
    let shadow_denied = context.take_shadow_denied();
    guard.recorder().count_shadow_denied(&shadow_denied);
    let now = guard.clock.now();
    Grant::anonymous(now, context.ip, context.request.method, shadow_denied)
}

#[cold]
fn extra<H: ?Sized>(
    guard: &Guard,
    context: &mut RequestContext<'_, H>,
    key: &CachedKey,
    receipt: Receipt,
) -> Box<Extra> {
    let rules = limits::rules(key, &context.route);
    for index in receipt.iter().flat_map(|remarks| &remarks.skipped) {
        if let Some(rule) = rule_at(&rules, usize::from(*index)) {
            ShadowLog::deny(&mut context.shadow_log, rule.name());
        }
    }
    let shadow_denied = context.take_shadow_denied();
    guard.recorder().count_shadow_denied(&shadow_denied);
    Box::new(Extra {
        route_rules: rules[1..].concat(),
        receipt,
        shadow_denied,
    })
}
