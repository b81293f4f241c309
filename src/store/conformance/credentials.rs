//! Rotation, expiry and revocation.

use super::{
    Changes, NOW, TestDatabase, after, audit_context, new_key, resolve, retiring, suspending,
    with_keys,
};
use crate::model::{KeyId, KeyStatus, OrgId};
use crate::store::{KeyChange, NewCredential, Rotation, Store, StoreError};

pub(in crate::store) fn rotation_keeps_the_key_and_retires_other_credentials(
    database: &dyn TestDatabase,
) {
    let store = with_keys(database, 2);
    let credential = |n| NewCredential {
        shown_prefix: "kg_live_wxyz".into(),
        ..new_key(OrgId(1), n).1
    };
    let rotated = store
        .add_credential(
            KeyId(1),
            credential(12),
            retiring(after(20)),
            &audit_context(),
        )
        .unwrap();
    assert_eq!(rotated.shown_prefix, "kg_live_wxyz");
    store
        .add_credential(
            KeyId(1),
            credential(13),
            retiring(after(60)),
            &audit_context(),
        )
        .unwrap();

    // The text of the key.
    let refused = store.add_credential(
        KeyId(1),
        credential(1),
        retiring(after(60)),
        &audit_context(),
    );
    assert!(matches!(refused, Err(StoreError::DuplicateCredential)));

    let expiry = |n| {
        let resolved = resolve(&*store, n).unwrap().unwrap();
        assert_eq!(resolved.key.id, KeyId(1));
        resolved.credential_expires_at
    };
    assert_eq!(expiry(1), Some(after(20)), "an earlier expiry stays");
    assert_eq!(expiry(12), Some(after(60)));
    assert_eq!(expiry(13), None);

    let old_texts = |store: &dyn crate::store::Store| {
        let ids = [KeyId(1), KeyId(2), KeyId(7)];
        store.old_texts_until(&ids).unwrap()
    };
    assert_eq!(old_texts(&*store), [(KeyId(1), after(60))]);
}

/// Expired keys used to count as active, and could be extended by accident and rotated unchanged.
pub(in crate::store) fn expired_keys_are_counted_apart_and_extended_only_explicitly(
    database: &dyn TestDatabase,
) {
    let store = with_keys(database, 3);
    let expiring = |at| KeyChange {
        expires_at: Some(at),
        unless_expired_at: Some(NOW),
        ..KeyChange::default()
    };
    let change = |id, change| store.update_key(KeyId(id), change, &audit_context());
    change(1, expiring(Some(after(10)))).unwrap();
    change(2, expiring(Some(after(20)))).unwrap();
    let active = |at| store.totals(at).unwrap().active_keys;
    assert_eq!(
        [NOW, after(9), after(10), after(30)].map(active),
        [3, 3, 2, 1]
    );
    store.revoke(KeyId(2));
    assert_eq!([NOW, after(30)].map(active), [2, 1]);

    let late = KeyChange {
        unless_expired_at: Some(after(10)),
        ..expiring(None)
    };
    assert!(matches!(
        change(1, late),
        Err(StoreError::Expired(KeyId(1)))
    ));
    let rotate = |expires_at, n| {
        let rotation = Rotation {
            now: after(15),
            expires_at,
            ..retiring(after(60))
        };
        store.add_credential(KeyId(1), new_key(OrgId(1), n).1, rotation, &audit_context())
    };
    assert!(matches!(
        rotate(None, 8),
        Err(StoreError::Expired(KeyId(1)))
    ));
    let rotated = rotate(Some(Some(after(90))), 9).unwrap();
    assert_eq!(rotated.expires_at, Some(after(90)));
    assert_eq!(store.key(KeyId(1)).unwrap(), rotated);
    let old = resolve(&*store, 1).unwrap().unwrap();
    assert_eq!(
        old.credential_expires_at,
        Some(after(15)),
        "an expired credential is not accepted again"
    );
    assert_eq!([after(30), after(90)].map(active), [2, 1]);
    let forever = KeyChange {
        expires_at: Some(None),
        ..KeyChange::default()
    };
    change(1, forever).unwrap();
    assert_eq!(active(after(90)), 2);
}

pub(in crate::store) fn revocation_is_final(database: &dyn TestDatabase) {
    let store = with_keys(database, 2);
    assert!(!store.revoke(KeyId(1)).is_active());
    assert!(!store.revoke(KeyId(1)).is_active());
    let totals = store.totals(NOW).unwrap();
    assert_eq!((totals.keys, totals.active_keys), (2, 1));
    assert!(matches!(
        store.update_key(KeyId(1), KeyChange::default(), &audit_context()),
        Err(StoreError::Revoked(KeyId(1)))
    ));
    assert!(matches!(
        store.add_credential(
            KeyId(1),
            new_key(OrgId(1), 9).1,
            retiring(NOW),
            &audit_context()
        ),
        Err(StoreError::Revoked(KeyId(1)))
    ));
}

pub(in crate::store) fn suspended_keys_are_counted_apart_until_they_are_resumed(
    database: &dyn TestDatabase,
) {
    let store = with_keys(database, 3);
    let expiring = KeyChange {
        expires_at: Some(Some(after(10))),
        ..KeyChange::default()
    };
    store.change_key(KeyId(1), expiring);
    let active =
        |store: &dyn Store| [NOW, after(10)].map(|at| store.totals(at).unwrap().active_keys);
    assert_eq!(active(&*store), [3, 2]);
    for _ in 0..2 {
        let suspended = store.change_key(KeyId(1), suspending(true));
        assert_eq!(suspended.status, KeyStatus::Suspended);
        assert_eq!(store.key(KeyId(1)).unwrap(), suspended);
        assert_eq!(
            active(&*store),
            [2, 2],
            "an expired one is not counted twice"
        );
    }
    // Other changes leave it suspended, and so does reopening.
    store.change_key(KeyId(1), KeyChange::default());
    let rotation = retiring(after(60));
    let text = new_key(OrgId(1), 9).1;
    store
        .add_credential(KeyId(1), text, rotation, &audit_context())
        .unwrap();
    drop(store);
    let store = database.open();
    for n in [1, 9] {
        let resolved = resolve(&*store, n).unwrap().unwrap();
        assert_eq!(resolved.key.status, KeyStatus::Suspended);
    }
    assert_eq!(active(&*store), [2, 2]);
    for _ in 0..2 {
        let resumed = store.change_key(KeyId(1), suspending(false));
        assert_eq!(resumed.status, KeyStatus::Active);
        assert_eq!(active(&*store), [3, 2]);
    }
    store.change_key(KeyId(1), suspending(true));
    assert!(store.revoke(KeyId(1)).is_revoked());
    assert_eq!(active(&*store), [2, 2]);
    assert!(matches!(
        store.update_key(KeyId(1), suspending(false), &audit_context()),
        Err(StoreError::Revoked(KeyId(1)))
    ));
    assert_eq!(store.totals(NOW).unwrap().keys, 3);
}
