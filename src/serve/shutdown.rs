//! The signals that stop the server.

use std::io;

#[cfg(unix)]
pub(super) struct ShutdownSignal {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    /// Only for a program that a terminal keeps.
    hangup: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl ShutdownSignal {
    pub(super) fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};

        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: None,
        })
    }

    /// Also waits for SIGHUP, with which a terminal ends.
    pub(super) fn or_hangup(mut self) -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};

        self.hangup = Some(signal(SignalKind::hangup())?);
        Ok(self)
    }

    /// Waits for SIGTERM or SIGINT.
    pub(super) async fn received(&mut self) {
        let Self {
            terminate,
            interrupt,
            hangup,
        } = self;
        let hangup = async {
            match hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup => {}
        }
    }
}

#[cfg(not(unix))]
pub(super) struct ShutdownSignal;

#[cfg(not(unix))]
impl ShutdownSignal {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self)
    }

    pub(super) fn or_hangup(self) -> io::Result<Self> {
        Ok(self)
    }

    /// Waits for Ctrl-C.
    pub(super) async fn received(&mut self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}
