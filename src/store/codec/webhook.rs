//! Deliveries of events to webhooks.

use serde::{Deserialize, Serialize};

use super::StoreError;
use super::record::{decode, encode};
use crate::model::{Delivery, DeliveryState};
use crate::time::Timestamp;

#[derive(Serialize, Deserialize)]
struct StoredDelivery<'a> {
    event_id: &'a str,
    kind: &'a str,
    at: u64,
    url: &'a str,
    state: u8,
    attempts: u32,
    next_attempt_at: Option<u64>,
    last_attempt_at: Option<u64>,
    answer: Option<&'a str>,
    body: &'a str,
}

const PENDING: u8 = 1;
const DELIVERED: u8 = 2;
const FAILED: u8 = 3;
const CANCELED: u8 = 4;

pub(crate) fn encode_delivery(delivery: &Delivery) -> Result<Vec<u8>, StoreError> {
    encode(&StoredDelivery {
        event_id: &delivery.event_id,
        kind: &delivery.kind,
        at: delivery.at.unix_millis(),
        url: &delivery.url,
        state: match delivery.state {
            DeliveryState::Pending => PENDING,
            DeliveryState::Delivered => DELIVERED,
            DeliveryState::Failed => FAILED,
            DeliveryState::Canceled => CANCELED,
        },
        attempts: delivery.attempts,
        next_attempt_at: delivery.next_attempt_at.map(Timestamp::unix_millis),
        last_attempt_at: delivery.last_attempt_at.map(Timestamp::unix_millis),
        answer: delivery.answer.as_deref(),
        body: &delivery.body,
    })
}

pub(crate) fn decode_delivery(id: u64, bytes: &[u8]) -> Result<Delivery, StoreError> {
    let stored: StoredDelivery<'_> = decode("a delivery to a webhook", bytes)?;
    Ok(Delivery {
        id,
        event_id: stored.event_id.to_owned(),
        kind: stored.kind.to_owned(),
        at: Timestamp::from_unix_millis(stored.at),
        url: stored.url.to_owned(),
        state: match stored.state {
            PENDING => DeliveryState::Pending,
            DELIVERED => DeliveryState::Delivered,
            FAILED => DeliveryState::Failed,
            CANCELED => DeliveryState::Canceled,
            _ => return Err(StoreError::damaged("a delivery has an unknown state")),
        },
        attempts: stored.attempts,
        next_attempt_at: stored.next_attempt_at.map(Timestamp::from_unix_millis),
        last_attempt_at: stored.last_attempt_at.map(Timestamp::from_unix_millis),
        answer: stored.answer.map(str::to_owned),
        body: stored.body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn deliveries_of_every_state_read_back() {
        for state in [
            DeliveryState::Pending,
            DeliveryState::Delivered,
            DeliveryState::Failed,
            DeliveryState::Canceled,
        ] {
            let delivery = Delivery {
                id: 7,
                event_id: "msg_1".into(),
                kind: "test".into(),
                at: Timestamp::from_unix_millis(1),
                url: "https://example.com/hook".into(),
                state,
                attempts: 3,
                next_attempt_at: Some(Timestamp::from_unix_millis(2)),
                last_attempt_at: None,
                answer: Some("503 Service Unavailable".into()),
                body: "{}".into(),
            };
            let bytes = encode_delivery(&delivery).unwrap();
            assert_eq!(decode_delivery(7, &bytes).unwrap(), delivery);
        }
    }

    proptest! {
        #[test]
        fn decoding_never_panics(body: Vec<u8>) {
            for bytes in [&body[..], &[&[1], &body[..]].concat()] {
                let _ = decode_delivery(1, bytes);
            }
        }
    }
}
