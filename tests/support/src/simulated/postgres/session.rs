//! One session: its messages, its transaction and its settings.

use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, DuplexStream, ReadHalf};
use tokio::sync::OwnedMutexGuard;
use tokio::time::{sleep, timeout};
use tokio_postgres::types::Type;

use super::statements::{self, Call, Outcome, Statement};
use super::{Commit, Outbox, Postgres, Tables};

/// How long a transaction may wait for its client.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(30);

pub(super) struct Session {
    server: Rc<Postgres>,
    pid: i32,
    requests: ReadHalf<DuplexStream>,
    outbox: Outbox,
    statements: HashMap<String, Rc<Statement>>,
    portal: Option<(Rc<Statement>, Vec<Option<Bytes>>)>,
    transaction: Option<Transaction>,
    statement_timeout: Duration,
    /// Whether messages are skipped until the next `Sync`.
    is_skipping: bool,
    is_copying: bool,
    /// Whether it ends without another reply.
    is_ending: bool,
}

#[derive(Default)]
struct Transaction {
    /// The changed tables, once it has written.
    writing: Option<Writing>,
    has_failed: bool,
}

struct Writing {
    tables: Tables,
    _turn: OwnedMutexGuard<()>,
}

/// A SQL state and its text.
type SqlError = (&'static str, &'static str);

const CANCELED: SqlError = ("57014", "canceling statement due to statement timeout");
const FAILED: SqlError = ("25P02", "current transaction is aborted");
const IDLE: SqlError = (
    "25P03",
    "terminating connection due to idle-in-transaction timeout",
);

impl Session {
    pub(super) fn new(server: Rc<Postgres>, pid: i32, stream: DuplexStream) -> Self {
        let (requests, replies) = tokio::io::split(stream);
        Self {
            server,
            pid,
            requests,
            outbox: Outbox::new(replies),
            statements: HashMap::new(),
            portal: None,
            transaction: None,
            statement_timeout: Duration::MAX,
            is_skipping: false,
            is_copying: false,
            is_ending: false,
        }
    }

    /// Serves until the client is gone.
    pub(super) async fn run(mut self) {
        let _ = self.serve().await;
    }

    async fn serve(&mut self) -> io::Result<()> {
        let len = self.requests.read_u32().await?;
        let mut startup = vec![0; len as usize - 4];
        self.requests.read_exact(&mut startup).await?;
        self.send(b'R', |reply| reply.put_i32(0));
        let pid = self.pid;
        self.send(b'K', |reply| {
            reply.put_i32(pid);
            reply.put_i32(0);
        });
        self.send_ready();
        while !self.is_ending {
            let longest = match self.transaction {
                Some(_) => IDLE_IN_TRANSACTION,
                None => Duration::from_secs(1_000_000),
            };
            let Ok(message) = timeout(longest, self.message()).await else {
                self.send_error(IDLE);
                return Ok(());
            };
            let (tag, body) = message?;
            if tag == b'X' {
                return Ok(());
            }
            self.handle(tag, body).await;
        }
        Ok(())
    }

    async fn message(&mut self) -> io::Result<(u8, Bytes)> {
        let tag = self.requests.read_u8().await?;
        let len = self.requests.read_u32().await?;
        let mut body = vec![0; len as usize - 4];
        self.requests.read_exact(&mut body).await?;
        Ok((tag, body.into()))
    }

    async fn handle(&mut self, tag: u8, mut body: Bytes) {
        match tag {
            b'S' if !self.is_copying => {
                self.is_skipping = false;
                self.send_ready();
            }
            b'S' | b'H' => {}
            b'Q' => {
                let sql = text(&mut body);
                self.simple(&sql).await;
                if self.is_ending {
                    return;
                }
                self.send_complete(0);
                self.is_skipping = false;
                self.send_ready();
            }
            _ if self.is_skipping => {}
            b'P' => {
                let (name, sql) = (text(&mut body), text(&mut body));
                self.statements
                    .insert(name, Rc::new(statements::named(&sql)));
                self.send(b'1', |_| ());
            }
            b'D' => self.describe(body),
            b'B' => self.bind(body),
            b'C' => {
                self.statements.remove(&text(&mut body.slice(1..)));
                self.send(b'3', |_| ());
            }
            b'E' => {
                if let Err(error) = self.execute().await {
                    self.fail(error);
                    self.is_skipping = true;
                }
            }
            b'd' => {}
            b'c' => {
                self.is_copying = false;
                self.send_complete(0);
            }
            _ => panic!("unexpected message {}", char::from(tag)),
        }
    }

    /// Runs statements without parameters.
    async fn simple(&mut self, sql: &str) {
        if let Some((_, rest)) = sql.split_once("SET statement_timeout = ") {
            self.statement_timeout = Duration::from_millis(rest.parse().unwrap());
        } else if sql.starts_with("BEGIN") {
            self.transaction = Some(Transaction::default());
        } else if sql == "COMMIT" || sql == "ROLLBACK" {
            let transaction = self.transaction.take().unwrap();
            if let Some(writing) = transaction.writing
                && sql == "COMMIT"
                && !transaction.has_failed
            {
                let commit = self.server.next_commit();
                self.is_ending = commit != Commit::Acknowledged;
                if commit != Commit::Lost {
                    self.commit(writing).await;
                }
            }
        } else if sql.starts_with("LISTEN") {
            let mut listening = self.server.listening.borrow_mut();
            listening.insert(self.pid, self.outbox.clone());
        } else if sql == "SELECT pg_backend_pid()" {
            let pid = self.pid.to_string();
            self.send_columns(&[Type::TEXT]);
            self.send(b'D', |row| {
                row.put_i16(1);
                row.put_i32(pid.len() as i32);
                row.put_slice(pid.as_bytes());
            });
        } else {
            // The tables of days, which are not simulated.
            let is_known = sql
                .starts_with("SELECT pg_advisory_xact_lock(hashtext('keyguard days'))")
                || sql.starts_with("SET LOCAL lock_timeout");
            assert!(is_known, "unknown: {sql}");
        }
    }

    fn describe(&mut self, body: Bytes) {
        let statement = Rc::clone(&self.statements[&text(&mut body.slice(1..))]);
        self.send(b't', |reply| {
            reply.put_i16(statement.params.len() as i16);
            for param in &statement.params {
                reply.put_u32(param.oid());
            }
        });
        match statement.columns.as_slice() {
            [] => self.send(b'n', |_| ()),
            columns => self.send_columns(columns),
        }
    }

    fn bind(&mut self, mut body: Bytes) {
        let (_portal, name) = (text(&mut body), text(&mut body));
        for _ in 0..body.get_i16() {
            assert_eq!(body.get_i16(), 1, "binary");
        }
        let params = (0..body.get_i16()).map(|_| match body.get_i32() {
            -1 => None,
            len => Some(body.split_to(len as usize)),
        });
        let params = params.collect();
        self.portal = Some((Rc::clone(&self.statements[&name]), params));
        self.send(b'2', |_| ());
    }

    async fn execute(&mut self) -> Result<(), SqlError> {
        let (statement, params) = self.portal.take().unwrap();
        if statement.is_copy && !self.has_failed() {
            self.is_copying = true;
            self.send(b'G', |reply| {
                reply.put_u8(1);
                reply.put_i16(0);
            });
            return Ok(());
        }
        let outcome = self.outcome(&statement, params).await?;
        for row in &outcome.rows {
            self.send(b'D', |reply| {
                reply.put_i16(row.len() as i16);
                for (cell, column) in row.iter().zip(&statement.columns) {
                    statements::encode(&**cell, column, reply);
                }
            });
        }
        self.send_complete(outcome.affected);
        Ok(())
    }

    async fn outcome(
        &mut self,
        statement: &Statement,
        params: Vec<Option<Bytes>>,
    ) -> Result<Outcome, SqlError> {
        let call = Call {
            pid: self.pid,
            now: self.server.network.unix_time(),
            types: &statement.params,
            params,
        };
        if self.has_failed() {
            return Err(FAILED);
        }
        if !statement.writes {
            let writing = self.transaction.as_mut().and_then(|it| it.writing.as_mut());
            return Ok(match writing {
                Some(writing) => (statement.run)(&mut writing.tables, &call),
                None => (statement.run)(&mut self.server.committed.borrow_mut(), &call),
            });
        }
        let mut transaction = self.transaction.take();
        let writing = transaction.as_mut().and_then(|it| it.writing.take());
        let mut writing = match writing {
            Some(writing) => writing,
            None => {
                let turn = Arc::clone(&self.server.writing).lock_owned();
                let turn = timeout(self.statement_timeout, turn).await;
                let Ok(_turn) = turn else {
                    self.transaction = transaction;
                    return Err(CANCELED);
                };
                let tables = self.server.committed.borrow().clone();
                Writing { tables, _turn }
            }
        };
        let outcome = (statement.run)(&mut writing.tables, &call);
        match &mut transaction {
            Some(open) => open.writing = Some(writing),
            None => self.commit(writing).await,
        }
        self.transaction = transaction;
        Ok(outcome)
    }

    fn has_failed(&self) -> bool {
        let transaction = self.transaction.as_ref();
        transaction.is_some_and(|transaction| transaction.has_failed)
    }

    /// Makes changes durable, and notifies.
    async fn commit(&mut self, writing: Writing) {
        // A commit may be cut off before or after it.
        sleep(Duration::from_millis(1)).await;
        let Writing { mut tables, _turn } = writing;
        let notifier = tables.notifier.take();
        self.server.committed.replace(tables);
        let Some(notifier) = notifier else { return };
        let notification = message(b'A', |reply| {
            reply.put_i32(notifier);
            reply.put_slice(b"keyguard\0\0");
        });
        for outbox in self.server.listening.borrow().values() {
            outbox.send(notification.clone());
        }
    }

    fn fail(&mut self, error: SqlError) {
        if let Some(transaction) = &mut self.transaction {
            transaction.has_failed = true;
            transaction.writing = None;
        }
        self.send_error(error);
    }

    // Replies

    fn send(&self, tag: u8, body: impl FnOnce(&mut BytesMut)) {
        self.outbox.send(message(tag, body));
    }

    fn send_ready(&self) {
        let status = match &self.transaction {
            None => b'I',
            Some(transaction) if transaction.has_failed => b'E',
            Some(_) => b'T',
        };
        self.send(b'Z', |reply| reply.put_u8(status));
    }

    fn send_complete(&self, affected: u64) {
        self.send(b'C', |reply| {
            reply.put_slice(format!("DONE {affected}\0").as_bytes());
        });
    }

    fn send_columns(&self, columns: &[Type]) {
        self.send(b'T', |reply| {
            reply.put_i16(columns.len() as i16);
            for column in columns {
                reply.put_slice(b"column\0");
                reply.put_u32(0);
                reply.put_i16(0);
                reply.put_u32(column.oid());
                reply.put_i16(-1);
                reply.put_i32(-1);
                reply.put_i16(1);
            }
        });
    }

    fn send_error(&self, (code, text): SqlError) {
        self.send(b'E', |reply| {
            for (field, value) in [('S', "ERROR"), ('V', "ERROR"), ('C', code), ('M', text)] {
                reply.put_u8(field as u8);
                reply.put_slice(value.as_bytes());
                reply.put_u8(0);
            }
            reply.put_u8(0);
        });
    }
}

fn message(tag: u8, body: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
    let mut message = BytesMut::new();
    message.put_u8(tag);
    message.put_i32(0);
    body(&mut message);
    let len = message.len() as i32 - 1;
    message[1..5].copy_from_slice(&len.to_be_bytes());
    message.to_vec()
}

/// Takes a text that ends with NUL.
fn text(body: &mut Bytes) -> String {
    let end = body.iter().position(|byte| *byte == 0).unwrap();
    let text = body.split_to(end);
    body.advance(1);
    String::from_utf8(text.to_vec()).unwrap()
}
