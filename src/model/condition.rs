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
    /// Parts of the data file cannot be read.
    Damage,
    /// The data file cannot be backed up.
    #[cfg_attr(not(feature = "serve"), allow(dead_code))]
    Backup,
    /// The secret may be guessed, or others know it.
    Secret,
    /// The secret is an argument of a process.
    SecretArgument,
    /// Keys of the Python package are refused.
    LegacySecret,
    /// The admin key is guessed.
    #[cfg_attr(not(feature = "http"), allow(dead_code))]
    AdminKey,
    /// Other users can access the files.
    Files,
    /// There is little free space.
    #[cfg_attr(not(feature = "cli"), allow(dead_code))]
    Disk,
    UnusedKeys,
    ExpiringKeys,
    /// Keys were found in public.
    #[cfg_attr(not(feature = "serve"), allow(dead_code))]
    LeakedKeys,
    /// Reports of leaked keys cannot be checked.
    #[cfg_attr(not(feature = "serve"), allow(dead_code))]
    LeakReports,
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
    Webhooks,
    /// The process cannot open enough files.
    #[cfg_attr(not(any(unix, feature = "serve")), allow(dead_code))]
    OpenFiles,
    /// Anything else about the process.
    Process,
}

impl Area {
    #[cfg(feature = "cli")]
    pub(crate) const ALL: [Self; 22] = [
        Self::Data,
        Self::Damage,
        Self::Backup,
        Self::Secret,
        Self::SecretArgument,
        Self::LegacySecret,
        Self::AdminKey,
        Self::Files,
        Self::Disk,
        Self::UnusedKeys,
        Self::ExpiringKeys,
        Self::LeakedKeys,
        Self::LeakReports,
        Self::Policy,
        Self::Proxy,
        Self::Clock,
        Self::Usage,
        Self::Redis,
        Self::Postgres,
        Self::Webhooks,
        Self::OpenFiles,
        Self::Process,
    ];

    /// The name, as in JSON.
    #[cfg(feature = "cli")]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Damage => "damage",
            Self::Backup => "backup",
            Self::Secret => "secret",
            Self::SecretArgument => "secret_argument",
            Self::LegacySecret => "legacy_secret",
            Self::AdminKey => "admin_key",
            Self::Files => "files",
            Self::Disk => "disk",
            Self::UnusedKeys => "unused_keys",
            Self::ExpiringKeys => "expiring_keys",
            Self::LeakedKeys => "leaked_keys",
            Self::LeakReports => "leak_reports",
            Self::Policy => "policy",
            Self::Proxy => "proxy",
            Self::Clock => "clock",
            Self::Usage => "usage",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
            Self::Webhooks => "webhooks",
            Self::OpenFiles => "open_files",
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
