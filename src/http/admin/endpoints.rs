//! The table of endpoints.

use http::Method;
use serde::Deserialize;

use super::endpoint::Endpoint;
use super::input::{Json, Query};
use crate::admin::answer::{
    Block, Check, CheckReply, Command, Failure, ListedKey, NewKeyReply, OrgReply, PAGE, Reloaded,
    Rotation, StatsReply, Whose,
};
use crate::admin::{Admin, AdminError, CreateKey, ListKeys, UpdateKey, nullable};
use crate::guard::RuleState;
use crate::input::InvalidInput;
use crate::lockout::Lock;
use crate::model::{AuditEntry, KeyId, OrgId};
use crate::time::Timestamp;

/// A new organization.
#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
struct NewOrg {
    /// Its name: 1 to 255 visible characters and spaces. Names that look alike are one. The Python
    /// package calls it `name`.
    #[serde(alias = "name")]
    #[cfg_attr(feature = "openapi", schema(example = "acme"))]
    org_name: String,
}

/// What to change of an organization.
#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
struct OrgLimits {
    /// Limits that all of its keys share, in place of those it has: `1000/s`, `500000 monthly`.
    #[cfg_attr(feature = "openapi", schema(example = json!(["1000/s", "500000 monthly"])))]
    limits: Vec<String>,
}

/// What to change of a key. Fields that are left out stay as they are.
#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
struct KeyChanges {
    /// A new label: 1 to 255 visible characters and spaces.
    label: Option<String>,
    /// Scopes in place of all it has.
    scopes: Option<Vec<String>>,
    /// Requests admitted in any 60 seconds.
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    rate_limit_per_minute: Option<u32>,
    /// Further limits in place of all it has.
    limits: Option<Vec<String>>,
    /// From where it is accepted; empty for everywhere.
    allowed_ips: Option<Vec<String>>,
    /// From when on it is refused, which is not in the past; null for never.
    #[serde(default, deserialize_with = "nullable::deserialize")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Timestamp>))]
    expires_at: Option<Option<Timestamp>>,
    /// Whether a key that has expired may be accepted again, under a text that may have leaked since.
    #[serde(default)]
    reactivate: bool,
}

impl KeyChanges {
    fn of(self, id: u64) -> UpdateKey {
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

/// For how long the old text of a key goes on.
#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
struct KeyRotation {
    /// `1 hour`, `90s`, `0` for no longer.
    #[serde(default = "one_hour")]
    #[cfg_attr(feature = "openapi", schema(example = "1 hour"))]
    grace: String,
    /// From when on the key is refused, in place of what it says; null for never. One that has expired
    /// needs it, and its old text is then accepted no longer.
    #[serde(default, deserialize_with = "nullable::deserialize")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Timestamp>))]
    expires_at: Option<Option<Timestamp>>,
}

fn one_hour() -> String {
    "1 hour".into()
}

/// What is to be forgotten of a key.
#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
struct KeyReset {
    /// The name of a limit; all of its own if it is left out.
    #[cfg_attr(feature = "openapi", schema(example = "default"))]
    rule: Option<String>,
}

/// A limit to override.
#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
struct NewOverride {
    /// The name of the limit.
    #[cfg_attr(feature = "openapi", schema(example = "default"))]
    rule: String,
    /// For how long, such as `1 hour`, or until when, such as `4:00 PM`.
    #[cfg_attr(feature = "openapi", schema(example = "1 hour"))]
    duration: String,
}

/// An address whose counts are to be forgotten.
#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
struct Address {
    /// An address or a network.
    #[cfg_attr(feature = "openapi", schema(example = "192.0.2.7"))]
    ip: String,
}

/// Which part of a listing.
#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields)]
struct Page {
    /// Only rows with a greater id: the last of the page before.
    after: Option<u64>,
    /// How many rows at most.
    #[serde(default = "page")]
    #[cfg_attr(
        feature = "openapi",
        param(minimum = 1, maximum = 1000, default = 1000)
    )]
    limit: usize,
}

fn page() -> usize {
    PAGE
}

#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields)]
struct KeyPage {
    /// Only keys of this organization, by its id.
    org_id: Option<u64>,
    /// Only keys of this organization, by its name.
    #[cfg_attr(feature = "openapi", param(example = "acme"))]
    org: Option<String>,
    /// Only keys with a greater id: the last of the page before.
    after: Option<u64>,
    /// How many rows at most.
    #[serde(default = "page")]
    #[cfg_attr(
        feature = "openapi",
        param(minimum = 1, maximum = 1000, default = 1000)
    )]
    limit: usize,
}

impl KeyPage {
    fn org_id(&self, admin: &Admin) -> Result<Option<OrgId>, Failure> {
        let by_id = self.org_id.map(OrgId);
        let Some(name) = &self.org else {
            return Ok(by_id);
        };
        let by_name = admin.find_org(name)?.id;
        if by_id.is_some_and(|id| id != by_name) {
            let problem = "names another organization than `org_id`; give one of them";
            return Err(InvalidInput::new("org", problem).into());
        }
        Ok(Some(by_name))
    }
}

#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields)]
struct AuditPage {
    /// Only entries with a lower id: the last of the page before.
    before: Option<u64>,
    /// How many rows at most.
    #[serde(default = "page")]
    #[cfg_attr(
        feature = "openapi",
        param(minimum = 1, maximum = 1000, default = 1000)
    )]
    limit: usize,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields)]
struct RuleName {
    /// The name of a limit.
    #[cfg_attr(feature = "openapi", param(example = "default"))]
    rule: String,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields)]
struct Blocked {
    /// An address or a network.
    #[cfg_attr(feature = "openapi", param(example = "192.0.2.7"))]
    ip: String,
    /// Only the lock of this path.
    path: Option<String>,
}

#[derive(Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[serde(deny_unknown_fields)]
struct OfAddress {
    /// An address or a network.
    #[cfg_attr(feature = "openapi", param(example = "192.0.2.7"))]
    ip: String,
}

/// How many rows, which have to be some.
fn rows(limit: usize) -> Result<usize, Failure> {
    match limit {
        1..=PAGE => Ok(limit),
        _ => Err(InvalidInput::new("limit", "is 1 to 1,000 rows").into()),
    }
}

fn org_name(admin: &Admin, id: u64) -> Result<String, AdminError> {
    Ok(admin.get_org(OrgId(id))?.name)
}

pub(super) fn all() -> Vec<Endpoint> {
    let mut all = orgs();
    all.extend(keys());
    all.extend(limits());
    all.extend(addresses());
    all.extend(others());
    all
}

fn orgs() -> Vec<Endpoint> {
    vec![
        Endpoint::new::<_, _, OrgReply>(
            (Method::POST, "/admin/orgs"),
            ("createOrg", "Create an organization"),
            |_, _, (), Json(NewOrg { org_name })| Ok(Command::CreateOrg { org_name }),
        )
        .creating(),
        Endpoint::new::<_, _, Vec<OrgReply>>(
            (Method::GET, "/admin/orgs"),
            ("listOrgs", "List organizations by id"),
            |_, _, Query(Page { after, limit }), ()| {
                let (after, limit) = (after.map(OrgId), rows(limit)?);
                Ok(Command::ListOrgs { after, limit })
            },
        )
        .paged_by("after"),
        Endpoint::new::<_, _, OrgReply>(
            (Method::GET, "/admin/orgs/{id}"),
            ("getOrg", "Show an organization"),
            |_, id, (), ()| Ok(Command::FindOrg { id: OrgId(id) }),
        ),
        Endpoint::new::<_, _, OrgReply>(
            (Method::PATCH, "/admin/orgs/{id}"),
            ("updateOrg", "Change the limits of an organization"),
            |admin, id, (), Json(OrgLimits { limits })| {
                let org_name = org_name(admin, id)?;
                Ok(Command::UpdateOrg { org_name, limits })
            },
        ),
        Endpoint::new::<_, _, OrgReply>(
            (Method::POST, "/admin/orgs/{id}/suspend"),
            (
                "suspendOrg",
                "Refuse all keys of an organization until it is resumed",
            ),
            |admin, id, (), ()| {
                let org_name = org_name(admin, id)?;
                Ok(Command::SuspendOrg { org_name })
            },
        ),
        Endpoint::new::<_, _, OrgReply>(
            (Method::POST, "/admin/orgs/{id}/resume"),
            (
                "resumeOrg",
                "Accept the keys of a suspended organization again",
            ),
            |admin, id, (), ()| {
                let org_name = org_name(admin, id)?;
                Ok(Command::ResumeOrg { org_name })
            },
        ),
    ]
}

fn keys() -> Vec<Endpoint> {
    vec![
        Endpoint::new::<_, _, NewKeyReply>(
            (Method::POST, "/admin/keys"),
            ("createKey", "Create a key; its text is shown this once"),
            |_, _, (), Json(request): Json<CreateKey>| Ok(Command::CreateKey(request)),
        )
        .creating(),
        Endpoint::new::<_, _, Vec<ListedKey>>(
            (Method::GET, "/admin/keys"),
            ("listKeys", "List keys by id"),
            |admin, _, Query(page): Query<KeyPage>, ()| {
                Ok(Command::ListKeys(ListKeys {
                    org_id: page.org_id(admin)?,
                    after: page.after.map(KeyId),
                    limit: rows(page.limit)?,
                }))
            },
        )
        .paged_by("after"),
        Endpoint::new::<_, _, ListedKey>(
            (Method::GET, "/admin/keys/{id}"),
            ("getKey", "Show a key"),
            |_, id, (), ()| {
                Ok(Command::FindKey {
                    key: id.to_string(),
                })
            },
        ),
        Endpoint::new::<_, _, ListedKey>(
            (Method::PATCH, "/admin/keys/{id}"),
            ("updateKey", "Change a key"),
            |_, id, (), Json(changes): Json<KeyChanges>| Ok(Command::UpdateKey(changes.of(id))),
        ),
        Endpoint::new::<_, _, ListedKey>(
            (Method::DELETE, "/admin/keys/{id}"),
            ("revokeKey", "Refuse a key from now on, for good"),
            |_, id, (), ()| {
                Ok(Command::RevokeKey {
                    key: id.to_string(),
                })
            },
        ),
        Endpoint::new::<_, _, NewKeyReply>(
            (Method::POST, "/admin/keys/{id}/rotate"),
            (
                "rotateKey",
                "Give a key a new text; the old one is accepted for a while",
            ),
            |_, id, (), Json(KeyRotation { grace, expires_at })| {
                Ok(Command::RotateKey(Rotation {
                    key: id.to_string(),
                    grace,
                    expires_at,
                    raw_key: None,
                }))
            },
        )
        .creating(),
    ]
}

fn limits() -> Vec<Endpoint> {
    let of_key = |id: u64| Whose::Key(id.to_string());
    vec![
        Endpoint::new::<_, _, Vec<RuleState>>(
            (Method::GET, "/admin/keys/{id}/limits"),
            (
                "getKeyLimits",
                "Show how the limits of a key stand, consuming nothing",
            ),
            move |_, id, (), ()| Ok(Command::Limits(of_key(id))),
        ),
        Endpoint::new::<_, _, Vec<RuleState>>(
            (Method::POST, "/admin/keys/{id}/reset"),
            ("resetKey", "Forget what a key has used"),
            move |_, id, (), Json(KeyReset { rule })| {
                let whose = of_key(id);
                Ok(Command::Reset { whose, rule })
            },
        ),
        Endpoint::new::<_, _, ListedKey>(
            (Method::POST, "/admin/keys/{id}/overrides"),
            ("overrideLimit", "Override a limit of a key for a time"),
            |_, id, (), Json(NewOverride { rule, duration })| {
                let key = id.to_string();
                Ok(Command::OverrideLimit {
                    key,
                    rule,
                    duration,
                })
            },
        )
        .creating(),
        Endpoint::new::<_, _, ListedKey>(
            (Method::DELETE, "/admin/keys/{id}/overrides"),
            ("restoreLimit", "End the override of a limit of a key"),
            |_, id, Query(RuleName { rule }), ()| {
                let key = id.to_string();
                Ok(Command::RestoreLimit { key, rule })
            },
        ),
    ]
}

fn addresses() -> Vec<Endpoint> {
    vec![
        Endpoint::new::<_, _, Vec<RuleState>>(
            (Method::GET, "/admin/addresses"),
            (
                "getAddressLimits",
                "Show how the limits of an address stand, consuming nothing",
            ),
            |_, _, Query(OfAddress { ip }), ()| Ok(Command::Limits(Whose::Ip(ip))),
        ),
        Endpoint::new::<_, _, Vec<RuleState>>(
            (Method::POST, "/admin/addresses/reset"),
            ("resetAddress", "Forget what was counted of an address"),
            |_, _, (), Json(Address { ip })| {
                let (whose, rule) = (Whose::Ip(ip), None);
                Ok(Command::Reset { whose, rule })
            },
        ),
        Endpoint::new::<_, _, Vec<Lock>>(
            (Method::GET, "/admin/blocks"),
            ("listBlocks", "List who is locked out"),
            |_, _, (), ()| Ok(Command::ListBlocks),
        ),
        Endpoint::new::<_, _, Lock>(
            (Method::POST, "/admin/blocks"),
            ("block", "Lock an address out"),
            |_, _, (), Json(block): Json<Block>| Ok(Command::Block(block)),
        )
        .creating(),
        Endpoint::new::<_, _, Vec<Lock>>(
            (Method::DELETE, "/admin/blocks"),
            ("unblock", "End the locks of an address, and list them"),
            |_, _, Query(Blocked { ip, path }), ()| Ok(Command::Unblock { ip, path }),
        ),
    ]
}

fn others() -> Vec<Endpoint> {
    vec![
        Endpoint::new::<_, _, StatsReply>(
            (Method::GET, "/admin/stats"),
            (
                "getStats",
                "Show what the data file holds and what was asked of it",
            ),
            |_, _, (), ()| Ok(Command::Stats),
        ),
        Endpoint::new::<_, _, Vec<AuditEntry>>(
            (Method::GET, "/admin/audit"),
            ("listAudit", "List who changed what, the latest first"),
            |_, _, Query(AuditPage { before, limit }), ()| {
                let limit = rows(limit)?;
                Ok(Command::Audit { before, limit })
            },
        )
        .paged_by("before"),
        Endpoint::new::<_, _, CheckReply>(
            (Method::POST, "/admin/check"),
            (
                "check",
                "Show what a request would be answered with, consuming nothing",
            ),
            |_, _, (), Json(check): Json<Check>| Ok(Command::Check(check)),
        ),
        Endpoint::new::<_, _, Reloaded>(
            (Method::POST, "/admin/reload"),
            ("reload", "Read the policy file again"),
            |_, _, (), ()| Ok(Command::Reload),
        ),
    ]
}
