//! How deliveries to webhooks go: for metrics, the log and warnings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::url::WebhookUrl;
use crate::guard::{Topic, Warnings};
use crate::log::{Event, Log};
use crate::metrics::Family;
use crate::model::DeliveryAttempt;
use crate::store::OutboxCounts;

/// Failed attempts in a row after which there is a warning.
const WARNED_AFTER: u32 = 3;

/// The state of all webhooks.
#[derive(Default)]
pub(in crate::serve) struct WebhookStatus {
    /// By [`AttemptResult`].
    attempts: [AtomicU64; 3],
    webhooks: Mutex<BTreeMap<String, Webhook>>,
}

/// The result of an attempt to deliver an event.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum AttemptResult {
    Delivered,
    Retried,
    Failed,
}

const RESULTS: [&str; 3] = ["delivered", "retried", "failed"];

/// The state of one webhook.
#[derive(Default)]
struct Webhook {
    /// The scheme and the host.
    origin: String,
    failures_in_a_row: u32,
    problem: String,
}

impl WebhookStatus {
    pub(super) fn of(urls: &[WebhookUrl]) -> Self {
        let webhooks = urls.iter().map(|url| {
            let webhook = Webhook {
                origin: url.origin().to_string(),
                ..Webhook::default()
            };
            (url.as_str().to_owned(), webhook)
        });
        Self {
            webhooks: Mutex::new(webhooks.collect()),
            ..Self::default()
        }
    }

    /// Counts an attempt, and logs when a webhook begins or ceases to fail.
    pub(super) fn note(&self, log: &Log, url: &WebhookUrl, attempt: &DeliveryAttempt) {
        let result = AttemptResult::of(attempt);
        self.attempts[result as usize].fetch_add(1, Ordering::Relaxed);
        let mut webhooks = self.webhooks.lock();
        let Some(webhook) = webhooks.get_mut(url.as_str()) else {
            return;
        };
        let had_failed = webhook.failures_in_a_row > 0;
        webhook.failures_in_a_row = match result {
            AttemptResult::Delivered => 0,
            _ => webhook.failures_in_a_row.saturating_add(1),
        };
        webhook.problem.clone_from(&attempt.answer);
        let (webhook, problem) = (&webhook.origin, &attempt.answer);
        match (had_failed, result) {
            (true, AttemptResult::Delivered) => log.emit(&Event::WebhookRecovered { webhook }),
            (false, AttemptResult::Retried | AttemptResult::Failed) => {
                log.emit(&Event::WebhookFailed { webhook, problem });
            }
            _ => {}
        }
    }

    /// Warns of webhooks that keep failing.
    pub(super) fn warn(&self, warnings: &Arc<Warnings>) {
        let webhooks = self.webhooks.lock();
        let failing = webhooks
            .values()
            .filter(|webhook| webhook.failures_in_a_row >= WARNED_AFTER);
        let failing: Vec<String> = failing
            .map(|webhook| format!("{} ({})", webhook.origin, webhook.problem))
            .collect();
        let warning = (!failing.is_empty()).then(|| {
            format!(
                "events cannot be delivered to webhooks, which is tried again: {}; `keyguard webhooks` lists them",
                failing.join(", ")
            )
        });
        warnings.set(Topic::Webhooks, warning);
    }

    /// Forgets a webhook. Returns the URLs of the others.
    pub(super) fn retire(&self, url: &WebhookUrl) -> Vec<String> {
        let mut webhooks = self.webhooks.lock();
        webhooks.remove(url.as_str());
        webhooks.keys().cloned().collect()
    }

    #[cfg(test)]
    pub(super) fn counts(&self) -> [u64; 3] {
        self.attempts
            .each_ref()
            .map(|count| count.load(Ordering::Relaxed))
    }

    pub(in crate::serve) fn families(&self, outbox: OutboxCounts) -> [Family; 3] {
        let attempts = RESULTS.iter().zip(&self.attempts).map(|(result, count)| {
            let labels = vec![("result", (*result).to_owned())];
            (labels, count.load(Ordering::Relaxed))
        });
        [
            Family::counters(
                "keyguard_webhook_deliveries_total",
                "Attempts to deliver an event to a webhook, by result.",
                attempts,
            ),
            Family::gauge(
                "keyguard_webhook_outbox_deliveries",
                "Deliveries of events to webhooks that are pending.",
                outbox.pending,
            ),
            Family::counter(
                "keyguard_webhook_dropped_total",
                "Deliveries of events to webhooks that were dropped, because too many were pending.",
                outbox.dropped,
            ),
        ]
    }
}
