//! Hearing what others change: an announcement wakes, and the list of changes tells. It is also
//! looked at unasked, so that no lost announcement matters for long.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until, timeout, timeout_at};

use super::conn::Conn;
use super::feed;
use super::problem::Problem;
use super::worker::Worker;
use crate::store::{Change, StoreError};

/// How often changes are looked for that nobody has announced.
const POLL: Duration = Duration::from_secs(1);
/// How long one such look may take.
const LOOK: Duration = Duration::from_secs(2);
/// How long to wait before trying again what has just failed.
const PAUSE: Duration = Duration::from_millis(100);

impl Worker {
    /// Follows what others change, and brings lost connections back.
    pub(super) async fn follow(self: Rc<Self>) {
        loop {
            if self.catch_up().await.is_ok() {
                let _ = timeout(POLL, self.pool.announced.notified()).await;
            } else {
                self.is_behind.set(true);
                sleep(PAUSE).await;
            }
        }
    }

    /// Applies all changes up to now.
    async fn catch_up(&self) -> Result<(), StoreError> {
        let asked = Instant::now();
        let due = asked + LOOK;
        if self.pool.is_down() {
            self.is_behind.set(true);
        }
        let probed = timeout_at(due.into(), self.pool.probe()).await;
        probed.map_err(|_| Problem::late())??;
        let (after, wanted) = (self.applied.get(), self.is_behind.replace(false));
        let look = async |conn: &Conn| feed::read(conn, after, &self.own, wanted).await;
        let news = self.read(due, &look).await;
        *self.state.unheard.lock() = news.as_ref().err().map(ToString::to_string);
        let news = news?;
        // From here on nothing is awaited: what is applied is applied at once.
        if news.is_any || wanted {
            self.lookups.changed();
        }
        if !self.listener.tell(news.changes) {
            self.is_behind.set(true);
        }
        self.applied.set(Some(news.generation));
        self.own.borrow_mut().retain(|own| *own > news.generation);
        self.lookups.heard(asked);
        self.heard.set(asked);
        Ok(())
    }

    /// Has everything forgotten once nothing was heard for too long.
    pub(super) async fn watch(self: Rc<Self>) {
        let mut told = Instant::now();
        loop {
            // Again and again: keys may be read meanwhile although changes are not.
            let until = told.max(self.heard.get()) + self.stale_for;
            sleep_until(until.into()).await;
            if self.heard.get() + self.stale_for > Instant::now() {
                continue;
            }
            told = Instant::now();
            self.is_behind.set(true);
            self.lookups.changed();
            self.listener.tell(vec![Change::Everything]);
        }
    }

    /// Keeps a connection on which changes are announced.
    pub(super) async fn listen(self: Rc<Self>) {
        loop {
            let began = Instant::now();
            let problem = match self.hear().await {
                Ok(()) => Problem::new("the connection was lost"),
                Err(problem) => problem,
            };
            *self.state.deaf.lock() = Some(problem);
            // It may be the server.
            self.pool.announced.notify_one();
            if began.elapsed() < POLL {
                sleep(PAUSE).await;
            }
        }
    }

    /// Returns when the connection is lost.
    async fn hear(&self) -> Result<(), Problem> {
        let (client, ended) = self.pool.client().await?;
        client.batch_execute("LISTEN keyguard").await?;
        *self.state.deaf.lock() = None;
        // Whatever was announced in the meantime.
        self.pool.announced.notify_one();
        let _ = ended.await;
        Ok(())
    }
}
