//! Several `keyguard serve`, with keys in PostgreSQL and limits in Redis, decide as one.

#![cfg(test)]
#![cfg(unix)]

mod common;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::postgres::Database;
use common::redis::Redis;
use common::server::{Server, request, unconfigured};
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
        let program = Path::new(env!("CARGO_BIN_EXE_keyguard"));
        let mut command = unconfigured(Command::new(program), self.dir.path());
        command
            .args(arguments)
            .env("KEYGUARD_DB", &self.database.url)
            .env("KEYGUARD_REDIS", self.redis.url())
            .env("KEYGUARD_SECRET", common::SECRET);
        command
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = self.program(arguments).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn serve(&self) -> Server {
        Server::spawn(self.program(&["serve", "--listen", "127.0.0.1:0"]))
    }
}

fn check(server: &Server, key: &str) -> Value {
    let asked = json!({"key": key, "ip": "192.0.2.7", "path": "/"}).to_string();
    let fields = [("Content-Type", "application/json")];
    let answer = request(&server.address, "POST", "/v1/check", &fields, &asked);
    assert_eq!(answer.status, 200, "{}", answer.body);
    serde_json::from_str(&answer.body).unwrap()
}

#[test]
fn processes_share_keys_and_limits_and_hear_of_a_revocation() {
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
    let answers = nodes.iter().cycle().take(8).map(|node| check(node, key));
    let statuses: Vec<_> = answers.map(|answer| answer["status"].clone()).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429, 429]);

    servers.run(&["revoke-key", &made["id"].to_string()]);
    let end = Instant::now() + Duration::from_secs(30);
    for node in &nodes {
        while check(node, key)["status"] != 401 {
            assert!(Instant::now() < end, "never refused");
        }
    }
}
