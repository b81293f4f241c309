//! The connection pool: shared connections for look-ups, exclusive ones for other work.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore};

use super::conn::Conn;
use super::server_error::ServerError;
use super::sessions::Sessions;
use super::state::State;
use super::{ADMIN_TIMEOUT, credentials};
use crate::model::HashedKey;

/// Number of consecutive slow look-ups after which look-ups stop until a probe succeeds, and after
/// which a connection is dropped.
const TOLERATED: u32 = 3;

pub(super) struct Pool {
    pub(super) sessions: Sessions,
    lookup_connections: Vec<LookupConnection>,
    /// Statement timeout of look-ups.
    deadline: Duration,
    /// Consecutive slow look-ups.
    slow_lookups: Cell<u32>,
    work: Arc<Semaphore>,
    /// Idle connections.
    idle: RefCell<Vec<Conn>>,
    /// Notified when the server is unreachable or too slow.
    pub(super) failed: Notify,
    state: Arc<State>,
}

/// A connection for look-ups, which is opened when it is needed.
#[derive(Default)]
struct LookupConnection {
    conn: RefCell<Option<Rc<Conn>>>,
    connecting: Mutex<()>,
}

impl LookupConnection {
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
            lookup_connections: (0..lookups).map(|_| LookupConnection::default()).collect(),
            deadline,
            slow_lookups: Cell::default(),
            work: Arc::new(Semaphore::new(work)),
            idle: RefCell::default(),
            failed: Notify::default(),
            state,
        }
    }

    /// Maximum number of look-up connections.
    pub(super) fn lookup_connection_count(&self) -> usize {
        self.lookup_connections.len()
    }

    /// Returns a connection for a look-up. Fails at once while the server is unreachable or too
    /// slow.
    pub(super) async fn for_lookup(self: &Rc<Self>) -> Result<Rc<Conn>, ServerError> {
        if self.state.is_slow.load(Ordering::Relaxed) {
            return Err(ServerError::timeout());
        }
        let at = self.least_busy();
        if let Some(conn) = self
            .lookup_connections
            .get(at)
            .and_then(LookupConnection::open)
        {
            return Ok(conn);
        }
        self.refuse_if_disconnected()?;
        self.fill(at).await
    }

    /// Chooses an idle connection, then a closed one, then the least busy one.
    fn least_busy(&self) -> usize {
        let users = |lookup: &LookupConnection| match lookup.open() {
            // This reference and that of the pool.
            Some(conn) => match Rc::strong_count(&conn) - 2 {
                0 => 0,
                count => count + 1,
            },
            None => 1,
        };
        let lookups = self.lookup_connections.iter().enumerate();
        lookups
            .min_by_key(|(_, lookup)| users(lookup))
            .map_or(0, |(at, _)| at)
    }

    /// Continues when the caller stops waiting, so that a slow server is reached eventually.
    async fn fill(self: &Rc<Self>, at: usize) -> Result<Rc<Conn>, ServerError> {
        let pool = Rc::clone(self);
        detached(async move {
            let lookup = pool
                .lookup_connections
                .get(at)
                .ok_or_else(ServerError::timeout)?;
            let _connecting = lookup.connecting.lock().await;
            if let Some(conn) = lookup.open() {
                return Ok(conn);
            }
            let conn = Rc::new(pool.connect(pool.deadline).await?);
            *lookup.conn.borrow_mut() = Some(Rc::clone(&conn));
            Ok(conn)
        })
        .await
    }

    /// Drops a look-up connection.
    pub(super) fn discard(&self, conn: &Rc<Conn>) {
        for lookup in &self.lookup_connections {
            let is_it = |held: &Rc<Conn>| Rc::ptr_eq(held, conn);
            if lookup.conn.borrow().as_ref().is_some_and(is_it) {
                lookup.discard();
            }
        }
    }

    pub(super) fn note_reply(&self, conn: &Conn) {
        conn.timeouts.set(0);
        self.slow_lookups.set(0);
    }

    /// Notes a slow look-up. Does not affect the feed, which has its own connection.
    pub(super) fn note_slow(&self) {
        self.slow_lookups.set(self.slow_lookups.get() + 1);
        if self.slow_lookups.get() == TOLERATED {
            self.state.is_slow.store(true, Ordering::Relaxed);
            self.failed.notify_one();
        }
    }

    /// Notes a look-up without reply.
    pub(super) fn note_timeout(&self, conn: &Rc<Conn>) {
        conn.timeouts.set(conn.timeouts.get() + 1);
        if conn.timeouts.get() >= TOLERATED {
            self.discard(conn);
        }
        self.note_slow();
    }

    /// Looks up a nonexistent key over a new connection to test the server.
    pub(super) async fn probe(&self) -> Result<(), ServerError> {
        if !self.state.is_failing() {
            return Ok(());
        }
        let conn = self.connect(self.deadline).await?;
        let nothing = credentials::resolve(&conn, HashedKey([0; 32]));
        match tokio::time::timeout(2 * self.deadline, nothing).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => {
                conn.abort();
                return Err(ServerError::timeout());
            }
        }
        self.slow_lookups.set(0);
        self.state.is_slow.store(false, Ordering::Relaxed);
        if let Some(lookup) = self
            .lookup_connections
            .iter()
            .find(|lookup| lookup.open().is_none())
        {
            *lookup.conn.borrow_mut() = Some(Rc::new(conn));
        }
        Ok(())
    }

    /// Takes an exclusive connection.
    pub(super) async fn lease(self: &Rc<Self>) -> Result<Lease, ServerError> {
        let permit = Arc::clone(&self.work).acquire_owned().await;
        let permit = permit.map_err(|_| ServerError::timeout())?;
        self.idle.borrow_mut().retain(|conn| !conn.is_closed());
        let idle = self.idle.borrow_mut().pop();
        let conn = match idle {
            Some(conn) => conn,
            None => {
                self.refuse_if_disconnected()?;
                let pool = Rc::clone(self);
                detached(async move { pool.connect(ADMIN_TIMEOUT).await }).await?
            }
        };
        Ok(Lease {
            conn,
            _permit: permit,
        })
    }

    /// Takes an exclusive connection and begins a transaction.
    pub(super) async fn begin(self: &Rc<Self>) -> Result<Lease, ServerError> {
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

    fn refuse_if_disconnected(&self) -> Result<(), ServerError> {
        let error = self.state.connect_error.lock().clone();
        error.map_or(Ok(()), Err)
    }

    async fn connect(&self, longest: Duration) -> Result<Conn, ServerError> {
        let opened = self.sessions.open(longest).await;
        if opened.is_err() {
            self.failed.notify_one();
        }
        opened
    }

    /// Closes all sessions.
    pub(super) async fn close(&self) {
        for lookup in &self.lookup_connections {
            lookup.conn.take();
        }
        self.forget_idle();
        self.sessions.close().await;
    }
}

/// Runs to completion even if the caller stops waiting.
async fn detached<T: 'static>(
    work: impl Future<Output = Result<T, ServerError>> + 'static,
) -> Result<T, ServerError> {
    let done = tokio::task::spawn_local(work).await;
    done.unwrap_or_else(|_| Err(ServerError::timeout()))
}
