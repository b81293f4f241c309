//! Errors of the server.

use std::error::Error as _;

use tokio_postgres::error::{DbError, SqlState};

use crate::store::{OpenError, StoreError};

/// An error of the server. Contains neither a URL nor stored values.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
pub(super) struct ServerError {
    text: String,
    code: Option<SqlState>,
    /// The connection is lost or closing.
    is_lost: bool,
    /// Permanent: waiting does not help.
    is_refusal: bool,
}

impl ServerError {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            code: None,
            is_lost: false,
            is_refusal: false,
        }
    }

    /// The server is reachable but unusable.
    pub(super) fn refusal(text: impl Into<String>) -> Self {
        Self {
            is_refusal: true,
            ..Self::new(text)
        }
    }

    /// The server is not reachable.
    #[cfg(all(test, feature = "redis", not(loom)))]
    pub(super) fn lost(error: std::io::Error) -> Self {
        Self {
            is_lost: true,
            ..Self::new(error.to_string())
        }
    }

    pub(super) fn is_refusal(&self) -> bool {
        self.is_refusal
    }

    pub(super) fn is(&self, code: &SqlState) -> bool {
        self.code.as_ref() == Some(code)
    }

    pub(super) fn timeout() -> Self {
        Self::new("no response within the deadline")
    }

    /// A pooler shares sessions, which loses notifications and prepared statements.
    pub(super) fn pooled() -> Self {
        Self::refusal(POOLED)
    }
}

/// The first line of a server message. Further lines may contain stored values.
impl From<tokio_postgres::Error> for ServerError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(error) = error.as_db_error() else {
            let text = match error.source() {
                Some(cause) => format!("{error}: {cause}"),
                None => error.to_string(),
            };
            return Self {
                is_lost: true,
                is_refusal: text.starts_with(TLS) && !is_cut_off(&error),
                ..Self::new(text)
            };
        };
        let code = error.code();
        if is_lost_statement(error) {
            return Self::pooled();
        }
        Self {
            text: error.message().to_owned(),
            is_lost: ENDS.contains(code),
            is_refusal: REFUSALS.contains(code),
            code: Some(code.clone()),
        }
    }
}

/// Prefix of TLS errors of the client library.
const TLS: &str = "error performing TLS handshake";

const POOLED: &str = "it is behind a connection pooler in transaction mode, which loses change \
    notifications (LISTEN) and prepared statements; connect to the server itself, or let the pooler \
    keep sessions (PgBouncer: `pool_mode = session`)";

/// Whether a prepared statement is missing or replaced, which happens when another client uses the
/// same session.
fn is_lost_statement(error: &DbError) -> bool {
    match *error.code() {
        SqlState::INVALID_SQL_STATEMENT_NAME | SqlState::DUPLICATE_PSTATEMENT => true,
        // PgBouncer also uses this code for its own errors.
        SqlState::PROTOCOL_VIOLATION => error.message().starts_with("bind message supplies"),
        _ => false,
    }
}

/// Whether the connection ended during the handshake, which is no certificate error.
fn is_cut_off(error: &tokio_postgres::Error) -> bool {
    let cause = error
        .source()
        .and_then(|cause| cause.downcast_ref::<std::io::Error>());
    let of_tls = |cause: &std::io::Error| {
        let inner = cause.get_ref();
        inner.is_some_and(|inner| inner.is::<rustls::Error>())
    };
    cause.is_some_and(|cause| !of_tls(cause))
}

/// Error codes after which the server closes the connection.
const ENDS: [SqlState; 4] = [
    SqlState::ADMIN_SHUTDOWN,
    SqlState::CRASH_SHUTDOWN,
    SqlState::CANNOT_CONNECT_NOW,
    SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
];

const REFUSALS: [SqlState; 4] = [
    SqlState::INVALID_PASSWORD,
    SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
    SqlState::INVALID_CATALOG_NAME,
    SqlState::INSUFFICIENT_PRIVILEGE,
];

impl From<ServerError> for StoreError {
    fn from(error: ServerError) -> Self {
        Self::Unavailable(error.into())
    }
}

impl From<StoreError> for ServerError {
    fn from(error: StoreError) -> Self {
        match cause(&error) {
            Some(error) => error.clone(),
            None => Self::new(error.to_string()),
        }
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        ServerError::from(error).into()
    }
}

/// The error of the server, if it caused this.
pub(super) fn cause(error: &StoreError) -> Option<&ServerError> {
    match error {
        StoreError::Unavailable(source) => source.downcast_ref(),
        _ => None,
    }
}

/// Whether the statement timeout expired.
pub(super) fn is_cancelled(error: &StoreError) -> bool {
    cause(error).is_some_and(|error| error.is(&SqlState::QUERY_CANCELED))
}

/// Whether the connection is unusable.
pub(super) fn is_lost(error: &StoreError) -> bool {
    cause(error).is_some_and(|error| error.is_lost)
}

pub(super) fn unusable(problem: impl ToString) -> OpenError {
    OpenError::Server {
        server: "PostgreSQL",
        problem: problem.to_string(),
    }
}
