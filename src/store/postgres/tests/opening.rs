//! Tests of opening a database.

use super::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedKey, DnType, IsCa, KeyPair,
    generate_simple_self_signed,
};

fn refused(opened: Result<PostgresStore, OpenError>, word: &str) {
    let error = opened.map(drop).unwrap_err().to_string();
    assert!(error.contains(word), "{error}");
    assert!(!error.contains("postgres://postgres"), "{error}");
}

#[test]
fn concurrent_opens_create_the_tables_once() {
    let database = Database::new();
    let openers: Vec<_> = (0..4)
        .map(|_| {
            let url = database.url.clone();
            thread::spawn(move || open_url(&url).unwrap())
        })
        .collect();
    for (n, opener) in openers.into_iter().enumerate() {
        let store = opener.join().unwrap();
        let org = store.add_org(&format!("org {n}"));
        assert_eq!(org.id, OrgId(n as u64 + 1));
    }
}

#[test]
fn another_secret_is_refused() {
    let database = Database::new();
    drop(open(&database));
    let other = Fingerprint([8; 32]);
    refused(
        PostgresStore::open(&database.url, other, options()),
        "another secret",
    );
}

#[test]
fn older_and_newer_tables_are_refused() {
    let database = Database::new();
    drop(open(&database));
    for version in [1, 99] {
        database.execute(&format!(
            "UPDATE keyguard_meta SET value = '{version}' WHERE name = 'schema'"
        ));
        refused(open_url(&database.url), &format!("version {version},"));
    }
}

#[test]
fn a_database_of_the_python_package_is_refused_and_unchanged() {
    let database = Database::new();
    database.execute("CREATE TABLE organizations (id serial, name text)");
    refused(
        open_url(&database.url),
        "keyguard --db NEW import --from postgres://…",
    );
    let tables = "SELECT string_agg(relname, ' ') FROM pg_class \
        WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
    assert_eq!(database.value(tables), "organizations");
}

#[test]
fn a_user_without_privileges_is_refused() {
    let database = Database::new();
    let name = database
        .url
        .rsplit('/')
        .next()
        .unwrap()
        .split('?')
        .next()
        .unwrap();
    database.execute(&format!("CREATE ROLE reader_{name} LOGIN"));
    let url = database
        .url
        .replace("postgres@", &format!("reader_{name}@"));
    refused(open_url(&url), "permission denied");
    drop(open(&database));
    refused(open_url(&url), "permission denied");
    database.execute(&format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO reader_{name}"
    ));
    refused(open_url(&url), "must be able to create tables");
}

#[test]
fn other_servers_are_refused() {
    let database = Database::new();
    refused(open_url("postgres://me:hunter2@/x"), "URL");
    refused(
        open_url(&database.url.replace("/db", "/no")),
        "does not exist",
    );
    refused(
        open_url(
            &database
                .url
                .replace("disable", "require&sslrootcert=/nowhere"),
        ),
        "sslrootcert",
    );
}

/// A TLS server with a certificate for `localhost`, and a file with that certificate.
fn server_with_tls(dir: &std::path::Path) -> (Server, String) {
    let certified = generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    server_with(certified, dir)
}

/// A self-signed CA certificate like that of `openssl req -x509`.
fn authority(host: &str, names: &[&str], not_after: i32) -> CertifiedKey<KeyPair> {
    let names: Vec<_> = names.iter().copied().map(String::from).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, host);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_after = rcgen::date_time_ymd(not_after, 1, 1);
    let signing_key = KeyPair::generate().unwrap();
    let cert = params.self_signed(&signing_key).unwrap();
    CertifiedKey { cert, signing_key }
}

fn server_with(certified: CertifiedKey<KeyPair>, dir: &std::path::Path) -> (Server, String) {
    let CertifiedKey { cert, signing_key } = certified;
    let server = Server::start_with(&["ssl=on"], |data| {
        for (name, pem) in [
            ("server.crt", cert.pem()),
            ("server.key", signing_key.serialize_pem()),
        ] {
            let file = data.join(name);
            std::fs::write(&file, pem).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(&file, mode).unwrap();
            server::give_away(&file);
        }
    });
    (server, certificate_file(dir, "root.crt", &cert.pem()))
}

fn certificate_file(dir: &std::path::Path, name: &str, pem: &str) -> String {
    let file = dir.join(name);
    std::fs::write(&file, pem).unwrap();
    file.display().to_string()
}

fn url_of(server: &Server, host: &str, parameters: &str) -> String {
    let port = server.port();
    format!("postgres://postgres@{host}:{port}/postgres?hostaddr=127.0.0.1&{parameters}")
}

/// Whether the sessions of a store are encrypted.
fn encrypted(server: &Server, parameters: &str) -> String {
    let store = open_url(&url_of(server, "localhost", parameters)).unwrap();
    store.orgs(None, 1).unwrap();
    let sessions = "SELECT string_agg(DISTINCT ssl::text, ' ') FROM pg_stat_ssl \
        JOIN pg_stat_activity USING (pid) WHERE application_name = 'keyguard'";
    server::value(&server.url("postgres"), sessions)
}

/// Asserts that every mode accepts the certificate in the file `root` and refuses that in `other`, and
/// that only `verify-full` refuses another host, with an error that contains `wrong_host`.
fn assert_verification(server: &Server, root: &str, other: &str, wrong_host: &str) {
    for mode in ["prefer", "require", "verify-ca", "verify-full"] {
        let trusting = |file: &str| format!("sslmode={mode}&sslrootcert={file}");
        assert_eq!(encrypted(server, &trusting(root)), "true", "{mode}");
        let url = url_of(server, "localhost", &trusting(other));
        refused(open_url(&url), "certificate");
        let opened = open_url(&url_of(server, "db.example", &trusting(root)));
        match mode {
            "verify-full" => refused(opened, wrong_host),
            _ => drop(opened.unwrap()),
        }
    }
}

#[test]
fn the_mode_determines_certificate_verification() {
    let dir = tempfile::tempdir().unwrap();
    let (server, root) = server_with_tls(dir.path());
    let other = generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let other = certificate_file(dir.path(), "other.crt", &other.cert.pem());

    for mode in ["prefer", "require"] {
        assert_eq!(encrypted(&server, &format!("sslmode={mode}")), "true");
    }
    assert_eq!(encrypted(&server, "sslmode=disable"), "false");
    assert_verification(&server, &root, &other, "certificate");
    let url = |parameters| url_of(&server, "localhost", parameters);
    refused(open_url(&url("sslmode=verify-full")), "certificate");
    refused(open_url(&url("sslmode=verify-ca")), "sslrootcert=FILE");
    refused(open_url(&url("sslmode=hunter2")), "`verify-full`");
}

#[test]
fn a_listed_ca_certificate_is_trusted_as_server_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let other = authority("localhost", &["localhost"], 4000);
    let other = certificate_file(dir.path(), "other.crt", &other.cert.pem());
    let (server, root) = server_with(authority("localhost", &["localhost"], 4000), dir.path());
    assert_verification(&server, &root, &other, "not valid for name");

    // Common names are ignored and expired certificates are rejected.
    let (server, root) = server_with(authority("localhost", &[], 4000), dir.path());
    let trusting = |mode: &str| format!("sslmode={mode}&sslrootcert={root}");
    assert_eq!(encrypted(&server, &trusting("verify-ca")), "true");
    let full = url_of(&server, "localhost", &trusting("verify-full"));
    refused(open_url(&full), "subjectAltName");
    let (server, root) = server_with(authority("localhost", &["localhost"], 2000), dir.path());
    for mode in ["verify-ca", "verify-full"] {
        let trusting = format!("sslmode={mode}&sslrootcert={root}");
        let url = url_of(&server, "localhost", &trusting);
        refused(open_url(&url), "expired");
    }
}

#[test]
fn failed_tls_never_falls_back_to_plain_text() {
    let dir = tempfile::tempdir().unwrap();
    let (server, root) = server_with_tls(dir.path());
    let url = server.url("postgres");
    for (setting, value) in [("min", "TLSv1"), ("max", "TLSv1.1")] {
        let setting = format!("ALTER SYSTEM SET ssl_{setting}_protocol_version = '{value}'");
        server::execute(&url, &setting);
    }
    server::execute(&url, "SELECT pg_reload_conf()");
    let prefer = url_of(&server, "localhost", "sslmode=prefer");
    // The setting applies to new sessions once the server has read it.
    wait_until(|| open_url(&prefer).is_err());
    refused(open_url(&prefer), "TLS");

    let plain = Server::start();
    drop(open_url(&url_of(&plain, "localhost", "sslmode=prefer")).unwrap());
    let trusting = format!("sslmode=prefer&sslrootcert={root}");
    let url = url_of(&plain, "localhost", &trusting);
    refused(open_url(&url), "does not support TLS");
}

#[test]
fn only_poolers_that_share_sessions_are_refused() {
    let server = Server::start();
    let pooler = PgBouncer::start(server.port(), "transaction");
    for _ in 0..3 {
        refused(open_url(&pooler.url("postgres")), "pool_mode = session");
    }
    drop(pooler);
    let pooler = PgBouncer::start(server.port(), "session");
    let one = open_url(&pooler.url("postgres")).unwrap();
    let org = one.add_org("acme");
    one.add_key(org.id, 1);
    let other = open_url(&pooler.url("postgres")).unwrap();
    let changes = changes_of(&other);
    one.revoke(KeyId(1));
    wait_for(&changes, is_of_key(1));
}

#[test]
fn round_robin_poolers_are_refused() {
    let server = Server::start();
    let pooler = PgBouncer::start(server.port(), "transaction\nserver_round_robin = 1");
    let url = pooler.url("postgres");
    for sessions in 2..=4 {
        // Concurrently, so that the pooler opens another session.
        hold_sessions(&url, sessions);
        for _ in 0..3 {
            refused(open_url(&url), "pool_mode = session");
        }
    }
}

/// Makes the pooler at `url` open a number of server sessions.
fn hold_sessions(url: &str, count: usize) {
    if count > 0 {
        server::holding(url, "SELECT 1", || {
            let rest = || hold_sessions(url, count - 1);
            thread::scope(|threads| threads.spawn(rest).join().unwrap());
        });
    }
}

#[test]
fn later_session_sharing_is_detected() {
    let server = Server::start();
    let pooler = PgBouncer::start(server.port(), "session");
    let store = open_url(&pooler.url("postgres")).unwrap();
    assert!(store.warnings().is_empty(), "{:?}", store.warnings());
    pooler.change_mode("transaction");
    let is_said = |text: String| text.contains("pool_mode = session");
    wait_until(|| {
        // The result does not matter; it takes a session of the pooler.
        let _ = store.orgs(None, 1);
        store.warnings().into_iter().any(is_said)
    });
}
