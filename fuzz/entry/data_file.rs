//! Data files of any bytes.

use std::path::PathBuf;

use super::{directory, small};
use crate::admin::{CreateKey, ListUsage, Page};
use crate::guard::Request;
use crate::keyguard::KeyGuard;
use crate::model::{Key, KeyId, PlainKey, UsageGroup, UsageQuery};
use crate::net::ClientIp;
use crate::time::Timestamp;

/// A data file with keys.
struct ValidFile {
    bytes: Vec<u8>,
    keys: Vec<Key>,
    active: PlainKey,
    revoked: PlainKey,
}

/// Opens any bytes as a data file (first byte 0), or one with altered bytes (odd), also cut or extended (even). A
/// refused file is unchanged. An accepted one does not panic, and has the keys that were stored or refuses to
/// return them.
pub fn open_file(data: &[u8]) {
    thread_local! {
        static VALID: ValidFile = ValidFile::new();
    }
    VALID.with(|valid| {
        let edited = match data.split_first() {
            Some((mode @ 1.., edits)) => Some(valid.edited(*mode, edits)),
            _ => None,
        };
        let bytes = edited.as_deref().unwrap_or(data);
        std::fs::write(path(), bytes).expect("a writable directory");
        match KeyGuard::open(path(), small()) {
            Ok(kg) => {
                if edited.is_some() {
                    valid.check_keys(&kg);
                }
                use_all(&kg);
            }
            Err(_) => {
                let found = std::fs::read(path()).expect("the file exists");
                assert!(found == bytes, "a refused file is unchanged");
            }
        }
    });
    std::fs::remove_file(path()).expect("the file can be removed");
}

fn path() -> PathBuf {
    directory().join("any.redb")
}

impl ValidFile {
    fn new() -> Self {
        let path = directory().join("valid.redb");
        let _ = std::fs::remove_file(&path);
        let kg = KeyGuard::open(&path, small()).expect("a new file");
        use_all(&kg);
        let create = |label| kg.admin().create_key(CreateKey::new("acme", label));
        let active = create("active").expect("a valid key").raw_key;
        let revoked = create("revoked").expect("a valid key");
        let revoking = kg.admin().revoke_key(revoked.key.id);
        revoking.expect("a stored key");
        let keys = listed(&kg).expect("a valid file");
        assert_eq!(keys.len(), 7);
        kg.close().expect("the disk works");
        let bytes = std::fs::read(&path).expect("the file exists");
        std::fs::remove_file(&path).expect("the file can be removed");
        Self {
            bytes,
            keys,
            active,
            revoked: revoked.raw_key,
        }
    }

    /// Alters bytes: of four bytes of `edits`, three are a position, and one is combined with the byte there.
    /// For an even mode, the first position is where the file is cut, or to which it is extended by zeros.
    fn edited(&self, mode: u8, edits: &[u8]) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let position = |edit: &[u8]| u32::from_le_bytes([edit[0], edit[1], edit[2], 0]) as usize;
        let mut edits = edits.chunks_exact(4);
        if mode % 2 == 0
            && let Some(cut) = edits.next()
        {
            let end = position(cut) % (bytes.len() + 8_192);
            bytes.resize(end, 0);
        }
        for edit in edits {
            let len = bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(position(edit) % len) {
                *byte ^= edit[3];
            }
        }
        bytes
    }

    fn check_keys(&self, kg: &KeyGuard) {
        if let Some(keys) = listed(kg) {
            assert!(keys == self.keys, "{keys:?}");
        }
        let admits = |key: &PlainKey| {
            let headers = [("X-API-Key", key.expose())];
            kg.check(&headers, ClientIp::LOCAL, "/")
                .map(|grant| grant.finish(200))
        };
        assert!(admits(&self.revoked).is_err());
        // Unavailable, but not unknown.
        assert!(
            admits(&self.active)
                .err()
                .is_none_or(|denial| denial.status() == 503)
        );
    }
}

/// All keys, without their last use; `None` if they cannot be read.
fn listed(kg: &KeyGuard) -> Option<Vec<Key>> {
    let keys = kg.admin().list_keys(None, Page::first()).ok()?;
    let without_use = |key: Key| Key {
        last_used_at: None,
        old_text_until: None,
        ..key
    };
    Some(keys.into_iter().map(without_use).collect())
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
    let request = Request::new(&[("", ""); 0], ClientIp::LOCAL, "/");
    let _ = kg.dry_run_as(KeyId(1), request);
    let _ = kg.admin().revoke_key(KeyId(3));
    let _ = kg.admin().list_keys(None, Page::first());
    let _ = kg.admin().list_orgs(Page::first());
    let _ = kg.admin().list_usage(ListUsage::new());
    for by in [UsageGroup::Key, UsageGroup::Hour, UsageGroup::Path] {
        let query = UsageQuery::by(by).since(Timestamp::from_unix_millis(1));
        let _ = kg.admin().usage(&query);
    }
    let _ = kg.admin().stats();
}
