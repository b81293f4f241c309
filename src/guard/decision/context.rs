//! The state of a request during its decision.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::super::cached_key::CachedKey;
use super::super::denial::Denial;
use super::super::policy_reloader::PolicySnapshot;
use super::super::request::Request;
use super::super::verdict::{LimitStatus, Verdict};
use crate::limiter::{LimitState, Receipt};
use crate::model::Reason;
use crate::net::ClientIp;
use crate::policy::{Access, RouteMatch};
use crate::sys::Deadline;
use crate::time::{Moment, Timestamp};

/// A request, with the results of the stages so far.
pub(super) struct RequestContext<'a, H: ?Sized> {
    pub(super) request: &'a Request<'a, H>,
    pub(super) policy: &'a PolicySnapshot<'a>,
    /// The address that the request is decided and recorded for: that of the peer until the client
    /// is identified.
    pub(super) ip: ClientIp,
    pub(super) route: RouteMatch<'a>,
    pub(super) cost: NonZeroU32,
    /// Until when the address is locked out of requests without a key.
    pub(super) keyless_lock: Option<Timestamp>,
    /// For all calls to remote backends together.
    pub(super) deadline: Deadline,
    /// Whether nothing is consumed, locked or recorded.
    pub(super) is_preview: bool,
    /// Whether the decision reached the key.
    pub(super) is_key_reached: bool,
    /// The key, after the last stage.
    pub(super) key: Option<Arc<CachedKey>>,
    /// The state of the tightest limit of the key, after the last stage.
    pub(super) limit_state: LimitState,
    pub(super) receipt: Receipt,
    /// The denial of a refused request, if it contains more than the reason.
    denial: Option<Denial>,
    /// `None` for almost every request.
    pub(super) shadow_log: Option<Box<ShadowLog>>,
}

/// What shadow mode and previews collect.
#[derive(Default)]
pub(super) struct ShadowLog {
    /// The names of the rules and routes in shadow mode that would have refused the request.
    pub(super) shadow_denied: Vec<String>,
    /// In a preview, the states of all limits so far.
    pub(super) states: Vec<LimitStatus>,
}

impl ShadowLog {
    /// Notes the name of a rule or route in shadow mode that would have refused the request, unless it
    /// is noted already.
    #[cold]
    pub(super) fn deny(log: &mut Option<Box<Self>>, name: String) {
        let names = &mut log.get_or_insert_default().shadow_denied;
        if !names.contains(&name) {
            names.push(name);
        }
    }
}

impl<'a, H: ?Sized> RequestContext<'a, H> {
    #[inline(always)]
    pub(super) fn new(request: &'a Request<'a, H>, policy: &'a PolicySnapshot<'a>) -> Self {
        Self {
            request,
            policy,
            ip: request.ip,
            route: RouteMatch::without_routes(Access::Protected),
            cost: NonZeroU32::MIN,
            keyless_lock: None,
            deadline: Deadline::default(),
            is_preview: false,
            is_key_reached: false,
            key: None,
            limit_state: LimitState::unlimited(Moment::default()),
            receipt: None,
            denial: None,
            shadow_log: None,
        }
    }

    pub(super) fn for_preview(request: &'a Request<'a, H>, policy: &'a PolicySnapshot<'a>) -> Self {
        Self {
            is_preview: true,
            ..Self::new(request, policy)
        }
    }

    /// Keeps the denial of a request that a stage refuses, and returns the reason.
    #[inline(always)]
    pub(super) fn refuse(&mut self, denial: Denial) -> Reason {
        let reason = denial.reason();
        self.denial = Some(denial);
        reason
    }

    /// The denial of a refused request.
    pub(super) fn denial(&self) -> Option<&Denial> {
        self.denial.as_ref()
    }

    #[inline(always)]
    pub(super) fn take_denial(&mut self, reason: Reason) -> Denial {
        self.denial.take().unwrap_or_else(|| Denial::new(reason))
    }

    pub(super) fn shadow_denied(&self) -> &[String] {
        let log = self.shadow_log.as_deref();
        log.map_or(&[], |log| &log.shadow_denied)
    }

    pub(super) fn take_shadow_denied(&mut self) -> Vec<String> {
        let log = self.shadow_log.as_deref_mut();
        log.map_or_else(Vec::new, |log| std::mem::take(&mut log.shadow_denied))
    }

    pub(super) fn into_verdict(mut self, outcome: Result<(), Reason>) -> Verdict {
        let denial = outcome.err().map(|reason| self.take_denial(reason));
        let log = *self.shadow_log.unwrap_or_default();
        Verdict {
            denial,
            rules: log.states,
            shadow_denied: log.shadow_denied,
            key_checked: self.is_key_reached,
        }
    }
}
