//! Management: accepted and refused changes, errors, listings, and confidentiality.

use std::fmt::{Debug, Display};

use crate::common::{
    Home, IP, MINUTE, NOON, SECRET, admit, check, check_with, key, key_with, org, refusal,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyguard::{
    AdminError, Config, CreateKey, CreatedKey, HeaderFn, InvalidInput, Key, KeyGuard, KeyId,
    KeyPrefix, KeyStatus, Limit, ListUsage, OpenError, OrgId, OrgStatus, Page, Reason, Request,
    RotateKey, Secret, UpdateKey, UpdateOrg,
};

// Accepted changes.

#[test]
fn organization_starts_active_and_is_found_by_its_name() {
    let home = Home::new();
    let kg = home.open();
    let org = kg.admin().create_org("  Acme Inc. ").unwrap();
    assert_eq!(
        (org.name.as_str(), org.status),
        ("Acme Inc.", OrgStatus::Active)
    );
    assert_eq!(org.created_at, home.clock.timestamp());
    assert_eq!(kg.admin().find_org("Acme Inc.").unwrap(), org);
    assert_eq!(
        kg.admin().list_orgs(Page::first().limit(10)).unwrap(),
        std::slice::from_ref(&org)
    );

    let suspended = kg.admin().suspend_org(org.id).unwrap();
    assert_eq!(suspended.status, OrgStatus::Suspended);
    assert_eq!(kg.admin().find_org("Acme Inc.").unwrap(), suspended);
    assert_eq!(kg.admin().resume_org(org.id).unwrap(), org);
}

#[test]
fn new_key_defaults_come_from_the_configuration() {
    let home = Home::new();
    let prefix: KeyPrefix = "acme_test_".parse().unwrap();
    let kg = home.open_with(
        home.config()
            .default_rate_limit_per_minute(7)
            .key_prefix(prefix),
    );
    let created = crate::common::key(&kg);
    let Key { id, org_id, .. } = created.key;
    assert_eq!(kg.admin().get_key(id).unwrap(), created.key);
    assert_eq!(org_id, org(&kg, "acme").id);
    assert_eq!(created.key.label, "shop");
    assert_eq!(created.key.rate_limit_per_minute.get(), 7);
    assert!(created.key.limits.is_empty());
    assert!(created.key.allowed_ips.is_empty());
    assert_eq!(created.key.expires_at, None);
    assert_eq!(created.key.last_used_at, None);
    assert_eq!(created.key.scopes, []);
    assert_eq!(created.key.created_at, home.clock.timestamp());
    assert!(created.key.is_active());
    assert!(created.raw_key.expose().starts_with("acme_test_"));
}

#[test]
fn fields_are_kept_at_their_extremes() {
    let home = Home::new();
    let kg = home.open();
    let expires_at = Some(home.clock.timestamp().plus(MINUTE));
    let longest_prefix = format!("{}_", "p".repeat(31));
    let created = key_with(&kg, |_| {
        CreateKey::new("acme", "ü".repeat(255))
            .scopes([&"s".repeat(64), "orders:write", "orders:write"])
            .rate_limit_per_minute(u32::MAX)
            .limits([
                &format!("{} monthly", u64::MAX / 2),
                "5 credits +1/min shadow",
            ])
            .allowed_ips(["10.0.0.0/8", &IP.to_string()])
            .expires_at(expires_at)
            .prefix(&longest_prefix)
    });
    kg.close().unwrap();

    let kg = home.open();
    let key = kg.admin().get_key(created.key.id).unwrap();
    assert_eq!(key, created.key);
    assert_eq!(key.label, "ü".repeat(255));
    // Sorted, without duplicates.
    assert_eq!(scopes(&key), ["orders:write", &"s".repeat(64)]);
    assert_eq!(key.rate_limit_per_minute.get(), u32::MAX);
    let limits: Vec<String> = key.limits.iter().map(ToString::to_string).collect();
    assert_eq!(
        limits,
        [
            format!("{} monthly", u64::MAX / 2),
            "5 credits +1/min shadow".into()
        ]
    );
    assert_eq!(key.allowed_ips.to_string(), format!("10.0.0.0/8,{IP}"));
    assert_eq!(key.expires_at, expires_at);
    assert!(key.shown_prefix.starts_with(&longest_prefix));
    admit(&kg, &created);
}

#[test]
fn update_changes_only_the_given_fields() {
    let home = Home::new();
    let kg = home.open();
    let key = key_with(&kg, |key| {
        key.scopes(vec!["read"])
            .limits(vec!["100 monthly"])
            .expires_at(Some(home.clock.timestamp().plus(MINUTE)))
    });
    let key = key.key;
    let nothing = UpdateKey::new(key.id);
    assert_eq!(kg.admin().update_key(nothing.clone()).unwrap(), key);

    let renamed = kg
        .admin()
        .update_key(nothing.clone().label(" till "))
        .unwrap();
    let mut expected = key;
    expected.label = "till".into();
    assert_eq!(renamed, expected);

    let freed = kg
        .admin()
        .update_key(nothing.limits([""; 0]).expires_at(None))
        .unwrap();
    expected.limits = Vec::new();
    expected.expires_at = None;
    assert_eq!(freed, expected);
    assert_eq!(kg.admin().get_key(expected.id).unwrap(), expected);
}

#[test]
fn values_of_a_key_can_be_given_to_another() {
    let home = Home::new();
    let kg = home.open();
    let like = key_with(&kg, |key| {
        key.scopes(["read"])
            .limits([Limit::daily(20_000).unwrap(), Limit::concurrent(8).unwrap()])
            .allowed_ips([IP.to_string(), "local".into()])
            .prefix("acme_test_".parse::<KeyPrefix>().unwrap())
    });
    let like = like.key;
    assert_eq!(like.limits[0].to_string(), "20000 daily");

    let id = key(&kg).key.id;
    let change = UpdateKey::new(id)
        .scopes(&like.scopes)
        .limits(&like.limits)
        .allowed_ips(&like.allowed_ips);
    let changed = kg.admin().update_key(change).unwrap();
    assert_eq!(changed.scopes, like.scopes);
    assert_eq!(changed.limits, like.limits);
    assert_eq!(changed.allowed_ips, like.allowed_ips);

    let change = UpdateOrg::new(like.org_id).limits(like.limits.clone());
    assert_eq!(kg.admin().update_org(change).unwrap().limits, like.limits);
}

#[test]
fn rotation_changes_the_text_and_its_listing() {
    let home = Home::new();
    let kg = home.open();
    let old = key_with(&kg, |key| key.prefix("acme_test_"));
    let new = kg
        .admin()
        .rotate_key(RotateKey::new(old.key.id).grace(MINUTE))
        .unwrap();
    assert_ne!(new.raw_key.expose(), old.raw_key.expose());
    assert_eq!(new.key.shown_prefix, new.raw_key.shown_prefix());
    assert!(new.key.shown_prefix.starts_with("acme_test_"));
    let mut expected = old.key;
    expected.shown_prefix = new.key.shown_prefix.clone();
    expected.old_text_until = Some(NOON.plus(MINUTE));
    assert_eq!(
        kg.admin().list_keys(None, Page::first()).unwrap(),
        [expected]
    );
}

/// Once, the text was stored, listed and recorded in the audit log.
#[test]
fn key_text_is_refused_where_it_would_be_listed() {
    let home = Home::new();
    let kg = home.open();
    let created = crate::common::key(&kg);
    let text = created.raw_key.expose();
    let label = |label: String| UpdateKey::new(created.key.id).label(label);
    let encoded = text.replace('_', "%255f");
    let scope = |text: &str| UpdateKey::new(created.key.id).scopes([text]);
    let error = kg.admin().update_key(scope(text)).unwrap_err().to_string();
    assert!(error.contains("the text of a key"), "{error}");
    for text in [text.to_owned(), format!("mine: {text}, old"), encoded] {
        for refused in [
            kg.admin()
                .block(IP, Some(&format!("/files/{text}")), "1 hour")
                .map(drop),
            kg.admin().create_org(&text).map(drop),
            kg.admin()
                .create_key(CreateKey::new("acme", &text))
                .map(drop),
            kg.admin().update_key(label(text)).map(drop),
        ] {
            let error = refused.unwrap_err().to_string();
            assert!(error.contains("the text of a key"), "{error}");
            assert!(!error.contains("kg_live_"), "{error}");
        }
    }
    // The listed prefix is not a key.
    kg.admin()
        .update_key(label(created.key.shown_prefix.clone()))
        .unwrap();
}

#[test]
fn keys_may_share_a_label_but_never_a_text() {
    let home = Home::new();
    let kg = home.open();
    let mut texts: Vec<_> = (0..100)
        .map(|_| crate::common::key(&kg).raw_key.expose().to_owned())
        .collect();
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), 100);
}

// Refused changes and their errors.

/// Invalid names and their errors.
fn bad_names() -> [(String, &'static str); 10] {
    [
        (String::new(), "is empty; expected at least one character"),
        (" \t ".into(), "is empty; expected at least one character"),
        ("ü".repeat(256), "is longer than 255 characters"),
        ("a".repeat(1 << 20), "is longer than 255 characters"),
        ("a\u{1b}[31mb".into(), "contains a control character"),
        ("a\nb".into(), "contains a control character"),
        ("a\u{9b}b".into(), "contains a control character (U+009B)"),
        (
            "a\u{202e}b".into(),
            "contains an invisible character (U+202E)",
        ),
        ("a\u{2028}b".into(), "contains a line separator (U+2028)"),
        ("a\u{378}b".into(), "an unassigned character (U+0378)"),
    ]
}

#[test]
fn confusable_organization_names_are_refused() {
    let home = Home::new();
    let kg = home.open();
    let org = kg.admin().create_org("Caf\u{e9} acme").unwrap();
    // A combining accent, and blanks around the name.
    assert_eq!(kg.admin().find_org(" Cafe\u{301} acme ").unwrap(), org);
    let key = CreateKey::new("Cafe\u{301} acme", "shop");
    assert_eq!(kg.admin().create_key(key).unwrap().key.org_id, org.id);
    // A Cyrillic letter; two letters that look like one.
    for name in ["C\u{430}f\u{e9} acme", "Caf\u{e9} acrne"] {
        let error = kg.admin().create_org(name).unwrap_err();
        assert!(
            matches!(&error, AdminError::SimilarOrgExists(name) if *name == org.name),
            "{error:?}"
        );
        let said = "looks like that of the existing organization `Caf\u{e9} acme`";
        assert!(error.to_string().contains(said), "{error}");
        assert!(kg.admin().find_org(name).is_err());
    }
    kg.close().unwrap();
    assert!(
        home.open()
            .admin()
            .create_org("C\u{430}f\u{e9} acme")
            .is_err()
    );
}

#[test]
fn invalid_organization_name_is_refused() {
    let home = Home::new();
    let kg = home.open();
    for (name, problem) in bad_names() {
        assert_invalid(kg.admin().create_org(&name), "org_name", problem);
    }
    assert_eq!(kg.admin().list_orgs(Page::first().limit(10)).unwrap(), []);
}

/// Invalid fields: the name, the error, and the requests to create and update a key with each.
fn bad_fields(id: KeyId) -> Vec<(&'static str, &'static str, CreateKey, UpdateKey)> {
    let mut all = Vec::new();
    let mut add = |field,
                   problem,
                   create: &dyn Fn(CreateKey) -> CreateKey,
                   update: &dyn Fn(UpdateKey) -> UpdateKey| {
        let request = create(CreateKey::new("acme", "shop"));
        all.push((field, problem, request, update(UpdateKey::new(id))));
    };
    for (name, problem) in bad_names() {
        let request = CreateKey::new("acme", &name);
        add("label", problem, &|_| request.clone(), &|change| {
            change.label(&name)
        });
    }
    let long = "s".repeat(65);
    for scope in [
        "",
        "read write",
        "read,write",
        "a\"b",
        "a\\b",
        "é",
        "a\n",
        &long,
    ] {
        let expected = "is not a scope of 1 to 64 printable ASCII characters";
        let scopes = ["read", scope];
        add(
            "scopes",
            expected,
            &|request| request.scopes(scopes),
            &|change| change.scopes(scopes),
        );
    }
    add(
        "rate_limit_per_minute",
        "expected at least 1",
        &|request| request.rate_limit_per_minute(0),
        &|change| change.rate_limit_per_minute(0),
    );
    for (limits, expected) in [
        (&["0 monthly"][..], "expected at least 1"),
        (&["10/fortnight"], "is not a limit such as"),
        (&["10/min", "9/60s"], "same counter"),
    ] {
        let limits = || limits.iter().copied();
        add(
            "limits",
            expected,
            &|request| request.limits(limits()),
            &|change| change.limits(limits()),
        );
    }
    let scopes = || (0..64).map(|i| format!("{i:064}"));
    let problem = "more than 4096 characters";
    add(
        "scopes",
        problem,
        &|request| request.scopes(scopes()),
        &|change| change.scopes(scopes()),
    );
    let ips = (0..257).map(|i| format!("10.0.{}.{}", i / 256, i % 256));
    let ips: Vec<String> = ips.collect();
    let problem = "expected at most 256";
    add(
        "allowed_ips",
        problem,
        &|request| request.allowed_ips(&*ips),
        &|change| change.allowed_ips(&*ips),
    );
    add(
        "allowed_ips",
        "expected the network `10.0.0.0/8`",
        &|request| request.allowed_ips(["10.1.2.3/8"]),
        &|change| change.allowed_ips(["10.1.2.3/8"]),
    );
    all
}

#[test]
fn invalid_field_of_a_new_key_is_refused() {
    let home = Home::new();
    let kg = home.open();
    org(&kg, "acme");
    for (field, problem, request, _) in bad_fields(KeyId(1)) {
        assert_invalid(kg.admin().create_key(request), field, problem);
    }
    let long = format!("{}_", "p".repeat(32));
    for prefix in [
        "", "_", "acme", "_acme_", "-acme_", "ac me_", "äcme_", &long,
    ] {
        let request = CreateKey::new("acme", "shop").prefix(prefix);
        let problem = "is not a key prefix such as `kg_live_`: expected 2 to 32 characters";
        assert_invalid(kg.admin().create_key(request), "prefix", problem);
    }
    assert_eq!(kg.admin().list_keys(None, Page::first()).unwrap(), []);
}

#[test]
fn update_with_an_invalid_field_changes_nothing() {
    let home = Home::new();
    let kg = home.open();
    let key = crate::common::key(&kg).key;
    for (field, problem, _, change) in bad_fields(key.id) {
        let change = change.expires_at(home.clock.timestamp());
        assert_invalid(kg.admin().update_key(change), field, problem);
        assert_eq!(kg.admin().get_key(key.id).unwrap(), key);
    }
}

#[test]
fn batch_creates_all_keys_or_none() {
    let home = Home::new();
    let kg = home.open();
    org(&kg, "acme");
    let good = CreateKey::new("acme", "shop");
    let mut requests = vec![good; 100];
    requests[99] = CreateKey::new("acme", "");
    assert_invalid(kg.admin().create_keys(&requests), "label", "is empty");
    requests[99] = CreateKey::new("nobody", "shop");
    assert_not_found(kg.admin().create_keys(&requests), "nobody");
    assert_eq!(kg.admin().list_keys(None, Page::first()).unwrap(), []);
    assert_eq!(kg.admin().stats().unwrap().total_keys, 0);
    assert_eq!(kg.admin().create_keys(&[]).unwrap().len(), 0);
}

#[test]
fn missing_records_are_named() {
    let home = Home::new();
    let kg = home.open();
    crate::common::key(&kg);
    let (org, key) = (OrgId(4_711), KeyId(4_711));
    assert_not_found(kg.admin().find_org("nobody"), "nobody");
    assert_not_found(
        kg.admin().create_key(CreateKey::new("nobody", "shop")),
        "nobody",
    );
    assert_not_found(kg.admin().suspend_org(org), "4711");
    assert_not_found(kg.admin().resume_org(org), "4711");
    assert_not_found(kg.admin().list_keys(Some(org), Page::first()), "4711");
    assert_not_found(kg.admin().get_key(key), "4711");
    assert_not_found(kg.admin().update_key(UpdateKey::new(key)), "4711");
    assert_not_found(
        kg.admin().rotate_key(RotateKey::new(key).grace(MINUTE)),
        "4711",
    );
    assert_not_found(kg.admin().revoke_key(key), "4711");
    assert_not_found(kg.admin().suspend_key(key), "4711");
    assert_not_found(kg.admin().resume_key(key), "4711");
}

#[test]
fn duplicate_name_is_refused() {
    let home = Home::new();
    let kg = home.open();
    let first = kg.admin().create_org("acme").unwrap();
    for name in ["acme", " acme "] {
        assert_conflict(kg.admin().create_org(name), "`acme` already exists");
    }
    kg.admin().suspend_org(first.id).unwrap();
    assert_conflict(kg.admin().create_org("acme"), "`acme` already exists");
    assert_eq!(kg.admin().stats().unwrap().organizations, 1);
}

#[test]
fn concurrent_creations_of_a_name_succeed_once() {
    let home = Home::new();
    let kg = home.open();
    let created = std::thread::scope(|scope| {
        let create = || kg.admin().create_org("acme").is_ok();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(create)).collect();
        let created = threads.into_iter().map(|thread| thread.join().unwrap());
        created.filter(|created| *created).count()
    });
    assert_eq!(created, 1);
    assert_eq!(
        kg.admin().list_orgs(Page::first().limit(10)).unwrap().len(),
        1
    );
}

/// A key could be made that had expired already, and showed as active.
#[test]
fn expiry_in_the_past_is_refused() {
    let home = Home::new();
    let kg = home.open();
    let key = crate::common::key(&kg).key;
    let now = home.clock.timestamp();
    for past in [now, now.minus(MINUTE)] {
        let request = CreateKey::new("acme", "shop").expires_at(Some(past));
        let many = kg.admin().create_keys(std::slice::from_ref(&request));
        assert_invalid(many, "expires_at", "is in the past");
        assert_invalid(
            kg.admin().create_key(request),
            "expires_at",
            "is in the past",
        );
        let change = UpdateKey::new(key.id).expires_at(Some(past));
        assert_invalid(
            kg.admin().update_key(change),
            "expires_at",
            "is in the past",
        );
        let rotation = RotateKey::new(key.id).expires_at(Some(past));
        assert_invalid(
            kg.admin().rotate_key(rotation),
            "expires_at",
            "is in the past",
        );
    }
    assert_eq!(kg.admin().list_keys(None, Page::first()).unwrap(), [key]);
}

/// An expired key was listed and counted as active.
#[test]
fn expired_key_is_shown_as_expired_everywhere() {
    let home = Home::new();
    let kg = home.open();
    let expires_at = Some(home.clock.timestamp().plus(MINUTE));
    let key = key_with(&kg, |key| key.expires_at(expires_at));
    check(&kg, &key).unwrap().finish(200);
    let other = crate::common::key(&kg);
    let id = key.key.id;
    let look = || {
        let stats = kg.admin().stats().unwrap();
        let listed = kg.admin().list_keys(None, Page::first()).unwrap();
        let seen = [
            kg.admin().get_key(id).unwrap(),
            listed[0].clone(),
            kg.admin().find_key(&key.key.shown_prefix).unwrap(),
            stats.top_keys[0].key.clone(),
            kg.admin().update_key(UpdateKey::new(id)).unwrap(),
            kg.admin().restore_limit(id, "default").unwrap(),
        ];
        let mut seen = seen.map(|key| (key.is_active(), key.status)).to_vec();
        seen.dedup();
        assert_eq!(seen.len(), 1, "{seen:?}");
        (seen[0].1, seen[0].0, stats.active_keys)
    };
    assert_eq!(look(), (KeyStatus::Active, true, 2));
    home.clock.advance(MINUTE);
    assert_eq!(refusal(check(&kg, &key)), Reason::ExpiredKey);
    assert_eq!(look(), (KeyStatus::Expired, false, 1));
    kg.admin().revoke_key(other.key.id).unwrap();
    assert_eq!(
        kg.admin().get_key(other.key.id).unwrap().status,
        KeyStatus::Revoked
    );
    assert_eq!(kg.admin().stats().unwrap().active_keys, 0);
    assert_eq!(
        kg.admin().revoke_key(id).unwrap().status,
        KeyStatus::Revoked
    );
    assert_eq!(kg.admin().stats().unwrap().active_keys, 0);
}

/// The text of an expired key may have leaked since.
#[test]
fn expired_key_is_renewed_only_explicitly() {
    let home = Home::new();
    let kg = home.open();
    let expires_at = Some(home.clock.timestamp().plus(MINUTE));
    let key = key_with(&kg, |key| key.expires_at(expires_at));
    let id = key.key.id;
    home.clock.advance(MINUTE);
    let later = home.clock.timestamp().plus(MINUTE);
    for expires_at in [None, Some(later)] {
        let change = UpdateKey::new(id).expires_at(expires_at);
        assert_conflict(kg.admin().update_key(change), "has expired");
    }
    assert_conflict(
        kg.admin().rotate_key(RotateKey::new(id).grace(MINUTE)),
        "has expired",
    );
    assert_eq!(refusal(check(&kg, &key)), Reason::ExpiredKey);

    let rotation = RotateKey::new(id)
        .grace(10 * MINUTE)
        .expires_at(Some(later));
    let rotated = kg.admin().rotate_key(rotation).unwrap();
    admit(&kg, &rotated);
    assert_eq!(rotated.key.expires_at, Some(later));
    assert_eq!(
        refusal(check(&kg, &key)),
        Reason::ExpiredKey,
        "the old text has no grace"
    );
    home.clock.advance(MINUTE);
    assert_eq!(refusal(check(&kg, &rotated)), Reason::ExpiredKey);
    let change = UpdateKey::new(id).expires_at(None).reactivate(true);
    assert_eq!(
        kg.admin().update_key(change).unwrap().status,
        KeyStatus::Active
    );
    admit(&kg, &rotated);
    assert_eq!(refusal(check(&kg, &key)), Reason::ExpiredKey);
}

#[test]
fn revoked_key_cannot_be_changed() {
    let home = Home::new();
    let kg = home.open();
    let key = crate::common::key(&kg);
    let revoked = kg.admin().revoke_key(key.key.id).unwrap();
    let change = UpdateKey::new(revoked.id).expires_at(None);
    assert_conflict(
        kg.admin().update_key(change),
        "is revoked; create a new key",
    );
    assert_conflict(
        kg.admin()
            .rotate_key(RotateKey::new(revoked.id).grace(MINUTE)),
        "is revoked; create a new key",
    );
    assert_eq!(kg.admin().get_key(revoked.id).unwrap(), revoked);
    assert_eq!(refusal(check(&kg, &key)), Reason::RevokedKey);
}

// Listings.

#[test]
fn pages_list_each_key_once_in_order() {
    const KEYS: usize = 2_345;

    let home = Home::new();
    let kg = home.open();
    let orgs = ["acme", "other"].map(|name| org(&kg, name));
    let requests: Vec<_> = (0..KEYS)
        .map(|number| CreateKey::new(&*orgs[number / 3 % 2].name, format!("key {number}")))
        .collect();
    let created: Vec<_> = kg.admin().create_keys(&requests).unwrap();
    let created: Vec<_> = created.into_iter().map(|created| created.key).collect();
    let labels: Vec<_> = created.iter().map(|key| key.label.as_str()).collect();
    let expected: Vec<_> = (0..KEYS).map(|number| format!("key {number}")).collect();
    assert_eq!(labels, expected);

    for limit in [1_000, 100, 7, KEYS, KEYS + 1] {
        let all = pages_of_keys(&kg, None, limit);
        assert!(all == created, "pages of {limit}");
    }
    for org in &orgs {
        let of_org: Vec<_> = created.iter().filter(|key| key.org_id == org.id).collect();
        let listed = pages_of_keys(&kg, Some(org.id), 100);
        assert!(listed.iter().eq(of_org), "keys of {}", org.name);
    }
    let keys = |page| kg.admin().list_keys(None, page).unwrap();
    assert_eq!(keys(Page::first()).len(), 1_000);
    assert_eq!(keys(Page::first().limit(0)), []);
}

#[test]
fn pages_list_each_organization_once_in_order() {
    let home = Home::new();
    let kg = home.open();
    let name = |number| format!("org {number}");
    let created: Vec<_> = (0..25)
        .map(|number| kg.admin().create_org(&name(number)).unwrap())
        .collect();
    for limit in [1, 7, 25, 26] {
        let mut listed = Vec::new();
        loop {
            let after = listed.last().map(|org: &keyguard::Org| org.id);
            let page = kg
                .admin()
                .list_orgs(after.map_or(Page::first(), Page::after).limit(limit))
                .unwrap();
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            listed.extend(page);
        }
        assert_eq!(listed, created, "pages of {limit}");
    }
}

#[test]
fn ids_are_never_reused() {
    let home = Home::new();
    let kg = home.open();
    let first = crate::common::key(&kg).key;
    kg.admin().revoke_key(first.id).unwrap();
    kg.close().unwrap();
    let kg = home.open();
    assert!(crate::common::key(&kg).key.id > first.id);
}

#[test]
fn listings_show_the_prefix_and_four_characters() {
    let home = Home::new();
    let kg = home.open();
    for prefix in ["kg_live_", "acme_test_", "a_"] {
        let created = key_with(&kg, |key| key.prefix(prefix));
        let shown = &created.raw_key.expose()[..prefix.len() + 4];
        let listed = kg
            .admin()
            .list_keys(None, Page::first())
            .unwrap()
            .pop()
            .unwrap();
        assert_eq!(listed.id, created.key.id);
        assert_eq!(listed.shown_prefix, shown);
        assert_eq!(created.raw_key.shown_prefix(), shown);
        Private::of(&created).assert_not_in(&format!("{listed:?}"), "a listing");
    }
}

/// Once, both keys were refused as ambiguous.
#[test]
fn whole_prefix_that_starts_a_longer_one_selects_its_key() {
    let home = Home::new();
    let kg = home.open();
    let short = key_with(&kg, |key| key.prefix("a_")).key;
    let long = key_with(&kg, |key| key.prefix(format!("{}_", short.shown_prefix))).key;
    assert!(long.shown_prefix.starts_with(&short.shown_prefix));
    for key in [short, long] {
        assert_eq!(kg.admin().find_key(&key.shown_prefix).unwrap().id, key.id);
    }
}

// Confidentiality.

#[test]
fn debug_output_shows_no_key_or_secret() {
    let home = Home::new();
    let kg = home.open();
    let key = key_with(&kg, |key| key.scopes(vec!["read"]));
    let text = key.raw_key.expose();
    let headers = [("X-API-Key", text)];
    let with_query = format!("/api/data?api_key={text}");
    let request = Request::new(&headers, IP, &with_query);
    let found = HeaderFn::new(|_: &str| Some(text.as_bytes()));
    let grant = kg.decide(request).unwrap();
    let lacking = grant.require("write").unwrap_err();

    let private = Private::of(&key);
    let check = |what: &str, value: &dyn Debug| {
        private.assert_not_in(&format!("{value:?}"), what);
        private.assert_not_in(&format!("{value:#?}"), what);
    };
    check("Config", &home.config());
    check("Secret", &Secret::from(SECRET));
    check("PlainKey", &key.raw_key);
    check("CreatedKey", &key);
    check("Key", &key.key);
    check("Org", &org(&kg, "acme"));
    check("KeyGuard", &kg);
    check("Request", &request);
    check("HeaderFn", &found);
    check("Grant", &grant);
    check("Denial", &lacking);
    check("Verdict", &kg.dry_run(request));
    grant.finish(200);
    check("Stats", &kg.admin().stats().unwrap());
    let usage = kg.admin().list_usage(ListUsage::new()).unwrap();
    assert_eq!(usage[0].path, "/api/data");
    check("Usage", &usage);
}

#[test]
fn errors_show_no_key_or_secret() {
    let home = Home::new();
    let kg = home.open();
    let key = crate::common::key(&kg);
    let text = key.raw_key.expose();
    let private = Private::of(&key);
    fn assert_private(private: &Private, error: &(dyn std::error::Error + 'static)) {
        let chain = std::iter::successors(Some(error), |error| error.source());
        for error in chain {
            private.assert_not_in(&error.to_string(), "an error");
            private.assert_not_in(&format!("{error:?}"), "an error");
        }
    }
    let invalid = |text: &str| text.parse::<KeyPrefix>().unwrap_err();
    assert_private(&private, &invalid(text));
    assert_private(&private, &text.parse::<KeyId>().unwrap_err());
    assert_private(
        &private,
        &kg.admin().create_org(&text.repeat(5)).unwrap_err(),
    );
    assert_private(&private, &check_with(&kg, &text.repeat(5)).unwrap_err());
    assert_private(&private, &check_with(&kg, &text[1..]).unwrap_err());
    kg.admin().revoke_key(key.key.id).unwrap();
    assert_private(&private, &check(&kg, &key).unwrap_err());
    assert_private(
        &private,
        &kg.admin()
            .rotate_key(RotateKey::new(key.key.id).grace(MINUTE))
            .unwrap_err(),
    );
    assert_private(&private, &open_error(&home, home.config()));
    kg.close().unwrap();
    assert_private(&private, &open_error(&home, Config::new("another secret")));
    let wrong_setting = home.config().key_header("");
    assert_private(&private, &open_error(&home, wrong_setting));
}

#[test]
fn server_passwords_are_never_printed() {
    const PASSWORD: &str = "hunter2-and-more";

    let home = Home::new();
    let config = || {
        let url = format!("redis://user:{PASSWORD}@localhost:6379");
        home.config().redis_url(url)
    };
    let opened = match KeyGuard::open(home.file(), config()) {
        Ok(kg) => kg.admin().stats().unwrap().warnings.join("\n"),
        Err(error) => format!("{error} {error:?}"),
    };
    for printed in [format!("{:?}", config()), opened] {
        assert!(!printed.contains(PASSWORD), "{printed}");
    }
}

#[test]
fn files_contain_no_key_and_no_secret() {
    let home = Home::new();
    let kg = home.open();
    let mut keys: Vec<_> = (0..3).map(|_| crate::common::key(&kg)).collect();
    keys.push(
        kg.admin()
            .rotate_key(RotateKey::new(keys[0].key.id).grace(MINUTE))
            .unwrap(),
    );
    kg.admin().revoke_key(keys[1].key.id).unwrap();
    // A key of another file.
    keys.push(crate::common::key(&Home::new().open()));
    for key in &keys {
        let text = key.raw_key.expose();
        let bearer = format!("Bearer {text}");
        let with_query = format!("/in/a/query?key={text}#{text}");
        let headers = [
            ("X-API-Key", text),
            ("Authorization", &bearer),
            ("Cookie", text),
            ("User-Agent", text),
        ];
        // Admitted and refused requests are recorded.
        drop(kg.check(&headers, IP, &with_query));
        drop(check_with(&kg, &text[1..]));
    }
    kg.flush().unwrap();
    let assert_private = |when| {
        let bytes = all_bytes_below(home.dir());
        // Shows that the search finds values that are present.
        for public in ["/in/a/query", "shop", &keys[1].key.shown_prefix] {
            assert!(holds(&bytes, public.as_bytes()), "{public} {when}");
        }
        for key in &keys {
            for part in Private::of(key).parts {
                assert!(!holds(&bytes, &part), "a part of {:?} {when}", key.raw_key);
            }
        }
    };
    assert_private("while it is open");
    kg.close().unwrap();
    assert_private("once it is closed");
}

/// The confidential parts of a key and of the secret.
struct Private {
    text: String,
    parts: Vec<Vec<u8>>,
}

impl Private {
    fn of(key: &CreatedKey) -> Self {
        let text = key.raw_key.expose();
        let shown = key.raw_key.shown_prefix().len();
        let prefix = shown - 4;
        // The random part is 32 bytes as 43 characters.
        let random = &text[prefix..prefix + 43];
        let random = URL_SAFE_NO_PAD.decode(random).unwrap();
        let mut parts: Vec<_> = text.as_bytes()[shown..]
            .chunks_exact(9)
            .chain(random.chunks_exact(8))
            .map(<[u8]>::to_vec)
            .collect();
        parts.push(SECRET.into());
        let text = text[shown..].to_owned();
        Self { text, parts }
    }

    fn assert_not_in(&self, printed: &str, what: &str) {
        for part in &self.parts {
            assert!(!holds(printed.as_bytes(), part), "{what}: {printed}");
        }
        // `Debug` may print bytes as a list of numbers.
        for hidden in [self.text.as_bytes(), SECRET.as_bytes()] {
            let list = format!("{:?}", &hidden[..8]);
            let start = list.trim_end_matches(']');
            assert!(!printed.contains(start), "{what}: {printed}");
        }
    }
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    let Some((first, rest)) = part.split_first() else {
        return true;
    };
    let mut at = bytes;
    while let Some(next) = at.iter().position(|byte| byte == first) {
        at = &at[next + 1..];
        if at.starts_with(rest) {
            return true;
        }
    }
    false
}

fn all_bytes_below(dir: &std::path::Path) -> Vec<u8> {
    let files = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    // Sockets have no content.
    files
        .filter(|file| file.file_type().unwrap().is_file())
        .flat_map(|file| std::fs::read(file.path()).unwrap())
        .collect()
}

fn pages_of_keys(kg: &KeyGuard, org_id: Option<OrgId>, limit: usize) -> Vec<Key> {
    let mut listed: Vec<Key> = Vec::new();
    loop {
        let page = listed
            .last()
            .map_or(Page::first(), |key| Page::after(key.id));
        let page = kg.admin().list_keys(org_id, page.limit(limit)).unwrap();
        assert!(page.len() <= limit);
        if page.is_empty() {
            return listed;
        }
        listed.extend(page);
    }
}

fn scopes(key: &Key) -> Vec<&str> {
    key.scopes.iter().map(keyguard::Scope::as_str).collect()
}

fn open_error(home: &Home, config: Config) -> OpenError {
    KeyGuard::open(home.file(), config).unwrap_err()
}

/// Expects an error that names the field, the problem and the expectation.
fn assert_invalid<T: Debug>(outcome: Result<T, AdminError>, field: &str, problem: &str) {
    match outcome {
        Err(AdminError::Invalid(invalid)) => {
            assert_eq!(InvalidInput::field(&invalid), field);
            assert_says(&invalid, field);
            assert_says(&invalid, problem);
        }
        other => panic!("{field} was not refused: {other:?}"),
    }
}

fn assert_not_found<T: Debug>(outcome: Result<T, AdminError>, named: &str) {
    match outcome {
        Err(error) if error.status() == 404 => assert_says(&error, named),
        other => panic!("{named} was found: {other:?}"),
    }
}

fn assert_conflict<T: Debug>(outcome: Result<T, AdminError>, problem: &str) {
    match outcome {
        Err(error) if error.status() == 409 => assert_says(&error, problem),
        other => panic!("there was no conflict: {other:?}"),
    }
}

fn assert_says(error: &dyn Display, text: &str) {
    let said = error.to_string();
    assert!(said.contains(text), "`{said}` does not say `{text}`");
}

/// Otherwise a stop would wait for the copy and for reading it back.
#[test]
fn closing_cancels_backups() {
    let home = Home::new();
    let kg = home.open();
    let admin = kg.admin();
    admin.backup(home.dir().join("before.redb")).unwrap();
    kg.close().unwrap();
    let error = admin.backup(home.dir().join("after.redb")).unwrap_err();
    let AdminError::BackupNotWritten { source, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(source.to_string(), "it was cancelled");
}
