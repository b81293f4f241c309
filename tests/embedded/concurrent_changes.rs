//! Changes at the same time lose nothing, and those that fail change nothing.

use crate::common::{Home, IP, admit, ask, key, key_with, org};
use keyguard::{CreateKey, LockScope, Timestamp, UpdateKey};
use std::fs;
use std::sync::Barrier;

const HOUR: &str = "1 hour";

/// Does each at the same time as the others.
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
fn limits_lifted_at_once_are_all_lifted() {
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
    kg.admin().set_org_limits(owner, limits).unwrap();
    for _ in 0..5 {
        let key = key_with(&kg, |key| CreateKey {
            limits: limits.iter().map(|limit| (*limit).to_owned()).collect(),
            ..key
        });
        let id = key.key.id;
        let rules = ["10/s", "1000/hour", "daily", "monthly", "concurrent"];
        let names = rules
            .iter()
            .flat_map(|limit| [(*limit).to_owned(), format!("org {limit}")]);
        let names: Vec<String> = names.collect();
        at_once(names.iter().map(|name| {
            let kg = &kg;
            move || drop(kg.admin().lift(id, name, HOUR.parse().unwrap()).unwrap())
        }));
        assert_eq!(kg.admin().key(id).unwrap().lifts.len(), limits.len());
        assert_eq!(kg.admin().org(owner).unwrap().lifts.len(), limits.len());
        at_once(names.iter().map(|name| {
            let kg = &kg;
            move || drop(kg.admin().end_lift(id, name).unwrap())
        }));
        assert_eq!(kg.admin().key(id).unwrap().lifts, []);
        assert_eq!(kg.admin().org(owner).unwrap().lifts, []);
    }
}

#[test]
fn fields_changed_at_once_are_all_changed() {
    let home = Home::new();
    let kg = home.open();
    let id = key(&kg).key.id;
    let until = Timestamp::MAX;
    at_once((0..4).map(|field| {
        let kg = &kg;
        move || {
            let mut change = UpdateKey::new(id);
            match field {
                0 => change.label = Some("new".into()),
                1 => change.scopes = Some(vec!["read".into()]),
                2 => change.rate_limit_per_minute = Some(7),
                _ => change.expires_at = Some(Some(until)),
            }
            kg.admin().update_key(change).unwrap();
        }
    }));
    let key = kg.admin().key(id).unwrap();
    assert_eq!((key.label.as_str(), key.scopes.len()), ("new", 1));
    assert_eq!(key.rate_limit_per_minute.get(), 7);
    assert_eq!(key.expires_at, Some(until));
}

#[test]
fn what_cannot_be_stored_is_not_put_in_force() {
    let home = Home::new();
    let policy = home.dir().join("policy.toml");
    fs::write(&policy, "").unwrap();
    let kg = home.open_with(home.config().policy_file(&policy));
    let key = key(&kg);
    admit(&kg, &key);
    // Nothing can be stored in a file that is no longer there.
    fs::rename(home.file(), home.dir().join("away")).unwrap();

    fs::write(&policy, "deny = [\"192.0.2.7\"]\n").unwrap();
    kg.admin().reload().unwrap_err();
    admit(&kg, &key);
    kg.admin()
        .block(IP, "/", HOUR.parse().unwrap(), LockScope::Global)
        .unwrap_err();
    admit(&kg, &key);
    kg.admin().revoke_key(key.key.id).unwrap_err();
    admit(&kg, &key);
    kg.admin().suspend_org(key.key.org_id).unwrap_err();
    admit(&kg, &key);
    assert!(!kg.readiness().is_ready());

    fs::rename(home.dir().join("away"), home.file()).unwrap();
    // Whoever waits for a flush does not wait for the next attempt too.
    kg.flush().unwrap();
    assert!(kg.readiness().is_ready());
    kg.admin().reload().unwrap();
    ask(&kg, &key).unwrap_err();
}
