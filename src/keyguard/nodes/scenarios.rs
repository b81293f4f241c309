//! Coincidences of a few milliseconds, which random worlds meet too rarely. Each scenario runs once for every
//! millisecond at which the coincidence may be.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use keyguard_test_support::simulated::Condition;

use super::admin::{self, Administrator};
use super::model::{Server, THRESHOLD};
use super::shared::{GOOD, Node, address, host};
use super::world::{World, refusal};
use crate::keyguard::KeyGuard;
use crate::model::Reason;
use crate::sys::simulation;

/// Longer than a change takes to reach another node, and less than the deadline of a look-up.
const HELD_BACK: Duration = Duration::from_millis(80);

/// Enough for a notification and two round trips.
const SOON: Duration = Duration::from_millis(15);

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

    /// Checks that a node has this number of locks from the end of a call on. Returns whether the call ended before
    /// what is held back arrived.
    #[track_caller]
    fn stays(node: &Node, has_ended: &Cell<bool>, locks: usize) -> bool {
        let mut happened = false;
        for passed in 0..150 {
            if has_ended.get() {
                happened |= Duration::from_millis(passed) < HELD_BACK;
                assert_eq!(node.kg.admin().list_blocks().len(), locks);
            }
            simulation::wait(Duration::from_millis(1));
        }
        happened
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
        let is_set = begin(&node, |kg| block(kg, 0));
        World::stays(&node, &is_set, 1);
        World::settle();
        world.assert_locked(0, true);
        happened
    });
}

/// Regression: no lock of another node was applied while a newer change of this node was there.
#[test]
fn a_lock_is_soon_in_force_on_a_node_that_creates_keys_all_the_time() {
    at_each(0..10, |world, _| {
        let (node, other) = world.nodes();
        let creators = [(); 4].map(|()| {
            let (shared, creator) = (Rc::clone(&world.shared), Rc::clone(&node));
            simulation::spawn(async move {
                loop {
                    Administrator(Rc::clone(&shared)).create_key(&creator).await;
                }
            })
        });
        let mut longest = Duration::ZERO;
        for change in [block, unblock].repeat(20) {
            let before = other.kg.admin().list_blocks().len();
            change(&other.kg, 0);
            let mut passed = Duration::ZERO;
            while node.kg.admin().list_blocks().len() == before {
                simulation::wait(Duration::from_millis(1));
                passed += Duration::from_millis(1);
            }
            longest = longest.max(passed);
        }
        creators.iter().for_each(|creator| creator.abort());
        assert!(longest < SOON, "{longest:?}");
        true
    });
}

/// A node reads all locks after its session was lost. It sets or lifts a lock while an older list is held back.
fn change_during_list(is_set: bool) {
    at_each(60..160, |world, millis| {
        let (node, _) = world.nodes();
        if !is_set {
            block(&node.kg, 0);
        }
        World::settle();
        world.shared.network.reset(&host(node.id, Server::Postgres));
        // Opens a connection for the change.
        refusal(&node, &world.shared.unknown, 1);
        simulation::wait(millis);
        world.hold_back(&node);
        let has_ended = begin(&node, move |kg| match is_set {
            true => block(kg, 0),
            // The lock may have gone from memory with the session, until the list is read again.
            false => drop(kg.admin().unblock(address(0), None)),
        });
        let happened = World::stays(&node, &has_ended, usize::from(is_set));
        World::settle();
        world.assert_locked(0, is_set);
        happened
    });
}

#[test]
fn a_lock_is_in_force_though_a_list_of_all_locks_without_it_was_read_before() {
    change_during_list(true);
}

#[test]
fn a_lock_is_lifted_though_a_list_of_all_locks_with_it_was_read_before() {
    change_during_list(false);
}

/// This node has not seen the longer lock yet when it sets its own.
#[test]
fn nodes_that_lock_an_address_at_once_agree_on_the_end() {
    at_each(10..50, |world, millis| {
        let (node, other) = world.nodes();
        World::settle();
        let has_ended = begin(&other, |kg| {
            let lasts = Duration::from_secs(2 * 86_400);
            kg.admin().block(address(0), None, lasts).unwrap();
        });
        simulation::wait(millis);
        world.hold_back(&node);
        while !has_ended.get() {
            simulation::wait(Duration::from_millis(1));
        }
        let happened = node.kg.admin().list_blocks().is_empty();
        block(&node.kg, 0);
        World::settle();
        let ends = [node, other].map(|node| node.kg.admin().list_blocks()[0].until);
        assert_eq!(ends[0], ends[1]);
        happened
    });
}

/// Another node revokes a key while the reply to a look-up is held back. A request then comes `while_read` is
/// still going on, or after it.
fn revoke_during_look_up(while_read: bool) {
    at_each(0..10, |world, millis| {
        let ((node, other), text) = (world.nodes(), world.first_key());
        let id = world.shared.model.borrow().keys[0].id;
        // Between two polls, which would be held back, too.
        simulation::wait(Duration::from_millis(1_500));
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
