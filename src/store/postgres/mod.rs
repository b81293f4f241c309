//! The PostgreSQL backend, shared by any number of processes.
//!
//! Every change is one transaction, durable on return. It locks the single row of the state table
//! and increments the generation. Changes are listed under their generation and announced. Other
//! processes read the list from their last generation on, so a lost notification loses nothing.
//!
//! All I/O runs on a dedicated thread.

mod address;
mod audit;
mod conn;
mod copy;
mod counters;
mod credentials;
mod feed;
mod follow;
mod in_flight;
mod link;
mod locks;
mod manage;
mod migrate;
mod negative_cache;
mod pool;
mod prune;
mod recording;
mod rows;
mod server_error;
mod sessions;
mod tls;
mod totals;
mod transfer;
mod usage;
mod worker;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

pub(crate) use self::address::DatabaseUrl;
use self::audit::CommitTurn;
use self::conn::Conn;
use self::feed::FeedEntry;
use self::link::Link;
use self::migrate::SchemaParams;
use self::negative_cache::NegativeCache;
use self::recording::Prepared;
use self::server_error::ServerError;
use self::worker::admin_deadline;
use super::batch_id::BatchIds;
use super::transfer::{PageCursor, TransferPage};
use super::{
    AuditContext, ChangeEvent, KeyChange, NewCredential, NewKey, OpenError, OrgChange, Rehash,
    Resolved, Rotation, Store, StoreError, Totals, UsageBatch, UsageStore,
};
use crate::counter::{CounterId, SavedCounter, SavedIpWindow, SubjectId};
use crate::lockout::{Lock, LockChange};
use crate::model::{
    AuditEntry, BackendHealth, Fingerprint, HashedKey, Key, KeyId, Org, OrgId, Usage,
};
use crate::sys::{Deadline, MaybeReady, block_on};
use crate::time::{Clock, Timestamp};

/// Timeout of administration and recording. Decisions have their own deadline.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);

/// A [`Store`] in a PostgreSQL database.
pub(crate) struct PostgresStore {
    link: Link,
    negative_cache: Arc<NegativeCache>,
    state: Arc<State>,
    listener: Arc<ChangeListener>,
    deadline: Duration,
    stale_for: Duration,
    batch_ids: Mutex<BatchIds>,
}

pub(crate) struct Options {
    /// Deadline of a decision.
    pub(crate) deadline: Duration,
    /// Maximum number of connections, without that of the feed.
    pub(crate) connections: usize,
    /// How long cached keys are used without contact to the server.
    pub(crate) stale_for: Duration,
    /// Follows the clock of the server.
    pub(crate) clock: Clock,
}

/// Current problems.
#[derive(Default)]
struct State {
    /// Why the feed is interrupted.
    feed_error: Mutex<Option<ServerError>>,
    /// The error of the last connection attempt.
    connect_error: Mutex<Option<ServerError>>,
    /// Whether look-ups are too slow.
    is_slow: AtomicBool,
    /// Number of failed look-ups.
    failures: AtomicU64,
}

impl State {
    /// The current problem, if any.
    fn problem(&self) -> Option<String> {
        let feed_error = self.feed_error.lock().clone();
        let problem = feed_error.or_else(|| self.connect_error.lock().clone());
        let is_slow = || self.is_slow.load(Ordering::Relaxed);
        let slow = || is_slow().then(|| "it takes too long to look up a key".to_owned());
        problem.map(|problem| problem.to_string()).or_else(slow)
    }

    /// Whether look-ups fail.
    fn is_failing(&self) -> bool {
        self.is_slow.load(Ordering::Relaxed) || self.connect_error.lock().is_some()
    }
}

type Callback = Box<dyn Fn(ChangeEvent) + Send + Sync>;

/// Passes changes of other nodes on.
#[derive(Default)]
struct ChangeListener(Mutex<Listening>);

#[derive(Default)]
struct Listening {
    callback: Option<Callback>,
    /// Changes that arrived before the callback was set.
    pending: Vec<ChangeEvent>,
}

impl ChangeListener {
    /// Returns false if there is no callback and the buffer is full.
    fn notify(&self, changes: Vec<ChangeEvent>) -> bool {
        const MOST: usize = 1_000;
        let mut listening = self.0.lock();
        let Listening { callback, pending } = &mut *listening;
        match callback {
            Some(callback) => changes.into_iter().for_each(callback),
            None if pending.len() + changes.len() <= MOST => pending.extend(changes),
            None => return false,
        }
        true
    }

    fn set(&self, callback: Callback) {
        let mut listening = self.0.lock();
        std::mem::take(&mut listening.pending)
            .into_iter()
            .for_each(&callback);
        listening.callback = Some(callback);
    }
}

impl PostgresStore {
    /// Connects. If the server is down, connecting continues in the background.
    pub(crate) fn open(
        url: &str,
        fingerprint: Fingerprint,
        options: Options,
    ) -> Result<Self, OpenError> {
        let batch_ids = BatchIds::new().map_err(server_error::unusable)?;
        let params = SchemaParams {
            fingerprint,
            now: options.clock.timestamp(),
        };
        let (negative_cache, state, listener) =
            <(Arc<NegativeCache>, Arc<State>, Arc<ChangeListener>)>::default();
        let link = Link::open(
            DatabaseUrl::parse(url)?,
            params,
            &options,
            Arc::clone(&negative_cache),
            Arc::clone(&state),
            Arc::clone(&listener),
        )?;
        Ok(Self {
            link,
            negative_cache,
            state,
            listener,
            deadline: options.deadline,
            stale_for: options.stale_for,
            batch_ids: Mutex::new(batch_ids),
        })
    }

    fn read<T: Send + 'static>(
        &self,
        query: impl AsyncFn(&Conn) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        block_on(
            self.link
                .run(move |worker| async move { worker.read(admin_deadline(), &query).await }),
        )
    }

    fn commit_audited<T: Send + 'static>(
        &self,
        audit: &AuditContext,
        change: impl AsyncFnOnce(&Conn, &mut CommitTurn) -> Result<(Option<u64>, T), StoreError>
        + Send
        + 'static,
    ) -> Result<T, StoreError> {
        let audit = audit.clone();
        block_on(self.link.run(move |worker| async move {
            worker
                .commit_audited(admin_deadline(), &audit, change)
                .await
        }))
    }

    /// Runs a transaction that is not an audited change.
    fn change<T: Send + 'static>(
        &self,
        change: impl AsyncFnOnce(&Conn, &mut CommitTurn) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        block_on(
            self.link
                .run(move |worker| async move { worker.change(admin_deadline(), change).await }),
        )
    }
}

impl UsageStore for PostgresStore {
    fn record(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut batch_ids = self.batch_ids.lock();
        let prepared = Prepared::new(batch, batch_ids.id(batch))?;
        block_on(
            self.link
                .run(move |worker| async move { worker.record(admin_deadline(), &prepared).await }),
        )?;
        batch_ids.acknowledge();
        Ok(())
    }

    fn prune(&self, raw_before: Timestamp, now: Timestamp) -> Result<(), StoreError> {
        block_on(self.link.run(move |worker| async move {
            worker.prune(admin_deadline(), raw_before, now).await
        }))
    }

    fn rehash(&self, jobs: &[Rehash], audit: &AuditContext) -> Result<(), StoreError> {
        let (jobs, audit) = (jobs.to_vec(), audit.clone());
        self.change(async move |conn, turn| {
            let owners = credentials::rehash(conn, &jobs).await?;
            let subjects: Vec<_> = owners.iter().map(|key| Some(key.0)).collect();
            audit::enter_each(conn, &audit, &subjects).await?;
            turn.entries.extend(owners.into_iter().map(FeedEntry::Key));
            Ok(())
        })
    }

    /// Windows are local to a process or live in Redis.
    fn save_windows(&self, _: Vec<(SubjectId, Vec<SavedCounter>)>) -> Result<(), StoreError> {
        Ok(())
    }

    fn delete_ended_windows(&self, _: Timestamp) -> Result<(), StoreError> {
        Ok(())
    }

    fn save_ip_windows(&self, _: Vec<SavedIpWindow>) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Store for PostgresStore {
    fn resolve<'a>(
        &'a self,
        hash: &'a HashedKey,
        deadline: &'a Deadline,
    ) -> MaybeReady<'a, Result<Option<Resolved>, StoreError>> {
        if self.negative_cache.is_absent(hash) {
            return MaybeReady::Now(Ok(None));
        }
        let (hash, due) = (*hash, deadline.ends_at(self.deadline));
        MaybeReady::later(self.link.run(move |worker| worker.resolve(hash, due)))
    }

    fn resolve_id(&self, id: KeyId) -> Result<Option<Resolved>, StoreError> {
        self.read(async move |conn| credentials::resolve_id(conn, id).await)
    }

    fn counters(&self, id: SubjectId) -> Result<Vec<SavedCounter>, StoreError> {
        self.read(async move |conn| counters::of(conn, id).await)
    }

    fn create_org(&self, name: &str, audit: &AuditContext) -> Result<Org, StoreError> {
        let (name, at) = (name.to_owned(), audit.at);
        self.commit_audited(audit, async move |conn, turn| {
            let org = manage::create_org(conn, turn, &name, at).await?;
            Ok((Some(org.id.0), org))
        })
    }

    fn org(&self, id: OrgId) -> Result<Org, StoreError> {
        self.read(async move |conn| manage::org(conn, id).await)
    }

    fn org_named(&self, name: &str) -> Result<Org, StoreError> {
        let name = name.to_owned();
        self.read(async move |conn| manage::org_named(conn, &name).await)
    }

    fn orgs(&self, after: Option<OrgId>, limit: usize) -> Result<Vec<Org>, StoreError> {
        self.read(async move |conn| manage::orgs(conn, after, limit).await)
    }

    fn update_org(
        &self,
        id: OrgId,
        change: OrgChange,
        audit: &AuditContext,
    ) -> Result<Org, StoreError> {
        self.commit_audited(audit, async move |conn, turn| {
            let org = manage::update_org(conn, turn, id, change).await?;
            Ok((Some(id.0), org))
        })
    }

    fn create_keys(
        &self,
        keys: Vec<(NewKey, NewCredential)>,
        audit: &AuditContext,
    ) -> Result<Vec<Key>, StoreError> {
        self.commit_audited(audit, async move |conn, turn| {
            let keys = manage::create_keys(conn, turn, keys).await?;
            Ok((keys.first().map(|key| key.id.0), keys))
        })
    }

    fn key(&self, id: KeyId) -> Result<Key, StoreError> {
        self.read(async move |conn| manage::key(conn, id).await)
    }

    fn keys(
        &self,
        org: Option<OrgId>,
        after: Option<KeyId>,
        limit: usize,
    ) -> Result<Vec<Key>, StoreError> {
        self.read(async move |conn| manage::keys(conn, org, after, limit).await)
    }

    fn keys_with_prefix(&self, text: &str, limit: usize) -> Result<Vec<Key>, StoreError> {
        let text = text.to_owned();
        self.read(async move |conn| manage::keys_with_prefix(conn, &text, limit).await)
    }

    fn update_key(
        &self,
        id: KeyId,
        change: KeyChange,
        audit: &AuditContext,
    ) -> Result<Key, StoreError> {
        self.commit_audited(audit, async move |conn, turn| {
            let key = manage::update_key(conn, turn, id, change).await?;
            Ok((Some(id.0), key))
        })
    }

    fn add_credential(
        &self,
        id: KeyId,
        credential: NewCredential,
        rotation: Rotation,
        audit: &AuditContext,
    ) -> Result<Key, StoreError> {
        self.commit_audited(audit, async move |conn, turn| {
            let key = manage::add_credential(conn, turn, id, credential, rotation).await?;
            Ok((Some(id.0), key))
        })
    }

    fn revoke_key(&self, id: KeyId, audit: &AuditContext) -> Result<Key, StoreError> {
        self.commit_audited(audit, async move |conn, turn| {
            Ok((Some(id.0), manage::revoke_key(conn, turn, id).await?))
        })
    }

    fn append_audit(&self, audit: &AuditContext) -> Result<(), StoreError> {
        self.commit_audited(audit, async |_, _| Ok((None, ())))
    }

    fn audit_log(&self, before: Option<u64>, limit: usize) -> Result<Vec<AuditEntry>, StoreError> {
        self.read(async move |conn| audit::before(conn, before, limit).await)
    }

    fn ip_windows(&self) -> Result<Vec<SavedIpWindow>, StoreError> {
        Ok(Vec::new())
    }

    /// Also balances, which other nodes would otherwise restore.
    fn delete_counters(
        &self,
        counters: &[(SubjectId, CounterId)],
        audit: &AuditContext,
    ) -> Result<(), StoreError> {
        let counters = counters.to_vec();
        self.commit_audited(audit, async move |conn, _| {
            Ok((None, counters::forget(conn, &counters).await?))
        })
    }

    fn usage(
        &self,
        key: Option<KeyId>,
        from: Timestamp,
        limit: usize,
    ) -> Result<Vec<Usage>, StoreError> {
        self.read(async move |conn| usage::since(conn, key, from, limit).await)
    }

    fn locks(&self) -> Result<Vec<Lock>, StoreError> {
        self.read(async |conn| locks::all(conn).await)
    }

    fn change_locks(&self, changes: &[LockChange], audit: &AuditContext) -> Result<(), StoreError> {
        let (changes, now) = (changes.to_vec(), audit.at);
        self.commit_audited(audit, async move |conn, turn| {
            locks::join(conn, &changes, now).await?;
            let ids = changes.into_iter().map(|change| change.id);
            turn.entries.extend(ids.map(FeedEntry::Lock));
            Ok((None, ()))
        })
    }

    fn totals(&self, now: Timestamp) -> Result<Totals, StoreError> {
        self.read(async move |conn| totals::totals(conn, now).await)
    }

    fn export(&self, from: PageCursor) -> Result<TransferPage, StoreError> {
        self.read(async move |conn| transfer::page(conn, from).await)
    }

    fn check_import(&self, page: &TransferPage) -> Result<(), StoreError> {
        let page = page.clone();
        self.read(async move |conn| transfer::check(conn, &page).await)
    }

    fn import(&self, page: &TransferPage) -> Result<(), StoreError> {
        let page = page.clone();
        self.change(async move |conn, turn| transfer::import(conn, turn, &page).await)
    }

    fn is_remote(&self) -> bool {
        true
    }

    /// The listener is called at once for pending changes and later on the I/O thread. It must not
    /// wait for that thread.
    fn subscribe(&self, listener: Box<dyn Fn(ChangeEvent) + Send + Sync>) {
        self.listener.set(listener);
    }

    fn health(&self) -> Option<BackendHealth> {
        let problem = self.state.problem();
        Some(BackendHealth {
            server: "postgres",
            is_up: problem.is_none(),
            problem,
            failures: self.state.failures.load(Ordering::Relaxed),
            fallbacks: 0,
        })
    }

    fn warnings(&self) -> Vec<String> {
        let feed_error = self.state.feed_error.lock().clone();
        let connect_error = self.state.connect_error.lock().clone();
        let is_slow = self.state.is_slow.load(Ordering::Relaxed);
        let warning = match (feed_error, connect_error) {
            (Some(problem), _) => {
                let what = match problem.is_refusal() {
                    true => "used",
                    false => "reached",
                };
                let seconds = self.stale_for.as_secs();
                Some(format!(
                    "PostgreSQL cannot be {what}: {problem}; known keys are served for at most \
                     {seconds} s"
                ))
            }
            (None, Some(problem)) => Some(format!(
                "PostgreSQL accepts no more connections: {problem}; known keys are served, and \
                 others may be refused with status 503"
            )),
            (None, None) => is_slow.then(|| {
                let deadline = self.deadline.as_millis();
                format!(
                    "PostgreSQL takes longer than {deadline} ms to look up a key; known keys are \
                     served, and others are refused with status 503"
                )
            }),
        };
        warning.into_iter().collect()
    }
}
