//! The rules of an installation: what is protected, by which limits, and from whom.

mod compiled;
mod file;
pub(crate) mod path;
mod route;

use std::time::Duration;

use serde::Deserialize;

use crate::input::InvalidInput;
use crate::limit::{self, Limit};
use crate::net::CidrSet;
use crate::net::ClientIpHeader;
use crate::net::Nat64Prefixes;
use crate::time::duration;

pub use self::route::Route;
pub use crate::policy::path::{ExactPath, Pattern};

pub(crate) use self::compiled::{Access, CompiledPolicy, RouteMatch};
pub use self::file::InvalidPolicy;
pub(crate) use self::file::read;
pub(crate) use self::route::RouteRules;

/// The rules of an installation. By default every path is protected, and nobody is trusted.
///
/// Without `protect` every path needs a key, whatever routes there are; with it, the paths it names.
/// Besides, routes that [require a key](Route) require one. What is to be open says so: as `exempt`,
/// or as a route with `protect = false`, which keeps its locks and limits by address. `protect = []`
/// protects nothing but what routes require a key for.
///
/// It is made in code, or read from TOML by [`FromStr`](std::str::FromStr), where every field has
/// the name of the method here and every one may be left out:
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
///     key_limits = ["50/s"]                     # of every key, beside its own
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
    /// `None`: everything.
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
    #[serde(deserialize_with = "file::limits")]
    pub(crate) key_limits: Vec<Limit>,
    #[serde(deserialize_with = "file::limits")]
    pub(crate) org_limits: Vec<Limit>,
    pub(crate) lockout: Lockout,
}

/// How failed authentications lock an address out.
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
}

const DAY: Duration = Duration::from_secs(86_400);

impl Default for Lockout {
    fn default() -> Self {
        Self {
            threshold: None,
            steps: vec![DAY],
            decay: DAY,
        }
    }
}

impl Lockout {
    /// Locks out for 24 hours, each time.
    pub fn new() -> Self {
        Self::default()
    }

    /// Failures in an hour above which an address is locked out. Default: that of
    /// [`Config::ip_block_threshold`](crate::Config::ip_block_threshold).
    ///
    /// # Errors
    /// [`InvalidInput`] for 0.
    pub fn threshold(mut self, failures: u32) -> Result<Self, InvalidInput> {
        self.threshold = Some(crate::input::limit("threshold", failures)?.get());
        Ok(self)
    }

    /// For how long an address is locked out the first time, the second time, and so on; the last of
    /// them stays. Default: 24 hours.
    ///
    /// # Errors
    /// [`InvalidInput`] if there is none, or more than 16, or one is not between 1 second and 3,650
    /// days.
    pub fn steps(
        mut self,
        steps: impl IntoIterator<Item = Duration>,
    ) -> Result<Self, InvalidInput> {
        self.steps = checked_steps(steps.into_iter().collect())?;
        Ok(self)
    }

    /// After how long without a further lock an address goes one step back. Default: a day.
    ///
    /// # Errors
    /// [`InvalidInput`] if it is not between 1 second and 3,650 days.
    pub fn decay(mut self, decay: Duration) -> Result<Self, InvalidInput> {
        self.decay = duration::bounded("decay", decay)?;
        Ok(self)
    }
}

fn checked_steps(steps: Vec<Duration>) -> Result<Vec<Duration>, InvalidInput> {
    if steps.is_empty() || steps.len() > 16 {
        return Err(InvalidInput::new("steps", "are 1 to 16 durations"));
    }
    let steps = steps
        .into_iter()
        .map(|step| duration::bounded("steps", step));
    steps.collect()
}

impl Policy {
    /// Every path is protected, and nobody is trusted.
    pub fn new() -> Self {
        Self::default()
    }

    /// Protects a path and all below it, and no longer everything. Default: every path is
    /// protected, whatever routes there are.
    pub fn protect(mut self, path: Pattern) -> Self {
        self.protect.get_or_insert_default().push(path);
        self
    }

    /// Protects nothing but what routes require a key for. In a file: `protect = []`.
    pub fn protect_nothing(mut self) -> Self {
        self.protect = Some(Vec::new());
        self
    }

    /// Lets everybody have exactly this path: without a key, a limit or a lockout.
    pub fn exempt(mut self, path: ExactPath) -> Self {
        self.exempt.push(path);
        self
    }

    /// Adds a route. All routes that match a request apply to it, in whatever order they are.
    ///
    /// # Errors
    /// [`InvalidInput`] if there is one of this name, there are 1,000, its fields contradict each
    /// other or another route, or it costs more than one of its own limits admits.
    pub fn route(mut self, route: Route) -> Result<Self, InvalidInput> {
        self.routes.push(route);
        self.check()?;
        Ok(self)
    }

    /// Whether paths that differ in ASCII case are one. Default: no.
    pub fn ignore_case(mut self, ignore: bool) -> Self {
        self.ignore_case = ignore;
        self
    }

    /// Proxies that name the client in [`Policy::client_ip_header`]. Default: none, the peer is the
    /// client.
    ///
    /// A field that cannot be read is refused with status 400. Where it is absent, the proxy counts as
    /// the client, as for a check of its health, unless [`Policy::require_client_ip`] refuses that.
    /// Proxies themselves collect no strikes.
    pub fn trusted_proxies(mut self, proxies: CidrSet) -> Self {
        self.trusted_proxies = proxies;
        self
    }

    /// The one header field by which [`Policy::trusted_proxies`] name the client. Default:
    /// `X-Forwarded-For`.
    ///
    /// It is the one that they set or add to on every request; a client can send any other, so that
    /// others are ignored. `X-Forwarded-For` and `Forwarded` (RFC 7239) are lists, whose last hop that
    /// is not trusted is the client. Any other, such as `X-Real-IP` or `CF-Connecting-IP`, holds one
    /// address.
    ///
    /// # Errors
    /// [`InvalidInput`] for what is no name of a field.
    pub fn client_ip_header(mut self, name: &str) -> Result<Self, InvalidInput> {
        self.client_ip_header = name.parse()?;
        Ok(self)
    }

    /// Whether requests of [`Policy::trusted_proxies`] without [`Policy::client_ip_header`] are refused
    /// with status 400 (`invalid_client_ip`), on every path. Default: no, the proxy counts as the client,
    /// and a warning is given once such a request has a key.
    ///
    /// Some proxies remove a field that they have set if the client lists it in `Connection`, so that a
    /// client can hide its address. Require the field where the proxy sets it on every request and sends
    /// none of its own, or gives the field to its health checks, too.
    pub fn require_client_ip(mut self, require: bool) -> Self {
        self.require_client_ip = require;
        self
    }

    /// Prefixes under which translators of the network write IPv4 addresses, such as
    /// `2001:db8:64::/96`, besides the well-known `64:ff9b::/96`. Clients behind them count, are
    /// listed and recorded as their IPv4 addresses; so do such addresses in the lists of the policy and
    /// of keys. A network around a prefix holds no IPv4 address. Default: none.
    ///
    /// # Errors
    /// [`InvalidInput`] for more than 16, and for what is no prefix of 32, 40, 48, 56, 64 or 96 bits
    /// (RFC 6052).
    pub fn nat64_prefixes<T: AsRef<str>>(
        mut self,
        prefixes: impl IntoIterator<Item = T>,
    ) -> Result<Self, InvalidInput> {
        self.nat64_prefixes = Nat64Prefixes::parse(prefixes)?;
        Ok(self)
    }

    /// From where requests are accepted at all. Default: from everywhere.
    pub fn allow(mut self, addresses: CidrSet) -> Self {
        self.allow = addresses;
        self
    }

    /// From where no request is accepted. It goes before [`Policy::allow`].
    pub fn deny(mut self, addresses: CidrSet) -> Self {
        self.deny = addresses;
        self
    }

    /// Addresses that never collect strikes and that no automatic lock touches.
    pub fn never_lock(mut self, addresses: CidrSet) -> Self {
        self.never_lock = addresses;
        self
    }

    /// Limits that every key has beside its own. Of two that count the same the tighter holds.
    ///
    /// # Errors
    /// [`InvalidInput`] for a text that is no [`Limit`], or two that count the same.
    pub fn key_limits<T: AsRef<str>>(
        mut self,
        limits: impl IntoIterator<Item = T>,
    ) -> Result<Self, InvalidInput> {
        self.key_limits = limit::list(limits)?;
        Ok(self)
    }

    /// As [`Policy::key_limits`], of every organization.
    ///
    /// # Errors
    /// As [`Policy::key_limits`].
    pub fn org_limits<T: AsRef<str>>(
        mut self,
        limits: impl IntoIterator<Item = T>,
    ) -> Result<Self, InvalidInput> {
        self.org_limits = limit::list(limits)?;
        Ok(self)
    }

    /// How failed authentications lock an address out.
    pub fn lockout(mut self, lockout: Lockout) -> Self {
        self.lockout = lockout;
        self
    }

    /// What needs a key, of itself or by its route.
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

    /// The same policy, whose lists hold the addresses as clients count, see
    /// [`Policy::nat64_prefixes`].
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

    /// What no single field shows.
    fn check(&self) -> Result<(), InvalidInput> {
        let protected = self.protect.as_ref().map_or(0, Vec::len);
        for (field, count) in [("protect", protected), ("exempt", self.exempt.len())] {
            check_count(field, count)?;
        }
        check_routes(&self.routes)
    }
}

fn check_count(field: &'static str, count: usize) -> Result<(), InvalidInput> {
    const MOST: usize = 1_000;
    if count <= MOST {
        return Ok(());
    }
    let problem = format!("expected at most {MOST} of a kind; use fewer, wider patterns");
    Err(InvalidInput::new(field, problem))
}

/// What no single route shows.
fn check_routes(routes: &[Route]) -> Result<(), InvalidInput> {
    check_count("route", routes.len())?;
    let mut routes = routes
        .iter()
        .enumerate()
        .map(|(i, route)| (route, &routes[..i]));
    routes.try_for_each(|(route, earlier)| check_route(route, earlier))
}

/// Checks a route by itself and against those before it.
fn check_route(route: &Route, earlier: &[Route]) -> Result<(), InvalidInput> {
    route.check()?;
    for other in earlier {
        if other.name() == route.name() {
            let problem = format!("two routes are named `{}`; give each its own", route.name());
            return Err(InvalidInput::new("name", problem));
        }
        if route.closes() {
            other.check_against(route)?;
        }
        if other.closes() {
            route.check_against(other)?;
        }
    }
    if route.closes() {
        route.check_against(route)
    } else {
        Ok(())
    }
}
