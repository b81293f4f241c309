//! How limits stand, and what makes them forget.

use std::num::NonZeroU32;
use std::sync::Arc;

use serde_json::json;

use super::{Admin, AdminError, no_such_limit};
use crate::counter::IpLimit;
use crate::counter::{CounterId, Counts};
use crate::counter::{Rule, Subject, SubjectId};
use crate::guard::{RuleState, is_lifted, rules, strike_rules};
use crate::limiter::{CounterSets, IpRule};
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
        self.with_groups(&key, &rules, |groups| {
            let levels = self
                .guard
                .limiter()
                .levels(groups, &[&rules], NonZeroU32::MIN);
            let levels = levels.into_iter().map(|(level, _)| level);
            rules
                .iter()
                .zip(levels)
                .map(|(rule, level)| RuleState::new(rule, level))
                .collect()
        })
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
        self.with_groups(&key, &rules, |groups| {
            // Whatever else they hold is in memory now, and stored again by an orderly stop.
            self.guard.store().forget_counters(&counters, &audit)?;
            Ok::<_, AdminError>(self.guard.limiter().reset(groups, &[&rules])?)
        })??;
        Ok(self.guard.recorder().flush_store()?)
    }

    fn with_groups<T>(
        &self,
        key: &Key,
        rules: &[Rule],
        look: impl FnOnce(CounterSets<'_>) -> T,
    ) -> Result<T, AdminError> {
        let attach = |id| self.guard.attach(id, None).map_err(unattached);
        let group = attach(SubjectId::key(key.id))?;
        let org = match rules.iter().any(|rule| rule.subject == Subject::Org) {
            true => Some(attach(SubjectId::org(key.org_id))?),
            false => None,
        };
        Ok(look(CounterSets {
            key: &group,
            org: org.as_ref(),
            org_id: key.org_id,
        }))
    }

    /// How failed authentications of a client, and the limits that routes set for addresses, stand now.
    /// Consumes nothing.
    pub fn peek_ip(&self, network: IpKey) -> Vec<RuleState> {
        let compiled = self.guard.compiled();
        let strikes = strike_rules(self.guard.lockouts().threshold(&compiled.policy.lockout));
        let of_routes = compiled.routes().flat_map(|route| {
            let rules = route.ip_rules.iter();
            rules.map(|rule| (route.counts.clone(), rule.clone()))
        });
        let all: Vec<(Counts, Rule)> = strikes.into_iter().chain(of_routes).collect();
        self.network_states(network, &all)
    }

    /// How a limit by address stands now for a client. Consumes nothing. `None` for
    /// [`ClientIp::LOCAL`], which is not limited.
    pub fn peek_ip_limit(&self, limit: &IpLimit, ip: impl Into<ClientIp>) -> Option<RuleState> {
        let network = IpKey::of(ip.into())?;
        let counts = Counts::Requests(Arc::clone(&limit.name));
        self.network_states(network, &[(counts, limit.rule())])
            .pop()
    }

    fn network_states(&self, network: IpKey, rules: &[(Counts, Rule)]) -> Vec<RuleState> {
        let asked: Vec<IpRule<'_>> = rules
            .iter()
            .map(|(counts, rule)| IpRule {
                counts,
                limit: rule.limit,
            })
            .collect();
        let levels = self
            .guard
            .limiter()
            .network_levels(network, &asked, NonZeroU32::MIN);
        let states = rules.iter().zip(levels);
        states
            .map(|((_, rule), (level, _))| RuleState::new(rule, level))
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
