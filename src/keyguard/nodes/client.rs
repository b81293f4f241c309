//! Clients.

use std::rc::Rc;

use super::model::{Presented, Sent};
use super::shared::{ADDRESSES, GOOD, Node, Shared, address};
use crate::guard::{Grant, Request};
use crate::model::KeyId;

/// Sends requests to a node, one after another.
pub(super) struct Client {
    pub(super) shared: Rc<Shared>,
    pub(super) node: Rc<Node>,
}

impl Client {
    pub(super) async fn run(self) {
        let shared = &self.shared;
        while !shared.is_over.get() && !self.node.is_stopping.get() {
            match shared.one_in(30) {
                true => shared.sleep(&(0..5_000)).await,
                false => shared.sleep(&shared.pace.request).await,
            }
            self.request().await;
        }
    }

    async fn request(&self) {
        let shared = &self.shared;
        let keys = shared.model.borrow().keys.len();
        let key = (!shared.one_in(60)).then(|| shared.index(keys));
        let from = match key {
            Some(_) => shared.index(GOOD),
            None => GOOD + shared.index(ADDRESSES - GOOD),
        };
        let sent = (shared.model.borrow_mut()).send(self.node.id, from, key, shared.now());
        let (text, id) = self.presented(sent);
        let headers = [("X-API-Key", text.as_str())];
        let request = Request::new(&headers, address(from), "/");
        let outcome = self.node.kg.decide_async(request).await;
        self.note_fallbacks();
        let reason = match &outcome {
            Ok(_) => Ok(()),
            Err(denial) => Err(denial.reason()),
        };
        shared.step(|| format!("{sent:?}: {reason:?}"));
        let right = (shared.model.borrow_mut()).judge(sent, reason, shared.now());
        shared.expect(right);
        if let Ok(grant) = outcome {
            self.serve(sent, id, grant).await;
        }
    }

    async fn serve(&self, sent: Sent, id: Option<KeyId>, grant: Grant) {
        let shared = &self.shared;
        let found = grant.key().map(|key| key.id);
        let is_right = (found == id).then_some(());
        shared.expect(is_right.ok_or_else(|| format!("{sent:?}: granted to {found:?}")));
        shared.sleep(&(0..100)).await;
        grant.finish(200);
        shared.model.borrow_mut().record(sent);
    }

    /// What a request presents, and its key.
    fn presented(&self, sent: Sent) -> (String, Option<KeyId>) {
        match sent.presented {
            Presented::Unknown => (self.shared.unknown.clone(), None),
            Presented::Key(key, _) => {
                let key = &self.shared.model.borrow().keys[key];
                (key.text.clone(), Some(key.id))
            }
        }
    }

    fn note_fallbacks(&self) {
        let redis = self.node.kg.backends().into_iter();
        let fallbacks = redis.map(|backend| backend.fallbacks).sum();
        let (shared, now) = (&self.shared, self.shared.now());
        (shared.model.borrow_mut()).note_fallbacks(self.node.id, fallbacks, now);
    }
}
