//! The nodes and their servers, from the start to the end.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use keyguard_test_support::Random;
use keyguard_test_support::simulated::{Condition, Network};
use tokio::sync::Mutex;
use tokio::task::AbortHandle;

use super::admin::{self, Administrator};
use super::client::Client;
use super::faults::Faults;
use super::model::{RECOVERY, STALENESS, Server, THRESHOLD};
use super::shared::{ADDRESSES, GOOD, Node, ORGS, Shared, address, host};
use crate::guard::{Config, Request};
use crate::keyguard::KeyGuard;
use crate::limiter::Fallback;
use crate::model::Reason;
use crate::sys::simulation;

const SECRET: &str = "a secret of several nodes";

const NODES: usize = 3;

/// Keys at the start.
const KEYS: usize = 4;

/// Requests of a node at the same time.
const CLIENTS: usize = 3;

/// Changes at the same time.
const ADMINISTRATORS: usize = 2;

pub(super) struct World {
    pub(super) shared: Rc<Shared>,
    fallback: Fallback,
}

impl World {
    pub(super) fn new(seed: u64, network: Rc<Network>, is_traced: bool) -> Self {
        let mut random = Random(!seed);
        let fallback = random.pick(&[Fallback::Local, Fallback::Deny, Fallback::Allow]);
        let shared = Shared::new(seed, random, network, SECRET, fallback, is_traced);
        let shared = Rc::new(shared);
        let world = Self { shared, fallback };
        for _ in 0..NODES {
            world.open();
        }
        for org in 0..ORGS {
            let org = world
                .shared
                .node()
                .kg
                .admin()
                .create_org(&format!("org {org}"));
            world.shared.orgs.borrow_mut().push(org.unwrap().id);
        }
        let administrator = Administrator(Rc::clone(&world.shared));
        for _ in 0..KEYS {
            simulation::block_on(administrator.create_key(&world.shared.node()));
        }
        world
    }

    /// Lets a number of things happen.
    pub(super) fn run(&self, steps: u64) {
        let shared = &self.shared;
        for node in shared.nodes.borrow().iter() {
            self.start(node);
        }
        let faults = simulation::spawn(Faults(Rc::clone(shared)).run());
        for _ in 0..ADMINISTRATORS {
            simulation::spawn(Administrator(Rc::clone(shared)).run());
        }
        while shared.steps() < steps {
            simulation::wait(Duration::from_millis(1 + shared.below(200)));
            if shared.one_in(200) {
                let index = shared.index(NODES);
                if shared.one_in(2) {
                    self.stop(index);
                }
                self.kill(index);
                self.start(&self.open());
            }
            shared.assert_right();
            self.check_totals();
        }
        faults.abort();
    }

    /// Ends all faults, and checks that all nodes agree without a restart, and one that is new. Returns a
    /// hash of all that happened.
    pub(super) fn finish(&self) -> u64 {
        let shared = &self.shared;
        shared.heal();
        simulation::wait(RECOVERY);
        shared.is_over.set(true);
        simulation::wait(RECOVERY);
        for _ in 0..2 {
            for node in shared.nodes.borrow().iter() {
                simulation::block_on(admin::store(shared, node)).unwrap();
            }
            simulation::wait(Duration::from_secs(1));
        }
        shared.assert_right();
        self.open();
        simulation::wait(Duration::from_secs(1));
        self.check_health();
        self.check_totals();
        self.check_agreement();
        shared.events()
    }

    // Nodes

    fn open(&self) -> Rc<Node> {
        let (shared, start) = (&self.shared, self.shared.now());
        let id = shared.model.borrow_mut().open();
        shared.step(|| format!("open {id}"));
        let config = Config::new(SECRET)
            .redis_url(format!("redis://{}", host(id, Server::Redis)))
            .limiter_fallback(self.fallback)
            // For some round trips of a new connection.
            .backend_deadline(Duration::from_millis(150))
            .max_key_staleness(STALENESS)
            .lockout_threshold(THRESHOLD as u32)
            .max_tracked_keys(4_096)
            .key_cache_capacity(1_024)
            .max_tracked_ips(1_024)
            .max_locks(256);
        let host = host(id, Server::Postgres);
        let url = format!("postgres://me@{host}/db?sslmode=disable");
        let node = Rc::new(Node {
            id,
            kg: KeyGuard::open(url, config).unwrap(),
            writer: Some(simulation::take_writer()).into(),
            storing: Mutex::default(),
            is_stopping: Cell::new(false),
            tasks: Vec::new().into(),
        });
        for server in [Server::Postgres, Server::Redis] {
            shared.set(id, server, Condition::Up);
        }
        (shared.model.borrow_mut()).opened(id, start, shared.now());
        shared.nodes.borrow_mut().push(Rc::clone(&node));
        node
    }

    fn start(&self, node: &Rc<Node>) {
        let mut tasks = node.tasks.borrow_mut();
        let writing = admin::write(Rc::clone(&self.shared), Rc::clone(node));
        tasks.push(simulation::spawn(writing));
        for _ in 0..CLIENTS {
            let client = Client {
                shared: Rc::clone(&self.shared),
                node: Rc::clone(node),
            };
            tasks.push(simulation::spawn(client.run()));
        }
    }

    /// Ends all requests of a node, and stores its usage if that is possible now.
    fn stop(&self, index: usize) {
        let shared = &self.shared;
        let node = Rc::clone(&shared.nodes.borrow()[index]);
        shared.step(|| format!("stop {}", node.id));
        node.is_stopping.set(true);
        while !node.tasks.borrow().iter().all(AbortHandle::is_finished) {
            simulation::wait(Duration::from_millis(100));
        }
        let stored = simulation::block_on(admin::store(shared, &node));
        shared.step(|| format!("stopped {}: {stored:?}", node.id));
    }

    fn kill(&self, index: usize) {
        let node = self.shared.nodes.borrow_mut().swap_remove(index);
        self.shared.step(|| format!("kill {}", node.id));
        for server in [Server::Postgres, Server::Redis] {
            let host = host(node.id, server);
            self.shared.network.set(&host, Condition::Cut);
            self.shared.network.reset(&host);
        }
        node.tasks.take().iter().for_each(AbortHandle::abort);
        let now = self.shared.now();
        self.shared.model.borrow_mut().kill(node.id, now);
    }

    // The end

    fn check_health(&self) {
        for node in self.shared.nodes.borrow().iter() {
            for backend in node.kg.backends() {
                assert!(backend.is_up, "{}: {backend:?}", node.id);
            }
        }
    }

    /// Whatever a node has acknowledged as stored is stored, and nothing twice.
    fn check_totals(&self) {
        let (model, tables) = (self.shared.model.borrow(), self.shared.postgres.tables());
        let stored = tables.total("requests") + tables.total("dropped");
        let expected = model.stored()..=model.recorded();
        assert!(
            expected.contains(&stored),
            "{stored} requests are stored, and not {expected:?}"
        );
    }

    fn check_agreement(&self) {
        let (shared, model) = (&self.shared, self.shared.model.borrow());
        let locks = shared.postgres.tables().lock_count();
        for node in shared.nodes.borrow().iter() {
            assert_eq!(
                node.kg.admin().list_blocks().len(),
                locks,
                "locks of {}",
                node.id
            );
        }
        for (index, history) in model.addresses.iter().enumerate() {
            let text = &model.keys[0].text;
            let is_locked = |node: &Node| refusal(node, text, index) == Some(Reason::IpLocked);
            let is_blocked = history.last().filter(|_| index < GOOD);
            self.agree(is_locked, is_blocked, &format!("address {index}"));
        }
        for key in &model.keys {
            // From an address without locks.
            let refusal = |node: &Node| refusal(node, &key.text, ADDRESSES);
            let is_revoked = |node: &Node| refusal(node) == Some(Reason::RevokedKey);
            self.agree(
                is_revoked,
                key.is_revoked.last(),
                &format!("key {}", key.id),
            );
            if key.is_revoked.last() == Some(false) {
                let is_suspended = |node: &Node| refusal(node) == Some(Reason::SuspendedOrg);
                let org = model.orgs[key.org].last();
                self.agree(is_suspended, org, &format!("organization {}", key.org));
            }
        }
    }

    /// Checks that all nodes decide alike, and by the value, if that is known.
    #[track_caller]
    fn agree(&self, decide: impl Fn(&Node) -> bool, value: Option<bool>, what: &str) {
        let nodes = self.shared.nodes.borrow();
        let expected = value.unwrap_or_else(|| decide(&nodes[0]));
        for node in nodes.iter() {
            assert_eq!(decide(node), expected, "{what} by {}", node.id);
        }
    }
}

/// The reason why a request is refused now.
pub(super) fn refusal(node: &Node, text: &str, index: usize) -> Option<Reason> {
    let headers = [("X-API-Key", text)];
    let request = Request::new(&headers, address(index), "/");
    let outcome = simulation::block_on(node.kg.decide_async(request));
    outcome.err().map(|denial| denial.reason())
}
