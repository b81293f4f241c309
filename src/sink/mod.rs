//! Where single requests can go besides the data file.

#[cfg(feature = "redis")]
mod redis_stream;

use std::any::Any;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Stdout, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;

use crate::input::text::escaped_json;
use crate::model::{KeyId, Reason, Usage};
use crate::net::ClientIp;
use crate::time::Timestamp;

#[cfg(feature = "redis")]
pub use self::redis_stream::RedisStream;

/// Takes single requests besides the data file, or [instead](crate::Config::usage_sink_only) of it, for
/// instance to hand them to a queue. It is also told of refusals that named no known key, which are
/// only counted elsewhere.
///
/// It is called by one thread at a time, every 200 ms at most and never by a request. What it fails
/// to take is offered again with what has come since: up to
/// [`Config::usage_queue`](crate::Config::usage_queue) requests wait, more are dropped and counted in
/// [`Stats::dropped`](crate::Stats::dropped). Each request is offered until it is taken, so that one
/// that was taken in part may come twice.
///
/// A failure, or a panic, is counted in [`Stats::sink_failures`](crate::Stats::sink_failures) and
/// delays nothing but the requests that wait for the sink;
/// [`Stats::warnings`](crate::Stats::warnings) names it until the sink takes requests again.
pub trait UsageSink: Send {
    /// Takes requests. Those of a thread come in the order in which they were recorded.
    ///
    /// # Errors
    /// None of them, or not all, have been taken.
    fn write(&mut self, batch: &[Usage]) -> io::Result<()>;
}

/// A sink that clones of a configuration share.
#[derive(Clone)]
pub(crate) struct SharedSink(Arc<Mutex<dyn UsageSink>>);

impl SharedSink {
    pub(crate) fn new(sink: impl UsageSink + 'static) -> Self {
        Self(Arc::new(Mutex::new(sink)))
    }

    /// Offers requests to the sink. A panic in it is an error like any other.
    pub(crate) fn write(&self, batch: &[Usage]) -> io::Result<()> {
        // What a sink has left half-done is its own, and it is offered the same requests again.
        let write = AssertUnwindSafe(|| self.0.lock().write(batch));
        catch_unwind(write).unwrap_or_else(|panic| Err(io::Error::other(panicked(&*panic))))
    }
}

fn panicked(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the sink panicked: {}", text.unwrap_or("no message"))
}

impl fmt::Debug for SharedSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UsageSink")
    }
}

/// Writes each request as a line of JSON (newline-delimited JSON):
///
/// ```json
/// {"at":"2026-01-15T12:00:00Z","key_id":1,"method":"GET","path":"/orders","ip":"192.0.2.7","status":200,"latency_us":1250,"refused":null}
/// ```
///
/// ```no_run
/// use keyguard::{Config, JsonLines};
/// let config = Config::default().usage_sink(JsonLines::append("usage.ndjson")?);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct JsonLines<W> {
    out: W,
    text: Vec<u8>,
    /// A line may have been cut short.
    is_broken: bool,
}

impl<W: Write> JsonLines<W> {
    /// Lines on anything that can be written to.
    pub fn new(out: W) -> Self {
        Self {
            out,
            text: Vec::new(),
            is_broken: false,
        }
    }
}

impl JsonLines<File> {
    /// Lines at the end of a file, which is created with mode 0600 if it is absent.
    ///
    /// # Errors
    /// The file cannot be opened for reading and writing, or holds something other than lines of JSON
    /// ([`io::ErrorKind::InvalidData`]).
    pub fn append(file: impl AsRef<Path>) -> io::Result<Self> {
        let file = file.as_ref();
        let mut options = OpenOptions::new();
        options.append(true).create(true);
        // A device or a pipe may be for writing only.
        options.read(!file.exists() || file.is_file());
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(file)?;
        if file.metadata()?.is_file() && !starts_like_lines(&mut file)? {
            let problem = "it holds something other than lines of JSON; give another path";
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        Ok(Self::new(file))
    }
}

/// Whether a file is empty or begins as one that was written here: with a line, or with the end of one
/// that was cut short.
fn starts_like_lines(file: &mut File) -> io::Result<bool> {
    let mut start = Vec::new();
    file.take(1).read_to_end(&mut start)?;
    Ok(matches!(*start, [] | [b'{' | b'\n']))
}

impl JsonLines<Stdout> {
    /// Lines on standard output.
    pub fn stdout() -> Self {
        Self::new(io::stdout())
    }
}

/// A request as a line has it.
#[derive(Serialize)]
struct Line<'u> {
    at: Timestamp,
    key_id: Option<KeyId>,
    method: &'static str,
    path: &'u str,
    ip: ClientIp,
    status: u16,
    latency_us: u64,
    refused: Option<Reason>,
}

impl<'u> From<&'u Usage> for Line<'u> {
    fn from(usage: &'u Usage) -> Self {
        Self {
            at: usage.at,
            key_id: usage.key_id,
            method: usage.method.as_str(),
            path: &usage.path,
            ip: usage.ip,
            status: usage.status,
            latency_us: usage.latency.as_micros() as u64,
            refused: usage.refused,
        }
    }
}

impl<W: Write + Send> UsageSink for JsonLines<W> {
    fn write(&mut self, batch: &[Usage]) -> io::Result<()> {
        self.text.clear();
        if self.is_broken {
            // What was cut short stays one line that is none.
            self.text.push(b'\n');
        }
        for usage in batch {
            let line = serde_json::to_string(&Line::from(usage))?;
            self.text.extend_from_slice(escaped_json(&line).as_bytes());
            self.text.push(b'\n');
        }
        self.is_broken = true;
        self.out.write_all(&self.text)?;
        self.out.flush()?;
        self.is_broken = false;
        Ok(())
    }
}
