//! Commands about the data file, which only the socket takes: they name paths of the process that holds it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Command;
use crate::admin::{Admin, AdminError};
use crate::store::{FileCopy, Verification};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VerifyFile {}

impl Command for VerifyFile {
    type Reply = Verification;
    const NAME: &'static str = "verifyFile";

    fn run(self, admin: &Admin) -> Result<Verification, AdminError> {
        admin.verify()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BackUp {
    /// An absolute path.
    pub(crate) to: PathBuf,
}

impl Command for BackUp {
    type Reply = FileCopy;
    const NAME: &'static str = "backUp";

    fn run(self, admin: &Admin) -> Result<FileCopy, AdminError> {
        admin.backup(self.to)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct GetBackupProgress {}

impl Command for GetBackupProgress {
    type Reply = Option<f64>;
    const NAME: &'static str = "getBackupProgress";

    fn run(self, admin: &Admin) -> Result<Option<f64>, AdminError> {
        Ok(admin.backup_progress())
    }
}
