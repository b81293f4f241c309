//! Refused requests, and the responses to them.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use super::cached_key::CachedKey;
use super::fields::{LimitFields, RateLimitHeaders, whole_seconds};
use crate::counter::{Rule, Subject};
use crate::limit::Period;
use crate::limiter::LimitState;
use crate::model::Reason;
use crate::time::Moment;

/// A refused request, with the reason and the response. Like a grant, it refers to its key and to parts of
/// the guard: drop it when the response is written.
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
    /// The header field of keys, if one is missing and the field is known.
    key_header: Option<Arc<str>>,
}

/// The limit that refused the request.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Exhausted {
    rule: ExhaustedRule,
    remaining: u64,
    wait: Option<Duration>,
}

/// The rule of an exhausted limit. Refusing a key copies nothing.
#[derive(Clone)]
enum ExhaustedRule {
    /// The rule of the key at this index.
    OfKey(Arc<CachedKey>, usize),
    Other(Box<(Rule, RateLimitHeaders)>),
}

impl ExhaustedRule {
    /// The header fields of the response.
    fn headers(&self) -> RateLimitHeaders {
        match self {
            Self::OfKey(key, _) => key.backends.rate_limit_headers,
            Self::Other(other) => other.1,
        }
    }
}

impl Deref for ExhaustedRule {
    type Target = Rule;

    fn deref(&self) -> &Rule {
        match self {
            Self::OfKey(key, index) => &key.rules[*index],
            Self::Other(other) => &other.0,
        }
    }
}

impl fmt::Debug for ExhaustedRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl PartialEq for ExhaustedRule {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for ExhaustedRule {}

impl Denial {
    pub(super) fn new(reason: Reason) -> Self {
        Self {
            reason,
            wait: None,
            limit: None,
            key_header: None,
        }
    }

    /// A refusal of a request without a key, which belongs into this header field.
    pub(crate) fn missing_key(key_header: Option<&Arc<str>>) -> Self {
        Self {
            key_header: key_header.map(Arc::clone),
            ..Self::new(Reason::MissingKey)
        }
    }

    /// Creates a refusal by a lock that ends after `wait`, which may be zero.
    pub(super) fn locked(wait: Duration) -> Self {
        Self {
            wait: Some(wait.max(Duration::from_millis(1))),
            ..Self::new(Reason::IpLocked)
        }
    }

    /// Creates a refusal by `rule`, which has room from `retry_at` on. Its response has these `headers`.
    pub(super) fn exhausted(
        rule: &Rule,
        state: LimitState,
        retry_at: Moment,
        headers: RateLimitHeaders,
    ) -> Self {
        let reason = reason(rule);
        let rule = ExhaustedRule::Other(Box::new((rule.clone(), headers)));
        Self::by_rule(reason, rule, state, retry_at)
    }

    /// Like [`Denial::exhausted`], by the rule of a key at the index in `state`.
    #[inline(always)]
    pub(super) fn exhausted_by_key(
        key: Arc<CachedKey>,
        state: LimitState,
        retry_at: Moment,
    ) -> Self {
        let reason = match state.rule < key.plain_rules.all().len() {
            true => Reason::RateLimited,
            false => reason(&key.rules[state.rule]),
        };
        let rule = ExhaustedRule::OfKey(key, state.rule);
        Self::by_rule(reason, rule, state, retry_at)
    }

    #[inline(always)]
    fn by_rule(reason: Reason, rule: ExhaustedRule, state: LimitState, retry_at: Moment) -> Self {
        let wait = (retry_at < Moment::NEVER).then(|| retry_at.since(state.at));
        let limit = Exhausted {
            rule,
            remaining: state.remaining,
            wait,
        };
        Self {
            wait,
            limit: Some(limit),
            ..Self::new(reason)
        }
    }

    /// The key, if a rule of its own refused the request.
    pub(super) fn key(&self) -> Option<&CachedKey> {
        match &self.limit.as_ref()?.rule {
            ExhaustedRule::OfKey(key, _) => Some(key),
            ExhaustedRule::Other(_) => None,
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
        self.reason.status()
    }

    /// Returns the explanation for the client.
    pub(crate) fn detail(&self) -> Cow<'static, str> {
        match &self.key_header {
            Some(name) => format!(
                "API key required: send it as `{name}: KEY` or as `Authorization: Bearer KEY`."
            )
            .into(),
            None => detail(self.reason).into(),
        }
    }

    /// Returns the reason as the client gets it: the same for all invalid keys.
    pub(crate) fn code(&self) -> &'static str {
        match self.reason {
            Reason::MissingKey => self.reason.as_str(),
            reason if reason.status() == 401 => "invalid_key",
            reason => reason.as_str(),
        }
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
    /// (RFC 9110 §11.6.1, RFC 6750 §3), which names the [header field of keys](crate::Config::key_header) if
    /// the key is missing; `Retry-After` in whole seconds, rounded up (RFC 9110
    /// §10.2.3), if waiting helps; the fields of [`Grant::headers`](crate::Grant::headers) with a
    /// 429.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let mut fields = vec![("Content-Type", "application/problem+json".to_owned())];
        match self.reason {
            Reason::MissingKey => {
                let mut challenge = r#"Bearer realm="api""#.to_owned();
                if let Some(name) = &self.key_header {
                    challenge += &format!(r#", ApiKey realm="api", header="{name}""#);
                }
                fields.push(("WWW-Authenticate", challenge));
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
        let limit = self.limit.as_ref().and_then(|limit| {
            LimitFields::new(
                limit.rule.headers(),
                &limit.rule,
                limit.remaining,
                limit.wait,
            )
        });
        let limit = limit.iter().flat_map(LimitFields::pairs);
        fields.extend(limit.map(|(name, value)| (name, value.to_owned())));
        fields
    }

    /// Returns the body of the response: a problem document (RFC 9457) in JSON, and a line feed.
    ///
    /// Its members are `type`, `title`, `status`, `detail`, `code` and, if waiting helps, `retry_after` in
    /// seconds. The document is the same for all invalid keys.
    pub fn problem(&self) -> String {
        let status = self.status();
        let (title, code, detail) = (title(status), self.code(), self.detail());
        let retry_after = match self.retry_after_seconds() {
            Some(seconds) => format!(r#","retry_after":{seconds}"#),
            None => String::new(),
        };
        // The texts are constants and names of header fields, which need no escaping.
        format!(
            r#"{{"type":"about:blank","title":"{title}","status":{status},"detail":"{detail}","code":"{code}"{retry_after}}}"#
        ) + "\n"
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.detail(), self.reason)
    }
}

impl std::error::Error for Denial {}

/// The reason of a refusal by an exhausted limit.
fn reason(rule: &Rule) -> Reason {
    match (rule.subject, rule.limit.period) {
        (Subject::Address, _) => Reason::IpLimited,
        (_, Period::Sliding(_)) => Reason::RateLimited,
        (_, Period::Day | Period::Month) => Reason::QuotaExhausted,
        (_, Period::Credits(_)) => Reason::CreditsExhausted,
        (_, Period::Concurrent) => Reason::TooManyConcurrent,
    }
}

/// The explanation for the client.
fn detail(reason: Reason) -> &'static str {
    match reason {
        Reason::MissingKey => "API key required: send it as `Authorization: Bearer KEY`.",
        Reason::MalformedKey
        | Reason::UnknownKey
        | Reason::RevokedKey
        | Reason::ExpiredKey
        | Reason::SuspendedOrg
        | Reason::SuspendedKey => "The API key is not valid.",
        Reason::AmbiguousKey => "Two different API keys were sent; send one.",
        Reason::RepeatedHeader => "The key header was sent more than once.",
        Reason::OversizedKey => "The key header is longer than any API key.",
        Reason::CostAboveLimit => "The request costs more than its limit admits.",
        Reason::MissingScope => "The API key lacks a required scope.",
        Reason::RateLimited => "Rate limit exceeded.",
        Reason::QuotaExhausted => "Quota exceeded.",
        Reason::Unavailable => "The request cannot be checked at the moment; try again later.",
        Reason::Overloaded => "Too many clients at the moment.",
        Reason::IpLocked => "This address is temporarily locked out.",
        Reason::IpLimited => "Too many requests from this address.",
        Reason::CreditsExhausted => "No credits are left.",
        Reason::TooManyConcurrent => "Too many concurrent requests with this key.",
        Reason::IpDenied => "Requests from this address are not accepted.",
        Reason::IpNotAllowed => "The API key is not accepted from this address.",
        Reason::InvalidClientIp => {
            "The client address that the proxy must report is missing or invalid."
        }
        Reason::UnreadablePath => {
            "The path can be read in too many ways; send it in its simplest form."
        }
    }
}

/// The title of a problem document: the name of its status.
fn title(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        429 => "Too Many Requests",
        _ => "Service Unavailable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// They are sent in JSON, and in a header field of gRPC in which `%` begins an escape.
    #[test]
    fn explanations_need_no_escaping() {
        for reason in (0..=u8::MAX).filter_map(Reason::from_code) {
            let is_plain = |c: char| (' '..='~').contains(&c) && !"\"\\%".contains(c);
            assert!(detail(reason).chars().all(is_plain), "{reason}");
        }
    }

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
