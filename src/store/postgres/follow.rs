//! Following changes of other nodes. A notification wakes the follower, which reads the list of
//! changes. It also polls, so a lost notification only delays it.
//!
//! The follower has its own session, so slow look-ups neither delay changes nor invalidate the
//! cache.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{sleep, sleep_until, timeout};

use super::conn::Conn;
use super::feed::FeedPage;
use super::server_error::{ServerError, is_lost};
use super::worker::Worker;
use super::{feed, rows};
use crate::lockout::LockId;
use crate::store::{ChangeEvent, StoreError};
use crate::sys::Instant;

/// Poll interval.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Statement timeout of a poll.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time after which the session counts as lost.
const SESSION_TIMEOUT: Duration = Duration::from_secs(4);
/// Delay before a retry.
const RETRY_DELAY: Duration = Duration::from_millis(100);

impl Worker {
    /// Opens a session that receives notifications.
    pub(super) async fn open_feed(&self) -> Result<Conn, ServerError> {
        let conn = self.pool.sessions.open(STATEMENT_TIMEOUT).await?;
        conn.batch("LISTEN keyguard").await?;
        let sent_at = self.clock.now();
        if let Ok(time) = rows::server_time(&conn).await {
            self.clock.follow(time, sent_at);
        }
        Ok(conn)
    }

    /// Follows changes of other nodes, reconnecting as necessary.
    pub(super) async fn follow(self: Rc<Self>, first: Option<Conn>) {
        let mut next = first;
        loop {
            let session = match next.take() {
                Some(conn) => Ok(conn),
                None => self.open_feed().await,
            };
            let error = match session {
                Ok(conn) => self.follow_session(&conn).await,
                Err(error) => error.into(),
            };
            self.set_feed_error(error);
            // The next session may reach a server without the latest changes.
            self.is_behind.set(true);
            sleep(RETRY_DELAY).await;
        }
    }

    /// Applies changes until the session is lost. Returns the reason.
    async fn follow_session(&self, conn: &Conn) -> StoreError {
        loop {
            let wait = match timeout(SESSION_TIMEOUT, self.catch_up(conn)).await {
                Ok(Ok(())) => POLL_INTERVAL,
                // The server responds, but the table is blocked, for example by a lock.
                Ok(Err(error)) if !is_lost(&error) && !conn.is_closed() => {
                    self.set_feed_error(error);
                    RETRY_DELAY
                }
                Ok(Err(error)) => return error,
                Err(_) => {
                    conn.abort();
                    return ServerError::timeout().into();
                }
            };
            let _ = timeout(wait, self.pool.sessions.feed_wakeup.notified()).await;
        }
    }

    pub(super) fn set_feed_error(&self, error: StoreError) {
        let error = ServerError::from(error);
        *self.state.feed_error.lock() = Some(error);
    }

    /// Applies all changes up to now.
    async fn catch_up(&self, conn: &Conn) -> Result<(), StoreError> {
        let (start, sent_at) = (Instant::now(), self.clock.now());
        let (after, wanted) = (self.applied.get(), self.is_behind.replace(false));
        let is_own = |generation| self.own.borrow().contains_key(&generation);
        let unread = self.unread_locks.borrow().clone();
        let page = feed::read(conn, after, is_own, unread, wanted).await;
        let page = page.and_then(|page| match conn.is_same_backend(page.backend) {
            true => Ok(page),
            false => Err(ServerError::pooled().into()),
        });
        if wanted && page.is_err() {
            self.is_behind.set(true);
        }
        let mut page = page?;
        *self.unread_locks.borrow_mut() = self.drop_outdated_locks(&mut page);
        // No await from here on, so that the changes are applied together.
        if page.is_any {
            self.negative_cache.invalidate();
        }
        if !self.listener.notify(page.changes) {
            self.is_behind.set(true);
        }
        self.applied.set(Some(page.generation));
        (self.own.borrow_mut()).retain(|own, _| *own > page.generation);
        self.clock.follow(page.time, sent_at);
        self.negative_cache.confirm_until(start);
        self.synced_at.set(start);
        *self.state.feed_error.lock() = None;
        Ok(())
    }

    /// Drops and returns the locks of a page that this store has changed meanwhile: the guard has applied those
    /// changes already. They are announced, and wake the follower.
    fn drop_outdated_locks(&self, page: &mut FeedPage) -> BTreeSet<LockId> {
        let own = self.own.borrow();
        let newer = own.range(page.generation + 1..);
        let newer: BTreeSet<_> = newer.flat_map(|(_, locks)| locks.clone()).collect();
        for change in &mut page.changes {
            match change {
                ChangeEvent::AllLocks { locks, except } => {
                    locks.retain(|lock| !newer.contains(&lock.id()));
                    except.extend(newer.iter().cloned());
                }
                ChangeEvent::Locks(locks) => locks.retain(|lock| !newer.contains(&lock.id)),
                _ => {}
            }
        }
        newer
    }

    /// Invalidates all cached keys after `max_key_staleness` without contact.
    pub(super) async fn watch(self: Rc<Self>) {
        let mut invalidated_at = Instant::now();
        loop {
            // Repeats, because keys may be read meanwhile although changes are not.
            let until = invalidated_at.max(self.synced_at.get()) + self.stale_for;
            sleep_until(until).await;
            if self.synced_at.get() + self.stale_for > Instant::now() {
                continue;
            }
            invalidated_at = Instant::now();
            self.is_behind.set(true);
            self.negative_cache.invalidate();
            self.listener.notify(vec![ChangeEvent::Everything]);
        }
    }

    /// Probes the server after look-ups failed or were too slow.
    pub(super) async fn recover(self: Rc<Self>) {
        loop {
            self.pool.failed.notified().await;
            while self.pool.probe().await.is_err() {
                sleep(RETRY_DELAY).await;
            }
        }
    }
}
