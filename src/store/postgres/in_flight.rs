//! Single flight: concurrent look-ups of a key share one query.

use std::cell::RefCell;
use std::collections::HashMap;

use tokio::sync::oneshot;

use super::server_error::ServerError;
use crate::model::HashedKey;
use crate::store::Resolved;

pub(super) type Found = Result<Option<Resolved>, ServerError>;

/// A key and the generation at the start of its look-up.
pub(super) type LookupId = (HashedKey, u64);

#[derive(Default)]
pub(super) struct InFlight(RefCell<HashMap<LookupId, Vec<oneshot::Sender<Found>>>>);

impl InFlight {
    /// Joins the look-up of a key, or starts one.
    pub(super) fn join(&self, id: LookupId) -> (oneshot::Receiver<Found>, bool) {
        let (sender, found) = oneshot::channel();
        let mut lookups = self.0.borrow_mut();
        let waiting = lookups.entry(id).or_default();
        waiting.push(sender);
        (found, waiting.len() == 1)
    }

    /// Completes the look-up for all waiters.
    pub(super) fn end(&self, id: LookupId, found: &Found) {
        let waiting = self.0.borrow_mut().remove(&id);
        for waiting in waiting.into_iter().flatten() {
            let _ = waiting.send(found.clone());
        }
    }
}
