//! Commands for limits and the policy.

use serde::{Deserialize, Serialize};

use super::{Command, KeyReply};
use crate::admin::{Admin, AdminError};
use crate::guard::LimitStatus;
use crate::model::KeyId;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
pub(crate) struct GetIpLimits {
    /// An IP address or a network.
    #[cfg_attr(feature = "openapi", param(example = "192.0.2.7"))]
    pub(crate) ip: String,
}

impl Command for GetIpLimits {
    type Reply = Vec<LimitStatus>;
    const NAME: &'static str = "getIpLimits";

    fn run(self, admin: &Admin) -> Result<Vec<LimitStatus>, AdminError> {
        admin.ip_limits(self.ip)
    }
}

/// The counts of a key to reset.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(crate) struct ResetKey {
    pub(crate) id: KeyId,
    /// The name of a limit. Default: all limits of the key.
    #[cfg_attr(feature = "openapi", schema(example = "default"))]
    pub(crate) limit: Option<String>,
}

impl Command for ResetKey {
    type Reply = Vec<LimitStatus>;
    const NAME: &'static str = "resetKey";

    fn run(self, admin: &Admin) -> Result<Vec<LimitStatus>, AdminError> {
        admin.reset_key(self.id, self.limit.as_deref())?;
        admin.key_limits(self.id)
    }
}

/// The IP address whose counts to reset.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(crate) struct ResetIp {
    /// An IP address or a network.
    #[cfg_attr(feature = "openapi", schema(example = "192.0.2.7"))]
    pub(crate) ip: String,
}

impl Command for ResetIp {
    type Reply = Vec<LimitStatus>;
    const NAME: &'static str = "resetIp";

    fn run(self, admin: &Admin) -> Result<Vec<LimitStatus>, AdminError> {
        admin.reset_ip(&self.ip)?;
        admin.ip_limits(self.ip)
    }
}

/// A limit to override.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(crate) struct OverrideLimit {
    pub(crate) id: KeyId,
    /// The name of the limit.
    #[cfg_attr(feature = "openapi", schema(example = "default"))]
    pub(crate) limit: String,
    /// A duration, such as `1 hour`, or a time of day, such as `4:00 PM`.
    #[cfg_attr(feature = "openapi", schema(example = "1 hour"))]
    pub(crate) duration: String,
}

impl Command for OverrideLimit {
    type Reply = KeyReply;
    const NAME: &'static str = "overrideLimit";

    fn run(self, admin: &Admin) -> Result<KeyReply, AdminError> {
        let key = admin.override_limit(self.id, &self.limit, self.duration)?;
        KeyReply::new(key, admin)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
pub(crate) struct RestoreLimit {
    pub(crate) id: KeyId,
    /// The name of a limit.
    #[cfg_attr(feature = "openapi", param(example = "default"))]
    pub(crate) limit: String,
}

impl Command for RestoreLimit {
    type Reply = KeyReply;
    const NAME: &'static str = "restoreLimit";

    fn run(self, admin: &Admin) -> Result<KeyReply, AdminError> {
        KeyReply::new(admin.restore_limit(self.id, &self.limit)?, admin)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
pub(crate) struct Reload {}

impl Command for Reload {
    type Reply = Reloaded;
    const NAME: &'static str = "reload";

    fn run(self, admin: &Admin) -> Result<Reloaded, AdminError> {
        admin.reload()?;
        Ok(Reloaded { reloaded: true })
    }
}

/// The policy file was reloaded.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(crate) struct Reloaded {
    reloaded: bool,
}
