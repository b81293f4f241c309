//! Errors of a store.

use crate::model::{KeyId, OrgId};

/// Why a store could not do what was requested.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("there is no organization with the id {0}")]
    NoOrg(OrgId),
    #[error("there is no organization named `{0}`")]
    NoOrgNamed(String),
    #[error("an organization named `{0}` already exists")]
    DuplicateOrg(String),
    #[error("the name looks like that of the existing organization `{0}`; give another name")]
    SimilarOrg(String),
    #[error("there is no key with the id {0}")]
    NoKey(KeyId),
    #[error("key {0} is revoked; create a new key")]
    Revoked(KeyId),
    #[error(
        "key {0} has expired, and its text may have leaked since: to accept it again, give \
         `reactivate` (`--reactivate`) and a later `expires_at`; to rotate it, give a new `expires_at` \
         (`--expires-at`)"
    )]
    Expired(KeyId),
    /// The text of one key would authenticate another.
    #[error("a key with this text already exists")]
    DuplicateCredential,
    /// The change was made before; with the id of the changed key or organization.
    #[error(
        "a request with this idempotency key was already completed; its reply is not kept, so that the \
         text of a new key cannot be shown again"
    )]
    AlreadyDone(Option<u64>),
    #[error("the idempotency key was used for another request; use a new key")]
    IdempotencyKeyReused,
    /// A delivery to a webhook that gets no events.
    #[error(
        "no process sends events to the webhook of delivery {0}: it is not configured, or it answered with status 410 \
         (Gone); start `keyguard serve` with its `--webhook`"
    )]
    WebhookNotConfigured(u64),
    /// An import conflicts with existing data.
    #[error("{0}; nothing was written: give a target that is empty or was filled by this command")]
    Occupied(String),
    /// A query of usage took too long.
    #[error("{TOO_MUCH_USAGE}")]
    TooMuchUsage,
    /// The stored bytes are not what this version writes.
    #[error("the stored data is damaged: {0}")]
    Damaged(String),
    /// The disk or the database engine failed.
    #[error("{UNAVAILABLE}")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The problem of the range of a query that takes too long.
pub(crate) const TOO_MUCH_USAGE: &str = "the requests since then cannot be counted within 10 seconds; \
    give a later time, or an earlier `until`";

/// The text of [`StoreError::Unavailable`].
pub(crate) const UNAVAILABLE: &str = "the stored data cannot be read or written";

impl StoreError {
    pub(super) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }

    /// Returns the error and its causes, in one line.
    pub(crate) fn describe(&self) -> String {
        with_causes(self)
    }

    /// Returns the causes in one line, for a message that already says what failed.
    pub(crate) fn cause(&self) -> String {
        match self {
            Self::Unavailable(cause) => with_causes(&**cause),
            other => with_causes(other),
        }
    }
}

/// Returns an error and its causes in one line, without repeating a text.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        source = cause.source();
    }
    message
}
