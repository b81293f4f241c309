//! A request that is refused, and how to say so.

use std::fmt;
use std::time::Duration;

use super::fields::{LimitFields, whole_seconds};
use crate::counter::{Rule, Subject};
use crate::limit::Period;
use crate::limiter::LimitState;
use crate::model::Reason;
use crate::time::Moment;

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

    /// A refusal of a request without a key.
    #[cfg(feature = "axum")]
    pub(crate) fn missing_key() -> Self {
        Self::new(Reason::MissingKey)
    }

    /// A refusal that ends by itself after `wait`, which may have passed by now.
    pub(super) fn locked(wait: Duration) -> Self {
        Self {
            wait: Some(wait.max(Duration::from_millis(1))),
            ..Self::new(Reason::IpLocked)
        }
    }

    /// A refusal by `rule`, which has room from `retry_at` on.
    #[inline]
    pub(super) fn exhausted(rule: &Rule, level: LimitState, retry_at: Moment) -> Self {
        let reason = match (rule.subject, rule.limit.period) {
            (Subject::Address, _) => Reason::IpLimited,
            (_, Period::Sliding(_)) => Reason::RateLimited,
            (_, Period::Day | Period::Month) => Reason::QuotaExhausted,
            (_, Period::Credits(_)) => Reason::CreditsExhausted,
            (_, Period::Concurrent) => Reason::TooManyConcurrent,
        };
        let wait = (retry_at < Moment::NEVER).then(|| retry_at.since(level.at));
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
    pub(super) fn and_locked(mut self, locked_for: Option<Duration>) -> Self {
        self.wait = self.wait.max(locked_for);
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

    /// What the client is told.
    #[cfg(feature = "http")]
    pub(crate) fn detail(&self) -> &'static str {
        explain(self.reason).2
    }

    /// How long a client that waits for no other is to wait until it is admitted; `None` where
    /// waiting does not help.
    #[inline]
    pub fn retry_after(&self) -> Option<Duration> {
        self.wait
    }

    /// [`Denial::retry_after`] in whole seconds, rounded up, at least 1.
    pub(crate) fn retry_after_seconds(&self) -> Option<u64> {
        self.wait.map(|wait| whole_seconds(wait).max(1))
    }

    /// Header fields to send with the answer: its `Content-Type`; `WWW-Authenticate` with a 401
    /// (RFC 9110 §11.6.1, RFC 6750 §3); `Retry-After` in whole seconds, rounded up (RFC 9110
    /// §10.2.3), where waiting helps; the fields of [`Grant::headers`](crate::Grant::headers) with a
    /// 429.
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
        if let Some(seconds) = self.retry_after_seconds() {
            fields.push(("Retry-After", seconds.to_string()));
        }
        if let Some(limit) = &self.limit {
            let limit = LimitFields::new(&limit.rule, limit.remaining, limit.wait);
            fields.extend(limit.pairs());
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
        let retry_after = match self.retry_after_seconds() {
            Some(seconds) => format!(r#","retry_after":{seconds}"#),
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
        | Reason::CostAboveLimit
        | Reason::InvalidClientIp
        | Reason::UnreadablePath => 400,
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
            "Too many clients are being counted at a time.",
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
        Reason::InvalidClientIp => (
            "Bad Request",
            "invalid_client_ip",
            "The forwarding header does not name the client by an address.",
        ),
        Reason::UnreadablePath => (
            "Bad Request",
            "unreadable_path",
            "The path can be read in too many ways; send it in its simplest form.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_told_to_come_again_at_once() {
        for (wait, seconds) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2)] {
            let denial = Denial::locked(Duration::from_millis(wait));
            let headers = denial.headers();
            let retry_after = headers.iter().find(|(name, _)| *name == "Retry-After");
            assert_eq!(
                retry_after.map(|(_, value)| &**value),
                Some(&*format!("{seconds}"))
            );
            assert!(
                denial
                    .problem()
                    .contains(&format!(r#""retry_after":{seconds}}}"#))
            );
            assert!(denial.retry_after() > Some(Duration::ZERO));
        }
        // What waiting does not help with is not made to wait by a lock that there is not.
        let denial = Denial::new(Reason::IpLimited).and_locked(None);
        assert_eq!(denial.retry_after(), None);
    }
}
