//! Errors of administration as the socket and the HTTP service send them.

use serde::{Deserialize, Serialize};

use super::AdminError;
use crate::model::Key;
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
        let code = match &error {
            AdminError::Invalid(_) | AdminError::Policy(_) => FailureCode::Invalid,
            AdminError::NotFound(_) => FailureCode::NotFound,
            AdminError::Conflict(_) | AdminError::AlreadyDone { .. } => FailureCode::Conflict,
            AdminError::Ambiguous { .. } => FailureCode::Ambiguous,
            AdminError::Damaged(_) => FailureCode::Damaged,
            AdminError::Unavailable(_) => FailureCode::Unavailable,
        };
        let mut failure = Self::new(code, with_causes(&error));
        match error {
            AdminError::Invalid(invalid) => failure.field = Some(invalid.field().to_owned()),
            AdminError::Ambiguous { candidates, .. } => failure.candidates = candidates,
            AdminError::AlreadyDone { subject } => failure.id = subject,
            _ => {}
        }
        failure
    }
}
