//! Commands for organizations.

use serde::{Deserialize, Serialize};

use super::{Command, Rows};
use crate::admin::{Admin, AdminError, UpdateOrg};
use crate::model::{Org, OrgId};

/// A new organization.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(crate) struct CreateOrg {
    /// Its name: 1 to 255 visible characters and spaces, and not similar to an existing name. The
    /// Python package calls it `name`.
    #[serde(alias = "name")]
    #[cfg_attr(feature = "openapi", schema(example = "acme"))]
    pub(crate) org_name: String,
}

impl Command for CreateOrg {
    type Reply = OrgReply;
    const NAME: &'static str = "createOrg";

    fn run(self, admin: &Admin) -> Result<OrgReply, AdminError> {
        Ok(admin.create_org(&self.org_name)?.into())
    }
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
pub(crate) struct ListOrgs {
    /// Only organizations whose name contains this text, or whose id it is. The case of the letters A to Z
    /// does not matter.
    #[cfg_attr(feature = "openapi", param(example = "acme"))]
    pub(crate) search: Option<String>,
    /// Only organizations with a greater id: that of the last row of the previous page.
    #[cfg_attr(feature = "openapi", param(value_type = Option<u64>))]
    pub(crate) after: Option<OrgId>,
    /// The maximum number of rows.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", param(value_type = usize, minimum = 1, maximum = 1000, default = 1000))]
    pub(crate) limit: Rows,
}

impl Command for ListOrgs {
    type Reply = Vec<OrgReply>;
    const NAME: &'static str = "listOrgs";

    fn run(self, admin: &Admin) -> Result<Vec<OrgReply>, AdminError> {
        let page = self.limit.after(self.after);
        let orgs = match &self.search {
            Some(text) => admin.search_orgs(text, page)?,
            None => admin.list_orgs(page)?,
        };
        Rows::page(orgs.into_iter().map(|org| Ok(org.into())))
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct FindOrg {
    pub(crate) org_name: String,
}

impl Command for FindOrg {
    type Reply = OrgReply;
    const NAME: &'static str = "findOrg";

    fn run(self, admin: &Admin) -> Result<OrgReply, AdminError> {
        Ok(admin.find_org(&self.org_name)?.into())
    }
}

impl Command for UpdateOrg {
    type Reply = OrgReply;
    const NAME: &'static str = "updateOrg";

    fn run(self, admin: &Admin) -> Result<OrgReply, AdminError> {
        Ok(admin.update_org(self)?.into())
    }
}

/// An organization. `org_name` repeats its name, as requests call it.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(crate) struct OrgReply {
    #[serde(flatten)]
    pub(crate) org: Org,
    #[cfg_attr(feature = "openapi", schema(example = "acme"))]
    org_name: String,
}

impl From<Org> for OrgReply {
    fn from(org: Org) -> Self {
        Self {
            org_name: org.name.clone(),
            org,
        }
    }
}
