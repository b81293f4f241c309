//! Admitted requests.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use smallvec::SmallVec;

use super::cached_key::CachedKey;
use super::denial::Denial;
use super::fields::LimitFields;
use crate::counter::Rule;
use crate::limiter::{Demand, LimitState, Receipt, rule_at};
use crate::model::Scope;
use crate::model::{Key, Method, Org, Reason};
use crate::net::ClientIp;
use crate::store::UsageEvent;
use crate::time::Moment;

/// An admitted request.
///
/// Call [`Grant::finish`] once the response is known, to record its status and latency. Dropping an
/// unfinished grant records status 0. Either way, the request no longer counts towards limits on
/// concurrent requests.
///
/// ```
/// # use keyguard::{Config, CreateKey, Denial, Grant, KeyGuard};
/// fn write(grant: Grant) -> Result<(), Denial> {
///     grant.require("orders:write")?;
///     for (name, value) in grant.headers() {
///         // Send it with the response.
///     }
///     grant.settle(3); // what the request really cost
///     grant.finish(201);
///     Ok(())
/// }
/// # let dir = tempfile::tempdir()?;
/// # let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::new("a long random secret"))?;
/// # kg.admin().create_org("acme")?;
/// # let created = kg.admin().create_key(CreateKey::new("acme", "web shop").scopes(["orders:read"]))?;
/// # let headers = [("X-API-Key", created.raw_key.expose())];
/// let grant = kg.check(&headers, std::net::Ipv4Addr::LOCALHOST, "/orders").unwrap();
/// assert_eq!(write(grant).unwrap_err().status(), 403);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "dropping a grant records the request as unfinished"]
pub struct Grant {
    /// `None` if no key is needed.
    key: Option<Arc<CachedKey>>,
    state: LimitState,
    ip: ClientIp,
    method: Method,
    path: StoredPath,
    /// Whether [`Grant::require`] has refused.
    lacked_scope: AtomicBool,
    is_settled: AtomicBool,
    /// Whether the request is recorded, or need not be.
    is_recorded: AtomicBool,
    cost: NonZeroU32,
    /// `None` for most grants.
    extra: Option<Box<Extra>>,
}

/// Data of requests that match routes with limits, or rules in shadow mode.
#[derive(Default)]
pub(super) struct Extra {
    /// Limits per key of the routes, which follow those of the key.
    pub(super) route_rules: Vec<Rule>,
    pub(super) receipt: Receipt,
    /// The names of the rules and routes in shadow mode that would have refused the request.
    pub(super) shadow_denied: Vec<String>,
}

/// The path to record. Paths of usual length are stored inline.
type StoredPath = SmallVec<[u8; 40]>;

impl Grant {
    /// Creates a grant. Without a `path`, the request is not recorded.
    #[inline]
    pub(super) fn new(
        key: Arc<CachedKey>,
        state: LimitState,
        ip: ClientIp,
        method: Method,
        path: Option<&str>,
        cost: NonZeroU32,
        extra: Option<Box<Extra>>,
    ) -> Self {
        let is_recorded = AtomicBool::new(path.is_none());
        Self {
            key: Some(key),
            state,
            ip,
            method,
            path: path.map_or_else(StoredPath::new, |path| {
                StoredPath::from_slice(path.as_bytes())
            }),
            lacked_scope: AtomicBool::new(false),
            is_settled: AtomicBool::new(false),
            is_recorded,
            cost,
            extra,
        }
    }

    /// Creates a grant for a path that needs no key.
    pub(super) fn anonymous(
        at: Moment,
        ip: ClientIp,
        method: Method,
        shadow_denied: Vec<String>,
    ) -> Self {
        let extra = (!shadow_denied.is_empty()).then(|| {
            Box::new(Extra {
                shadow_denied,
                ..Extra::default()
            })
        });
        Self {
            key: None,
            state: LimitState::unlimited(at),
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

    /// Returns the key of the request; `None` if the path needs none.
    pub fn key(&self) -> Option<&Key> {
        Some(&self.key.as_ref()?.record.key)
    }

    /// Returns the organization that owns the key; `None` if the path needs no key.
    pub fn org(&self) -> Option<&Org> {
        Some(&self.key.as_ref()?.record.org)
    }

    /// Returns the scopes of the key; empty without a key.
    pub fn scopes(&self) -> &[Scope] {
        self.key().map_or(&[], |key| &key.scopes)
    }

    /// Returns the address of the client.
    pub fn ip(&self) -> ClientIp {
        self.ip
    }

    /// Returns how many more requests of cost 1 the tightest limit admits; `None` without limits.
    pub fn remaining(&self) -> Option<u64> {
        (self.state.rule != LimitState::NONE).then_some(self.state.remaining)
    }

    /// Returns the names of limits and routes in shadow mode that would have refused the request.
    pub fn shadow_denied(&self) -> &[String] {
        self.extra
            .as_ref()
            .map_or(&[], |extra| &extra.shadow_denied)
    }

    /// Checks that the key has `scope`.
    ///
    /// # Errors
    /// A [`Denial`] of status 403 if the key lacks the scope, or if there is no key. Dropping the grant
    /// then records the refusal.
    pub fn require(&self, scope: &str) -> Result<(), Denial> {
        if self.key().is_some_and(|key| holds(key, scope)) {
            return Ok(());
        }
        self.lacked_scope.store(true, Ordering::Relaxed);
        Err(Denial::new(Reason::MissingScope))
    }

    /// Reports the actual cost of the request. Refunds the limits of the key, its organization and the
    /// routes if it is lower than the reserved cost; charges them if it is higher, even if a limit is
    /// exhausted. 0 refunds everything. Limits per address keep the reserved cost. Only the first call
    /// counts. Without a call, the request costs what was reserved.
    ///
    /// A window is refunded while it still contains the request and has not been reset; a quota only
    /// within the same day or month.
    pub fn settle(&self, actual: u64) {
        if self.is_settled.swap(true, Ordering::Relaxed) {
            return;
        }
        let (Some(key), reserved) = (&self.key, u64::from(self.cost.get())) else {
            return;
        };
        if actual != reserved {
            let receipt = self.extra.as_ref().map(|extra| &extra.receipt);
            let demand = Demand {
                subjects: key.subjects(),
                rules: &[&key.rules, self.route_rules()],
                cost: self.cost,
            };
            let limiter = &key.backends.limiter;
            limiter.settle(demand, self.state.at, receipt.unwrap_or(&None), actual);
        }
    }

    fn route_rules(&self) -> &[Rule] {
        self.extra.as_ref().map_or(&[], |extra| &extra.route_rules)
    }

    /// Returns the header fields of the response: `X-RateLimit-Limit`, `X-RateLimit-Remaining`,
    /// `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10) of the tightest
    /// limit, or those of them that [`Config::rate_limit_headers`](crate::Config::rate_limit_headers)
    /// selects, and `X-KeyGuard-Shadow` with the names of [`Grant::shadow_denied`], as a list of
    /// strings (RFC 9651).
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let limit = self.limit_fields();
        let limit = limit.iter().flat_map(LimitFields::pairs);
        let limit = limit.map(|(name, value)| (name, value.to_owned()));
        limit.chain(self.shadow_field()).collect()
    }

    /// Returns the header fields of the tightest limit.
    pub(crate) fn limit_fields(&self) -> Option<LimitFields> {
        let key = self.key.as_ref()?;
        let lists = [&*key.rules, self.route_rules()];
        let rule = rule_at(&lists, self.state.rule)?;
        let headers = key.backends.rate_limit_headers;
        let reset = self.state.resets_in();
        LimitFields::new(headers, rule, self.state.remaining, reset)
    }

    pub(crate) fn shadow_field(&self) -> Option<(&'static str, String)> {
        if self.shadow_denied().is_empty() {
            return None;
        }
        let names = self
            .shadow_denied()
            .iter()
            .map(|name| format!(r#""{name}""#));
        Some(("X-KeyGuard-Shadow", names.collect::<Vec<_>>().join(", ")))
    }

    /// Records the status of the response, and the time since the request was admitted.
    #[inline]
    pub fn finish(mut self, status: u16) {
        if !std::mem::replace(self.is_recorded.get_mut(), true) {
            self.record(status);
        }
    }

    /// Like [`Grant::finish`], while the response is still being sent: the request stays in flight.
    #[cfg(feature = "http")]
    #[inline]
    pub(crate) fn record_status(&self, status: u16) {
        if !self.is_recorded.swap(true, Ordering::Relaxed) {
            self.record(status);
        }
    }

    #[inline]
    fn record(&self, status: u16) {
        let Some(key) = &self.key else { return };
        let recorder = &key.backends.recorder;
        recorder.record(&self.event(key, status), &self.path);
    }

    #[inline]
    fn event(&self, key: &CachedKey, status: u16) -> UsageEvent {
        let clock = key.backends.recorder.clock();
        let lacked_scope = self.lacked_scope.load(Ordering::Relaxed);
        let latency = clock.now().since(self.state.at);
        UsageEvent {
            at: clock.timestamp_at(self.state.at),
            key_id: key.key_id,
            ip: self.ip,
            latency_micros: u32::try_from(latency.as_micros()).unwrap_or(u32::MAX),
            status: if lacked_scope && status == 0 {
                403
            } else {
                status
            },
            // At most 256 bytes.
            path_len: self.path.len() as u16,
            method: self.method,
            refused: lacked_scope.then_some(Reason::MissingScope),
        }
    }
}

impl Drop for Grant {
    #[inline]
    fn drop(&mut self) {
        let Some(key) = &self.key else { return };
        if key.limits_concurrency {
            let limiter = &key.backends.limiter;
            let receipt = self.extra.as_ref().map(|extra| &extra.receipt);
            let demand = Demand {
                subjects: key.subjects(),
                rules: &[&key.rules],
                cost: self.cost,
            };
            limiter.release(demand, receipt.unwrap_or(&None));
        }
        if !*self.is_recorded.get_mut() {
            self.record(0);
        }
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key.as_ref();
        f.debug_struct("Grant")
            .field("key", &key.map(|key| key.key_id))
            .field("org", &key.map(|key| key.org_id))
            .field("remaining", &self.state.remaining)
            .finish_non_exhaustive()
    }
}

pub(super) fn holds(key: &Key, scope: &str) -> bool {
    key.scopes.iter().any(|held| held.as_str() == scope)
}
