//! README and the guide: sessions, programs and links.
//!
//! `KEYGUARD_BLESS=1 cargo test --all-features --test examples documentation` writes new output of the sessions
//! into the pages. The Rust code of the guide is run by `cargo test --doc`.

use std::fs;
use std::path::Path;

use crate::common::program::done;
use crate::common::server::{Server, example};
use crate::session::{Page, Session};
use rusqlite::Connection;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const README: &str = include_str!("../../README.md");
const LINKS: &str = include_str!("../../src/manual/links.md");

/// The pages with sessions.
const PAGES: [&str; 5] = [
    "README.md",
    "src/manual/operations.md",
    "src/manual/policy.md",
    "src/manual/python_package.md",
    "src/manual/sidecar.md",
];

#[test]
fn every_page_with_a_session_is_run() {
    let pages = all_pages();
    let with_session = pages.iter().filter(|page| Page::read(page).has_session());
    assert_eq!(
        with_session.collect::<Vec<_>>(),
        PAGES.iter().collect::<Vec<_>>()
    );
}

#[test]
fn readme_session_is_as_shown() {
    let mut session = Session::new();
    // The directory of the package.
    std::os::unix::fs::symlink(".", session.dir().join("hello")).unwrap();
    let program = hello("axum", session.dir());
    session.keep(program, "127.0.0.1:8000");
    Page::read(PAGES[0]).run(&mut session);
}

#[test]
fn operations_session_is_as_shown() {
    Page::read(PAGES[1]).run(&mut Session::new());
}

#[test]
fn policy_session_is_as_shown() {
    let mut session = Session::new();
    let (_, policy) = include_str!("../../src/manual/policy.md")
        .split_once("```toml\n")
        .unwrap();
    let (policy, _) = policy.split_once("```").unwrap();
    fs::write(session.dir().join("keyguard.toml"), policy).unwrap();
    done(session.dir(), &["init"]);
    new_key(session.dir(), 60);
    Page::read(PAGES[2]).run(&mut session);
}

#[test]
fn python_package_session_is_as_shown() {
    let mut session = Session::new();
    python_package(session.dir());
    Page::read(PAGES[3]).run(&mut session);
}

#[test]
fn sidecar_session_is_as_shown() {
    Page::read(PAGES[4]).run(&mut Session::new());
}

/// The Rust blocks of README are these programs, but for the comment at their start.
#[test]
fn programs_of_readme_are_examples() {
    let programs = [
        include_str!("../../examples/hello_axum.rs"),
        include_str!("../../examples/hello_tiny_http.rs"),
    ];
    let blocks = README.split("```rust\n").skip(1);
    let blocks = blocks.map(|block| block.split_once("```").unwrap().0);
    let programs = programs.map(|program| program.split_once("\n\n").unwrap().1);
    assert_eq!(blocks.collect::<Vec<_>>(), programs);
}

#[test]
fn programs_of_readme_admit_only_valid_keys() {
    for name in ["axum", "tiny_http"] {
        let dir = TempDir::new().unwrap();
        let server = hello(name, dir.path());
        let key = new_key(dir.path(), 1);
        assert_eq!(server.get("/api/data", None).status, 401, "{name}");
        let admitted = server.get("/api/data", Some(&key));
        assert_eq!(
            (admitted.status, admitted.field("x-ratelimit-remaining")),
            (200, "0")
        );
        assert!(admitted.body.starts_with("Hello"), "{}", admitted.body);
        let limited = server.get("/api/data", Some(&key));
        assert_eq!(limited.status, 429, "{name}");
        assert!(limited.has("retry-after"), "{name}");
    }
}

/// README and the documentation of the crate describe features alike.
#[test]
fn tables_of_features_agree() {
    let library = include_str!("../../src/lib.rs");
    let (_, table) = README.split_once("| feature | adds |\n").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    assert!(table.lines().count() > 5);
    for row in table.lines() {
        assert!(library.contains(&format!("//! {row}\n")), "{row}");
    }
}

/// Links between pages lead to a file and a heading on the site that hosts the sources, and to a page in
/// rustdoc.
#[test]
fn links_of_pages_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for page in all_pages() {
        let text = fs::read_to_string(root.join(&page)).unwrap();
        let dir = root.join(&page).parent().unwrap().to_owned();
        let inline = text
            .split("](")
            .skip(1)
            .map(|rest| rest.split(')').next().unwrap());
        for target in inline.filter(|target| !target.starts_with("http")) {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let file = match file {
                "" => root.join(&page),
                file => dir.join(file),
            };
            assert!(file.exists(), "{page}: {target}");
            let exists = heading.is_empty() || headings(&file).contains(&heading.to_owned());
            assert!(exists, "{page}: {target}");
        }
        for label in text
            .split("][")
            .skip(1)
            .map(|rest| rest.split(']').next().unwrap())
        {
            assert!(
                text.contains(&format!("\n[{label}]: {label}.md\n")),
                "{page}: {label}"
            );
            assert!(dir.join(format!("{label}.md")).exists(), "{page}: {label}");
            let link = format!("[{label}]: crate::manual::{label}\n");
            assert!(LINKS.contains(&link), "{page}: {label}");
        }
    }
}

/// The anchors of the headings of a page.
fn headings(page: &Path) -> Vec<String> {
    let text = fs::read_to_string(page).unwrap();
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.replace(' ', "-");
        kept.replace(|c: char| !c.is_alphanumeric() && !"-_".contains(c), "")
    };
    headings.map(anchor).collect()
}

/// README and the pages of the guide, sorted.
fn all_pages() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = fs::read_dir(root.join("src/manual")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let pages = names.filter(|name| name.ends_with(".md") && name != "links.md");
    let mut pages: Vec<_> = pages.map(|name| format!("src/manual/{name}")).collect();
    pages.extend(["README.md", "CHANGELOG.md", ".github/SECURITY.md"].map(str::to_owned));
    pages.sort();
    pages
}

/// A running program of README.
fn hello(name: &str, dir: &Path) -> Server {
    let mut program = example(&format!("hello_{name}"), dir);
    program.arg("127.0.0.1:0");
    Server::spawn(program)
}

/// Creates a key in a data file that is closed or held by a process.
fn new_key(dir: &Path, per_minute: u32) -> String {
    done(dir, &["create-org", "acme"]);
    let per_minute = per_minute.to_string();
    let created = [
        "create-key",
        "--org",
        "acme",
        "--label",
        "shop",
        "--rate-limit",
        &per_minute,
        "--json",
    ];
    let created: serde_json::Value = serde_json::from_str(&done(dir, &created)).unwrap();
    created["raw_key"].as_str().unwrap().to_owned()
}

/// Creates the database `keyguard.db` as version 0.3.0 of the Python package does, with one key.
fn python_package(dir: &Path) {
    const KEY: &str = "kg_live_Zk9hQ2xvdWQtd2ViLXNob3Ata2V5LTAwMDAwMDE";

    let hash = Sha256::digest(format!("{KEY}my-secret"));
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let db = Connection::open(dir.join("keyguard.db")).unwrap();
    let schema = "
        CREATE TABLE organizations (id VARCHAR(36) NOT NULL PRIMARY KEY, name VARCHAR NOT NULL,
            status VARCHAR, created_at DATETIME DEFAULT (CURRENT_TIMESTAMP));
        CREATE TABLE api_keys (id VARCHAR(36) NOT NULL PRIMARY KEY, org_id VARCHAR(36) NOT NULL,
            label VARCHAR NOT NULL, prefix VARCHAR NOT NULL, key_hash VARCHAR NOT NULL,
            is_active BOOLEAN, scopes JSON, rate_limit_per_minute INTEGER, monthly_limit BIGINT,
            created_at DATETIME DEFAULT (CURRENT_TIMESTAMP), expires_at DATETIME,
            last_used_at DATETIME);
        CREATE TABLE usage_logs (id VARCHAR(36) NOT NULL PRIMARY KEY, key_id VARCHAR(36) NOT NULL,
            path VARCHAR NOT NULL, method VARCHAR NOT NULL, status_code INTEGER NOT NULL,
            latency_ms INTEGER NOT NULL, ip_address VARCHAR NOT NULL,
            timestamp DATETIME DEFAULT (CURRENT_TIMESTAMP));
        INSERT INTO organizations (id, name, status) VALUES
            ('6f2c1c9e-0a4b-4c53-9d0e-2b7a5f0c8d11', 'Acme Corp', 'active');
        INSERT INTO api_keys (id, org_id, label, prefix, key_hash, is_active, scopes,
            rate_limit_per_minute) VALUES
            ('b1d6f0a2-5c3e-4e78-8a19-7f4d2e6c9b05', '6f2c1c9e-0a4b-4c53-9d0e-2b7a5f0c8d11',
            'production', 'kg_live_Zk9h', '{HASH}', 1, '[\"read\"]', 120);";
    db.execute_batch(&schema.replace("{HASH}", &hash)).unwrap();
}
