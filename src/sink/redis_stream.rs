//! Request records as entries of a Redis stream.

use std::fmt;
use std::io;
use std::time::Duration;

use redis::streams::StreamMaxlen;
use redis::{Client, Connection, RedisError};

use super::UsageSink;
use crate::model::Usage;
use crate::sys::tls;

/// Entries per transaction.
const MANY: usize = 1_000;

/// Timeout of a transaction.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Adds each record to a Redis [stream](https://redis.io/docs/latest/develop/data-types/streams/)
/// for any number of consumers. Entries have the fields of [`JsonLines`](crate::JsonLines), without
/// `refused` for admitted requests and without `key_id` for refusals without a known key.
///
/// While the server is unreachable, records wait (see [`UsageSink`]). Entries are added in
/// transactions of a thousand; if the connection breaks before the reply, a transaction may be
/// repeated.
///
/// ```no_run
/// use keyguard::{Config, RedisStream};
/// let stream = RedisStream::new("redis://localhost", "usage")?.max_len(10_000_000);
/// let config = Config::default().usage_sink(stream);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct RedisStream {
    client: Client,
    stream: String,
    max_len: usize,
    connection: Option<Connection>,
    /// Number of repeated records that are already in the stream.
    taken: usize,
}

impl RedisStream {
    /// Creates a sink for a stream of the server at `url`. Does not connect. The stream keeps about the latest
    /// million entries.
    ///
    /// # Errors
    /// The URL is invalid.
    pub fn new(url: &str, stream: impl Into<String>) -> io::Result<Self> {
        if url.starts_with("rediss") {
            tls::ensure_provider();
        }
        let invalid = |error: RedisError| io::Error::new(io::ErrorKind::InvalidInput, error);
        Ok(Self {
            client: Client::open(url).map_err(invalid)?,
            stream: stream.into(),
            max_len: 1_000_000,
            connection: None,
            taken: 0,
        })
    }

    /// The minimum number of latest entries to keep. Older ones are removed, even if unread.
    #[must_use]
    pub fn max_len(self, entries: usize) -> Self {
        Self {
            max_len: entries,
            ..self
        }
    }

    fn connection(&mut self) -> Result<&mut Connection, RedisError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let connection = self.client.get_connection_with_timeout(TIMEOUT)?;
                connection.set_read_timeout(Some(TIMEOUT))?;
                connection.set_write_timeout(Some(TIMEOUT))?;
                connection
            }
        };
        Ok(self.connection.insert(connection))
    }

    fn add(&mut self, requests: &[Usage]) -> Result<(), RedisError> {
        let mut pipe = redis::pipe();
        pipe.atomic();
        for usage in requests {
            let max_len = StreamMaxlen::Approx(self.max_len);
            pipe.xadd_maxlen(&self.stream, max_len, "*", &fields(usage))
                .ignore();
        }
        pipe.query(self.connection()?)
    }
}

fn fields(usage: &Usage) -> Vec<(&'static str, String)> {
    let mut fields = vec![("at", usage.at.to_string())];
    fields.extend(usage.key_id.map(|id| ("key_id", id.to_string())));
    fields.extend([
        ("method", usage.method.as_str().to_owned()),
        ("path", usage.path.clone()),
        ("ip", usage.ip.to_string()),
        ("status", usage.status.to_string()),
        ("latency_us", usage.latency.as_micros().to_string()),
    ]);
    let refused = usage.refused;
    fields.extend(refused.map(|reason| ("refused", reason.to_string())));
    fields
}

impl UsageSink for RedisStream {
    fn write(&mut self, batch: &[Usage]) -> io::Result<()> {
        let start = self.taken.min(batch.len());
        for requests in batch[start..].chunks(MANY) {
            if let Err(error) = self.add(requests) {
                self.connection = None;
                return Err(io::Error::other(error));
            }
            self.taken += requests.len();
        }
        self.taken = 0;
        Ok(())
    }
}

/// Omits the URL, which may contain a password.
impl fmt::Debug for RedisStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStream")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}
