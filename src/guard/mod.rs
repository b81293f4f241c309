//! The guard: decisions about requests over a store and a limiter.

mod active_locks;
#[cfg(feature = "http")]
mod admin_keys;
mod backends;
mod cached_key;
mod config;
mod decision;
mod denial;
mod fields;
mod grant;
mod key_cache;
mod legacy;
#[cfg(any(feature = "metrics", feature = "serve"))]
mod measurements;
#[cfg(feature = "http")]
mod mounts;
mod open;
mod policy_reloader;
mod proxies;
mod recorder;
mod request;
mod revisions;
mod secret_file;
mod secret_review;
mod storage;
mod verdict;
mod warnings;

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Mutex, MutexGuard};

pub use self::config::Config;
pub use self::denial::Denial;
pub use self::fields::RateLimitHeaders;
pub use self::grant::Grant;
pub use self::request::{HeaderFn, Headers, Request};
pub use self::verdict::{LimitStatus, Verdict};

pub(crate) use self::active_locks::{ActiveLocks, auth_failure_rule};
pub(crate) use self::cached_key::rules;
#[cfg(feature = "http")]
pub(crate) use self::decision::require_unlocked;
pub(crate) use self::decision::{KeySource, check_ip, client_ip, decide, decide_async, preview};
#[cfg(feature = "serve")]
pub(crate) use self::decision::{named_by_proxy, refuse_unreadable, stored_key};
#[cfg(feature = "http")]
pub(crate) use self::fields::LimitFields;
#[cfg(feature = "serve")]
pub(crate) use self::fields::push_number;
pub(crate) use self::legacy::{
    MISSING_SECRET as MISSING_LEGACY_SECRET, UNUSED_SECRET as UNUSED_LEGACY_SECRET,
};
#[cfg(any(feature = "metrics", feature = "serve"))]
pub(crate) use self::measurements::Measurements;
#[cfg(feature = "http")]
pub(crate) use self::mounts::{GuardId, Mounts};
#[cfg(feature = "serve")]
pub(crate) use self::secret_file::write_secret;
#[cfg(feature = "cli")]
pub(crate) use self::secret_file::{
    existing_secret, read_secret, secret_path, webhook_secret_path,
};
#[cfg(feature = "cli")]
pub(crate) use self::secret_review::SECRET_ARGUMENT;
pub(crate) use self::storage::Storage;
#[cfg(feature = "cli")]
pub(crate) use self::storage::{exposure_warning, followed, is_server};
#[cfg(feature = "serve")]
pub(crate) use self::warnings::Topic;
#[cfg(any(unix, feature = "http"))]
pub(crate) use self::warnings::WarningKind;
pub(crate) use self::warnings::Warnings;

use self::cached_key::GrantBackends;
use self::key_cache::KeyCache;
use self::policy_reloader::{PolicyHandle, PolicyReloader};
use self::proxies::Proxies;
use self::recorder::Recorder;
#[cfg(feature = "serve")]
use self::recorder::UrgentEvents;
use self::revisions::Revisions;
use crate::limiter::AnyLimiter;
#[cfg(feature = "http")]
use crate::log::Event;
use crate::log::Log;
use crate::model::{
    Area, BackendHealth, Condition, KeyHasher, KeyId, LegacyHasher, OrgId, Readiness,
};
#[cfg(feature = "http")]
use crate::net::ClientIp;
use crate::policy::CompiledPolicy;
use crate::store::copy::CopyProgress;
use crate::store::{LegacyKeys, Store, StoreError};
use crate::time::{Clock, Timestamp};

/// The state behind every [`KeyGuard`](crate::KeyGuard): the store, the limiter, and what is cached of them.
pub(crate) struct Guard {
    hasher: KeyHasher,
    /// `None` if keys of the Python package are not accepted.
    legacy: Option<LegacyHasher>,
    #[cfg(feature = "http")]
    admin_keys: self::admin_keys::AdminKeys,
    #[cfg(feature = "http")]
    id: GuardId,
    key_cache: KeyCache,
    revisions: Arc<Revisions>,
    backends: Arc<GrantBackends>,
    locks: Arc<ActiveLocks>,
    warnings: Arc<Warnings>,
    secret_problems: Vec<Condition>,
    proxies: Proxies,
    policy_handle: Arc<PolicyHandle>,
    policy_reloader: Arc<PolicyReloader>,
    store: Arc<dyn Store>,
    clock: Clock,
    key_header: Arc<str>,
    config: Config,
    /// Held while usage is counted: one question at a time bounds the memory.
    usage_turn: Mutex<()>,
    /// Held while a backup is written.
    backup_turn: Mutex<()>,
    backup_progress: CopyProgress,
    #[cfg(feature = "serve")]
    urgent_events: Arc<UrgentEvents>,
    writer: Mutex<Option<JoinHandle<()>>>,
    /// Dropped first when the guard stops.
    socket_server: Mutex<Option<Box<dyn Send>>>,
}

impl Guard {
    pub(crate) fn store(&self) -> &dyn Store {
        &*self.store
    }

    pub(crate) fn recorder(&self) -> &Recorder {
        &self.backends.recorder
    }

    pub(crate) fn locks(&self) -> &ActiveLocks {
        &self.locks
    }

    pub(crate) fn limiter(&self) -> &AnyLimiter {
        &self.backends.limiter
    }

    pub(crate) fn policy_reloader(&self) -> &PolicyReloader {
        &self.policy_reloader
    }

    pub(crate) fn compiled(&self) -> arc_swap::Guard<Arc<CompiledPolicy>> {
        self.policy_handle.load()
    }

    /// Like [`Guard::compiled`], to be held across an await.
    #[cfg(feature = "serve")]
    pub(crate) fn compiled_full(&self) -> Arc<CompiledPolicy> {
        self.policy_handle.load_full()
    }

    pub(crate) fn hasher(&self) -> &KeyHasher {
        &self.hasher
    }

    pub(crate) fn log(&self) -> &Log {
        &self.config.log
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Whether a text is an admin key. Takes the same time for all texts of a length.
    #[cfg(feature = "http")]
    pub(crate) fn is_admin_key(&self, text: &[u8]) -> bool {
        self.admin_keys.contain(text)
    }

    /// Logs and counts a request with a wrong admin key, and warns if they repeat.
    #[cfg(feature = "http")]
    pub(crate) fn note_wrong_admin_key(&self, ip: ClientIp) {
        self.log().emit(&Event::AdminRefused { ip });
        if self.admin_keys.count_wrong(self.clock.now()) {
            self.warnings
                .add_of(WarningKind::AdminKey, admin_keys::GUESSED);
        }
    }

    #[cfg(feature = "http")]
    pub(crate) fn id(&self) -> GuardId {
        self.id
    }

    #[cfg(feature = "http")]
    pub(crate) fn mounts(&self) -> &Mounts {
        self.policy_reloader.mounts()
    }

    /// Whether the admin key is derived from a secret that is short enough to guess.
    #[cfg(feature = "serve")]
    pub(crate) fn has_weak_admin_key(&self) -> bool {
        self.admin_keys.are_weak()
    }

    /// Returns the warnings for the administrator.
    #[cfg(any(unix, feature = "http"))]
    pub(crate) fn warnings(&self) -> &Arc<Warnings> {
        &self.warnings
    }

    /// Whether a decision may wait for another server.
    #[cfg(feature = "http")]
    pub(crate) fn is_remote(&self) -> bool {
        self.limiter().is_remote() || self.store.is_remote()
    }

    /// Health of the backend servers; empty with a data file and limits in memory. Does no I/O.
    pub(crate) fn backends(&self) -> Vec<BackendHealth> {
        let (store, limiter) = (self.store.health(), self.limiter().status().health);
        store.into_iter().chain(limiter).collect()
    }

    /// The problems that make the guard not ready. Does no I/O.
    pub(crate) fn readiness(&self) -> Readiness {
        let problems = self.backends().into_iter().filter_map(|backend| {
            let problem = backend.problem?;
            Some(format!("{}: {problem}", backend.server))
        });
        Readiness {
            problems: self.fault().into_iter().chain(problems).collect(),
        }
    }

    fn fault(&self) -> Option<String> {
        let fault = self.store.fault();
        fault.map(|reason| format!("changes to the data file are refused: {reason}"))
    }

    /// The warnings of the guard and its backends.
    pub(crate) fn all_warnings(&self) -> Vec<String> {
        let conditions = self.conditions().into_iter();
        conditions.map(|condition| condition.problem).collect()
    }

    /// The warnings of the guard and its backends, with what they are about.
    pub(crate) fn conditions(&self) -> Vec<Condition> {
        let mut conditions = self.warnings.conditions();
        conditions.extend(self.limiter().status().conditions);
        conditions.extend(self.store.conditions());
        let area = match self.store.is_damaged() {
            true => Area::Damage,
            false => Area::Data,
        };
        conditions.extend(self.fault().map(|fault| Condition::new(area, fault)));
        conditions
    }

    /// Whether one of these keys of the Python package is refused because its secret is not configured.
    pub(crate) fn lacks_legacy_secret(&self, which: LegacyKeys) -> Result<bool, StoreError> {
        Ok(self.legacy.is_none() && self.has_legacy_keys(which)?)
    }

    /// Whether the secret of the Python package is configured, and keys of the package are in force, but none
    /// of them was ever used. Reads all keys.
    pub(crate) fn has_unused_legacy_secret(&self) -> Result<bool, StoreError> {
        Ok(self.legacy.is_some()
            && self.has_legacy_keys(LegacyKeys::All)?
            && !self.has_legacy_keys(LegacyKeys::Rehashed)?)
    }

    /// Whether one of these keys of the Python package is in force.
    pub(crate) fn has_legacy_keys(&self, which: LegacyKeys) -> Result<bool, StoreError> {
        self.store.has_legacy_keys(which, self.now())
    }

    /// Why others may know the secret.
    pub(crate) fn secret_problems(&self) -> &[Condition] {
        &self.secret_problems
    }

    /// The file of the policy, if it has one.
    pub(crate) fn policy_file(&self) -> Option<&Path> {
        self.config.policy_file.as_deref()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.timestamp()
    }

    /// Makes a change to a key durable, and then puts it in force: later decisions do not use the old state.
    pub(crate) fn change_key<T>(
        &self,
        id: KeyId,
        commit: impl FnOnce(&dyn Store) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.revisions.change_key(id, || commit(self.store()))
    }

    /// Like [`Guard::change_key`], for every key of an organization.
    pub(crate) fn change_org<T>(
        &self,
        id: OrgId,
        commit: impl FnOnce(&dyn Store) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.revisions.change_org(id, || commit(self.store()))
    }

    /// Waits until no other question about usage is being answered.
    pub(crate) fn usage_turn(&self) -> MutexGuard<'_, ()> {
        self.usage_turn.lock()
    }

    /// Waits until no other backup is being written.
    pub(crate) fn backup_turn(&self) -> MutexGuard<'_, ()> {
        self.backup_turn.lock()
    }

    /// The progress of the backup that is being written.
    pub(crate) fn backup_progress(&self) -> &CopyProgress {
        &self.backup_progress
    }

    /// Events that cannot wait until they are stored.
    #[cfg(feature = "serve")]
    pub(crate) fn urgent_events(&self) -> &UrgentEvents {
        &self.urgent_events
    }

    /// Keeps the socket server until the guard stops.
    #[cfg(unix)]
    pub(crate) fn keep_socket_server(&self, socket_server: Box<dyn Send>) {
        *self.socket_server.lock() = Some(socket_server);
    }

    /// Cancels a backup, stores all pending data and ends the writer.
    pub(crate) fn stop(&self) -> Result<(), StoreError> {
        self.backup_progress.cancel();
        let socket_server = self.socket_server.lock().take();
        drop(socket_server);
        let Some(writer) = self.writer.lock().take() else {
            return Ok(());
        };
        let result = self.recorder().close();
        // A panic of the thread has already been reported.
        let _ = writer.join();
        result
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // `close` returns the error.
        let _ = self.stop();
    }
}
