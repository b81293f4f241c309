//! Conditions that need an administrator's attention.

use serde::{Deserialize, Serialize};

use super::KeyId;

/// The part of an installation that a condition is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(crate) enum Area {
    /// The data file or database cannot be used, or refuses changes.
    Data,
    /// The secret may be guessed, or others know it.
    Secret,
    /// Other users can access the files.
    Files,
    /// There is little free space.
    #[cfg_attr(not(feature = "cli"), allow(dead_code))]
    Disk,
    UnusedKeys,
    ExpiringKeys,
    /// Keys were found in public, or reports of such finds cannot be checked.
    #[cfg_attr(not(feature = "serve"), allow(dead_code))]
    LeakedKeys,
    /// The policy is invalid, or has rules without effect.
    Policy,
    /// A proxy is not trusted, or reports clients in another way.
    Proxy,
    /// Calendar time is wrong.
    Clock,
    /// Requests are not recorded.
    Usage,
    Redis,
    Postgres,
    /// Events cannot be delivered.
    #[cfg_attr(not(feature = "cli"), allow(dead_code))]
    Webhooks,
    /// Anything else about the process.
    Process,
}

impl Area {
    #[cfg(feature = "cli")]
    pub(crate) const ALL: [Self; 15] = [
        Self::Data,
        Self::Secret,
        Self::Files,
        Self::Disk,
        Self::UnusedKeys,
        Self::ExpiringKeys,
        Self::LeakedKeys,
        Self::Policy,
        Self::Proxy,
        Self::Clock,
        Self::Usage,
        Self::Redis,
        Self::Postgres,
        Self::Webhooks,
        Self::Process,
    ];

    /// The name, as in JSON.
    #[cfg(feature = "cli")]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Secret => "secret",
            Self::Files => "files",
            Self::Disk => "disk",
            Self::UnusedKeys => "unused_keys",
            Self::ExpiringKeys => "expiring_keys",
            Self::LeakedKeys => "leaked_keys",
            Self::Policy => "policy",
            Self::Proxy => "proxy",
            Self::Clock => "clock",
            Self::Usage => "usage",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
            Self::Webhooks => "webhooks",
            Self::Process => "process",
        }
    }
}

/// A condition that needs an administrator's attention.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(crate) struct Condition {
    pub(crate) area: Area,
    pub(crate) problem: String,
    /// The key that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<KeyId>,
}

impl Condition {
    pub(crate) fn new(area: Area, problem: impl Into<String>) -> Self {
        Self {
            area,
            problem: problem.into(),
            key: None,
        }
    }
}

#[cfg(all(test, feature = "cli"))]
mod tests {
    use super::*;

    #[test]
    fn areas_are_named_as_in_json() {
        for area in Area::ALL {
            let json = serde_json::to_value(area).unwrap();
            assert_eq!(json, area.as_str());
        }
    }
}
