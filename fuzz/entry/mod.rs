//! Entry points of the fuzz targets: a module of the library that is compiled for them only.

mod admin;
mod codec;
mod data_file;
mod request;

use std::path::{Path, PathBuf};

pub use self::admin::{admin_request, socket_frame};
pub use self::codec::codec;
pub use self::data_file::open_file;
pub use self::request::request;
pub use crate::limiter::fuzz_redis_reply as redis_reply;
pub use crate::store::fuzz_postgres_reply as postgres_reply;

use crate::Timestamp;
use crate::guard::Config;
use crate::limit::Limit;
use crate::model::{Method, key_text};
use crate::net::{CidrSet, Nat64Prefixes, forwarded};
use crate::policy::{Access, CompiledPolicy, Policy};
use crate::time::LockDuration;

/// Classifies a text as a key or not.
pub fn key_text(data: &[u8]) {
    let well_formed = key_text::is_well_formed(data);
    assert!(!well_formed || key_text::has_key_shape(data));
    assert!(!well_formed || data.is_ascii());

    thread_local! {
        static TEXT: key_text::PlainKey =
            key_text::PlainKey::generate(&key_text::KeyPrefix::default()).expect("the system has entropy");
    }
    TEXT.with(|text| {
        let text = text.expose().as_bytes();
        assert!(key_text::is_well_formed(text));
        // Keys that are cut off, or have further text.
        let part = &text[..data.len().min(text.len() - 1)];
        assert!(!key_text::is_well_formed(part));
        key_text::is_well_formed(&[part, data].concat());
        key_text::has_key_shape(&[text, data].concat());
    });
}

/// Parses a lock duration. A valid one prints text that parses to the same value, and ends after now.
pub fn lock_time(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(time) = text.parse::<LockDuration>() {
        assert_eq!(time.to_string().parse(), Ok(time));
        let now = Timestamp::from_unix_millis(1_768_478_400_000);
        let zone = "America/New_York".parse().expect("a zone");
        assert!(
            time.ends_at(now, &zone)
                .expect("the end is in the calendar")
                > now
        );
    }
}

/// Parses a limit. A valid one prints text that parses to the same value.
pub fn limit(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(limit) = text.parse::<Limit>()
    {
        assert_eq!(limit.to_string().parse(), Ok(limit));
    }
}

/// Matches a request target. A protected path is protected in every reading; only the exact path is
/// exempt.
pub fn target(data: &[u8]) {
    thread_local! {
        static RULES: CompiledPolicy = "protect = [\"/api\"]\nexempt = [\"/api/health\"]"
            .parse::<Policy>()
            .and_then(CompiledPolicy::new)
            .expect("a policy");
    }
    let target = String::from_utf8_lossy(data);
    let access = RULES.with(|rules| rules.route_match(&target, Method::Get).access);
    match access {
        Access::Exempt => assert_eq!(target.split('?').next(), Some("/api/health")),
        Access::Open => {
            let path = crate::policy::path::normalized(&target);
            assert!(path != "/api" && !path.starts_with("/api/"), "{target}");
        }
        Access::Protected | Access::OpenInShadow | Access::Unreadable => {}
    }
}

/// Parses a policy, and matches its first line as a path. Errors name a line.
pub fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match text.parse::<Policy>() {
        Ok(policy) => {
            let line = text.lines().next().unwrap_or_default();
            let compiled = CompiledPolicy::new(policy).expect("a parsed policy is valid");
            compiled.route_match(line, Method::Post);
        }
        // Only counts above 1,000, which inputs are too short for, are of no line.
        Err(error) => assert!(error.to_string().contains("line "), "{error}"),
    }
}

/// Reads lines of each forwarding header field.
pub fn forwarded(data: &[u8]) {
    let proxies: CidrSet = "10.0.0.0/8".parse().expect("a network");
    for header in forwarded::KNOWN_FIELDS {
        let lines = data.split(|byte| *byte == b'\n');
        let header = header.parse().expect("a field");
        let client = forwarded::client(&proxies, &Nat64Prefixes::default(), &header, lines);
        assert!(data.is_empty() || client != Ok(None));
    }
}

/// A configuration that opens and closes quickly.
fn small() -> Config {
    Config::new("fuzz")
        .key_cache_capacity(16)
        .max_tracked_keys(16)
        .usage_queue_capacity(1_024)
        .max_locks(16)
        .max_tracked_ips(16)
        .file_cache_bytes(1 << 20)
        .socket(false)
}

/// A directory in memory where the system has one.
fn directory() -> PathBuf {
    let shared = Path::new("/dev/shm");
    let parent = if shared.is_dir() {
        shared.into()
    } else {
        std::env::temp_dir()
    };
    let dir = parent.join(format!("keyguard-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a temporary directory");
    dir
}
