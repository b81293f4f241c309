//! Stage: the routes that a request matches.

use std::num::NonZeroU32;

use super::super::request::Headers;
use super::context::{RequestContext, ShadowLog};
use crate::model::Reason;
use crate::policy::Access;

/// Finds the routes on every way in which a server may read the path, and the cost that they set.
#[inline(always)]
pub(super) fn find<H: Headers + ?Sized>(context: &mut RequestContext<'_, H>) -> Result<(), Reason> {
    if let Some(policy) = context.policy.restrictions() {
        context.route = context.request.route_match(policy);
        if context.route.access == Access::Unreadable {
            return Err(Reason::UnreadablePath);
        }
    }
    let enforced = context.route.routes.iter().filter(|route| !route.shadow);
    let cost = context.request.cost;
    let cost = cost.or_else(|| enforced.filter_map(|route| route.cost).max());
    context.cost = cost.unwrap_or(NonZeroU32::MIN);
    Ok(())
}

/// Whether a request without an accepted key is admitted because every route that requires one is in
/// shadow mode. Notes the routes then, and forgets the key.
#[cold]
pub(super) fn admits_in_shadow<H: ?Sized>(
    context: &mut RequestContext<'_, H>,
    reason: Reason,
) -> bool {
    if context.route.access != Access::OpenInShadow || reason.status() == 503 {
        return false;
    }
    let routes = context.route.routes.iter();
    for route in routes.filter(|route| route.requires_key) {
        ShadowLog::deny(&mut context.shadow_log, route.name.to_string());
    }
    context.key = None;
    true
}
