//! Services of the operating system: files, processes, locks, waiting.

mod atomic_file;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod io_thread;
pub(crate) mod ownership;
pub(crate) mod process;
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
/// Monotonic time; that of a simulation, if there is one.
#[cfg(any(feature = "postgres", feature = "redis"))]
pub(crate) use tokio::time::Instant;

pub(crate) use self::atomic_file::AtomicFile;
#[cfg(any(feature = "postgres", feature = "redis"))]
pub(crate) use self::io_thread::spawn_io;
pub(crate) use self::wait::{Deadline, MaybeReady, block_on};

/// Calendar time of the system.
pub(crate) fn system_time() -> std::time::SystemTime {
    #[cfg(all(test, feature = "postgres", feature = "redis", not(loom)))]
    if let Some(time) = simulation::system_time() {
        return time;
    }
    std::time::SystemTime::now()
}
