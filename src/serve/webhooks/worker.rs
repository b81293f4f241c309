//! The task that sends events to one webhook.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::receiver::{Answer, Receiver};
use super::schedule;
use super::status::{AttemptResult, WebhookStatus};
use crate::keyguard::KeyGuard;
use crate::model::{AttemptOutcome, Delivery, DeliveryAttempt, WebhookEvent};
use crate::store::{Store, StoreError, WebhookChange};

/// The pause between two looks at the outbox.
const PAUSE: Duration = Duration::from_millis(200);

/// The most events that are sent to a webhook at a time.
const PARALLEL: usize = 4;

/// How long the end of the server waits for responses. Other events are sent again after the next start.
const FINISHED_WITHIN: Duration = Duration::from_secs(5);

pub(super) struct Worker {
    guard: KeyGuard,
    receiver: Arc<Receiver>,
    status: Arc<WebhookStatus>,
    /// Outcomes that could not be stored. Until they are, nothing is sent: it would be sent again and again.
    unsaved: Vec<DeliveryAttempt>,
    /// The number of the next urgent event.
    next_urgent: u64,
}

impl Worker {
    pub(super) fn new(guard: KeyGuard, receiver: Receiver, status: Arc<WebhookStatus>) -> Self {
        Self {
            guard,
            receiver: Arc::new(receiver),
            status,
            unsaved: Vec::new(),
            next_urgent: 0,
        }
    }

    /// Sends events until `end` changes, or the receiver wants no more.
    pub(super) async fn run(mut self, mut end: watch::Receiver<()>) {
        loop {
            self.send_urgent();
            let due = self.due().await;
            if due.is_empty() {
                tokio::select! {
                    () = sleep(PAUSE) => continue,
                    _ = end.changed() => return,
                }
            }
            let mut sending = self.send(due);
            let finished = tokio::select! {
                attempts = joined(&mut sending) => attempts,
                _ = end.changed() => {
                    let finished = timeout(FINISHED_WITHIN, joined(&mut sending)).await;
                    self.save(finished.unwrap_or_default()).await;
                    return;
                }
            };
            let is_gone = finished
                .iter()
                .any(|(_, status)| *status == Some(StatusCode::GONE));
            self.save(finished).await;
            if is_gone {
                self.retire().await;
                return;
            }
        }
    }

    /// Sends events that cannot be stored, once and without a log. They are stored when the fault is over.
    fn send_urgent(&mut self) {
        let urgent = self.guard.inner.urgent_events();
        for WebhookEvent { id, body, .. } in urgent.take_from(&mut self.next_urgent) {
            let receiver = Arc::clone(&self.receiver);
            let now = self.guard.inner.now();
            let nat64 = self.guard.inner.compiled().source.nat64_prefixes.clone();
            tokio::spawn(async move { receiver.send(&id, &body, now, nat64).await });
        }
    }

    /// Returns what is to be sent, after the outcomes of the last attempts are stored.
    async fn due(&mut self) -> Vec<Delivery> {
        self.save(Vec::new()).await;
        if !self.unsaved.is_empty() {
            return Vec::new();
        }
        let (now, receiver) = (self.guard.inner.now(), Arc::clone(&self.receiver));
        let due = self
            .with_store(move |store| store.due_deliveries(receiver.url.as_str(), now, PARALLEL));
        due.await.unwrap_or_default()
    }

    fn send(&self, due: Vec<Delivery>) -> Sending {
        let mut sending = JoinSet::new();
        for delivery in due {
            let (receiver, guard) = (Arc::clone(&self.receiver), self.guard.clone());
            let status = Arc::clone(&self.status);
            sending.spawn(async move {
                let now = guard.inner.now();
                let nat64 = guard.inner.compiled().source.nat64_prefixes.clone();
                let sent = Arc::clone(&receiver);
                let answer = sent
                    .send(&delivery.event_id, &delivery.body, now, nat64)
                    .await;
                let attempt = attempt(&delivery, &answer, &guard);
                status.note(guard.inner.log(), &receiver.url, &attempt);
                (attempt, answer.status)
            });
        }
        sending
    }

    /// Stores outcomes, or keeps them while that fails.
    async fn save(&mut self, attempts: Vec<Attempted>) {
        self.unsaved
            .extend(attempts.into_iter().map(|(attempt, _)| attempt));
        if self.unsaved.is_empty() {
            return;
        }
        let change = WebhookChange::Attempted(self.unsaved.clone());
        let saved = self.with_store(move |store| store.change_deliveries(&change));
        if saved.await.is_ok() {
            self.unsaved.clear();
        }
        self.status.warn(self.guard.inner.warnings());
    }

    /// Ends all deliveries to a receiver that wants no more. Later events are not stored for it.
    async fn retire(&self) {
        let url = &self.receiver.url;
        let left = self.status.retire(url);
        let warning = format!(
            "the webhook {} answered with status 410 (Gone) and gets no more events; remove its `--webhook`, or \
             start the server again to try it again",
            url.origin()
        );
        self.guard.inner.warnings().add(&warning);
        let change = WebhookChange::Cancel {
            urls: vec![url.as_str().to_owned()],
            answer: "the receiver wants no more events (410 Gone)".to_owned(),
        };
        // If that fails, they are canceled after the next start.
        let _ = self
            .with_store(move |store| {
                store.send_events_to(left);
                store.change_deliveries(&change)
            })
            .await;
    }

    /// Reads or changes the store on a thread that may block.
    async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let guard = self.guard.clone();
        let done = spawn_blocking(move || work(guard.inner.store())).await;
        done.unwrap_or_else(|panicked| Err(StoreError::Unavailable(panicked.into())))
    }
}

/// Outcomes, with the status of the response.
type Attempted = (DeliveryAttempt, Option<StatusCode>);

type Sending = JoinSet<Attempted>;

async fn joined(sending: &mut Sending) -> Vec<Attempted> {
    let mut attempts = Vec::new();
    while let Some(attempt) = sending.join_next().await {
        attempts.extend(attempt);
    }
    attempts
}

/// The outcome of an attempt that was answered now.
fn attempt(delivery: &Delivery, answer: &Answer, guard: &KeyGuard) -> DeliveryAttempt {
    let at = guard.inner.now();
    let is_gone = answer.status == Some(StatusCode::GONE);
    let retry_after = answer.retry_after.as_deref();
    let retry_after = retry_after.and_then(|value| schedule::retry_after(value, at));
    let attempts = delivery.attempts.saturating_add(1);
    let next = || schedule::next_attempt(attempts, at, retry_after, jitter());
    let outcome = match answer.status {
        Some(status) if status.is_success() => AttemptOutcome::Delivered,
        _ if is_gone => AttemptOutcome::Failed,
        _ => next().map_or(AttemptOutcome::Failed, AttemptOutcome::RetryAt),
    };
    DeliveryAttempt {
        id: delivery.id,
        at,
        answer: answer.text.clone(),
        outcome,
    }
}

impl AttemptResult {
    pub(super) fn of(attempt: &DeliveryAttempt) -> Self {
        match attempt.outcome {
            AttemptOutcome::Delivered => Self::Delivered,
            AttemptOutcome::RetryAt(_) => Self::Retried,
            AttemptOutcome::Failed => Self::Failed,
        }
    }
}

/// A random number from 0 to 1; 0 without random numbers.
fn jitter() -> f64 {
    let mut bytes = [0; 4];
    let _ = getrandom::fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}
