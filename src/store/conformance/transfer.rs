//! Copying from store to store, and keys of the Python package.

use std::time::Duration;

use super::{
    Changes, NOW, TestDatabase, after, audit_context, counter, hash, new_key, requests, resolve,
    retiring, suspending, with_keys,
};
use crate::counter::{SavedValue, SubjectId};
use crate::limit::{Balance, Period};
use crate::lockout::{AuthFailure, Lock, LockChange};
use crate::model::{Credential, HashScheme, Key, KeyId, KeyStatus, OrgId, OrgStatus, Reason};
use crate::store::transfer::{PageCursor, TransferKey, TransferPage, transfer_all};
use crate::store::{LegacyKeys, Rehash, Store, StoreError, UsageBatch};

/// More keys than fit in a page.
const KEYS: u64 = 5_000;

/// A store with all kinds of data that are copied.
pub(in crate::store) fn full(database: &dyn TestDatabase) -> Box<dyn Store> {
    let store = with_keys(database, KEYS);
    let other = store.add_org("other");
    store.suspend(other.id);
    let (_, text) = new_key(OrgId(1), KEYS + 1);
    store
        .add_credential(KeyId(2), text, retiring(after(60)), &audit_context())
        .unwrap();
    store.revoke(KeyId(3));
    for hours in 0..3 {
        store.record(&requests(2, after(60 * hours), 5)).unwrap();
        store.record(&requests(4, after(60 * hours), 1)).unwrap();
    }
    store.record(&requests(2, after(24 * 60), 1)).unwrap();
    let lock = AuthFailure::BadKey.lock("192.0.2.7".parse().unwrap(), NOW);
    store.record(&rest(7, Some(lock))).unwrap();
    store
}

/// Balances of key 2 and of organization 1, counts of refusals, of shadow mode and of drops, and a lock.
fn rest(used: u64, lock: Option<Lock>) -> UsageBatch {
    let balance = |used| {
        let value = SavedValue::Balance(Balance::stored(used, after(60 * 24 * 31)));
        vec![counter(Period::Month, value)]
    };
    UsageBatch {
        refusals: vec![(NOW.minute(), [1; Reason::COUNT])],
        balances: vec![
            (SubjectId::key(KeyId(2)), balance(used)),
            (SubjectId::org(OrgId(1)), balance(9)),
        ],
        shadow_denied: vec![("login".into(), 3)],
        locks: lock.into_iter().map(LockChange::put).collect(),
        dropped: 4,
        ..UsageBatch::default()
    }
}

fn pages(store: &dyn Store) -> Vec<TransferPage> {
    let mut pages = vec![store.export(PageCursor::default()).unwrap()];
    while let Some(next) = pages.last().unwrap().next {
        pages.push(store.export(next).unwrap());
    }
    pages
}

/// The data of all pages.
pub(in crate::store) fn contents(store: &dyn Store) -> TransferPage {
    let mut all = TransferPage::default();
    for mut page in pages(store) {
        all.orgs.append(&mut page.orgs);
        all.keys.append(&mut page.keys);
        all.balances.append(&mut page.balances);
        all.locks.append(&mut page.locks);
        all.key_totals.append(&mut page.key_totals);
        all.key_hours.append(&mut page.key_hours);
        all.key_days.append(&mut page.key_days);
        all.minutes.append(&mut page.minutes);
        all.shadow_denied.append(&mut page.shadow_denied);
        all.lifetime = page.lifetime.or(all.lifetime);
        all.last_ids = page.last_ids.or(all.last_ids);
    }
    all.balances.sort_by_key(|(subject, _)| subject.to_bits());
    all.locks.sort_by_key(Lock::id);
    all.key_hours
        .sort_unstable_by_key(|(key, hour, _)| (*key, *hour));
    all.key_days
        .sort_unstable_by_key(|(key, day, _)| (*key, *day));
    all
}

/// Asserts that both have the same content.
pub(in crate::store) fn assert_same(copy: &dyn Store, original: &dyn Store) {
    assert_eq!(contents(copy), contents(original));
    let now = after(24 * 60);
    assert_eq!(copy.totals(now).unwrap(), original.totals(now).unwrap());
    for subject in [SubjectId::key(KeyId(2)), SubjectId::org(OrgId(1))] {
        assert_eq!(
            copy.counters(subject).unwrap(),
            original.counters(subject).unwrap()
        );
    }
    for n in [1, 2, 3, 4, KEYS, KEYS + 1] {
        let (copied, resolved) = (resolve(copy, n), resolve(original, n));
        let (copied, resolved) = (copied.unwrap().unwrap(), resolved.unwrap().unwrap());
        // Decisions do not need the last use.
        let key = |key: Key| Key {
            last_used_at: None,
            ..key
        };
        assert_eq!(key(copied.key), key(resolved.key));
        assert_eq!(copied.org, resolved.org);
        assert_eq!(copied.credential_expires_at, resolved.credential_expires_at);
    }
}

pub(in crate::store) fn a_copy_equals_the_original_and_copying_again_changes_nothing(
    database: &dyn TestDatabase,
) {
    let another = database.another();
    let (original, copy) = (full(database), another.open());
    let (original, copy) = (&*original, &*copy);
    let all = contents(original);
    assert_eq!(all.keys.len() as u64, KEYS);
    assert_eq!((all.key_hours.len(), all.key_days.len()), (7, 3));
    assert_eq!((all.locks.len(), all.balances.len()), (1, 2));

    let stats = transfer_all(original, copy, |_| {}).unwrap();
    assert_eq!(
        (stats.orgs, stats.keys, stats.credentials),
        (2, KEYS, KEYS + 1)
    );
    assert_same(copy, original);
    assert_eq!(transfer_all(original, copy, |_| {}).unwrap(), stats);
    assert_same(copy, original);

    // Both continue alike.
    for store in [original, copy] {
        assert_eq!(store.add_org("next").id, OrgId(3));
        let (key, text) = new_key(OrgId(3), KEYS + 2);
        let key = store.create_key(key, text, &audit_context()).unwrap();
        assert_eq!(key.id, KeyId(KEYS + 1));
        store.record(&requests(2, after(24 * 60 + 1), 2)).unwrap();
    }
    assert_same(copy, original);
}

pub(in crate::store) fn an_interrupted_copy_can_be_completed(database: &dyn TestDatabase) {
    let original = full(database);
    let pages = pages(&*original);
    for written in [1, pages.len() / 2, pages.len() - 1] {
        let database = database.another();
        let copy = database.open();
        pages[..written]
            .iter()
            .for_each(|page| copy.import(page).unwrap());
        drop(copy);
        let copy = database.open();
        transfer_all(&*original, &*copy, |_| {}).unwrap();
        assert_same(&*copy, &*original);
    }
}

pub(in crate::store) fn conflicts_are_refused_before_anything_is_written(
    database: &dyn TestDatabase,
) {
    let another = database.another();
    let (original, copy) = (full(database), another.open());
    let (original, copy) = (&*original, &*copy);
    let org = |id, name: &str| {
        let mut page = contents(original);
        page.orgs.truncate(1);
        page.orgs[0].id = OrgId(id);
        page.orgs[0].name = name.into();
        TransferPage {
            orgs: page.orgs,
            ..TransferPage::default()
        }
    };
    let key = |id, change: fn(&mut TransferKey)| {
        let mut transfer = contents(original).keys.remove(0);
        transfer.key.id = KeyId(id);
        transfer.credentials[0].key_id = KeyId(id);
        change(&mut transfer);
        let keys = vec![transfer];
        TransferPage {
            keys,
            ..TransferPage::default()
        }
    };
    copy.import(&org(7, "seven")).unwrap();
    copy.import(&org(1, "acme")).unwrap();
    copy.import(&key(KEYS, |_| {})).unwrap();
    let before = contents(copy);
    for conflict in [
        org(7, "acme"),
        org(7, "eight"),
        org(8, "seven"),
        key(KEYS, |transfer| transfer.key.org_id = OrgId(7)),
        key(KEYS, |transfer| {
            transfer.key.created_at = NOW.plus(Duration::from_secs(1))
        }),
        key(KEYS + 7, |_| {}),
    ] {
        let refused = copy.check_import(&conflict).unwrap_err();
        assert!(matches!(refused, StoreError::Occupied(_)), "{refused}");
        assert!(matches!(
            copy.import(&conflict),
            Err(StoreError::Occupied(_))
        ));
    }
    // The credential of key 1, in the last of two pages, belongs to another key in the target.
    assert!(matches!(
        transfer_all(original, copy, |_| panic!("something was written")),
        Err(StoreError::Occupied(_))
    ));
    assert_eq!(contents(copy), before);
}

pub(in crate::store) fn merging_keeps_the_stricter_or_later_state(database: &dyn TestDatabase) {
    let another = database.another();
    let (original, copy) = (full(database), another.open());
    let (original, copy) = (&*original, &*copy);
    transfer_all(original, copy, |_| {}).unwrap();
    copy.revoke(KeyId(5));
    copy.change_key(KeyId(7), suspending(true));
    copy.record(&rest(100, None)).unwrap();
    copy.record(&requests(2, after(24 * 60), 9)).unwrap();
    let (before, totals) = (contents(copy), copy.totals(NOW).unwrap());
    transfer_all(original, copy, |_| {}).unwrap();
    assert_eq!(contents(copy), before);
    assert_eq!(copy.totals(NOW).unwrap(), totals);

    // And the other way.
    original.suspend(OrgId(1));
    original.revoke(KeyId(6));
    original.change_key(KeyId(8), suspending(true));
    transfer_all(original, copy, |_| {}).unwrap();
    assert_eq!(copy.org(OrgId(1)).unwrap().status, OrgStatus::Suspended);
    assert!(!copy.key(KeyId(6)).unwrap().is_active());
    assert!(!copy.key(KeyId(5)).unwrap().is_active());
    for id in [KeyId(7), KeyId(8)] {
        assert_eq!(copy.key(id).unwrap().status, KeyStatus::Suspended);
    }
    assert_eq!(copy.totals(NOW).unwrap().active_keys, KEYS - 5);
}

/// A key with a credential of the Python package.
fn legacy_key(database: &dyn TestDatabase) -> (Box<dyn Store>, TransferPage) {
    let mut page = contents(&*with_keys(&*database.another(), 1));
    page.keys[0].credentials[0] = Credential {
        hash: hash(900),
        scheme: HashScheme::Sha256,
        expires_at: Some(after(60)),
        ..page.keys[0].credentials[0].clone()
    };
    let store = database.open();
    store.import(&page).unwrap();
    (store, page)
}

pub(in crate::store) fn credentials_of_the_python_package_are_copied_unchanged(
    database: &dyn TestDatabase,
) {
    let (store, page) = legacy_key(database);
    let mut copied = contents(&*store);
    assert_eq!(copied.keys, page.keys);
    let another = database.another();
    let copy = another.open();
    transfer_all(&*store, &*copy, |_| {}).unwrap();
    assert_eq!(resolve(&*copy, 900).unwrap().unwrap().key.id, KeyId(1));
    copied.keys[0].credentials[0].hash = hash(904);
    copy.import(&copied).unwrap();
    assert!(resolve(&*copy, 904).unwrap().is_none());
}

pub(in crate::store) fn rehashed_credentials_resolve_only_by_the_new_hash(
    database: &dyn TestDatabase,
) {
    let (store, page) = legacy_key(database);
    assert_eq!(resolve(&*store, 900).unwrap().unwrap().key.id, KeyId(1));
    let job = Rehash {
        old: hash(900),
        new: hash(901),
    };
    let unknown = Rehash {
        old: hash(902),
        new: hash(903),
    };
    let all = [
        LegacyKeys::All,
        LegacyKeys::Sample(0),
        LegacyKeys::Sample(1),
        LegacyKeys::Of(KeyId(1)),
        LegacyKeys::Of(KeyId(2)),
        LegacyKeys::Rehashed,
    ];
    let found =
        |store: &dyn Store, now| all.map(|which| store.has_legacy_keys(which, now).unwrap());
    let unused = [true, false, true, true, false, false];
    assert_eq!(found(&*store, after(0)), unused);
    store
        .rehash(&[job, unknown, job], &audit_context())
        .unwrap();

    drop(store);
    let store = database.open();
    let used = [true, false, true, true, false, true];
    assert_eq!(found(&*store, after(0)), used);
    let expired = [false, false, false, false, false, true];
    assert_eq!(found(&*store, after(60)), expired);
    assert!(resolve(&*store, 900).unwrap().is_none());
    let resolved = resolve(&*store, 901).unwrap().unwrap();
    assert_eq!(resolved.key.id, KeyId(1));
    assert_eq!(resolved.credential_expires_at, Some(after(60)));
    let credentials = contents(&*store).keys.remove(0).credentials;
    assert_eq!(credentials.len(), 1);
    assert_eq!(credentials[0].scheme, HashScheme::RehashedSha256);
    let entries = store.audit_log(None, 9).unwrap();
    assert_eq!(entries.len(), 1, "one entry, for the existing credential");
    assert_eq!(entries[0].subject, Some(1));

    // Copying again does not restore the old hash.
    store.import(&page).unwrap();
    assert!(resolve(&*store, 900).unwrap().is_none());
    assert!(resolve(&*store, 901).unwrap().is_some());
}
