//! The guard: one decision per request over a store and a limiter.

mod audit_actor;
mod backends;
mod by_address;
mod cached_key;
mod config;
mod context;
mod credential;
mod denial;
mod fields;
mod grant;
mod key_cache;
mod legacy;
mod lockouts;
#[cfg(feature = "http")]
mod mounts;
mod open;
mod pipeline;
mod policy_reloader;
mod proxies;
mod recorder;
mod request;
mod secret_file;
mod verdict;
mod warnings;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use arc_swap::Guard;
use parking_lot::Mutex;

pub use self::config::Config;
pub use self::denial::Denial;
pub use self::grant::Grant;
pub use self::request::{HeaderFn, Headers, Request};
pub use self::verdict::{RuleState, Verdict};

pub(crate) use self::audit_actor::AuditActor;
#[cfg(any(unix, feature = "cli"))]
pub(crate) use self::backends::Storage;
#[cfg(feature = "cli")]
pub(crate) use self::backends::is_server;
pub(crate) use self::cached_key::{is_lifted, rules};
#[cfg(feature = "http")]
pub(crate) use self::fields::LimitFields;
pub(crate) use self::lockouts::{Lockouts, refuses, strike_rules};
#[cfg(feature = "http")]
pub(crate) use self::mounts::{GuardId, Mounts};
#[cfg(feature = "cli")]
pub(crate) use self::open::exposure_of;
#[cfg(feature = "cli")]
pub(crate) use self::secret_file::{existing_secret, followed, read_secret, secret_path};
#[cfg(unix)]
pub(crate) use self::warnings::Warnings;

use self::key_cache::{Backends, KeyCache, Revisions};
use self::pipeline::KeySource;
use self::policy_reloader::{PolicyHandle, PolicyReloader};
use self::proxies::Proxies;
use self::recorder::Recorder;
use crate::counter::IpLimit;
use crate::limiter::Limiter;
use crate::model::KeyHasher;
use crate::model::LegacyHasher;
use crate::model::{BackendHealth, Readiness};
use crate::model::{KeyId, OrgId};
use crate::net::ClientIp;
use crate::policy::CompiledPolicy;
use crate::store::{OpenError, Store, StoreError};
use crate::sys::block_on;
use crate::time::{Clock, Timestamp};

/// The guard of a server: decides about requests, manages the keys.
///
/// Cheap to clone; every clone is the same guard. All methods may be called from any thread, also
/// from one that runs an async executor. Decisions never wait for a write, a sync or another
/// thread's decision about another key; changes return once they are durable.
///
/// The last clone to be dropped stores what is still on its way and releases the file.
#[derive(Clone)]
pub struct KeyGuard {
    pub(crate) inner: Arc<Inner>,
    pub(crate) actor: AuditActor,
}

pub(crate) struct Inner {
    hasher: KeyHasher,
    /// Where keys of the Python package are looked for too.
    legacy: Option<LegacyHasher>,
    #[cfg(feature = "http")]
    admin_keys: self::audit_actor::AdminKeys,
    #[cfg(feature = "http")]
    id: GuardId,
    key_cache: KeyCache,
    revisions: Arc<Revisions>,
    backends: Arc<Backends>,
    lockouts: Arc<Lockouts>,
    proxies: Proxies,
    policy_handle: Arc<PolicyHandle>,
    policies: Arc<PolicyReloader>,
    store: Arc<dyn Store>,
    clock: Clock,
    key_header: String,
    config: Config,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// Ends with the guard, before anything else does.
    socket_server: Mutex<Option<Box<dyn Send>>>,
}

/// What is decided by its address alone has no headers.
const NO_HEADERS: [(&str, &str); 0] = [];

impl KeyGuard {
    /// Opens a data file as [`KeyGuard::open`] does, without a socket beside it.
    pub(crate) fn without_socket(file: &Path, config: Config) -> Result<Self, OpenError> {
        Inner::open(file, config).map(|inner| Self {
            inner: Arc::new(inner),
            actor: AuditActor::default(),
        })
    }

    /// Decides about a request: [`KeyGuard::decide`] for a request whose method is not given.
    ///
    /// # Errors
    /// A [`Denial`] that says why the request is refused and how to answer it.
    #[inline]
    pub fn check<H: Headers + ?Sized>(
        &self,
        headers: &H,
        ip: impl Into<ClientIp>,
        path: &str,
    ) -> Result<Grant, Denial> {
        self.inner
            .decide(&Request::new(headers, ip, path), KeySource::Presented)
    }

    /// Decides about a request, and consumes its cost from every limit of its key.
    ///
    /// # Errors
    /// A [`Denial`] that says why the request is refused and how to answer it. Nothing is consumed
    /// then.
    #[inline]
    pub fn decide<H: Headers + ?Sized>(&self, request: Request<'_, H>) -> Result<Grant, Denial> {
        self.inner.decide(&request, KeySource::Presented)
    }

    /// As [`KeyGuard::decide`], for callers that await. With a data file and limits in memory the
    /// future is ready when it is first polled; at most it reads one record from the file. A future
    /// that is dropped unfinished gives back what it took of
    /// [limits on requests in flight](crate::Limit).
    ///
    /// # Errors
    /// As [`KeyGuard::decide`].
    pub async fn decide_async<H: Headers + ?Sized>(
        &self,
        request: Request<'_, H>,
    ) -> Result<Grant, Denial> {
        self.inner
            .decide_async(&request, KeySource::Presented)
            .await
    }

    /// Decides about a request by its address alone, and counts it: for routes that nobody has a
    /// key for, such as a login form. An address that goes over the limit is locked out as the limit
    /// says; one that is locked out is refused.
    ///
    /// `ip` is the address of the client itself: behind a proxy, that of [`KeyGuard::client_ip`].
    /// Clients of a Unix socket have no address and are not limited. Addresses that the policy never
    /// locks are limited and not locked out; those that it denies are refused.
    ///
    /// # Errors
    /// A [`Denial`] of status 429, or 403 while the address is locked out, that says how long.
    pub fn check_ip(
        &self,
        limit: &IpLimit,
        ip: impl Into<ClientIp>,
        path: &str,
    ) -> Result<(), Denial> {
        let request = Request::new(&NO_HEADERS, ip, path);
        block_on(self.inner.check_ip(limit, &request)).map(drop)
    }

    /// As [`KeyGuard::check_ip`], for callers that await.
    ///
    /// # Errors
    /// As [`KeyGuard::check_ip`].
    pub async fn check_ip_async(
        &self,
        limit: &IpLimit,
        ip: impl Into<ClientIp>,
        path: &str,
    ) -> Result<(), Denial> {
        let request = Request::new(&NO_HEADERS, ip, path);
        self.inner.check_ip(limit, &request).await.map(drop)
    }

    /// The address of the client that a peer asks for: its own, or, if it is one of
    /// [`Policy::trusted_proxies`](crate::Policy::trusted_proxies), the one that it names.
    ///
    /// # Errors
    /// A [`Denial`] of status 400 if a trusted proxy names it unreadably.
    pub fn client_ip<H: Headers + ?Sized>(
        &self,
        headers: &H,
        peer: impl Into<ClientIp>,
    ) -> Result<ClientIp, Denial> {
        self.inner.client_ip(&Request::new(headers, peer, "/"))
    }

    /// How the servers stand that keys and limits are kept in; nothing with a data file and limits in
    /// memory. Asks nobody.
    pub fn backends(&self) -> Vec<BackendHealth> {
        let (store, limiter) = (self.inner.store.health(), self.inner.limiter().health());
        store.into_iter().chain(limiter).collect()
    }

    /// Whether changes are durable and all servers can be used, for a readiness probe. Not ready is a
    /// guard whose data file cannot be written, or was deleted, replaced or overwritten while it is open;
    /// it refuses changes then, decides from memory and the file, and keeps usage until it can be stored.
    /// So is one with a server that has a [problem](BackendHealth::problem). Does no I/O.
    pub fn readiness(&self) -> Readiness {
        let fault = self.inner.fault();
        let wrong = self.backends().into_iter().filter_map(|backend| {
            let problem = backend.problem?;
            Some(format!("{}: {problem}", backend.server))
        });
        Readiness {
            problems: fault.into_iter().chain(wrong).collect(),
        }
    }

    /// What [`KeyGuard::decide`] would say now, and how each limit stands. Consumes and records
    /// nothing.
    pub fn dry_run<H: Headers + ?Sized>(&self, request: Request<'_, H>) -> Verdict {
        self.inner.dry_run(&request, KeySource::Presented)
    }

    /// As [`KeyGuard::decide`], as if the key `id` had been presented.
    #[cfg(feature = "cli")]
    pub(crate) fn decide_as<H: Headers + ?Sized>(
        &self,
        id: KeyId,
        request: Request<'_, H>,
    ) -> Result<Grant, Denial> {
        self.inner.decide(&request, KeySource::Key(id))
    }

    /// As [`KeyGuard::dry_run`], as if the key `id` had been presented.
    pub fn dry_run_as<H: Headers + ?Sized>(&self, id: KeyId, request: Request<'_, H>) -> Verdict {
        self.inner.dry_run(&request, KeySource::Key(id))
    }
}

impl Inner {
    pub(crate) fn store(&self) -> &dyn Store {
        &*self.store
    }

    pub(crate) fn recorder(&self) -> &Recorder {
        &self.backends.recorder
    }

    pub(crate) fn lockouts(&self) -> &Lockouts {
        &self.lockouts
    }

    pub(crate) fn limiter(&self) -> &dyn Limiter {
        &*self.backends.limiter
    }

    pub(crate) fn policies(&self) -> &PolicyReloader {
        &self.policies
    }

    pub(crate) fn compiled(&self) -> Guard<Arc<CompiledPolicy>> {
        self.policy_handle.load()
    }

    /// As [`Inner::compiled`], to be held across an await.
    #[cfg(feature = "serve")]
    pub(crate) fn compiled_full(&self) -> Arc<CompiledPolicy> {
        self.policy_handle.load_full()
    }

    pub(crate) fn hasher(&self) -> &KeyHasher {
        &self.hasher
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Whether a text is the key of an administrator. Takes the same time for all texts of a length.
    #[cfg(feature = "http")]
    pub(crate) fn is_admin_key(&self, text: &[u8]) -> bool {
        self.admin_keys.contain(text)
    }

    #[cfg(feature = "http")]
    pub(crate) fn id(&self) -> GuardId {
        self.id
    }

    #[cfg(feature = "http")]
    pub(crate) fn mounts(&self) -> &Mounts {
        self.policies.mounts()
    }

    /// Whether the admin key is derived from a secret that may be guessed.
    #[cfg(feature = "serve")]
    pub(crate) fn has_weak_admin_key(&self) -> bool {
        self.admin_keys.are_weak()
    }

    /// Whether the policy trusts an address to name whom it asks for.
    #[cfg(feature = "serve")]
    pub(crate) fn trusts(&self, ip: ClientIp) -> bool {
        self.compiled().policy.trusted_proxies.contains(ip)
    }

    /// Tells the administrator something, once.
    #[cfg(any(unix, feature = "http"))]
    pub(crate) fn warn(&self, warning: &str) {
        self.lockouts.warn(warning);
    }

    /// Whether a decision may have to ask another server.
    #[cfg(feature = "http")]
    pub(crate) fn asks_others(&self) -> bool {
        self.limiter().asks_others() || self.store.asks_others()
    }

    fn fault(&self) -> Option<String> {
        let fault = self.store.fault();
        fault.map(|reason| format!("changes to the data file are refused: {reason}"))
    }

    /// What an administrator should know.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = self.lockouts.warnings().list();
        warnings.extend(self.limiter().warnings());
        warnings.extend(self.store.warnings());
        warnings.extend(self.fault());
        warnings
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.timestamp()
    }

    /// To be called once a change is durable: no decision from now on goes by the old state.
    pub(crate) fn key_changed(&self, id: KeyId) {
        self.revisions.key_changed(id);
    }

    /// As [`Inner::key_changed`], for every key of an organization.
    pub(crate) fn org_changed(&self, id: OrgId) {
        self.revisions.org_changed(id);
    }

    /// Keeps something that is to be dropped when the guard ends.
    #[cfg(unix)]
    pub(crate) fn accompany(&self, socket_server: Box<dyn Send>) {
        *self.socket_server.lock() = Some(socket_server);
    }

    /// Stores all that is on its way and ends the writer.
    pub(crate) fn stop(&self) -> Result<(), StoreError> {
        let socket_server = self.socket_server.lock().take();
        drop(socket_server);
        let Some(writer) = self.writer.lock().take() else {
            return Ok(());
        };
        let result = self.recorder().close();
        // The thread ends by returning; a panic in it has already been reported.
        let _ = writer.join();
        result
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Who wants to know whether it worked calls `close`.
        let _ = self.stop();
    }
}

impl fmt::Debug for KeyGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyGuard").finish_non_exhaustive()
    }
}
