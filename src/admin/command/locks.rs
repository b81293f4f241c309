//! Commands for locks.

use serde::{Deserialize, Serialize};

use super::Command;
use crate::admin::{Admin, AdminError};
use crate::lockout::Lock;

/// An IP address to lock out.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(example = json!({ "ip": "192.0.2.7", "duration": "1 hour" })))]
pub(crate) struct Block {
    /// An IP address, or a network as listings show it.
    pub(crate) ip: String,
    /// The only path to lock. Default: all paths.
    pub(crate) path: Option<String>,
    /// A duration, such as `1 hour`, or a time of day, such as `4:00 PM`.
    pub(crate) duration: String,
}

impl Command for Block {
    type Reply = Lock;
    const NAME: &'static str = "block";

    fn run(self, admin: &Admin) -> Result<Lock, AdminError> {
        admin.block(self.ip, self.path.as_deref(), self.duration)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
pub(crate) struct Unblock {
    /// An IP address or a network.
    #[cfg_attr(feature = "openapi", param(example = "192.0.2.7"))]
    pub(crate) ip: String,
    /// Only locks of this path and of the routes that match it. Default: all locks.
    pub(crate) path: Option<String>,
}

impl Command for Unblock {
    type Reply = Vec<Lock>;
    const NAME: &'static str = "unblock";

    fn run(self, admin: &Admin) -> Result<Vec<Lock>, AdminError> {
        admin.unblock(self.ip, self.path.as_deref())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
pub(crate) struct ListBlocks {}

impl Command for ListBlocks {
    type Reply = Vec<Lock>;
    const NAME: &'static str = "listBlocks";

    fn run(self, admin: &Admin) -> Result<Vec<Lock>, AdminError> {
        Ok(admin.list_blocks())
    }
}
