//! Errors of administration.

use std::error::Error;

use crate::input::InvalidInput;
use crate::model::Key;
use crate::policy::InvalidPolicy;
use crate::store::StoreError;

/// Why a change or a listing failed. A failed change changes nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// A field is invalid.
    #[error(transparent)]
    Invalid(#[from] InvalidInput),
    /// The organization, key, limit or lock does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The current state does not allow the change.
    #[error("{0}")]
    Conflict(String),
    /// The text is not the whole prefix of exactly one key.
    #[error(
        "`{prefix}` is not the whole prefix of one key; give an id, or the whole prefix that listings \
         show"
    )]
    Ambiguous {
        /// The text.
        prefix: String,
        /// The keys whose prefix starts with it, at most 20.
        candidates: Vec<Key>,
    },
    /// The change was already made under the same idempotency key.
    #[error(
        "this request was already completed under the same idempotency key; a key is shown once only"
    )]
    AlreadyDone {
        /// The id of the organization or key that was created or changed.
        subject: Option<u64>,
    },
    /// The policy or its file is invalid. The policy in force stays.
    #[error("the policy stays as it was: {0}")]
    Policy(#[from] InvalidPolicy),
    /// The data file or the database holds invalid data.
    #[error("the stored data is damaged: {0}")]
    Damaged(String),
    /// The data file or the database cannot be read or written; `source()` says why.
    #[error("the stored data cannot be read or written")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
}

impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NoOrg(_) | StoreError::NoOrgNamed(_) | StoreError::NoKey(_) => {
                Self::NotFound(error.to_string())
            }
            StoreError::DuplicateOrg(_)
            | StoreError::SimilarOrg(_)
            | StoreError::Revoked(_)
            | StoreError::Expired(_)
            | StoreError::Occupied(_) => Self::Conflict(error.to_string()),
            StoreError::AlreadyDone(subject) => Self::AlreadyDone { subject },
            StoreError::IdempotencyKeyReused => {
                InvalidInput::new("Idempotency-Key", "was used for another request").into()
            }
            StoreError::Damaged(what) => Self::Damaged(what),
            StoreError::Unavailable(source) => Self::Unavailable(source),
        }
    }
}
