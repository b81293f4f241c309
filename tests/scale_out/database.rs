//! The program on a PostgreSQL database, and export and import to and from one.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::common::postgres::Database;
use crate::common::program::{error_of, keyguard, output_of};
use crate::common::{SECRET, check, check_with, key_with, refusal};
use keyguard::{Config, KeyGuard, KeyId, Page, Reason};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// A password, which no output may contain.
const PASSWORD: &str = "hunter2";

/// Returns the URL of a database, with its password.
fn url(database: &Database) -> String {
    let user = format!("postgres:{PASSWORD}@");
    database.url.replacen("postgres@", &user, 1)
}

/// A configuration that waits for the database even on a busy machine.
fn patient() -> Config {
    Config::new(SECRET).backend_deadline(Duration::from_secs(20))
}

/// Runs the program in a directory, on a database and with the secret of these tests.
fn program(dir: &Path, db: &str, arguments: &[&str]) -> Command {
    let mut command = keyguard(dir, arguments);
    command
        .env("KEYGUARD_DB", db)
        .env("KEYGUARD_SECRET", SECRET);
    command
}

fn done(dir: &Path, db: &str, arguments: &[&str]) -> String {
    without_password(output_of(&mut program(dir, db, arguments)))
}

fn refused(dir: &Path, db: &str, arguments: &[&str]) -> String {
    without_password(error_of(&mut program(dir, db, arguments)))
}

fn without_password(text: String) -> String {
    assert!(!text.contains(PASSWORD), "{text}");
    text
}

#[test]
fn commands_work_on_a_database_and_show_no_password() {
    let (database, dir) = (Database::new(), TempDir::new().unwrap());
    let url = url(&database);
    let done = |arguments: &[&str]| done(dir.path(), &url, arguments);
    let said = done(&["init"]);
    assert!(said.contains("keyguard --db URL init --org NAME"), "{said}");
    assert_eq!(
        done(&["--json", "init"]),
        "{\"db\":\"postgres\",\"ready\":true}\n"
    );
    done(&["create-org", "acme"]);
    let created = done(&["create-key", "--org", "acme", "--label", "web"]);
    assert!(created.contains("kg_live_"), "{created}");
    done(&["create-key", "--org", "acme", "--label", "app"]);
    let keys: serde_json::Value = serde_json::from_str(&done(&["list-keys", "--json"])).unwrap();
    assert_eq!(
        (&keys[0]["label"], &keys[1]["id"]),
        (&"web".into(), &2.into())
    );
    done(&["revoke-key", "2"]);
    let stats: serde_json::Value = serde_json::from_str(&done(&["--json", "stats"])).unwrap();
    assert_eq!(stats["active_keys"], 1);
    done(&["block", "192.0.2.9", "--for", "1 hour"]);
    assert!(done(&["list-blocks"]).contains("192.0.2.9"));
    done(&["limits", "1"]);
    let audit = done(&["audit"]);
    for action in ["create_org", "create_key", "revoke_key", "block"] {
        assert!(audit.contains(action), "{action} in {audit}");
    }
    let admin_key = done(&["admin-key"]);
    assert!(!admin_key.trim().is_empty());
    assert!(done(&["--help"]).contains("KEYGUARD_DB"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// The Python package and SQLAlchemy write such URLs.
#[test]
fn url_with_driver_suffix_is_accepted() {
    let (database, dir) = (Database::new(), TempDir::new().unwrap());
    let url = url(&database);
    let (_, rest) = url.split_once("://").unwrap();
    for scheme in ["postgresql+asyncpg", "postgres+psycopg2", "PostgreSQL"] {
        let url = format!("{scheme}://{rest}");
        done(dir.path(), &url, &["init"]);
        assert!(done(dir.path(), &url, &["stats"]).contains("organizations: 0"));
        KeyGuard::open(&url, Config::new(SECRET)).unwrap();
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn errors_show_no_database_password() {
    let (database, dir) = (Database::new(), TempDir::new().unwrap());
    let url = url(&database);
    let refused = |db: &str, arguments: &[&str]| refused(dir.path(), db, arguments);
    done(dir.path(), &url, &["init"]);
    let said = refused(&url, &["revoke-key", "7"]);
    assert!(said.contains("next:  keyguard --db URL"), "{said}");
    let said = refused(&url, &["export", "--to", &url]);
    assert!(said.contains("is the source of the export"), "{said}");
    let said = refused(&url, &["--secret", "another one", "stats"]);
    assert!(said.contains("another secret"), "{said}");
    let absent = url.replace("/db", "/absent");
    let said = refused(&absent, &["stats"]);
    assert!(said.contains("does not exist"), "{said}");
    let closed = format!("postgres://postgres:{PASSWORD}@127.0.0.1:9/db?sslmode=disable");
    for command in ["init", "stats", "list-keys"] {
        let said = refused(&closed, &[command]);
        assert!(said.contains("refused"), "{said}");
    }
}

#[test]
fn export_to_a_database_and_back_keeps_everything() {
    let (database, dir) = (Database::new(), TempDir::new().unwrap());
    let (url, file) = (url(&database), dir.path().join("keyguard.redb"));
    let kg = KeyGuard::open(&file, Config::new(SECRET)).unwrap();
    let limited = key_with(&kg, |key| key.limits(vec!["3 monthly"]));
    let revoked = key_with(&kg, |key| key);
    check(&kg, &limited).unwrap().finish(200);
    kg.admin().revoke_key(revoked.key.id).unwrap();
    kg.close().unwrap();
    let export = |db: &str, to: &str| done(dir.path(), db, &["--json", "export", "--to", to]);
    let look = |db: &str| {
        ["list-orgs", "list-keys", "stats"].map(|list| done(dir.path(), db, &["--json", list]))
    };
    let original = look("keyguard.redb");
    let first = export("keyguard.redb", &url);
    assert!(first.contains(r#""keys":2"#), "{first}");
    assert_eq!(look(&url), original);
    assert_eq!(export("keyguard.redb", &url), first);
    assert_eq!(look(&url), original);

    let kg = KeyGuard::open(&url, patient()).unwrap();
    assert_eq!(kg.admin().stats().unwrap().requests, 1);
    assert_eq!(refusal(check(&kg, &revoked)), Reason::RevokedKey);
    for _ in 0..2 {
        check(&kg, &limited).unwrap().finish(200);
    }
    assert_eq!(refusal(check(&kg, &limited)), Reason::QuotaExhausted);
    kg.close().unwrap();

    export(&url, "keyguard.redb");
    export(&url, "another.redb");
    assert_eq!(look("keyguard.redb"), look(&url));
    assert_eq!(look("another.redb"), look(&url));
    let kg = KeyGuard::open(&file, Config::new(SECRET)).unwrap();
    assert_eq!(refusal(check(&kg, &limited)), Reason::QuotaExhausted);
}

#[test]
fn conflicting_database_is_refused_and_unchanged() {
    let (database, dir) = (Database::new(), TempDir::new().unwrap());
    let url = url(&database);
    done(dir.path(), &url, &["create-org", "globex"]);
    done(dir.path(), "keyguard.redb", &["init"]);
    for name in ["acme", "initech"] {
        done(dir.path(), "keyguard.redb", &["create-org", name]);
    }
    let before = done(dir.path(), &url, &["--json", "list-orgs"]);
    let said = refused(dir.path(), "keyguard.redb", &["export", "--to", &url]);
    assert!(said.contains("1 `globex` of the target"), "{said}");
    assert_eq!(done(dir.path(), &url, &["--json", "list-orgs"]), before);
}

const LEGACY: &str = "the secret of the Python package";
const WEB: &str = "kg_live_Zk9hQ2xvdWQtd2ViLXNob3Ata2V5LTAwMDAwMDE";

/// A database of the Python package.
const SCHEMA: &str = "
    CREATE TABLE organizations (id serial PRIMARY KEY, name varchar, status varchar,
        created_at timestamp);
    CREATE TABLE api_keys (id serial PRIMARY KEY, org_id integer REFERENCES organizations,
        label varchar, prefix varchar, hashed_key varchar, active boolean, scopes json,
        rate_limit_per_minute integer, monthly_limit integer, created_at timestamptz,
        expires_at timestamp, last_used_at timestamp);
    CREATE TABLE usage_logs (id bigserial PRIMARY KEY, key_id integer, path varchar,
        method varchar, status_code integer, latency_ms double precision, ip inet,
        created_at timestamp);
    INSERT INTO organizations VALUES (3, 'acme', 'active', '2025-01-01');
    INSERT INTO api_keys VALUES (11, 3, 'web', 'kg_live_', '{WEB}', true, '[\"read\"]', 90, 5,
        '2025-01-03', NULL, '2025-02-01 10:00:00');
    INSERT INTO usage_logs (key_id, status_code, created_at) VALUES
        (11, 200, now() at time zone 'utc'), (11, 500, now() at time zone 'utc'),
        (11, 200, '2025-02-01 10:00:00'), (NULL, 401, '2025-02-01 10:00:02');";

#[test]
fn python_package_database_is_imported() {
    let (old, new, dir) = (Database::new(), Database::new(), TempDir::new().unwrap());
    let hash = Sha256::digest(format!("{WEB}{LEGACY}"));
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    old.execute(&SCHEMA.replace("{WEB}", &hash));
    let (from, url) = (url(&old), url(&new));
    for _ in 0..2 {
        let said = done(dir.path(), &url, &["import", "--from", &from]);
        assert!(said.contains("keyguard --db URL serve"), "{said}");
    }
    let open = |legacy| KeyGuard::open(&url, patient().legacy_secret(legacy)).unwrap();
    let kg = open(LEGACY);
    let stats = kg.admin().stats().unwrap();
    assert_eq!((stats.requests, stats.errors, stats.total_keys), (4, 2, 1));
    let web = check_with(&kg, WEB).unwrap();
    assert_eq!(web.key().unwrap().id, KeyId(11));
    assert_eq!(web.key().unwrap().scopes.len(), 1);
    drop(web);
    kg.close().unwrap();
    // The key is hashed again, and its monthly quota continues.
    let kg = open("another secret");
    for _ in 0..2 {
        let _ = check_with(&kg, WEB).unwrap();
    }
    assert_eq!(refusal(check_with(&kg, WEB)), Reason::QuotaExhausted);
    let audit = kg.admin().list_audit(Page::first().limit(9)).unwrap();
    let rehashed = audit.iter().filter(|entry| entry.action == "rehash_key");
    assert_eq!(rehashed.count(), 1);
    // The source is not a database of KeyGuard.
    let said = refused(dir.path(), &from, &["stats"]);
    assert!(said.contains("import --from"), "{said}");
}
