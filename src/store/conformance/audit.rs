//! The audit log and idempotency.

use std::time::Duration;

use super::{NOW, TestDatabase, audit_context};
use crate::store::{AuditContext, IdempotencyKey, StoreError};
use crate::time::Timestamp;

pub(in crate::store) fn idempotency_keys_are_remembered_for_a_day(database: &dyn TestDatabase) {
    let store = database.open();
    let context = |name, request, at| AuditContext {
        idempotency_key: Some(IdempotencyKey {
            name: [name; 32],
            request: [request; 32],
        }),
        at,
        ..audit_context()
    };
    let org = store.create_org("acme", &context(1, 1, NOW)).unwrap();
    let again = store.create_org("other", &context(1, 1, NOW));
    assert!(matches!(again, Err(StoreError::AlreadyDone(Some(id))) if id == org.id.0));
    let other = store.create_org("other", &context(1, 2, NOW));
    assert!(matches!(other, Err(StoreError::IdempotencyKeyReused)));
    assert_eq!(store.orgs(None, 9).unwrap().len(), 1);
    // A failed request is not completed.
    store.create_org("acme", &context(2, 1, NOW)).unwrap_err();
    store.create_org("second", &context(2, 1, NOW)).unwrap();
    // Completed requests survive a restart, for a day.
    drop(store);
    let store = database.open();
    let day = IdempotencyKey::KEPT;
    let almost = NOW.plus(day - Duration::from_millis(1));
    store
        .create_org("third", &context(1, 1, almost))
        .unwrap_err();
    store.prune(Timestamp::default(), almost).unwrap();
    store
        .create_org("third", &context(1, 1, almost))
        .unwrap_err();
    store.prune(Timestamp::default(), NOW.plus(day)).unwrap();
    store.create_org("third", &context(1, 1, NOW)).unwrap();
    store
        .create_org("fourth", &context(1, 3, NOW.plus(day)))
        .unwrap();
    // A wrong clock keeps no name for longer.
    let ahead = NOW.plus(day * 9);
    store.create_org("ahead", &context(3, 1, ahead)).unwrap();
    store.create_org("fifth", &context(3, 2, NOW)).unwrap();
}

pub(in crate::store) fn changes_are_in_the_audit_log(database: &dyn TestDatabase) {
    let store = database.open();
    let details = serde_json::json!({"name": "a\u{0}b", "n": 1});
    let create = AuditContext {
        action: "create_org",
        ip: "2001:db8::1".parse().unwrap(),
        details: details.clone(),
        ..audit_context()
    };
    let org = store.create_org("acme", &create).unwrap();
    store.create_org("acme", &create).unwrap_err();
    store
        .append_audit(&AuditContext {
            subject: Some(7),
            ..audit_context()
        })
        .unwrap();
    let log = store.audit_log(None, 9).unwrap();
    let [noted, created] = log.as_slice() else {
        panic!("{log:?}");
    };
    assert_eq!((created.id, noted.id), (1, 2));
    assert_eq!((created.subject, noted.subject), (Some(org.id.0), Some(7)));
    assert_eq!(
        (created.action.as_str(), &created.details),
        ("create_org", &details)
    );
    assert_eq!((created.at, created.ip), (NOW, create.ip));
    assert_eq!(store.audit_log(Some(2), 9).unwrap(), log[1..]);
    assert_eq!(store.audit_log(None, 1).unwrap(), log[..1]);
}
