//! Refused requests, and the responses to them.

use std::fmt;
use std::time::Duration;

use super::fields::{LimitFields, whole_seconds};
use crate::counter::{Rule, Subject};
use crate::limit::Period;
use crate::limiter::LimitState;
use crate::model::Reason;
use crate::time::Moment;

/// A refused request, with the reason and the response.
///
/// ```
/// # use keyguard::{Config, KeyGuard, Reason};
/// # let dir = tempfile::tempdir()?;
/// # let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::new("a long random secret"))?;
/// let denial = kg.check(&(), std::net::Ipv4Addr::LOCALHOST, "/orders").unwrap_err();
/// assert_eq!(denial.reason(), Reason::MissingKey); // for the server
/// assert_eq!(denial.status(), 401);
/// assert_eq!(denial.headers()[0], ("Content-Type", "application/problem+json".to_owned()));
/// assert!(denial.problem().contains(r#""code":"missing_key""#)); // the body
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    reason: Reason,
    wait: Option<Duration>,
    limit: Option<Exhausted>,
}

/// The limit that refused the request.
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

    /// Creates a refusal by a lock that ends after `wait`, which may be zero.
    pub(super) fn locked(wait: Duration) -> Self {
        Self {
            wait: Some(wait.max(Duration::from_millis(1))),
            ..Self::new(Reason::IpLocked)
        }
    }

    /// Creates a refusal by `rule`, which has room from `retry_at` on.
    #[inline]
    pub(super) fn exhausted(rule: &Rule, state: LimitState, retry_at: Moment) -> Self {
        let reason = match (rule.subject, rule.limit.period) {
            (Subject::Address, _) => Reason::IpLimited,
            (_, Period::Sliding(_)) => Reason::RateLimited,
            (_, Period::Day | Period::Month) => Reason::QuotaExhausted,
            (_, Period::Credits(_)) => Reason::CreditsExhausted,
            (_, Period::Concurrent) => Reason::TooManyConcurrent,
        };
        let wait = (retry_at < Moment::NEVER).then(|| retry_at.since(state.at));
        let limit = Exhausted {
            rule: rule.clone(),
            remaining: state.remaining,
            wait,
        };
        Self {
            reason,
            wait,
            limit: Some(limit),
        }
    }

    /// Extends the wait of a client that is also locked out for `locked_for`.
    pub(super) fn and_locked(mut self, locked_for: Option<Duration>) -> Self {
        self.wait = self.wait.max(locked_for);
        self
    }

    /// Returns the name of the limit that refused the request, as in header fields; `None` without one.
    pub fn limit_name(&self) -> Option<String> {
        self.limit.as_ref().map(|limit| limit.rule.name())
    }

    /// Returns the exact reason, for the server only. [`Denial::problem`], which the client gets, does not
    /// distinguish between bad keys.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// Returns the HTTP status of the response.
    pub fn status(&self) -> u16 {
        status(self.reason)
    }

    /// Returns the explanation for the client.
    #[cfg(feature = "http")]
    pub(crate) fn detail(&self) -> &'static str {
        explain(self.reason).2
    }

    /// Returns how long to wait until the request is admitted, if no other request comes first; `None` if
    /// waiting does not help.
    #[inline]
    pub fn retry_after(&self) -> Option<Duration> {
        self.wait
    }

    /// [`Denial::retry_after`] in whole seconds, rounded up, at least 1.
    pub(crate) fn retry_after_seconds(&self) -> Option<u64> {
        self.wait.map(|wait| whole_seconds(wait).max(1))
    }

    /// Returns the header fields of the response: `Content-Type`; `WWW-Authenticate` with a 401
    /// (RFC 9110 §11.6.1, RFC 6750 §3); `Retry-After` in whole seconds, rounded up (RFC 9110
    /// §10.2.3), if waiting helps; the fields of [`Grant::headers`](crate::Grant::headers) with a
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

    /// Returns the body of the response: a problem document (RFC 9457) in JSON.
    ///
    /// Its members are `type`, `title`, `status`, `detail`, `code` and, if waiting helps, `retry_after` in
    /// seconds. The document is the same for all invalid keys.
    pub fn problem(&self) -> String {
        let status = self.status();
        let (title, code, detail) = explain(self.reason);
        let retry_after = match self.retry_after_seconds() {
            Some(seconds) => format!(r#","retry_after":{seconds}"#),
            None => String::new(),
        };
        // The texts are constants that need no escaping.
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

/// Returns the title, code and detail of the problem document.
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
            "The service cannot check the request at the moment.",
        ),
        Reason::Overloaded => (
            "Service Unavailable",
            "overloaded",
            "Too many clients at the moment.",
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
            "Too many concurrent requests with this key.",
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
    fn retry_after_is_never_zero() {
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
        // Without a lock there is nothing to wait for.
        let denial = Denial::new(Reason::IpLimited).and_locked(None);
        assert_eq!(denial.retry_after(), None);
    }
}
