//! Several `keyguard serve` processes that share keys in PostgreSQL and limits in Redis.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::postgres::{Database, holding};
use crate::common::program::{keyguard, output_of};
use crate::common::redis::Redis;
use crate::common::server::{HttpResponse, Server, check, connect, get};
use crate::common::wait_until;
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
        let mut command = keyguard(self.dir.path(), arguments);
        command
            .env("KEYGUARD_DB", &self.database.url)
            .env("KEYGUARD_REDIS", self.redis.url())
            .env("KEYGUARD_SECRET", crate::common::SECRET);
        command
    }

    fn run(&self, arguments: &[&str]) -> String {
        output_of(&mut self.program(arguments))
    }

    fn serve(&self, more: &[&str]) -> Server {
        let mut serve = self.program(&["serve", "--listen", "127.0.0.1:0"]);
        serve.args(more);
        // A long deadline, so that Redis decides even on a busy machine.
        Server::spawn({
            serve.args(["--backend-deadline", "20s"]);
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
    let nodes = [servers.serve(&[]), servers.serve(&[])];
    let body = json!({"key": key, "ip": "192.0.2.7", "path": "/"});
    let status = |node| check(node, &body).1["status"].clone();
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

#[test]
fn outages_are_logged_and_measured() {
    let mut servers = Servers::start();
    servers.run(&["init"]);
    let log = servers.dir.path().join("log");
    let mut serve = servers.program(&["serve", "--listen", "127.0.0.1:0"]);
    serve.stderr(File::create(&log).unwrap());
    let server = Server::spawn(serve);
    let logged = |text: &str| fs::read_to_string(&log).unwrap().contains(text);
    let is_up = |value: u8| {
        let line = format!("\nkeyguard_backend_up{{server=\"redis\"}} {value}\n");
        get(&server.address, "/metrics", &[]).body.contains(&line)
    };
    wait_until(|| is_up(1));
    servers.redis.kill();
    // A failed authentication, which is counted in Redis.
    check(
        &server,
        &json!({"key": "nonsense", "ip": "192.0.2.7", "path": "/"}),
    );
    wait_until(|| is_up(0) && logged(" ERROR backend_down server=redis problem="));
    servers.redis.restart();
    wait_until(|| is_up(1) && logged(" INFO backend_up server=redis"));
}

/// Once, `--timeout` also limited the time of a change, which was reported as failed and made later.
#[test]
fn change_may_take_longer_than_a_client() {
    let servers = Servers::start();
    servers.run(&["init"]);
    let admin_key = servers.run(&["admin-key"]);
    let server = servers.serve(&["--timeout", "1s"]);
    let body = r#"{"org_name":"acme"}"#;
    let request = format!(
        "POST /admin/orgs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         X-Admin-Key: {}\r\nContent-Length: {}\r\n\r\n{body}",
        admin_key.trim(),
        body.len()
    );
    let mut client = None;
    let lock = "SELECT 1 FROM keyguard_state FOR UPDATE";
    holding(&servers.database.url, lock, || {
        let client = client.insert(connect(&server.address));
        client.write_all(request.as_bytes()).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        let kind = client.peek(&mut [0]).map_err(|error| error.kind());
        assert!(matches!(kind, Err(ErrorKind::WouldBlock)), "{kind:?}");
    });
    let mut client = client.unwrap();
    client
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    assert_eq!(HttpResponse::read_from(&mut client).unwrap().status, 201);
}
