//! Organizations.

use serde::{Deserialize, Serialize};

use super::{LimitOverride, OrgId};
use crate::limit::Limit;
use crate::time::Timestamp;

/// Whether the keys of an organization are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum OrgStatus {
    /// Its keys are accepted.
    Active,
    /// Its keys are refused until the organization is resumed.
    Suspended,
}

impl OrgStatus {
    /// The name of the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
        }
    }
}

/// An organization: the owner of keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Org {
    /// Its id.
    pub id: OrgId,
    /// Its name, unique in the data file.
    #[cfg_attr(feature = "openapi", schema(example = "acme"))]
    pub name: String,
    /// Whether its keys are accepted.
    pub status: OrgStatus,
    /// Limits that all of its keys share.
    pub limits: Vec<Limit>,
    /// Limits that are temporarily overridden.
    pub overrides: Vec<LimitOverride>,
    /// When it was created.
    pub created_at: Timestamp,
}
