//! Errors of administration.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use super::FailureCode;
use crate::input::InvalidInput;
use crate::model::{Key, KeyId, OrgId};
use crate::net::IpKey;
use crate::policy::InvalidPolicy;
use crate::store::{StoreError, TOO_MUCH_USAGE, UNAVAILABLE, with_causes};
use crate::sys::write_outcome;

/// Why a change or a listing failed. A failed change changes nothing.
///
/// [`AdminError::status`] groups the kinds.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// A field is invalid.
    #[error(transparent)]
    Invalid(#[from] InvalidInput),
    /// No organization has this id.
    #[error("{}", StoreError::NoOrg(*.0))]
    OrgNotFound(OrgId),
    /// No organization has this name.
    #[error("{}", StoreError::NoOrgNamed(.0.clone()))]
    OrgNameNotFound(String),
    /// No key has this id.
    #[error("{}", StoreError::NoKey(*.0))]
    KeyNotFound(KeyId),
    /// No key has the prefix that was given to [`Admin::find_key`](crate::Admin::find_key).
    #[error(
        "no key has this id or prefix; expected an id or a whole prefix as listings show it, not the \
         text of a key"
    )]
    KeyPrefixNotFound,
    /// The key has no limit of this name.
    #[error(
        "there is no limit named {}; the key has {}",
        name.as_ref().map_or("that".to_owned(), |name| format!("`{name}`")),
        existing.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    )]
    #[non_exhaustive]
    LimitNotFound {
        /// The name; `None` if it may be the text of a key.
        name: Option<String>,
        /// The names of the limits of the key.
        existing: Vec<String>,
    },
    /// The client has no such lock.
    #[error(
        "{ip} has no such lock{}",
        parent.map_or(String::new(), |parent| format!(" of its own, but {parent} around it is locked"))
    )]
    #[non_exhaustive]
    LockNotFound {
        /// The client.
        ip: IpKey,
        /// The network around it, if that is locked.
        parent: Option<IpKey>,
    },
    /// An organization has this name.
    #[error("{}", StoreError::DuplicateOrg(.0.clone()))]
    OrgExists(String),
    /// An organization has a name that looks the same, which is given here.
    #[error("{}", StoreError::SimilarOrg(.0.clone()))]
    SimilarOrgExists(String),
    /// A key has this text.
    #[error("{}", StoreError::DuplicateCredential)]
    KeyExists,
    /// The key was revoked, which is final.
    #[error("{}", StoreError::Revoked(*.0))]
    KeyRevoked(KeyId),
    /// The key has expired, and neither a new time of expiry nor
    /// [`UpdateKey::reactivate`](crate::UpdateKey::reactivate) is given.
    #[error("{}", StoreError::Expired(*.0))]
    KeyExpired(KeyId),
    /// There are [`Config::max_locks`](crate::Config::max_locks) locks.
    #[error("the maximum number of locks is reached; unblock some, or raise `Config::max_locks`")]
    TooManyLocks,
    /// Limits of [`Config::max_tracked_keys`](crate::Config::max_tracked_keys) keys are tracked.
    #[error("the maximum number of keys is being limited; raise `Config::max_tracked_keys`")]
    TooManyTrackedKeys,
    /// [`Config::policy_file`](crate::Config::policy_file) is not set.
    #[error(
        "no policy file is set: `keyguard serve --policy`, or `Config::policy_file`, names one"
    )]
    NoPolicyFile,
    /// No delivery to a webhook has this number.
    #[error("there is no delivery with the number {0}; only the latest 10,000 deliveries are kept")]
    DeliveryNotFound(u64),
    /// The process that holds the data file sends no events.
    #[error("no webhooks are configured; `keyguard serve --webhook URL` sends events")]
    NoWebhooks,
    /// The process that holds the data file sends no events to the webhook of the delivery with this number.
    #[error("{}", StoreError::WebhookNotConfigured(*.0))]
    WebhookNotConfigured(u64),
    /// The text is not the whole prefix of exactly one key.
    #[error(
        "`{prefix}` does not identify one key; give its id, or its whole prefix as listings show it"
    )]
    #[non_exhaustive]
    Ambiguous {
        /// The text.
        prefix: String,
        /// The keys whose prefix starts with it, at most 20.
        candidates: Vec<Key>,
    },
    /// The change was already made under the same idempotency key.
    #[error("{}", StoreError::AlreadyDone(*subject))]
    #[non_exhaustive]
    AlreadyDone {
        /// The id of the organization or key that was created or changed.
        subject: Option<u64>,
    },
    /// The policy or its file is invalid. The policy in force stays.
    #[error("invalid policy; the policy in force stays: {0}")]
    Policy(InvalidPolicy),
    /// A backup could not be written. Nothing is left at its path, unless only its directory could not be synced,
    /// which the text says.
    #[error("`{}` {}", path.display(), write_outcome(source))]
    #[non_exhaustive]
    BackupNotWritten {
        /// The path of the backup.
        path: PathBuf,
        /// The problem.
        source: io::Error,
    },
    /// The data file or the database contains invalid data; `source()` says which.
    #[error("the stored data is damaged")]
    Damaged(#[source] Box<dyn Error + Send + Sync>),
    /// The data file or the database cannot be read or written; `source()` says why.
    #[error("{UNAVAILABLE}")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
}

/// The message and its causes, which a panic and a `main` that returns the error print.
impl fmt::Debug for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&with_causes(self))
    }
}

impl AdminError {
    /// Returns the HTTP status with which the admin service responds: 422 for an invalid field or policy,
    /// 404 for something that does not exist, 409 if the current state does not allow the change, 503 if
    /// the stored data cannot be read or written.
    pub fn status(&self) -> u16 {
        FailureCode::of(self).status()
    }
}

impl From<InvalidPolicy> for AdminError {
    fn from(error: InvalidPolicy) -> Self {
        Self::Policy(error)
    }
}

impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NoOrg(id) => Self::OrgNotFound(id),
            StoreError::NoOrgNamed(name) => Self::OrgNameNotFound(name),
            StoreError::NoKey(id) => Self::KeyNotFound(id),
            StoreError::DuplicateOrg(name) => Self::OrgExists(name),
            StoreError::SimilarOrg(name) => Self::SimilarOrgExists(name),
            StoreError::Revoked(id) => Self::KeyRevoked(id),
            StoreError::Expired(id) => Self::KeyExpired(id),
            StoreError::DuplicateCredential => Self::KeyExists,
            StoreError::WebhookNotConfigured(delivery) => Self::WebhookNotConfigured(delivery),
            StoreError::AlreadyDone(subject) => Self::AlreadyDone { subject },
            StoreError::IdempotencyKeyReused => {
                let problem = "was used for another request; use a new one";
                InvalidInput::new("Idempotency-Key", problem).into()
            }
            StoreError::TooMuchUsage => InvalidInput::new("since", TOO_MUCH_USAGE).into(),
            StoreError::Damaged(what) => Self::Damaged(what.into()),
            StoreError::Unavailable(source) => Self::Unavailable(source),
            // Only transfers, which report it themselves, import.
            StoreError::Occupied(_) => Self::Unavailable(error.into()),
        }
    }
}
