//! Opening: what is made, and what is refused.

use super::*;
use rcgen::{CertifiedKey, generate_simple_self_signed};

fn refused(opened: Result<PostgresStore, OpenError>, word: &str) {
    let error = opened.map(drop).unwrap_err().to_string();
    assert!(error.contains(word), "{error}");
    assert!(!error.contains("postgres://postgres"), "{error}");
}

#[test]
fn several_that_open_a_new_database_at_once_make_it_once() {
    let database = Database::new();
    let openers: Vec<_> = (0..4)
        .map(|_| {
            let url = database.url.clone();
            thread::spawn(move || open_url(&url).unwrap())
        })
        .collect();
    for (n, opener) in openers.into_iter().enumerate() {
        let store = opener.join().unwrap();
        let org = store.create_org(&format!("org {n}"), &act()).unwrap();
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
fn newer_tables_are_refused() {
    let database = Database::new();
    drop(open(&database));
    database.execute("UPDATE keyguard_meta SET value = '99' WHERE name = 'schema'");
    refused(open_url(&database.url), "version 99");
}

#[test]
fn a_database_of_the_ancestor_is_refused_and_left_as_it_was() {
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
    refused(open_url(&url), "privilege");
}

#[test]
fn what_is_no_server_of_ours_is_refused() {
    let database = Database::new();
    refused(open_url("postgres://me:hunter2@/x"), "URL");
    refused(
        open_url(&database.url.replace("/db", "/no")),
        "does not exist",
    );
    refused(
        open_url(&format!("{}&sslrootcert=/nowhere", database.url)),
        "sslrootcert",
    );
}

#[test]
fn a_server_is_known_by_its_certificate() {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(vec!["localhost".into()]).unwrap();
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
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root.crt");
    std::fs::write(&root, cert.pem()).unwrap();
    let url = |mode: &str| {
        let port = server.port();
        format!("postgres://postgres@localhost:{port}/postgres?sslmode={mode}&hostaddr=127.0.0.1")
    };
    let sessions = "SELECT string_agg(DISTINCT ssl::text, ' ') FROM pg_stat_ssl \
        JOIN pg_stat_activity USING (pid) WHERE application_name = 'keyguard'";
    let encrypted = || server::value(&server.url("postgres"), sessions);

    let store = open_url(&format!(
        "{}&sslrootcert={}",
        url("require"),
        root.display()
    ))
    .unwrap();
    store.create_org("acme", &act()).unwrap();
    assert_eq!(encrypted(), "true");
    drop(store);

    refused(open_url(&url("require")), "certificate");
    let store = open_url(&url("prefer")).unwrap();
    assert_eq!(store.orgs(None, 9).unwrap().len(), 1);
}
