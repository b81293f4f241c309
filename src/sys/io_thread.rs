//! Threads for the I/O of remote backends.

use std::io;

use tokio::runtime::Builder;
use tokio::task::LocalSet;

/// Starts a thread that runs a future, and the local tasks that it spawns, until it ends.
pub(crate) fn spawn_io<F: Future<Output = ()> + 'static>(
    name: &str,
    work: impl FnOnce() -> F + Send + 'static,
) -> io::Result<()> {
    #[cfg(all(test, feature = "postgres", feature = "redis", not(loom)))]
    if super::simulation::is_active() {
        super::simulation::spawn(work());
        return Ok(());
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || LocalSet::new().block_on(&runtime, work()))?;
    Ok(())
}
