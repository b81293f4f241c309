//! The command behind `keyguard doctor`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Command;
use crate::admin::{Admin, AdminError, Diagnosis, KeyAges};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Diagnose {
    /// The time after which an unused key is a condition, in seconds.
    pub(crate) unused_for: u64,
    /// The time before its expiry at which a key is a condition, in seconds.
    pub(crate) expires_within: u64,
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
