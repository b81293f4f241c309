//! Cached keys, built from stored keys and the policy.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Guard;
use super::fields::RateLimitHeaders;
use super::key_cache::fingerprint::Fingerprint;
use super::recorder::Recorder;
use super::revisions::Freshness;
use crate::counter::{PlainRules, Rule, SavedCounter, Subject, SubjectId, add_tightest};
use crate::limit::{Limit, Period};
use crate::limiter::{AnyLimiter, AttachError, CounterSet, CounterSets, Subjects};
use crate::model::{Key, KeyId, LimitOverride, Org, OrgId, OrgStatus, Reason};
use crate::policy::{CompiledPolicy, ScopeSet};
use crate::store::{Resolved, StoreError};
use crate::time::Timestamp;

/// How often the use of a replaced text is noticed.
pub(super) const OLD_TEXT_NOTICED_EVERY: Duration = Duration::from_secs(86_400);

/// A key at one state of the store. Fields that most decisions read come first, in two cache lines together
/// with the reference counts.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct CachedKey {
    /// The fingerprint of the text that it was found by.
    pub(super) fingerprint: Fingerprint,
    pub(super) freshness: Freshness,
    /// Whether the key is in force, and neither `expires_at` nor `reload_at` ever comes.
    pub(super) is_permanent: bool,
    /// See [`CachedKey::refusal_at`].
    pub(super) refusals: Refusals,
    /// Whether only some addresses may use the key.
    pub(super) is_ip_restricted: bool,
    /// Whether a rule limits the requests in flight.
    pub(super) limits_concurrency: bool,
    pub(super) counters: Arc<CounterSet>,
    /// `None` if the organization has no limits.
    pub(super) org_counters: Option<Arc<CounterSet>>,
    pub(super) org_id: OrgId,
    pub(super) plain_rules: PlainRules,
    /// The scopes of the key that routes require.
    pub(super) scope_set: ScopeSet,
    pub(super) key_id: KeyId,
    pub(super) backends: Arc<GrantBackends>,
    /// The rules of the key and of its organization.
    pub(super) rules: Box<[Rule]>,
    /// When the key or its text expires; [`Timestamp::MAX`] for never.
    pub(super) expires_at: Timestamp,
    /// When to read the key again, because an override ends; [`Timestamp::MAX`] for never.
    pub(super) reload_at: Timestamp,
    pub(super) record: Box<KeyRecord>,
}

impl CachedKey {
    pub(super) fn subjects(&self) -> Subjects<'_> {
        Subjects::Key(self.counter_sets())
    }

    /// Returns why the key is not in force at a time. Which reason it is changes neither the instructions nor the
    /// memory that is read.
    #[inline(always)]
    pub(super) fn refusal_at(&self, now: Timestamp) -> Option<Reason> {
        self.refusals[usize::from(now >= self.expires_at)]
    }

    #[inline(always)]
    pub(super) fn counter_sets(&self) -> CounterSets<'_> {
        CounterSets {
            key: &self.counters,
            org: self.org_counters.as_ref(),
            org_id: self.org_id,
        }
    }
}

/// Why a key is not in force: before it has expired, and from then on.
pub(super) type Refusals = [Option<Reason>; 2];

/// The whole key and its organization, which few decisions read.
#[derive(Debug)]
pub(crate) struct KeyRecord {
    pub(super) key: Key,
    pub(super) org: Org,
    /// Until when the text that it was found by is accepted, if another one has replaced it.
    pub(super) old_text_until: Option<Timestamp>,
}

/// The parts of a guard that a grant uses after the decision.
pub(crate) struct GrantBackends {
    pub(super) recorder: Arc<Recorder>,
    pub(super) limiter: Arc<AnyLimiter>,
    pub(super) rate_limit_headers: RateLimitHeaders,
}

impl fmt::Debug for GrantBackends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrantBackends").finish_non_exhaustive()
    }
}

impl Guard {
    /// Builds a key that was read when [`Revisions::all`](super::revisions::Revisions::all) was `read_at`.
    pub(super) fn cached_key(
        &self,
        fingerprint: Fingerprint,
        read_at: u64,
        resolved: Resolved,
    ) -> Result<CachedKey, Reason> {
        let Resolved {
            key,
            org,
            credential_expires_at,
            balances,
        } = resolved;
        let (mut key, compiled) = (key, self.compiled());
        key.allowed_ips = key.allowed_ips.translated(&compiled.source.nat64_prefixes);
        let (all_rules, now) = (rules(&key, &org, &compiled), self.now());
        let has_org_rules = all_rules.iter().any(|rule| rule.subject == Subject::Org);
        let expiries = [key.expires_at, credential_expires_at];
        let expires_at = expiries.into_iter().flatten().min();
        let reload_at = overrides(&key, &org, now).map(|limit_override| limit_override.until);
        // The use of a replaced text is noticed when its key is loaded.
        let notice_at = credential_expires_at.map(|_| now.plus(OLD_TEXT_NOTICED_EVERY));
        let reload_at = reload_at.chain(notice_at).min();
        let in_force = |rule: &Rule| !is_overridden(rule, &key, &org, now);
        let refusals = refusals(&key, &org);
        let limits_concurrency = all_rules
            .iter()
            .any(|rule| rule.limit.period == Period::Concurrent);
        let rules: Box<[Rule]> = all_rules.into_iter().filter(in_force).collect();
        Ok(CachedKey {
            fingerprint,
            freshness: self.revisions.freshness(read_at, key.id, org.id),
            key_id: key.id,
            org_id: org.id,
            is_permanent: refusals[0].is_none() && expires_at.is_none() && reload_at.is_none(),
            refusals,
            expires_at: expires_at.unwrap_or(Timestamp::MAX),
            reload_at: reload_at.unwrap_or(Timestamp::MAX),
            counters: self.attach(SubjectId::key(key.id), balances.as_deref())?,
            org_counters: match has_org_rules {
                true => Some(self.attach(SubjectId::org(org.id), balances.as_deref())?),
                false => None,
            },
            limits_concurrency,
            plain_rules: PlainRules::of(&rules),
            rules,
            scope_set: compiled.scope_set(&key.scopes),
            is_ip_restricted: !key.allowed_ips.is_empty(),
            backends: Arc::clone(&self.backends),
            record: Box::new(KeyRecord {
                key,
                org,
                old_text_until: credential_expires_at,
            }),
        })
    }

    /// Returns the counters of a subject. Absent ones are created from `known`, or else from the store.
    pub(crate) fn attach(
        &self,
        id: SubjectId,
        known: Option<&[(SubjectId, Vec<SavedCounter>)]>,
    ) -> Result<Arc<CounterSet>, Reason> {
        let seed = &mut || match known {
            Some(known) => {
                let saved = known.iter().find(|(subject, _)| *subject == id);
                Ok(saved.map_or_else(Vec::new, |(_, saved)| saved.clone()))
            }
            None => self.store.counters(id),
        };
        let attached = self.limiter().attach(id, seed);
        attached.map_err(|error| match error {
            AttachError::Full => Reason::Overloaded,
            AttachError::Seed(error) => unavailable(error),
        })
    }
}

fn refusals(key: &Key, org: &Org) -> Refusals {
    let of_key = match (key.is_enabled(), key.is_revoked()) {
        (true, _) => None,
        (false, true) => Some(Reason::RevokedKey),
        (false, false) => Some(Reason::SuspendedKey),
    };
    let of_org = (org.status != OrgStatus::Active).then_some(Reason::SuspendedOrg);
    [of_key.or(of_org), of_key.or(Some(Reason::ExpiredKey))]
}

/// Returns the limits of a key and of its organization, including overridden ones.
pub(crate) fn rules(key: &Key, org: &Org, compiled: &CompiledPolicy) -> Vec<Rule> {
    let mut rules = vec![Rule {
        is_default: true,
        ..Rule::new(Limit::per_minute(key.rate_limit_per_minute), Subject::Key)
    }];
    let policy = &compiled.source;
    for limit in key.limits.iter().chain(&policy.key_limits) {
        add_tightest(&mut rules, Rule::new(*limit, Subject::Key));
    }
    for limit in org.limits.iter().chain(&policy.org_limits) {
        add_tightest(&mut rules, Rule::new(*limit, Subject::Org));
    }
    rules
}

/// Returns the limit overrides in force, of the key and of its organization.
fn overrides<'a>(
    key: &'a Key,
    org: &'a Org,
    now: Timestamp,
) -> impl Iterator<Item = &'a LimitOverride> {
    let all = key.overrides.iter().chain(&org.overrides);
    all.filter(move |limit_override| limit_override.until > now)
}

/// Whether an override disables a limit of a key now.
pub(super) fn is_overridden(rule: &Rule, key: &Key, org: &Org, now: Timestamp) -> bool {
    overrides(key, org, now).any(|limit_override| limit_override.limit == rule.name())
}

/// Hides the cause from the client. The next flush or change reports it.
pub(super) fn unavailable(_: StoreError) -> Reason {
    Reason::Unavailable
}
