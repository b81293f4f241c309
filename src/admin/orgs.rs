//! Administration of organizations.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::{Admin, AdminError, Page, keys};
use crate::input::{Given, InvalidInput, text};
use crate::limit::Limit;
use crate::model::{Org, OrgId, OrgStatus};
use crate::store::{OrgChange, Store};

/// A change to an organization, for [`Admin::update_org`]. Fields that are not set stay as they are.
///
/// ```
/// use keyguard::{OrgId, UpdateOrg};
/// let change = UpdateOrg::new(OrgId(3)).limits(["1000/s", "500000 monthly"]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[must_use]
pub struct UpdateOrg {
    pub(crate) id: OrgId,
    /// Limits that all its keys share; they replace the existing ones.
    #[serde(deserialize_with = "required")]
    #[cfg_attr(
        feature = "openapi",
        schema(value_type = Vec<String>, example = json!(["1000/s", "500000 monthly"]))
    )]
    pub(crate) limits: Option<Vec<Given<Limit>>>,
}

/// Deserializes a field that must be present.
fn required<'de, D: Deserializer<'de>>(limits: D) -> Result<Option<Vec<Given<Limit>>>, D::Error> {
    Vec::deserialize(limits).map(Some)
}

impl UpdateOrg {
    /// Creates a change that sets no field.
    pub fn new(id: OrgId) -> Self {
        Self { id, limits: None }
    }

    /// Replaces the [limits](Limit) that all keys of the organization share: at most 8, each with a
    /// counter of its own.
    pub fn limits(
        mut self,
        limits: impl IntoIterator<Item: TryInto<Limit, Error: Into<InvalidInput>>>,
    ) -> Self {
        self.limits = Some(Given::list(limits));
        self
    }
}

impl Admin {
    /// Creates an organization with a unique name of 1 to 255 visible characters and spaces.
    ///
    /// Names that look alike are the same name (by their skeletons of Unicode Technical Standard 39).
    ///
    /// # Errors
    /// [`AdminError::Invalid`] for the name; [`AdminError::OrgExists`]; [`AdminError::SimilarOrgExists`].
    pub fn create_org(&self, name: &str) -> Result<Org, AdminError> {
        let name = keys::name("org_name", name)?;
        let audit = self.audit_context("create_org", None, json!({ "org_name": name }));
        Ok(self.guard.store().create_org(&name, &audit)?)
    }

    /// Returns an organization by its id.
    ///
    /// # Errors
    /// [`AdminError::OrgNotFound`]
    pub fn get_org(&self, id: OrgId) -> Result<Org, AdminError> {
        Ok(self.guard.store().org(id)?)
    }

    /// Returns an organization by its name.
    ///
    /// # Errors
    /// [`AdminError::OrgNameNotFound`]
    pub fn find_org(&self, name: &str) -> Result<Org, AdminError> {
        let name = text::normalized(name);
        Ok(self.guard.store().org_named(&name)?)
    }

    /// Returns a page of organizations, by ascending id.
    ///
    /// # Errors
    /// [`AdminError::Unavailable`]
    pub fn list_orgs(&self, page: Page<OrgId>) -> Result<Vec<Org>, AdminError> {
        Ok(self.guard.store().orgs(page.after, page.limit)?)
    }

    /// Changes an organization.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] for a limit; [`AdminError::OrgNotFound`]
    pub fn update_org(&self, change: UpdateOrg) -> Result<Org, AdminError> {
        let UpdateOrg { id, limits } = change;
        let limits = limits.as_deref().map(keys::limits).transpose()?;
        let details = match &limits {
            Some(limits) => json!({ "limits": limits }),
            None => json!({}),
        };
        let change = OrgChange {
            limits,
            ..OrgChange::default()
        };
        self.change_org(id, change, "update_org", details)
    }

    /// Refuses all keys of an organization until [`Admin::resume_org`].
    ///
    /// # Errors
    /// [`AdminError::OrgNotFound`]
    pub fn suspend_org(&self, id: OrgId) -> Result<Org, AdminError> {
        self.set_org_status(id, OrgStatus::Suspended, "suspend_org")
    }

    /// Accepts the keys of a suspended organization again.
    ///
    /// # Errors
    /// [`AdminError::OrgNotFound`]
    pub fn resume_org(&self, id: OrgId) -> Result<Org, AdminError> {
        self.set_org_status(id, OrgStatus::Active, "resume_org")
    }

    fn set_org_status(
        &self,
        id: OrgId,
        status: OrgStatus,
        action: &'static str,
    ) -> Result<Org, AdminError> {
        let change = OrgChange {
            status: Some(status),
            ..OrgChange::default()
        };
        self.change_org(id, change, action, json!({}))
    }

    /// Stores a change, and puts it in force.
    pub(super) fn change_org(
        &self,
        id: OrgId,
        change: OrgChange,
        action: &'static str,
        details: Value,
    ) -> Result<Org, AdminError> {
        let audit = self.audit_context(action, Some(id.0), details);
        let update = |store: &dyn Store| store.update_org(id, change, &audit);
        Ok(self.guard.change_org(id, update)?)
    }
}
