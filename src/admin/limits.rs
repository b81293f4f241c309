//! Administration of limits and of the policy.

use serde_json::json;

use super::{Admin, AdminError, IpTarget};
use crate::counter::{CounterId, Rule, Subject, SubjectId};
use crate::guard::{LimitStatus, auth_failure_rule, rules};
use crate::input::{self, InvalidInput};
use crate::limiter::{CounterSets, Demand, Subjects};
use crate::lockout::AuthFailure;
use crate::model::{Key, KeyId, LimitOverride, Org, Reason};
use crate::policy::{CompiledPolicy, Policy};
use crate::store::{KeyChange, NewOverride, OrgChange};
use crate::time::{LockDuration, Timestamp};

impl Admin {
    /// Returns the current state of the limits of a key: its own, those of its organization and those
    /// of routes. Overridden limits have the time in [`LimitStatus::overridden_until`]. Consumes nothing.
    ///
    /// ```
    /// # use keyguard::{Config, CreateKey, KeyGuard};
    /// # let dir = tempfile::tempdir()?;
    /// # let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::new("a long random secret"))?;
    /// # let admin = kg.admin();
    /// # admin.create_org("acme")?;
    /// let key = admin.create_key(CreateKey::new("acme", "web shop").limits(["5000 credits"]))?.key;
    /// admin.override_limit(key.id, "default", "1 hour")?;
    /// let states = admin.key_limits(key.id)?;
    /// assert!(states[0].overridden_until.is_some());
    /// assert_eq!((states[1].name.as_str(), states[1].remaining), ("credits", 5_000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`AdminError::KeyNotFound`]; [`AdminError::TooManyTrackedKeys`].
    pub fn key_limits(&self, id: KeyId) -> Result<Vec<LimitStatus>, AdminError> {
        let (key, org) = self.key_and_org(id)?;
        let rules = self.rules_of(&key, &org);
        let mut states =
            self.with_subjects(&key, &rules, |subjects| self.states(subjects, &rules))?;
        let overrides = key.overrides.iter().chain(&org.overrides);
        for limit_override in overrides.filter(|known| known.until > self.guard.now()) {
            for state in &mut states {
                if state.name == limit_override.limit {
                    state.overridden_until = Some(limit_override.until);
                }
            }
        }
        Ok(states)
    }

    /// Returns the current state of the limits of an IP address: failed authentications, and the
    /// limits of routes by address. Limits of [`IpLimit`](crate::IpLimit) are not listed, because they
    /// exist only in code. Consumes nothing.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] for [`ClientIp::LOCAL`](crate::ClientIp::LOCAL).
    pub fn ip_limits(
        &self,
        ip: impl TryInto<IpTarget, Error: Into<InvalidInput>>,
    ) -> Result<Vec<LimitStatus>, AdminError> {
        let ip_key = self.ip_key(ip)?;
        let compiled = self.guard.compiled();
        let threshold = self.guard.locks().threshold(&compiled.source.lockout);
        let failures = [AuthFailure::BadKey, AuthFailure::MissingKey];
        let failures = failures.map(|failure| auth_failure_rule(failure, threshold));
        let of_routes = compiled.routes().flat_map(|route| route.ip_rules.clone());
        let rules: Vec<Rule> = failures.into_iter().chain(of_routes).collect();
        Ok(self.states(Subjects::Address(ip_key), &rules))
    }

    /// Resets the counters of a key: of all its limits, or of the limit named `limit`.
    ///
    /// A limit of the organization, such as `org 600/min`, is shared and is reset only if it is named.
    /// Requests in flight still count, and [`Grant::settle`](crate::Grant::settle) refunds nothing for
    /// requests admitted before.
    ///
    /// # Errors
    /// [`AdminError::KeyNotFound`]; [`AdminError::LimitNotFound`].
    pub fn reset_key(&self, id: KeyId, limit: Option<&str>) -> Result<(), AdminError> {
        let (key, org) = self.key_and_org(id)?;
        let all = self.rules_of(&key, &org);
        let is_meant = |known: &&Rule| match limit {
            None => known.subject == Subject::Key,
            Some(name) => known.name() == name,
        };
        let rules: Vec<Rule> = all.iter().filter(is_meant).cloned().collect();
        if let (true, Some(name)) = (rules.is_empty(), limit) {
            return Err(no_such_limit(name, all.iter().map(Rule::name)));
        }
        let counter = |rule: &Rule| match rule.subject {
            Subject::Org => (SubjectId::org(org.id), CounterId::of(rule)),
            _ => (SubjectId::key(key.id), CounterId::of(rule)),
        };
        let stored: Vec<_> = rules.iter().map(counter).collect();
        let audit = self.audit_context("reset_key", Some(id.0), json!({ "limit": limit }));
        self.with_subjects(&key, &rules, |subjects| {
            // The other counters of the key are in memory by now, and an orderly stop stores them again.
            self.guard.store().delete_counters(&stored, &audit)?;
            let limiter = self.guard.limiter();
            Ok::<_, AdminError>(limiter.reset(Demand::new(subjects, &[&rules]))?)
        })??;
        Ok(self.guard.recorder().flush_store()?)
    }

    /// Resets the counters of an IP address: requests under limits by address, and failed
    /// authentications. Locks stay; [`Admin::unblock`] ends them.
    ///
    /// # Errors
    /// [`AdminError::Invalid`] for [`ClientIp::LOCAL`](crate::ClientIp::LOCAL).
    pub fn reset_ip(
        &self,
        ip: impl TryInto<IpTarget, Error: Into<InvalidInput>>,
    ) -> Result<(), AdminError> {
        let ip_key = self.ip_key(ip)?;
        let audit = self.audit_context("reset_ip", None, json!({ "ip": ip_key }));
        self.guard.store().append_audit(&audit)?;
        let demand = Demand::new(Subjects::Address(ip_key), &[]);
        Ok(self.guard.limiter().reset(demand)?)
    }

    /// Suspends the limit named `limit` of a key for `duration`: it neither refuses nor counts.
    ///
    /// A limit of the organization is overridden for all of its keys. Limits of routes cannot be
    /// overridden.
    ///
    /// # Errors
    /// [`AdminError::KeyNotFound`]; [`AdminError::LimitNotFound`];
    /// [`AdminError::Invalid`] for a time of day without a time zone.
    pub fn override_limit(
        &self,
        id: KeyId,
        limit: &str,
        duration: impl TryInto<LockDuration, Error: Into<InvalidInput>>,
    ) -> Result<Key, AdminError> {
        let duration: LockDuration = input::valid(duration)?;
        let until = duration.ends_at(self.guard.now(), self.guard.locks().zone())?;
        self.set_override(id, limit, until, "override_limit")
    }

    /// Ends the override of the limit named `limit`.
    ///
    /// # Errors
    /// [`AdminError::KeyNotFound`]; [`AdminError::LimitNotFound`].
    pub fn restore_limit(&self, id: KeyId, limit: &str) -> Result<Key, AdminError> {
        self.set_override(id, limit, self.guard.now(), "restore_limit")
    }

    /// Replaces the policy in force, in this process only; it is not stored. Decisions that have begun go
    /// on under the old policy.
    ///
    /// # Errors
    /// [`AdminError::Policy`] if a value is invalid or fields contradict each other. The policy in force
    /// stays.
    pub fn set_policy(&self, policy: Policy) -> Result<(), AdminError> {
        let policy = CompiledPolicy::new(policy)?;
        let audit = self.audit_context("set_policy", None, json!({}));
        let enter = || self.guard.store().append_audit(&audit);
        Ok(self.guard.policy_reloader().replace(policy, enter)?)
    }

    /// Reads [`Config::policy_file`](crate::Config::policy_file) again and puts it in force.
    ///
    /// # Errors
    /// [`AdminError::Policy`] for the content of the file; [`AdminError::NoPolicyFile`].
    /// The policy in force stays.
    pub fn reload(&self) -> Result<(), AdminError> {
        let audit = self.audit_context("reload", None, json!({}));
        let enter = || Ok::<_, AdminError>(self.guard.store().append_audit(&audit)?);
        match self.guard.policy_reloader().reload(enter)? {
            true => Ok(()),
            false => Err(AdminError::NoPolicyFile),
        }
    }

    fn set_override(
        &self,
        id: KeyId,
        limit: &str,
        until: Timestamp,
        action: &'static str,
    ) -> Result<Key, AdminError> {
        let (key, org) = self.key_and_org(id)?;
        let found = rules(&key, &org, &self.guard.compiled());
        let Some(found) = found.iter().find(|known| known.name() == limit) else {
            return Err(no_such_limit(limit, found.iter().map(Rule::name)));
        };
        let limit_override = NewOverride {
            limit_override: LimitOverride {
                limit: limit.to_owned(),
                until,
            },
            now: self.guard.now(),
        };
        let details = json!({ "key_id": id, "limit": limit, "until": until });
        if found.subject == Subject::Org {
            let change = OrgChange {
                limit_override: Some(limit_override),
                ..OrgChange::default()
            };
            self.change_org(org.id, change, action, details)?;
            return Ok(self.shown_after_change(key));
        }
        let change = KeyChange {
            limit_override: Some(limit_override),
            ..KeyChange::default()
        };
        self.change_key(id, change, action, details)
    }

    fn key_and_org(&self, id: KeyId) -> Result<(Key, Org), AdminError> {
        let key = self.guard.store().key(id)?;
        let org = self.guard.store().org(key.org_id)?;
        Ok((key, org))
    }

    /// The limits of a key and its organization, and those that routes set for it.
    fn rules_of(&self, key: &Key, org: &Org) -> Vec<Rule> {
        let compiled = self.guard.compiled();
        let mut all = rules(key, org, &compiled);
        all.extend(compiled.routes().flat_map(|route| route.key_rules.clone()));
        all
    }

    fn states(&self, subjects: Subjects<'_>, rules: &[Rule]) -> Vec<LimitStatus> {
        let states = self.guard.limiter().states(Demand::new(subjects, &[rules]));
        let states = rules.iter().zip(states);
        states
            .map(|(rule, (state, _))| LimitStatus::new(rule, state))
            .collect()
    }

    fn with_subjects<T>(
        &self,
        key: &Key,
        rules: &[Rule],
        read: impl FnOnce(Subjects<'_>) -> T,
    ) -> Result<T, AdminError> {
        let attach = |id| self.guard.attach(id, None).map_err(not_attached);
        let of_key = attach(SubjectId::key(key.id))?;
        let of_org = match rules.iter().any(|rule| rule.subject == Subject::Org) {
            true => Some(attach(SubjectId::org(key.org_id))?),
            false => None,
        };
        Ok(read(Subjects::Key(CounterSets {
            key: &of_key,
            org: of_org.as_ref(),
            org_id: key.org_id,
        })))
    }
}

/// The error for a name that no limit has. It contains the name only if it looks like one: a key may
/// have been passed by mistake.
fn no_such_limit(name: &str, names: impl Iterator<Item = String>) -> AdminError {
    let is_name = name.len() <= 80 && !name.contains("kg_");
    AdminError::LimitNotFound {
        name: is_name.then(|| name.to_owned()),
        existing: names.collect(),
    }
}

fn not_attached(reason: Reason) -> AdminError {
    match reason {
        Reason::Overloaded => AdminError::TooManyTrackedKeys,
        _ => AdminError::Unavailable("the counters of the key cannot be read".into()),
    }
}
