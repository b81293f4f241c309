//! Errors of administration as the socket and the HTTP service send them.

use serde::{Deserialize, Serialize};

use super::AdminError;
use crate::model::Key;
use crate::model::key_words::quoted_without_keys;
#[cfg(feature = "cli")]
use crate::store::StoreError;
use crate::store::with_causes;

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) code: FailureCode,
    pub(crate) message: String,
    /// The invalid field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) field: Option<String>,
    /// The keys that match an ambiguous prefix.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) candidates: Vec<Key>,
    /// The id of what an earlier request with the same idempotency key created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FailureCode {
    Invalid,
    NotFound,
    Conflict,
    Ambiguous,
    Damaged,
    Unavailable,
    /// The two processes have different users or versions.
    Refused,
}

impl FailureCode {
    pub(super) fn of(error: &AdminError) -> Self {
        match error {
            AdminError::Invalid(_) | AdminError::Policy(_) => Self::Invalid,
            AdminError::OrgNotFound(_)
            | AdminError::OrgNameNotFound(_)
            | AdminError::KeyNotFound(_)
            | AdminError::KeyPrefixNotFound
            | AdminError::DeliveryNotFound(_)
            | AdminError::LimitNotFound { .. }
            | AdminError::LockNotFound { .. } => Self::NotFound,
            AdminError::OrgExists(_)
            | AdminError::SimilarOrgExists(_)
            | AdminError::KeyExists
            | AdminError::KeyRevoked(_)
            | AdminError::KeyExpired(_)
            | AdminError::TooManyLocks
            | AdminError::TooManyTrackedKeys
            | AdminError::NoPolicyFile
            | AdminError::NoWebhooks
            | AdminError::WebhookNotConfigured(_)
            | AdminError::AlreadyDone { .. } => Self::Conflict,
            AdminError::Ambiguous { .. } => Self::Ambiguous,
            AdminError::Damaged(_) => Self::Damaged,
            AdminError::BackupNotWritten { source, .. }
                if source.kind() == std::io::ErrorKind::AlreadyExists =>
            {
                Self::Conflict
            }
            AdminError::BackupNotWritten { .. } | AdminError::Unavailable(_) => Self::Unavailable,
        }
    }

    /// The HTTP status.
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::Invalid => 422,
            Self::NotFound => 404,
            Self::Conflict | Self::Ambiguous => 409,
            Self::Damaged | Self::Unavailable => 503,
            Self::Refused => 403,
        }
    }
}

impl Failure {
    pub(crate) fn new(code: FailureCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            field: None,
            candidates: Vec::new(),
            id: None,
        }
    }
}

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Self {
        let mut failure = Self::new(
            FailureCode::of(&error),
            quoted_without_keys(with_causes(&error)),
        );
        match error {
            AdminError::Invalid(invalid) => failure.field = Some(invalid.field().to_owned()),
            AdminError::Ambiguous { candidates, .. } => failure.candidates = candidates,
            AdminError::AlreadyDone { subject } => failure.id = subject,
            _ => {}
        }
        failure
    }
}

/// The source or the target of a transfer failed.
#[cfg(feature = "cli")]
impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Occupied(_) => Self::new(FailureCode::Conflict, error.to_string()),
            error => AdminError::from(error).into(),
        }
    }
}
