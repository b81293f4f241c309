//! The command behind `keyguard doctor` and the warnings of the dashboard.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Command;
use crate::admin::{Admin, AdminError, Diagnosis, KeyAges};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
pub(crate) struct Diagnose {
    /// The time after which an unused key is a condition, in seconds; 90 days by default.
    #[serde(default = "ninety_days")]
    #[cfg_attr(feature = "openapi", param(required = false))]
    pub(crate) unused_for: u64,
    /// The time before its expiry at which a key is a condition, in seconds; 14 days by default.
    #[serde(default = "fourteen_days")]
    #[cfg_attr(feature = "openapi", param(required = false))]
    pub(crate) expires_within: u64,
}

fn ninety_days() -> u64 {
    90 * 86_400
}

fn fourteen_days() -> u64 {
    14 * 86_400
}

impl Command for Diagnose {
    type Reply = Diagnosis;
    const NAME: &'static str = "diagnose";

    fn run(self, admin: &Admin) -> Result<Diagnosis, AdminError> {
        Ok(admin.diagnose(KeyAges {
            unused_for: Duration::from_secs(self.unused_for),
            expires_within: Duration::from_secs(self.expires_within),
        }))
    }
}
