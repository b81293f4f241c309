//! What a decision says: [`Grant`], [`Denial`] and, of the dry run, [`Verdict`].

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::residents::Caller;
use crate::client_ip::ClientIp;
use crate::clock::Moment;
use crate::limit::Span;
use crate::limiter::{Admission, Level, PassedOver, rule_at};
use crate::policy::Scope;
use crate::record::{Key, Method, Org, Reason};
use crate::rule::{Holder, Rule};
use crate::store::UsageEvent;

/// A request that is let through.
///
/// Hand it to [`Grant::finish`] once the answer is known, so that status and latency are recorded.
/// A grant that is dropped unfinished counts once all the same, with the status 0. Either ends the
/// request as one of those in flight.
#[must_use = "dropping a grant records the request as unfinished"]
pub struct Grant {
    /// `None` where no key was needed.
    caller: Option<Arc<Caller>>,
    level: Level,
    ip: ClientIp,
    method: Method,
    path: StoredPath,
    /// Whether [`Grant::require`] has refused.
    lacked_scope: AtomicBool,
    is_settled: bool,
    status: u16,
    cost: NonZeroU32,
    /// What few grants have.
    extra: Option<Box<Extra>>,
}

/// What only requests that match routes with limits, or that shadow mode concerns, carry along.
#[derive(Default)]
pub(super) struct Extra {
    /// Limits of routes, behind those of the caller.
    pub(super) route_rules: Vec<Rule>,
    pub(super) passed_over: PassedOver,
    /// The names of rules and routes that would have refused.
    pub(super) shadowed: Vec<String>,
}

/// The path to record, inline as far as paths usually go.
type StoredPath = SmallVec<[u8; 40]>;

impl Grant {
    #[inline]
    pub(super) fn new(
        caller: Arc<Caller>,
        level: Level,
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
            is_settled: false,
            status: 0,
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
            level: Level::unlimited(at),
            ip,
            method,
            path: StoredPath::new(),
            lacked_scope: AtomicBool::new(false),
            is_settled: false,
            status: 0,
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
    pub fn settle(&mut self, actual: u64) {
        if self.is_settled {
            return;
        }
        self.is_settled = true;
        let (Some(caller), reserved) = (&self.caller, u64::from(self.cost.get())) else {
            return;
        };
        if actual != reserved {
            let passed_over = self.extra.as_ref().map(|extra| &extra.passed_over);
            let admission = Admission {
                at: self.level.at,
                cost: self.cost,
                passed_over: passed_over.unwrap_or(&None),
            };
            let rules = [&caller.rules, self.route_rules()];
            let limiter = &caller.backends.limiter;
            limiter.settle(caller.groups(), &rules, admission, actual);
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
        let Level {
            rule,
            at,
            remaining,
            grows_at,
        } = self.level;
        let own = self.caller.as_ref().map_or(&[][..], |caller| &caller.rules);
        let mut fields = match rule_at(&[own, self.route_rules()], rule) {
            Some(rule) => limit_fields(rule, remaining, Some(grows_at.since(at))),
            None => Vec::new(),
        };
        if let [_, ..] = self.shadowed() {
            let names = self.shadowed().iter().map(|name| format!(r#""{name}""#));
            fields.push(("X-KeyGuard-Shadow", names.collect::<Vec<_>>().join(", ")));
        }
        fields
    }

    /// Records how the request was answered, and how long that took since it was admitted.
    pub fn finish(mut self, status: u16) {
        self.status = status;
    }

    fn event(&self, caller: &Caller) -> UsageEvent {
        let clock = caller.backends.recorder.clock();
        let lacked_scope = self.lacked_scope.load(Ordering::Relaxed);
        let latency = clock.now().since(self.level.at);
        UsageEvent {
            at: clock.timestamp_at(self.level.at),
            key_id: caller.key_id,
            ip: self.ip,
            latency_micros: u32::try_from(latency.as_micros()).unwrap_or(u32::MAX),
            status: if lacked_scope && self.status == 0 {
                403
            } else {
                self.status
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
            let passed_over = self.extra.as_ref().map(|extra| &extra.passed_over);
            limiter.release(
                caller.groups(),
                &[&caller.rules],
                passed_over.unwrap_or(&None),
            );
        }
        if caller.backends.recorder.is_enabled() {
            caller
                .backends
                .recorder
                .record(self.event(caller), &self.path);
        }
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

/// A request that is refused, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    reason: Reason,
    wait: Option<Duration>,
    limit: Option<Exhausted>,
}

/// The limit that refused.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Exhausted {
    rule: Rule,
    remaining: u64,
    wait: Option<Duration>,
}

impl Denial {
    pub(super) fn new(reason: Reason) -> Self {
        Self {
            reason,
            wait: None,
            limit: None,
        }
    }

    /// A refusal that ends by itself after `wait`.
    pub(super) fn locked(wait: Duration) -> Self {
        Self {
            wait: Some(wait),
            ..Self::new(Reason::IpLocked)
        }
    }

    /// A refusal by `rule`, which has room from `room_at` on.
    #[inline]
    pub(super) fn exhausted(rule: &Rule, level: Level, room_at: Moment) -> Self {
        let reason = match (rule.holder, rule.limit.span) {
            (Holder::Address, _) => Reason::IpLimited,
            (_, Span::Sliding(_)) => Reason::RateLimited,
            (_, Span::Day | Span::Month) => Reason::QuotaExhausted,
            (_, Span::Credits(_)) => Reason::CreditsExhausted,
            (_, Span::Concurrent) => Reason::TooManyConcurrent,
        };
        let wait = (room_at < Moment::NEVER).then(|| room_at.since(level.at));
        let limit = Exhausted {
            rule: rule.clone(),
            remaining: level.remaining,
            wait,
        };
        Self {
            reason,
            wait,
            limit: Some(limit),
        }
    }

    /// The same, of an address that is locked out until `locked_for` has passed.
    pub(super) fn and_locked(mut self, locked_for: Duration) -> Self {
        self.wait = self.wait.max(Some(locked_for));
        self
    }

    /// The name of the limit that refuses, as header fields show it; `None` if none does.
    pub fn rule(&self) -> Option<String> {
        self.limit.as_ref().map(|limit| limit.rule.name())
    }

    /// Why, exactly. It is meant for the server's own use: what the client is told, by
    /// [`Denial::problem`], does not tell one bad key from another.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The HTTP status to answer with.
    pub fn status(&self) -> u16 {
        status(self.reason)
    }

    /// How long a client that waits for no other is to wait until it is admitted; `None` where
    /// waiting does not help.
    #[inline]
    pub fn retry_after(&self) -> Option<Duration> {
        self.wait
    }

    /// Header fields to send with the answer: its `Content-Type`; `WWW-Authenticate` with a 401
    /// (RFC 9110 §11.6.1, RFC 6750 §3); `Retry-After` in whole seconds, rounded up (RFC 9110
    /// §10.2.3), where waiting helps; the fields of [`Grant::headers`] with a 429.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let mut fields = vec![("Content-Type", "application/problem+json".to_owned())];
        match self.reason {
            Reason::MissingKey => {
                fields.push(("WWW-Authenticate", r#"Bearer realm="api""#.to_owned()));
            }
            _ if self.status() == 401 => {
                let challenge = r#"Bearer realm="api", error="invalid_token""#;
                fields.push(("WWW-Authenticate", challenge.to_owned()));
            }
            Reason::MissingScope => {
                let challenge = r#"Bearer realm="api", error="insufficient_scope""#;
                fields.push(("WWW-Authenticate", challenge.to_owned()));
            }
            _ => {}
        }
        if let Some(wait) = self.wait {
            fields.push(("Retry-After", whole_seconds(wait).to_string()));
        }
        if let Some(limit) = &self.limit {
            fields.extend(limit_fields(&limit.rule, limit.remaining, limit.wait));
        }
        fields
    }

    /// The body to answer with: a problem document (RFC 9457) in JSON.
    ///
    /// It has the members `type`, `title`, `status`, `detail` and `code`; where waiting
    /// helps also `retry_after`, in seconds. All keys that are not accepted have the same document.
    pub fn problem(&self) -> String {
        let status = self.status();
        let (title, code, detail) = explain(self.reason);
        let retry_after = match self.retry_after() {
            Some(wait) => format!(r#","retry_after":{}"#, whole_seconds(wait)),
            None => String::new(),
        };
        // All texts are constants without characters that JSON escapes.
        format!(
            r#"{{"type":"about:blank","title":"{title}","status":{status},"detail":"{detail}","code":"{code}"{retry_after}}}"#
        )
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", explain(self.reason).2, self.reason)
    }
}

impl std::error::Error for Denial {}

pub(super) fn status(reason: Reason) -> u16 {
    match reason {
        Reason::MissingKey
        | Reason::MalformedKey
        | Reason::UnknownKey
        | Reason::RevokedKey
        | Reason::ExpiredKey
        | Reason::SuspendedOrg => 401,
        Reason::AmbiguousKey
        | Reason::RepeatedHeader
        | Reason::OversizedKey
        | Reason::CostAboveLimit => 400,
        Reason::MissingScope | Reason::IpLocked | Reason::IpDenied | Reason::IpNotAllowed => 403,
        Reason::RateLimited
        | Reason::QuotaExhausted
        | Reason::CreditsExhausted
        | Reason::TooManyConcurrent
        | Reason::IpLimited => 429,
        Reason::Unavailable | Reason::Overloaded => 503,
    }
}

/// Title, code and detail of the problem document.
fn explain(reason: Reason) -> (&'static str, &'static str, &'static str) {
    match reason {
        Reason::MissingKey => (
            "Unauthorized",
            "missing_key",
            "API key required: send it in the key header.",
        ),
        Reason::MalformedKey
        | Reason::UnknownKey
        | Reason::RevokedKey
        | Reason::ExpiredKey
        | Reason::SuspendedOrg => ("Unauthorized", "invalid_key", "The API key is not valid."),
        Reason::AmbiguousKey => (
            "Bad Request",
            "ambiguous_key",
            "Two different API keys were sent; send one.",
        ),
        Reason::RepeatedHeader => (
            "Bad Request",
            "repeated_header",
            "The key header was sent more than once.",
        ),
        Reason::OversizedKey => (
            "Bad Request",
            "oversized_key",
            "The key header is longer than any API key.",
        ),
        Reason::CostAboveLimit => (
            "Bad Request",
            "cost_above_limit",
            "The request costs more than its limit admits.",
        ),
        Reason::MissingScope => (
            "Forbidden",
            "missing_scope",
            "The API key lacks a required scope.",
        ),
        Reason::RateLimited => ("Too Many Requests", "rate_limited", "Rate limit exceeded."),
        Reason::QuotaExhausted => ("Too Many Requests", "quota_exhausted", "Quota exceeded."),
        Reason::Unavailable => (
            "Service Unavailable",
            "unavailable",
            "The request cannot be decided now.",
        ),
        Reason::Overloaded => (
            "Service Unavailable",
            "overloaded",
            "Too many keys are in use at a time.",
        ),
        Reason::IpLocked => (
            "Forbidden",
            "ip_locked",
            "This address is locked out for a while.",
        ),
        Reason::IpLimited => (
            "Too Many Requests",
            "ip_limited",
            "Too many requests from this address.",
        ),
        Reason::CreditsExhausted => (
            "Too Many Requests",
            "credits_exhausted",
            "No credits are left.",
        ),
        Reason::TooManyConcurrent => (
            "Too Many Requests",
            "too_many_concurrent",
            "Too many requests of this key are being answered at a time.",
        ),
        Reason::IpDenied => (
            "Forbidden",
            "ip_denied",
            "Requests from this address are not accepted.",
        ),
        Reason::IpNotAllowed => (
            "Forbidden",
            "ip_not_allowed",
            "The API key is not accepted from this address.",
        ),
    }
}

/// `reset` is `None` where waiting does not help.
fn limit_fields(
    rule: &Rule,
    remaining: u64,
    reset: Option<Duration>,
) -> Vec<(&'static str, String)> {
    let (name, limit) = (rule.name(), rule.limit.amount);
    let (window, most) = match rule.limit.span {
        // A hit counts from the later end of its grain; the fields show whole windows.
        Span::Sliding(length) => (format!(";w={}", length.seconds()), length.seconds()),
        // Days and months differ in length, and `w` is optional.
        _ => (String::new(), u64::MAX),
    };
    let reset = reset.map(|reset| format!(";t={}", whole_seconds(reset).min(most)));
    let reset = reset.unwrap_or_default();
    vec![
        ("X-RateLimit-Limit", limit.to_string()),
        ("X-RateLimit-Remaining", remaining.to_string()),
        ("RateLimit-Policy", format!(r#""{name}";q={limit}{window}"#)),
        ("RateLimit", format!(r#""{name}";r={remaining}{reset}"#)),
    ]
}

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// What [`KeyGuard::dry_run`](crate::KeyGuard::dry_run) found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What the request would be refused with; `None` if it would be let through.
    pub denial: Option<Denial>,
    /// Every limit that was reached by the decision, and how it stands.
    pub rules: Vec<RuleState>,
    /// The names of limits and routes in shadow mode that would refuse it.
    pub shadowed: Vec<String>,
}

impl Verdict {
    /// Whether the request would be let through.
    pub fn is_allowed(&self) -> bool {
        self.denial.is_none()
    }
}

/// How one limit stands, in a [`Verdict`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RuleState {
    /// Its name, as the header fields spell it.
    pub name: String,
    /// How much it admits in all.
    pub limit: u64,
    /// How much more it admits now.
    pub remaining: u64,
    /// Whether it refuses nobody, but is decided and counted all the same.
    pub shadow: bool,
    /// In how many seconds, rounded up, some of what is used comes back; `None` for never.
    pub reset: Option<u64>,
}

impl RuleState {
    pub(crate) fn new(rule: &Rule, level: Level) -> Self {
        let reset = (level.grows_at < Moment::NEVER).then(|| level.grows_at.since(level.at));
        Self {
            name: rule.name(),
            limit: rule.limit.amount.get(),
            remaining: level.remaining,
            shadow: rule.limit.shadow,
            reset: reset.map(whole_seconds),
        }
    }
}
