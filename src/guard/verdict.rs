//! Results of the dry run.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::denial::Denial;
use super::fields::whole_seconds;
use crate::counter::Rule;
use crate::limiter::LimitState;
use crate::time::Timestamp;

/// The result of [`KeyGuard::dry_run`](crate::KeyGuard::dry_run).
///
/// ```
/// # use keyguard::{Config, CreateKey, KeyGuard, Request};
/// # let dir = tempfile::tempdir()?;
/// # let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::new("a long random secret"))?;
/// # kg.admin().create_org("acme")?;
/// # let created = kg.admin().create_key(CreateKey::new("acme", "web shop").limits(["10/s"]))?;
/// # let headers = [("X-API-Key", created.raw_key.expose())];
/// let verdict = kg.dry_run(Request::new(&headers, std::net::Ipv4Addr::LOCALHOST, "/orders"));
/// assert!(verdict.is_allowed());
/// let limits = verdict.rules.iter().map(|state| (state.name.as_str(), state.remaining));
/// assert_eq!(limits.collect::<Vec<_>>(), [("default", 60), ("10/s", 10)]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verdict {
    /// The denial of the request; `None` if it would be admitted.
    pub denial: Option<Denial>,
    /// The states of all limits that the decision reached: a rule is a limit applied to one key,
    /// organization or address.
    pub rules: Vec<LimitStatus>,
    /// The names of limits and routes in shadow mode that would refuse the request.
    pub shadow_denied: Vec<String>,
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

/// The state of one limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LimitStatus {
    /// The name of the limit, as in header fields.
    #[cfg_attr(feature = "openapi", schema(example = "default"))]
    pub name: String,
    /// The amount that it admits.
    #[cfg_attr(feature = "openapi", schema(example = 60))]
    pub limit: u64,
    /// The amount that it still admits.
    #[cfg_attr(feature = "openapi", schema(example = 42))]
    pub remaining: u64,
    /// Whether the limit is in shadow mode: it counts and never refuses.
    pub shadow: bool,
    /// The time until `remaining` grows, rounded up to seconds; `None` for never. In JSON the number of
    /// seconds, `reset`.
    #[serde(rename = "reset", with = "seconds")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u64>))]
    pub resets_in: Option<Duration>,
    /// Until when the limit is overridden, so that it neither refuses nor counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overridden_until: Option<Timestamp>,
}

impl LimitStatus {
    pub(crate) fn new(rule: &Rule, state: LimitState) -> Self {
        Self {
            name: rule.name(),
            limit: rule.limit.amount.get(),
            remaining: state.remaining,
            shadow: rule.limit.shadow,
            resets_in: state
                .resets_in()
                .map(whole_seconds)
                .map(Duration::from_secs),
            overridden_until: None,
        }
    }
}

/// Serializes a duration as a number of seconds.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        duration
            .map(|duration| duration.as_secs())
            .serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let seconds = Option::<u64>::deserialize(deserializer)?;
        Ok(seconds.map(Duration::from_secs))
    }
}
