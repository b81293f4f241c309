//! Import from the Python package, and export between data files.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::program::{error_of, keyguard, output_of, run};
use crate::common::{IP, SECRET, check_with, refusal};
use keyguard::{Config, CreateKey, KeyGuard, KeyId, OrgStatus, Page, Reason, RotateKey, UpdateKey};
use rusqlite::Connection;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const LEGACY: &str = "the secret of the Python package";

/// Keys of the Python package, which have no checksum.
const WEB: &str = "kg_live_Zk9hQ2xvdWQtd2ViLXNob3Ata2V5LTAwMDAwMDE";
const APP: &str = "kg_live_Zk9hQ2xvdWQtd2ViLXNob3Ata2V5LTAwMDAwMDI";
const OLD: &str = "kg_live_Zk9hQ2xvdWQtd2ViLXNob3Ata2V5LTAwMDAwMDM";
const OFF: &str = "kg_live_Zk9hQ2xvdWQtd2ViLXNob3Ata2V5LTAwMDAwMDQ";
const OUT: &str = "kg_live_Zk9hQ2xvdWQtd2ViLXNob3Ata2V5LTAwMDAwMDU";

/// A database of the Python package with a key for each of the texts. The last but one is revoked, and the
/// organization of the last one is suspended.
const SCHEMA: &str = "
    CREATE TABLE organizations (id INTEGER PRIMARY KEY, name TEXT, status TEXT, created_at TEXT);
    CREATE TABLE api_keys (id INTEGER PRIMARY KEY, org_id INTEGER, label TEXT, prefix TEXT,
        hashed_key TEXT, active INTEGER, scopes TEXT, rate_limit_per_minute INTEGER,
        monthly_limit INTEGER, created_at TEXT, expires_at TEXT, last_used_at TEXT);
    CREATE TABLE usage_logs (id INTEGER PRIMARY KEY, key_id INTEGER, path TEXT, method TEXT,
        status_code INTEGER, latency_ms REAL, ip TEXT, created_at TEXT);
    INSERT INTO organizations VALUES
        (3, 'acme', 'active', '2025-01-01 00:00:00'), (7, 'gone', 'suspended', '2025-01-02 00:00:00');
    INSERT INTO api_keys VALUES
        (11, 3, 'web', 'kg_live_', '{WEB}', 1, '[\"read\", \"write\"]', 90, 5,
            '2025-01-03 00:00:00', NULL, '2025-02-01 10:00:00'),
        (12, 3, 'app', 'kg_live_', '{APP}', 1, 'read', 60, NULL, '2025-01-04 00:00:00', NULL, NULL),
        (13, 3, 'old', 'kg_live_', '{OLD}', 1, '[]', 60, NULL, '2025-01-05 00:00:00',
            '2025-06-01 00:00:00', NULL),
        (14, 3, 'off', 'kg_live_', '{OFF}', 0, '[]', 60, NULL, '2025-01-06 00:00:00', NULL, NULL),
        (15, 7, 'out', 'kg_live_', '{OUT}', 1, '[]', 60, NULL, '2025-01-07 00:00:00', NULL, NULL);
    INSERT INTO usage_logs (key_id, status_code, created_at) VALUES
        (11, 200, datetime('now')), (11, 500, datetime('now')), (11, 200, datetime('now')),
        (11, 429, datetime('now')), (11, 200, '2025-02-01 10:00:00'),
        (12, 200, '2025-02-01 10:00:01'), (NULL, 401, '2025-02-01 10:00:02');";

/// Hashes a key as the Python package does.
fn hash(text: &str) -> String {
    let hash = Sha256::digest(format!("{text}{LEGACY}"));
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hashed(sql: &str) -> String {
    let texts = [
        ("WEB", WEB),
        ("APP", APP),
        ("OLD", OLD),
        ("OFF", OFF),
        ("OUT", OUT),
    ];
    texts.iter().fold(sql.to_owned(), |sql, (name, text)| {
        sql.replace(&format!("{{{name}}}"), &hash(text))
    })
}

/// Creates a directory with the database `old.db` from SQL.
fn python_package(sql: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    let db = Connection::open(dir.path().join("old.db")).unwrap();
    db.execute_batch(&hashed(sql)).unwrap();
    dir
}

/// The program with the secret of these tests.
fn program(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = keyguard(dir, arguments);
    command.env("KEYGUARD_SECRET", SECRET);
    command
}

fn done(dir: &Path, arguments: &[&str]) -> String {
    output_of(&mut program(dir, arguments))
}

fn refused(dir: &Path, arguments: &[&str]) -> String {
    error_of(&mut program(dir, arguments))
}

const IMPORT: [&str; 3] = ["import", "--from", "sqlite:old.db"];

/// Imports the database of the Python package.
fn imported() -> TempDir {
    let dir = python_package(SCHEMA);
    done(dir.path(), &IMPORT);
    dir
}

fn open(dir: &TempDir, config: Config) -> KeyGuard {
    KeyGuard::open(dir.path().join("keyguard.redb"), config).unwrap()
}

fn with_legacy(secret: &str) -> Config {
    Config::new(SECRET).legacy_secret(secret)
}

fn check_as_bearer(kg: &KeyGuard, text: &str) -> Result<keyguard::Grant, keyguard::Denial> {
    let bearer = format!("Bearer {text}");
    kg.check(&[("Authorization", bearer.as_str())], IP, "/api/data")
}

/// Returns how often a key was hashed again.
fn rehashed(kg: &KeyGuard) -> usize {
    let entries = kg.admin().list_audit(Page::first().limit(1_000)).unwrap();
    let rehashed = entries.iter().filter(|entry| entry.action == "rehash_key");
    rehashed
        .inspect(|entry| assert_eq!(entry.actor, "program"))
        .count()
}

#[test]
fn imported_keys_work_and_are_rehashed_on_first_use() {
    let dir = imported();
    let kg = open(&dir, with_legacy(LEGACY));
    let grant = check_with(&kg, WEB).unwrap();
    assert_eq!(grant.key().unwrap().id, KeyId(11));
    grant.require("write").unwrap();
    drop(grant);
    assert_eq!(
        check_as_bearer(&kg, APP).unwrap().key().unwrap().id,
        KeyId(12)
    );
    kg.flush().unwrap();
    assert_eq!(rehashed(&kg), 2);
    let _ = check_with(&kg, WEB).unwrap();
    let _ = check_as_bearer(&kg, APP).unwrap();
    kg.close().unwrap();

    // With another legacy secret, only keys that were hashed again are found.
    let kg = open(&dir, with_legacy("another secret"));
    assert_eq!(refusal(check_with(&kg, WEB)), Reason::QuotaExhausted);
    assert_eq!(
        check_as_bearer(&kg, APP).unwrap().key().unwrap().id,
        KeyId(12)
    );
    assert_eq!(refusal(check_with(&kg, OLD)), Reason::MalformedKey);
    kg.flush().unwrap();
    assert_eq!(rehashed(&kg), 2, "each is stored anew once");
}

#[test]
fn imported_revocations_stay_in_force() {
    let dir = imported();
    let kg = open(&dir, with_legacy(LEGACY));
    assert_eq!(refusal(check_with(&kg, OLD)), Reason::ExpiredKey);
    assert_eq!(refusal(check_with(&kg, OFF)), Reason::RevokedKey);
    assert_eq!(refusal(check_with(&kg, OUT)), Reason::SuspendedOrg);
    assert_eq!(
        kg.admin().find_org("gone").unwrap().status,
        OrgStatus::Suspended
    );
    let app = check_with(&kg, APP).unwrap();
    assert!(app.require("write").is_err());
}

#[test]
fn usage_of_the_current_month_is_imported() {
    let dir = imported();
    let kg = open(&dir, with_legacy(LEGACY));
    let web = kg.admin().get_key(KeyId(11)).unwrap();
    assert_eq!(web.limits, ["5 monthly".parse().unwrap()]);
    assert_eq!(web.rate_limit_per_minute.get(), 90);
    // Three requests count; the one that a limit refused does not.
    for _ in 0..2 {
        let _ = check_with(&kg, WEB).unwrap();
    }
    assert_eq!(refusal(check_with(&kg, WEB)), Reason::QuotaExhausted);
}

#[test]
fn totals_and_last_uses_are_imported() {
    let dir = imported();
    let kg = open(&dir, Config::new(SECRET));
    let stats = kg.admin().stats().unwrap();
    assert_eq!(
        (stats.organizations, stats.total_keys, stats.active_keys),
        (2, 5, 3),
        "one is revoked, and one has expired"
    );
    assert_eq!((stats.requests, stats.errors), (7, 3));
    assert_eq!(stats.requests_1h, 4);
    let top: Vec<_> = stats
        .top_keys
        .iter()
        .map(|top| (top.key.id.0, top.requests))
        .collect();
    assert_eq!(top, [(11, 5), (12, 1)]);
    let used = stats.top_keys[0].key.last_used_at.unwrap();
    assert_eq!(used.to_string(), "2025-02-01T10:00:00Z");
    // New ids are greater.
    assert_eq!(kg.admin().create_org("new").unwrap().id.0, 8);
    let key = kg.admin().create_key(CreateKey::new("new", "new")).unwrap();
    assert_eq!(key.key.id, KeyId(16));
}

#[test]
fn imported_keys_are_malformed_without_the_legacy_secret() {
    let dir = imported();
    let kg = open(&dir, with_legacy(LEGACY));
    let _ = check_with(&kg, WEB).unwrap();
    kg.close().unwrap();
    let kg = open(&dir, Config::new(SECRET));
    for text in [WEB, APP] {
        assert_eq!(refusal(check_with(&kg, text)), Reason::MalformedKey);
        assert_eq!(refusal(check_as_bearer(&kg, text)), Reason::MissingKey);
    }
}

#[test]
fn missing_legacy_secret_is_warned_of_until_it_is_given() {
    let dir = imported();
    let warned = |config: Config| {
        let kg = open(&dir, config);
        let stats = kg.admin().stats().unwrap();
        let count = |warning: &&String| warning.contains("KEYGUARD_LEGACY_SECRET");
        stats.warnings.iter().filter(count).count()
    };
    assert_eq!(warned(Config::new(SECRET)), 1);
    assert_eq!(warned(with_legacy(LEGACY)), 0);

    let mut doctor = program(dir.path(), &["doctor", "--json"]);
    let findings = |doctor: &mut Command| {
        let output = doctor.output().unwrap();
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let found = found["findings"].as_array().unwrap().clone();
        let next = found.into_iter().map(|found| found["next"].to_string());
        next.filter(|next| next.contains("KEYGUARD_LEGACY_SECRET=… keyguard serve"))
            .count()
    };
    assert_eq!(findings(&mut doctor), 1);
    doctor.env("KEYGUARD_LEGACY_SECRET", LEGACY);
    assert_eq!(findings(&mut doctor), 0);

    // Also if no key is left that was not hashed anew.
    let kg = open(&dir, with_legacy(LEGACY));
    let gone = kg.admin().find_org("gone").unwrap();
    for key in kg.admin().list_keys(Some(gone.id), Page::first()).unwrap() {
        kg.admin().revoke_key(key.id).unwrap();
    }
    let _ = check_with(&kg, WEB).unwrap();
    let _ = check_with(&kg, APP).unwrap();
    kg.close().unwrap();
    assert_eq!(warned(Config::new(SECRET)), 1);

    // Revoked keys are refused with any secret.
    let kg = open(&dir, Config::new(SECRET));
    for key in kg.admin().list_keys(None, Page::first()).unwrap() {
        kg.admin().revoke_key(key.id).unwrap();
    }
    drop(kg);
    assert_eq!(warned(Config::new(SECRET)), 0);
}

#[test]
fn unknown_keys_count_as_failures_and_other_tokens_are_ignored() {
    let dir = imported();
    let kg = open(&dir, with_legacy(LEGACY).lockout_threshold(3));
    let keyed = [
        ("X-API-Key", APP),
        ("Authorization", "Bearer of.another.kind"),
    ];
    for _ in 0..9 {
        let _ = kg.check(&keyed, IP, "/").unwrap();
    }
    // Requests without a key lock out only requests without a key.
    let reasons: Vec<Reason> = (0..9)
        .map(|_| refusal(check_as_bearer(&kg, "of.another.kind")))
        .collect();
    assert_eq!(reasons[0], Reason::MissingKey);
    assert_eq!(reasons[8], Reason::IpLocked);
    assert!(!reasons.contains(&Reason::MalformedKey));
    let _ = check_with(&kg, APP).unwrap();
    let _ = check_as_bearer(&kg, APP).unwrap();
    for _ in 0..4 {
        assert_eq!(refusal(check_with(&kg, "nonsense")), Reason::MalformedKey);
    }
    assert_eq!(refusal(check_with(&kg, APP)), Reason::IpLocked);
}

#[test]
fn imported_key_can_be_managed() {
    let dir = imported();
    let kg = open(&dir, with_legacy(LEGACY));
    let hour = std::time::Duration::from_secs(3_600);
    let rotated = kg
        .admin()
        .rotate_key(RotateKey::new(KeyId(12)).grace(hour))
        .unwrap();
    assert!(rotated.raw_key.expose().starts_with("kg_live_"));
    let _ = check_with(&kg, APP).unwrap();
    let _ = check_with(&kg, rotated.raw_key.expose()).unwrap();
    kg.flush().unwrap();
    kg.admin().revoke_key(KeyId(12)).unwrap();
    assert_eq!(refusal(check_with(&kg, APP)), Reason::RevokedKey);
    let _ = check_with(&kg, WEB).unwrap();
    kg.admin()
        .update_key(UpdateKey::new(KeyId(11)).scopes([""; 0]))
        .unwrap();
    assert!(check_with(&kg, WEB).unwrap().require("read").is_err());
}

#[test]
fn legacy_secret_is_read_from_file_or_variable() {
    let dir = imported();
    let check = |arguments: &[&str], secret: Option<&str>| {
        let mut command = program(dir.path(), arguments);
        command.args(["check", "--ip", "192.0.2.7", "--path", "/"]);
        command.env("KEYGUARD_KEY", APP);
        if let Some(secret) = secret {
            command.env("KEYGUARD_LEGACY_SECRET", secret);
        }
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8(said).unwrap()
    };
    for secret in [None, Some("another secret")] {
        let refused = check(&[], secret);
        assert!(refused.contains("malformed_key"), "{refused}");
        let note = "if this is a key of the Python package, the secret of the package";
        assert!(refused.contains(note), "{refused}");
    }
    let blank = check(&[], Some(" "));
    let named = "KEYGUARD_LEGACY_SECRET or --legacy-secret-file: is blank";
    assert!(blank.contains(named), "{blank}");
    let legacy = dir.path().join("legacy.secret");
    crate::common::write_private(&legacy, &format!("{LEGACY}\n"));
    let file = ["--legacy-secret-file", "legacy.secret"];
    assert!(check(&file, Some("another secret")).contains("verdict: admitted"));
    assert!(check(&[], Some(LEGACY)).contains("verdict: admitted"));
    assert!(
        check(&["--legacy-secret-file", "none"], None)
            .contains("the secret file `none` cannot be read")
    );
}

#[test]
fn report_of_an_import_asks_for_a_missing_legacy_secret() {
    let dir = python_package(SCHEMA);
    let import = |arguments: &[&str], secret: Option<&str>| {
        let mut command = program(dir.path(), &[&IMPORT[..], arguments].concat());
        command.envs(secret.map(|secret| ("KEYGUARD_LEGACY_SECRET", secret)));
        output_of(&mut command)
    };
    let note =
        "note: the imported keys are refused until the secret of the Python package is given";
    let missing = import(&[], None);
    assert!(missing.contains(note), "{missing}");
    assert!(
        missing.ends_with("next: KEYGUARD_LEGACY_SECRET=… keyguard serve\n"),
        "{missing}"
    );
    assert!(import(&["--json"], None).contains(r#""note":"the imported keys"#));

    let given = import(&[], Some(LEGACY));
    assert!(
        given.contains("note: `keyguard check` with the text"),
        "{given}"
    );
    let next = "next: KEYGUARD_LEGACY_SECRET=… keyguard serve\n";
    assert!(given.ends_with(next), "{given}");
    crate::common::write_private(&dir.path().join("legacy.secret"), LEGACY);
    let given = import(&["--legacy-secret-file", "legacy.secret"], None);
    assert!(
        given.ends_with("next: keyguard --legacy-secret-file legacy.secret serve\n"),
        "{given}"
    );

    let empty = python_package(&format!(
        "{SCHEMA} DELETE FROM usage_logs; DELETE FROM api_keys;"
    ));
    let said = done(empty.path(), &IMPORT);
    assert!(
        !said.contains("note: ") && said.ends_with("next: keyguard serve\n"),
        "{said}"
    );
}

#[test]
fn check_by_id_says_that_the_legacy_secret_is_missing() {
    let dir = imported();
    let note = "note: requests with the text that the Python package issued for this key are refused with 401";
    let missing = done(dir.path(), &["check", "12"]);
    assert!(
        missing.contains("admitted") && missing.contains(note),
        "{missing}"
    );
    let mut given = program(dir.path(), &["check", "12"]);
    let given = output_of(given.env("KEYGUARD_LEGACY_SECRET", LEGACY));
    assert!(!given.contains("note: "), "{given}");
    // Another key is not concerned.
    done(
        dir.path(),
        &["create-key", "--org", "acme", "--label", "new"],
    );
    let new = done(dir.path(), &["check", "16"]);
    assert!(new.contains("admitted") && !new.contains("note: "), "{new}");
}

#[test]
fn doctor_suspects_a_legacy_secret_that_never_matched() {
    let dir = imported();
    let suspected = |secret: &str| {
        let mut doctor = program(dir.path(), &["doctor", "--json"]);
        let output = doctor
            .env("KEYGUARD_LEGACY_SECRET", secret)
            .output()
            .unwrap();
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let found = found["findings"].as_array().unwrap().clone();
        let areas = found
            .iter()
            .filter(|found| found["area"] == "legacy_secret");
        areas.count()
    };
    assert_eq!(suspected("another secret"), 0, "no key was refused");
    let kg = open(&dir, with_legacy("another secret"));
    assert_eq!(refusal(check_with(&kg, WEB)), Reason::MalformedKey);
    kg.close().unwrap();
    assert_eq!(suspected("another secret"), 1);

    let kg = open(&dir, with_legacy(LEGACY));
    let _ = check_with(&kg, APP).unwrap();
    kg.close().unwrap();
    assert_eq!(suspected(LEGACY), 0, "it has matched");
}

#[test]
fn repeated_import_applies_what_has_changed() {
    let dir = imported();
    let kg = open(&dir, with_legacy(LEGACY));
    let _ = check_with(&kg, APP).unwrap();
    kg.admin().revoke_key(KeyId(11)).unwrap();
    kg.close().unwrap();
    let look =
        || ["list-orgs", "list-keys", "stats"].map(|list| done(dir.path(), &["--json", list]));
    let before = look();
    done(dir.path(), &IMPORT);
    assert_eq!(look(), before);
    let kg = open(&dir, with_legacy("another secret"));
    let _ = check_with(&kg, APP).unwrap();
    kg.close().unwrap();

    let db = Connection::open(dir.path().join("old.db")).unwrap();
    let new = "INSERT INTO api_keys (id, org_id, hashed_key, active, created_at)
        VALUES (16, 3, '{OLD}', 1, 1767225600)";
    db.execute_batch("DELETE FROM api_keys WHERE id = 13; UPDATE api_keys SET rate_limit_per_minute = 7 WHERE id = 12")
        .unwrap();
    db.execute_batch(&hashed(new).replace(&hash(OLD), &hash("sixteen")))
        .unwrap();
    done(dir.path(), &IMPORT);
    let kg = open(&dir, with_legacy(LEGACY));
    let key = check_with(&kg, "sixteen").unwrap();
    assert_eq!(key.key().unwrap().label, "key 16");
    let changed = kg.admin().find_key("12").unwrap();
    assert_eq!(changed.rate_limit_per_minute.get(), 7);
}

#[test]
fn alternative_names_ids_and_times_are_imported() {
    let dir = python_package(
        "CREATE TABLE orgs (id TEXT, name TEXT, is_active BOOLEAN, created_at INTEGER);
         CREATE TABLE keys (id TEXT, organization_id TEXT, name TEXT, key_prefix TEXT, key_hash TEXT,
            is_active BOOLEAN, scopes TEXT, created_at REAL);
         CREATE TABLE usage (api_key_id TEXT, timestamp TEXT, status INTEGER);
         INSERT INTO orgs VALUES ('b-2', 'second', 1, 1735776000), ('a-9', 'first', 1, 1735689600);
         INSERT INTO keys VALUES
            ('z', 'a-9', 'web', 'kg_live_', '{WEB}', 1, 'read, write', 1735862400.5),
            ('y', 'b-2', 'app', 'kg_live_', '{APP}', 1, '', 1735948800);
         INSERT INTO usage VALUES ('y', '2025-02-01T10:00:00+01:00', 200);",
    );
    let said = done(
        dir.path(),
        &["--json", "import", "--from", "sqlite:///old.db"],
    );
    assert!(
        said.contains(r#""keys":2"#) && said.contains(r#""organizations":2"#),
        "{said}"
    );
    let kg = open(&dir, with_legacy(LEGACY));
    let web = check_with(&kg, WEB).unwrap();
    assert_eq!(
        (web.key().unwrap().id, web.org().unwrap().id.0),
        (KeyId(1), 1)
    );
    assert_eq!(web.org().unwrap().name, "first");
    web.require("write").unwrap();
    assert_eq!(kg.admin().stats().unwrap().top_keys[0].key.id, KeyId(2));
}

#[test]
fn invalid_database_is_named_and_nothing_is_written() {
    let with = |change: &str| python_package(&format!("{SCHEMA}{change}"));
    for (dir, words) in [
        (
            python_package("CREATE TABLE songs (id);"),
            ["organizations", "songs"],
        ),
        (with("DROP TABLE api_keys;"), ["api_keys", "usage_logs"]),
        (
            with("ALTER TABLE api_keys DROP COLUMN hashed_key;"),
            ["hashed_key`, `key_hash", "org_id"],
        ),
        (
            with("UPDATE api_keys SET hashed_key = 'x' WHERE id = 12;"),
            ["row 12", "64 hexa"],
        ),
        (
            with("UPDATE api_keys SET org_id = 4 WHERE id = 12;"),
            ["row 12", "is not the id of an organization"],
        ),
        (
            with("UPDATE api_keys SET hashed_key = '{WEB}';"),
            ["hashed_key", "another key"],
        ),
        (
            with("UPDATE api_keys SET monthly_limit = 0;"),
            ["monthly_limit", "null for none"],
        ),
        (
            with("UPDATE api_keys SET scopes = '[\"a b\"]';"),
            ["scopes", "row 11"],
        ),
        (
            with("UPDATE api_keys SET created_at = NULL;"),
            ["created_at", "is null"],
        ),
        (
            with("UPDATE api_keys SET scopes = '{\"read\": true}' WHERE id = 12;"),
            ["scopes", "row 12"],
        ),
        (
            with("UPDATE api_keys SET rate_limit_per_minute = 9e999 WHERE id = 12;"),
            ["rate_limit_per_minute", "is not a limit"],
        ),
        (
            with("UPDATE api_keys SET label = CAST(x'ff' AS TEXT) WHERE id = 12;"),
            ["label", "not UTF-8"],
        ),
        (
            with("UPDATE usage_logs SET status_code = 'fine';"),
            ["status_code", "is not a status"],
        ),
        (
            with(
                "DROP TABLE usage_logs;
                 CREATE VIEW usage_logs AS WITH RECURSIVE n (id) AS
                    (SELECT 11 UNION ALL SELECT id FROM n)
                 SELECT id AS key_id, 200 AS status_code, '2025-02-01' AS created_at FROM n;",
            ),
            ["usage_logs", "is a view"],
        ),
        (
            with(
                "CREATE UNIQUE INDEX by_hash ON api_keys (hashed_key); PRAGMA writable_schema = ON;
                 UPDATE sqlite_schema SET rootpage =
                    (SELECT rootpage FROM sqlite_schema WHERE name = 'organizations')
                 WHERE name = 'usage_logs';",
            ),
            ["is damaged", "backup"],
        ),
        (
            with("UPDATE organizations SET name = 'acme';"),
            ["row 7", "is `acme`, the name of another organization"],
        ),
        (
            with("UPDATE organizations SET name = 'acrne' WHERE name != 'acme';"),
            [
                "row 7",
                "looks like `acme`, the name of another organization",
            ],
        ),
        (
            with("UPDATE organizations SET name = char(97, 160, 98);"),
            ["`organizations` contains", "a space character other"],
        ),
        (
            with("UPDATE organizations SET status = 'odd';"),
            ["status", "suspended"],
        ),
        (
            with("UPDATE usage_logs SET created_at = 'soon';"),
            ["usage_logs", "is not a time"],
        ),
    ] {
        let said = refused(dir.path(), &IMPORT);
        for word in words {
            assert!(said.contains(word), "`{word}` in {said}");
        }
        assert!(said.contains("next:  keyguard import --help"), "{said}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "{said}");
    }
    let dir = TempDir::new().unwrap();
    let said = refused(dir.path(), &IMPORT);
    let (_, error) = said.split_once("unable to open database file").unwrap();
    assert!(!error.contains("unable to open"), "{said}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn conflicting_target_is_refused_and_unchanged() {
    let dir = python_package(SCHEMA);
    done(dir.path(), &["init"]);
    for name in ["one", "two", "three"] {
        done(dir.path(), &["create-org", name]);
    }
    let before = done(dir.path(), &["--json", "list-orgs"]);
    let said = refused(dir.path(), &IMPORT);
    assert!(
        said.contains("organization 3 `acme`") && said.contains("3 `three`"),
        "{said}"
    );
    assert_eq!(done(dir.path(), &["--json", "list-orgs"]), before);
    assert_eq!(done(dir.path(), &["--json", "list-keys"]), "[]\n");
}

#[test]
fn sqlite_database_as_data_file_suggests_an_import() {
    let dir = python_package(SCHEMA);
    let before = fs::read(dir.path().join("old.db")).unwrap();
    for command in ["stats", "init", "list-keys"] {
        let said = refused(dir.path(), &["--db", "old.db", command]);
        assert!(said.contains("is an SQLite database"), "{said}");
        let next = "next:  keyguard --db NEW.redb import --from sqlite:old.db\n";
        assert!(said.ends_with(next), "{said}");
    }
    let refused = KeyGuard::open(dir.path().join("old.db"), Config::new(SECRET)).unwrap_err();
    assert!(matches!(
        refused,
        keyguard::OpenError::SqliteDatabase { .. }
    ));
    assert!(fs::read(dir.path().join("old.db")).unwrap() == before);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    // The suggested command works.
    done(
        dir.path(),
        &["--db", "NEW.redb", "import", "--from", "sqlite:old.db"],
    );
}

#[test]
fn exported_file_continues_like_the_original() {
    let dir = TempDir::new().unwrap();
    let kg = open(&dir, Config::new(SECRET));
    kg.admin().create_org("acme").unwrap();
    let limits = vec!["3 monthly".to_owned()];
    let key = kg
        .admin()
        .create_key(CreateKey::new("acme", "web").limits(limits))
        .unwrap();
    check_with(&kg, key.raw_key.expose()).unwrap().finish(200);
    let said = refused(dir.path(), &["export", "--to", "copy.redb"]);
    assert!(
        said.contains("is held by") && said.contains("stop"),
        "{said}"
    );
    assert!(!dir.path().join("copy.redb").exists());
    kg.close().unwrap();

    let first = done(dir.path(), &["--json", "export", "--to", "copy.redb"]);
    assert!(
        first.contains(r#""keys":1"#) && first.contains(r#""balances":1"#),
        "{first}"
    );
    let look = |db: &str| {
        ["list-orgs", "list-keys", "stats"]
            .map(|list| done(dir.path(), &["--db", db, "--json", list]))
    };
    assert_eq!(look("copy.redb"), look("keyguard.redb"));
    assert_eq!(
        done(dir.path(), &["--json", "export", "--to", "copy.redb"]),
        first
    );
    assert_eq!(look("copy.redb"), look("keyguard.redb"));

    let copy = KeyGuard::open(dir.path().join("copy.redb"), Config::new(SECRET)).unwrap();
    for _ in 0..2 {
        let _ = check_with(&copy, key.raw_key.expose()).unwrap();
    }
    let exhausted = refusal(check_with(&copy, key.raw_key.expose()));
    assert_eq!(exhausted, Reason::QuotaExhausted);
    copy.close().unwrap();

    // Back to the first file.
    done(
        dir.path(),
        &["--db", "copy.redb", "export", "--to", "keyguard.redb"],
    );
    assert_eq!(look("copy.redb"), look("keyguard.redb"));
    let kg = open(&dir, Config::new(SECRET));
    assert_eq!(
        refusal(check_with(&kg, key.raw_key.expose())),
        Reason::QuotaExhausted
    );
}

#[test]
fn export_requires_another_destination_with_the_same_secret() {
    let dir = TempDir::new().unwrap();
    done(dir.path(), &["init"]);
    fs::hard_link(
        dir.path().join("keyguard.redb"),
        dir.path().join("link.redb"),
    )
    .unwrap();
    for same in ["./keyguard.redb", "link.redb"] {
        let said = refused(dir.path(), &["export", "--to", same]);
        assert!(said.contains("is the source of the export"), "{said}");
    }
    drop(KeyGuard::open(dir.path().join("other.redb"), Config::new("another one")).unwrap());
    let said = refused(dir.path(), &["export", "--to", "other.redb"]);
    assert!(
        said.contains("`other.redb` was created with another secret"),
        "{said}"
    );
    let said = refused(
        dir.path(),
        &["--db", "none.redb", "export", "--to", "copy.redb"],
    );
    assert!(said.contains("no data file at `none.redb`"), "{said}");
    assert!(!dir.path().join("none.redb").exists() && !dir.path().join("copy.redb").exists());
}

#[test]
fn export_copies_the_secret_beside_the_file() {
    let dir = TempDir::new().unwrap();
    let run = |arguments: &[&str]| run(dir.path(), arguments);
    assert!(run(&["init"]).status.success());
    assert!(run(&["export", "--to", "copy.redb"]).status.success());
    let secret = |name: &str| fs::read(dir.path().join(name)).unwrap();
    assert_eq!(secret("copy.redb.secret"), secret("keyguard.redb.secret"));
    assert!(run(&["--db", "copy.redb", "stats"]).status.success());
    // An existing secret is kept.
    crate::common::write_private(&dir.path().join("third.redb.secret"), "something else");
    let refused = run(&["export", "--to", "third.redb"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        said.contains("`third.redb.secret` holds another secret"),
        "{said}"
    );
    assert_eq!(secret("third.redb.secret"), b"something else");
    assert!(!dir.path().join("third.redb").exists());
}
