//! How a server is set up, and why it cannot be.

use std::io;
use std::time::Duration;

use super::listen::{ListenAddr, Tls};
use crate::admin::AdminError;
use crate::net::CidrSet;

/// How a server is set up.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) places: Vec<ListenAddr>,
    /// The mode of Unix sockets.
    pub(crate) socket_mode: u32,
    pub(crate) tls: Option<Tls>,
    /// Whose verdicts are asked for, and whose word about a client counts.
    pub(crate) trusted: CidrSet,
    /// Names by which it is reached, beside addresses and `localhost`.
    pub(crate) hosts: Vec<String>,
    pub(crate) most_connections: usize,
    /// The longest head of a request, in bytes.
    pub(crate) most_head_bytes: usize,
    pub(crate) most_body_bytes: usize,
    /// How long a head may take, and a body, and a connection that is idle, or whose client does not
    /// read its answer.
    pub(crate) deadline: Duration,
    /// How long connections may take to end once the server is to stop.
    pub(crate) grace: Duration,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("cannot listen on {place}: {source}")]
    Listen {
        place: ListenAddr,
        source: io::Error,
    },
    #[error("the certificate or its key cannot be used: {0}")]
    Tls(String),
    #[error(
        "the secret has less than 32 bytes, and the admin key is derived from it: listen on this \
         machine only, or set an admin key of its own (KEYGUARD_ADMIN_KEY or --admin-key-file)"
    )]
    WeakAdminKey,
    #[error("the server cannot start: {0}")]
    Start(#[from] io::Error),
    #[error("not all that was recorded could be stored: {0}")]
    Close(#[from] AdminError),
}
