//! The admin commands, which the socket, the command line and the HTTP service have in common.
//!
//! A command is a struct of its arguments. [`Command`] gives it a name, a reply and an effect.

mod by_id;
mod check;
mod diagnose;
mod files;
mod keys;
mod limits;
mod locks;
mod orgs;
mod reports;
mod rows;
mod usage;
mod webhooks;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(crate) use self::by_id::{
    GetKey, GetKeyLimits, GetOrg, ResumeKey, ResumeOrg, RevokeKey, SuspendKey, SuspendOrg,
};
pub(crate) use self::check::Check;
#[cfg(feature = "cli")]
pub(crate) use self::check::DryRunReply;
pub(crate) use self::diagnose::Diagnose;
#[cfg(all(unix, feature = "cli"))]
pub(crate) use self::files::{BackUp, GetBackupProgress, VerifyFile};
#[cfg(feature = "cli")]
pub(crate) use self::keys::NewKeyReply;
pub(crate) use self::keys::{
    FindKey, FinishRotation, KeyReply, ListKeys, PrepareRotation, RotateKeyCommand,
};
pub(crate) use self::limits::{
    GetIpLimits, OverrideLimit, Reload, ResetIp, ResetKey, RestoreLimit,
};
pub(crate) use self::locks::{Block, ListBlocks, Unblock};
pub(crate) use self::orgs::{CreateOrg, FindOrg, ListOrgs, OrgReply};
pub(crate) use self::reports::{GetStats, ListAudit};
pub(crate) use self::rows::Rows;
#[cfg(feature = "cli")]
pub(crate) use self::usage::RequestFilter;
pub(crate) use self::usage::{GetUsage, ListRequests, TailUsage};
#[cfg(feature = "cli")]
pub(crate) use self::webhooks::{ListDeliveries, Redeliver, SendTestEvent};

use super::{Admin, AdminError, CreateKey, Failure, FailureCode, UpdateKey, UpdateOrg};

/// A command to administer a guard. Its fields are its arguments.
pub(crate) trait Command: Serialize + DeserializeOwned {
    type Reply: Serialize + DeserializeOwned;

    /// The name on the socket, and the id of the operation in the OpenAPI document.
    const NAME: &'static str;

    fn run(self, admin: &Admin) -> Result<Self::Reply, AdminError>;
}

/// A command of any type, as it is sent.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NamedCommand {
    command: String,
    #[serde(default)]
    arguments: Value,
}

impl NamedCommand {
    #[cfg(any(test, feature = "cli"))]
    pub(crate) fn new<C: Command>(command: &C) -> serde_json::Result<Self> {
        Ok(Self {
            command: C::NAME.to_owned(),
            arguments: serde_json::to_value(command)?,
        })
    }

    pub(crate) fn run(self, admin: &Admin) -> Result<Value, Failure> {
        let known = COMMANDS.iter().find(|(name, _)| *name == self.command);
        match known {
            Some((_, run)) => run(admin, self.arguments),
            None => Err(refused(format!(
                "unknown command `{}`; use the same version of keyguard",
                self.command
            ))),
        }
    }
}

/// Converts a reply to JSON.
pub(crate) fn reply_to_json(reply: impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(reply)
        .map_err(|error| Failure::new(FailureCode::Unavailable, error.to_string()))
}

type Run = fn(&Admin, Value) -> Result<Value, Failure>;

/// All commands by name.
const COMMANDS: [(&str, Run); 41] = [
    by_name::<CreateOrg>(),
    by_name::<ListOrgs>(),
    by_name::<GetOrg>(),
    by_name::<FindOrg>(),
    by_name::<UpdateOrg>(),
    by_name::<SuspendOrg>(),
    by_name::<ResumeOrg>(),
    by_name::<CreateKey>(),
    by_name::<ListKeys>(),
    by_name::<GetKey>(),
    by_name::<FindKey>(),
    by_name::<UpdateKey>(),
    by_name::<SuspendKey>(),
    by_name::<ResumeKey>(),
    by_name::<RevokeKey>(),
    by_name::<RotateKeyCommand>(),
    by_name::<PrepareRotation>(),
    by_name::<FinishRotation>(),
    by_name::<GetKeyLimits>(),
    by_name::<GetIpLimits>(),
    by_name::<ResetKey>(),
    by_name::<ResetIp>(),
    by_name::<OverrideLimit>(),
    by_name::<RestoreLimit>(),
    by_name::<Block>(),
    by_name::<Unblock>(),
    by_name::<ListBlocks>(),
    by_name::<GetStats>(),
    by_name::<GetUsage>(),
    by_name::<ListRequests>(),
    by_name::<TailUsage>(),
    by_name::<ListAudit>(),
    by_name::<files::VerifyFile>(),
    by_name::<files::BackUp>(),
    by_name::<files::GetBackupProgress>(),
    by_name::<Check>(),
    by_name::<Reload>(),
    by_name::<Diagnose>(),
    by_name::<webhooks::ListDeliveries>(),
    by_name::<webhooks::Redeliver>(),
    by_name::<webhooks::SendTestEvent>(),
];

const fn by_name<C: Command>() -> (&'static str, Run) {
    (C::NAME, |admin, arguments| {
        let command: C = from_json(arguments)?;
        reply_to_json(command.run(admin)?)
    })
}

/// Converts a command, or the arguments of one, from JSON.
pub(super) fn from_json<T: DeserializeOwned>(value: Value) -> Result<T, Failure> {
    serde_json::from_value(value).map_err(|error| refused(format!("invalid arguments: {error}")))
}

fn refused(message: String) -> Failure {
    Failure::new(FailureCode::Refused, message)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<&str> = COMMANDS.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), COMMANDS.len());
    }
}
