//! Stage: the limits of the key, its organization and the routes.

use smallvec::SmallVec;

use super::super::Guard;
use super::super::cached_key::CachedKey;
use super::super::denial::Denial;
use super::super::fields::RateLimitHeaders;
use super::super::verdict::LimitStatus;
use super::context::{RequestContext, ShadowLog};
use crate::counter::Rule;
use crate::limiter::{Admission, Demand, LimitState, Rules, rule_at, slowest};
use crate::model::Reason;
use crate::policy::RouteMatch;
use crate::sys::MaybeReady;
use crate::time::Moment;

/// Consumes the cost from all limits, or from none.
#[inline(always)]
pub(super) async fn consume<H: ?Sized>(
    guard: &Guard,
    context: &mut RequestContext<'_, H>,
    key: &CachedKey,
) -> Admission {
    let (own, all);
    let rules: &[&[Rule]] = match context.route.limits_keys {
        false => {
            own = [&*key.rules];
            &own
        }
        true => {
            all = rules(key, &context.route);
            &all
        }
    };
    let demand = Demand {
        subjects: key.subjects(),
        rules,
        cost: context.cost,
    };
    match admit(guard, context, demand) {
        MaybeReady::Now(admission) => admission,
        MaybeReady::Later(admission) => admission.await,
    }
}

/// The denial of a request that [`consume`] did not admit.
#[inline(always)]
pub(super) fn denial<H: ?Sized>(
    context: &RequestContext<'_, H>,
    key: &CachedKey,
    refused: &Admission,
) -> Denial {
    match *refused {
        Admission::Refused(state, retry_at) | Admission::RefusedShared(state, retry_at) => {
            let headers = key.backends.rate_limit_headers;
            match key.rules.get(state.rule) {
                Some(rule) => Denial::exhausted(rule, state, retry_at, headers),
                None => {
                    let rules = rules(key, &context.route);
                    exhausted_route(&rules, state, retry_at, headers)
                }
            }
        }
        // Counters of keys have room once they are attached.
        Admission::Admitted(..) | Admission::Full | Admission::Undecided => {
            Denial::new(Reason::Unavailable)
        }
    }
}

#[cold]
fn exhausted_route(
    rules: Rules<'_>,
    state: LimitState,
    retry_at: Moment,
    headers: RateLimitHeaders,
) -> Denial {
    match rule_at(rules, state.rule) {
        Some(rule) => Denial::exhausted(rule, state, retry_at, headers),
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
    let routes = route_match.routes.iter().map(|route| &*route.key_rules);
    let routes = routes.filter(|rules| !rules.is_empty());
    std::iter::once(&*key.rules).chain(routes).collect()
}
