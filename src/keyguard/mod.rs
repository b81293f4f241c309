//! The public handle: decides on requests and gives access to administration.

#[cfg(test)]
#[cfg(all(feature = "postgres", feature = "redis", not(loom)))]
mod nodes;
mod open;

use std::fmt;
use std::sync::Arc;

use crate::admin::{Admin, AdminError};
use crate::guard::{self, Denial, Grant, Guard, Headers, KeySource, Request, Verdict};
use crate::model::{BackendHealth, KeyId, Readiness};
use crate::net::ClientIp;
use crate::policy::IpLimit;
use crate::sys::block_on;

/// A guard over a data file or a database: decides whether requests are admitted.
///
/// [`KeyGuard::open`] opens it, [`KeyGuard::check`] and [`KeyGuard::decide`] decide, and
/// [`KeyGuard::admin`] manages organizations, keys and locks.
///
/// Cheap to clone; every clone is the same guard. All methods may be called from any thread,
/// including threads that run an async executor. A decision never waits for a write or a sync;
/// at most it waits for the locks of counters that it shares with other decisions. A change returns
/// once it is durable.
///
/// Dropping the last clone and the last [`Admin`] handle of it stores all pending usage and releases the
/// file.
#[derive(Clone)]
pub struct KeyGuard {
    pub(crate) inner: Arc<Guard>,
}

impl KeyGuard {
    /// Decides whether a request is admitted. Shorthand for [`KeyGuard::decide`] without a method,
    /// scopes or a cost.
    ///
    /// `ip` is the address of the peer. `path` is undecoded, as the client sent it.
    ///
    /// ```
    /// # use keyguard::{Config, CreateKey, KeyGuard};
    /// # let dir = tempfile::tempdir()?;
    /// let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::new("a long random secret"))?;
    /// let admin = kg.admin();
    /// admin.create_org("acme")?;
    /// let created = admin.create_key(CreateKey::new("acme", "web shop"))?;
    ///
    /// let headers = [("X-API-Key", created.raw_key.expose())];
    /// let peer = std::net::IpAddr::from([192, 0, 2, 7]);
    /// match kg.check(&headers, peer, "/orders") {
    ///     Ok(grant) => {
    ///         assert_eq!(grant.remaining(), Some(59));
    ///         grant.finish(200); // the status that was sent
    ///     }
    ///     Err(denial) => panic!("{} {}", denial.status(), denial.problem()),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// A [`Denial`], which says why the request is refused and how to respond.
    #[inline]
    pub fn check<H: Headers + ?Sized>(
        &self,
        headers: &H,
        ip: impl Into<ClientIp>,
        path: &str,
    ) -> Result<Grant, Denial> {
        self.decide(Request::new(headers, ip, path))
    }

    /// Decides whether a request is admitted, and consumes its cost from every limit of its key.
    ///
    /// ```
    /// # use keyguard::{Config, CreateKey, KeyGuard, Reason, Request};
    /// # let dir = tempfile::tempdir()?;
    /// # let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::new("a long random secret"))?;
    /// # kg.admin().create_org("acme")?;
    /// let created = kg.admin().create_key(CreateKey::new("acme", "web shop").scopes(["orders:read"]))?;
    /// let headers = [("Authorization", format!("Bearer {}", created.raw_key.expose()))];
    ///
    /// let request = Request::new(&headers, "192.0.2.7".parse::<std::net::IpAddr>()?, "/orders");
    /// let denial = kg.decide(request.method("POST").scopes(&["orders:write"])).unwrap_err();
    /// assert_eq!(denial.reason(), Reason::MissingScope);
    /// assert_eq!(denial.status(), 403);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// A [`Denial`], which says why the request is refused and how to respond. A denied request
    /// consumes nothing from the limits of its key and organization. Limits per address count it.
    #[inline]
    pub fn decide<H: Headers + ?Sized>(&self, request: Request<'_, H>) -> Result<Grant, Denial> {
        guard::decide(&self.inner, &request, KeySource::Presented)
    }

    /// Like [`KeyGuard::decide`], for async code.
    ///
    /// With a data file and limits in memory the future is ready when it is first polled; at most it
    /// reads two records of the file. Dropping an unfinished future releases what it took of
    /// [limits on concurrent requests](crate::Limit).
    ///
    /// ```
    /// # use std::net::IpAddr;
    /// # use keyguard::{Denial, KeyGuard, Request};
    /// async fn orders(kg: &KeyGuard, key: &str, peer: IpAddr) -> Result<String, Denial> {
    ///     let headers = [("X-API-Key", key)];
    ///     let request = Request::new(&headers, peer, "/orders").method("GET");
    ///     let grant = kg.decide_async(request).await?;
    ///     let orders = format!("orders of {}", grant.org().map_or("", |org| &org.name));
    ///     grant.finish(200);
    ///     Ok(orders)
    /// }
    /// ```
    ///
    /// # Errors
    /// Like [`KeyGuard::decide`].
    pub async fn decide_async<H: Headers + ?Sized>(
        &self,
        request: Request<'_, H>,
    ) -> Result<Grant, Denial> {
        guard::decide_async(&self.inner, &request, KeySource::Presented).await
    }

    /// Like [`KeyGuard::decide`], as if the key `id` had been presented.
    #[cfg(feature = "cli")]
    pub(crate) fn decide_as<H: Headers + ?Sized>(
        &self,
        id: KeyId,
        request: Request<'_, H>,
    ) -> Result<Grant, Denial> {
        guard::decide(&self.inner, &request, KeySource::Key(id))
    }

    /// Returns what [`KeyGuard::decide`] would decide now, and the state of each limit. Consumes and
    /// records nothing.
    ///
    /// ```
    /// # use keyguard::{Config, KeyGuard, Reason, Request};
    /// # let dir = tempfile::tempdir()?;
    /// # let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::new("a long random secret"))?;
    /// let peer = std::net::IpAddr::from([192, 0, 2, 7]);
    /// let verdict = kg.dry_run(Request::new(&[("X-API-Key", "kg_live_…")], peer, "/orders"));
    /// assert_eq!(verdict.denial.unwrap().reason(), Reason::MalformedKey);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn dry_run<H: Headers + ?Sized>(&self, request: Request<'_, H>) -> Verdict {
        block_on(self.dry_run_async(request))
    }

    /// Like [`KeyGuard::dry_run`], for async code.
    pub async fn dry_run_async<H: Headers + ?Sized>(&self, request: Request<'_, H>) -> Verdict {
        guard::preview(&self.inner, &request, KeySource::Presented).await
    }

    /// Like [`KeyGuard::dry_run`], as if the key `id` had been presented.
    pub fn dry_run_as<H: Headers + ?Sized>(&self, id: KeyId, request: Request<'_, H>) -> Verdict {
        block_on(guard::preview(&self.inner, &request, KeySource::Key(id)))
    }

    /// Decides about a request by the address of its client alone, and counts it: for routes without
    /// keys, such as a login form. An address above the limit is locked out if the limit has a lockout.
    /// Returns the address, for [`Admin::block`] for example.
    ///
    /// The client is found as [`KeyGuard::client_ip`] finds it. Clients of a Unix socket have no address
    /// and are not limited. Addresses that the policy never locks are limited and not locked out;
    /// addresses that it denies are refused. The scopes of the request are ignored; a request without a
    /// [cost](Request::cost) costs 1.
    ///
    /// ```
    /// # use keyguard::{Config, IpLimit, KeyGuard, Request};
    /// # let dir = tempfile::tempdir()?;
    /// # let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::new("a long random secret"))?;
    /// let login = IpLimit::new("login", "3/min")?.lockout("5 minutes")?;
    /// let peer = std::net::IpAddr::from([192, 0, 2, 7]);
    /// let headers = [("User-Agent", "curl")];
    /// let request = Request::new(&headers, peer, "/login").method("POST");
    /// for _ in 0..3 {
    ///     assert_eq!(kg.check_ip(&login, request).ok(), Some(peer.into()));
    /// }
    /// assert_eq!(kg.check_ip(&login, request).unwrap_err().status(), 429);
    /// assert_eq!(kg.check_ip(&login, request).unwrap_err().status(), 403);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// A [`Denial`]:
    ///
    /// | status | cause |
    /// |---|---|
    /// | 400 | the header field of a trusted proxy is invalid, or missing where the policy requires it |
    /// | 400 | the path is ambiguous, and a lock of the address depends on it |
    /// | 400 | the cost is above the limit |
    /// | 403 | the address is locked out, or the policy denies it |
    /// | 429 | the limit is exhausted |
    /// | 503 | the table of addresses is full, or Redis is unavailable |
    pub fn check_ip<H: Headers + ?Sized>(
        &self,
        limit: &IpLimit,
        request: Request<'_, H>,
    ) -> Result<ClientIp, Denial> {
        block_on(self.check_ip_async(limit, request))
    }

    /// Like [`KeyGuard::check_ip`], for async code.
    ///
    /// # Errors
    /// Like [`KeyGuard::check_ip`].
    pub async fn check_ip_async<H: Headers + ?Sized>(
        &self,
        limit: &IpLimit,
        request: Request<'_, H>,
    ) -> Result<ClientIp, Denial> {
        guard::check_ip(&self.inner, &request, limit).await
    }

    /// Returns the address of the client behind a peer: the peer's own, or, if the peer is one of
    /// [`Policy::trusted_proxies`](crate::Policy::trusted_proxies), the one that the proxy names.
    ///
    /// ```
    /// # use keyguard::{Config, KeyGuard, Policy};
    /// # let dir = tempfile::tempdir()?;
    /// let policy = Policy::new().trusted_proxies("10.0.0.0/8");
    /// let config = Config::new("a long random secret").policy(policy);
    /// let kg = KeyGuard::open(dir.path().join("keyguard.redb"), config)?;
    ///
    /// let proxy = std::net::IpAddr::from([10, 0, 0, 1]);
    /// let client = kg.client_ip(&[("X-Forwarded-For", "192.0.2.7")], proxy);
    /// assert_eq!(client.ok(), Some("192.0.2.7".parse()?));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// A [`Denial`] of status 400 if the header field of a trusted proxy is invalid, or missing where the
    /// policy requires it.
    pub fn client_ip<H: Headers + ?Sized>(
        &self,
        headers: &H,
        peer: impl Into<ClientIp>,
    ) -> Result<ClientIp, Denial> {
        guard::client_ip(&self.inner, &Request::new(headers, peer, "/"))
    }

    /// Returns a handle to manage organizations, keys, limits and locks.
    ///
    /// The audit log attributes its changes to `program`; [`Admin::acting_as`] sets another name.
    pub fn admin(&self) -> Admin {
        Admin::new(Arc::clone(&self.inner))
    }

    /// Returns the health of PostgreSQL and Redis; empty with a data file and limits in memory. Does
    /// no I/O.
    pub fn backends(&self) -> Vec<BackendHealth> {
        self.inner.backends()
    }

    /// Returns whether changes are durable and all servers respond, for a readiness probe. Does no
    /// I/O.
    ///
    /// A guard is not ready while its data file cannot be written, or was deleted, replaced or
    /// overwritten. It then refuses changes, decides from memory and the file, and keeps usage until
    /// it can be stored. It is not ready either while a server has a
    /// [problem](BackendHealth::problem).
    pub fn readiness(&self) -> Readiness {
        self.inner.readiness()
    }

    /// Stores all pending usage and quota consumption. Returns once it is durable.
    ///
    /// # Errors
    /// [`AdminError::Unavailable`]. What could not be stored is kept and tried again.
    pub fn flush(&self) -> Result<(), AdminError> {
        Ok(self.inner.recorder().flush()?)
    }

    /// Cancels a backup, stores all pending data and stops recording, for all clones. Decisions go on. Dropping the last
    /// clone and [`Admin`] handle releases the file.
    ///
    /// Windows are stored too, rounded to a later grain, and continue when the file is opened again.
    /// After a kill they start empty, so that each limit may be admitted once more.
    ///
    /// # Errors
    /// [`AdminError::Unavailable`]. Pending data is lost then.
    pub fn close(self) -> Result<(), AdminError> {
        Ok(self.inner.stop()?)
    }
}

impl fmt::Debug for KeyGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyGuard").finish_non_exhaustive()
    }
}
