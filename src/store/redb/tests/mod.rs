use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::redb::BackendError;
use ::redb::backends::FileBackend;
use proptest::prelude::*;
use tempfile::TempDir;

use super::tables::*;
use super::*;
use crate::model::{Fingerprint, OrgStatus};
use crate::store::codec::Record;
use crate::store::conformance::{
    Changes, NOW, TestDatabase, after, audit_context, batch, conforms, event, fill, new_key,
    requests, resolve, suspended,
};
use crate::store::{Count, IdempotencyKey, OpenError, UsageEvent};
use crate::time::{Clock, ManualClock};

mod altered;
mod copying;
mod damaged_totals;
mod damaged_windows;
mod disk;
mod displaced;
mod faults;
mod history;
mod opening;
mod outbox;
mod power_cuts;
mod recording;
mod verification;

const SECRET: Fingerprint = Fingerprint([7; 32]);
const OTHER_SECRET: Fingerprint = Fingerprint([8; 32]);
const CACHE: usize = 16 << 20;

fn clock() -> Clock {
    ManualClock::starting_at(NOW).into()
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

    /// Returns a copy of the file as a kill at this moment would leave it.
    fn killed(&self) -> Self {
        let copy = Self::new();
        fs::copy(&self.path, &copy.path).unwrap();
        copy
    }
}

impl TestDatabase for File {
    fn open(&self) -> Box<dyn Store> {
        Box::new(Self::open(self))
    }

    fn another(&self) -> Box<dyn TestDatabase> {
        Box::new(Self::new())
    }
}

conforms!(File::new());

fn open(path: &Path) -> Result<RedbStore, OpenError> {
    RedbStore::open(path, SECRET, &clock(), CACHE)
}

/// A file with one organization and `keys` keys, with ids and hashes from 1.
fn with_keys(file: &File, keys: u64) -> RedbStore {
    let store = file.open();
    fill(&store, keys);
    store
}

#[test]
fn changes_survive_a_kill() {
    let file = File::new();
    let store = with_keys(&file, 2);
    store.revoke(KeyId(1));
    store.suspend(OrgId(1));

    let killed = file.killed();
    let reopened = killed.open();
    assert!(!reopened.key(KeyId(1)).unwrap().is_active());
    assert!(reopened.key(KeyId(2)).unwrap().is_active());
    assert_eq!(
        reopened.orgs(None, 1).unwrap()[0].status,
        OrgStatus::Suspended
    );
    assert_eq!(reopened.add_org("next").id, OrgId(2));
}

#[test]
fn expired_requests_are_deleted_among_any_number_of_later_ones() {
    let file = File::new();
    let store = file.open();
    let context = |name: u8, at| AuditContext {
        idempotency_key: Some(IdempotencyKey {
            name: [name; 32],
            request: [0; 32],
        }),
        at,
        ..audit_context()
    };
    let later = NOW.plus(IdempotencyKey::KEPT);
    // The later ones precede it in the order of hashes.
    store.append_audit(&context(200, NOW)).unwrap();
    (0..100).for_each(|name| store.append_audit(&context(name, later)).unwrap());
    let left = || {
        let expired = |most| {
            store
                .read(|txn| super::audit::expired_requests(txn, later, most))
                .unwrap()
        };
        (expired(1).len(), expired(1_000).len())
    };
    assert_eq!(left(), (1, 1));
    store.prune(Timestamp::default(), later).unwrap();
    assert_eq!(left(), (0, 0));
}
