//! Rules of the outbox of webhooks.

use std::time::Duration;

use serde_json::{Value, json};

use crate::lockout::{Lock, LockChange};
use crate::model::{
    Delivery, DeliveryAttempt, DeliveryState, EventType, Key, KeyId, Mark, Org, WebhookEvent,
};
use crate::time::Timestamp;

/// The most deliveries that are kept, pending ones included. The oldest one makes room.
pub(super) const MOST_DELIVERIES: u64 = 10_000;

/// The most marks of events that are kept. Further events are dropped.
pub(super) const MOST_MARKS: u64 = 100_000;

/// The longest time from one attempt to the next. Later times come from wrong clocks.
pub(crate) const LONGEST_DELAY: Duration = Duration::from_secs(27 * 3_600);

/// A change to deliveries.
#[derive(Clone, Debug)]
pub(crate) enum WebhookChange {
    #[cfg_attr(not(feature = "serve"), allow(dead_code))]
    Attempted(Vec<DeliveryAttempt>),
    /// Attempts a delivery from the start of the schedule.
    Redeliver { id: u64, now: Timestamp },
    /// Ends the pending deliveries to these webhooks.
    #[cfg_attr(not(feature = "serve"), allow(dead_code))]
    Cancel { urls: Vec<String>, answer: String },
}

/// Whether an event about the same is stored, with a mark until this time in milliseconds. A mark that would end
/// later than that of the event comes from a wrong clock.
pub(super) fn is_repeated(event: &WebhookEvent, until: u64) -> bool {
    event.at.unix_millis() < until && until <= event.mark.until.unix_millis()
}

/// The first state of a delivery.
pub(super) fn new_delivery(id: u64, event: &WebhookEvent, url: &str) -> Delivery {
    Delivery {
        id,
        event_id: event.id.clone(),
        kind: event.kind.as_str().to_owned(),
        at: event.at,
        url: url.to_owned(),
        state: DeliveryState::Pending,
        attempts: 0,
        next_attempt_at: Some(event.at),
        last_attempt_at: None,
        answer: None,
        body: event.body.clone(),
    }
}

/// The text of the mark of an event that a key expires.
pub(crate) fn expiry_mark(id: KeyId, at: Timestamp) -> String {
    format!("key.expiring {id} {}", at.unix_millis())
}

/// The members of the data of an event that tell the key and its organization.
pub(crate) fn key_data(key: &Key, org: &Org) -> Value {
    json!({
        "key": { "id": key.id, "label": key.label, "prefix": key.shown_prefix },
        "organization": { "id": org.id, "name": org.name },
    })
}

/// Returns the events of the locks that are in force, unless `nobody` gets them.
pub(super) fn lock_events(
    changes: &[LockChange],
    now: Timestamp,
    nobody: bool,
) -> Vec<WebhookEvent> {
    if nobody {
        return Vec::new();
    }
    let locks = changes.iter().filter_map(|change| change.lock.as_ref());
    let locks = locks.filter(|lock| now < lock.until);
    locks.map(lock_event).collect()
}

/// The event of a new lock.
pub(crate) fn lock_event(lock: &Lock) -> WebhookEvent {
    let Lock {
        ip,
        scope,
        cause,
        since,
        until,
        ..
    } = lock;
    let data = json!({
        "ip": ip,
        "scope": scope,
        "cause": cause,
        "since": since,
        "until": until,
    });
    let mark = Mark {
        text: format!("address.locked {ip} {scope} {}", since.unix_millis()),
        until: *until,
    };
    WebhookEvent::new(EventType::AddressLocked, *since, &data, mark)
}
