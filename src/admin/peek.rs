//! How limits stand, and what makes them forget.

use serde_json::json;

use super::{Admin, AdminError, no_such_limit};
use crate::counter::CounterId;
use crate::counter::IpLimit;
use crate::counter::{Rule, Subject, SubjectId};
use crate::guard::{RuleState, is_lifted, rules, strike_rule};
use crate::limiter::{CounterSets, Demand, Subjects};
use crate::lockout::AuthFailure;
use crate::model::{Key, KeyId, Org, Reason};
use crate::net::ClientIp;
use crate::net::IpKey;

impl Admin {
    pub(super) fn key_and_org(&self, id: KeyId) -> Result<(Key, Org), AdminError> {
        let key = self.guard.store().key(id)?;
        let org = self.guard.store().org(key.org_id)?;
        Ok((key, org))
    }

    /// The limits of a key and its organization, and those that routes set for it.
    pub(super) fn rules_of(&self, key: &Key, org: &Org) -> Vec<Rule> {
        let compiled = self.guard.compiled();
        let mut all = rules(key, org, &compiled);
        all.extend(compiled.routes().flat_map(|route| route.key_rules.clone()));
        all
    }

    /// How the limits of a key, those that it shares and those of routes stand now. Consumes nothing.
    ///
    /// # Errors
    /// [`AdminError::NotFound`]
    pub fn peek(&self, id: KeyId) -> Result<Vec<RuleState>, AdminError> {
        let (key, org) = self.key_and_org(id)?;
        let now = self.guard.now();
        let mut rules = self.rules_of(&key, &org);
        rules.retain(|rule| !is_lifted(rule, &key, &org, now));
        self.with_subjects(&key, &rules, |subjects| self.states(subjects, &rules))
    }

    /// Forgets what a key has used: of all its limits, or of the one of this name. Limits of its
    /// organization are shared, and are reset by their name only, such as `org 600/min`. Requests in
    /// flight are still in flight, and get nothing back any more by [`Grant::settle`].
    ///
    /// # Errors
    /// [`AdminError::NotFound`] for the key, or if it has no limit of this name.
    ///
    /// [`Grant::settle`]: crate::Grant::settle
    pub fn reset(&self, id: KeyId, name: Option<&str>) -> Result<(), AdminError> {
        let (key, org) = self.key_and_org(id)?;
        let all = self.rules_of(&key, &org);
        let is_meant = |rule: &&Rule| match name {
            None => rule.subject == Subject::Key,
            Some(name) => rule.name() == name,
        };
        let rules: Vec<Rule> = all.iter().filter(is_meant).cloned().collect();
        if let (true, Some(name)) = (rules.is_empty(), name) {
            return Err(no_such_limit(name, all.iter().map(Rule::name)));
        }
        let counter = |rule: &Rule| match rule.subject {
            Subject::Org => (SubjectId::org(org.id), CounterId::of(rule)),
            _ => (SubjectId::key(key.id), CounterId::of(rule)),
        };
        let counters: Vec<_> = rules.iter().map(counter).collect();
        let audit = self.audit_context("reset", Some(id.0), json!({ "rule": name }));
        self.with_subjects(&key, &rules, |subjects| {
            // Whatever else they hold is in memory now, and stored again by an orderly stop.
            self.guard.store().delete_counters(&counters, &audit)?;
            Ok::<_, AdminError>(
                self.guard
                    .limiter()
                    .reset(Demand::new(subjects, &[&rules]))?,
            )
        })??;
        Ok(self.guard.recorder().flush_store()?)
    }

    fn with_subjects<T>(
        &self,
        key: &Key,
        rules: &[Rule],
        look: impl FnOnce(Subjects<'_>) -> T,
    ) -> Result<T, AdminError> {
        let attach = |id| self.guard.attach(id, None).map_err(unattached);
        let group = attach(SubjectId::key(key.id))?;
        let org = match rules.iter().any(|rule| rule.subject == Subject::Org) {
            true => Some(attach(SubjectId::org(key.org_id))?),
            false => None,
        };
        Ok(look(Subjects::Key(CounterSets {
            key: &group,
            org: org.as_ref(),
            org_id: key.org_id,
        })))
    }

    /// How failed authentications of a client, and the limits that routes set for addresses, stand now.
    /// Consumes nothing.
    pub fn peek_ip(&self, network: IpKey) -> Vec<RuleState> {
        let compiled = self.guard.compiled();
        let threshold = self.guard.lockouts().threshold(&compiled.policy.lockout);
        let failures = [AuthFailure::BadKey, AuthFailure::MissingKey];
        let failures = failures.map(|failure| strike_rule(failure, threshold));
        let of_routes = compiled.routes().flat_map(|route| route.ip_rules.clone());
        let all: Vec<Rule> = failures.into_iter().chain(of_routes).collect();
        self.states(Subjects::Address(network), &all)
    }

    /// How a limit by address stands now for a client. Consumes nothing. `None` for
    /// [`ClientIp::LOCAL`], which is not limited.
    pub fn peek_ip_limit(&self, limit: &IpLimit, ip: impl Into<ClientIp>) -> Option<RuleState> {
        let network = IpKey::of(ip.into())?;
        self.states(Subjects::Address(network), &[limit.rule()])
            .pop()
    }

    fn states(&self, subjects: Subjects<'_>, rules: &[Rule]) -> Vec<RuleState> {
        let states = self.guard.limiter().states(Demand::new(subjects, &[rules]));
        let states = rules.iter().zip(states);
        states
            .map(|(rule, (state, _))| RuleState::new(rule, state))
            .collect()
    }
}

fn unattached(reason: Reason) -> AdminError {
    match reason {
        Reason::Overloaded => AdminError::Conflict(
            "as many keys are being limited as can be; raise `Config::limited_keys`".into(),
        ),
        _ => AdminError::Unavailable("the counters of the key cannot be read".into()),
    }
}
