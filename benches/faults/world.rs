//! Two nodes with a private Redis and PostgreSQL server.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::{Duration, Instant};

use keyguard::{Config, CreateKey, KeyGuard};

use keyguard_test_support::postgres::{Database, Server, holding};
use keyguard_test_support::redis::Redis;

/// The default deadline of backends.
pub(crate) const DEADLINE: Duration = Duration::from_millis(50);

pub(crate) const IP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

const KEYS: usize = 400;

/// Key cache capacity of a node: fewer than there are keys, so that some are always being read.
const RESIDENT: usize = 128;

pub(crate) struct World {
    pub(crate) nodes: Vec<KeyGuard>,
    pub(crate) keys: Vec<String>,
    pub(crate) redis: Redis,
    pub(crate) database: Database,
    pub(crate) postgres: Server,
}

impl World {
    pub(crate) fn new() -> Result<Self, Box<dyn Error>> {
        let (redis, postgres) = (Redis::start(), Server::start());
        let database = postgres.database();
        let open = || KeyGuard::open(&database.url, config().redis_url(redis.url()));
        let nodes = vec![open()?, open()?];
        nodes[0].admin().create_org("acme")?;
        let request = CreateKey::new("acme", "load").rate_limit_per_minute(1_000_000);
        let created = nodes[0].admin().create_keys(&vec![request; KEYS])?;
        let keys = created
            .iter()
            .map(|created| created.raw_key.expose().to_owned());
        Ok(Self {
            keys: keys.collect(),
            nodes,
            redis,
            database,
            postgres,
        })
    }

    /// A node without cached state.
    pub(crate) fn fresh_node(&self) -> Result<KeyGuard, Box<dyn Error>> {
        Ok(KeyGuard::open(&self.database.url, config())?)
    }

    pub(crate) fn wait_until_up(&self) -> Result<(), Box<dyn Error>> {
        let began = Instant::now();
        let is_up = |node: &KeyGuard| node.backends().iter().all(|backend| backend.is_up);
        while !self.nodes.iter().all(is_up) {
            if began.elapsed() > Duration::from_secs(30) {
                let warnings: Vec<_> = self.nodes.iter().map(KeyGuard::backends).collect();
                return Err(format!("a backend is not asked again: {warnings:?}").into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    pub(crate) fn drop_connections(&mut self) {
        self.database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        );
    }

    /// Blocks all other sessions for a while.
    pub(crate) fn lock_tables(&mut self) {
        // Locking several tables could deadlock with their writers.
        let tables = "LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE";
        holding(&self.database.url, tables, || {
            thread::sleep(Duration::from_millis(200))
        });
    }
}

fn config() -> Config {
    Config::new("a secret of the faults")
        .key_cache_capacity(RESIDENT)
        .backend_deadline(DEADLINE)
}
