//! Commands for keys.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Command, Rows};
use crate::admin::{Admin, AdminError, CreateKey, CreatedKey, RotateKey, UpdateKey, nullable};
use crate::input::InvalidInput;
use crate::model::{Key, KeyId, OrgId};
use crate::time::{LockDuration, Timestamp};

impl Command for CreateKey {
    type Reply = NewKeyReply;
    const NAME: &'static str = "createKey";

    fn run(self, admin: &Admin) -> Result<NewKeyReply, AdminError> {
        NewKeyReply::new(admin.create_key(self)?, admin)
    }
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
pub(crate) struct ListKeys {
    /// Only keys of the organization with this id.
    #[cfg_attr(feature = "openapi", param(value_type = Option<u64>))]
    pub(crate) org_id: Option<OrgId>,
    /// Only keys of the organization with this name.
    #[cfg_attr(feature = "openapi", param(example = "acme"))]
    pub(crate) org: Option<String>,
    /// Only keys whose label, prefix or organization name contains this text, or whose id it is. The case of
    /// the letters A to Z does not matter.
    #[cfg_attr(feature = "openapi", param(example = "shop"))]
    pub(crate) search: Option<String>,
    /// Only keys with a greater id: that of the last row of the previous page.
    #[cfg_attr(feature = "openapi", param(value_type = Option<u64>))]
    pub(crate) after: Option<KeyId>,
    /// The maximum number of rows.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", param(value_type = usize, minimum = 1, maximum = 1000, default = 1000))]
    pub(crate) limit: Rows,
}

impl Command for ListKeys {
    type Reply = Vec<KeyReply>;
    const NAME: &'static str = "listKeys";

    fn run(self, admin: &Admin) -> Result<Vec<KeyReply>, AdminError> {
        let mut names = HashMap::new();
        let reply = |key: Key| {
            let org_name: &String = match names.entry(key.org_id) {
                Entry::Occupied(name) => name.into_mut(),
                Entry::Vacant(entry) => entry.insert(admin.get_org(key.org_id)?.name),
            };
            Ok(KeyReply::with_org(key, org_name.clone()))
        };
        let (org, page) = (self.org_id(admin)?, self.limit.after(self.after));
        let keys = match &self.search {
            Some(text) => admin.search_keys(text, org, page)?,
            None => admin.list_keys(org, page)?,
        };
        Rows::page(keys.into_iter().map(reply))
    }
}

impl ListKeys {
    fn org_id(&self, admin: &Admin) -> Result<Option<OrgId>, AdminError> {
        let Some(name) = &self.org else {
            return Ok(self.org_id);
        };
        let by_name = admin.find_org(name)?.id;
        if self.org_id.is_some_and(|id| id != by_name) {
            let problem = "is a different organization than `org_id`; give one of them";
            return Err(InvalidInput::new("org", problem).into());
        }
        Ok(Some(by_name))
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct FindKey {
    /// The id or the whole prefix of the key.
    pub(crate) key: String,
}

impl Command for FindKey {
    type Reply = KeyReply;
    const NAME: &'static str = "findKey";

    fn run(self, admin: &Admin) -> Result<KeyReply, AdminError> {
        KeyReply::new(admin.find_key(&self.key)?, admin)
    }
}

impl Command for UpdateKey {
    type Reply = KeyReply;
    const NAME: &'static str = "updateKey";

    fn run(self, admin: &Admin) -> Result<KeyReply, AdminError> {
        KeyReply::new(admin.update_key(self)?, admin)
    }
}

/// A rotation.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(as = RotateKey, example = json!({ "grace": "1 hour" })))]
pub(crate) struct RotateKeyCommand {
    pub(crate) id: KeyId,
    /// How long the old text is still accepted: `1 hour`, `90s`; `0` for no longer.
    #[serde(default = "one_hour")]
    pub(crate) grace: String,
    /// A new time of expiry; null for never. An expired key needs one, and its old text is no longer
    /// accepted.
    #[serde(default, with = "nullable", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Timestamp>))]
    pub(crate) expires_at: Option<Option<Timestamp>>,
}

fn one_hour() -> String {
    "1 hour".into()
}

impl Command for RotateKeyCommand {
    type Reply = NewKeyReply;
    const NAME: &'static str = "rotateKey";

    fn run(self, admin: &Admin) -> Result<NewKeyReply, AdminError> {
        NewKeyReply::new(admin.rotate_key(self.request(admin)?)?, admin)
    }
}

impl RotateKeyCommand {
    fn request(&self, admin: &Admin) -> Result<RotateKey, AdminError> {
        let now = admin.guard.now();
        let grace = match self.grace.as_str() {
            "0" => Duration::ZERO,
            text => {
                let duration: LockDuration = text.parse()?;
                let end = duration.ends_at(now, admin.guard.locks().zone())?;
                end.since(now)
            }
        };
        Ok(RotateKey {
            id: self.id,
            grace,
            expires_at: self.expires_at,
        })
    }
}

/// Returns what a rotation would return, with a new text, and changes nothing.
#[derive(Serialize, Deserialize)]
pub(crate) struct PrepareRotation(pub(crate) RotateKeyCommand);

impl Command for PrepareRotation {
    type Reply = NewKeyReply;
    const NAME: &'static str = "prepareRotation";

    fn run(self, admin: &Admin) -> Result<NewKeyReply, AdminError> {
        NewKeyReply::new(admin.prepare_rotation(self.0.request(admin)?)?, admin)
    }
}

/// Carries out a rotation with a prepared text.
#[derive(Serialize, Deserialize)]
pub(crate) struct FinishRotation {
    pub(crate) rotation: RotateKeyCommand,
    pub(crate) raw_key: String,
}

impl Command for FinishRotation {
    type Reply = NewKeyReply;
    const NAME: &'static str = "finishRotation";

    fn run(self, admin: &Admin) -> Result<NewKeyReply, AdminError> {
        let request = self.rotation.request(admin)?;
        NewKeyReply::new(admin.rotate_to(request, self.raw_key.parse()?)?, admin)
    }
}

#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(crate) struct KeyReply {
    #[serde(flatten)]
    pub(crate) key: Key,
    /// Whether its status is `active`.
    active: bool,
    /// The name of the organization that owns it.
    #[cfg_attr(feature = "openapi", schema(example = "acme"))]
    pub(crate) org_name: String,
}

impl KeyReply {
    pub(super) fn new(key: Key, admin: &Admin) -> Result<Self, AdminError> {
        let org_name = admin.get_org(key.org_id)?.name;
        Ok(Self::with_org(key, org_name))
    }

    fn with_org(key: Key, org_name: String) -> Self {
        Self {
            active: key.is_active(),
            key,
            org_name,
        }
    }
}

/// A key that was created or rotated.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(crate) struct NewKeyReply {
    #[serde(flatten)]
    pub(crate) reply: KeyReply,
    /// Its text, which is shown only once.
    #[cfg_attr(
        feature = "openapi",
        schema(example = "kg_live_2loam6jy9PNDwjKpPpShaRI8k1BYhn-t0PeWeGdlHm03z7H35")
    )]
    pub(crate) raw_key: String,
}

impl NewKeyReply {
    fn new(created: CreatedKey, admin: &Admin) -> Result<Self, AdminError> {
        Ok(Self {
            raw_key: created.raw_key.expose().to_owned(),
            reply: KeyReply::new(created.key, admin)?,
        })
    }
}
