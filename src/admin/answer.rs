//! One request and its reply, as they travel: the vocabulary that the command line speaks with a
//! data file, whoever holds it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Admin, AdminError, CreateKey, CreatedKey, IpTarget, Page, RotateKey, Stats, UpdateKey,
    UpdateOrg, nullable,
};
use crate::guard::{self, KeySource, Request, RuleState, Verdict};
use crate::input::InvalidInput;
use crate::model::{Key, KeyId, Org, OrgId, Reason};
use crate::net::ClientIp;
use crate::store::with_causes;
use crate::time::LockDuration;
use crate::time::Timestamp;

/// What can be asked of a data file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub(crate) enum Command {
    CreateOrg {
        org_name: String,
    },
    ListOrgs {
        after: Option<OrgId>,
        limit: usize,
    },
    FindOrg {
        id: OrgId,
    },
    SuspendOrg {
        org_name: String,
    },
    ResumeOrg {
        org_name: String,
    },
    CreateKey(CreateKey),
    ListKeys(ListKeys),
    FindKey {
        key: String,
    },
    UpdateKey(UpdateKey),
    /// Says what the rotation will answer, with a new text, and changes nothing.
    PrepareRotation(Rotation),
    RotateKey(Rotation),
    RevokeKey {
        key: String,
    },
    Stats,
    Check(Check),
    Block(Block),
    Unblock {
        ip: String,
        path: Option<String>,
    },
    ListBlocks,
    UpdateOrg {
        org_name: String,
        limits: Vec<String>,
    },
    Limits(Whose),
    Reset {
        whose: Whose,
        rule: Option<String>,
    },
    OverrideLimit {
        key: String,
        rule: String,
        duration: String,
    },
    RestoreLimit {
        key: String,
        rule: String,
    },
    Reload,
    Audit {
        before: Option<u64>,
        limit: usize,
    },
}

/// The keys to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ListKeys {
    /// Only keys of this organization.
    pub(crate) org_id: Option<OrgId>,
    /// Only keys with a greater id: the last of the page before.
    pub(crate) after: Option<KeyId>,
    /// The maximum number of keys.
    pub(crate) limit: usize,
}

impl Default for ListKeys {
    fn default() -> Self {
        Self {
            org_id: None,
            after: None,
            limit: PAGE,
        }
    }
}

/// A rotation to carry out.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rotation {
    pub(crate) key: String,
    pub(crate) grace: String,
    #[serde(default, with = "nullable", skip_serializing_if = "Option::is_none")]
    pub(crate) expires_at: Option<Option<Timestamp>>,
    /// The text that was prepared; a new one if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) raw_key: Option<String>,
}

/// Without the text.
impl std::fmt::Debug for Rotation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rotation")
            .field("key", &self.key)
            .field("grace", &self.grace)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// A key, by its id or its whole prefix, or an address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Whose {
    Key(String),
    Ip(String),
}

/// A request to look at.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(crate) struct Check {
    /// The id or prefix of a key, if neither its text nor no key is presented.
    pub(crate) key: Option<String>,
    /// The text of a key. It goes no further than the guard that hashes it.
    pub(crate) raw_key: Option<String>,
    /// The address of the client, or `local`.
    #[cfg_attr(feature = "openapi", schema(example = "192.0.2.7"))]
    pub(crate) ip: String,
    /// The path it asks for.
    #[cfg_attr(feature = "openapi", schema(example = "/orders"))]
    pub(crate) path: String,
    /// The method it asks with.
    #[serde(default)]
    pub(crate) method: String,
    /// Where it is not that of the routes.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u32>, minimum = 1))]
    pub(crate) cost: Option<NonZeroU32>,
    /// What the key must hold.
    #[serde(default)]
    pub(crate) scopes: Vec<String>,
}

/// Without the text of the key.
impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Check")
            .field("key", &self.key)
            .field("ip", &self.ip)
            .finish_non_exhaustive()
    }
}

/// An address to lock out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(crate) struct Block {
    /// An address, or a network as listings show it.
    #[cfg_attr(feature = "openapi", schema(example = "192.0.2.7"))]
    pub(crate) ip: String,
    /// Only out of this path; out of everything if it is left out.
    pub(crate) path: Option<String>,
    /// For how long, such as `1 hour`, or until when, such as `4:00 PM`.
    #[cfg_attr(feature = "openapi", schema(example = "1 hour"))]
    pub(crate) duration: String,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) code: FailureCode,
    pub(crate) message: String,
    /// The field that cannot be accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) field: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) candidates: Vec<Key>,
    /// The id of what an earlier request of the same name made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FailureCode {
    Invalid,
    NotFound,
    Conflict,
    Ambiguous,
    Damaged,
    Unavailable,
    /// The other side is of another user, or of another version.
    Refused,
}

impl Failure {
    pub(crate) fn new(code: FailureCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            field: None,
            candidates: Vec::new(),
            id: None,
        }
    }
}

impl From<InvalidInput> for Failure {
    fn from(error: InvalidInput) -> Self {
        AdminError::from(error).into()
    }
}

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Self {
        let code = match &error {
            AdminError::Invalid(_) | AdminError::Policy(_) => FailureCode::Invalid,
            AdminError::NotFound(_) => FailureCode::NotFound,
            AdminError::Conflict(_) | AdminError::AlreadyDone { .. } => FailureCode::Conflict,
            AdminError::Ambiguous { .. } => FailureCode::Ambiguous,
            AdminError::Damaged(_) => FailureCode::Damaged,
            AdminError::Unavailable(_) => FailureCode::Unavailable,
        };
        let mut failure = Self::new(code, with_causes(&error));
        match error {
            AdminError::Invalid(invalid) => failure.field = Some(invalid.field().to_owned()),
            AdminError::Ambiguous { candidates, .. } => failure.candidates = candidates,
            AdminError::AlreadyDone { subject } => failure.id = subject,
            _ => {}
        }
        failure
    }
}

/// A key that was created or rotated.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(crate) struct NewKeyReply {
    #[serde(flatten)]
    pub(crate) key: Key,
    /// Whether its status is `active`.
    pub(crate) active: bool,
    pub(crate) org_name: String,
    /// Its text, which is shown this once.
    pub(crate) raw_key: String,
}

/// An organization. Its name also goes by that of the field in which it is asked for.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(crate) struct OrgReply {
    #[serde(flatten)]
    pub(crate) org: Org,
    pub(crate) org_name: String,
}

impl From<Org> for OrgReply {
    fn from(org: Org) -> Self {
        Self {
            org_name: org.name.clone(),
            org,
        }
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(crate) struct ListedKey {
    #[serde(flatten)]
    pub(crate) key: Key,
    /// Whether its status is `active`.
    pub(crate) active: bool,
    pub(crate) org_name: String,
}

impl ListedKey {
    fn new(key: Key, org_name: String) -> Self {
        Self {
            active: key.is_active(),
            key,
            org_name,
        }
    }
}

/// What the data file holds and what was asked of it.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(crate) struct StatsReply {
    #[serde(flatten)]
    pub(crate) stats: Stats,
    /// The part of all requests that were answered with a status of 400 or above, from 0 to 1.
    pub(crate) error_rate: f64,
}

/// The policy file was read.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(crate) struct Reloaded {
    pub(crate) reloaded: bool,
}

/// What a request would be answered with.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(crate) struct CheckReply {
    pub(crate) allowed: bool,
    pub(crate) status: u16,
    pub(crate) reason: Option<Reason>,
    /// In whole seconds, rounded up.
    pub(crate) retry_after: Option<u64>,
    /// The limit that refuses.
    pub(crate) rule: Option<String>,
    pub(crate) rules: Vec<RuleState>,
    /// What would refuse, were it not in shadow mode.
    pub(crate) shadowed: Vec<String>,
    /// Whether the decision came to the key. It does not where the path needs none, nor where the
    /// address alone is refused.
    pub(crate) key_checked: bool,
}

impl From<Verdict> for CheckReply {
    fn from(verdict: Verdict) -> Self {
        let denial = verdict.denial.as_ref();
        Self {
            allowed: verdict.is_allowed(),
            status: verdict
                .denial
                .as_ref()
                .map_or(200, |denial| denial.status()),
            reason: verdict.denial.as_ref().map(|denial| denial.reason()),
            retry_after: denial.and_then(|denial| denial.retry_after_seconds()),
            rule: verdict.denial.as_ref().and_then(|denial| denial.rule()),
            rules: verdict.rules,
            shadowed: verdict.shadowed,
            key_checked: verdict.key_checked,
        }
    }
}

impl Admin {
    /// Carries a command out. A reply is the same, and says the same, for whoever asks.
    pub(crate) fn answer(&self, command: Command) -> Result<Value, Failure> {
        match command {
            Command::CreateOrg { org_name } => reply(OrgReply::from(self.create_org(&org_name)?)),
            Command::ListOrgs { after, limit } => {
                let orgs = self.list_orgs(up_to(after, limit))?;
                page(orgs.into_iter().map(|org| Ok(OrgReply::from(org))))
            }
            Command::FindOrg { id } => reply(OrgReply::from(self.get_org(id)?)),
            Command::SuspendOrg { org_name } => {
                let id = self.find_org(&org_name)?.id;
                reply(OrgReply::from(self.suspend_org(id)?))
            }
            Command::ResumeOrg { org_name } => {
                let id = self.find_org(&org_name)?.id;
                reply(OrgReply::from(self.resume_org(id)?))
            }
            Command::CreateKey(request) => self.new_key_reply(self.create_key(request)?),
            Command::ListKeys(request) => self.list(request),
            Command::FindKey { key } => self.key_reply(self.find_key(&key)?),
            Command::UpdateKey(request) => self.key_reply(self.update_key(request)?),
            Command::PrepareRotation(rotation) => {
                let request = self.rotation(&rotation)?;
                self.new_key_reply(self.prepare_rotation(request)?)
            }
            Command::RotateKey(rotation) => {
                let request = self.rotation(&rotation)?;
                self.new_key_reply(match rotation.raw_key {
                    None => self.rotate_key(request)?,
                    Some(text) => {
                        self.rotate_to(request, text.parse().map_err(AdminError::from)?)?
                    }
                })
            }
            Command::RevokeKey { key } => {
                let id = self.find_key(&key)?.id;
                self.key_reply(self.revoke_key(id)?)
            }
            Command::Stats => {
                let stats = self.stats()?;
                let error_rate = stats.error_rate();
                reply(StatsReply { stats, error_rate })
            }
            Command::Check(check) => self.check_for(&check),
            Command::Block(block) => self.block_for(&block),
            Command::Unblock { ip, path } => reply(self.unblock(target(&ip)?, path.as_deref())?),
            Command::ListBlocks => reply(self.list_blocks()),
            Command::UpdateOrg { org_name, limits } => {
                let id = self.find_org(&org_name)?.id;
                let change = UpdateOrg::new(id).limits(limits);
                reply(OrgReply::from(self.update_org(change)?))
            }
            Command::Limits(whose) => self.look_at_limits(whose),
            Command::Reset { whose, rule } => {
                match &whose {
                    Whose::Key(key) => self.reset_key(self.find_key(key)?.id, rule.as_deref())?,
                    Whose::Ip(ip) => self.reset_ip(target(ip)?)?,
                }
                self.look_at_limits(whose)
            }
            Command::OverrideLimit {
                key,
                rule,
                duration,
            } => {
                let id = self.find_key(&key)?.id;
                let duration = duration.parse().map_err(AdminError::from)?;
                self.key_reply(self.override_limit(id, &rule, duration)?)
            }
            Command::RestoreLimit { key, rule } => {
                let id = self.find_key(&key)?.id;
                self.key_reply(self.restore_limit(id, &rule)?)
            }
            Command::Reload => {
                self.reload()?;
                reply(Reloaded { reloaded: true })
            }
            Command::Audit { before, limit } => {
                page(self.list_audit(up_to(before, limit))?.into_iter().map(Ok))
            }
        }
    }

    fn look_at_limits(&self, whose: Whose) -> Result<Value, Failure> {
        reply(match whose {
            Whose::Key(key) => self.key_limits(self.find_key(&key)?.id)?,
            Whose::Ip(ip) => self.ip_limits(target(&ip)?)?,
        })
    }

    fn list(&self, request: ListKeys) -> Result<Value, Failure> {
        let mut names = HashMap::new();
        let listed = |key: Key| {
            let org_name: &String = match names.entry(key.org_id) {
                Entry::Occupied(name) => name.into_mut(),
                Entry::Vacant(place) => place.insert(self.get_org(key.org_id)?.name),
            };
            let org_name = org_name.clone();
            Ok(ListedKey::new(key, org_name))
        };
        let keys = self.list_keys(request.org_id, up_to(request.after, request.limit))?;
        page(keys.into_iter().map(listed))
    }

    fn key_reply(&self, key: Key) -> Result<Value, Failure> {
        let org_name = self.get_org(key.org_id)?.name;
        reply(ListedKey::new(key, org_name))
    }

    fn new_key_reply(&self, created: CreatedKey) -> Result<Value, Failure> {
        let CreatedKey { key, raw_key } = created;
        let org_name = self.get_org(key.org_id)?.name;
        let raw_key = raw_key.expose().to_owned();
        reply(NewKeyReply {
            active: key.is_active(),
            key,
            org_name,
            raw_key,
        })
    }

    fn rotation(&self, rotation: &Rotation) -> Result<RotateKey, Failure> {
        let now = self.guard.now();
        let grace = match rotation.grace.as_str() {
            "0" => std::time::Duration::ZERO,
            text => {
                let time: LockDuration = text.parse().map_err(AdminError::from)?;
                let zone = self.guard.locks().zone();
                time.ends_at(now, zone)
                    .map_err(AdminError::from)?
                    .since(now)
            }
        };
        Ok(RotateKey {
            id: self.find_key(&rotation.key)?.id,
            grace,
            expires_at: rotation.expires_at,
        })
    }

    fn check_for(&self, check: &Check) -> Result<Value, Failure> {
        let ip = check.ip.parse::<ClientIp>();
        let ip = ip.map_err(|_| {
            let problem = "is no IPv4 address, no IPv6 address and not `local`";
            InvalidInput::of("ip", &check.ip, problem)
        })?;
        let headers: Vec<(&str, &str)> = check
            .raw_key
            .iter()
            .map(|key| (self.guard.config().key_header.as_str(), key.as_str()))
            .collect();
        let scopes: Vec<&str> = check.scopes.iter().map(String::as_str).collect();
        let mut request = Request::new(&headers, ip, &check.path)
            .method(check.method.as_str())
            .scopes(&scopes);
        if let Some(cost) = check.cost {
            request = request.cost(cost);
        }
        let source = match &check.key {
            Some(key) => KeySource::Key(self.find_key(key)?.id),
            None => KeySource::Presented,
        };
        let verdict = guard::preview(&self.guard, &request, source);
        reply(CheckReply::from(verdict))
    }

    fn block_for(&self, block: &Block) -> Result<Value, Failure> {
        let duration: LockDuration = block.duration.parse().map_err(AdminError::from)?;
        reply(self.block(target(&block.ip)?, block.path.as_deref(), duration)?)
    }
}

fn target(ip: &str) -> Result<IpTarget, AdminError> {
    Ok(ip.parse()?)
}

fn up_to<Id>(after: Option<Id>, limit: usize) -> Page<Id> {
    let limit = limit.min(PAGE);
    Page { after, limit }
}

/// The most rows of one reply.
pub(crate) const PAGE: usize = 1_000;

/// The size in bytes above which a page gets no more rows.
const PAGE_BYTES: usize = 1 << 20;

/// Rows until the page is full, at least one if there is any. The page after the last is empty.
fn page<T: Serialize>(rows: impl Iterator<Item = Result<T, Failure>>) -> Result<Value, Failure> {
    let (mut page, mut bytes) = (Vec::new(), 0);
    for row in rows {
        let row = reply(row?)?;
        bytes += row.to_string().len();
        page.push(row);
        if bytes > PAGE_BYTES {
            break;
        }
    }
    Ok(Value::Array(page))
}

fn reply(value: impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(value).map_err(unwritable)
}

fn unwritable(error: serde_json::Error) -> Failure {
    Failure::new(FailureCode::Unavailable, error.to_string())
}
