//! Inputs of the endpoints that are not commands themselves.

use serde::Deserialize;

use crate::admin::answer::{Failure, PAGE, Rotation};
use crate::admin::{Admin, UpdateKey, nullable};
use crate::input::InvalidInput;
use crate::model::{KeyId, OrgId};
use crate::time::Timestamp;

/// A new organization.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct NewOrg {
    /// Its name: 1 to 255 visible characters and spaces, and not similar to an existing name. The
    /// Python package calls it `name`.
    #[serde(alias = "name")]
    #[cfg_attr(feature = "openapi", schema(example = "acme"))]
    pub(super) org_name: String,
}

/// Changes of an organization.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct OrgChanges {
    /// Limits that all its keys share; they replace the existing ones.
    #[cfg_attr(feature = "openapi", schema(example = json!(["1000/s", "500000 monthly"])))]
    pub(super) limits: Vec<String>,
}

/// Changes of a key. Omitted fields stay as they are.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct KeyChanges {
    /// The label: 1 to 255 visible characters and spaces.
    label: Option<String>,
    /// Scopes; they replace the existing ones.
    scopes: Option<Vec<String>>,
    /// The number of requests admitted in any 60 seconds.
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    rate_limit_per_minute: Option<u32>,
    /// Further limits; they replace the existing ones.
    limits: Option<Vec<String>>,
    /// IP addresses and networks from which the key is accepted; empty for all.
    allowed_ips: Option<Vec<String>>,
    /// The time of expiry, in the future; null for never.
    #[serde(default, deserialize_with = "nullable::deserialize")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Timestamp>))]
    expires_at: Option<Option<Timestamp>>,
    /// Whether to accept an expired key again. Its text may have leaked since; rotation replaces it.
    #[serde(default)]
    reactivate: bool,
}

impl KeyChanges {
    pub(super) fn of_key(self, id: u64) -> UpdateKey {
        UpdateKey {
            id: KeyId(id),
            label: self.label,
            scopes: self.scopes,
            rate_limit_per_minute: self.rate_limit_per_minute,
            limits: self.limits,
            allowed_ips: self.allowed_ips,
            expires_at: self.expires_at,
            reactivate: self.reactivate,
        }
    }
}

/// A rotation.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct KeyRotation {
    /// How long the old text is still accepted: `1 hour`, `90s`; `0` for no longer.
    #[serde(default = "one_hour")]
    #[cfg_attr(feature = "openapi", schema(example = "1 hour"))]
    grace: String,
    /// A new time of expiry; null for never. An expired key needs one, and its old text is no longer
    /// accepted.
    #[serde(default, deserialize_with = "nullable::deserialize")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Timestamp>))]
    expires_at: Option<Option<Timestamp>>,
}

fn one_hour() -> String {
    "1 hour".into()
}

impl KeyRotation {
    pub(super) fn of_key(self, id: u64) -> Rotation {
        Rotation {
            key: id.to_string(),
            grace: self.grace,
            expires_at: self.expires_at,
            raw_key: None,
        }
    }
}

/// The counts of a key to reset.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct KeyReset {
    /// The name of a limit. Default: all limits of the key.
    #[cfg_attr(feature = "openapi", schema(example = "default"))]
    pub(super) rule: Option<String>,
}

/// A limit to override.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(super) struct NewOverride {
    /// The name of the limit.
    #[cfg_attr(feature = "openapi", schema(example = "default"))]
    pub(super) rule: String,
    /// A duration, such as `1 hour`, or a time of day, such as `4:00 PM`.
    #[cfg_attr(feature = "openapi", schema(example = "1 hour"))]
    pub(super) duration: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
pub(super) struct RuleName {
    /// The name of a limit.
    #[cfg_attr(feature = "openapi", param(example = "default"))]
    pub(super) rule: String,
}

/// An IP address or a network.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams, utoipa::ToSchema))]
pub(super) struct Address {
    /// An IP address or a network.
    #[cfg_attr(
        feature = "openapi",
        param(example = "192.0.2.7"),
        schema(example = "192.0.2.7")
    )]
    pub(super) ip: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
pub(super) struct Blocked {
    /// An IP address or a network.
    #[cfg_attr(feature = "openapi", param(example = "192.0.2.7"))]
    pub(super) ip: String,
    /// Only the lock of this path.
    pub(super) path: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
pub(super) struct OrgPage {
    /// Only organizations with a greater id: that of the last row of the previous page.
    pub(super) after: Option<u64>,
    /// The maximum number of rows.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", param(value_type = usize, minimum = 1, maximum = 1000, default = 1000))]
    pub(super) limit: Rows,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
pub(super) struct KeyPage {
    /// Only keys of the organization with this id.
    org_id: Option<u64>,
    /// Only keys of the organization with this name.
    #[cfg_attr(feature = "openapi", param(example = "acme"))]
    org: Option<String>,
    /// Only keys with a greater id: that of the last row of the previous page.
    pub(super) after: Option<u64>,
    /// The maximum number of rows.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", param(value_type = usize, minimum = 1, maximum = 1000, default = 1000))]
    pub(super) limit: Rows,
}

impl KeyPage {
    pub(super) fn org_id(&self, admin: &Admin) -> Result<Option<OrgId>, Failure> {
        let by_id = self.org_id.map(OrgId);
        let Some(name) = &self.org else {
            return Ok(by_id);
        };
        let by_name = admin.find_org(name)?.id;
        if by_id.is_some_and(|id| id != by_name) {
            let problem = "is a different organization than `org_id`; give one of them";
            return Err(InvalidInput::new("org", problem).into());
        }
        Ok(Some(by_name))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
pub(super) struct AuditPage {
    /// Only entries with a lower id: that of the last row of the previous page.
    pub(super) before: Option<u64>,
    /// The maximum number of rows.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", param(value_type = usize, minimum = 1, maximum = 1000, default = 1000))]
    pub(super) limit: Rows,
}

/// A number of rows from 1 to [`PAGE`].
#[derive(Deserialize)]
#[serde(try_from = "usize")]
pub(super) struct Rows(pub(super) usize);

impl Default for Rows {
    fn default() -> Self {
        Self(PAGE)
    }
}

impl TryFrom<usize> for Rows {
    type Error = &'static str;

    fn try_from(rows: usize) -> Result<Self, Self::Error> {
        match rows {
            1..=PAGE => Ok(Self(rows)),
            _ => Err("limit: expected 1 to 1,000 rows"),
        }
    }
}
