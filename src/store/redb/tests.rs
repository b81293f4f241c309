use crate::addresses::Addresses;
use crate::record::OrgStatus;
use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::redb::backends::FileBackend;
use ::redb::{BackendError, StorageBackend};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::client_ip::ClientIp;
use crate::record::{Method, Reason};
use crate::secret::Fingerprint;
use crate::store::codec;
use crate::store::{Count, Once, UsageEvent};
use crate::waiting::block_on;

mod altered;
mod moving;
mod opening;
mod recording;

const SECRET: Fingerprint = Fingerprint([7; 32]);
const OTHER_SECRET: Fingerprint = Fingerprint([8; 32]);
const CACHE: usize = 16 << 20;
/// The start of an hour and of a day.
const NOW: Timestamp = Timestamp::from_unix_millis(1_800_057_600_000);

/// A change that somebody makes.
pub(super) fn act() -> Act {
    Act {
        at: NOW,
        actor: "a test".into(),
        ip: ClientIp::LOCAL,
        action: "change",
        subject: None,
        details: serde_json::Value::Null,
        once: None,
    }
}

fn resolve(store: &RedbStore, n: u64) -> Result<Option<Resolved>, StoreError> {
    block_on(store.resolve(&hash(n), &Patience::default()).get())
}

struct File {
    path: PathBuf,
    dir: TempDir,
}

impl File {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("keyguard.redb");
        Self { path, dir }
    }

    fn open(&self) -> RedbStore {
        open(&self.path).unwrap()
    }

    /// The file as a kill at this moment would leave it.
    fn killed(&self) -> Self {
        let copy = Self::new();
        fs::copy(&self.path, &copy.path).unwrap();
        copy
    }
}

fn open(path: &Path) -> Result<RedbStore, OpenError> {
    RedbStore::open(path, SECRET, NOW, CACHE)
}

fn hash(n: u64) -> HashedKey {
    HashedKey(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

fn new_key(org_id: OrgId, n: u64) -> (NewKey, NewCredential) {
    let key = NewKey {
        org_id,
        label: format!("key {n}"),
        scopes: vec!["read".parse().unwrap()],
        rate_limit_per_minute: NonZeroU32::new(60).unwrap(),
        limits: Vec::new(),
        allowed_ips: Addresses::default(),
        created_at: NOW,
        expires_at: None,
    };
    let credential = NewCredential {
        hash: hash(n),
        shown_prefix: "kg_live_abcd".into(),
        created_at: NOW,
    };
    (key, credential)
}

/// A file with one organization and `keys` keys, with ids and hashes from 1.
fn with_keys(file: &File, keys: u64) -> RedbStore {
    let store = file.open();
    let org = store.create_org("acme", &act()).unwrap();
    let keys = (1..=keys).map(|n| new_key(org.id, n)).collect();
    store.create_keys(keys, &act()).unwrap();
    store
}

fn suspended() -> OrgChange {
    OrgChange {
        status: Some(OrgStatus::Suspended),
        ..OrgChange::default()
    }
}

fn event(key: u64, at: Timestamp) -> UsageEvent {
    UsageEvent {
        at,
        key_id: KeyId(key),
        ip: IpAddr::from([192, 0, 2, 1]).into(),
        latency_micros: 1_500,
        status: 200,
        path_len: 0,
        method: Method::Get,
        refused: None,
    }
}

fn batch(events: impl IntoIterator<Item = (UsageEvent, &'static str)>) -> UsageBatch {
    let mut batch = UsageBatch::default();
    for (event, path) in events {
        batch.paths.extend_from_slice(path.as_bytes());
        batch.events.push(UsageEvent {
            path_len: u16::try_from(path.len()).unwrap(),
            ..event
        });
    }
    batch
}

fn requests(key: u64, at: Timestamp, count: usize) -> UsageBatch {
    batch(std::iter::repeat_n((event(key, at), "/data"), count))
}

fn after(minutes: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(60 * minutes))
}

#[test]
fn a_credential_resolves_to_its_key_and_organization() {
    let file = File::new();
    let store = with_keys(&file, 2);
    let resolved = resolve(&store, 2).unwrap().unwrap();
    assert_eq!(resolved.key, store.key(KeyId(2)).unwrap());
    assert_eq!(resolved.org, store.org_named("acme").unwrap());
    assert_eq!(resolved.credential_expires_at, None);
    assert!(resolve(&store, 3).unwrap().is_none());
    assert_eq!(
        store.resolve_id(KeyId(2)).unwrap().unwrap().key,
        resolved.key
    );
    assert!(store.resolve_id(KeyId(3)).unwrap().is_none());
}

#[test]
fn changes_are_there_after_a_kill() {
    let file = File::new();
    let store = with_keys(&file, 2);
    store.revoke_key(KeyId(1), &act()).unwrap();
    store.update_org(OrgId(1), suspended(), &act()).unwrap();

    let reopened = file.killed().open();
    assert!(!reopened.key(KeyId(1)).unwrap().active);
    assert!(reopened.key(KeyId(2)).unwrap().active);
    assert_eq!(
        reopened.orgs(None, 1).unwrap()[0].status,
        OrgStatus::Suspended
    );
    assert_eq!(reopened.create_org("next", &act()).unwrap().id, OrgId(2));
}

#[test]
fn a_name_is_taken_once() {
    let file = File::new();
    let store = with_keys(&file, 0);
    assert!(matches!(
        store.create_org("acme", &act()),
        Err(StoreError::DuplicateOrg(name)) if name == "acme"
    ));
    assert!(matches!(
        store.org_named("Acme"),
        Err(StoreError::NoOrgNamed(_))
    ));
    assert_eq!(store.totals(NOW).unwrap().orgs, 1);
}

#[test]
fn keys_are_created_all_or_none() {
    let file = File::new();
    let store = with_keys(&file, 1);
    let refused = store.create_keys(vec![new_key(OrgId(1), 2), new_key(OrgId(9), 3)], &act());
    assert!(matches!(refused, Err(StoreError::NoOrg(OrgId(9)))));
    assert!(resolve(&store, 2).unwrap().is_none());

    // The text of another key.
    let refused = store.create_keys(vec![new_key(OrgId(1), 2), new_key(OrgId(1), 1)], &act());
    assert!(matches!(refused, Err(StoreError::Unavailable(_))));
    assert_eq!(resolve(&store, 1).unwrap().unwrap().key.id, KeyId(1));
    assert_eq!(store.keys(None, None, 9).unwrap().len(), 1);

    let (key, credential) = new_key(OrgId(1), 2);
    assert_eq!(
        store.create_key(key, credential, &act()).unwrap().id,
        KeyId(2)
    );
}

#[test]
fn listings_come_in_pages() {
    let file = File::new();
    let store = with_keys(&file, 3);
    let other = store.create_org("other", &act()).unwrap();
    store
        .create_keys(vec![new_key(other.id, 4)], &act())
        .unwrap();
    store
        .create_keys(vec![new_key(OrgId(1), 5)], &act())
        .unwrap();

    let ids = |org, after, limit| -> Vec<u64> {
        let keys = store.keys(org, after, limit).unwrap();
        keys.into_iter().map(|key| key.id.0).collect()
    };
    assert_eq!(ids(None, None, 9), [1, 2, 3, 4, 5]);
    assert_eq!(ids(None, Some(KeyId(3)), 1), [4]);
    assert_eq!(ids(Some(OrgId(1)), None, 9), [1, 2, 3, 5]);
    assert_eq!(ids(Some(OrgId(1)), Some(KeyId(2)), 9), [3, 5]);
    assert_eq!(ids(Some(other.id), None, 9), [4]);
    assert!(matches!(
        store.keys(Some(OrgId(3)), None, 9),
        Err(StoreError::NoOrg(OrgId(3)))
    ));
    assert_eq!(store.orgs(Some(OrgId(1)), 9).unwrap(), [other]);
    assert_eq!(store.orgs(None, 1).unwrap()[0].id, OrgId(1));
}

#[test]
fn an_update_changes_what_it_names() {
    let file = File::new();
    let store = with_keys(&file, 1);
    let before = store.key(KeyId(1)).unwrap();
    let change = KeyChange {
        label: Some("new".into()),
        expires_at: Some(Some(after(1))),
        ..KeyChange::default()
    };
    let updated = store.update_key(KeyId(1), change, &act()).unwrap();
    let expected = Key {
        label: "new".into(),
        expires_at: Some(after(1)),
        ..before
    };
    assert_eq!(updated, expected);
    assert_eq!(store.key(KeyId(1)).unwrap(), expected);
    assert!(matches!(
        store.update_key(KeyId(2), KeyChange::default(), &act()),
        Err(StoreError::NoKey(KeyId(2)))
    ));
}

#[test]
fn rotation_keeps_the_key_and_retires_its_other_texts() {
    let file = File::new();
    let store = with_keys(&file, 1);
    let credential = |n| NewCredential {
        shown_prefix: "kg_live_wxyz".into(),
        ..new_key(OrgId(1), n).1
    };
    let rotated = store
        .add_credential(KeyId(1), credential(2), after(20), &act())
        .unwrap();
    assert_eq!(rotated.prefix, "kg_live_wxyz");
    store
        .add_credential(KeyId(1), credential(3), after(60), &act())
        .unwrap();

    let expiry = |n| {
        let resolved = resolve(&store, n).unwrap().unwrap();
        assert_eq!(resolved.key.id, KeyId(1));
        resolved.credential_expires_at
    };
    assert_eq!(expiry(1), Some(after(20)), "what expires earlier stays so");
    assert_eq!(expiry(2), Some(after(60)));
    assert_eq!(expiry(3), None);
}

#[test]
fn revoking_is_final() {
    let file = File::new();
    let store = with_keys(&file, 2);
    assert!(!store.revoke_key(KeyId(1), &act()).unwrap().active);
    assert!(!store.revoke_key(KeyId(1), &act()).unwrap().active);
    let totals = store.totals(NOW).unwrap();
    assert_eq!((totals.keys, totals.active_keys), (2, 1));
    assert!(matches!(
        store.update_key(KeyId(1), KeyChange::default(), &act()),
        Err(StoreError::Revoked(KeyId(1)))
    ));
    assert!(matches!(
        store.add_credential(KeyId(1), new_key(OrgId(1), 9).1, NOW, &act()),
        Err(StoreError::Revoked(KeyId(1)))
    ));
}

#[test]
fn what_was_done_under_a_name_is_not_done_again_for_a_day() {
    let file = File::new();
    let store = file.open();
    let once = |name, request, at| Act {
        once: Some(Once {
            name: [name; 32],
            request: [request; 32],
        }),
        at,
        ..act()
    };
    let org = store.create_org("acme", &once(1, 1, NOW)).unwrap();
    let again = store.create_org("other", &once(1, 1, NOW));
    assert!(matches!(again, Err(StoreError::Done(Some(id))) if id == org.id.0));
    let other = store.create_org("other", &once(1, 2, NOW));
    assert!(matches!(other, Err(StoreError::OtherDone)));
    assert_eq!(store.orgs(None, 9).unwrap().len(), 1);
    // What failed was not done.
    store.create_org("acme", &once(2, 1, NOW)).unwrap_err();
    store.create_org("second", &once(2, 1, NOW)).unwrap();
    // It outlives the process, and then a day.
    drop(store);
    let store = file.open();
    let day = Once::KEPT;
    let almost = NOW.plus(day - Duration::from_millis(1));
    store.create_org("third", &once(1, 1, almost)).unwrap_err();
    store.prune(Timestamp::default(), almost).unwrap();
    store.create_org("third", &once(1, 1, almost)).unwrap_err();
    store.prune(Timestamp::default(), NOW.plus(day)).unwrap();
    store.create_org("third", &once(1, 1, NOW)).unwrap();
    store
        .create_org("fourth", &once(1, 3, NOW.plus(day)))
        .unwrap();
}

#[test]
fn old_names_are_forgotten_among_any_number_of_new_ones() {
    let file = File::new();
    let store = file.open();
    let once = |name: u8, at| Act {
        once: Some(Once {
            name: [name; 32],
            request: [0; 32],
        }),
        at,
        ..act()
    };
    let later = NOW.plus(Once::KEPT);
    // By their hashes the new ones come first.
    store.note(&once(200, NOW)).unwrap();
    (0..100).for_each(|name| store.note(&once(name, later)).unwrap());
    let left = || {
        let over = |most| {
            store
                .read(|txn| super::audit::over(txn, later, most))
                .unwrap()
        };
        (over(1).len(), over(1_000).len())
    };
    assert_eq!(left(), (1, 1));
    store.prune(Timestamp::default(), later).unwrap();
    assert_eq!(left(), (0, 0));
}
