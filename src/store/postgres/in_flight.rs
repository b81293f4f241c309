//! Keys that are being looked for, each once for all who ask.

use std::cell::RefCell;
use std::collections::HashMap;

use tokio::sync::oneshot;

use super::problem::Problem;
use crate::model::HashedKey;
use crate::store::Resolved;

pub(super) type Found = Result<Option<Resolved>, Problem>;

/// A key, and what had been changed when the search for it began.
pub(super) type Search = (HashedKey, u64);

#[derive(Default)]
pub(super) struct InFlight(RefCell<HashMap<Search, Vec<oneshot::Sender<Found>>>>);

impl InFlight {
    /// What will be found, and whether nobody looks for it yet.
    pub(super) fn join(&self, search: Search) -> (oneshot::Receiver<Found>, bool) {
        let (sender, found) = oneshot::channel();
        let mut searches = self.0.borrow_mut();
        let waiting = searches.entry(search).or_default();
        waiting.push(sender);
        (found, waiting.len() == 1)
    }

    /// Tells all who wait for it.
    pub(super) fn end(&self, search: Search, found: &Found) {
        let waiting = self.0.borrow_mut().remove(&search);
        for waiting in waiting.into_iter().flatten() {
            let _ = waiting.send(found.clone());
        }
    }
}
