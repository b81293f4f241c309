//! Concurrent changes lose nothing, and failed changes change nothing.

use crate::common::{Home, IP, admit, check, key, key_with, org};
use keyguard::{Timestamp, UpdateKey, UpdateOrg};
use std::fs;
use std::sync::Barrier;

const HOUR: &str = "1 hour";

/// Runs all functions concurrently.
fn at_once(works: impl IntoIterator<Item = impl FnOnce() + Send>) {
    let works: Vec<_> = works.into_iter().collect();
    let start = Barrier::new(works.len());
    std::thread::scope(|scope| {
        for work in works {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                work();
            });
        }
    });
}

#[test]
fn concurrent_overrides_all_apply() {
    let home = Home::new();
    let kg = home.open();
    let limits = [
        "10/s",
        "1000/h",
        "9000 daily",
        "90000 monthly",
        "5 concurrent",
    ];
    let owner = org(&kg, "acme").id;
    kg.admin()
        .update_org(UpdateOrg::new(owner).limits(limits))
        .unwrap();
    for _ in 0..5 {
        let key = key_with(&kg, |key| key.limits(limits.iter().copied()));
        let id = key.key.id;
        let rules = ["10/s", "1000/hour", "daily", "monthly", "concurrent"];
        let names = rules
            .iter()
            .flat_map(|limit| [(*limit).to_owned(), format!("org {limit}")]);
        let names: Vec<String> = names.collect();
        at_once(names.iter().map(|name| {
            let kg = &kg;
            move || drop(kg.admin().override_limit(id, name, HOUR).unwrap())
        }));
        assert_eq!(
            kg.admin().get_key(id).unwrap().overrides.len(),
            limits.len()
        );
        assert_eq!(
            kg.admin().get_org(owner).unwrap().overrides.len(),
            limits.len()
        );
        at_once(names.iter().map(|name| {
            let kg = &kg;
            move || drop(kg.admin().restore_limit(id, name).unwrap())
        }));
        assert_eq!(kg.admin().get_key(id).unwrap().overrides, []);
        assert_eq!(kg.admin().get_org(owner).unwrap().overrides, []);
    }
}

#[test]
fn concurrent_field_changes_all_apply() {
    let home = Home::new();
    let kg = home.open();
    let id = key(&kg).key.id;
    let until = Timestamp::MAX;
    at_once((0..4).map(|field| {
        let kg = &kg;
        move || {
            let change = UpdateKey::new(id);
            let change = match field {
                0 => change.label("new"),
                1 => change.scopes(["read"]),
                2 => change.rate_limit_per_minute(7),
                _ => change.expires_at(until),
            };
            kg.admin().update_key(change).unwrap();
        }
    }));
    let key = kg.admin().get_key(id).unwrap();
    assert_eq!((key.label.as_str(), key.scopes.len()), ("new", 1));
    assert_eq!(key.rate_limit_per_minute.get(), 7);
    assert_eq!(key.expires_at, Some(until));
}

#[test]
fn change_that_cannot_be_stored_is_not_applied() {
    let home = Home::new();
    let policy = home.dir().join("policy.toml");
    fs::write(&policy, "").unwrap();
    let kg = home.open_with(home.config().policy_file(&policy));
    let key = key(&kg);
    admit(&kg, &key);
    // Nothing can be stored in a deleted file.
    fs::rename(home.file(), home.dir().join("away")).unwrap();

    fs::write(&policy, "deny = [\"192.0.2.7\"]\n").unwrap();
    kg.admin().reload().unwrap_err();
    admit(&kg, &key);
    kg.admin().block(IP, None, HOUR).unwrap_err();
    admit(&kg, &key);
    kg.admin().revoke_key(key.key.id).unwrap_err();
    admit(&kg, &key);
    kg.admin().suspend_org(key.key.org_id).unwrap_err();
    admit(&kg, &key);
    assert!(!kg.readiness().is_ready());

    fs::rename(home.dir().join("away"), home.file()).unwrap();
    // A flush does not wait for the next attempt.
    kg.flush().unwrap();
    assert!(kg.readiness().is_ready());
    kg.admin().reload().unwrap();
    check(&kg, &key).unwrap_err();
}
