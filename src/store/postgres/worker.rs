//! Work on the I/O thread.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::{timeout, timeout_at};
use tokio_postgres::error::SqlState;

use super::audit::{self, CommitTurn};
use super::change_listener::ChangeListener;
use super::conn::Conn;
use super::feed::FeedEntry;
use super::in_flight::{Found, InFlight};
use super::negative_cache::NegativeCache;
use super::pool::Pool;
use super::recording::{self, Prepared};
use super::server_error::{ServerError, cause, is_cancelled, is_lost};
use super::state::State;
use super::{ADMIN_TIMEOUT, credentials, prune};
use crate::lockout::LockId;
use crate::model::HashedKey;
use crate::store::audit::AuditSubject;
use crate::store::{AuditContext, Resolved, StoreError};
use crate::sys::Instant;
use crate::time::{Clock, Timestamp};

/// Maximum number of new daily tables per batch. More days indicate wrong clocks.
const MOST_DAYS: usize = 8;

pub(super) struct Worker {
    pub(super) pool: Rc<Pool>,
    pub(super) negative_cache: Arc<NegativeCache>,
    pub(super) state: Arc<State>,
    pub(super) listener: Arc<ChangeListener>,
    pub(super) deadline: Duration,
    pub(super) stale_for: Duration,
    pub(super) clock: Clock,
    pub(super) in_flight: InFlight,
    /// The generation up to which changes are applied.
    pub(super) applied: Cell<Option<i64>>,
    /// Generations of this store not yet seen in the feed, with the locks that they changed.
    pub(super) own: RefCell<BTreeMap<i64, Vec<LockId>>>,
    /// Locks to be read with the next changes, even if these do not list them.
    pub(super) unread_locks: RefCell<BTreeSet<LockId>>,
    /// Whether changes may have been missed.
    pub(super) is_behind: Cell<bool>,
    /// When all changes were last known to be applied.
    pub(super) synced_at: Cell<Instant>,
    /// Days with tables.
    pub(super) days: RefCell<HashSet<u64>>,
}

impl Worker {
    /// Runs a read. Retries once if the connection was lost.
    pub(super) async fn read<T>(
        &self,
        query: &impl AsyncFn(&Conn) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let read = async {
            let mut is_second = false;
            loop {
                let lease = self.pool.lease().await?;
                match query(&lease.conn).await {
                    Err(error) if is_lost(&error) || lease.conn.is_closed() => {
                        self.pool.forget_idle();
                        if std::mem::replace(&mut is_second, true) {
                            return Err(error);
                        }
                    }
                    result => {
                        self.pool.keep(lease);
                        return result;
                    }
                }
            }
        };
        let in_time = timeout(ADMIN_TIMEOUT, read).await;
        in_time.unwrap_or_else(|_| Err(ServerError::timeout().into()))
    }

    /// Looks up a key over a shared connection. Retries for each lost connection, since the server
    /// may have closed all of them.
    async fn look_up(&self, due: Instant, hash: HashedKey) -> Result<Option<Resolved>, StoreError> {
        let mut lost = 0;
        loop {
            let conn = timeout_at(due, self.pool.for_lookup()).await;
            let conn = match conn.map_err(|_| ServerError::timeout())? {
                Ok(conn) => conn,
                Err(error) => {
                    // A new session is compared with other sessions, which may be lost too.
                    let error = StoreError::from(error);
                    lost += 1;
                    if !is_lost(&error) || lost > self.pool.lookup_connection_count() {
                        return Err(error);
                    }
                    continue;
                }
            };
            let found = timeout_at(due, credentials::resolve(&conn, hash)).await;
            match found {
                Err(_) => {
                    self.pool.note_timeout(&conn);
                    return Err(ServerError::timeout().into());
                }
                Ok(Err(error)) if is_cancelled(&error) => {
                    self.pool.note_slow();
                    return Err(ServerError::timeout().into());
                }
                Ok(Err(error)) if is_lost(&error) || conn.is_closed() => {
                    self.pool.discard(&conn);
                    lost += 1;
                    if lost > self.pool.lookup_connection_count() {
                        return Err(error);
                    }
                }
                Ok(found) => {
                    self.pool.note_reply(&conn);
                    return found;
                }
            }
        }
    }

    /// Runs a transaction. Never retried, because it may have been committed.
    pub(super) async fn write<T>(
        &self,
        due: Instant,
        change: impl AsyncFnOnce(&Conn) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let transaction = async {
            let lease = self.pool.begin().await?;
            match change(&lease.conn).await {
                Ok(done) => {
                    lease.conn.batch("COMMIT").await.map_err(outcome_unknown)?;
                    self.pool.keep(lease);
                    Ok(done)
                }
                Err(error) => {
                    // Drops the connection if this fails.
                    if lease.conn.batch("ROLLBACK").await.is_ok() {
                        self.pool.keep(lease);
                    }
                    Err(error)
                }
            }
        };
        let in_time = timeout_at(due, transaction).await;
        in_time.unwrap_or_else(|_| Err(outcome_unknown(ServerError::timeout()).into()))
    }

    /// Runs an audited change, unless the idempotency key was used before.
    pub(super) async fn commit_audited<T: AuditSubject>(
        &self,
        audit: &AuditContext,
        change: impl AsyncFnOnce(&Conn, &mut CommitTurn) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.change(async |conn, turn| {
            audit::begin(conn, audit).await?;
            let done = change(conn, turn).await?;
            audit::enter(conn, audit, done.audit_subject().or(audit.subject)).await?;
            Ok(done)
        })
        .await
    }

    /// Runs a transaction in the order of changes.
    pub(super) async fn change<T>(
        &self,
        change: impl AsyncFnOnce(&Conn, &mut CommitTurn) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let claim = Cell::new(None);
        let changed = self
            .write(admin_deadline(), async |conn| {
                let mut turn = CommitTurn::take(conn).await?;
                let done = change(conn, &mut turn).await?;
                turn.end(conn).await?;
                self.claim(&turn, &claim);
                Ok(done)
            })
            .await;
        // A failed commit may have succeeded.
        self.negative_cache.invalidate();
        self.settle(changed, &claim)
    }

    /// Claims a generation for this store before it becomes visible.
    fn claim(&self, turn: &CommitTurn, claim: &Cell<Option<i64>>) {
        let locks = turn.entries.iter().filter_map(FeedEntry::lock).cloned();
        (self.own.borrow_mut()).insert(turn.generation, locks.collect());
        claim.set(Some(turn.generation));
    }

    /// Withdraws a claim that may belong to another node or whose outcome is unknown.
    fn settle<T>(
        &self,
        done: Result<T, StoreError>,
        claim: &Cell<Option<i64>>,
    ) -> Result<T, StoreError> {
        if let (Err(_), Some(generation)) = (&done, claim.get()) {
            self.own.borrow_mut().remove(&generation);
            self.is_behind.set(true);
            self.pool.sessions.feed_wakeup.notify_one();
        }
        done
    }

    pub(super) async fn record(&self, batch: &Prepared) -> Result<(), StoreError> {
        let due = admin_deadline();
        for &day in batch.days.iter().rev().take(MOST_DAYS) {
            if !self.days.borrow().contains(&day) {
                self.add_day(due, day).await?;
            }
        }
        let claim = Cell::new(None);
        let written = self
            .write(due, async |conn| {
                if let Some(turn) = recording::write(conn, batch).await? {
                    self.claim(&turn, &claim);
                }
                Ok(())
            })
            .await;
        self.settle(written, &claim)
    }

    async fn add_day(&self, due: Instant, day: u64) -> Result<(), StoreError> {
        let is_kept_out = |why: &ServerError| {
            why.is(&SqlState::CHECK_VIOLATION) || why.is(&SqlState::LOCK_NOT_AVAILABLE)
        };
        let added = self
            .write(due, async |conn| recording::add_day(conn, day).await)
            .await;
        match added {
            // Rows of that day go to the default table.
            Err(error) if cause(&error).is_some_and(is_kept_out) => {}
            added => added?,
        }
        self.days.borrow_mut().insert(day);
        Ok(())
    }

    pub(super) async fn prune(
        &self,
        raw_before: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let due = admin_deadline();
        let days = self
            .write(due, async |conn| prune::delete(conn, raw_before, now).await)
            .await?;
        self.write(due, async |conn| prune::forget_changes(conn).await)
            .await?;
        for day in days {
            let dropped = self
                .write(due, async |conn| prune::drop_day(conn, day).await)
                .await;
            match dropped {
                Err(error) if prune::is_in_use(&error) => {}
                dropped => dropped?,
            }
            self.days.borrow_mut().remove(&day);
        }
        Ok(())
    }

    /// Looks up a key; concurrent calls share one query. A query that began before a change is not
    /// joined after it, because its result may be outdated.
    pub(super) async fn resolve(self: Rc<Self>, hash: HashedKey, due: Instant) -> Found {
        let epoch = self.negative_cache.epoch();
        let (found, is_first) = self.in_flight.join((hash, epoch));
        if is_first {
            spawn_local(Rc::clone(&self).run_lookup(hash, epoch));
        }
        let found = match timeout_at(due, found).await {
            Ok(Ok(found)) => found,
            _ => Err(ServerError::timeout()),
        };
        if found.is_err() {
            self.state.failures.fetch_add(1, Ordering::Relaxed);
        }
        found
    }

    async fn run_lookup(self: Rc<Self>, hash: HashedKey, epoch: u64) {
        // Late callers get the full time.
        let due = Instant::now() + 2 * self.deadline;
        let found = self.look_up(due, hash).await;
        if let Ok(None) = found {
            self.negative_cache.note_absent(hash, epoch);
        }
        let found = found.map_err(ServerError::from);
        self.in_flight.end((hash, epoch), &found);
    }
}

/// Notes that the outcome of a transaction is unknown.
fn outcome_unknown(error: ServerError) -> ServerError {
    ServerError::new(format!(
        "{error}; it is unknown whether the change was made"
    ))
}

/// The deadline of administration and recording.
fn admin_deadline() -> Instant {
    Instant::now() + ADMIN_TIMEOUT
}
