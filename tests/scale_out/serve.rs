//! Several `keyguard serve` processes that share keys in PostgreSQL and limits in Redis.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::postgres::Database;
use crate::common::redis::Redis;
use crate::common::server::{Server, check, unconfigured};
use serde_json::{Value, json};
use tempfile::TempDir;

struct Servers {
    dir: TempDir,
    redis: Redis,
    database: Database,
}

impl Servers {
    fn start() -> Self {
        Self {
            dir: TempDir::new().unwrap(),
            redis: Redis::start(),
            database: Database::new(),
        }
    }

    fn program(&self, arguments: &[&str]) -> Command {
        let command = Command::new(env!("CARGO_BIN_EXE_keyguard"));
        let mut command = unconfigured(command, self.dir.path());
        command
            .args(arguments)
            .env("KEYGUARD_DB", &self.database.url)
            .env("KEYGUARD_REDIS", self.redis.url())
            .env("KEYGUARD_SECRET", crate::common::SECRET);
        command
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = self.program(arguments).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn serve(&self) -> Server {
        let mut serve = self.program(&["serve", "--listen", "127.0.0.1:0"]);
        // A long deadline, so that Redis decides even on a busy machine.
        Server::spawn({
            serve.args(["--backend-deadline", "20000"]);
            serve
        })
    }
}

#[test]
fn servers_share_keys_limits_and_revocations() {
    let servers = Servers::start();
    servers.run(&["init"]);
    servers.run(&["create-org", "acme"]);
    let made = servers.run(&[
        "--json",
        "create-key",
        "--org",
        "acme",
        "--label",
        "web",
        "--limit",
        "5/h",
    ]);
    let made: Value = serde_json::from_str(&made).unwrap();
    let key = made["raw_key"].as_str().unwrap();
    let nodes = [servers.serve(), servers.serve()];
    let asked = json!({"key": key, "ip": "192.0.2.7", "path": "/"});
    let status = |node| check(node, &asked).1["status"].clone();
    let statuses: Vec<_> = nodes.iter().cycle().take(8).map(status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429, 429]);

    servers.run(&["revoke-key", &made["id"].to_string()]);
    let end = Instant::now() + Duration::from_secs(60);
    for node in &nodes {
        while status(node) != 401 {
            assert!(Instant::now() < end, "never refused");
        }
    }
}
