//! Destinations for individual request records.

#[cfg(feature = "redis")]
mod redis_stream;

use std::any::Any;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Stdout, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::input::text::escaped_json;
use crate::model::Usage;

#[cfg(feature = "redis")]
pub use self::redis_stream::RedisStream;

/// A destination for request records in addition to the data file, or
/// [instead](crate::Config::usage_sink_only) of it; for example a queue. It also receives refusals
/// without a known key, which are otherwise only counted.
///
/// A background thread calls it at most every 200 ms, one call at a time. After a failure the same
/// records are offered again together with new ones. At most
/// [`Config::usage_queue_capacity`](crate::Config::usage_queue_capacity) records wait; further ones are dropped and
/// counted in [`Stats::dropped`](crate::Stats::dropped). Delivery is at least once.
///
/// Failures and panics are counted in [`Stats::sink_failures`](crate::Stats::sink_failures), listed
/// in [`Stats::warnings`](crate::Stats::warnings) until the sink works again, and delay only the
/// waiting records.
///
/// ```
/// use std::io;
/// use std::sync::mpsc::Sender;
/// use keyguard::{Usage, UsageSink};
///
/// struct Channel(Sender<Usage>);
///
/// impl UsageSink for Channel {
///     fn write(&mut self, batch: &[Usage]) -> io::Result<()> {
///         let mut batch = batch.iter().cloned();
///         batch.try_for_each(|usage| self.0.send(usage)).map_err(io::Error::other)
///     }
/// }
/// ```
pub trait UsageSink: Send {
    /// Accepts records. Records of one thread are in order.
    ///
    /// # Errors
    /// The records were not, or not all, accepted.
    fn write(&mut self, batch: &[Usage]) -> io::Result<()>;
}

/// A sink shared by the clones of a configuration.
#[derive(Clone)]
pub(crate) struct SharedSink(Arc<Mutex<dyn UsageSink>>);

impl SharedSink {
    pub(crate) fn new(sink: impl UsageSink + 'static) -> Self {
        Self(Arc::new(Mutex::new(sink)))
    }

    /// Offers records to the sink. Converts panics to errors.
    pub(crate) fn write(&self, batch: &[Usage]) -> io::Result<()> {
        // The sink is responsible for its own state; the same records are offered again.
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

/// Writes each record as a line of JSON (newline-delimited JSON):
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
    /// Whether the last line may be incomplete.
    is_broken: bool,
}

impl<W: Write> JsonLines<W> {
    /// Writes to any writer.
    pub fn new(out: W) -> Self {
        Self {
            out,
            text: Vec::new(),
            is_broken: false,
        }
    }
}

impl JsonLines<File> {
    /// Appends to a file, which is created with mode 0600 if absent. The file may be a named pipe that a
    /// process reads.
    ///
    /// # Errors
    /// No process reads the pipe. The file cannot be opened for reading and writing, or contains something other than lines of
    /// JSON ([`io::ErrorKind::InvalidData`]).
    pub fn append(file: impl AsRef<Path>) -> io::Result<Self> {
        let file = file.as_ref();
        let mut options = OpenOptions::new();
        options.append(true).create(true);
        // A device or a pipe may be write-only.
        options.read(!file.exists() || file.is_file());
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut lines = Self::new(open_at_once(options, file)?);
        let metadata = lines.out.metadata()?;
        if metadata.is_file() && metadata.len() > 0 {
            // The rest of an incomplete line may be at the start.
            if !matches!(byte_at(&mut lines.out, SeekFrom::Start(0))?, b'{' | b'\n') {
                let problem =
                    "the file contains something other than lines of JSON; give another path";
                return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
            }
            lines.is_broken = byte_at(&mut lines.out, SeekFrom::End(-1))? != b'\n';
        }
        Ok(lines)
    }
}

/// Opens a file without waiting for a process that reads it, if it is a pipe.
#[cfg(unix)]
fn open_at_once(mut options: OpenOptions, path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;

    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    use rustix::io::Errno;

    options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let file = options.open(path).map_err(|error| {
        let problem = "no process reads the pipe; start its reader first";
        match error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) {
            true => io::Error::new(error.kind(), problem),
            false => error,
        }
    })?;
    // Writes wait for the reader.
    fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(file)
}

#[cfg(not(unix))]
fn open_at_once(options: OpenOptions, path: &Path) -> io::Result<File> {
    options.open(path)
}

fn byte_at(file: &mut File, position: SeekFrom) -> io::Result<u8> {
    let mut byte = [0];
    file.seek(position)?;
    file.read_exact(&mut byte)?;
    Ok(byte[0])
}

impl JsonLines<Stdout> {
    /// Writes to standard output.
    pub fn stdout() -> Self {
        Self::new(io::stdout())
    }
}

impl<W: Write + Send> UsageSink for JsonLines<W> {
    fn write(&mut self, batch: &[Usage]) -> io::Result<()> {
        self.text.clear();
        if self.is_broken {
            // The incomplete line remains as one invalid line.
            self.text.push(b'\n');
        }
        for usage in batch {
            let line = serde_json::to_string(usage)?;
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
