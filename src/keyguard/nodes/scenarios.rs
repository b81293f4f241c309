//! Coincidences of a few milliseconds, which random worlds meet too rarely. Each scenario runs once for every
//! millisecond at which the coincidence may be.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use keyguard_test_support::simulated::Condition;

use super::admin;
use super::model::{Server, THRESHOLD};
use super::shared::{GOOD, Node, address};
use super::world::{World, refusal};
use crate::keyguard::KeyGuard;
use crate::model::Reason;
use crate::sys::simulation;

/// Longer than a change takes to reach another node, and less than the deadline of a look-up.
const HELD_BACK: Duration = Duration::from_millis(80);

/// Runs a scenario at each of these milliseconds. It returns whether the coincidence happened.
#[track_caller]
fn at_each(millis: impl IntoIterator<Item = u64>, scenario: impl Fn(&World, Duration) -> bool) {
    let happened = millis.into_iter().filter(|millis| {
        simulation::run(*millis, |network| {
            let world = World::new(*millis, network, false);
            let happened = scenario(&world, Duration::from_millis(*millis));
            world.shared.assert_right();
            happened
        })
    });
    assert!(happened.count() > 0, "it never happened");
}

impl World {
    fn nodes(&self) -> (Rc<Node>, Rc<Node>) {
        let nodes = self.shared.nodes.borrow();
        (Rc::clone(&nodes[0]), Rc::clone(&nodes[1]))
    }

    /// Lets changes reach all nodes.
    fn settle() {
        simulation::wait(Duration::from_secs(2));
    }

    /// Holds back what arrives at a node from PostgreSQL within a millisecond.
    fn hold_back(&self, node: &Node) {
        let set = |condition| self.shared.set(node.id, Server::Postgres, condition);
        set(Condition::Slow(HELD_BACK));
        simulation::wait(Duration::from_millis(1));
        set(Condition::Up);
    }

    /// Stores what a node has recorded.
    fn store(&self, node: &Node) -> Result<(), String> {
        simulation::block_on(admin::store(&self.shared, node))
    }

    fn first_key(&self) -> String {
        self.shared.model.borrow().keys[0].text.clone()
    }

    /// Checks whether an address is locked, in the store and by all nodes.
    #[track_caller]
    fn assert_locked(&self, index: usize, is_locked: bool) {
        let stored = self.shared.postgres.tables().lock_count();
        assert_eq!(stored, usize::from(is_locked), "stored locks");
        for node in self.shared.nodes.borrow().iter() {
            let refused = refusal(node, &self.first_key(), index) == Some(Reason::IpLocked);
            assert_eq!(refused, is_locked, "by {}", node.id);
        }
    }
}

/// Begins a call of a node that blocks. Returns whether it has ended.
fn begin(node: &Node, call: impl FnOnce(&KeyGuard) + Send + 'static) -> Rc<Cell<bool>> {
    let (has_ended, kg) = (Rc::new(Cell::new(false)), node.kg.clone());
    let ended = Rc::clone(&has_ended);
    simulation::spawn(async move {
        simulation::run_blocking(move || call(&kg)).await;
        ended.set(true);
    });
    has_ended
}

fn block(kg: &KeyGuard, index: usize) {
    let lasts = Duration::from_secs(86_400);
    kg.admin().block(address(index), None, lasts).unwrap();
}

fn unblock(kg: &KeyGuard, index: usize) {
    kg.admin().unblock(address(index), None).unwrap();
}

/// Regression: the batch was counted once, and its locks were stored again.
#[test]
fn a_lock_whose_commit_was_not_acknowledged_can_be_lifted_before_its_batch_is_sent_again() {
    at_each((0..40).step_by(2), |world, millis| {
        let (node, other) = world.nodes();
        for _ in 0..=THRESHOLD {
            refusal(&node, &world.shared.unknown, GOOD);
        }
        world.shared.postgres.lose_commits(true);
        world.store(&node).unwrap_err();
        world.shared.postgres.lose_commits(false);
        World::settle();
        world.assert_locked(GOOD, true);
        let is_lifted = begin(&other, |kg| unblock(kg, GOOD));
        simulation::wait(millis);
        let happened = !is_lifted.get();
        world.store(&node).unwrap();
        World::settle();
        world.assert_locked(GOOD, false);
        happened
    });
}

#[test]
fn a_lock_can_be_lifted_while_the_node_that_set_it_stores_usage() {
    at_each((0..40).step_by(2), |world, millis| {
        let (node, other) = world.nodes();
        block(&node.kg, 0);
        World::settle();
        let is_lifted = begin(&other, |kg| unblock(kg, 0));
        simulation::wait(millis);
        let happened = !is_lifted.get();
        world.store(&node).unwrap();
        World::settle();
        world.assert_locked(0, false);
        happened
    });
}

#[test]
fn a_lock_can_be_set_anew_while_the_node_that_lifted_it_stores_usage() {
    at_each((0..40).step_by(2), |world, millis| {
        let (node, other) = world.nodes();
        block(&node.kg, 0);
        World::settle();
        unblock(&node.kg, 0);
        World::settle();
        let is_set = begin(&other, |kg| block(kg, 0));
        simulation::wait(millis);
        let happened = !is_set.get();
        world.store(&node).unwrap();
        World::settle();
        world.assert_locked(0, true);
        happened
    });
}

#[test]
fn a_lock_is_in_force_though_an_earlier_lift_was_read_before_it() {
    at_each(10..50, |world, millis| {
        let (node, other) = world.nodes();
        block(&node.kg, 0);
        World::settle();
        let is_lifted = begin(&other, |kg| unblock(kg, 0));
        simulation::wait(millis);
        world.hold_back(&node);
        while !is_lifted.get() {
            simulation::wait(Duration::from_millis(1));
        }
        let happened = !node.kg.admin().list_blocks().is_empty();
        block(&node.kg, 0);
        World::settle();
        world.assert_locked(0, true);
        happened
    });
}

/// Another node revokes a key while the reply to a look-up is held back. A request then comes `while_read` is
/// still going on, or after it.
fn revoke_during_look_up(while_read: bool) {
    at_each(0..10, |world, millis| {
        let ((node, other), text) = (world.nodes(), world.first_key());
        let id = world.shared.model.borrow().keys[0].id;
        let has_read = Rc::new(Cell::new(false));
        let (reader, key, ended) = (Rc::clone(&node), text.clone(), Rc::clone(&has_read));
        simulation::spawn(async move {
            let headers = [("X-API-Key", key.as_str())];
            let request = crate::guard::Request::new(&headers, address(0), "/");
            let _ = reader.kg.decide_async(request).await;
            ended.set(true);
        });
        simulation::wait(millis);
        world.hold_back(&node);
        other.kg.admin().revoke_key(id).unwrap();
        simulation::wait(Duration::from_millis(15));
        let happened = !has_read.get();
        if !while_read {
            World::settle();
        }
        assert_eq!(refusal(&node, &text, 0), Some(Reason::RevokedKey));
        happened
    });
}

#[test]
fn a_key_that_was_read_before_a_revocation_is_not_cached_after_it() {
    revoke_during_look_up(false);
}

#[test]
fn a_request_does_not_join_a_look_up_that_began_before_a_revocation() {
    revoke_during_look_up(true);
}
