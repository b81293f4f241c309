//! Services of the operating system: files, processes, locks, waiting.

mod atomic_file;
mod disk_space;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod io_thread;
pub(crate) mod ownership;
pub(crate) mod process;
mod regular_file;
#[cfg(any(unix, feature = "cli"))]
pub(crate) mod shell;
#[cfg(test)]
#[cfg(all(feature = "postgres", feature = "redis", not(loom)))]
pub(crate) mod simulation;
pub(crate) mod sync;
#[cfg(feature = "redis")]
pub(crate) mod tls;
mod wait;

#[cfg(not(any(feature = "postgres", feature = "redis")))]
pub(crate) use std::time::Instant;
#[cfg(not(all(test, feature = "postgres", feature = "redis")))]
pub(crate) use std::time::Instant as MonotonicInstant;
/// When calls of a database client end.
#[cfg(any(feature = "postgres", feature = "redis"))]
pub(crate) use tokio::time::Instant;
/// Monotonic time, in tests that of a simulation if there is one. Elsewhere it is not tokio's, which stands
/// still where an embedder's tests pause it.
#[cfg(all(test, feature = "postgres", feature = "redis"))]
pub(crate) use tokio::time::Instant as MonotonicInstant;

pub(crate) use self::atomic_file::{AtomicFile, write_outcome};
pub(crate) use self::disk_space::DiskSpace;
#[cfg(any(feature = "postgres", feature = "redis"))]
pub(crate) use self::io_thread::spawn_io;
pub(crate) use self::regular_file::open_regular;
#[cfg(any(feature = "serve", feature = "postgres"))]
pub(crate) use self::regular_file::read_regular;
pub(crate) use self::wait::{Deadline, MaybeReady, block_on};

/// Calendar time of the system.
pub(crate) fn system_time() -> std::time::SystemTime {
    #[cfg(all(test, feature = "postgres", feature = "redis", not(loom)))]
    if let Some(time) = simulation::system_time() {
        return time;
    }
    std::time::SystemTime::now()
}
