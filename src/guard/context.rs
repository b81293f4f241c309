//! A request on its way through the stages of the [decision](super::pipeline).

use std::num::NonZeroU32;
use std::sync::Arc;

use smallvec::SmallVec;

use super::denial::Denial;
use super::key_cache::CachedKey;
use super::request::Request;
use super::verdict::RuleState;
use crate::counter::Rule;
use crate::limiter::{Admission, LimitState, slowest};
use crate::model::Reason;
use crate::net::ClientIp;
use crate::policy::RouteMatch;
use crate::sys::Deadline;
use crate::time::Moment;

/// A request on its way through the stages.
pub(super) struct RequestContext<'p, 'r, H: ?Sized> {
    pub(super) request: &'r Request<'r, H>,
    /// The address that the request is decided and recorded for.
    pub(super) ip: &'r ClientIp,
    /// Whether the policy accepts nothing from the client.
    pub(super) is_denied: bool,
    pub(super) place: &'r RouteMatch<'p>,
    pub(super) cost: NonZeroU32,
    /// With backends on other servers.
    pub(super) deadline: Deadline,
    pub(super) progress: Progress,
    /// What the limits of the routes by address have answered.
    pub(super) address: Option<Admission>,
    /// What the store says of its key, once that was read.
    pub(super) found: Option<Result<Option<Arc<CachedKey>>, Reason>>,
}

/// What a decision that goes on elsewhere has done already.
#[derive(Default)]
pub(super) struct Progress {
    /// Whether the limits of the routes by address have let the request pass.
    pub(super) is_counted: bool,
    /// `None` for almost every request.
    pub(super) notes: Option<Box<ShadowLog>>,
}

/// What is noted of a request that shadow mode or the dry run concerns.
#[derive(Default)]
pub(super) struct ShadowLog {
    /// What would have refused it, were it enforced.
    pub(super) shadowed: Vec<String>,
    /// For the dry run, which consumes nothing: how the limits stand that were asked.
    pub(super) states: Option<Vec<RuleState>>,
}

impl ShadowLog {
    pub(super) fn of_dry_run() -> Self {
        Self {
            states: Some(Vec::new()),
            ..Self::default()
        }
    }
}

impl<H: ?Sized> RequestContext<'_, '_, H> {
    pub(super) fn note(&mut self) -> &mut ShadowLog {
        self.progress.notes.get_or_insert_default()
    }

    pub(super) fn take_shadowed(&mut self) -> Vec<String> {
        let notes = self.progress.notes.as_deref_mut();
        notes.map_or_else(Vec::new, |notes| std::mem::take(&mut notes.shadowed))
    }

    pub(super) fn is_dry_run(&self) -> bool {
        let notes = self.progress.notes.as_deref();
        notes.is_some_and(|notes| notes.states.is_some())
    }

    /// Notes how limits stand, and says which of them would refuse: the one that takes longest.
    pub(super) fn look<'a>(
        &mut self,
        rules: impl Iterator<Item = &'a Rule> + Clone,
        states: &[(LimitState, Moment)],
    ) -> Option<Denial> {
        let notes = self.note();
        let all = rules.clone().zip(states.iter().copied());
        let refusing = all.filter_map(|(rule, (state, retry_at))| {
            let shown = notes.states.get_or_insert_default();
            shown.push(RuleState::new(rule, state));
            if retry_at <= state.at {
                return None;
            }
            if rule.limit.shadow {
                notes.shadowed.push(rule.name());
                return None;
            }
            Some((state, retry_at))
        });
        let (state, retry_at) = slowest(refusing)?;
        let rule = rules.clone().nth(state.rule)?;
        Some(Denial::exhausted(rule, state, retry_at))
    }
}

pub(super) fn is_above_a_limit<H: ?Sized>(
    caller: &CachedKey,
    visit: &RequestContext<'_, '_, H>,
) -> bool {
    let of_routes = visit.place.routes.iter().flat_map(|route| &route.key_rules);
    let mut limits = caller.rules.iter().chain(of_routes).map(|rule| rule.limit);
    limits.any(|limit| {
        let takes = u64::from(limit.period.takes(visit.cost).get());
        !limit.shadow && takes > limit.amount.get()
    })
}

/// The rules of a caller, and behind them those that the routes set for each key.
pub(super) fn lists<'a, 'p: 'a>(
    caller: &'a CachedKey,
    place: &RouteMatch<'p>,
) -> SmallVec<[&'a [Rule]; 3]> {
    let routes = place.routes.iter().map(|route| &*route.key_rules);
    let routes = routes.filter(|rules| !rules.is_empty());
    std::iter::once(&*caller.rules).chain(routes).collect()
}
