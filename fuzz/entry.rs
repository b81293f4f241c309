//! Entry points of the fuzz targets: a module of the library that is compiled for them only. Inputs are
//! given valid checksums here, which random bytes do not have.

use std::path::{Path, PathBuf};

use crate::admin::{CreateKey, Page};
use crate::guard::Config;
use crate::keyguard::KeyGuard;
use crate::limit::Limit;
use crate::model::Method;
use crate::model::key_text;
use crate::net::CidrSet;
use crate::net::ClientIp;
use crate::net::Nat64Prefixes;
use crate::net::forwarded;
use crate::policy::{Access, CompiledPolicy, Policy};
use crate::store::codec::usage_block::{UsageBlockReader, UsageBlockWriter};
use crate::store::codec::{self, Record};
use crate::time::LockDuration;
use crate::time::ManualClock;
use crate::{KeyId, OrgId, Timestamp};

/// The byte that stands for the text of a key.
const KEY: u8 = 1;

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

/// Checks a request with header lines `NAME:VALUE`. The byte 1 in a value stands for the text of a key.
pub fn headers(data: &[u8]) {
    thread_local! {
        static GUARD: (KeyGuard, Vec<u8>, ManualClock) = {
            let clock = ManualClock::starting_at(Timestamp::from_unix_millis(1_768_478_400_000));
            let file = directory().join("headers.redb");
            let _ = std::fs::remove_file(&file);
            let config = Config::new("fuzz").clock(clock.clone());
            let kg = KeyGuard::open(file, config).expect("a new file");
            kg.admin().create_org("acme").expect("the organization is new");
            let key = kg.admin().create_key(CreateKey::new("acme", "fuzz")).expect("a valid key");
            let text = key.raw_key.expose().as_bytes().to_vec();
            (kg, text, clock)
        };
    }
    GUARD.with(|(kg, key, clock)| {
        let mut headers: Vec<(String, Vec<u8>)> = Vec::new();
        for line in data.split(|byte| *byte == b'\n') {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else {
                continue;
            };
            let name = String::from_utf8_lossy(&line[..colon]).into_owned();
            let mut value = Vec::new();
            for byte in &line[colon + 1..] {
                match *byte {
                    KEY => value.extend_from_slice(key),
                    byte => value.push(byte),
                }
            }
            headers.push((name, value));
        }
        let path = String::from_utf8_lossy(data);
        match kg.check(&headers, ClientIp::LOCAL, &path) {
            Ok(grant) => {
                assert!(data.contains(&KEY), "no other key was issued");
                grant.finish(200);
            }
            Err(denial) => {
                assert!(matches!(denial.status(), 400 | 401));
                let problem = denial.problem();
                assert!(problem.is_ascii());
                assert!(!problem.contains(&*String::from_utf8_lossy(key)));
            }
        }
        clock.advance(std::time::Duration::from_secs(60));
    });
}

/// Decodes every kind of record and block. Decoding must not panic, and re-encoding must give equal
/// values.
pub fn codec(data: &[u8]) {
    let _ = codec::decode_org(OrgId(1), data);
    let _ = codec::decode_key(KeyId(1), data);
    let _ = codec::decode_credential(key_text::HashedKey([0; 32]), data);
    again::<crate::store::totals::Activity>(data);
    again::<codec::RecordCounts>(data);
    again::<crate::store::Lifetime>(data);
    again::<crate::store::Tally>(data);
    again::<crate::store::totals::TopKeys>(data);
    again::<crate::store::Count>(data);
    UsageBlockReader::new(data).take(100_000).for_each(drop);
    if let Ok(resumed) = UsageBlockWriter::resume(data.to_vec()) {
        assert!(resumed.bytes().starts_with(data));
    }
    let _ = codec::data_file::read_preamble(data);
    if let Ok(counters) = codec::decode_counters(data) {
        let bytes = codec::encode_counters(&counters).expect("decoded counters can be encoded");
        assert_eq!(
            codec::decode_counters(&bytes).expect("encoded counters can be decoded"),
            counters
        );
    }
    if let Ok(saved) = codec::decode_ip_window(data) {
        let bytes = codec::encode_ip_window(&saved).expect("a decoded value can be encoded");
        assert_eq!(
            codec::decode_ip_window(&bytes).expect("an encoded value can be decoded"),
            saved
        );
    }
    let (key, row) = data.split_at(data.len().min(18));
    if let Ok(lock) = codec::decode_lock(key, row) {
        let row = codec::encode_lock(&lock).expect("a decoded value can be encoded");
        let again = codec::decode_lock(&codec::lock_key(&lock.id()), &row);
        assert_eq!(again.expect("an encoded value can be decoded"), lock);
    }
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

/// Parses a policy, and matches its first line as a path.
pub fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(policy) = text.parse::<Policy>() {
        let line = text.lines().next().unwrap_or_default();
        let compiled = CompiledPolicy::new(policy).expect("a parsed policy is valid");
        compiled.route_match(line, Method::Post);
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

/// Handles bytes as frames of the socket.
#[cfg(unix)]
pub fn socket_frame(data: &[u8]) {
    use crate::admin::wire::{self, Request};

    thread_local! {
        static GUARD: KeyGuard = {
            let file = directory().join("socket.redb");
            let _ = std::fs::remove_file(&file);
            KeyGuard::open(file, small()).expect("a new file")
        };
    }
    let mut stream = data;
    while let Ok(Some(request)) = wire::read::<Request>(&mut stream) {
        if let Ok(command) = request.into_command() {
            let _ = GUARD.with(|guard| command.run(&guard.admin()));
        }
    }
    // The same bytes as a command in a valid frame.
    if let Ok(command) = serde_json::from_slice(data) {
        let request = Request {
            version: wire::VERSION,
            command,
        };
        if let Ok(command) = request.into_command() {
            let _ = GUARD.with(|guard| command.run(&guard.admin()));
        }
    }
}

fn again<T: Record>(data: &[u8]) {
    if let Ok(record) = T::decode(data) {
        let encoded = record.encode().expect("a decoded value can be encoded");
        let decoded = T::decode(&encoded).expect("an encoded value can be decoded");
        assert_eq!(
            decoded.encode().expect("a decoded value can be encoded"),
            encoded
        );
    }
}

/// Opens a data file with altered bytes, or any bytes. A refused file is unchanged; an accepted one does
/// not panic.
pub fn open_file(data: &[u8]) {
    thread_local! {
        static VALID: Vec<u8> = valid_file();
    }
    let bytes = VALID.with(|valid| match data.split_first() {
        // Of four bytes, three are a position, and one is combined with the byte there.
        Some((1.., edits)) => {
            let mut bytes = valid.clone();
            for edit in edits.chunks_exact(4) {
                let position = u32::from_le_bytes([edit[0], edit[1], edit[2], 0]) as usize;
                let position = position % bytes.len();
                bytes[position] ^= edit[3];
            }
            bytes
        }
        _ => data.to_vec(),
    });
    let path = directory().join("any.redb");
    std::fs::write(&path, &bytes).expect("a writable directory");
    match KeyGuard::open(&path, small()) {
        Ok(kg) => use_all(&kg),
        Err(_) => assert_eq!(std::fs::read(&path).expect("the file exists"), bytes),
    }
    std::fs::remove_file(&path).expect("the file can be removed");
}

fn valid_file() -> Vec<u8> {
    let path = directory().join("valid.redb");
    let _ = std::fs::remove_file(&path);
    let kg = KeyGuard::open(&path, small()).expect("a new file");
    use_all(&kg);
    kg.close().expect("the disk works");
    read_and_remove(&path)
}

fn read_and_remove(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).expect("the file exists");
    std::fs::remove_file(path).expect("the file can be removed");
    bytes
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

/// Calls most operations of a guard; on an altered file any may fail.
fn use_all(kg: &KeyGuard) {
    let _ = kg.admin().create_org("acme");
    for n in 0..5 {
        let key = CreateKey::new("acme", format!("key {n}"));
        if let Ok(key) = kg.admin().create_key(key) {
            let headers = [("X-API-Key", key.raw_key.expose())];
            if let Ok(grant) = kg.check(&headers, ClientIp::LOCAL, "/api/data") {
                grant.finish(200);
            }
        }
    }
    let _ = kg.dry_run_as(
        KeyId(1),
        crate::guard::Request::new(&[("", ""); 0], ClientIp::LOCAL, "/"),
    );
    let _ = kg.admin().revoke_key(KeyId(3));
    let _ = kg.admin().list_keys(None, Page::first());
    let _ = kg.admin().list_orgs(Page::first());
    let _ = kg.admin().list_usage(crate::admin::ListUsage::new());
    let _ = kg.admin().stats();
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
