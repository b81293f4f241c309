//! The outbox of webhooks.

use ::redb::ReadableTableMetadata;
use serde_json::json;

use super::disk::Failure;
use super::faults::{refused, world};
use super::*;
use crate::lockout::{AuthFailure, Lock, LockChange};
use crate::model::{AttemptOutcome, DeliveryAttempt, DeliveryState, EventType, Mark};
use crate::net::IpKey;
use crate::store::webhooks::{LONGEST_DELAY, MOST_DELIVERIES};

const URL: &str = "https://example.com/events";
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// A store that sends events to one webhook.
fn sending(file: &File) -> RedbStore {
    let store = file.open();
    store.send_events_to(vec![URL.to_owned()]);
    store
}

/// An event about `text` at a time, which is not repeated for a minute.
pub(super) fn event_at(text: &str, at: Timestamp) -> WebhookEvent {
    let mark = Mark {
        text: text.to_owned(),
        until: at.plus(MINUTE),
    };
    WebhookEvent::new(EventType::Test, at, &json!({ "about": text }), mark)
}

fn listed(store: &RedbStore) -> Vec<Delivery> {
    store.deliveries(None, usize::MAX).unwrap()
}

fn due(store: &RedbStore, now: Timestamp) -> Vec<u64> {
    let due = store.due_deliveries(URL, now, 99).unwrap();
    due.iter().map(|delivery| delivery.id).collect()
}

fn attempted(store: &RedbStore, id: u64, outcome: AttemptOutcome) -> Delivery {
    let attempt = DeliveryAttempt {
        id,
        at: NOW,
        answer: "503 Service Unavailable".into(),
        outcome,
    };
    let change = WebhookChange::Attempted(vec![attempt]);
    store.change_deliveries(&change).unwrap().unwrap()
}

#[test]
fn delivery_is_pending_until_it_succeeds_or_fails_for_good() {
    let file = File::new();
    let store = sending(&file);
    store
        .add_events(&[event_at("a", NOW), event_at("b", NOW)])
        .unwrap();
    let first = listed(&store).pop().unwrap();
    assert_eq!(
        (first.id, first.attempts, first.state),
        (1, 0, DeliveryState::Pending)
    );
    assert_eq!(due(&store, NOW), [1, 2]);
    let other = store.due_deliveries("https://example.com", NOW, 9);
    assert_eq!(other.unwrap(), []);

    let retried = attempted(&store, 1, AttemptOutcome::RetryAt(NOW.plus(SECOND)));
    assert_eq!(retried.answer.as_deref(), Some("503 Service Unavailable"));
    assert_eq!(
        (retried.event_id, retried.attempts),
        (first.event_id.clone(), 1)
    );
    assert_eq!(due(&store, NOW), [2]);
    assert_eq!(due(&store, NOW.plus(SECOND)), [2, 1]);
    let delivered = attempted(&store, 1, AttemptOutcome::Delivered);
    assert_eq!(
        (delivered.attempts, delivered.state),
        (2, DeliveryState::Delivered)
    );
    attempted(&store, 2, AttemptOutcome::Failed);
    assert_eq!(due(&store, NOW.plus(DAY)), [0; 0]);
    assert_eq!(store.outbox_counts().unwrap().pending, 0);

    let change = WebhookChange::Redeliver { id: 1, now: NOW };
    let again = store.change_deliveries(&change).unwrap().unwrap();
    assert_eq!((again.event_id, again.attempts), (first.event_id, 0));
    assert_eq!(due(&store, NOW), [1]);
    let absent = WebhookChange::Redeliver { id: 9, now: NOW };
    assert_eq!(store.change_deliveries(&absent).unwrap(), None);
}

#[test]
fn delivery_that_nobody_attempts_is_not_pending_again() {
    let file = File::new();
    let store = sending(&file);
    store.add_events(&[event_at("a", NOW)]).unwrap();
    attempted(&store, 1, AttemptOutcome::Failed);
    let change = WebhookChange::Redeliver { id: 1, now: NOW };
    for others in [vec![], vec!["https://example.com/others".to_owned()]] {
        store.send_events_to(others);
        let refused = store.change_deliveries(&change);
        assert!(
            matches!(refused, Err(StoreError::WebhookNotConfigured(1))),
            "{refused:?}"
        );
        assert_eq!(store.outbox_counts().unwrap().pending, 0);
    }
}

#[test]
fn outbox_survives_a_kill() {
    let file = File::new();
    let store = sending(&file);
    store.add_events(&[event_at("a", NOW)]).unwrap();
    attempted(&store, 1, AttemptOutcome::RetryAt(NOW.plus(SECOND)));
    let killed = file.killed();
    let reopened = sending(&killed);
    assert_eq!(listed(&reopened), listed(&store));
    assert_eq!(due(&reopened, NOW.plus(SECOND)), [1]);
    reopened
        .add_events(&[event_at("a", NOW.plus(SECOND))])
        .unwrap();
    assert_eq!(listed(&reopened).len(), 1, "told before the kill");
}

#[test]
fn event_is_not_repeated_until_its_mark_ends() {
    let file = File::new();
    let store = sending(&file);
    for (seconds, count) in [(0, 1), (0, 1), (59, 1), (60, 2), (61, 2)] {
        let at = NOW.plus(seconds * SECOND);
        store.add_events(&[event_at("a", at)]).unwrap();
        assert_eq!(listed(&store).len(), count, "{seconds}");
    }
    // A mark that a wrong clock has set silences nothing.
    store
        .add_events(&[event_at("b", NOW.plus(365 * DAY))])
        .unwrap();
    store.add_events(&[event_at("b", NOW)]).unwrap();
    assert_eq!(listed(&store).len(), 4);
    // Ended marks are deleted.
    let marks = || {
        store
            .read(|txn| Ok(txn.open_table(EVENT_MARKS)?.len()?))
            .unwrap()
    };
    assert_eq!(marks(), 2);
    store.prune(Timestamp::default(), NOW.plus(DAY)).unwrap();
    assert_eq!(marks(), 0);
}

#[test]
fn without_webhooks_nothing_is_stored() {
    let file = File::new();
    let store = file.open();
    store.add_events(&[event_at("a", NOW)]).unwrap();
    let lock = AuthFailure::BadKey.lock(address(1), NOW);
    store.apply_locks(&[LockChange::put(lock)]);
    assert_eq!(listed(&store), []);
    store.send_events_to(vec![URL.to_owned()]);
    store.add_events(&[event_at("a", NOW)]).unwrap();
    assert_eq!(listed(&store).len(), 1, "the first one set no mark");
}

#[test]
fn oldest_deliveries_make_room_and_pending_ones_are_counted() {
    let file = File::new();
    let store = sending(&file);
    let events = |range: std::ops::Range<u64>| {
        let events = range.map(|n| event_at(&n.to_string(), NOW));
        store.add_events(&events.collect::<Vec<_>>()).unwrap();
    };
    events(0..MOST_DELIVERIES);
    attempted(&store, 1, AttemptOutcome::Delivered);
    assert_eq!(store.outbox_counts().unwrap().dropped, 0);
    events(MOST_DELIVERIES..MOST_DELIVERIES + 3);
    let counts = store.outbox_counts().unwrap();
    assert_eq!((counts.pending, counts.dropped), (MOST_DELIVERIES, 2));
    assert_eq!(listed(&store).pop().unwrap().id, 4);
    assert_eq!(due(&store, NOW)[0], 4);
    let warning = store.warnings().pop().unwrap();
    assert!(warning.contains("too many were pending: 2;"), "{warning}");
}

#[test]
fn attempt_that_a_wrong_clock_has_put_off_is_due() {
    let file = File::new();
    let store = sending(&file);
    store.add_events(&[event_at("a", NOW)]).unwrap();
    attempted(&store, 1, AttemptOutcome::RetryAt(NOW.plus(DAY)));
    assert_eq!(due(&store, NOW), [0; 0]);
    let back = NOW.minus(DAY);
    assert!(NOW.plus(DAY).since(back) > LONGEST_DELAY);
    assert_eq!(due(&store, back), [1]);
}

fn address(n: u8) -> IpKey {
    IpKey::of(std::net::IpAddr::from([192, 0, 2, n]).into()).unwrap()
}

#[test]
fn locks_and_their_events_are_stored_together() {
    let (_file, disk, clock, store) = world();
    store.send_events_to(vec![URL.to_owned()]);
    let lock = |n| AuthFailure::BadKey.lock(address(n), NOW);
    let batch = |n| UsageBatch {
        locks: vec![LockChange::put(lock(n))],
        now: NOW,
        ..UsageBatch::default()
    };
    disk.fail(0, Failure::ReadOnly);
    refused(store.record(&batch(1)));
    disk.heal();
    clock.advance(Duration::from_secs(5));
    store.recover(true);
    assert_eq!((store.locks().unwrap(), listed(&store)), (vec![], vec![]));

    for _ in 0..2 {
        store.record(&batch(1)).unwrap();
    }
    let ended = Lock {
        until: NOW,
        ..lock(2)
    };
    let ended = UsageBatch {
        locks: vec![LockChange::put(ended)],
        ..batch(2)
    };
    store.record(&ended).unwrap();
    let [delivery] = &listed(&store)[..] else {
        panic!("{:?}", listed(&store));
    };
    assert_eq!(delivery.kind, "address.locked");
    let body: serde_json::Value = serde_json::from_str(&delivery.body).unwrap();
    let expected = json!({
        "ip": "192.0.2.1",
        "scope": "all",
        "cause": "bad_keys",
        "since": NOW,
        "until": NOW.plus(DAY),
    });
    assert_eq!(body["data"], expected);
}

#[test]
fn event_of_a_refused_change_is_not_stored() {
    let file = File::new();
    let store = sending(&file);
    let audit = audit_context().announcing(event_at("a", NOW));
    store.create_org("acme", &audit).unwrap();
    let other = audit_context().announcing(event_at("b", NOW));
    store.create_org("acme", &other).unwrap_err();
    let listed = listed(&store);
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].event_id, audit.webhook_events[0].id);
}

#[test]
fn deliveries_to_other_webhooks_are_canceled() {
    let file = File::new();
    let store = file.open();
    let old = "https://example.com/old";
    store.send_events_to(vec![URL.to_owned(), old.to_owned()]);
    store.add_events(&[event_at("a", NOW)]).unwrap();
    let both = listed(&store);
    assert_eq!(both[0].event_id, both[1].event_id);
    assert_eq!(store.pending_webhooks().unwrap(), [URL, old]);
    let change = WebhookChange::Cancel {
        urls: vec![old.to_owned()],
        answer: "gone".into(),
    };
    store.change_deliveries(&change).unwrap();
    assert_eq!(store.pending_webhooks().unwrap(), [URL]);
    let canceled = &listed(&store)[0];
    assert_eq!(canceled.state, DeliveryState::Canceled);
    assert_eq!(canceled.answer.as_deref(), Some("gone"));
}

#[test]
fn keys_that_expire_soon_are_found_until_there_is_an_event() {
    let file = File::new();
    let store = sending(&file);
    let org = store.add_org("acme");
    for (n, days) in [(1, 8), (2, 7), (3, 1), (4, 2)] {
        let (key, credential) = new_key(org.id, n);
        let key = NewKey {
            expires_at: Some(NOW.plus(days * DAY)),
            ..key
        };
        store.create_key(key, credential, &audit_context()).unwrap();
    }
    store.revoke(KeyId(4));
    let found = |now| {
        let keys = store.expiring_keys(now, 7 * DAY, 9).unwrap();
        keys.iter().map(|key| key.id.0).collect::<Vec<_>>()
    };
    assert_eq!(found(NOW), [3, 2]);
    assert_eq!(found(NOW.plus(DAY)), [2, 1], "expired keys are not told");
    let mark = Mark {
        text: webhooks::expiry_mark(KeyId(3), NOW.plus(DAY)),
        until: NOW.plus(DAY),
    };
    let event = WebhookEvent::new(EventType::KeyExpiring, NOW, &json!({}), mark);
    store.add_events(&[event]).unwrap();
    assert_eq!(found(NOW), [2]);
}
