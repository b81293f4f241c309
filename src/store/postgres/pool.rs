//! The connections: some that everybody reads by at once, and some that transactions take for
//! themselves.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio_postgres::config::SslMode;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls};

use super::State;
use super::address::Address;
use super::conn::Conn;
use super::migrate::{self, Terms};
use super::problem::Problem;
use crate::store::StoreError;

/// What every session is set to. Changes are durable once they are acknowledged, whatever the
/// server's default.
const SESSION: &str = "SET TimeZone = 'UTC'; SET statement_timeout = '10s'; \
    SET idle_in_transaction_session_timeout = '30s'; \
    SELECT set_config('synchronous_commit', 'on', false) \
    WHERE current_setting('synchronous_commit') = 'off'";

/// How many questions in a row may find no answer in time before the connection is given up.
const TOLERATED: u32 = 3;

pub(super) struct Pool {
    address: Address,
    terms: Terms,
    readers: Vec<Reader>,
    writers: Arc<Semaphore>,
    /// Connections of transactions that have ended.
    idle: RefCell<Vec<Conn>>,
    /// The tables have been looked at.
    is_checked: Cell<bool>,
    checking: Mutex<()>,
    /// Why the last attempt to connect failed.
    failure: RefCell<Option<Problem>>,
    /// What moves the bytes of each connection.
    drivers: RefCell<JoinSet<()>>,
    /// Told of every notification, by whichever connection it comes.
    pub(super) announced: Rc<Notify>,
    state: Arc<State>,
}

#[derive(Default)]
struct Reader {
    conn: RefCell<Option<Rc<Conn>>>,
    connecting: Mutex<()>,
}

impl Reader {
    fn open(&self) -> Option<Rc<Conn>> {
        let conn = self.conn.borrow();
        conn.as_ref().filter(|conn| !conn.is_closed()).cloned()
    }
}

/// A connection for one transaction at a time.
pub(super) struct Writer {
    pub(super) conn: Conn,
    _permit: OwnedSemaphorePermit,
}

impl Pool {
    pub(super) fn new(
        address: Address,
        terms: Terms,
        connections: usize,
        state: Arc<State>,
    ) -> Self {
        // At least one of each.
        let writers = (connections / 2).max(1);
        let readers = connections.saturating_sub(writers).max(1);
        Self {
            address,
            terms,
            readers: (0..readers).map(|_| Reader::default()).collect(),
            writers: Arc::new(Semaphore::new(writers)),
            idle: RefCell::default(),
            is_checked: Cell::new(false),
            checking: Mutex::default(),
            failure: RefCell::default(),
            drivers: RefCell::default(),
            announced: Rc::default(),
            state,
        }
    }

    /// Connects if the last attempt failed, or there was none.
    pub(super) async fn probe(self: &Rc<Self>) -> Result<(), Problem> {
        if self.failure.borrow().is_none() && self.is_checked.get() {
            return Ok(());
        }
        // A new one, as others that are still open prove nothing; it is kept for a transaction.
        let pool = Rc::clone(self);
        let conn = detached(async move { pool.connect().await }).await?;
        let mut idle = self.idle.borrow_mut();
        idle.retain(|conn| !conn.is_closed());
        if idle.is_empty() {
            idle.push(conn);
        }
        Ok(())
    }

    /// Whether the last attempt to connect failed.
    pub(super) fn is_down(&self) -> bool {
        self.failure.borrow().is_some()
    }

    /// A connection to read by. While the server cannot be reached, nobody waits for it.
    pub(super) async fn reader(self: &Rc<Self>) -> Result<Rc<Conn>, Problem> {
        let at = self.least_busy();
        if let Some(conn) = self.readers.get(at).and_then(Reader::open) {
            return Ok(conn);
        }
        if let Some(problem) = &*self.failure.borrow() {
            return Err(problem.clone());
        }
        self.fill(at).await
    }

    /// An idle connection, or else one that is to be made, or else the one with the fewest readers.
    fn least_busy(&self) -> usize {
        let readers = |reader: &Reader| match reader.open() {
            // Two are this look and the place it is kept in.
            Some(conn) => match Rc::strong_count(&conn) - 2 {
                0 => 0,
                count => count + 1,
            },
            None => 1,
        };
        let places = self.readers.iter().enumerate();
        places
            .min_by_key(|(_, reader)| readers(reader))
            .map_or(0, |(at, _)| at)
    }

    /// Goes on when whoever asked no longer waits, so that a slow server is reached at last.
    async fn fill(self: &Rc<Self>, at: usize) -> Result<Rc<Conn>, Problem> {
        let pool = Rc::clone(self);
        detached(async move {
            let reader = pool.readers.get(at).ok_or_else(Problem::late)?;
            let _connecting = reader.connecting.lock().await;
            if let Some(conn) = reader.open() {
                return Ok(conn);
            }
            let conn = Rc::new(pool.connect().await?);
            *reader.conn.borrow_mut() = Some(Rc::clone(&conn));
            Ok(conn)
        })
        .await
    }

    /// Gives up a connection to read by.
    pub(super) fn discard(&self, conn: &Rc<Conn>) {
        for reader in &self.readers {
            let mut place = reader.conn.borrow_mut();
            if place.as_ref().is_some_and(|held| Rc::ptr_eq(held, conn)) {
                *place = None;
            }
        }
    }

    /// Notes that no answer came in time. Once no connection is left that is answered, nobody waits
    /// until a probe is.
    pub(super) fn note_late(&self, conn: &Rc<Conn>) {
        conn.late.set(conn.late.get() + 1);
        if conn.late.get() < TOLERATED {
            return;
        }
        self.discard(conn);
        if self.readers.iter().all(|reader| reader.open().is_none()) {
            self.note(Some(Problem::late()));
        }
    }

    /// Notes why the server cannot be asked.
    fn note(&self, problem: Option<Problem>) {
        *self.state.down.lock() = problem.clone();
        *self.failure.borrow_mut() = problem;
    }

    /// A connection on which a transaction has begun.
    pub(super) async fn begin(self: &Rc<Self>) -> Result<Writer, Problem> {
        let permit = Arc::clone(&self.writers).acquire_owned().await;
        let permit = permit.map_err(|_| Problem::late())?;
        // Nothing has been done on a connection that was lost in the meantime.
        while let Some(conn) = self.pop_idle() {
            if !conn.is_closed() && conn.batch("BEGIN").await.is_ok() {
                return Ok(Writer {
                    conn,
                    _permit: permit,
                });
            }
        }
        if let Some(problem) = &*self.failure.borrow() {
            return Err(problem.clone());
        }
        let pool = Rc::clone(self);
        let conn = detached(async move { pool.connect().await }).await?;
        conn.batch("BEGIN").await?;
        Ok(Writer {
            conn,
            _permit: permit,
        })
    }

    fn pop_idle(&self) -> Option<Conn> {
        self.idle.borrow_mut().pop()
    }

    /// Keeps a connection whose transaction has ended.
    pub(super) fn keep(&self, writer: Writer) {
        self.idle.borrow_mut().push(writer.conn);
    }

    async fn connect(self: &Rc<Self>) -> Result<Conn, Problem> {
        let connected = self.try_connect().await;
        self.note(connected.as_ref().err().cloned());
        connected
    }

    async fn try_connect(self: &Rc<Self>) -> Result<Conn, Problem> {
        let conn = Conn::new(self.client().await?.0);
        conn.batch(SESSION).await?;
        // The first one looks at the tables, and makes them.
        let _checking = self.checking.lock().await;
        if !self.is_checked.get() {
            match migrate::check(&conn, &self.terms).await {
                Ok(()) => self.is_checked.set(true),
                Err(StoreError::Unavailable(error)) => {
                    return Err(match error.downcast::<Problem>() {
                        Ok(problem) => *problem,
                        Err(error) => Problem::refusal(error.to_string()),
                    });
                }
                Err(error) => return Err(Problem::refusal(error.to_string())),
            }
        }
        Ok(conn)
    }

    /// A new session, and what resolves when it has ended.
    pub(super) async fn client(&self) -> Result<(Client, oneshot::Receiver<()>), Problem> {
        let Address { config, tls } = &self.address;
        match config.connect(tls.clone()).await {
            Ok((client, connection)) => Ok((client, self.drive(connection))),
            // `prefer` is for who would rather have no TLS than no connection, such as to a server
            // with a certificate that it made for itself.
            Err(error) if config.get_ssl_mode() == SslMode::Prefer => {
                let problem = Problem::from(error);
                if !problem.is_of_tls() {
                    return Err(problem);
                }
                let mut plain: Config = config.clone();
                plain.ssl_mode(SslMode::Disable);
                let (client, connection) = plain.connect(NoTls).await?;
                Ok((client, self.drive(connection)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Moves the bytes of a connection until it ends.
    fn drive<S, T>(&self, mut connection: Connection<S, T>) -> oneshot::Receiver<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
        T: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (ending, ended) = oneshot::channel();
        let announced = Rc::clone(&self.announced);
        let mut drivers = self.drivers.borrow_mut();
        while drivers.try_join_next().is_some() {}
        drivers.spawn_local(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await
            {
                if let AsyncMessage::Notification(_) = message {
                    announced.notify_one();
                }
            }
            drop(ending);
        });
        ended
    }

    /// Ends all sessions in good order.
    pub(super) async fn close(&self) {
        for reader in &self.readers {
            *reader.conn.borrow_mut() = None;
        }
        self.idle.borrow_mut().clear();
        let mut drivers = std::mem::take(&mut *self.drivers.borrow_mut());
        while drivers.join_next().await.is_some() {}
    }
}

/// Goes on to its end, also if nobody waits for it any longer.
async fn detached<T: 'static>(
    work: impl Future<Output = Result<T, Problem>> + 'static,
) -> Result<T, Problem> {
    let done = tokio::task::spawn_local(work).await;
    done.unwrap_or_else(|_| Err(Problem::late()))
}
