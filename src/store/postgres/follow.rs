//! Following changes of other nodes. A notification wakes the follower, which reads the list of
//! changes. It also polls, so a lost notification only delays it.
//!
//! The follower has its own session, so slow look-ups neither delay changes nor invalidate the
//! cache.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until, timeout};

use super::conn::Conn;
use super::feed::FeedPage;
use super::problem::{Problem, cause, is_lost};
use super::worker::Worker;
use super::{feed, rows};
use crate::store::{ChangeEvent, StoreError};

/// Poll interval.
const POLL: Duration = Duration::from_secs(1);
/// Statement timeout of a poll.
const STATEMENT: Duration = Duration::from_secs(2);
/// Time after which the session counts as lost.
const LOOK: Duration = Duration::from_secs(4);
/// Delay before a retry.
const PAUSE: Duration = Duration::from_millis(100);

impl Worker {
    /// Opens a session that receives notifications.
    pub(super) async fn open_feed(&self) -> Result<Conn, Problem> {
        let conn = self.pool.sessions.open(STATEMENT).await?;
        conn.batch("LISTEN keyguard").await?;
        let asked = self.clock.now();
        if let Ok(time) = rows::server_time(&conn).await {
            self.clock.follow(time, asked);
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
            let problem = match session {
                Ok(conn) => self.hear(&conn).await,
                Err(problem) => problem.into(),
            };
            self.note_unheard(problem);
            // The next session may reach a server without the latest changes.
            self.is_behind.set(true);
            sleep(PAUSE).await;
        }
    }

    /// Applies changes until the session is lost. Returns the reason.
    async fn hear(&self, conn: &Conn) -> StoreError {
        loop {
            let wait = match timeout(LOOK, self.catch_up(conn)).await {
                Ok(Ok(())) => POLL,
                // The server responds, but the table is blocked, for example by a lock.
                Ok(Err(error)) if !is_lost(&error) && !conn.is_closed() => {
                    self.note_unheard(error);
                    PAUSE
                }
                Ok(Err(error)) => return error,
                Err(_) => {
                    conn.abort();
                    return Problem::late().into();
                }
            };
            let _ = timeout(wait, self.pool.sessions.announced.notified()).await;
        }
    }

    pub(super) fn note_unheard(&self, error: StoreError) {
        let problem = match cause(&error) {
            Some(problem) => problem.clone(),
            None => Problem::new(error.to_string()),
        };
        *self.state.unheard.lock() = Some(problem);
    }

    /// Applies all changes up to now.
    async fn catch_up(&self, conn: &Conn) -> Result<(), StoreError> {
        let (asked, asked_at) = (Instant::now(), self.clock.now());
        let (after, wanted) = (self.applied.get(), self.is_behind.replace(false));
        let news = feed::read(conn, after, &self.own, wanted).await;
        let news = news.and_then(|news| match conn.is_same_backend(news.backend) {
            true => Ok(news),
            false => Err(Problem::pooled().into()),
        });
        if wanted && news.is_err() {
            self.is_behind.set(true);
        }
        let mut news = news?;
        self.drop_outdated_locks(&mut news);
        // No await from here on, so that the changes are applied together.
        if news.is_any {
            self.lookups.changed();
        }
        if !self.listener.tell(news.changes) {
            self.is_behind.set(true);
        }
        self.applied.set(Some(news.generation));
        self.own.borrow_mut().retain(|own| *own > news.generation);
        self.clock.follow(news.time, asked_at);
        self.lookups.heard(asked);
        self.heard.set(asked);
        *self.state.unheard.lock() = None;
        Ok(())
    }

    /// Drops a list of all locks that may lack changes that this store made meanwhile, and requests
    /// another one.
    fn drop_outdated_locks(&self, page: &mut FeedPage) {
        let has_newer = self.own.borrow().last() > Some(&page.generation);
        let is_list = |change: &ChangeEvent| matches!(change, ChangeEvent::AllLocks(_));
        if has_newer && page.changes.iter().any(is_list) {
            page.changes.retain(|change| !is_list(change));
            self.is_behind.set(true);
        }
    }

    /// Invalidates all cached keys after `max_key_staleness` without contact.
    pub(super) async fn watch(self: Rc<Self>) {
        let mut told = Instant::now();
        loop {
            // Repeats, because keys may be read meanwhile although changes are not.
            let until = told.max(self.heard.get()) + self.stale_for;
            sleep_until(until.into()).await;
            if self.heard.get() + self.stale_for > Instant::now() {
                continue;
            }
            told = Instant::now();
            self.is_behind.set(true);
            self.lookups.changed();
            self.listener.tell(vec![ChangeEvent::Everything]);
        }
    }

    /// Probes the server after look-ups failed or were too slow.
    pub(super) async fn recover(self: Rc<Self>) {
        loop {
            self.pool.failed.notified().await;
            while self.pool.probe().await.is_err() {
                sleep(PAUSE).await;
            }
        }
    }
}
