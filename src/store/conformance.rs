//! What every store does: behaviours that all of them are held to.

mod transfer;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use super::{
    AuditContext, Count, IdempotencyKey, KeyChange, NewCredential, NewKey, NewLift, OrgChange,
    Resolved, Rotation, Store, StoreError, UsageBatch, UsageEvent,
};
use crate::counter::SubjectId;
use crate::counter::{CounterId, SavedCounter, SavedValue};
use crate::limit::Balance;
use crate::limit::Period;
use crate::lockout::{AuthFailure, LockChange};
use crate::model::HashedKey;
use crate::model::{Key, KeyId, LimitOverride, Method, OrgId, OrgStatus, Reason};
use crate::net::CidrSet;
use crate::net::ClientIp;
use crate::sys::{Deadline, block_on};
use crate::time::Timestamp;

pub(super) use self::transfer::*;

/// A place that one store after the other opens.
pub(super) trait Home {
    fn open(&self) -> Box<dyn Store>;
    /// One of the same kind with nothing in it.
    fn another(&self) -> Box<dyn Home>;
}

/// Holds a store to all behaviours; the expression makes a [`Home`].
macro_rules! conforms {
    ($home:expr) => {
        crate::store::conformance::conforms! { $home;
            a_credential_resolves_to_its_key_and_organization
            a_name_is_taken_once
            keys_are_created_all_or_none
            listings_come_in_pages
            an_update_changes_what_it_names
            rotation_keeps_the_key_and_retires_its_other_texts
            expired_keys_are_counted_apart_and_extended_on_purpose_only
            revoking_is_final
            what_was_done_under_a_name_is_not_done_again_for_a_day
            totals_equal_the_events
            raw_usage_is_the_events_in_order
            balances_are_levels
            all_of_a_key_and_its_organization_reads_back
            a_lift_leaves_other_lifts_as_they_are
            every_change_is_in_the_audit_log
            locks_come_and_go
            any_path_is_recorded
            requests_that_are_kept_elsewhere_count
            old_usage_is_pruned_and_still_counts
            a_copy_is_as_the_original_and_stays_so_when_it_is_made_again
            a_copy_that_was_cut_off_is_completed
            what_is_in_the_way_is_refused_before_anything_is_written
            what_is_stricter_or_later_stays
            a_credential_of_the_python_package_moves_as_it_is
            a_credential_is_found_by_its_new_hash_alone_once_it_was_rehashed
        }
    };
    ($home:expr; $($behaviour:ident)*) => {
        $(
            #[test]
            fn $behaviour() {
                crate::store::conformance::$behaviour(&$home);
            }
        )*
    };
}
pub(super) use conforms;

/// The start of an hour and of a day.
pub(super) const NOW: Timestamp = Timestamp::from_unix_millis(1_673_827_200_000);

/// A change that somebody makes.
pub(super) fn audit_context() -> AuditContext {
    AuditContext {
        at: NOW,
        actor: "a test".into(),
        ip: ClientIp::LOCAL,
        action: "change",
        subject: None,
        details: serde_json::Value::Null,
        once: None,
    }
}

pub(super) fn hash(n: u64) -> HashedKey {
    HashedKey(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

pub(super) fn new_key(org_id: OrgId, n: u64) -> (NewKey, NewCredential) {
    let key = NewKey {
        org_id,
        label: format!("key {n}"),
        scopes: vec!["read".parse().unwrap()],
        rate_limit_per_minute: NonZeroU32::new(60).unwrap(),
        limits: Vec::new(),
        allowed_ips: CidrSet::default(),
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

pub(super) fn suspended() -> OrgChange {
    OrgChange {
        status: Some(OrgStatus::Suspended),
        ..OrgChange::default()
    }
}

pub(super) fn event(key: u64, at: Timestamp) -> UsageEvent {
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

pub(super) fn batch(events: impl IntoIterator<Item = (UsageEvent, &'static str)>) -> UsageBatch {
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

pub(super) fn requests(key: u64, at: Timestamp, count: usize) -> UsageBatch {
    batch(std::iter::repeat_n((event(key, at), "/data"), count))
}

pub(super) fn after(minutes: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(60 * minutes))
}

pub(super) fn counter(period: Period, value: SavedValue) -> SavedCounter {
    SavedCounter {
        id: CounterId::plain(period),
        value,
    }
}

/// A store with one organization and `keys` keys, with ids and hashes from 1.
pub(super) fn with_keys(home: &dyn Home, keys: u64) -> Box<dyn Store> {
    let store = home.open();
    let org = store.create_org("acme", &audit_context()).unwrap();
    let keys = (1..=keys).map(|n| new_key(org.id, n)).collect();
    store.create_keys(keys, &audit_context()).unwrap();
    store
}

pub(super) fn resolve(store: &dyn Store, n: u64) -> Result<Option<Resolved>, StoreError> {
    block_on(store.resolve(&hash(n), &Deadline::default()).get())
}

pub(super) fn a_credential_resolves_to_its_key_and_organization(home: &dyn Home) {
    let store = with_keys(home, 2);
    let resolved = resolve(&*store, 2).unwrap().unwrap();
    assert_eq!(resolved.key, store.key(KeyId(2)).unwrap());
    assert_eq!(resolved.org, store.org_named("acme").unwrap());
    assert_eq!(resolved.credential_expires_at, None);
    assert!(resolve(&*store, 3).unwrap().is_none());
    assert_eq!(
        store.resolve_id(KeyId(2)).unwrap().unwrap().key,
        resolved.key
    );
    assert!(store.resolve_id(KeyId(3)).unwrap().is_none());
}

pub(super) fn a_name_is_taken_once(home: &dyn Home) {
    let store = with_keys(home, 0);
    assert!(matches!(
        store.create_org("acme", &audit_context()),
        Err(StoreError::DuplicateOrg(name)) if name == "acme"
    ));
    // The first letter is Cyrillic.
    assert!(matches!(
        store.create_org("\u{430}cme", &audit_context()),
        Err(StoreError::SimilarOrg(name)) if name == "acme"
    ));
    assert!(matches!(
        store.org_named("Acme"),
        Err(StoreError::NoOrgNamed(_))
    ));
    assert_eq!(store.totals(NOW).unwrap().orgs, 1);
}

pub(super) fn keys_are_created_all_or_none(home: &dyn Home) {
    let store = with_keys(home, 1);
    let refused = store.create_keys(
        vec![new_key(OrgId(1), 2), new_key(OrgId(9), 3)],
        &audit_context(),
    );
    assert!(matches!(refused, Err(StoreError::NoOrg(OrgId(9)))));
    assert!(resolve(&*store, 2).unwrap().is_none());

    // The text of another key.
    let refused = store.create_keys(
        vec![new_key(OrgId(1), 2), new_key(OrgId(1), 1)],
        &audit_context(),
    );
    assert!(matches!(refused, Err(StoreError::Unavailable(_))));
    assert_eq!(resolve(&*store, 1).unwrap().unwrap().key.id, KeyId(1));
    assert_eq!(store.keys(None, None, 9).unwrap().len(), 1);

    let (key, credential) = new_key(OrgId(1), 2);
    assert_eq!(
        store
            .create_key(key, credential, &audit_context())
            .unwrap()
            .id,
        KeyId(2)
    );
}

pub(super) fn listings_come_in_pages(home: &dyn Home) {
    let store = with_keys(home, 3);
    let other = store.create_org("other", &audit_context()).unwrap();
    store
        .create_keys(vec![new_key(other.id, 4)], &audit_context())
        .unwrap();
    store
        .create_keys(vec![new_key(OrgId(1), 5)], &audit_context())
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

pub(super) fn an_update_changes_what_it_names(home: &dyn Home) {
    let store = with_keys(home, 1);
    let before = store.key(KeyId(1)).unwrap();
    let change = KeyChange {
        label: Some("new".into()),
        expires_at: Some(Some(after(1))),
        ..KeyChange::default()
    };
    let updated = store
        .update_key(KeyId(1), change, &audit_context())
        .unwrap();
    let expected = Key {
        label: "new".into(),
        expires_at: Some(after(1)),
        ..before
    };
    assert_eq!(updated, expected);
    assert_eq!(store.key(KeyId(1)).unwrap(), expected);
    assert!(matches!(
        store.update_key(KeyId(2), KeyChange::default(), &audit_context()),
        Err(StoreError::NoKey(KeyId(2)))
    ));
}

pub(super) fn rotation_keeps_the_key_and_retires_its_other_texts(home: &dyn Home) {
    let store = with_keys(home, 1);
    let credential = |n| NewCredential {
        shown_prefix: "kg_live_wxyz".into(),
        ..new_key(OrgId(1), n).1
    };
    let rotated = store
        .add_credential(
            KeyId(1),
            credential(2),
            retiring(after(20)),
            &audit_context(),
        )
        .unwrap();
    assert_eq!(rotated.prefix, "kg_live_wxyz");
    store
        .add_credential(
            KeyId(1),
            credential(3),
            retiring(after(60)),
            &audit_context(),
        )
        .unwrap();

    let expiry = |n| {
        let resolved = resolve(&*store, n).unwrap().unwrap();
        assert_eq!(resolved.key.id, KeyId(1));
        resolved.credential_expires_at
    };
    assert_eq!(expiry(1), Some(after(20)), "what expires earlier stays so");
    assert_eq!(expiry(2), Some(after(60)));
    assert_eq!(expiry(3), None);
}

/// Expired keys counted as active, could be extended by accident, and be rotated as they were.
pub(super) fn expired_keys_are_counted_apart_and_extended_on_purpose_only(home: &dyn Home) {
    let store = with_keys(home, 3);
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
    store.revoke_key(KeyId(2), &audit_context()).unwrap();
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
        "the text that had expired is not accepted again"
    );
    assert_eq!([after(30), after(90)].map(active), [2, 1]);
    let forever = KeyChange {
        expires_at: Some(None),
        ..KeyChange::default()
    };
    change(1, forever).unwrap();
    assert_eq!(active(after(90)), 2);
}

/// A rotation now, after which other texts expire at this time.
pub(super) fn retiring(retire_at: Timestamp) -> Rotation {
    Rotation {
        now: NOW,
        retire_at,
        expires_at: None,
    }
}

pub(super) fn revoking_is_final(home: &dyn Home) {
    let store = with_keys(home, 2);
    assert!(!store.revoke_key(KeyId(1), &audit_context()).unwrap().active);
    assert!(!store.revoke_key(KeyId(1), &audit_context()).unwrap().active);
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

pub(super) fn what_was_done_under_a_name_is_not_done_again_for_a_day(home: &dyn Home) {
    let store = home.open();
    let once = |name, request, at| AuditContext {
        once: Some(IdempotencyKey {
            name: [name; 32],
            request: [request; 32],
        }),
        at,
        ..audit_context()
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
    let store = home.open();
    let day = IdempotencyKey::KEPT;
    let almost = NOW.plus(day - Duration::from_millis(1));
    store.create_org("third", &once(1, 1, almost)).unwrap_err();
    store.prune(Timestamp::default(), almost).unwrap();
    store.create_org("third", &once(1, 1, almost)).unwrap_err();
    store.prune(Timestamp::default(), NOW.plus(day)).unwrap();
    store.create_org("third", &once(1, 1, NOW)).unwrap();
    store
        .create_org("fourth", &once(1, 3, NOW.plus(day)))
        .unwrap();
    // A clock that was wrong keeps no name for longer.
    let ahead = NOW.plus(day * 9);
    store.create_org("ahead", &once(3, 1, ahead)).unwrap();
    store.create_org("fifth", &once(3, 2, NOW)).unwrap();
}

pub(super) fn totals_equal_the_events(home: &dyn Home) {
    let store = with_keys(home, 3);
    let refused = |key, reason| UsageEvent {
        status: 429,
        refused: Some(reason),
        ..event(key, NOW)
    };
    let mut first = batch([
        (event(1, NOW), "/a"),
        (event(1, NOW), "/b"),
        (
            UsageEvent {
                status: 500,
                ..event(2, NOW)
            },
            "/a",
        ),
        (
            UsageEvent {
                status: 0,
                ..event(2, NOW)
            },
            "/a",
        ),
        (refused(3, Reason::RateLimited), "/a"),
    ]);
    let mut unknown = [0; Reason::COUNT];
    unknown[Reason::UnknownKey as usize] = 4;
    first.refusals.push((NOW.minute(), unknown));
    first.dropped = 2;
    store.record(&first).unwrap();
    store.record(&requests(1, after(90), 3)).unwrap();
    store.record(&UsageBatch::default()).unwrap();

    let totals = store.totals(after(90)).unwrap();
    assert_eq!(
        totals.all_time,
        Count {
            requests: 12,
            errors: 6
        }
    );
    assert_eq!(
        totals.last_hour,
        Count {
            requests: 3,
            errors: 0
        }
    );
    assert_eq!(totals.dropped, 2);
    assert_eq!(totals.refused[Reason::UnknownKey as usize], 4);
    assert_eq!(totals.refused[Reason::RateLimited as usize], 1);
    assert_eq!(totals.refused.iter().sum::<u64>(), 5);
    let top: Vec<_> = totals
        .top_keys
        .iter()
        .map(|(key, org, requests)| (key.id.0, org.name.as_str(), *requests))
        .collect();
    assert_eq!(top, [(1, "acme", 5), (2, "acme", 2), (3, "acme", 1)]);

    assert_eq!(store.key(KeyId(1)).unwrap().last_used_at, Some(after(90)));
    assert_eq!(
        store.key(KeyId(3)).unwrap().last_used_at,
        None,
        "a refused key was not used"
    );
    drop(store);
    assert_eq!(totals, home.open().totals(after(90)).unwrap());
}

pub(super) fn raw_usage_is_the_events_in_order(home: &dyn Home) {
    let store = with_keys(home, 2);
    store
        .record(&batch([
            (event(1, NOW), "/a"),
            (event(2, after(1)), "/long/b"),
        ]))
        .unwrap();
    store.record(&batch([(event(1, after(2)), "")])).unwrap();

    let usage = store.usage(None, NOW, 9).unwrap();
    let seen: Vec<_> = usage
        .iter()
        .map(|usage| (usage.key_id.unwrap().0, usage.path.as_str(), usage.at))
        .collect();
    assert_eq!(
        seen,
        [(1, "/a", NOW), (2, "/long/b", after(1)), (1, "", after(2))]
    );
    assert_eq!(usage[0].latency, Duration::from_micros(1_500));
    assert_eq!(store.usage(Some(KeyId(1)), NOW, 9).unwrap().len(), 2);
    assert_eq!(store.usage(None, after(1), 9).unwrap(), usage[1..]);
    assert_eq!(store.usage(None, NOW, 1).unwrap(), usage[..1]);
    assert_eq!(store.usage(None, NOW, 0).unwrap(), []);
}

pub(super) fn balances_are_levels(home: &dyn Home) {
    let store = with_keys(home, 2);
    let (key, other) = (SubjectId::key(KeyId(1)), SubjectId::org(OrgId(1)));
    let level = |used| {
        let balance = Balance::stored(used, after(1));
        vec![counter(Period::Month, SavedValue::Balance(balance))]
    };
    let batch = |used| UsageBatch {
        balances: vec![(key, level(used))],
        ..UsageBatch::default()
    };
    assert_eq!(store.counters(key).unwrap(), []);
    store.record(&batch(6)).unwrap();
    store.record(&batch(7)).unwrap();
    store.record(&batch(7)).unwrap();
    store.record(&requests(1, NOW, 1)).unwrap();
    assert_eq!(store.counters(key).unwrap(), level(7));
    assert_eq!(store.counters(other).unwrap(), []);
    let top = store.totals(NOW).unwrap().top_keys;
    assert_eq!(top.len(), 1, "a balance is no request");
}

pub(super) fn all_of_a_key_and_its_organization_reads_back(home: &dyn Home) {
    let store = home.open();
    let lift = LimitOverride {
        rule: "60/min".into(),
        until: after(5),
    };
    let new_lift = NewLift {
        lift: lift.clone(),
        now: NOW,
    };
    let texts = [
        "9 daily",
        "500 monthly",
        "8 concurrent shadow",
        "5 credits +1/hour",
    ];
    let limits: Vec<_> = texts.iter().map(|text| text.parse().unwrap()).collect();
    let org = store
        .create_org("\u{e9}\u{1f511}'\\", &audit_context())
        .unwrap();
    let change = OrgChange {
        status: Some(OrgStatus::Suspended),
        limits: Some(limits.clone()),
        lift: Some(new_lift.clone()),
    };
    let org = store.update_org(org.id, change, &audit_context()).unwrap();
    assert_eq!((&org.limits, &org.lifts), (&limits, &vec![lift.clone()]));
    assert_eq!(store.org(org.id).unwrap(), org);

    let (new, credential) = new_key(org.id, 1);
    let new = NewKey {
        scopes: vec!["read".parse().unwrap(), "write:all".parse().unwrap()],
        rate_limit_per_minute: NonZeroU32::MAX,
        limits: limits.clone(),
        allowed_ips: "10.0.0.0/8,2001:db8::/32,local".parse().unwrap(),
        expires_at: Some(Timestamp::MAX),
        ..new
    };
    let scopes = new.scopes.clone();
    let created = store.create_key(new, credential, &audit_context()).unwrap();
    assert_eq!((&created.limits, &created.scopes), (&limits, &scopes));
    let change = KeyChange {
        scopes: Some(Vec::new()),
        lift: Some(new_lift),
        ..KeyChange::default()
    };
    let key = store
        .update_key(created.id, change, &audit_context())
        .unwrap();
    assert_eq!(store.key(key.id).unwrap(), key);
    let resolved = resolve(&*store, 1).unwrap().unwrap();
    assert_eq!((resolved.key, resolved.org), (key, org));
}

pub(super) fn a_lift_leaves_other_lifts_as_they_are(home: &dyn Home) {
    let store = with_keys(home, 1);
    let change = |rule: &str, until, now| -> (KeyChange, OrgChange) {
        let rule = rule.to_owned();
        let lift = Some(NewLift {
            lift: LimitOverride { rule, until },
            now,
        });
        let key = KeyChange {
            lift: lift.clone(),
            ..KeyChange::default()
        };
        let org = OrgChange {
            lift,
            ..OrgChange::default()
        };
        (key, org)
    };
    let lifts = |rule, until, now| {
        let (of_key, of_org) = change(rule, after(until), after(now));
        let key = store
            .update_key(KeyId(1), of_key, &audit_context())
            .unwrap();
        let org = store
            .update_org(OrgId(1), of_org, &audit_context())
            .unwrap();
        assert_eq!(key.lifts, org.lifts);
        assert_eq!(store.key(KeyId(1)).unwrap().lifts, key.lifts);
        let lifts = key.lifts.into_iter().map(|lift| (lift.rule, lift.until));
        lifts.collect::<Vec<_>>()
    };
    let lift = |rule: &str, until| (rule.to_owned(), after(until));
    assert_eq!(lifts("daily", 5, 0), [lift("daily", 5)]);
    assert_eq!(lifts("10/s", 9, 0), [lift("daily", 5), lift("10/s", 9)]);
    assert_eq!(lifts("daily", 7, 0), [lift("10/s", 9), lift("daily", 7)]);
    // Those that are over make way.
    assert_eq!(lifts("10/s", 8, 8), []);
}

pub(super) fn every_change_is_in_the_audit_log(home: &dyn Home) {
    let store = home.open();
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
        .note(&AuditContext {
            subject: Some(7),
            ..audit_context()
        })
        .unwrap();
    let log = store.audit(None, 9).unwrap();
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
    assert_eq!(store.audit(Some(2), 9).unwrap(), log[1..]);
    assert_eq!(store.audit(None, 1).unwrap(), log[..1]);
}

pub(super) fn locks_come_and_go(home: &dyn Home) {
    let store = home.open();
    let lock = |ip: &str| AuthFailure::BadKey.lock(ip.parse().unwrap(), NOW);
    let (manual, automatic) = (lock("192.0.2.1"), lock("2001:db8::1"));
    let stored = |lock: &crate::lockout::Lock| LockChange {
        id: lock.id(),
        lock: Some(lock.clone()),
    };
    store
        .change_locks(&[stored(&manual)], &audit_context())
        .unwrap();
    let batch = UsageBatch {
        locks: vec![stored(&automatic)],
        ..UsageBatch::default()
    };
    store.record(&batch).unwrap();
    let mut locks = store.locks().unwrap();
    locks.sort_by_key(|lock| lock.id());
    let mut both = [manual.clone(), automatic.clone()];
    both.sort_by_key(|lock| lock.id());
    assert_eq!(locks, both);
    let gone = LockChange {
        id: manual.id(),
        lock: None,
    };
    store.change_locks(&[gone], &audit_context()).unwrap();
    assert_eq!(store.locks().unwrap(), std::slice::from_ref(&automatic));
    let ended = UsageBatch {
        locks: vec![LockChange {
            id: automatic.id(),
            lock: None,
        }],
        now: automatic.until,
        ..UsageBatch::default()
    };
    store.record(&ended).unwrap();
    assert_eq!(store.locks().unwrap(), []);
}

pub(super) fn any_path_is_recorded(home: &dyn Home) {
    let store = with_keys(home, 1);
    let mut batch = requests(1, NOW, 1);
    batch.paths = b"/\0\xff\xfe".to_vec();
    batch.events[0].path_len = 4;
    batch.events[0].ip = ClientIp::LOCAL;
    store.record(&batch).unwrap();
    let usage = store.usage(None, NOW, 9).unwrap();
    assert!(usage[0].path.starts_with('/'), "{usage:?}");
    assert_eq!(usage[0].ip, ClientIp::LOCAL);
}

pub(super) fn requests_that_are_kept_elsewhere_count(home: &dyn Home) {
    let store = with_keys(home, 1);
    let batch = UsageBatch {
        has_rows_elsewhere: true,
        shadowed: vec![("b".into(), 2), ("a".into(), 1)],
        ..requests(1, NOW, 3)
    };
    store.record(&batch).unwrap();
    store.record(&batch).unwrap();
    let totals = store.totals(NOW).unwrap();
    assert_eq!(totals.all_time.requests, 6);
    assert_eq!(totals.shadowed, [("a".into(), 2), ("b".into(), 4)]);
    assert_eq!(store.usage(None, NOW, 9).unwrap(), []);
}

pub(super) fn old_usage_is_pruned_and_still_counts(home: &dyn Home) {
    let store = with_keys(home, 1);
    let day = 24 * 60;
    store.record(&requests(1, NOW, 3)).unwrap();
    store.prune(NOW, after(60)).unwrap();
    assert_eq!(store.usage(None, NOW, 9).unwrap().len(), 3);
    store.prune(after(2 * day), after(3 * day)).unwrap();
    assert_eq!(store.usage(None, NOW, 9).unwrap(), []);
    store.record(&requests(1, after(3 * day), 1)).unwrap();
    assert_eq!(store.usage(None, NOW, 9).unwrap().len(), 1);
    assert_eq!(store.totals(after(3 * day)).unwrap().all_time.requests, 4);
}
