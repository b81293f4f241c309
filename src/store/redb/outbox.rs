//! The outbox: events on their way to webhooks, and the log of their deliveries.

use std::ops::Bound;
use std::time::Duration;

use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, Table, WriteTransaction};

use super::rows::find_key;
use super::tables::{DELIVERIES, DUE_DELIVERIES, EVENT_MARKS, EXPIRIES, KEYS};
use crate::model::{
    AttemptOutcome, Delivery, DeliveryAttempt, DeliveryState, Key, KeyId, WebhookEvent,
};
use crate::store::codec::{decode_delivery, encode_delivery};
use crate::store::webhooks::{self, LONGEST_DELAY, MOST_DELIVERIES, MOST_MARKS};
use crate::store::{StoreError, WebhookChange};
use crate::time::Timestamp;

/// The most rows of an index that are read at a time.
const MOST_READ: usize = 10_000;

/// The tables of the outbox.
struct Outbox<'txn> {
    deliveries: Table<'txn, u64, &'static [u8]>,
    due: Table<'txn, (u64, u64), ()>,
}

impl<'txn> Outbox<'txn> {
    fn open(txn: &'txn WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            deliveries: txn.open_table(DELIVERIES)?,
            due: txn.open_table(DUE_DELIVERIES)?,
        })
    }

    fn find(&self, id: u64) -> Result<Option<Delivery>, StoreError> {
        let row = self.deliveries.get(id)?;
        row.map(|row| decode_delivery(id, row.value())).transpose()
    }

    /// Adds a delivery, or replaces `before`.
    fn put(&mut self, before: Option<&Delivery>, delivery: &Delivery) -> Result<(), StoreError> {
        if let Some(at) = before.and_then(|before| before.next_attempt_at) {
            self.due.remove((at.unix_millis(), delivery.id))?;
        }
        if let Some(at) = delivery.next_attempt_at {
            self.due.insert((at.unix_millis(), delivery.id), ())?;
        }
        let bytes = encode_delivery(delivery)?;
        self.deliveries.insert(delivery.id, bytes.as_slice())?;
        Ok(())
    }

    /// Deletes the oldest deliveries beyond the capacity. Returns the number of those that were pending.
    fn delete_oldest(&mut self) -> Result<u64, StoreError> {
        let mut dropped = 0;
        while self.deliveries.len()? > MOST_DELIVERIES {
            let oldest = match self.deliveries.pop_first()? {
                Some((id, bytes)) => decode_delivery(id.value(), bytes.value())?,
                None => break,
            };
            if let Some(at) = oldest.next_attempt_at {
                self.due.remove((at.unix_millis(), oldest.id))?;
                dropped += 1;
            }
        }
        Ok(dropped)
    }
}

/// Adds events for all webhooks, except those whose [mark](WebhookEvent::mark) is there. Returns the number of
/// deliveries that were dropped because there is no room.
pub(super) fn add<'e>(
    txn: &WriteTransaction,
    urls: &[String],
    events: impl IntoIterator<Item = &'e WebhookEvent>,
) -> Result<u64, StoreError> {
    let mut events = events.into_iter().peekable();
    if urls.is_empty() || events.peek().is_none() {
        return Ok(0);
    }
    let mut outbox = Outbox::open(txn)?;
    let mut marks = txn.open_table(EVENT_MARKS)?;
    let mut dropped = 0;
    for event in events {
        let mark = &event.mark;
        let known = marks.get(mark.text.as_str())?.map(|until| until.value());
        if known.is_some_and(|until| webhooks::is_repeated(event, until)) {
            continue;
        }
        if known.is_none() && marks.len()? >= MOST_MARKS {
            dropped += urls.len() as u64;
            continue;
        }
        marks.insert(mark.text.as_str(), mark.until.unix_millis())?;
        for url in urls {
            let last = outbox.deliveries.last()?.map_or(0, |(id, _)| id.value());
            outbox.put(None, &webhooks::new_delivery(last + 1, event, url))?;
        }
        dropped += outbox.delete_oldest()?;
    }
    Ok(dropped)
}

/// Applies a change. Returns the changed delivery, or `None` if there is none of that number. `sent_to` are the
/// webhooks that get events.
pub(super) fn change(
    txn: &WriteTransaction,
    sent_to: &[String],
    change: &WebhookChange,
) -> Result<Option<Delivery>, StoreError> {
    let mut outbox = Outbox::open(txn)?;
    match change {
        WebhookChange::Attempted(attempts) => {
            let mut last = None;
            for attempt in attempts {
                // It may have been dropped meanwhile.
                if let Some(before) = outbox.find(attempt.id)? {
                    let after = attempted(before.clone(), attempt);
                    outbox.put(Some(&before), &after)?;
                    last = Some(after);
                }
            }
            Ok(last)
        }
        WebhookChange::Redeliver { id, now } => {
            let Some(before) = outbox.find(*id)? else {
                return Ok(None);
            };
            if !sent_to.contains(&before.url) {
                return Err(StoreError::WebhookNotConfigured(*id));
            }
            let after = Delivery {
                state: DeliveryState::Pending,
                attempts: 0,
                next_attempt_at: Some(*now),
                ..before.clone()
            };
            outbox.put(Some(&before), &after)?;
            Ok(Some(after))
        }
        WebhookChange::Cancel { urls, answer } => {
            let mut due = Vec::new();
            for row in outbox.due.iter()? {
                due.push(row?.0.value().1);
            }
            for id in due {
                let Some(before) = outbox.find(id)? else {
                    continue;
                };
                if urls.contains(&before.url) {
                    let after = Delivery {
                        state: DeliveryState::Canceled,
                        next_attempt_at: None,
                        answer: Some(answer.clone()),
                        ..before.clone()
                    };
                    outbox.put(Some(&before), &after)?;
                }
            }
            Ok(None)
        }
    }
}

fn attempted(before: Delivery, attempt: &DeliveryAttempt) -> Delivery {
    let (state, next_attempt_at) = match attempt.outcome {
        AttemptOutcome::Delivered => (DeliveryState::Delivered, None),
        AttemptOutcome::RetryAt(at) => (DeliveryState::Pending, Some(at)),
        AttemptOutcome::Failed => (DeliveryState::Failed, None),
    };
    Delivery {
        state,
        next_attempt_at,
        attempts: before.attempts.saturating_add(1),
        last_attempt_at: Some(attempt.at),
        answer: Some(attempt.answer.clone()),
        ..before
    }
}

/// Returns at most `limit` deliveries to a webhook that are due, those that wait longest first.
pub(super) fn due(
    txn: &ReadTransaction,
    url: &str,
    now: Timestamp,
    limit: usize,
) -> Result<Vec<Delivery>, StoreError> {
    let index = txn.open_table(DUE_DELIVERIES)?;
    let deliveries = txn.open_table(DELIVERIES)?;
    let passed = index.range(..=(now.unix_millis(), u64::MAX))?;
    // No schedule leads there: a clock was wrong.
    let too_far = index.range((now.plus(LONGEST_DELAY).unix_millis(), 0)..)?;
    let mut due = Vec::new();
    for row in passed.chain(too_far).take(MOST_READ) {
        let id = row?.0.value().1;
        let delivery = find(&deliveries, id)?;
        due.extend(delivery.filter(|delivery| delivery.url == url));
        if due.len() == limit {
            break;
        }
    }
    Ok(due)
}

/// Returns at most `limit` deliveries with numbers below `before`, the latest first.
pub(super) fn list(
    txn: &ReadTransaction,
    before: Option<u64>,
    limit: usize,
) -> Result<Vec<Delivery>, StoreError> {
    let deliveries = txn.open_table(DELIVERIES)?;
    let rows = deliveries
        .range(..before.unwrap_or(u64::MAX))?
        .rev()
        .take(limit);
    let delivery = |row: Result<_, redb::StorageError>| {
        let (id, bytes): (redb::AccessGuard<'_, u64>, redb::AccessGuard<'_, &[u8]>) = row?;
        decode_delivery(id.value(), bytes.value())
    };
    rows.map(delivery).collect()
}

/// The webhooks of pending deliveries.
pub(super) fn pending_urls(txn: &ReadTransaction) -> Result<Vec<String>, StoreError> {
    let deliveries = txn.open_table(DELIVERIES)?;
    let mut urls = Vec::new();
    for row in txn.open_table(DUE_DELIVERIES)?.iter()? {
        let delivery = find(&deliveries, row?.0.value().1)?;
        urls.extend(delivery.map(|delivery| delivery.url));
    }
    urls.sort_unstable();
    urls.dedup();
    Ok(urls)
}

pub(super) fn pending(txn: &ReadTransaction) -> Result<u64, StoreError> {
    Ok(txn.open_table(DUE_DELIVERIES)?.len()?)
}

fn find(
    deliveries: &impl ReadableTable<u64, &'static [u8]>,
    id: u64,
) -> Result<Option<Delivery>, StoreError> {
    let row = deliveries.get(id)?;
    row.map(|row| decode_delivery(id, row.value())).transpose()
}

/// Returns at most `limit` keys that expire `within` a time and have no event about it, those that expire first
/// before. Of more than [`MOST_READ`] such keys, the last ones come later.
pub(super) fn expiring(
    txn: &ReadTransaction,
    now: Timestamp,
    within: Duration,
    limit: usize,
) -> Result<Vec<Key>, StoreError> {
    let marks = txn.open_table(EVENT_MARKS)?;
    let (index, keys) = (txn.open_table(EXPIRIES)?, txn.open_table(KEYS)?);
    let from = Bound::Excluded((now.unix_millis(), u64::MAX));
    let until = Bound::Included((now.plus(within).unix_millis(), u64::MAX));
    let mut expiring = Vec::new();
    for row in index.range::<(u64, u64)>((from, until))?.take(MOST_READ) {
        let (at, id) = row?.0.value();
        let mark = webhooks::expiry_mark(KeyId(id), Timestamp::from_unix_millis(at));
        if marks.get(mark.as_str())?.is_none() {
            expiring.extend(find_key(&keys, KeyId(id))?);
        }
        if expiring.len() == limit {
            break;
        }
    }
    Ok(expiring)
}

/// Returns at most `most` marks that have ended.
pub(super) fn ended_marks(
    txn: &ReadTransaction,
    now: Timestamp,
    most: usize,
) -> Result<Vec<String>, StoreError> {
    let mut ended = Vec::new();
    // Reads all of them: rows are in the order of texts, not of times.
    for row in txn.open_table(EVENT_MARKS)?.iter()? {
        let (text, until) = row?;
        if until.value() <= now.unix_millis() {
            ended.push(text.value().to_owned());
        }
        if ended.len() == most {
            break;
        }
    }
    Ok(ended)
}
