//! Services of the operating system: files, processes, locks, waiting.

mod atomic_file;
pub(crate) mod ownership;
pub(crate) mod process;
#[cfg(any(unix, feature = "cli"))]
pub(crate) mod shell;
pub(crate) mod sync;
#[cfg(feature = "redis")]
pub(crate) mod tls;
mod wait;

pub(crate) use self::atomic_file::AtomicFile;
pub(crate) use self::wait::{Deadline, MaybeReady, block_on};
