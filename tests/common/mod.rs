//! Helpers shared by the tests: a data file in its own directory, a manual clock, and short forms of
//! common requests.

// No test binary uses all of this.
#![allow(dead_code, unused_imports)]

#[cfg(feature = "cli")]
pub(crate) mod program;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[cfg(all(unix, feature = "postgres"))]
pub(crate) use keyguard_test_support::postgres;
#[cfg(all(unix, feature = "redis"))]
pub(crate) use keyguard_test_support::redis;
pub(crate) use keyguard_test_support::{Random, child, free_port, server, wait_until};

use keyguard::{
    Config, CreateKey, CreatedKey, Denial, Grant, KeyGuard, ManualClock, Org, Reason, Request,
    Timestamp,
};
use tempfile::TempDir;

pub(crate) const SECRET: &str = "the secret of all these tests, 32+ bytes";

/// 2026-01-15T12:00:00Z
pub(crate) const NOON: Timestamp = Timestamp::from_unix_millis(1_768_478_400_000);

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3_600);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

pub(crate) const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

/// A directory for one data file, and the clock of the guards that open it.
pub(crate) struct Home {
    dir: TempDir,
    pub(crate) clock: ManualClock,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self::at(NOON)
    }

    pub(crate) fn at(start: Timestamp) -> Self {
        Self {
            dir: TempDir::new().unwrap(),
            clock: ManualClock::starting_at(start),
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.dir().join("keyguard.redb")
    }

    pub(crate) fn config(&self) -> Config {
        Config::new(SECRET).clock(self.clock.clone())
    }

    pub(crate) fn open(&self) -> KeyGuard {
        self.open_with(self.config())
    }

    pub(crate) fn open_with(&self, config: Config) -> KeyGuard {
        KeyGuard::open(self.file(), config).unwrap()
    }

    /// Opens a guard with a policy in TOML.
    pub(crate) fn open_under(&self, policy: &str) -> KeyGuard {
        self.open_with(self.config().policy(policy.parse().unwrap()))
    }
}

/// Writes a file that only its owner can read, as required for secrets.
pub(crate) fn write_private(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;

        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(path, private).unwrap();
    }
}

/// Returns the organization of this name, created if absent.
pub(crate) fn org(kg: &KeyGuard, name: &str) -> Org {
    kg.admin()
        .find_org(name)
        .or_else(|_| kg.admin().create_org(name))
        .unwrap()
}

/// Creates a key of the organization "acme" with the default limits.
pub(crate) fn key(kg: &KeyGuard) -> CreatedKey {
    key_with(kg, |key| key)
}

/// Creates a key of the organization "acme" with a limit per minute.
pub(crate) fn key_limited_to(kg: &KeyGuard, per_minute: u32) -> CreatedKey {
    key_with(kg, |key| key.rate_limit_per_minute(per_minute))
}

/// Creates a key of the organization "acme", modified by `change`.
pub(crate) fn key_with(kg: &KeyGuard, change: impl FnOnce(CreateKey) -> CreateKey) -> CreatedKey {
    org(kg, "acme");
    kg.admin()
        .create_key(change(CreateKey::new("acme", "shop")))
        .unwrap()
}

/// Checks a request with a key.
pub(crate) fn check(kg: &KeyGuard, key: &CreatedKey) -> Result<Grant, Denial> {
    check_with(kg, key.raw_key.expose())
}

/// Checks a request with the text of a key.
pub(crate) fn check_with(kg: &KeyGuard, text: &str) -> Result<Grant, Denial> {
    kg.check(&[("X-API-Key", text)], IP, "/api/data")
}

/// Decides a request with a cost.
pub(crate) fn check_at_cost(kg: &KeyGuard, key: &CreatedKey, cost: u32) -> Result<Grant, Denial> {
    let headers = [("X-API-Key", key.raw_key.expose())];
    let cost = NonZeroU32::new(cost).unwrap();
    kg.decide(Request::new(&headers, IP, "/api/data").cost(cost))
}

/// Checks a request that is admitted, and returns the remaining amount.
pub(crate) fn admit(kg: &KeyGuard, key: &CreatedKey) -> u64 {
    check(kg, key).unwrap().remaining().unwrap()
}

/// Checks this many requests and returns how many were admitted. Every refusal has this reason.
pub(crate) fn admitted_of(kg: &KeyGuard, key: &CreatedKey, requests: u32, refusal: Reason) -> u32 {
    let mut admitted = 0;
    for _ in 0..requests {
        match check(kg, key) {
            Ok(_) => admitted += 1,
            Err(denial) => assert_eq!(denial.reason(), refusal),
        }
    }
    admitted
}

/// The reason of a refusal.
pub(crate) fn refusal(outcome: Result<Grant, Denial>) -> Reason {
    outcome.expect_err("admitted").reason()
}

/// The value of the only field of this name.
pub(crate) fn field<'a>(fields: &'a [(&'static str, String)], name: &str) -> Option<&'a str> {
    let mut values = fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
    let value = values.next().map(|(_, value)| value.as_str());
    assert!(values.next().is_none(), "{name} is there twice");
    value
}
