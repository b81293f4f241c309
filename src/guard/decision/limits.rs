//! Stage: the limits of the key, its organization and the routes.

use std::sync::Arc;

use smallvec::SmallVec;

use super::super::Guard;
use super::super::cached_key::CachedKey;
use super::super::denial::Denial;
use super::super::verdict::LimitStatus;
use super::context::{RequestContext, ShadowLog};
use crate::counter::Rule;
use crate::limiter::{Admission, Demand, LimitState, Rules, rule_at, slowest};
use crate::model::Reason;
use crate::policy::RouteMatch;
use crate::sys::MaybeReady;
use crate::time::Moment;

/// Consumes the cost from the windows of the key and its organization, if there are no other limits: else
/// returns `None`.
#[inline(always)]
pub(super) fn admit_plain<H: ?Sized>(
    guard: &Guard,
    context: &RequestContext<'_, H>,
    key: &CachedKey,
) -> Option<Admission> {
    if context.route.limits_keys || context.is_preview {
        return None;
    }
    guard
        .limiter()
        .admit_plain(key.counter_sets(), &key.plain_rules, context.cost)
}

/// Consumes the cost from all limits of the key, its organization and the routes, or from none.
pub(super) async fn admit_key<H: ?Sized>(
    guard: &Guard,
    context: &mut RequestContext<'_, H>,
    key: &CachedKey,
) -> Admission {
    let rules = rules(key, &context.route);
    let demand = Demand {
        subjects: key.subjects(),
        rules: &rules,
        cost: context.cost,
    };
    admit(guard, context, demand).get().await
}

/// Notes the outcome of a demand for a key.
#[inline(always)]
pub(super) fn conclude<H: ?Sized>(
    context: &mut RequestContext<'_, H>,
    key: Arc<CachedKey>,
    admission: Admission,
) -> Result<(), Reason> {
    match admission {
        Admission::Admitted(state, receipt) => {
            context.limit_state = state;
            context.receipt = receipt;
            context.key = Some(key);
            Ok(())
        }
        Admission::Refused(state, retry_at) | Admission::RefusedShared(state, retry_at) => {
            let denial = exhausted(context, key, state, retry_at);
            Err(context.refuse(denial))
        }
        // Counters of keys have room once they are attached.
        Admission::Full | Admission::Undecided => {
            context.key = Some(key);
            Err(Reason::Unavailable)
        }
    }
}

/// The denial of a request by an exhausted limit. The key is in the denial if the limit is one of its
/// own, else in the context.
#[inline(always)]
fn exhausted<H: ?Sized>(
    context: &mut RequestContext<'_, H>,
    key: Arc<CachedKey>,
    state: LimitState,
    retry_at: Moment,
) -> Denial {
    if state.rule < key.rules.len() {
        return Denial::exhausted_by_key(key, state, retry_at);
    }
    let denial = exhausted_route(&rules(&key, &context.route), &key, state, retry_at);
    context.key = Some(key);
    denial
}

#[cold]
fn exhausted_route(
    rules: Rules<'_>,
    key: &CachedKey,
    state: LimitState,
    retry_at: Moment,
) -> Denial {
    match rule_at(rules, state.rule) {
        Some(rule) => Denial::exhausted(rule, state, retry_at, key.backends.rate_limit_headers),
        None => Denial::new(Reason::RateLimited),
    }
}

/// Consumes a demand; in a preview, only notes the states of its limits.
#[inline(always)]
pub(super) fn admit<'a, H: ?Sized>(
    guard: &'a Guard,
    context: &'a mut RequestContext<'_, H>,
    demand: Demand<'a>,
) -> MaybeReady<'a, Admission> {
    match context.is_preview {
        false => guard.limiter().admit(demand, &context.deadline),
        true => MaybeReady::Now(preview(guard, &mut context.shadow_log, demand)),
    }
}

/// Returns what the limiter would decide, and notes the states of the limits.
#[cold]
fn preview(guard: &Guard, log: &mut Option<Box<ShadowLog>>, demand: Demand<'_>) -> Admission {
    let states = guard.limiter().states(demand);
    let at = states
        .first()
        .map_or_else(Moment::default, |(state, _)| state.at);
    let rules = demand.rules.iter().copied().flatten();
    let refusing = rules.zip(states).filter(|(rule, (state, retry_at))| {
        let states = &mut log.get_or_insert_default().states;
        states.push(LimitStatus::new(rule, *state));
        let is_refusing = *retry_at > state.at;
        if is_refusing && rule.limit.shadow {
            ShadowLog::deny(log, rule.name());
        }
        is_refusing && !rule.limit.shadow
    });
    match slowest(refusing.map(|(_, refusal)| refusal)) {
        Some((state, retry_at)) => Admission::Refused(state, retry_at),
        None if !guard.limiter().has_room(demand) => Admission::Full,
        None => Admission::Admitted(LimitState::unlimited(at), None),
    }
}

/// The rules of a key, followed by those that the routes set for each key.
#[inline(always)]
pub(super) fn rules<'a, 'p: 'a>(
    key: &'a CachedKey,
    route_match: &RouteMatch<'p>,
) -> SmallVec<[&'a [Rule]; 3]> {
    let mut lists = SmallVec::new();
    lists.push(&*key.rules);
    if route_match.limits_keys {
        let routes = route_match.routes.iter().map(|route| &*route.key_rules);
        lists.extend(routes.filter(|rules| !rules.is_empty()));
    }
    lists
}
