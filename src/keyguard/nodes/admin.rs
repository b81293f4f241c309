//! Administrators, and writers of usage: calls that block.

use std::rc::Rc;
use std::time::Duration;

use super::model::{Item, Key};
use super::shared::{GOOD, Node, ORGS, Shared, address};
use crate::admin::{AdminError, CreateKey, CreatedKey};
use crate::keyguard::KeyGuard;
use crate::sys::simulation;

/// Limits of keys: an amount, and the milliseconds and the text of its window.
const LIMITS: [(usize, u64, &str); 4] = [
    (3, 1_000, "3/s"),
    (10, 2_000, "10/2s"),
    (15, 5_000, "15/5s"),
    (40, 10_000, "40/10s"),
];

/// The most keys of a world.
const KEYS: usize = 12;

/// Stores the usage of a node until the world is over.
pub(super) async fn write(shared: Rc<Shared>, node: Rc<Node>) {
    while !shared.is_over.get() && !node.is_stopping.get() {
        shared.sleep(&shared.pace.round).await;
        if let Err(error) = store(&shared, &node).await {
            shared.step(|| format!("{} cannot store: {error}", node.id));
        }
    }
}

/// Stores what a node has recorded.
pub(super) async fn store(shared: &Shared, node: &Node) -> Result<(), String> {
    let _storing = node.storing.lock().await;
    let mut writer = node.writer.take().unwrap();
    let recorded = shared.model.borrow().recorded_by(node.id);
    let round = simulation::run_blocking(move || {
        let stored = writer();
        (writer, stored)
    });
    let (writer, stored) = round.await;
    node.writer.replace(Some(writer));
    if stored.is_ok() {
        shared.model.borrow_mut().store(node.id, recorded);
    }
    stored
}

/// Changes things, one after another.
pub(super) struct Administrator(pub(super) Rc<Shared>);

impl Administrator {
    pub(super) async fn run(self) {
        let shared = &self.0;
        while !shared.is_over.get() {
            shared.sleep(&shared.pace.change).await;
            let (node, keys) = (shared.node(), shared.model.borrow().keys.len());
            match shared.below(12) {
                0 if keys < KEYS => self.create_key(&node).await,
                0..3 => self.revoke(&node, shared.index(keys)).await,
                3..6 => self.suspend_or_resume(&node, shared.index(ORGS)).await,
                _ => self.block_or_unblock(&node, shared.index(GOOD)).await,
            }
        }
    }

    pub(super) async fn create_key(&self, node: &Node) {
        let shared = &self.0;
        let org = shared.index(ORGS);
        let (amount, millis, limit) = LIMITS[shared.index(LIMITS.len())];
        let request = CreateKey::new(format!("org {org}"), "key")
            .rate_limit_per_minute(1_000_000)
            .limits([limit]);
        let kg = node.kg.clone();
        let created = simulation::run_blocking(move || kg.admin().create_key(request)).await;
        let what = created.as_ref().map(|created| created.key.id);
        shared.step(|| format!("create key by {}: {what:?}", node.id));
        if let Ok(CreatedKey { key, raw_key, .. }) = created {
            let limit = (amount, Duration::from_millis(millis));
            let key = Key::new(key.id, raw_key.expose().to_owned(), org, limit);
            shared.model.borrow_mut().keys.push(key);
        }
    }

    /// Revokes a key while others remain, or again if the outcome was unknown.
    async fn revoke(&self, node: &Node, key: usize) {
        let (id, last, active) = {
            let keys = &self.0.model.borrow().keys;
            let active = keys
                .iter()
                .filter(|key| key.is_revoked.last() == Some(false));
            (keys[key].id, keys[key].is_revoked.last(), active.count())
        };
        if last == Some(true) || last == Some(false) && active <= 2 {
            return;
        }
        let item = Item::Key(key);
        let revoke = move |kg: &KeyGuard| kg.admin().revoke_key(id).map(drop);
        self.change(node, format!("revoke {id}"), item, true, revoke)
            .await;
    }

    async fn suspend_or_resume(&self, node: &Node, org: usize) {
        let id = self.0.orgs.borrow()[org];
        let is_active = self.0.model.borrow().orgs[org].last() == Some(false);
        // Mostly active.
        let value = is_active && self.0.one_in(3);
        let what = format!("suspend {id} {value}");
        let item = Item::Org(org);
        let change = move |kg: &KeyGuard| match value {
            true => kg.admin().suspend_org(id).map(drop),
            false => kg.admin().resume_org(id).map(drop),
        };
        self.change(node, what, item, value, change).await;
    }

    /// Often, a node undoes what another one has done, before that one stores its usage.
    async fn block_or_unblock(&self, node: &Node, index: usize) {
        let shared = &self.0;
        let is_free = shared.model.borrow().addresses[index].last() == Some(false);
        let value = is_free && shared.one_in(2);
        self.set_blocked(node, index, value).await;
        if shared.one_in(3) {
            shared.sleep(&(0..200)).await;
            self.set_blocked(&shared.node(), index, !value).await;
        }
    }

    async fn set_blocked(&self, node: &Node, index: usize, value: bool) {
        let _storing = node.storing.lock().await;
        let ip = address(index);
        let what = format!("block {ip} {value}");
        let item = Item::Address(index);
        let change = move |kg: &KeyGuard| match value {
            true => (kg.admin().block(ip, None, Duration::from_secs(86_400))).map(drop),
            false => kg.admin().unblock(ip, None).map(drop),
        };
        self.change(node, what, item, value, change).await;
    }

    /// Makes a change of something that is not being changed now.
    async fn change(
        &self,
        node: &Node,
        what: String,
        item: Item,
        value: bool,
        change: impl FnOnce(&KeyGuard) -> Result<(), AdminError> + Send + 'static,
    ) {
        let (shared, kg) = (&self.0, node.kg.clone());
        if shared.model.borrow_mut().history(item).is_changing() {
            return;
        }
        shared.step(|| format!("{what} by {}", node.id));
        (shared.model.borrow_mut().history(item)).begin(value, node.id, shared.now());
        let changed = simulation::run_blocking(move || change(&kg)).await;
        shared.step(|| format!("{what} by {}: {changed:?}", node.id));
        let mut model = shared.model.borrow_mut();
        let history = model.history(item);
        match changed {
            Ok(()) => history.end(shared.now()),
            Err(AdminError::Unavailable(_)) => history.fail(),
            Err(AdminError::LockNotFound { .. }) => history.cancel(),
            Err(error) => panic!("{error:?}"),
        }
    }
}
