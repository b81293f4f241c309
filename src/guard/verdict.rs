//! What the dry run finds.

use serde::{Deserialize, Serialize};

use super::denial::Denial;
use super::fields::whole_seconds;
use crate::counter::Rule;
use crate::limiter::LimitState;
use crate::time::Moment;

/// What [`KeyGuard::dry_run`](crate::KeyGuard::dry_run) found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verdict {
    /// What the request would be refused with; `None` if it would be let through.
    pub denial: Option<Denial>,
    /// Every limit that was reached by the decision, and how it stands.
    pub rules: Vec<RuleState>,
    /// The names of limits and routes in shadow mode that would refuse it.
    pub shadowed: Vec<String>,
    /// Whether the decision came to the key. It does not where the path needs none, nor where the
    /// address alone is refused.
    pub key_checked: bool,
}

impl Verdict {
    /// Whether the request would be let through.
    pub fn is_allowed(&self) -> bool {
        self.denial.is_none()
    }
}

/// How one limit stands, in a [`Verdict`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RuleState {
    /// Its name, as the header fields spell it.
    pub name: String,
    /// How much it admits in all.
    pub limit: u64,
    /// How much more it admits now.
    pub remaining: u64,
    /// Whether it refuses nobody, but is decided and counted all the same.
    pub shadow: bool,
    /// In how many seconds, rounded up, some of what is used comes back; `None` for never.
    pub reset: Option<u64>,
}

impl RuleState {
    pub(crate) fn new(rule: &Rule, level: LimitState) -> Self {
        let reset = (level.resets_at < Moment::NEVER).then(|| level.resets_at.since(level.at));
        Self {
            name: rule.name(),
            limit: rule.limit.amount.get(),
            remaining: level.remaining,
            shadow: rule.limit.shadow,
            reset: reset.map(whole_seconds),
        }
    }
}
