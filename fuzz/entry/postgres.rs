//! Answers of PostgreSQL.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Runtime;
use tokio::task::LocalSet;
use tokio_postgres::NoTls;

use super::*;
use crate::counter::SubjectId;

/// A column of an answer: the OID of its type, a value, and whether it is never null.
type Column = (u32, &'static [u8], bool);

const NUMBER: Column = (20, &[0, 0, 0, 0, 0, 0, 0, 1], true);
const NUMBERS: Column = (1016, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 20], true);
const SMALL: Column = (21, &[0, 1], true);
const INTEGER: Column = (23, &[0, 0, 0, 200], true);
const FLOAT: Column = (701, &[0x40, 0, 0, 0, 0, 0, 0, 0], true);
const YES: Column = (16, &[1], true);
const NAME: Column = (25, b"acme", true);
const STATUS: Column = (25, b"active", true);
const ADDRESS: Column = (25, b"192.0.2.7", true);
const TEXTS: Column = (1009, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 25], true);
const BYTES: Column = (17, &[7; 32], true);
const ALL_BYTES: Column = (1001, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 17], true);
const LIST: Column = (3802, b"\x01[]", true);
const DETAILS: Column = (114, b"{}", true);
const TIME: Column = (1184, &[0, 2, 0, 0, 0, 0, 0, 0], true);
const LOCK_ID: Column = (
    17,
    &[128, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 192, 0, 2, 7, 0],
    true,
);
const LOCK: Column = (17, &[1, 1, 0, 1, 2, 1, 3], true);
const BALANCE_ID: Column = (17, &[1, 0, 0, 0], true);

const fn nullable(column: Column) -> Column {
    (column.0, column.1, false)
}

/// A query: what is in its text and in no earlier one, the types of its parameters, and its columns.
struct Query {
    text: &'static str,
    params: &'static [u32],
    columns: &'static [Column],
}

static QUERIES: [Query; 10] = [
    Query {
        text: "FROM keyguard_credentials c",
        params: &[17],
        columns: &[
            NUMBER,
            NUMBER,
            NAME,
            NAME,
            YES,
            NAME,
            NUMBER,
            TEXTS,
            TEXTS,
            LIST,
            TIME,
            nullable(TIME),
            nullable(TIME),
            NUMBER,
            NAME,
            STATUS,
            TEXTS,
            LIST,
            TIME,
            nullable(NUMBERS),
            nullable(ALL_BYTES),
            nullable(NUMBERS),
            nullable(NUMBERS),
            nullable(TIME),
            SMALL,
        ],
    },
    Query {
        text: "FROM keyguard_credentials WHERE key_id",
        params: &[1016],
        columns: &[BYTES, SMALL, INTEGER, NUMBER, TIME, nullable(TIME)],
    },
    Query {
        text: "FROM keyguard_locks ORDER BY id",
        params: &[],
        columns: &[LOCK_ID, LOCK],
    },
    Query {
        text: "FROM keyguard_state s",
        params: &[20],
        columns: &[
            NUMBER,
            NUMBER,
            nullable(NUMBER),
            nullable((25, b"key", true)),
            nullable(NUMBER),
            nullable(LOCK_ID),
            INTEGER,
            TIME,
        ],
    },
    Query {
        text: "FROM usage_logs",
        params: &[1184, 20],
        columns: &[
            TIME,
            NUMBER,
            NAME,
            NAME,
            ADDRESS,
            INTEGER,
            FLOAT,
            nullable(SMALL),
        ],
    },
    Query {
        text: "FROM keyguard_balances",
        params: &[20],
        columns: &[BALANCE_ID, NUMBER, NUMBER],
    },
    Query {
        text: "FROM keyguard_audit",
        params: &[20, 20],
        columns: &[NUMBER, TIME, NAME, ADDRESS, NAME, nullable(NUMBER), DETAILS],
    },
    Query {
        text: "FROM organizations o",
        params: &[20, 20],
        columns: &[NUMBER, NAME, STATUS, TEXTS, LIST, TIME],
    },
    Query {
        text: "FROM keyguard_totals",
        params: &[],
        columns: &[NAME, NUMBER],
    },
    Query {
        text: "FROM keyguard_locks WHERE id",
        params: &[1001],
        columns: &[LOCK_ID, LOCK],
    },
];

/// Runs the query of this number.
async fn run(conn: &Conn, number: usize) -> Result<(), StoreError> {
    let now = Timestamp::from_unix_millis(1_768_478_400_000);
    match number {
        0 => credentials::resolve(conn, HashedKey([0; 32]))
            .await
            .map(drop),
        1 => credentials::of_keys(conn, &[1]).await.map(drop),
        2 => locks::all(conn).await.map(drop),
        3 => feed::read(conn, Some(1), &RefCell::default(), false)
            .await
            .map(drop),
        4 => usage::since(conn, None, now, 10).await.map(drop),
        5 => counters::of(conn, SubjectId::key(KeyId(1))).await.map(drop),
        6 => audit::before(conn, None, 10).await.map(drop),
        7 => manage::orgs(conn, None, 10).await.map(drop),
        _ => totals::lifetime(conn).await.map(drop),
    }
}

/// The number of queries of [`run`]; others are run by them.
const NUMBER_OF_QUERIES: u8 = 9;

/// Runs a query of a session whose server answers with the bytes of an input. The first byte has the number of
/// the query and a [`Mode`]. No answer makes the query panic. One that lacks a value is an error, and the
/// values of the table above are not.
pub fn reply(data: &[u8]) {
    thread_local! {
        static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
    }
    let Some((first, bytes)) = data.split_first() else {
        return;
    };
    let mode = match first >> 6 {
        0 | 1 => Mode::Fields,
        2 => Mode::Rows,
        _ => Mode::All,
    };
    let number = usize::from(first % 64 % NUMBER_OF_QUERIES);
    let server = Server {
        mode,
        bytes: bytes.to_vec().into(),
        ..Server::default()
    };
    let lacks_value = Rc::clone(&server.lacks_value);
    let result = RUNTIME.with(|runtime| {
        LocalSet::new().block_on(runtime, async {
            let mut config = tokio_postgres::Config::new();
            let (client, connection) = config.user("fuzz").connect_raw(server, NoTls).await?;
            let driver = tokio::task::spawn_local(async {
                let _ = connection.await;
            });
            run(&Conn::new(client, driver.abort_handle()), number).await
        })
    });
    if mode == Mode::Fields {
        assert!(result.is_err() || !lacks_value.get());
        assert!(result.is_ok() || !bytes.is_empty(), "{result:?}");
    }
}

/// What the input replaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    /// The number of rows and their fields. A field begins with a byte for its length: 255 is null, 254 is the
    /// value of the table above, as are all fields behind the end of the input.
    #[default]
    Fields,
    /// The messages of rows and the end of the session.
    Rows,
    /// The description of the query too.
    All,
}

/// A server in memory, at the other end of the stream that it is.
#[derive(Default)]
struct Server {
    mode: Mode,
    /// The rest of the input.
    bytes: VecDeque<u8>,
    /// What the client has sent and the server has not read.
    received: Vec<u8>,
    is_started: bool,
    /// The number of the query that is being answered.
    query: usize,
    sent: VecDeque<u8>,
    is_at_end: bool,
    /// Whether a row lacks a value that is never null.
    lacks_value: Rc<Cell<bool>>,
    reader: Option<Waker>,
}

impl Server {
    /// Answers all whole messages that were received.
    fn answer(&mut self) {
        loop {
            let tag_len = usize::from(self.is_started);
            let Some(length) = self
                .received
                .get(tag_len..)
                .and_then(|rest| rest.first_chunk())
            else {
                return;
            };
            let end = tag_len + u32::from_be_bytes(*length) as usize;
            if self.received.len() < end {
                return;
            }
            let message: Vec<u8> = self.received.drain(..end).collect();
            if std::mem::replace(&mut self.is_started, true) {
                self.answer_to(message[0], &message[5..]);
            } else {
                self.send(b'R', &[0, 0, 0, 0]);
                self.send(b'Z', b"I");
            }
        }
    }

    fn answer_to(&mut self, tag: u8, body: &[u8]) {
        match tag {
            b'P' => {
                let text = String::from_utf8_lossy(body);
                let query = QUERIES.iter().position(|query| text.contains(query.text));
                match (query, self.mode) {
                    (Some(query), Mode::Fields | Mode::Rows) => {
                        self.query = query;
                        self.send(b'1', &[]);
                    }
                    // The client asks about types that it does not know.
                    _ => self.send_rest(),
                }
            }
            b'D' => self.describe(),
            b'B' => self.send(b'2', &[]),
            b'E' if self.mode == Mode::Fields => self.send_rows(),
            b'E' => self.send_rest(),
            b'S' => self.send(b'Z', b"I"),
            b'C' => self.send(b'3', &[]),
            _ => self.is_at_end = true,
        }
    }

    fn describe(&mut self) {
        let Query {
            params, columns, ..
        } = &QUERIES[self.query];
        let mut body = (params.len() as u16).to_be_bytes().to_vec();
        params.iter().for_each(|oid| body.extend(oid.to_be_bytes()));
        self.send(b't', &body);
        let mut body = (columns.len() as u16).to_be_bytes().to_vec();
        for (oid, ..) in *columns {
            // A name, no table, the type and its size, and the binary format.
            body.extend(b"c\0\0\0\0\0\0\0");
            body.extend(oid.to_be_bytes());
            body.extend(b"\xff\xff\xff\xff\xff\xff\0\x01");
        }
        self.send(b'T', &body);
    }

    fn send_rows(&mut self) {
        let rows = self.bytes.pop_front().unwrap_or(1) % 4;
        for _ in 0..rows {
            let columns = QUERIES[self.query].columns;
            let mut body = (columns.len() as u16).to_be_bytes().to_vec();
            for (_, value, is_required) in columns {
                let field = match self.bytes.pop_front() {
                    Some(255) => None,
                    None | Some(254) => Some(value.to_vec()),
                    Some(len) => {
                        let len = self.bytes.len().min(len.into());
                        Some(self.bytes.drain(..len).collect())
                    }
                };
                // Of several rows, the last one may be the only one that is read.
                if field.is_none() && *is_required && rows == 1 {
                    self.lacks_value.set(true);
                }
                let len = field.as_ref().map_or(-1, |field| field.len() as i32);
                body.extend(len.to_be_bytes());
                body.extend(field.unwrap_or_default());
            }
            self.send(b'D', &body);
        }
        self.send(b'C', b"SELECT 1\0");
    }

    fn send(&mut self, tag: u8, body: &[u8]) {
        if !self.is_at_end {
            self.sent.push_back(tag);
            self.sent.extend((body.len() as u32 + 4).to_be_bytes());
            self.sent.extend(body);
        }
    }

    /// Sends the rest of the input, and ends the session.
    fn send_rest(&mut self) {
        self.sent.append(&mut self.bytes);
        self.is_at_end = true;
    }
}

impl AsyncRead for Server {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.sent.is_empty() && !self.is_at_end {
            self.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let len = self.sent.len().min(buffer.remaining());
        let bytes: Vec<u8> = self.sent.drain(..len).collect();
        buffer.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Server {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.received.extend(bytes);
        self.answer();
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_at_end = true;
        Poll::Ready(Ok(()))
    }
}
