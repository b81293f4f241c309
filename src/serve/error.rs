//! Why the server cannot start or stop in order.

use std::io;
use std::path::PathBuf;

use super::listen::ListenAddr;
use crate::admin::AdminError;
use crate::input::InvalidInput;
use crate::store::OpenError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("cannot listen on {addr}: {source}")]
    Listen { addr: ListenAddr, source: io::Error },
    #[error("invalid TLS certificate or key: {0}")]
    Tls(String),
    #[error(
        "the admin key is derived from a secret of less than 32 bytes: listen on loopback addresses \
         and Unix sockets only, or set an admin key (KEYGUARD_ADMIN_KEY or --admin-key-file)"
    )]
    WeakAdminKey,
    #[error("--backup-dir: `{}` cannot be used: {source}", dir.display())]
    BackupDir { dir: PathBuf, source: io::Error },
    #[error(
        "--backup-dir: another server writes backups of this data file, or of a copy of it, to `{}`, and each would \
         delete those of the other; name another directory",
        dir.display()
    )]
    BackupDirInUse { dir: PathBuf },
    #[error("--backup-dir: a database has no data file; use `pg_dump`")]
    NoDataFile,
    #[error("--leak-keys: {0}")]
    LeakKeys(String),
    #[error(
        "--webhook: events are sent only from a data file with limits in memory, not yet with a database or Redis"
    )]
    WebhooksOnServer,
    #[error("--webhook or KEYGUARD_WEBHOOKS: {}", .0.problem())]
    InvalidWebhook(InvalidInput),
    #[error(
        "--webhook: {0} is without encryption; use `https://`, or `--webhook-allow-private` for a receiver in \
         your own network"
    )]
    UnencryptedWebhook(String),
    #[error("--webhook-secret-file: {0}")]
    WebhookSecret(OpenError),
    #[error("the file `{}` holds no secret of webhooks: {expected}", path.display())]
    InvalidWebhookSecret {
        path: PathBuf,
        expected: &'static str,
    },
    /// The certificate authorities of another server.
    #[error("{setting}: `{}` cannot be used: {problem}", file.display())]
    Ca {
        setting: &'static str,
        file: PathBuf,
        problem: String,
    },
    #[error("the server cannot start: {0}")]
    Start(#[from] io::Error),
    #[error("not everything could be stored at the stop: {0}")]
    Close(#[from] AdminError),
}
