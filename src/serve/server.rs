//! The life of the server: it binds its sockets, accepts connections and stops in order.

use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::backups::Backups;
use super::connections::Connections;
use super::error::ServeError;
use super::hangup::HangupSignal;
use super::listen::{ListenAddr, Listener};
use super::settings::Settings;
use super::shutdown::ShutdownSignal;
use super::webhooks::Webhooks;
use crate::keyguard::KeyGuard;
use crate::log::Event;

/// Serves until SIGTERM or SIGINT, then until all requests have been answered and all usage is stored. `file` is
/// the data file or the URL of a database.
pub(crate) fn serve(
    guard: KeyGuard,
    settings: &Settings,
    webhooks: Option<Webhooks>,
    file: &Path,
) -> Result<(), ServeError> {
    let is_local = settings.listen.iter().all(ListenAddr::is_local);
    if !is_local && guard.inner.has_weak_admin_key() {
        return Err(ServeError::WeakAdminKey);
    }
    let backups = settings.backups.of(file, &guard)?;
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let served = runtime.block_on(run(&guard, settings, backups, webhooks, file));
    // Waits for blocking work that has not ended.
    drop(runtime);
    served?;
    let log = guard.inner.log().clone();
    guard.close()?;
    log.emit(&Event::Stopped);
    Ok(())
}

async fn run(
    guard: &KeyGuard,
    settings: &Settings,
    backups: Option<Backups>,
    webhooks: Option<Webhooks>,
    file: &Path,
) -> Result<(), ServeError> {
    let log = guard.inner.log();
    let (tracer, exporter) = settings.otlp.start(&guard.inner)?;
    let leaks = settings.leaks.open(guard, file)?;
    let status = Arc::new(Webhooks::status(webhooks.as_ref()));
    let connections =
        Connections::new(guard, settings, tracer, leaks.clone(), Arc::clone(&status))?;
    let connections = Arc::new(connections);
    let mut listeners = Vec::new();
    for addr in &settings.listen {
        let listener = Listener::bind(addr, settings.socket_mode);
        listeners.push(listener.map_err(|source| ServeError::Listen {
            addr: addr.clone(),
            source,
        })?);
    }
    // Registered before the address is printed: a reader may send a signal at once.
    let mut shutdown = ShutdownSignal::new()?;
    let hangup = HangupSignal::new()?;
    for listener in &listeners {
        let address = listener.local_addr()?;
        writeln!(io::stdout(), "listening on {address}")?;
        log.emit(&Event::Listening {
            address: &address.to_string(),
            tls: settings.tls.is_some() && matches!(address, ListenAddr::Tcp(_)),
        });
    }
    io::stdout().flush()?;

    let (ended, end) = watch::channel(());
    let mut accepting = JoinSet::new();
    for listener in listeners {
        let connections = Arc::clone(&connections);
        accepting.spawn(connections.accept(listener, end.clone()));
    }
    if let Some(backups) = backups {
        accepting.spawn(backups.run(guard.clone(), end.clone()));
    }
    if let Some(leaks) = leaks {
        accepting.spawn(leaks.follow(hangup, end.clone()));
    }
    if let Some(webhooks) = webhooks {
        webhooks.start(guard, &mut accepting, &status, &end);
    }
    drop(end);
    shutdown.received().await;
    log.emit(&Event::Stopping);
    // Accepts no more connections; open ones end with the current response.
    let _ = ended.send(());
    while accepting.join_next().await.is_some() {}
    // Every connection holds a receiver.
    let _ = tokio::time::timeout(settings.grace, ended.closed()).await;
    drop(connections);
    exporter.finish().await;
    Ok(())
}

/// Raises the limit on open files to the maximum: each connection needs a file descriptor.
#[cfg(unix)]
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Under a lower limit, connections wait for each other.
    let _ = setrlimit(Resource::Nofile, raised);
}

#[cfg(not(unix))]
fn raise_file_limit() {}
