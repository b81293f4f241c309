//! The PostgreSQL backend, shared by any number of processes.
//!
//! Every change is one transaction, durable on return. It locks the single row of the state table
//! and increments the generation. Changes are listed under their generation and announced. Other
//! processes read the list from their last generation on, so a lost notification loses nothing.
//!
//! All I/O runs on a dedicated thread.

mod address;
mod array;
mod audit;
mod change_listener;
mod conn;
mod copy;
mod counters;
mod credentials;
mod feed;
mod follow;
#[cfg(all(fuzzing, feature = "_fuzz"))]
#[path = "../../../fuzz/entry/postgres/mod.rs"]
pub(super) mod fuzz;
mod in_flight;
mod link;
mod locks;
mod manage;
mod migrate;
mod negative_cache;
mod pool;
mod prune;
mod recording;
mod records;
mod rows;
mod server_error;
mod sessions;
mod state;
mod tls;
mod total_rows;
mod totals;
mod transfer;
mod usage;
mod usage_counts;
mod worker;

#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

pub(crate) use self::address::DatabaseUrl;
use self::audit::CommitTurn;
use self::change_listener::ChangeListener;
use self::conn::Conn;
use self::feed::FeedEntry;
use self::link::Link;
use self::migrate::SchemaParams;
use self::negative_cache::NegativeCache;
use self::recording::Prepared;
use self::state::State;
use self::worker::Worker;
use super::audit::AuditSubject;
use super::batch_id::BatchIds;
use super::transfer::{PageCursor, TransferPage};
use super::usage_counts::{UsageCounts, UsagePage};
use super::{
    AuditContext, ChangeEvent, KeyChange, LegacyKeys, NewCredential, NewKey, OpenError, OrgChange,
    Rehash, Resolved, Rotation, SavedSet, Search, Store, StoreError, Totals, UsageBatch,
    UsageStore,
};
use crate::counter::{CounterId, SavedCounter, SavedIpWindow, SubjectId};
use crate::lockout::{Lock, LockChange};
use crate::model::{
    Area, AuditEntry, BackendHealth, Condition, Fingerprint, HashedKey, Key, KeyId, Org, OrgId,
    Usage, UsageQuery,
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

    /// Runs `work` on the I/O thread and waits for it.
    fn run<T: Send + 'static, F>(
        &self,
        work: impl FnOnce(Rc<Worker>) -> F + Send + 'static,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + 'static,
    {
        block_on(self.link.run(work))
    }

    fn read<T: Send + 'static>(
        &self,
        query: impl AsyncFn(&Conn) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run(move |worker| async move { worker.read(&query).await })
    }

    fn commit_audited<T: AuditSubject + Send + 'static>(
        &self,
        audit: &AuditContext,
        change: impl AsyncFnOnce(&Conn, &mut CommitTurn) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let context = audit.clone();
        let result =
            self.run(move |worker| async move { worker.commit_audited(&context, change).await })?;
        audit.committed(result.audit_subject());
        Ok(result)
    }

    /// Runs a transaction that is not an audited change.
    fn change<T: Send + 'static>(
        &self,
        change: impl AsyncFnOnce(&Conn, &mut CommitTurn) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run(move |worker| async move { worker.change(change).await })
    }
}

impl UsageStore for PostgresStore {
    fn record(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut batch_ids = self.batch_ids.lock();
        let prepared = Prepared::new(batch, batch_ids.id(batch))?;
        self.run(move |worker| async move { worker.record(&prepared).await })?;
        batch_ids.acknowledge();
        Ok(())
    }

    fn prune(&self, raw_before: Timestamp, now: Timestamp) -> Result<(), StoreError> {
        self.run(move |worker| async move { worker.prune(raw_before, now).await })
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

    fn append_audit(&self, audit: &AuditContext) -> Result<(), StoreError> {
        self.commit_audited(audit, async |_, _| Ok(()))
    }

    /// Windows are local to a process or live in Redis.
    fn save_windows(&self, _: &mut dyn Iterator<Item = SavedSet>) -> Result<(), StoreError> {
        Ok(())
    }

    fn delete_ended_windows(&self, _: Timestamp) -> Result<(), StoreError> {
        Ok(())
    }

    fn save_ip_windows(&self, _: Vec<SavedIpWindow>) -> Result<(), StoreError> {
        Ok(())
    }

    fn health(&self) -> Option<BackendHealth> {
        Some(self.state.health())
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
            manage::create_org(conn, turn, &name, at).await
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

    fn search_orgs(&self, search: &Search) -> Result<Vec<Org>, StoreError> {
        let search = search.clone();
        self.read(async move |conn| manage::search_orgs(conn, &search).await)
    }

    fn update_org(
        &self,
        id: OrgId,
        change: OrgChange,
        audit: &AuditContext,
    ) -> Result<Org, StoreError> {
        self.commit_audited(audit, async move |conn, turn| {
            manage::update_org(conn, turn, id, change).await
        })
    }

    fn create_keys(
        &self,
        keys: Vec<(NewKey, NewCredential)>,
        audit: &AuditContext,
    ) -> Result<Vec<Key>, StoreError> {
        self.commit_audited(audit, async move |conn, turn| {
            manage::create_keys(conn, turn, keys).await
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

    fn old_texts_until(&self, ids: &[KeyId]) -> Result<Vec<(KeyId, Timestamp)>, StoreError> {
        let ids: Vec<_> = ids.iter().map(|id| id.0 as i64).collect();
        self.read(async move |conn| credentials::old_texts_until(conn, &ids).await)
    }

    fn has_legacy_keys(&self, which: LegacyKeys, now: Timestamp) -> Result<bool, StoreError> {
        self.read(async move |conn| credentials::has_legacy(conn, which, now).await)
    }

    fn search_keys(&self, search: &Search, org: Option<OrgId>) -> Result<Vec<Key>, StoreError> {
        let search = search.clone();
        self.read(async move |conn| manage::search_keys(conn, &search, org).await)
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
            manage::update_key(conn, turn, id, change).await
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
            manage::add_credential(conn, turn, id, credential, rotation).await
        })
    }

    fn revoke_key(&self, id: KeyId, audit: &AuditContext) -> Result<Key, StoreError> {
        self.commit_audited(audit, async move |conn, turn| {
            manage::revoke_key(conn, turn, id).await
        })
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
            counters::forget(conn, &counters).await
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

    fn count_usage(&self, query: &UsageQuery, now: Timestamp) -> Result<UsageCounts, StoreError> {
        let query = query.clone();
        self.read(async move |conn| usage_counts::count(conn, &query, now).await)
    }

    fn usage_page(
        &self,
        query: &UsageQuery,
        from: u64,
        limit: usize,
    ) -> Result<UsagePage, StoreError> {
        let query = query.clone();
        self.read(async move |conn| usage_counts::page(conn, &query, from, limit).await)
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
            Ok(())
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

    fn conditions(&self) -> Vec<Condition> {
        let warning = self.state.warning(self.deadline, self.stale_for);
        let condition = warning.map(|warning| Condition::new(Area::Postgres, warning));
        condition.into_iter().collect()
    }
}
