//! The outbox of webhooks, and the log of its deliveries.

use serde_json::json;

use super::{Admin, AdminError, Page};
use crate::model::{Delivery, EventType, Mark, WebhookEvent};
use crate::store::WebhookChange;

impl Admin {
    /// Returns a page of deliveries to webhooks, the latest first.
    pub(super) fn list_deliveries(&self, page: Page<u64>) -> Result<Vec<Delivery>, AdminError> {
        Ok(self.guard.store().deliveries(page.after, page.limit)?)
    }

    /// Attempts a delivery again, from the start of the schedule. Refused if this process does not send to its
    /// webhook.
    pub(super) fn redeliver(&self, id: u64) -> Result<Delivery, AdminError> {
        let now = self.guard.now();
        let change = WebhookChange::Redeliver { id, now };
        let changed = self.guard.store().change_deliveries(&change)?;
        changed.ok_or(AdminError::DeliveryNotFound(id))
    }

    /// Stores an event without meaning for all webhooks, and returns its deliveries.
    pub(super) fn send_test_event(&self) -> Result<Vec<Delivery>, AdminError> {
        let webhooks = self.guard.config().webhooks.len();
        if webhooks == 0 {
            return Err(AdminError::NoWebhooks);
        }
        let now = self.guard.now();
        // Ends at once: each test is sent.
        let mark = Mark {
            text: "test".to_owned(),
            until: now,
        };
        let data = json!({ "version": env!("CARGO_PKG_VERSION") });
        let event = WebhookEvent::new(EventType::Test, now, &data, mark);
        let store = self.guard.store();
        store.add_events(std::slice::from_ref(&event))?;
        // Others may have been added meanwhile.
        let mut added = store.deliveries(None, webhooks + 100)?;
        added.retain(|delivery| delivery.event_id == event.id);
        added.reverse();
        Ok(added)
    }
}
