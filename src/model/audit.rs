//! Entries of the audit log.

use serde::{Deserialize, Serialize};

use crate::net::ClientIp;
use crate::time::Timestamp;

/// An entry of the audit log: one change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AuditEntry {
    /// Sequence number, from 1.
    pub id: u64,
    /// Time of the change.
    pub at: Timestamp,
    /// The actor: the name given to [`Admin::acting_as`](crate::Admin::acting_as), `program` for the
    /// process that opened the file, `user N` for a system user, `admin key` for requests with the
    /// admin key, `leak report` for a key that was found in public.
    #[cfg_attr(feature = "openapi", schema(example = "admin key"))]
    pub actor: String,
    /// Address of the actor.
    pub ip: ClientIp,
    /// The action, such as `create_key`.
    #[cfg_attr(feature = "openapi", schema(example = "create_org"))]
    pub action: String,
    /// The id of the key or organization; `None` for other changes.
    pub subject: Option<u64>,
    /// The fields of the request, without secrets.
    #[cfg_attr(feature = "openapi", schema(example = json!({ "org_name": "acme" })))]
    pub details: serde_json::Value,
}
