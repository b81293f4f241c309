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
/// let stream = RedisStream::new("redis://localhost", "usage")?.keep_latest(10_000_000);
/// let config = Config::default().usage_sink(stream);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct RedisStream {
    client: Client,
    stream: String,
    kept_entries: usize,
    connection: Option<Connection>,
    /// The records of the last batch that were added before it failed.
    added: Vec<Usage>,
}

impl RedisStream {
    /// Creates a sink for a stream of the server at `url`. Does not connect.
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
            kept_entries: 1_000_000,
            connection: None,
            added: Vec::new(),
        })
    }

    /// The approximate number of latest entries to keep (`MAXLEN ~`): at least this many remain. Older ones
    /// are removed, even if unread. Default: 1,000,000.
    #[must_use]
    pub fn keep_latest(self, entries: usize) -> Self {
        Self {
            kept_entries: entries,
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
            let max_len = StreamMaxlen::Approx(self.kept_entries);
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
        let added = std::mem::take(&mut self.added);
        // Another guard with the same sink may offer other records.
        let mut count = match batch.starts_with(&added) {
            true => added.len(),
            false => 0,
        };
        for requests in batch[count..].chunks(MANY) {
            if let Err(error) = self.add(requests) {
                self.connection = None;
                self.added = batch[..count].to_vec();
                return Err(io::Error::other(error));
            }
            count += requests.len();
        }
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

#[cfg(all(test, unix))]
mod tests {
    use keyguard_test_support::redis::Redis;

    use super::*;
    use crate::model::{KeyId, Method};
    use crate::net::ClientIp;
    use crate::time::Timestamp;

    fn usage(key: u64, path: String) -> Usage {
        Usage {
            at: Timestamp::default(),
            key_id: Some(KeyId(key)),
            method: Method::Get,
            path,
            ip: ClientIp::LOCAL,
            status: 200,
            latency: Duration::ZERO,
            refused: None,
        }
    }

    /// Once, the records of the second guard were taken for those that the first one had added.
    #[test]
    fn guards_that_share_a_sink_lose_nothing_after_a_failure() {
        let redis = Redis::start();
        let mut stream = RedisStream::new(&redis.url(), "usage").unwrap();
        let mut first: Vec<Usage> = (0..1_500).map(|i| usage(i, "/".to_owned())).collect();
        let second: Vec<Usage> = (2_000..2_300).map(|i| usage(i, "/".to_owned())).collect();
        let added = || redis.run::<usize>("XLEN usage");
        // Redis closes the connection at the long path.
        redis.run::<()>("CONFIG SET proto-max-bulk-len 1048576");
        first[1_200].path = "x".repeat(2 << 20);
        stream.write(&first).unwrap_err();
        assert_eq!(added(), 1_000);
        stream.write(&second).unwrap();
        assert_eq!(added(), 1_300);
        first[1_200].path.clear();
        stream.write(&first).unwrap();
        assert_eq!(added(), 2_800, "all are added again");
    }

    #[test]
    fn repeated_records_are_not_added_again() {
        let redis = Redis::start();
        let mut stream = RedisStream::new(&redis.url(), "usage").unwrap();
        let mut batch: Vec<Usage> = (0..1_500).map(|i| usage(i, "/".to_owned())).collect();
        redis.run::<()>("CONFIG SET proto-max-bulk-len 1048576");
        batch[1_200].path = "x".repeat(2 << 20);
        stream.write(&batch).unwrap_err();
        batch[1_200].path.clear();
        batch.push(usage(1_500, "/".to_owned()));
        stream.write(&batch).unwrap();
        assert_eq!(redis.run::<usize>("XLEN usage"), 1_501);
    }
}
