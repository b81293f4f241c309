//! Policies: protected paths, routes, limits and trusted addresses.

mod compiled;
#[cfg(feature = "cli")]
mod explain;
mod file;
mod ip_limit;
pub(crate) mod path;
mod review;
mod route;
mod scope_set;

use std::time::Duration;

use serde::Deserialize;

use crate::input::{self, FirstError, InvalidInput};
use crate::limit::{self, Limit};
use crate::net::{CidrSet, ClientIpHeader, Nat64Prefixes};
use crate::time::LockDuration;

pub use self::ip_limit::IpLimit;
pub use self::route::Route;
pub use crate::policy::path::{ExactPath, Pattern};

pub(crate) use self::compiled::{Access, CompiledPolicy, RouteMatch};
#[cfg(feature = "cli")]
pub(crate) use self::explain::{ExampleRequest, Section};
pub use self::file::InvalidPolicy;
pub(crate) use self::file::read;
pub(crate) use self::route::RouteRules;
pub(crate) use self::scope_set::ScopeSet;

/// Protected paths, routes, limits and address lists of a guard. By default every path is protected
/// and no proxy is trusted.
///
/// Without `protect`, every path requires a key; with it, the listed paths do. Routes that [require
/// a key](Route) require one in any case. To open a path, use `exempt`, or a route with `protect =
/// false`, which keeps locks and limits per address. With `protect = []`, only routes that require
/// a key are protected.
///
/// If `protect`, `exempt` or routes name paths, a request whose path has more than 32 readings, or
/// is too long to list them, is refused with status 400
/// ([`Reason::UnreadablePath`](crate::Reason::UnreadablePath)). No limit counts it.
///
/// A policy is built in code or parsed from TOML with [`FromStr`](std::str::FromStr). Setters take
/// values or their text and never fail: [`KeyGuard::open`](crate::KeyGuard::open) and
/// [`Admin::set_policy`](crate::Admin::set_policy), which install the policy, report the first invalid
/// value.
///
/// ```
/// use keyguard::{Policy, Route};
/// let policy = Policy::new()
///     .protect("/api")
///     .exempt("GET /api/health")
///     .trusted_proxies(["10.0.0.0/8"])
///     .key_limits(["50/s"])
///     .route(Route::new("orders", "POST /api/orders").limits(["10/s"]).cost(5));
/// ```
///
/// TOML fields have the names of the setters; `protect = []` is [`Policy::protect_nothing`], and in a
/// route `protect = false` is [`Route::open`]. Only `name` and `path` of a route are required.
///
/// ```
/// let policy: keyguard::Policy = r#"
///     protect = ["/api"]                        # these paths and all below them
///     exempt = ["GET /api/health"]              # exactly these, without a key or a limit
///     trusted_proxies = ["10.0.0.0/8"]
///     client_ip_header = "x-forwarded-for"      # the one that they set
///     require_client_ip = true                  # on every request
///     deny = ["203.0.113.0/24"]
///     never_lock = ["192.0.2.0/24"]
///     key_limits = ["50/s"]                     # for every key, in addition to its own
///     org_limits = ["1000/s shadow"]
///
///     [lockout]
///     threshold = 100
///     steps = ["1 min", "10 min", "1 hour", "24 hours"]
///     decay = "1 day"
///
///     [[route]]
///     name = "orders"
///     path = "POST /api/orders"
///     scopes = ["orders:write"]
///     limits = ["10/s"]
///     cost = 5
///
///     [[route]]
///     name = "login"
///     path = "POST /login"
///     protect = false                           # no key is needed
///     ip_limits = ["3/min"]
///     lockout = "5 minutes"
/// "#.parse()?;
/// # Ok::<(), keyguard::InvalidPolicy>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use]
pub struct Policy {
    /// Paths that need a key, and all paths below them: at most 1,000. With `protect = []`, only routes
    /// that require a key are protected. Default: every path is protected.
    pub(crate) protect: Option<Vec<Pattern>>,
    pub(crate) exempt: Vec<ExactPath>,
    #[serde(rename = "route", deserialize_with = "file::routes")]
    pub(crate) routes: Vec<Route>,
    pub(crate) ignore_case: bool,
    pub(crate) trusted_proxies: CidrSet,
    pub(crate) client_ip_header: ClientIpHeader,
    pub(crate) require_client_ip: bool,
    pub(crate) nat64_prefixes: Nat64Prefixes,
    pub(crate) allow: CidrSet,
    pub(crate) deny: CidrSet,
    pub(crate) never_lock: CidrSet,
    #[serde(deserialize_with = "file::key_limits")]
    pub(crate) key_limits: Vec<Limit>,
    #[serde(deserialize_with = "file::org_limits")]
    pub(crate) org_limits: Vec<Limit>,
    pub(crate) lockout: Lockout,
    #[serde(skip)]
    error: FirstError,
}

/// The lockout of addresses after failed authentications.
///
/// ```
/// use keyguard::{Lockout, Policy};
///
/// // First for a minute, then for an hour, then for a day each time.
/// let lockout = Lockout::new().threshold(20).steps(["1 min", "1 hour", "1 day"]);
/// let policy = Policy::new().lockout(lockout);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[must_use]
pub struct Lockout {
    #[serde(deserialize_with = "file::threshold")]
    pub(crate) threshold: Option<u32>,
    #[serde(deserialize_with = "file::steps")]
    pub(crate) steps: Vec<Duration>,
    #[serde(deserialize_with = "file::duration")]
    pub(crate) decay: Duration,
    #[serde(skip)]
    error: FirstError,
}

const DAY: Duration = Duration::from_secs(86_400);

impl Default for Lockout {
    fn default() -> Self {
        Self {
            threshold: None,
            steps: vec![DAY],
            decay: DAY,
            error: FirstError::default(),
        }
    }
}

impl Lockout {
    /// The default: 24 hours each time.
    pub fn new() -> Self {
        Self::default()
    }

    /// Failures per hour above which an address is locked. Default:
    /// [`Config::lockout_threshold`](crate::Config::lockout_threshold).
    pub fn threshold(mut self, failures: u32) -> Self {
        self.threshold = Some(failures);
        self
    }

    /// The durations of the first lock, the second lock, and so on: 1 to 16, each of 1 second to
    /// 3,650 days, and none a time of day. The last one repeats. Default: 24 hours.
    pub fn steps(
        mut self,
        steps: impl IntoIterator<Item: TryInto<LockDuration, Error: Into<InvalidInput>>>,
    ) -> Self {
        let steps = steps.into_iter().map(|step| fixed("lockout.steps", step));
        let steps = self.error.ok(steps.collect());
        self.steps = steps.unwrap_or_else(|| vec![DAY]);
        self
    }

    /// The time without a lock after which an address moves one step back: 1 second to 3,650 days.
    /// Default: a day.
    pub fn decay(mut self, decay: impl TryInto<LockDuration, Error: Into<InvalidInput>>) -> Self {
        let decay = self.error.ok(fixed("lockout.decay", decay));
        self.decay = decay.unwrap_or(DAY);
        self
    }

    fn check(&self) -> Result<(), InvalidInput> {
        self.error.check()?;
        if let Some(failures) = self.threshold {
            input::at_least_one("lockout.threshold", failures)?;
        }
        check_steps("lockout.steps", &self.steps)
    }
}

/// Returns the length of a duration that is not a time of day.
fn fixed(
    field: &'static str,
    given: impl TryInto<LockDuration, Error: Into<InvalidInput>>,
) -> Result<Duration, InvalidInput> {
    let duration: LockDuration = input::valid(given).map_err(|error| error.within(field))?;
    duration.length().ok_or_else(|| {
        let problem = "is a time of day; expected a duration such as `1 hour`";
        InvalidInput::new(field, problem)
    })
}

fn check_steps(field: &'static str, steps: &[Duration]) -> Result<(), InvalidInput> {
    let is_valid = (1..=16).contains(&steps.len());
    input::require(field, is_valid, "expected 1 to 16 durations")
}

impl Policy {
    /// The default: every path is protected and no proxy is trusted.
    pub fn new() -> Self {
        Self::default()
    }

    /// Protects a path and everything below it. Once a path is added, other paths need a key only if a
    /// route requires one. At most 1,000 patterns. Default: every path is protected.
    pub fn protect(mut self, path: impl TryInto<Pattern, Error: Into<InvalidInput>>) -> Self {
        let path = self.error.valid("protect", path);
        self.protect.get_or_insert_default().extend(path);
        self
    }

    /// Protects only routes that require a key. In a file: `protect = []`.
    pub fn protect_nothing(mut self) -> Self {
        self.protect = Some(Vec::new());
        self
    }

    /// Exempts exactly this path from keys, limits and lockouts. At most 1,000. Default: none.
    pub fn exempt(mut self, path: impl TryInto<ExactPath, Error: Into<InvalidInput>>) -> Self {
        self.exempt.extend(self.error.valid("exempt", path));
        self
    }

    /// Adds a route, of at most 1,000. All matching routes apply to a request, regardless of their
    /// order. Names of routes are unique, and no route may contradict another. Default: none.
    pub fn route(mut self, route: Route) -> Self {
        self.routes.push(route);
        self
    }

    /// Whether paths are compared without regard to ASCII case. Default: `false`.
    pub fn ignore_case(mut self, ignore: bool) -> Self {
        self.ignore_case = ignore;
        self
    }

    /// Proxies that report the client in [`Policy::client_ip_header`]. Any other peer counts as the
    /// client. Default: none.
    ///
    /// Requests with an invalid field get status 400. If the field is absent, the proxy counts as
    /// the client (a health check, for example), unless [`Policy::require_client_ip`] is set.
    /// Failed authentications of proxies themselves are not counted.
    pub fn trusted_proxies(
        mut self,
        proxies: impl TryInto<CidrSet, Error: Into<InvalidInput>>,
    ) -> Self {
        let proxies = self.error.valid("trusted_proxies", proxies);
        self.trusted_proxies = proxies.unwrap_or_default();
        self
    }

    /// The header field in which [`Policy::trusted_proxies`] report the client. Default:
    /// `X-Forwarded-For`.
    ///
    /// Name the field that the proxies set or append to on every request. All other fields are
    /// ignored, because clients can forge them. `X-Forwarded-For` and `Forwarded` (RFC 7239) are
    /// lists; the last untrusted hop is the client. Any other field, such as `X-Real-IP` or
    /// `CF-Connecting-IP`, contains one address.
    pub fn client_ip_header(mut self, name: &str) -> Self {
        self.client_ip_header = self.error.ok(name.parse()).unwrap_or_default();
        self
    }

    /// Whether requests from [`Policy::trusted_proxies`] without [`Policy::client_ip_header`] get
    /// status 400 (`invalid_client_ip`), on every path. Otherwise the proxy counts as the client, and a
    /// warning is issued when such a request has a key. Default: `false`.
    ///
    /// Some proxies remove a field that the client lists in `Connection`, so clients can hide their
    /// address. Require the field if the proxy sets it on every request, including its own health
    /// checks.
    pub fn require_client_ip(mut self, require: bool) -> Self {
        self.require_client_ip = require;
        self
    }

    /// NAT64 prefixes of the network, such as `2001:db8:64::/96`, in addition to the well-known
    /// `64:ff9b::/96`. Addresses under these prefixes are counted, listed and recorded as the
    /// embedded IPv4 address, also in the lists of the policy and of keys. CIDR networks wider
    /// than a prefix are not translated. At most 16, of 32, 40, 48, 56, 64 or 96 bits (RFC 6052).
    /// Default: none.
    pub fn nat64_prefixes(mut self, prefixes: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let prefixes = self.error.ok(Nat64Prefixes::parse(prefixes));
        self.nat64_prefixes = prefixes.unwrap_or_default();
        self
    }

    /// Addresses from which requests are accepted. Default: all.
    pub fn allow(mut self, addresses: impl TryInto<CidrSet, Error: Into<InvalidInput>>) -> Self {
        let addresses = self.error.valid("allow", addresses);
        self.allow = addresses.unwrap_or_default();
        self
    }

    /// Addresses from which requests are refused. Takes precedence over [`Policy::allow`]. Default: none.
    pub fn deny(mut self, addresses: impl TryInto<CidrSet, Error: Into<InvalidInput>>) -> Self {
        let addresses = self.error.valid("deny", addresses);
        self.deny = addresses.unwrap_or_default();
        self
    }

    /// Addresses whose failed authentications are not counted, and which are not locked out automatically.
    /// Default: none.
    pub fn never_lock(
        mut self,
        addresses: impl TryInto<CidrSet, Error: Into<InvalidInput>>,
    ) -> Self {
        let addresses = self.error.valid("never_lock", addresses);
        self.never_lock = addresses.unwrap_or_default();
        self
    }

    /// [Limits](Limit) of every key, in addition to its own: at most 8, each with a counter of its
    /// own. If the key has a limit of the same kind (a window of the same length, or the same quota),
    /// the tighter one applies. Default: none.
    pub fn key_limits(
        mut self,
        limits: impl IntoIterator<Item: TryInto<Limit, Error: Into<InvalidInput>>>,
    ) -> Self {
        let limits = self.error.ok(limit::list("key_limits", limits));
        self.key_limits = limits.unwrap_or_default();
        self
    }

    /// Like [`Policy::key_limits`], for every organization. Default: none.
    pub fn org_limits(
        mut self,
        limits: impl IntoIterator<Item: TryInto<Limit, Error: Into<InvalidInput>>>,
    ) -> Self {
        let limits = self.error.ok(limit::list("org_limits", limits));
        self.org_limits = limits.unwrap_or_default();
        self
    }

    /// The lockout of addresses after failed authentications.
    pub fn lockout(mut self, lockout: Lockout) -> Self {
        self.lockout = lockout;
        self
    }

    /// The patterns that require a key.
    #[cfg(feature = "http")]
    pub(crate) fn protected(&self) -> impl Iterator<Item = &Pattern> {
        let routes = self.routes.iter().filter(|route| route.requires_key());
        let protect = self.protect.iter().flatten();
        protect.chain(routes.map(|route| &route.path))
    }

    /// Whether a pattern can match a path that begins with a prefix.
    #[cfg(feature = "http")]
    pub(crate) fn may_match_below(&self, pattern: &Pattern, prefix: &str) -> bool {
        pattern.may_match_below(prefix, self.ignore_case)
    }

    /// Translates the address lists by [`Policy::nat64_prefixes`].
    fn translated(self) -> Self {
        let nat64 = &self.nat64_prefixes;
        Self {
            trusted_proxies: self.trusted_proxies.translated(nat64),
            allow: self.allow.translated(nat64),
            deny: self.deny.translated(nat64),
            never_lock: self.never_lock.translated(nat64),
            ..self
        }
    }

    /// Checks every field, and constraints between fields.
    fn check(&self) -> Result<(), InvalidInput> {
        self.error.check()?;
        self.lockout.check()?;
        let protected = self.protect.as_ref().map_or(0, Vec::len);
        for (field, count) in [("protect", protected), ("exempt", self.exempt.len())] {
            check_count(field, count)?;
        }
        check_routes(&self.routes)
    }
}

fn check_count(field: &'static str, count: usize) -> Result<(), InvalidInput> {
    const MOST: usize = 1_000;
    let problem = format!("expected at most {MOST}; use fewer, wider patterns");
    input::require(field, count <= MOST, problem)
}

/// Checks constraints between routes.
fn check_routes(routes: &[Route]) -> Result<(), InvalidInput> {
    check_count("route", routes.len())?;
    let mut routes = routes
        .iter()
        .enumerate()
        .map(|(i, route)| (route, &routes[..i]));
    routes.try_for_each(|(route, earlier)| check_route(route, earlier))
}

/// Checks a route by itself and against earlier routes.
fn check_route(route: &Route, earlier: &[Route]) -> Result<(), InvalidInput> {
    route.check()?;
    for other in earlier {
        if other.name() == route.name() {
            let problem = format!(
                "two routes are named `{}`; expected unique names",
                route.name()
            );
            return Err(InvalidInput::new("name", problem));
        }
        if route.closes() {
            other.check_against(route)?;
        }
        if other.closes() {
            route.check_against(other)?;
        }
    }
    Ok(())
}
