//! Data files, keys and requests.

use std::cell::OnceCell;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use keyguard::{Config, CreateKey, KeyGuard, ManualClock, Policy, Route, UpdateOrg};
use tempfile::TempDir;

use crate::Fallible;
use crate::measure::Random;

/// The secret of all data files.
pub const SECRET: &str = "the secret of a benchmark";

/// A limit that is never reached.
pub const UNREACHED: u32 = 100_000_000;

/// The path of most requests.
pub const PATH: &str = "/api/data";

/// A guard, and the texts of its keys.
pub type Guarded = (KeyGuard, Vec<String>);

/// A directory of data files, removed when dropped.
pub struct World {
    dir: TempDir,
    /// The file with a million keys, shared by several measurements, and the keys.
    million: OnceCell<(PathBuf, Vec<String>)>,
}

impl World {
    /// Creates an empty directory.
    ///
    /// # Errors
    /// If it cannot be created.
    pub fn new() -> Fallible<Self> {
        Ok(Self {
            dir: tempfile::tempdir()?,
            million: OnceCell::new(),
        })
    }

    /// The path of a file in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Opens a new file with `count` keys of distinct organizations.
    ///
    /// # Errors
    /// If the file or a key cannot be created.
    pub fn guard(
        &self,
        name: &str,
        count: usize,
        per_minute: u32,
        config: Config,
    ) -> Fallible<Guarded> {
        guard_at(self.path(name), count, per_minute, config)
    }

    /// A file with `count` keys of 1,000 organizations, and the keys. Created once.
    ///
    /// # Errors
    /// If the file or a key cannot be created.
    pub fn million(&self, count: usize) -> Fallible<&(PathBuf, Vec<String>)> {
        if self.million.get().is_none() {
            let path = self.path("million.redb");
            let keys = many_keys(&path, count)?;
            let _ = self.million.set((path, keys));
        }
        self.million
            .get()
            .ok_or_else(|| "the file was just made".into())
    }
}

/// A configuration that records no usage.
pub fn unrecorded() -> Config {
    Config::new(SECRET).record_usage(false)
}

/// A policy with this many routes, each of which needs a scope.
pub fn routes(count: usize) -> Policy {
    let mut policy = Policy::new();
    for number in 0..count {
        let path = format!("/api/v1/resource-{number}/{{id}}");
        let route = Route::new(&format!("route-{number}"), path);
        policy = policy.route(route.scopes(["read"]));
    }
    policy
}

/// Like [`World::guard`], for a new file or database.
///
/// # Errors
/// If it or a key cannot be created.
pub fn guard_at(
    place: impl AsRef<Path>,
    count: usize,
    per_minute: u32,
    config: Config,
) -> Fallible<Guarded> {
    let kg = KeyGuard::open(place, config)?;
    let mut requests = Vec::new();
    for number in 0..count {
        let org = format!("org {number}");
        kg.admin().create_org(&org)?;
        requests.push(limited(&org, per_minute));
    }
    let keys = create_keys(&kg, &requests)?;
    Ok((kg, keys))
}

/// Opens a new file with `count` keys of distinct organizations. Each key has three windows and each
/// organization a limit. Requests for [`RICH_PATH`] match one of 100 routes and need a scope.
///
/// # Errors
/// If the file or a key cannot be created.
pub fn rich_at(file: impl AsRef<Path>, count: usize) -> Fallible<Guarded> {
    let kg = KeyGuard::open(file, rich_config())?;
    let mut requests = Vec::new();
    for number in 0..count {
        let org = format!("org {number}");
        let id = kg.admin().create_org(&org)?.id;
        kg.admin()
            .update_org(UpdateOrg::new(id).limits(["1000000/min"]))?;
        let key = limited(&org, UNREACHED).limits(["100000/s", "100000000/day"]);
        requests.push(key.scopes(["read"]));
    }
    let keys = create_keys(&kg, &requests)?;
    Ok((kg, keys))
}

/// The configuration of [`rich_at`].
pub fn rich_config() -> Config {
    unrecorded().policy(routes(100))
}

/// The path of requests to [`rich_at`].
pub const RICH_PATH: &str = "/api/v1/resource-50/17";

/// Creates a file with `count` keys of 1,000 organizations, and returns the keys.
///
/// # Errors
/// If the file or a key cannot be created.
pub fn many_keys(path: &Path, count: usize) -> Fallible<Vec<String>> {
    let kg = KeyGuard::open(path, Config::new(SECRET))?;
    let mut keys = Vec::with_capacity(count);
    for org in 0..1_000 {
        let org = format!("org {org}");
        kg.admin().create_org(&org)?;
    }
    for start in (0..count).step_by(20_000) {
        let batch = start..count.min(start + 20_000);
        let requests: Vec<_> = batch
            .map(|number| limited(&format!("org {}", number % 1_000), UNREACHED))
            .collect();
        keys.extend(create_keys(&kg, &requests)?);
    }
    kg.close()?;
    Ok(keys)
}

/// A new key with a limit per minute.
pub fn limited(org: &str, per_minute: u32) -> CreateKey {
    CreateKey::new(org, "benchmark").rate_limit_per_minute(per_minute)
}

/// Creates keys, and returns their texts.
///
/// # Errors
/// If one cannot be created.
pub fn create_keys(kg: &KeyGuard, new: &[CreateKey]) -> Fallible<Vec<String>> {
    let created = kg.admin().create_keys(new)?;
    let keys = created.iter().map(|key| key.raw_key.expose().to_owned());
    Ok(keys.collect())
}

/// Why keys are refused that are known.
#[derive(Clone, Copy, Debug)]
pub enum NotInForce {
    /// The keys were revoked.
    Revoked,
    /// The keys have expired.
    Expired,
    /// The keys are suspended.
    SuspendedKey,
    /// Their organization is suspended.
    SuspendedOrg,
}

/// Creates an organization with `count` keys that are refused for the same reason, and returns their texts.
/// `clock` is the clock of the guard.
///
/// # Errors
/// If the organization or a key cannot be created or changed.
pub fn keys_not_in_force(
    kg: &KeyGuard,
    clock: &ManualClock,
    org: &str,
    count: usize,
    why: NotInForce,
) -> Fallible<Vec<String>> {
    let admin = kg.admin();
    let org_id = admin.create_org(org)?.id;
    let mut new = limited(org, UNREACHED);
    if let NotInForce::Expired = why {
        new = new.expires_at(clock.timestamp().plus(Duration::from_secs(1)));
    }
    let created = admin.create_keys(&vec![new; count])?;
    match why {
        NotInForce::Expired => clock.advance(Duration::from_secs(1)),
        NotInForce::SuspendedOrg => drop(admin.suspend_org(org_id)?),
        NotInForce::Revoked => {
            for key in &created {
                admin.revoke_key(key.key.id)?;
            }
        }
        NotInForce::SuspendedKey => {
            for key in &created {
                admin.suspend_key(key.key.id)?;
            }
        }
    }
    let texts = created.iter().map(|key| key.raw_key.expose().to_owned());
    Ok(texts.collect())
}

/// The header fields of a client, with its key last.
pub fn headers(key: &str) -> [(&'static str, &str); 4] {
    [
        ("Host", "api.example.com"),
        ("User-Agent", "bench/1"),
        ("Accept", "*/*"),
        ("X-API-Key", key),
    ]
}

/// A well-formed key that was never issued.
pub fn unknown_key(prefix: &str, random: &mut Random) -> String {
    const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::from(prefix);
    for _ in 0..42 {
        text.push(BASE64[random.below(64)].into());
    }
    // The last of 43 characters holds 4 bits.
    text.push(BASE64[random.below(16) << 2].into());
    with_checksum(text)
}

/// Adds the CRC-32 in base62, as keys end.
pub fn with_checksum(mut text: String) -> String {
    const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let checksum = crc32fast::hash(text.as_bytes());
    for place in (0..6).rev() {
        text.push(BASE62[(checksum / 62_u32.pow(place) % 62) as usize].into());
    }
    text
}

/// The address of the client.
pub fn peer() -> IpAddr {
    IpAddr::from([192, 0, 2, 1])
}

/// The traffic of measurements of usage: 50 paths and 1,000 addresses.
pub struct Traffic {
    paths: Vec<String>,
    random: Random,
}

impl Default for Traffic {
    /// The same traffic every time.
    fn default() -> Self {
        let paths = (0..50)
            .map(|n| format!("/api/v1/resource-{n}/items"))
            .collect();
        Self {
            paths,
            random: Random(7),
        }
    }
}

impl Traffic {
    /// The key, address and path of the next request.
    pub fn next<'a>(&'a mut self, keys: &'a [String]) -> (&'a str, IpAddr, &'a str) {
        let key = &keys[self.random.below(keys.len())];
        let [.., c, d] = (self.random.below(1_000) as u32).to_be_bytes();
        let path = self.random.below(self.paths.len());
        (key, Ipv4Addr::new(198, 51, c, d).into(), &self.paths[path])
    }
}
