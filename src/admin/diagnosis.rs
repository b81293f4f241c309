//! Conditions that need an administrator's attention.

use std::error::Error;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Admin, AdminError, Page};
use crate::guard::{MISSING_LEGACY_SECRET, UNUSED_LEGACY_SECRET};
use crate::model::{Area, Condition, Key, KeyId, Reason};
use crate::store::{LegacyKeys, with_causes};
use crate::time::Timestamp;

/// What a guard knows about its own condition.
#[derive(Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(crate) struct Diagnosis {
    /// The policy file, if there is one.
    pub(crate) policy_file: Option<String>,
    pub(crate) conditions: Vec<Condition>,
}

/// The ages of keys that are conditions.
#[derive(Clone, Copy)]
pub(crate) struct KeyAges {
    /// A key that was not used for so long is a condition.
    pub(crate) unused_for: Duration,
    /// A key that expires so soon is a condition.
    pub(crate) expires_within: Duration,
}

/// How far the last change may lie ahead, for clocks of other machines.
const TOLERANCE: Duration = Duration::from_secs(60);

impl Admin {
    /// Returns the warnings of the guard, and what its secret, its policy, its clock and its keys show.
    /// Reads all keys. Data that cannot be read is a condition, too.
    pub(super) fn diagnose(&self, ages: KeyAges) -> Diagnosis {
        let guard = &self.guard;
        let stored = self.store_usage().map(|()| Vec::new());
        let mut conditions = guard.conditions();
        conditions.extend_from_slice(guard.secret_problems());
        let rules = guard.compiled().warnings().into_iter();
        conditions.extend(rules.map(|warning| Condition::new(Area::Policy, warning)));
        let is_warned = |known: &Condition| known.area == Area::LegacySecret;
        let legacy = match conditions.iter().any(is_warned) {
            true => Ok(Vec::new()),
            false => self.legacy_condition(),
        };
        for found in [
            stored,
            legacy,
            self.clock_condition(),
            self.key_conditions(ages),
        ] {
            match found {
                Ok(found) => conditions.extend(found),
                Err(error) => self.add_failure(&mut conditions, &error),
            }
        }
        // For a process in another directory.
        let policy_file = guard.policy_file().map(|file| {
            let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
            file.display().to_string()
        });
        Diagnosis {
            policy_file,
            conditions,
        }
    }

    /// Adds an error of the store, unless its cause is among the conditions.
    fn add_failure(&self, conditions: &mut Vec<Condition>, error: &AdminError) {
        let problem = with_causes(error);
        let cause = error.source().map(ToString::to_string);
        let is_known = |known: &Condition| {
            let cause = cause.as_ref();
            cause.is_some_and(|cause| known.problem.contains(cause.as_str()))
        };
        if !conditions.iter().any(is_known) {
            let area = match error {
                _ if self.guard.store().is_remote() => Area::Postgres,
                AdminError::Damaged(_) => Area::Damage,
                _ => Area::Data,
            };
            conditions.push(Condition::new(area, problem));
        }
    }

    /// Whether keys of the Python package are refused: certainly, as the guard has warned if they are many, or
    /// probably.
    fn legacy_condition(&self) -> Result<Vec<Condition>, AdminError> {
        let problem = if self.guard.lacks_legacy_secret(LegacyKeys::All)? {
            MISSING_LEGACY_SECRET
        } else if self.guard.has_unused_legacy_secret()? && self.refused_malformed_keys()? {
            UNUSED_LEGACY_SECRET
        } else {
            return Ok(Vec::new());
        };
        Ok(vec![Condition::new(Area::LegacySecret, problem)])
    }

    fn refused_malformed_keys(&self) -> Result<bool, AdminError> {
        let refused = self.guard.store().totals(self.guard.now())?.refused;
        Ok(refused[Reason::MalformedKey as usize] > 0)
    }

    /// Whether the last change lies in the future.
    fn clock_condition(&self) -> Result<Vec<Condition>, AdminError> {
        let now = self.guard.now();
        let last = self.list_audit(Page::first().limit(1))?.pop();
        let ahead = last.filter(|last| last.at.since(now) > TOLERANCE);
        let condition = ahead.map(|last| {
            let problem = format!(
                "the clock shows {now}, but the last change was made at {}: the clock is or was wrong, so \
                 that expiry times and quotas are off",
                last.at
            );
            Condition::new(Area::Clock, problem)
        });
        Ok(condition.into_iter().collect())
    }

    fn key_conditions(&self, ages: KeyAges) -> Result<Vec<Condition>, AdminError> {
        const PAGE: usize = 1_000;

        let now = self.guard.now();
        let (mut unused, mut expiring) = (Found::default(), Found::default());
        let mut after = None;
        loop {
            let keys = self.guard.store().keys(None, after, PAGE)?;
            let Some(last) = keys.last() else {
                break;
            };
            after = Some(last.id);
            for key in keys
                .into_iter()
                .map(|key| key.at(now))
                .filter(Key::is_active)
            {
                if self.guard.recorder().is_enabled() {
                    unused.add(key.id, || unused_since(&key, now, ages.unused_for));
                }
                expiring.add(key.id, || expires_soon(&key, now, ages.expires_within));
            }
        }
        let mut conditions = unused.conditions(Area::UnusedKeys, "were not used for as long");
        conditions.extend(expiring.conditions(Area::ExpiringKeys, "expire as soon"));
        Ok(conditions)
    }
}

/// Keys of one condition. The first of them are listed.
#[derive(Default)]
struct Found {
    listed: Vec<(KeyId, String)>,
    further: usize,
}

impl Found {
    const LISTED: usize = 20;

    fn add(&mut self, id: KeyId, problem: impl FnOnce() -> Option<String>) {
        let Some(problem) = problem() else {
            return;
        };
        match self.listed.len() < Self::LISTED {
            true => self.listed.push((id, problem)),
            false => self.further += 1,
        }
    }

    fn conditions(self, area: Area, what: &str) -> Vec<Condition> {
        let listed = self.listed.into_iter().map(|(id, problem)| Condition {
            key: Some(id),
            ..Condition::new(area, problem)
        });
        let further = (self.further > 0)
            .then(|| Condition::new(area, format!("{} further keys {what}", self.further)));
        listed.chain(further).collect()
    }
}

fn unused_since(key: &Key, now: Timestamp, unused_for: Duration) -> Option<String> {
    let last = key.last_used_at.unwrap_or(key.created_at);
    (now.since(last) >= unused_for).then(|| {
        let what = match key.last_used_at {
            Some(_) => "was last used at",
            None => "was never used since it was created at",
        };
        format!("key {} `{}` {what} {last}", key.id, key.label)
    })
}

fn expires_soon(key: &Key, now: Timestamp, within: Duration) -> Option<String> {
    let expires_at = key.expires_at?;
    (expires_at.since(now) <= within)
        .then(|| format!("key {} `{}` expires at {expires_at}", key.id, key.label))
}
