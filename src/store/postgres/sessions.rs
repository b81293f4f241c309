//! Opening sessions.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, Notify};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Connection, SimpleQueryMessage};

use super::address::DatabaseUrl;
use super::conn::Conn;
use super::migrate::{self, SchemaParams};
use super::server_error::{ServerError, cause};
use super::state::State;

/// Settings of every session. Acknowledged changes are durable, whatever the server's default.
const SETTINGS: &str = "SET TimeZone = 'UTC'; SET idle_in_transaction_session_timeout = '30s'; \
    SELECT set_config('synchronous_commit', 'on', false) \
    WHERE current_setting('synchronous_commit') = 'off'";

/// Timeout for opening a session.
const OPENING: Duration = Duration::from_secs(5);

/// Number of checks for shared sessions. Other clients of a pooler may hide one.
const POOLER_CHECKS: usize = 3;

pub(super) struct Sessions {
    address: DatabaseUrl,
    params: SchemaParams,
    /// Whether the server and its tables are checked.
    is_checked: Cell<bool>,
    checking: Mutex<()>,
    /// The I/O tasks of the connections.
    drivers: RefCell<JoinSet<()>>,
    /// Notified of every notification and every closed connection.
    pub(super) feed_wakeup: Rc<Notify>,
    state: Arc<State>,
}

impl Sessions {
    pub(super) fn new(address: DatabaseUrl, params: SchemaParams, state: Arc<State>) -> Self {
        Self {
            address,
            params,
            is_checked: Cell::new(false),
            checking: Mutex::default(),
            drivers: RefCell::default(),
            feed_wakeup: Rc::default(),
            state,
        }
    }

    /// Opens a session with statement timeout `longest`.
    pub(super) async fn open(&self, longest: Duration) -> Result<Conn, ServerError> {
        let opened = timeout(OPENING, self.open_checked(longest)).await;
        let opened = opened.unwrap_or_else(|_| Err(ServerError::timeout()));
        let error = opened.as_ref().err();
        // An administrator who ends a session that is being opened does not make the server unreachable.
        let error = error.filter(|error| !error.is(&SqlState::ADMIN_SHUTDOWN));
        *self.state.connect_error.lock() = error.cloned();
        opened
    }

    /// Opens a session. The first one checks the server and its tables.
    async fn open_checked(&self, longest: Duration) -> Result<Conn, ServerError> {
        let conn = self.connect().await?;
        let _checking = self.checking.lock().await;
        let is_first = !self.is_checked.get();
        if is_first {
            self.refuse_pooler(&conn).await?;
        }
        let longest = longest.as_millis().max(1);
        conn.batch(&format!("{SETTINGS}; SET statement_timeout = {longest}"))
            .await?;
        if is_first {
            self.check_schema(&conn).await?;
            self.is_checked.set(true);
        }
        Ok(conn)
    }

    async fn check_schema(&self, conn: &Conn) -> Result<(), ServerError> {
        let checked = migrate::check(conn, &self.params).await;
        checked.map_err(|error| match cause(&error) {
            Some(error) => error.clone(),
            None => ServerError::refusal(error.to_string()),
        })
    }

    /// Rejects poolers that share sessions: two connections reach the same server process, or one
    /// connection reaches different processes.
    async fn refuse_pooler(&self, conn: &Conn) -> Result<(), ServerError> {
        let other = self.connect().await?;
        let (first, others) = (backend(conn).await?, backend(&other).await?);
        let mut is_kept = first != others;
        for _ in 0..POOLER_CHECKS {
            // Twice, to detect round-robin use of sessions.
            for _ in 0..2 {
                is_kept &= backend(&other).await? == others;
            }
            is_kept &= backend(conn).await? == first;
            // A transaction keeps its session, so a pooler cannot assign it to `conn`.
            other.batch("BEGIN").await?;
            is_kept &= backend(&other).await? == others && backend(conn).await? == first;
            other.batch("ROLLBACK").await?;
        }
        is_kept.then_some(()).ok_or_else(ServerError::pooled)
    }

    async fn connect(&self) -> Result<Conn, ServerError> {
        let DatabaseUrl { config, tls } = &self.address;
        #[cfg(all(test, feature = "redis", not(loom)))]
        if let [tokio_postgres::config::Host::Tcp(host)] = config.get_hosts()
            && let Some(connecting) = crate::sys::simulation::connect(host)
        {
            let stream = connecting.await.map_err(ServerError::lost)?;
            let (client, connection) = config.connect_raw(stream, tokio_postgres::NoTls).await?;
            return Ok(Conn::new(client, self.drive(connection)));
        }
        let (client, connection) = config.connect(tls.clone()).await?;
        Ok(Conn::new(client, self.drive(connection)))
    }

    /// Runs the I/O of a connection until it ends.
    fn drive<S, T>(&self, mut connection: Connection<S, T>) -> AbortHandle
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
        T: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let feed_wakeup = Rc::clone(&self.feed_wakeup);
        let mut drivers = self.drivers.borrow_mut();
        while drivers.try_join_next().is_some() {}
        drivers.spawn_local(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await
            {
                if let AsyncMessage::Notification(_) = message {
                    feed_wakeup.notify_one();
                }
            }
            feed_wakeup.notify_one();
        })
    }

    /// Waits until all dropped connections have ended.
    pub(super) async fn close(&self) {
        let mut drivers = std::mem::take(&mut *self.drivers.borrow_mut());
        while drivers.join_next().await.is_some() {}
    }
}

/// The server process behind a connection. Queried without a prepared statement, which a pooler may
/// lose.
async fn backend(conn: &Conn) -> Result<String, ServerError> {
    let messages = conn.simple("SELECT pg_backend_pid()").await?;
    let mut rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    let pid = rows.next().map(str::to_owned);
    pid.ok_or_else(|| ServerError::new("it did not return `pg_backend_pid()`"))
}
