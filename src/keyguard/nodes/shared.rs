//! What all tasks of a world share.

use std::cell::{Cell, RefCell};
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use keyguard_test_support::Random;
use keyguard_test_support::simulated::{Condition, Network, Postgres, Redis};
use tokio::sync::Mutex;
use tokio::task::AbortHandle;

use super::model::{Model, NodeId, RECOVERY, Server, Time};
use super::pace::Pace;
use crate::keyguard::KeyGuard;
use crate::limiter::Fallback;
use crate::model::{KeyPrefix, OrgId, PlainKey, Secret};
use crate::sys::Instant;
use crate::sys::simulation::{self, WriterRound};

pub(super) const ORGS: usize = 2;

/// Addresses that present keys, and all addresses. The others present unknown keys.
pub(super) const GOOD: usize = 4;
pub(super) const ADDRESSES: usize = 6;

pub(super) struct Shared {
    start: Instant,
    random: RefCell<Random>,
    pub(super) pace: &'static Pace,
    pub(super) network: Rc<Network>,
    pub(super) postgres: Rc<Postgres>,
    pub(super) redis: Rc<Redis>,
    pub(super) model: RefCell<Model>,
    pub(super) orgs: RefCell<Vec<OrgId>>,
    /// A well-formed key that is not stored.
    pub(super) unknown: String,
    /// The nodes that run.
    pub(super) nodes: RefCell<Vec<Rc<Node>>>,
    steps: Cell<u64>,
    /// Whether clients and administrators end.
    pub(super) is_over: Cell<bool>,
    /// A hash of all events.
    events: RefCell<DefaultHasher>,
    is_traced: bool,
    failures: RefCell<Vec<String>>,
}

pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) kg: KeyGuard,
    /// The writer, while it does nothing.
    pub(super) writer: RefCell<Option<WriterRound>>,
    /// Held by what changes locks, because the guard would block its thread.
    pub(super) storing: Mutex<()>,
    /// Whether its tasks end.
    pub(super) is_stopping: Cell<bool>,
    /// Killed with the node.
    pub(super) tasks: RefCell<Vec<AbortHandle>>,
}

impl Shared {
    pub(super) fn new(
        seed: u64,
        mut random: Random,
        network: Rc<Network>,
        secret: &str,
        fallback: Fallback,
        is_traced: bool,
    ) -> Self {
        let unknown = PlainKey::generate(&KeyPrefix::default()).unwrap();
        let random = Random(random.next_u64());
        let secret = Secret::from(secret).fingerprint();
        let secret = blake3::Hash::from_bytes(secret.0).to_hex().to_string();
        Self {
            start: Instant::now(),
            random: RefCell::new(random),
            pace: Pace::of(seed),
            postgres: Postgres::serve(&network, secret),
            redis: Redis::serve(&network),
            network,
            model: RefCell::new(Model::new(fallback, ORGS, ADDRESSES)),
            orgs: RefCell::default(),
            unknown: unknown.expose().to_owned(),
            nodes: RefCell::default(),
            steps: Cell::new(0),
            is_over: Cell::new(false),
            events: RefCell::default(),
            is_traced,
            failures: RefCell::default(),
        }
    }

    /// Time since the start of the world.
    pub(super) fn now(&self) -> Time {
        self.start.elapsed()
    }

    pub(super) fn below(&self, end: u64) -> u64 {
        self.random.borrow_mut().below(end)
    }

    pub(super) fn one_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Lets some milliseconds of a range pass.
    pub(super) async fn sleep(&self, millis: &Range<u64>) {
        let millis = millis.start + self.below(millis.end - millis.start);
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    pub(super) fn index(&self, len: usize) -> usize {
        self.random.borrow_mut().index(len)
    }

    /// One of the nodes that run.
    pub(super) fn node(&self) -> Rc<Node> {
        let nodes = self.nodes.borrow();
        Rc::clone(&nodes[self.index(nodes.len())])
    }

    /// Notes that something happens.
    pub(super) fn step(&self, event: impl FnOnce() -> String) {
        let event = format!("{:?} {}", self.now(), event());
        event.hash(&mut *self.events.borrow_mut());
        self.steps.set(self.steps.get() + 1);
        if self.is_traced {
            eprintln!("{event}");
        }
    }

    pub(super) fn steps(&self) -> u64 {
        self.steps.get()
    }

    /// A hash of all that happened.
    pub(super) fn events(&self) -> u64 {
        self.events.borrow().finish()
    }

    pub(super) fn expect(&self, right: Result<(), String>) {
        self.failures.borrow_mut().extend(right.err());
    }

    #[track_caller]
    pub(super) fn assert_right(&self) {
        let failures = self.failures.borrow();
        assert!(failures.is_empty(), "{}", failures.join("\n"));
        assert!(!simulation::has_panicked(), "a task panicked");
    }

    /// Changes the way from a node to a server.
    pub(super) fn set(&self, node: NodeId, server: Server, condition: Condition) {
        self.network.set(&host(node, server), condition);
        let usual_from = (condition == Condition::Up).then(|| self.now() + RECOVERY);
        (self.model.borrow_mut()).set_contact(node, server, usual_from);
    }

    /// Ends all faults.
    pub(super) fn heal(&self) {
        self.postgres.lose_commits(false);
        for node in self.nodes.borrow().iter() {
            for server in [Server::Postgres, Server::Redis] {
                let is_in_contact = self.model.borrow().is_in_contact(node.id, server);
                if !is_in_contact {
                    self.set(node.id, server, Condition::Up);
                }
            }
        }
    }
}

pub(super) fn host(node: NodeId, server: Server) -> String {
    match server {
        Server::Postgres => format!("n{node}.postgres"),
        Server::Redis => format!("n{node}.redis"),
    }
}

pub(super) fn address(index: usize) -> IpAddr {
    let last = 1 + index as u8;
    match index < GOOD {
        true => Ipv4Addr::new(192, 0, 2, last).into(),
        false => Ipv4Addr::new(203, 0, 113, last).into(),
    }
}
