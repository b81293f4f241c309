//! A request that is let through.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use smallvec::SmallVec;

use super::denial::Denial;
use super::fields::LimitFields;
use super::key_cache::CachedKey;
use crate::counter::Rule;
use crate::limiter::{Demand, LimitState, Receipt, rule_at};
use crate::model::Scope;
use crate::model::{Key, Method, Org, Reason};
use crate::net::ClientIp;
use crate::store::UsageEvent;
use crate::time::Moment;

/// A request that is let through.
///
/// Hand it to [`Grant::finish`] once the answer is known, so that status and latency are recorded.
/// A grant that is dropped unfinished counts once all the same, with the status 0. Either ends the
/// request as one of those in flight.
#[must_use = "dropping a grant records the request as unfinished"]
pub struct Grant {
    /// `None` where no key was needed.
    caller: Option<Arc<CachedKey>>,
    level: LimitState,
    ip: ClientIp,
    method: Method,
    path: StoredPath,
    /// Whether [`Grant::require`] has refused.
    lacked_scope: AtomicBool,
    is_settled: AtomicBool,
    is_recorded: AtomicBool,
    cost: NonZeroU32,
    /// What few grants have.
    extra: Option<Box<Extra>>,
}

/// What only requests that match routes with limits, or that shadow mode concerns, carry along.
#[derive(Default)]
pub(super) struct Extra {
    /// Limits of routes, behind those of the caller.
    pub(super) route_rules: Vec<Rule>,
    pub(super) receipt: Receipt,
    /// The names of rules and routes that would have refused.
    pub(super) shadowed: Vec<String>,
}

/// The path to record, inline as far as paths usually go.
type StoredPath = SmallVec<[u8; 40]>;

impl Grant {
    #[inline]
    pub(super) fn new(
        caller: Arc<CachedKey>,
        level: LimitState,
        ip: ClientIp,
        method: Method,
        path: &str,
        cost: NonZeroU32,
        extra: Option<Box<Extra>>,
    ) -> Self {
        Self {
            caller: Some(caller),
            level,
            ip,
            method,
            path: StoredPath::from_slice(path.as_bytes()),
            lacked_scope: AtomicBool::new(false),
            is_settled: AtomicBool::new(false),
            is_recorded: AtomicBool::new(false),
            cost,
            extra,
        }
    }

    /// A grant to whoever asks, where no key is needed.
    pub(super) fn anonymous(
        at: Moment,
        ip: ClientIp,
        method: Method,
        shadowed: Vec<String>,
    ) -> Self {
        let extra = (!shadowed.is_empty()).then(|| {
            Box::new(Extra {
                shadowed,
                ..Extra::default()
            })
        });
        Self {
            caller: None,
            level: LimitState::unlimited(at),
            ip,
            method,
            path: StoredPath::new(),
            lacked_scope: AtomicBool::new(false),
            is_settled: AtomicBool::new(false),
            is_recorded: AtomicBool::new(false),
            cost: NonZeroU32::MIN,
            extra,
        }
    }

    /// The key that was presented; `None` if the path needs none.
    pub fn key(&self) -> Option<&Key> {
        Some(&self.caller.as_ref()?.about.key)
    }

    /// The organization that owns the key; `None` if the path needs no key.
    pub fn org(&self) -> Option<&Org> {
        Some(&self.caller.as_ref()?.about.org)
    }

    /// What the key may do; nothing without a key.
    pub fn scopes(&self) -> &[Scope] {
        self.key().map_or(&[], |key| &key.scopes)
    }

    /// The address that the request was decided for.
    pub fn ip(&self) -> ClientIp {
        self.ip
    }

    /// How many more requests of cost 1 the tightest limit admits now; [`u64::MAX`] if there is
    /// none.
    pub fn remaining(&self) -> u64 {
        self.level.remaining
    }

    /// The names of limits and routes in shadow mode that would have refused the request.
    pub fn shadowed(&self) -> &[String] {
        self.extra.as_ref().map_or(&[], |extra| &extra.shadowed)
    }

    /// Checks that the key holds `scope`.
    ///
    /// # Errors
    /// A [`Denial`] of status 403 if it does not, or if there is none. Dropping the grant then
    /// records that refusal.
    pub fn require(&self, scope: &str) -> Result<(), Denial> {
        if self.key().is_some_and(|key| holds(key, scope)) {
            return Ok(());
        }
        self.lacked_scope.store(true, Ordering::Relaxed);
        Err(Denial::new(Reason::MissingScope))
    }

    /// Says what the request turned out to cost. What it cost less than what was reserved is given
    /// back to every limit; what it cost more is taken from them whether or not there is room, so
    /// that later requests wait for it. Only the first call counts; a grant that is never settled
    /// has cost what was reserved.
    ///
    /// Hits are given back as long as they are within their window, and until an administrator
    /// resets the limit; quotas within their day or month.
    pub fn settle(&self, actual: u64) {
        if self.is_settled.swap(true, Ordering::Relaxed) {
            return;
        }
        let (Some(caller), reserved) = (&self.caller, u64::from(self.cost.get())) else {
            return;
        };
        if actual != reserved {
            let receipt = self.extra.as_ref().map(|extra| &extra.receipt);
            let demand = Demand {
                subjects: caller.subjects(),
                rules: &[&caller.rules, self.route_rules()],
                cost: self.cost,
            };
            let limiter = &caller.backends.limiter;
            limiter.settle(demand, self.level.at, receipt.unwrap_or(&None), actual);
        }
    }

    fn route_rules(&self) -> &[Rule] {
        self.extra.as_ref().map_or(&[], |extra| &extra.route_rules)
    }

    /// Header fields to send with the answer: `X-RateLimit-Limit`, `X-RateLimit-Remaining`,
    /// `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10) of the tightest
    /// limit, and `X-KeyGuard-Shadow` with the names of [`Grant::shadowed`], as a list of strings
    /// (RFC 9651).
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let limit = self.limit_fields();
        let limit = limit.iter().flat_map(LimitFields::pairs);
        limit.chain(self.shadow_field()).collect()
    }

    /// How the tightest limit stands.
    pub(crate) fn limit_fields(&self) -> Option<LimitFields> {
        let LimitState {
            rule,
            at,
            remaining,
            resets_at,
        } = self.level;
        let own = self.caller.as_ref().map_or(&[][..], |caller| &caller.rules);
        let lists = [own, self.route_rules()];
        let rule = rule_at(&lists, rule)?;
        Some(LimitFields::new(rule, remaining, Some(resets_at.since(at))))
    }

    pub(crate) fn shadow_field(&self) -> Option<(&'static str, String)> {
        if self.shadowed().is_empty() {
            return None;
        }
        let names = self.shadowed().iter().map(|name| format!(r#""{name}""#));
        Some(("X-KeyGuard-Shadow", names.collect::<Vec<_>>().join(", ")))
    }

    /// Records how the request was answered, and how long that took since it was admitted.
    #[inline]
    pub fn finish(self, status: u16) {
        self.answer(status);
    }

    /// As [`Grant::finish`], while the request is still in flight: its answer has begun.
    #[inline]
    pub(crate) fn answer(&self, status: u16) {
        let Some(caller) = &self.caller else { return };
        if caller.backends.recorder.is_enabled() && !self.is_recorded.swap(true, Ordering::Relaxed)
        {
            let event = self.event(caller, status);
            caller.backends.recorder.record(event, &self.path);
        }
    }

    fn event(&self, caller: &CachedKey, status: u16) -> UsageEvent {
        let clock = caller.backends.recorder.clock();
        let lacked_scope = self.lacked_scope.load(Ordering::Relaxed);
        let latency = clock.now().since(self.level.at);
        UsageEvent {
            at: clock.timestamp_at(self.level.at),
            key_id: caller.key_id,
            ip: self.ip,
            latency_micros: u32::try_from(latency.as_micros()).unwrap_or(u32::MAX),
            status: if lacked_scope && status == 0 {
                403
            } else {
                status
            },
            // Cut to 256 bytes before.
            path_len: self.path.len() as u16,
            method: self.method,
            refused: lacked_scope.then_some(Reason::MissingScope),
        }
    }
}

impl Drop for Grant {
    #[inline]
    fn drop(&mut self) {
        let Some(caller) = &self.caller else { return };
        if caller.counts_in_flight {
            let limiter = &caller.backends.limiter;
            let receipt = self.extra.as_ref().map(|extra| &extra.receipt);
            let demand = Demand {
                subjects: caller.subjects(),
                rules: &[&caller.rules],
                cost: self.cost,
            };
            limiter.release(demand, receipt.unwrap_or(&None));
        }
        self.answer(0);
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let caller = self.caller.as_ref();
        f.debug_struct("Grant")
            .field("key", &caller.map(|caller| caller.key_id))
            .field("org", &caller.map(|caller| caller.org_id))
            .field("remaining", &self.level.remaining)
            .finish_non_exhaustive()
    }
}

pub(super) fn holds(key: &Key, scope: &str) -> bool {
    key.scopes.iter().any(|held| held.as_str() == scope)
}
