//! Events for webhooks, and their deliveries.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::time::Timestamp;

/// The type of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventType {
    /// Sent on request.
    Test,
    /// 80 % of a limit are used.
    LimitWarning,
    /// All of a limit is used.
    LimitReached,
    /// An address is locked out.
    AddressLocked,
    /// A key expires within a week.
    KeyExpiring,
    /// The replaced text of a rotated key is in use.
    KeyRotatedInUse,
    /// The text of a key was found in public.
    KeyLeaked,
    /// Changes to the data file fail.
    DiskFault,
}

impl EventType {
    /// All types, as the guide lists them.
    #[cfg_attr(not(test), allow(dead_code))]
    pub(crate) const ALL: [Self; 8] = [
        Self::LimitWarning,
        Self::LimitReached,
        Self::AddressLocked,
        Self::KeyExpiring,
        Self::KeyRotatedInUse,
        Self::KeyLeaked,
        Self::DiskFault,
        Self::Test,
    ];

    /// The member `type` of the document.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::LimitWarning => "limit.warning",
            Self::LimitReached => "limit.reached",
            Self::AddressLocked => "address.locked",
            Self::KeyExpiring => "key.expiring",
            Self::KeyRotatedInUse => "key.rotated_in_use",
            Self::KeyLeaked => "key.leaked",
            Self::DiskFault => "disk.fault",
        }
    }
}

/// Something that administrators want to be told.
#[derive(Clone, Debug)]
pub(crate) struct WebhookEvent {
    /// Unique. Receivers recognize a repeated delivery by it.
    pub(crate) id: String,
    pub(crate) kind: EventType,
    pub(crate) at: Timestamp,
    /// The document that is sent: JSON of the members `type`, `timestamp` and `data`.
    pub(crate) body: String,
    pub(crate) mark: Mark,
}

/// What an event is about. A second event with the same text is not stored until that time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) text: String,
    pub(crate) until: Timestamp,
}

impl WebhookEvent {
    /// Creates an event. `data` must contain neither a secret nor the text of a key.
    pub(crate) fn new(kind: EventType, at: Timestamp, data: &Value, mark: Mark) -> Self {
        let mut random = [0; 16];
        // Without random numbers, what the event is about and its time are unique.
        let _ = getrandom::fill(&mut random);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&random).update(mark.text.as_bytes());
        hasher.update(&at.unix_millis().to_le_bytes());
        let id = hasher.finalize().to_hex();
        let body = json!({ "type": kind.as_str(), "timestamp": at, "data": data });
        Self {
            id: format!("msg_{}", &id[..32]),
            kind,
            at,
            body: body.to_string(),
            mark,
        }
    }
}

/// One event on its way to one webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Delivery {
    /// Sequence number, from 1.
    pub(crate) id: u64,
    /// The id of the event.
    pub(crate) event_id: String,
    /// The type of the event.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// Time of the event.
    pub(crate) at: Timestamp,
    pub(crate) url: String,
    pub(crate) state: DeliveryState,
    /// The number of attempts since the event, or since it was last requested.
    pub(crate) attempts: u32,
    /// Time of the next attempt while it is pending.
    pub(crate) next_attempt_at: Option<Timestamp>,
    pub(crate) last_attempt_at: Option<Timestamp>,
    /// The status of the last response, or why there is none.
    pub(crate) answer: Option<String>,
    /// The document that is sent, in JSON.
    pub(crate) body: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DeliveryState {
    /// It is attempted until it succeeds or the schedule ends.
    Pending,
    /// The receiver accepted it.
    Delivered,
    /// Every attempt failed, or the receiver refused it for good.
    Failed,
    /// The webhook is no longer configured, or wants no further events.
    Canceled,
}

impl DeliveryState {
    #[cfg(feature = "cli")]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }
}

/// The outcome of an attempt.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "serve"), allow(dead_code))]
pub(crate) struct DeliveryAttempt {
    /// [`Delivery::id`]
    pub(crate) id: u64,
    pub(crate) at: Timestamp,
    pub(crate) answer: String,
    pub(crate) outcome: AttemptOutcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "serve"), allow(dead_code))]
pub(crate) enum AttemptOutcome {
    Delivered,
    RetryAt(Timestamp),
    Failed,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn event() -> WebhookEvent {
        let mark = Mark {
            text: "disk".into(),
            until: Timestamp::MAX,
        };
        let at = Timestamp::from_unix_millis(1_700_000_000_000);
        WebhookEvent::new(EventType::DiskFault, at, &json!({"problem": "full"}), mark)
    }

    #[test]
    fn document_has_the_members_of_the_specification() {
        let body: Value = serde_json::from_str(&event().body).unwrap();
        let expected = json!({
            "type": "disk.fault",
            "timestamp": "2023-11-14T22:13:20Z",
            "data": { "problem": "full" },
        });
        assert_eq!(body, expected);
    }

    /// The signed text has `.` between its parts.
    #[test]
    fn ids_are_unique_and_have_no_separator() {
        let ids: BTreeSet<String> = (0..1_000).map(|_| event().id).collect();
        assert_eq!(ids.len(), 1_000);
        assert!(ids.iter().all(|id| !id.contains('.') && id.len() == 36));
    }

    #[test]
    fn the_guide_lists_all_types() {
        let page = include_str!("../manual/webhooks.md");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
        let listed = rows.filter_map(|row| row.split_once("` |"));
        let types = EventType::ALL.map(EventType::as_str);
        let listed: Vec<&str> = listed
            .map(|(name, _)| name)
            .filter(|name| types.contains(name) || name.contains('.'))
            .collect();
        assert_eq!(listed, types);
    }
}
