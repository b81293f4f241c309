//! A server of PostgreSQL in memory.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::queries::{QUERIES, Query};

/// The part of an answer that the input replaces.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// The number of rows and their fields. A field begins with a byte for its length: 255 is null, and 254 is the
    /// value of its column in [`QUERIES`]. Fields after the end of the input have that value too.
    Fields,
    /// The messages of rows, and all after them.
    Rows,
    /// The description of the query, and all after it.
    All,
}

/// A connection to a server in memory, and the server.
pub(super) struct Server {
    mode: Mode,
    /// The rest of the input.
    bytes: VecDeque<u8>,
    /// Bytes of the client that are not a whole message yet.
    received: Vec<u8>,
    is_started: bool,
    /// The number of the query that is being answered.
    query: usize,
    /// Bytes that the client has not read yet.
    sent: VecDeque<u8>,
    is_at_end: bool,
    /// Whether a row lacks a value that is never null.
    pub(super) lacks_value: Rc<Cell<bool>>,
    reader: Option<Waker>,
}

impl Server {
    pub(super) fn new(mode: Mode, bytes: &[u8]) -> Self {
        Self {
            mode,
            bytes: bytes.to_vec().into(),
            received: Vec::new(),
            is_started: false,
            query: 0,
            sent: VecDeque::new(),
            is_at_end: false,
            lacks_value: Rc::default(),
            reader: None,
        }
    }

    /// Answers the whole messages among the received bytes.
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

    /// Sends the rest of the input, and closes the connection.
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
