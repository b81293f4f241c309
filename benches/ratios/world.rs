//! Data files for measurements.

use std::cell::OnceCell;
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use keyguard::{Config, CreateKey, KeyGuard};
use tempfile::TempDir;

use crate::measure::Random;

pub(crate) const SECRET: &str = "the secret of a benchmark";

/// A limit that is never reached.
pub(crate) const UNREACHED: u32 = 1_000_000;

pub(crate) struct World {
    dir: TempDir,
    /// The file with a million keys, shared by several rows, and the keys.
    million: OnceCell<(PathBuf, Vec<String>)>,
}

impl World {
    pub(crate) fn new() -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            dir: tempfile::tempdir()?,
            million: OnceCell::new(),
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Opens a new file with `count` keys of distinct organizations.
    pub(crate) fn guard(
        &self,
        name: &str,
        count: usize,
        per_minute: u32,
        config: Config,
    ) -> Result<(KeyGuard, Vec<String>), Box<dyn Error>> {
        guard_at(self.path(name), count, per_minute, config)
    }

    /// A file with `count` keys of 1,000 organizations, and the keys. Created once.
    pub(crate) fn million(&self, count: usize) -> Result<&(PathBuf, Vec<String>), Box<dyn Error>> {
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

/// Like [`World::guard`], for a new file or database.
pub(crate) fn guard_at(
    place: impl AsRef<Path>,
    count: usize,
    per_minute: u32,
    config: Config,
) -> Result<(KeyGuard, Vec<String>), Box<dyn Error>> {
    let kg = KeyGuard::open(place, config)?;
    let mut requests = Vec::new();
    for number in 0..count {
        let org = format!("org {number}");
        kg.admin().create_org(&org)?;
        requests.push(limited(&org, per_minute));
    }
    let created = kg.admin().create_keys(&requests)?;
    let keys = created
        .iter()
        .map(|created| created.raw_key.expose().to_owned())
        .collect();
    Ok((kg, keys))
}

fn many_keys(path: &Path, count: usize) -> Result<Vec<String>, Box<dyn Error>> {
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
        let created = kg.admin().create_keys(&requests)?;
        keys.extend(
            created
                .iter()
                .map(|created| created.raw_key.expose().to_owned()),
        );
    }
    kg.close()?;
    Ok(keys)
}

fn limited(org: &str, per_minute: u32) -> CreateKey {
    CreateKey::new(org, "benchmark").rate_limit_per_minute(per_minute)
}

/// The header fields of a client, with its key last.
pub(crate) fn headers(key: &str) -> [(&'static str, &str); 4] {
    [
        ("Host", "api.example.com"),
        ("User-Agent", "bench/1"),
        ("Accept", "*/*"),
        ("X-API-Key", key),
    ]
}

pub(crate) fn peer() -> IpAddr {
    IpAddr::from([192, 0, 2, 1])
}

/// The traffic of the rows about usage: 50 paths and 1,000 addresses.
pub(crate) struct Traffic {
    paths: Vec<String>,
    random: Random,
}

impl Traffic {
    pub(crate) fn new() -> Self {
        let paths = (0..50)
            .map(|n| format!("/api/v1/resource-{n}/items"))
            .collect();
        Self {
            paths,
            random: Random(7),
        }
    }

    pub(crate) fn next<'a>(&'a mut self, keys: &'a [String]) -> (&'a str, IpAddr, &'a str) {
        let key = &keys[self.random.below(keys.len())];
        let [.., c, d] = (self.random.below(1_000) as u32).to_be_bytes();
        let path = self.random.below(self.paths.len());
        (key, Ipv4Addr::new(198, 51, c, d).into(), &self.paths[path])
    }
}
