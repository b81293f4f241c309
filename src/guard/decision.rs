//! What a decision says: [`Grant`], [`Denial`] and, of the dry run, [`Verdict`].

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use smallvec::SmallVec;

use super::residents::Caller;
use crate::client_ip::ClientIp;
use crate::clock::Moment;
use crate::ip_limit::IpLimit;
use crate::limiter::Level;
use crate::policy::{Rule, Scope, Span};
use crate::record::{Key, Method, Org, Reason};
use crate::store::UsageEvent;

/// A request that is let through.
///
/// Hand it to [`Grant::finish`] once the answer is known, so that status and latency are recorded.
/// A grant that is dropped unfinished counts once all the same, with the status 0.
#[must_use = "dropping a grant records the request as unfinished"]
pub struct Grant {
    caller: Arc<Caller>,
    level: Level,
    ip: ClientIp,
    method: Method,
    path: StoredPath,
    /// Whether [`Grant::require`] has refused.
    lacked_scope: AtomicBool,
    status: u16,
}

/// The path to record, inline as far as paths usually go.
pub(super) type StoredPath = SmallVec<[u8; 40]>;

impl Grant {
    #[inline]
    pub(super) fn new(
        caller: Arc<Caller>,
        level: Level,
        ip: ClientIp,
        method: Method,
        path: StoredPath,
    ) -> Self {
        let lacked_scope = AtomicBool::new(false);
        Self {
            caller,
            level,
            ip,
            method,
            path,
            lacked_scope,
            status: 0,
        }
    }

    /// The key that was presented; `None` if the path needs none.
    pub fn key(&self) -> Option<&Key> {
        Some(&self.caller.about.key)
    }

    /// The organization that owns the key; `None` if the path needs no key.
    pub fn org(&self) -> Option<&Org> {
        Some(&self.caller.about.org)
    }

    /// What the key may do.
    pub fn scopes(&self) -> &[Scope] {
        &self.caller.about.key.scopes
    }

    /// How many more requests of cost 1 the tightest limit admits now.
    pub fn remaining(&self) -> u64 {
        self.level.remaining
    }

    /// Checks that the key holds `scope`.
    ///
    /// # Errors
    /// A [`Denial`] of status 403 if it does not. Dropping the grant then records that refusal.
    pub fn require(&self, scope: &str) -> Result<(), Denial> {
        if holds(&self.caller.about.key, scope) {
            return Ok(());
        }
        self.lacked_scope.store(true, Ordering::Relaxed);
        Err(Denial::new(Reason::MissingScope))
    }

    /// Header fields to send with the answer: `X-RateLimit-Limit`, `X-RateLimit-Remaining`,
    /// `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10) of the tightest
    /// limit.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let Level {
            rule,
            at,
            remaining,
            grows_at,
        } = self.level;
        let rule = &self.caller.rules[rule];
        limit_fields(rule.name(), rule, remaining, grows_at.since(at))
    }

    /// Records how the request was answered, and how long that took since it was admitted.
    pub fn finish(mut self, status: u16) {
        self.status = status;
    }

    fn event(&self) -> UsageEvent {
        let clock = self.caller.recorder.clock();
        let lacked_scope = self.lacked_scope.load(Ordering::Relaxed);
        let latency = clock.now().since(self.level.at);
        UsageEvent {
            at: clock.timestamp_at(self.level.at),
            key_id: self.caller.key_id,
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
    fn drop(&mut self) {
        if self.caller.recorder.is_enabled() {
            self.caller.recorder.record(self.event(), &self.path);
        }
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant")
            .field("key", &self.caller.key_id)
            .field("org", &self.caller.org_id)
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
    name: Cow<'static, str>,
    remaining: u64,
    wait: Duration,
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

    /// A refusal by a limit on addresses, which has room from `room_at` on; the address is locked
    /// out until `locked_for` has passed.
    pub(super) fn ip_limited(
        limit: &IpLimit,
        level: Level,
        room_at: Moment,
        locked_for: Duration,
    ) -> Self {
        let wait = room_at.since(level.at);
        Self {
            reason: Reason::IpLimited,
            wait: Some(wait.max(locked_for)),
            limit: Some(Exhausted {
                rule: limit.rule(),
                name: limit.name.to_string().into(),
                remaining: level.remaining,
                wait,
            }),
        }
    }

    /// A refusal by `rule`, which has room from `room_at` on.
    #[inline]
    pub(super) fn exhausted(rule: Rule, level: Level, room_at: Moment) -> Self {
        let reason = match rule.span {
            Span::Sliding(_) => Reason::RateLimited,
            Span::Month => Reason::QuotaExhausted,
        };
        let wait = room_at.since(level.at);
        let limit = Exhausted {
            rule,
            name: rule.name().into(),
            remaining: level.remaining,
            wait,
        };
        Self {
            reason,
            wait: Some(wait),
            limit: Some(limit),
        }
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
            let Exhausted {
                rule,
                name,
                remaining,
                wait,
            } = limit;
            fields.extend(limit_fields(name, rule, *remaining, *wait));
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
        Reason::MissingScope | Reason::IpLocked => 403,
        Reason::RateLimited | Reason::QuotaExhausted | Reason::IpLimited => 429,
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
        Reason::QuotaExhausted => (
            "Too Many Requests",
            "quota_exhausted",
            "Monthly limit exceeded.",
        ),
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
    }
}

fn limit_fields(
    name: &str,
    rule: &Rule,
    remaining: u64,
    reset: Duration,
) -> Vec<(&'static str, String)> {
    let limit = rule.limit;
    let (window, reset) = match rule.span {
        // A hit counts from the later end of its grain; the fields show whole windows.
        Span::Sliding(length) => (
            format!(";w={}", length.seconds()),
            whole_seconds(reset).min(length.seconds()),
        ),
        // Months differ in length, and `w` is optional.
        Span::Month => (String::new(), whole_seconds(reset)),
    };
    vec![
        ("X-RateLimit-Limit", limit.to_string()),
        ("X-RateLimit-Remaining", remaining.to_string()),
        ("RateLimit-Policy", format!(r#""{name}";q={limit}{window}"#)),
        ("RateLimit", format!(r#""{name}";r={remaining};t={reset}"#)),
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
}

impl Verdict {
    /// Whether the request would be let through.
    pub fn is_allowed(&self) -> bool {
        self.denial.is_none()
    }
}

/// How one limit stands, in a [`Verdict`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuleState {
    /// Its name, as the header fields spell it.
    pub name: &'static str,
    /// How much it admits in all.
    pub limit: u64,
    /// How much more it admits now.
    pub remaining: u64,
}

impl RuleState {
    pub(super) fn new(rule: &Rule, level: Level) -> Self {
        Self {
            name: rule.name(),
            limit: rule.limit,
            remaining: level.remaining,
        }
    }
}
