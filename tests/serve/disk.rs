//! A temporarily full disk under a running server.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::program::{done, keyguard, prepared, refused};
use crate::common::server::{HttpResponse, Server, check, get, request};
use crate::common::wait_until;
use serde_json::{Value, json};

/// A server of the data file in `dir` that cannot write files beyond `most_bytes`.
fn limited(dir: &Path, most_bytes: u64) -> Server {
    let serve = keyguard(dir, &["serve", "--listen", "127.0.0.1:0"]);
    // In units of 512 bytes. Without the trap the signal for it would end the server.
    let limit = format!("trap '' XFSZ; ulimit -S -f {}", most_bytes / 512);
    let mut command = prepared(&limit, &serve);
    command.stderr(File::create(dir.join("log")).unwrap());
    Server::spawn(command)
}

/// Lets files grow again.
fn lift_limit(server: &Server) {
    let pid = server.child.id().to_string();
    let prlimit = Command::new("prlimit")
        .args(["--pid", &pid, "--fsize=unlimited"])
        .status();
    assert!(prlimit.unwrap().success());
}

fn ready(server: &Server) -> (u16, Value) {
    let response = get(&server.address, "/readyz", &[]);
    (
        response.status,
        serde_json::from_str(&response.body).unwrap(),
    )
}

#[test]
fn full_disk_refuses_changes_until_space_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    done(dir, &["init"]);
    done(dir, &["create-org", "acme"]);
    let key = done(
        dir,
        &["--json", "create-key", "--org", "acme", "--label", "shop"],
    );
    let key: Value = serde_json::from_str(&key).unwrap();
    let admin_key = done(dir, &["admin-key"]);
    let size = std::fs::metadata(dir.join("keyguard.redb")).unwrap().len();
    let server = limited(dir, size + 64 * 1024);
    assert_eq!(
        ready(&server),
        (200, json!({"status": "ready", "problems": []}))
    );

    let create = |number: usize| -> HttpResponse {
        let fields = [
            ("X-Admin-Key", admin_key.trim()),
            ("Content-Type", "application/json"),
        ];
        let body = json!({ "org_name": format!("org {number} {}", "x".repeat(200)) });
        request(
            &server.address,
            "POST",
            "/admin/orgs",
            &fields,
            &body.to_string(),
        )
    };
    let created = (0..5_000)
        .take_while(|number| create(*number).status == 201)
        .count();
    assert!(created < 5_000, "the limit was never met");
    let (status, body) = ready(&server);
    assert_eq!(status, 503, "{body}");
    let problem = body["problems"][0].as_str().unwrap();
    assert!(problem.contains("File too large"), "{problem}");
    assert_eq!(get(&server.address, "/healthz", &[]).status, 200);
    let refusal = refused(dir, &["revoke-key", "1"]);
    assert!(refusal.contains("changes are refused"), "{refusal}");
    let body = json!({"key": key["raw_key"], "ip": "192.0.2.7", "method": "GET", "path": "/"});
    assert_eq!(check(&server, &body).1["allowed"], true);
    let stats = done(dir, &["--json", "stats"]);
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert!(
        stats["warnings"][0]
            .as_str()
            .unwrap()
            .contains("File too large")
    );
    assert_eq!(stats["organizations"], created + 1);

    lift_limit(&server);
    let deadline = Instant::now() + Duration::from_secs(120);
    while ready(&server).0 != 200 {
        assert!(Instant::now() < deadline, "it does not recover");
        std::thread::sleep(Duration::from_millis(20));
    }
    done(dir, &["revoke-key", "1"]);
    assert_eq!(check(&server, &body).1["allowed"], false);
    let logged = |event: &str| {
        let log = std::fs::read_to_string(dir.join("log")).unwrap();
        log.contains(event)
    };
    wait_until(|| logged(" INFO store_recovered"));
    assert!(logged(" ERROR store_failed problem=") && logged("File too large"));
    assert_eq!(create(5_000).status, 201);
    let stats = done(dir, &["--json", "stats"]);
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert_eq!(stats["organizations"], created + 2);
    assert_eq!(
        (&stats["requests"], &stats["dropped"]),
        (&json!(2), &json!(0))
    );
}

#[test]
fn deleted_data_file_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    done(dir, &["init"]);
    let server = Server::spawn(keyguard(dir, &["serve", "--listen", "127.0.0.1:0"]));
    assert_eq!(ready(&server).0, 200);
    let (file, away) = (dir.join("keyguard.redb"), dir.join("away"));
    let until = |status: u16| {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let (found, body) = ready(&server);
            if found == status {
                return body.to_string();
            }
            assert!(Instant::now() < deadline, "{found}: {body}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    std::fs::rename(&file, &away).unwrap();
    assert!(until(503).contains("deleted or moved away"));
    std::fs::rename(&away, &file).unwrap();
    until(200);
    done(dir, &["create-org", "acme"]);
}
