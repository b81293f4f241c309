//! The audit log: actor, origin, time and details of changes, stored in the same transaction.

use std::net::IpAddr;
use std::time::Duration;

use crate::common::{Home, IP, NOON, SECRET};
use keyguard::{
    AuditEntry, ClientIp, CreateKey, IpKey, KeyGuard, LockDuration, Page, Policy, RotateKey,
    UpdateKey, UpdateOrg,
};
use serde_json::{Value, json};

fn log(kg: &KeyGuard) -> Vec<AuditEntry> {
    let mut log = kg.admin().list_audit(Page::first().limit(1_000)).unwrap();
    log.reverse();
    log
}

/// The latest entry.
fn latest(kg: &KeyGuard) -> (String, Option<u64>, Value) {
    let entry = kg
        .admin()
        .list_audit(Page::first().limit(1))
        .unwrap()
        .remove(0);
    (entry.action, entry.subject, entry.details)
}

fn hour() -> LockDuration {
    "1 hour".parse().unwrap()
}

#[test]
fn every_change_is_logged_with_its_target() {
    let home = Home::new();
    std::fs::write(home.dir().join("policy.toml"), "").unwrap();
    let policy = home.dir().join("policy.toml");
    let kg = home.open_with(home.config().policy_file(policy));
    let org = kg.admin().create_org("acme").unwrap();
    let entered = |action: &str, subject: Option<u64>, details: Value| {
        assert_eq!(latest(&kg), (action.to_owned(), subject, details));
    };
    entered("create_org", Some(1), json!({"org_name": "acme"}));
    let created = kg
        .admin()
        .create_key(CreateKey::new("acme", "shop").scopes(vec!["read"]))
        .unwrap();
    let (action, subject, details) = latest(&kg);
    assert_eq!((action.as_str(), subject), ("create_key", Some(1)));
    assert_eq!(details["label"], "shop");
    assert_eq!(details["scopes"], json!(["read"]));
    let id = created.key.id;

    kg.admin()
        .update_key(UpdateKey::new(id).label("web"))
        .unwrap();
    entered("update_key", Some(1), json!({"id": 1, "label": "web"}));
    kg.admin()
        .update_org(UpdateOrg::new(org.id).limits(["100/s"]))
        .unwrap();
    entered("update_org", Some(1), json!({"limits": ["100/s"]}));
    kg.admin().suspend_org(org.id).unwrap();
    entered("suspend_org", Some(1), json!({}));
    kg.admin().resume_org(org.id).unwrap();
    entered("resume_org", Some(1), json!({}));
    kg.admin().suspend_key(id).unwrap();
    entered("suspend_key", Some(1), json!({}));
    kg.admin().resume_key(id).unwrap();
    entered("resume_key", Some(1), json!({}));
    let until = NOON.plus(Duration::from_secs(3_600));
    kg.admin()
        .rotate_key(RotateKey::new(id).grace(Duration::from_secs(3_600)))
        .unwrap();
    entered("rotate_key", Some(1), json!({"old_until": until}));
    kg.admin().override_limit(id, "default", hour()).unwrap();
    let details = json!({"key_id": 1, "limit": "default", "until": until});
    entered("override_limit", Some(1), details);
    kg.admin().restore_limit(id, "default").unwrap();
    assert_eq!(latest(&kg).0, "restore_limit");
    kg.admin().reset_key(id, None).unwrap();
    entered("reset_key", Some(1), json!({"limit": null}));
    let ip_key = IpKey::of(ClientIp::from(IP)).unwrap();
    kg.admin().reset_ip(ip_key).unwrap();
    entered("reset_ip", None, json!({"ip": "192.0.2.7"}));
    kg.admin().block(IP, Some("/a"), hour()).unwrap();
    let details = json!({"ip": "192.0.2.7", "scope": {"path": "/a"}, "until": until});
    entered("block", None, details);
    kg.admin().unblock(ip_key, None).unwrap();
    entered("unblock", None, json!({"ip": "192.0.2.7", "path": null}));
    kg.admin().reload().unwrap();
    entered("reload", None, json!({}));
    kg.admin().set_policy(Policy::new()).unwrap();
    entered("set_policy", None, json!({}));
    kg.admin().revoke_key(id).unwrap();
    entered("revoke_key", Some(1), json!({}));
    let two = [CreateKey::new("acme", "a"), CreateKey::new("acme", "b")];
    kg.admin().create_keys(&two).unwrap();
    entered("create_keys", Some(2), json!({"keys": 2}));

    let ids: Vec<u64> = log(&kg).iter().map(|entry| entry.id).collect();
    assert_eq!(ids, (1..=19).collect::<Vec<_>>());
    let text = format!("{:?}", log(&kg));
    assert!(!text.contains(created.raw_key.expose()) && !text.contains(SECRET));
}

#[test]
fn actor_and_address_are_logged() {
    let home = Home::new();
    let kg = home.open();
    kg.admin().create_org("a").unwrap();
    let from = IpAddr::from([198, 51, 100, 4]);
    let alice = kg.admin().acting_as("alice@example.com", from).unwrap();
    home.clock.advance(Duration::from_secs(5));
    alice.create_org("b").unwrap();
    kg.admin().create_org("c").unwrap();
    let who: Vec<_> = log(&kg)
        .into_iter()
        .map(|entry| (entry.actor, entry.ip, entry.at))
        .collect();
    let later = NOON.plus(Duration::from_secs(5));
    let expected = [
        ("program".to_owned(), ClientIp::LOCAL, NOON),
        ("alice@example.com".to_owned(), from.into(), later),
        ("program".to_owned(), ClientIp::LOCAL, later),
    ];
    assert_eq!(who, expected);
    assert!(kg.admin().acting_as(" ", from).is_err());
    assert!(kg.admin().acting_as("a\nb", from).is_err());
}

#[test]
fn refused_changes_are_not_logged() {
    let home = Home::new();
    let kg = home.open();
    kg.admin().create_org("acme").unwrap();
    kg.admin().create_org("acme").unwrap_err();
    kg.admin()
        .create_key(CreateKey::new("nobody", "x"))
        .unwrap_err();
    kg.admin().revoke_key(keyguard::KeyId(9)).unwrap_err();
    assert_eq!(log(&kg).len(), 1);
}

#[test]
fn log_survives_a_restart_and_is_paged() {
    let home = Home::new();
    let kg = home.open();
    for name in ["a", "b", "c", "d", "e"] {
        kg.admin().create_org(name).unwrap();
    }
    drop(kg);
    let kg = home.open();
    let page = |before: Option<u64>, limit| -> Vec<u64> {
        let page = kg
            .admin()
            .list_audit(before.map_or(Page::first(), Page::after).limit(limit))
            .unwrap();
        page.iter().map(|entry| entry.id).collect()
    };
    assert_eq!(page(None, 2), [5, 4]);
    assert_eq!(page(Some(4), 2), [3, 2]);
    assert_eq!(page(Some(2), 2), [1]);
    assert_eq!(page(Some(1), 2), [0; 0]);
    assert_eq!(page(Some(0), 2), [0; 0]);
    kg.admin().create_org("f").unwrap();
    assert_eq!(page(None, 1), [6]);
}

#[test]
fn automatic_locks_are_not_logged() {
    let home = Home::new();
    let kg = home.open_with(home.config().lockout_threshold(1));
    for _ in 0..3 {
        crate::common::check_with(&kg, "nonsense").unwrap_err();
    }
    kg.flush().unwrap();
    assert_eq!(kg.admin().list_blocks().len(), 1);
    assert_eq!(log(&kg), []);
}
