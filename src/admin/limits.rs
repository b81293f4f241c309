//! The methods of [`Admin`] that concern limits: how they stand, what resets or lifts them, and
//! the policy.

use serde_json::json;

use super::{Admin, AdminError};
use crate::guard::rules;
use crate::limit;
use crate::limiter::{Demand, Subjects};
use crate::model::{Key, KeyId, LimitOverride, Org, OrgId};
use crate::net::IpKey;
use crate::policy::Policy;
use crate::store::{KeyChange, NewOverride, OrgChange};
use crate::time::LockDuration;
use crate::time::Timestamp;

impl Admin {
    /// Gives an organization limits that all of its keys share, in place of those it has; each as
    /// [`Limit`](crate::Limit) reads it. In force when this returns.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] for a limit, [`AdminError::NotFound`]
    pub fn set_org_limits<T: AsRef<str>>(
        &self,
        id: OrgId,
        limits: impl IntoIterator<Item = T>,
    ) -> Result<Org, AdminError> {
        let limits = limit::list(limits)?;
        let details = json!({ "limits": limits });
        let change = OrgChange {
            limits: Some(limits),
            ..OrgChange::default()
        };
        self.change_org(id, change, "set_org_limits", details)
    }

    /// Forgets what was counted of a client: requests under limits by address, and failed
    /// authentications. Locks stay: see [`Admin::unblock`].
    ///
    /// # Errors
    /// [`AdminError::Unavailable`]
    pub fn reset_ip(&self, network: IpKey) -> Result<(), AdminError> {
        let audit = self.audit_context("reset_ip", None, json!({ "network": network }));
        self.guard.store().append_audit(&audit)?;
        let demand = Demand::new(Subjects::Address(network), &[]);
        Ok(self.guard.limiter().reset(demand)?)
    }

    /// Lifts a limit of a key for a time: it neither refuses nor counts meanwhile. One that its
    /// organization shares is lifted for all of its keys. The limits of routes are not lifted: they
    /// are a matter of the policy.
    ///
    /// # Errors
    /// [`AdminError::NotFound`] for the key, or if it has no limit of this name;
    /// [`AdminError::Invalid`] for a time of day without a time zone.
    pub fn lift(&self, id: KeyId, rule: &str, time: LockDuration) -> Result<Key, AdminError> {
        let now = self.guard.now();
        let zone = self.guard.lockouts().zone();
        let until = time.ends_at(now, zone)?;
        self.set_lift(id, rule, until, "lift")
    }

    /// Ends a lift: the limit is in force again when this returns.
    ///
    /// # Errors
    /// As [`Admin::lift`].
    pub fn end_lift(&self, id: KeyId, rule: &str) -> Result<Key, AdminError> {
        self.set_lift(id, rule, self.guard.now(), "end_lift")
    }

    fn set_lift(
        &self,
        id: KeyId,
        rule: &str,
        until: Timestamp,
        action: &'static str,
    ) -> Result<Key, AdminError> {
        let (key, org) = self.key_and_org(id)?;
        let found = rules(&key, &org, &self.guard.compiled());
        let Some(found) = found.iter().find(|known| known.name() == rule) else {
            return Err(no_such_limit(rule, found.iter().map(|rule| rule.name())));
        };
        let lift = NewOverride {
            limit_override: LimitOverride {
                rule: rule.to_owned(),
                until,
            },
            now: self.guard.now(),
        };
        let details = json!({ "key_id": id, "rule": rule, "until": until });
        if found.subject == crate::counter::Subject::Org {
            let change = OrgChange {
                limit_override: Some(lift),
                ..OrgChange::default()
            };
            self.change_org(org.id, change, action, details)?;
            return Ok(key.seen_at(self.guard.now()));
        }
        let change = KeyChange {
            limit_override: Some(lift),
            ..KeyChange::default()
        };
        self.change_key(id, change, action, details)
    }

    /// Puts a policy in force, in place of the one that is. Decisions that begin after this returns
    /// go by it; none is disturbed. It is not stored.
    pub fn set_policy(&self, policy: Policy) {
        self.guard.policies().replace(policy);
    }

    /// Reads the file of [`Config::policy_file`](crate::Config::policy_file) again and puts it in
    /// force.
    ///
    /// # Errors
    /// [`AdminError::Policy`] for what the file says; [`AdminError::Conflict`] if there is none. The
    /// policy then stays as it was.
    pub fn reload(&self) -> Result<(), AdminError> {
        let audit = self.audit_context("reload", None, json!({}));
        let note = || Ok::<_, AdminError>(self.guard.store().append_audit(&audit)?);
        match self.guard.policies().reload(note)? {
            true => Ok(()),
            false => Err(AdminError::Conflict(
                "no policy file is set: `keyguard serve --policy`, or `Config::policy_file`, names one".into(),
            )),
        }
    }
}

pub(crate) fn no_such_limit(rule: &str, names: impl Iterator<Item = String>) -> AdminError {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    // Shown only if it is formed like a name: who mixes up two fields may have given a key.
    let is_name = rule.len() <= 80 && !rule.contains("kg_");
    let what = if is_name {
        format!("`{rule}`")
    } else {
        "that".to_owned()
    };
    AdminError::NotFound(format!(
        "there is no limit named {what}; the key has {}",
        names.join(", ")
    ))
}
