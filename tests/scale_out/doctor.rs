//! `doctor` with Redis and PostgreSQL.

use crate::common::program::{done, keyguard, run};
use crate::common::redis::Redis;
use keyguard_test_support::pgbouncer::PgBouncer;
use keyguard_test_support::postgres::Server;
use tempfile::TempDir;

const DOCTOR: [&str; 3] = ["doctor", "--ignore", "disk"];

#[test]
fn redis_that_may_evict_is_found_with_what_mends_it() {
    let dir = TempDir::new().unwrap();
    done(dir.path(), &["init"]);
    let redis = Redis::with(&["--maxmemory-policy", "allkeys-lru"]);
    let url = redis.url();
    let doctor = [&["--redis", &url], &DOCTOR[..]].concat();
    let output = run(dir.path(), &doctor);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.starts_with("redis: ") && text.contains("allkeys-lru"),
        "{text}"
    );
    let (_, setting) = text.split_once("set `").unwrap();
    let (setting, _) = setting.split_once('`').unwrap();
    let _: () = redis.run(&format!("CONFIG SET {setting}"));
    assert_eq!(done(dir.path(), &doctor), "Nothing found.\n");
}

#[test]
fn pooler_that_shares_sessions_is_found() {
    let dir = TempDir::new().unwrap();
    let server = Server::start();
    let pooler = PgBouncer::start(server.port(), "transaction");
    let url = pooler.url("postgres");
    let doctor = || {
        let mut command = keyguard(dir.path(), &[&["--db", &url], &DOCTOR[..]].concat());
        let secret = "5f2c9a81d07be346a9f0c2487d1e5b3690fa7c2de81b4563";
        let output = command.env("KEYGUARD_SECRET", secret).output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let (code, text) = doctor();
    assert_eq!(code, Some(1));
    assert!(
        text.starts_with("postgres: ") && text.contains("pool_mode = session"),
        "{text}"
    );
    assert!(text.contains("next:  psql \"$KEYGUARD_DB\""), "{text}");
    pooler.change_mode("session");
    assert_eq!(doctor(), (Some(0), "Nothing found.\n".to_owned()));
}
