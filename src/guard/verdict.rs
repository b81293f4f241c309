//! Results of the dry run.

use serde::{Deserialize, Serialize};

use super::denial::Denial;
use super::fields::whole_seconds;
use crate::counter::Rule;
use crate::limiter::LimitState;

/// The result of [`KeyGuard::dry_run`](crate::KeyGuard::dry_run).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verdict {
    /// The denial of the request; `None` if it would be admitted.
    pub denial: Option<Denial>,
    /// The states of all limits that the decision reached.
    pub rules: Vec<RuleState>,
    /// The names of limits and routes in shadow mode that would refuse the request.
    pub shadowed: Vec<String>,
    /// Whether the decision reached the key. It does not if the path needs none, or if the address alone
    /// is refused.
    pub key_checked: bool,
}

impl Verdict {
    /// Whether the request would be admitted.
    pub fn is_allowed(&self) -> bool {
        self.denial.is_none()
    }
}

/// The state of one limit, in a [`Verdict`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RuleState {
    /// The name of the limit, as in header fields.
    pub name: String,
    /// The amount that it admits.
    pub limit: u64,
    /// The amount that it still admits.
    pub remaining: u64,
    /// Whether the limit is in shadow mode: it counts and never refuses.
    pub shadow: bool,
    /// The seconds, rounded up, until `remaining` grows; `None` for never.
    pub reset: Option<u64>,
}

impl RuleState {
    pub(crate) fn new(rule: &Rule, state: LimitState) -> Self {
        Self {
            name: rule.name(),
            limit: rule.limit.amount.get(),
            remaining: state.remaining,
            shadow: rule.limit.shadow,
            reset: state.resets_in().map(whole_seconds),
        }
    }
}
