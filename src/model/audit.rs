//! Entries of the audit log.

use serde::{Deserialize, Serialize};

use crate::net::ClientIp;
use crate::time::Timestamp;

/// A change, as the audit log keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[cfg_attr(feature = "http", derive(utoipa::ToSchema))]
pub struct AuditEntry {
    /// Counted up from 1, in the order of the changes.
    pub id: u64,
    /// When it was made.
    pub at: Timestamp,
    /// Who made it: what [`Admin::acting_as`](crate::Admin::acting_as) was told, `program` for
    /// the program that holds the file, `user` and a number for a user of the system, `admin key` for
    /// who has that.
    pub actor: String,
    /// From where.
    pub ip: ClientIp,
    /// What was done, such as `create_key`.
    pub action: String,
    /// The id of the key or organization that was made or changed.
    pub subject: Option<u64>,
    /// What was asked for, field by field. No secret is among it.
    pub details: serde_json::Value,
}
