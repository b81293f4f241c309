//! Commands that report totals and changes.

use serde::{Deserialize, Serialize};

use super::{Command, Rows};
use crate::admin::{Admin, AdminError, Stats};
use crate::model::AuditEntry;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
pub(crate) struct GetStats {}

impl Command for GetStats {
    type Reply = StatsReply;
    const NAME: &'static str = "getStats";

    fn run(self, admin: &Admin) -> Result<StatsReply, AdminError> {
        let stats = admin.stats()?;
        let error_rate = stats.error_rate();
        Ok(StatsReply { stats, error_rate })
    }
}

/// Totals and warnings.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(crate) struct StatsReply {
    #[serde(flatten)]
    pub(crate) stats: Stats,
    /// The fraction of requests with a status of 400 or above, from 0 to 1.
    error_rate: f64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
pub(crate) struct ListAudit {
    /// Only entries with a lower id: that of the last row of the previous page.
    pub(crate) before: Option<u64>,
    /// The maximum number of rows.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", param(value_type = usize, minimum = 1, maximum = 1000, default = 1000))]
    pub(crate) limit: Rows,
}

impl Command for ListAudit {
    type Reply = Vec<AuditEntry>;
    const NAME: &'static str = "listAudit";

    fn run(self, admin: &Admin) -> Result<Vec<AuditEntry>, AdminError> {
        let entries = admin.list_audit(self.limit.after(self.before))?;
        Rows::page(entries.into_iter().map(Ok))
    }
}
