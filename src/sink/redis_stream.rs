//! Single requests as entries of a stream in Redis.

use std::fmt;
use std::io;
use std::time::Duration;

use redis::streams::StreamMaxlen;
use redis::{Client, Connection, RedisError};

use super::UsageSink;
use crate::model::Usage;
use crate::sys::tls;

/// Entries that one transaction adds.
const MANY: usize = 1_000;

/// How long the server may take for them.
const PATIENCE: Duration = Duration::from_secs(5);

/// Adds each request to a [stream](https://redis.io/docs/latest/develop/data-types/streams/) in Redis,
/// from where any number of consumers can take it. Its fields are those of a line of
/// [`JsonLines`](crate::JsonLines); `refused` is left out of requests that were admitted, `key_id` of
/// refusals without a known key.
///
/// While the server cannot be reached, requests wait as [`UsageSink`] says. Entries are added a
/// thousand at a time, all or none of them; if the connection is lost before the server has said so,
/// these thousand may come twice.
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
    /// How many of those that are offered again are in the stream already.
    taken: usize,
}

impl RedisStream {
    /// A stream of this name, on a server that need not be there yet. It keeps at least the latest
    /// million entries, and not many more.
    ///
    /// # Errors
    /// The URL cannot be understood.
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

    /// How many of the latest entries it keeps at least. Older ones are given up whether or not they
    /// were read.
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
                let connection = self.client.get_connection_with_timeout(PATIENCE)?;
                connection.set_read_timeout(Some(PATIENCE))?;
                connection.set_write_timeout(Some(PATIENCE))?;
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

/// Without the URL, which may hold a password.
impl fmt::Debug for RedisStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStream")
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}
