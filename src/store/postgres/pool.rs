//! The connection pool: shared connections for look-ups, exclusive ones for other work.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore};

use super::conn::Conn;
use super::problem::Problem;
use super::sessions::Sessions;
use super::{PATIENCE, State, credentials};
use crate::model::HashedKey;

/// Number of consecutive slow look-ups after which look-ups stop until a probe succeeds, and after
/// which a connection is dropped.
const TOLERATED: u32 = 3;

pub(super) struct Pool {
    pub(super) sessions: Sessions,
    lookups: Vec<Slot>,
    /// Statement timeout of look-ups.
    deadline: Duration,
    /// Consecutive slow look-ups.
    late: Cell<u32>,
    work: Arc<Semaphore>,
    /// Idle connections.
    idle: RefCell<Vec<Conn>>,
    /// Notified when the server is unreachable or too slow.
    pub(super) failed: Notify,
    state: Arc<State>,
}

/// A slot for a look-up connection.
#[derive(Default)]
struct Slot {
    conn: RefCell<Option<Rc<Conn>>>,
    connecting: Mutex<()>,
}

impl Slot {
    fn open(&self) -> Option<Rc<Conn>> {
        let conn = self.conn.borrow();
        conn.as_ref().filter(|conn| !conn.is_closed()).cloned()
    }

    /// Drops the connection and its pending queries.
    fn discard(&self) {
        if let Some(conn) = self.conn.take() {
            conn.abort();
        }
    }
}

/// An exclusive connection.
pub(super) struct Lease {
    pub(super) conn: Conn,
    _permit: OwnedSemaphorePermit,
}

impl Pool {
    pub(super) fn new(
        sessions: Sessions,
        connections: usize,
        deadline: Duration,
        state: Arc<State>,
    ) -> Self {
        // At least one of each kind.
        let work = (connections / 2).max(1);
        let lookups = connections.saturating_sub(work).max(1);
        Self {
            sessions,
            lookups: (0..lookups).map(|_| Slot::default()).collect(),
            deadline,
            late: Cell::default(),
            work: Arc::new(Semaphore::new(work)),
            idle: RefCell::default(),
            failed: Notify::default(),
            state,
        }
    }

    /// Number of look-up connections.
    pub(super) fn lookup_connections(&self) -> usize {
        self.lookups.len()
    }

    /// Returns a connection for a look-up. Fails at once while the server is unreachable or too
    /// slow.
    pub(super) async fn for_lookup(self: &Rc<Self>) -> Result<Rc<Conn>, Problem> {
        if self.state.is_slow.load(Ordering::Relaxed) {
            return Err(Problem::late());
        }
        let at = self.least_busy();
        if let Some(conn) = self.lookups.get(at).and_then(Slot::open) {
            return Ok(conn);
        }
        self.refuse_if_unreachable()?;
        self.fill(at).await
    }

    /// Chooses an idle slot, then an empty one, then the least busy one.
    fn least_busy(&self) -> usize {
        let users = |slot: &Slot| match slot.open() {
            // This reference and that of the slot.
            Some(conn) => match Rc::strong_count(&conn) - 2 {
                0 => 0,
                count => count + 1,
            },
            None => 1,
        };
        let slots = self.lookups.iter().enumerate();
        slots
            .min_by_key(|(_, slot)| users(slot))
            .map_or(0, |(at, _)| at)
    }

    /// Continues when the caller stops waiting, so that a slow server is reached eventually.
    async fn fill(self: &Rc<Self>, at: usize) -> Result<Rc<Conn>, Problem> {
        let pool = Rc::clone(self);
        detached(async move {
            let slot = pool.lookups.get(at).ok_or_else(Problem::late)?;
            let _connecting = slot.connecting.lock().await;
            if let Some(conn) = slot.open() {
                return Ok(conn);
            }
            let conn = Rc::new(pool.connect(pool.deadline).await?);
            *slot.conn.borrow_mut() = Some(Rc::clone(&conn));
            Ok(conn)
        })
        .await
    }

    /// Drops a look-up connection.
    pub(super) fn discard(&self, conn: &Rc<Conn>) {
        for slot in &self.lookups {
            let is_it = |held: &Rc<Conn>| Rc::ptr_eq(held, conn);
            if slot.conn.borrow().as_ref().is_some_and(is_it) {
                slot.discard();
            }
        }
    }

    pub(super) fn note_answered(&self, conn: &Conn) {
        conn.silent.set(0);
        self.late.set(0);
    }

    /// Notes a slow look-up. Does not affect the feed, which has its own connection.
    pub(super) fn note_late(&self) {
        self.late.set(self.late.get() + 1);
        if self.late.get() == TOLERATED {
            self.state.is_slow.store(true, Ordering::Relaxed);
            self.failed.notify_one();
        }
    }

    /// Notes a look-up without reply.
    pub(super) fn note_silent(&self, conn: &Rc<Conn>) {
        conn.silent.set(conn.silent.get() + 1);
        if conn.silent.get() >= TOLERATED {
            self.discard(conn);
        }
        self.note_late();
    }

    /// Looks up a nonexistent key over a new connection to test the server.
    pub(super) async fn probe(&self) -> Result<(), Problem> {
        if !self.state.is_failing() {
            return Ok(());
        }
        let conn = self.connect(self.deadline).await?;
        let nothing = credentials::resolve(&conn, HashedKey([0; 32]));
        match tokio::time::timeout(2 * self.deadline, nothing).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => {
                conn.abort();
                return Err(Problem::late());
            }
        }
        self.late.set(0);
        self.state.is_slow.store(false, Ordering::Relaxed);
        if let Some(slot) = self.lookups.iter().find(|slot| slot.open().is_none()) {
            *slot.conn.borrow_mut() = Some(Rc::new(conn));
        }
        Ok(())
    }

    /// Takes an exclusive connection.
    pub(super) async fn lease(self: &Rc<Self>) -> Result<Lease, Problem> {
        let permit = Arc::clone(&self.work).acquire_owned().await;
        let permit = permit.map_err(|_| Problem::late())?;
        self.idle.borrow_mut().retain(|conn| !conn.is_closed());
        let idle = self.idle.borrow_mut().pop();
        let conn = match idle {
            Some(conn) => conn,
            None => {
                self.refuse_if_unreachable()?;
                let pool = Rc::clone(self);
                detached(async move { pool.connect(PATIENCE).await }).await?
            }
        };
        Ok(Lease {
            conn,
            _permit: permit,
        })
    }

    /// Takes an exclusive connection and begins a transaction.
    pub(super) async fn begin(self: &Rc<Self>) -> Result<Lease, Problem> {
        let lease = self.lease().await?;
        if lease.conn.batch("BEGIN").await.is_ok() {
            return Ok(lease);
        }
        // A lost idle connection has done nothing yet, so retry.
        drop(lease);
        self.forget_idle();
        let lease = self.lease().await?;
        lease.conn.batch("BEGIN").await?;
        Ok(lease)
    }

    /// Returns a connection to the pool.
    pub(super) fn keep(&self, lease: Lease) {
        self.idle.borrow_mut().push(lease.conn);
    }

    /// Drops the idle connections after one was lost.
    pub(super) fn forget_idle(&self) {
        self.idle.borrow_mut().clear();
    }

    fn refuse_if_unreachable(&self) -> Result<(), Problem> {
        let problem = self.state.unreachable.lock().clone();
        problem.map_or(Ok(()), Err)
    }

    async fn connect(&self, longest: Duration) -> Result<Conn, Problem> {
        let opened = self.sessions.open(longest).await;
        if opened.is_err() {
            self.failed.notify_one();
        }
        opened
    }

    /// Closes all sessions.
    pub(super) async fn close(&self) {
        for slot in &self.lookups {
            slot.conn.take();
        }
        self.forget_idle();
        self.sessions.close().await;
    }
}

/// Runs to completion even if the caller stops waiting.
async fn detached<T: 'static>(
    work: impl Future<Output = Result<T, Problem>> + 'static,
) -> Result<T, Problem> {
    let done = tokio::task::spawn_local(work).await;
    done.unwrap_or_else(|_| Err(Problem::late()))
}
