//! Organizations and keys.

use std::num::NonZeroU32;

use super::{
    Changes, NOW, TestDatabase, after, audit_context, new_key, resolve, retiring, with_keys,
};
use crate::model::{Key, KeyId, LimitOverride, OrgId, OrgStatus};
use crate::store::{
    KeyChange, NewCredential, NewKey, NewOverride, OrgChange, Search, SearchText, StoreError,
};
use crate::time::Timestamp;

pub(in crate::store) fn credentials_resolve_to_key_and_organization(database: &dyn TestDatabase) {
    let store = with_keys(database, 2);
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

pub(in crate::store) fn org_names_are_unique(database: &dyn TestDatabase) {
    let store = with_keys(database, 0);
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

pub(in crate::store) fn keys_are_created_all_or_none(database: &dyn TestDatabase) {
    let store = with_keys(database, 1);
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
    assert!(matches!(refused, Err(StoreError::DuplicateCredential)));
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

pub(in crate::store) fn listings_are_paged(database: &dyn TestDatabase) {
    let store = with_keys(database, 3);
    let other = store.add_org("other");
    store.add_key(other.id, 4);
    store.add_key(OrgId(1), 5);

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

pub(in crate::store) fn searches_find_parts_of_names_and_ids(database: &dyn TestDatabase) {
    let store = database.open();
    let [acme, other] = ["Acme %Works_", "\u{c9}clair"].map(|name| store.add_org(name).id);
    let labels = [
        "Web Shop",
        "till",
        "50 % off",
        "\u{e9}tat",
        "under_score",
        "shop 2",
    ];
    for (n, label) in (1..).zip(labels) {
        let (key, credential) = new_key(if n == 4 { other } else { acme }, n);
        let key = NewKey {
            label: label.into(),
            ..key
        };
        store.create_key(key, credential, &audit_context()).unwrap();
    }
    let search = |text: &str, ids| Search {
        text: SearchText::new(text),
        ids,
        limit: 9,
    };
    let keys = |text: &str, org| -> Vec<u64> {
        let keys = store.search_keys(&search(text, 1..=u64::MAX), org).unwrap();
        keys.into_iter().map(|key| key.id.0).collect()
    };
    let orgs = |text: &str| -> Vec<OrgId> {
        let orgs = store.search_orgs(&search(text, 1..=u64::MAX)).unwrap();
        orgs.into_iter().map(|org| org.id).collect()
    };
    // Labels, in any case of A to Z; nothing stands for other characters.
    for (text, found) in [
        ("shop", &[1, 6][..]),
        ("SHOP", &[1, 6]),
        ("b s", &[1]),
        ("% o", &[3]),
        ("%", &[1, 2, 3, 5, 6]),
        ("r_s", &[5]),
        ("\u{e9}", &[4]),
        ("\u{c9}tat", &[]),
        ("tilly", &[]),
        // Ids, whole ones only.
        ("2", &[2, 6]),
        ("22", &[]),
        ("99999999999999999999", &[]),
        // Prefixes.
        ("live_A", &[1, 2, 3, 4, 5, 6]),
        // Names of organizations.
        ("CLAIR", &[4]),
    ] {
        assert_eq!(keys(text, None), found, "{text}");
    }
    assert_eq!(keys("acme", None), [1, 2, 3, 5, 6]);
    assert_eq!(keys("acme", Some(other)), [0; 0]);
    assert_eq!(keys("live", Some(other)), [4]);
    assert_eq!(keys("shop", Some(acme)), [1, 6]);
    let some = Search {
        limit: 1,
        ..search("shop", 2..=6)
    };
    assert_eq!(store.search_keys(&some, None).unwrap()[0].id, KeyId(6));
    assert!(
        store
            .search_keys(&search("shop", 2..=5), None)
            .unwrap()
            .is_empty()
    );
    let found = store
        .search_keys(&search("Web", 1..=9), Some(acme))
        .unwrap();
    assert_eq!(found, [store.key(KeyId(1)).unwrap()]);

    assert_eq!(orgs("works_"), [acme]);
    assert_eq!(orgs("\u{c9}CL"), [other]);
    assert_eq!(orgs("%"), [acme]);
    assert_eq!(orgs(&other.to_string()), [other]);
    assert_eq!(orgs("works%"), []);
    assert_eq!(orgs("c"), [acme, other]);
    let first = Search {
        limit: 1,
        ..search("c", 1..=9)
    };
    assert_eq!(
        store.search_orgs(&first).unwrap(),
        [store.org(acme).unwrap()]
    );
    assert!(
        store
            .search_orgs(&search("acme", 2..=9))
            .unwrap()
            .is_empty()
    );
}

pub(in crate::store) fn updates_change_only_named_fields(database: &dyn TestDatabase) {
    let store = with_keys(database, 1);
    let before = store.key(KeyId(1)).unwrap();
    let change = KeyChange {
        label: Some("new".into()),
        expires_at: Some(Some(after(1))),
        ..KeyChange::default()
    };
    let updated = store.change_key(KeyId(1), change);
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

pub(in crate::store) fn all_fields_of_keys_and_organizations_read_back(
    database: &dyn TestDatabase,
) {
    let store = database.open();
    let limit_override = LimitOverride {
        limit: "60/min".into(),
        until: after(5),
    };
    let new_override = NewOverride {
        limit_override: limit_override.clone(),
        now: NOW,
    };
    let texts = [
        "9 daily",
        "500 monthly",
        "8 concurrent shadow",
        "5 credits +1/hour",
    ];
    let limits: Vec<_> = texts.iter().map(|text| text.parse().unwrap()).collect();
    let org = store.add_org("\u{e9}\u{1f511}'\\");
    let change = OrgChange {
        status: Some(OrgStatus::Suspended),
        limits: Some(limits.clone()),
        limit_override: Some(new_override.clone()),
    };
    let org = store.update_org(org.id, change, &audit_context()).unwrap();
    assert_eq!(
        (&org.limits, &org.overrides),
        (&limits, &vec![limit_override])
    );
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
        limit_override: Some(new_override),
        ..KeyChange::default()
    };
    let key = store.change_key(created.id, change);
    assert_eq!(store.key(key.id).unwrap(), key);
    let resolved = resolve(&*store, 1).unwrap().unwrap();
    assert_eq!((resolved.key, resolved.org), (key, org));
}

pub(in crate::store) fn overrides_of_different_limits_are_independent(database: &dyn TestDatabase) {
    let store = with_keys(database, 1);
    let change = |limit: &str, until, now| -> (KeyChange, OrgChange) {
        let limit = limit.to_owned();
        let limit_override = Some(NewOverride {
            limit_override: LimitOverride { limit, until },
            now,
        });
        let key = KeyChange {
            limit_override: limit_override.clone(),
            ..KeyChange::default()
        };
        let org = OrgChange {
            limit_override,
            ..OrgChange::default()
        };
        (key, org)
    };
    let overrides = |limit, until, now| {
        let (of_key, of_org) = change(limit, after(until), after(now));
        let key = store.change_key(KeyId(1), of_key);
        let org = store
            .update_org(OrgId(1), of_org, &audit_context())
            .unwrap();
        assert_eq!(key.overrides, org.overrides);
        assert_eq!(store.key(KeyId(1)).unwrap().overrides, key.overrides);
        let overrides = key.overrides.into_iter();
        let overrides = overrides.map(|known| (known.limit, known.until));
        overrides.collect::<Vec<_>>()
    };
    let of = |limit: &str, until| (limit.to_owned(), after(until));
    assert_eq!(overrides("daily", 5, 0), [of("daily", 5)]);
    assert_eq!(overrides("10/s", 9, 0), [of("daily", 5), of("10/s", 9)]);
    assert_eq!(overrides("daily", 7, 0), [of("10/s", 9), of("daily", 7)]);
    // Ended overrides are removed.
    assert_eq!(overrides("10/s", 8, 8), []);
}

pub(in crate::store) fn keys_are_found_by_prefix(database: &dyn TestDatabase) {
    let store = with_keys(database, 0);
    let with_prefix = |n, prefix: &str| {
        let (key, credential) = new_key(OrgId(1), n);
        let shown_prefix = prefix.to_owned();
        (
            key,
            NewCredential {
                shown_prefix,
                ..credential
            },
        )
    };
    let keys = [
        (1, "kg_b"),
        (2, "kg_ab"),
        (3, "kg_a"),
        (4, "kg_a"),
        (5, "kg%"),
    ];
    let keys = keys.map(|(n, prefix)| with_prefix(n, prefix));
    store.create_keys(keys.into(), &audit_context()).unwrap();
    let found = |text: &str, limit| -> Vec<u64> {
        let keys = store.keys_with_prefix(text, limit).unwrap();
        keys.into_iter().map(|key| key.id.0).collect()
    };
    assert_eq!(found("kg_a", 9), [3, 4, 2]);
    assert_eq!(found("kg_a", 2), [3, 4]);
    assert_eq!(found("kg%", 9), [5]);
    assert_eq!(found("kg_c", 9), [0; 0]);

    // A rotation changes the prefix.
    let (_, credential) = with_prefix(6, "kg_c");
    store
        .add_credential(KeyId(3), credential, retiring(after(1)), &audit_context())
        .unwrap();
    assert_eq!(found("kg_a", 9), [4, 2]);
    assert_eq!(found("kg_c", 9), [3]);
}
