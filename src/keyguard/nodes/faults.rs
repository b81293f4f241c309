//! Faults of the network and the servers.

use std::rc::Rc;
use std::time::Duration;

use keyguard_test_support::simulated::Condition;

use super::model::Server;
use super::shared::{Shared, host};

pub(super) struct Faults(pub(super) Rc<Shared>);

impl Faults {
    /// Causes faults again and again, with some calm in between.
    pub(super) async fn run(self) {
        let shared = &self.0;
        let pace = shared.pace;
        loop {
            shared
                .sleep(&pace.calm[shared.index(pace.calm.len())])
                .await;
            for _ in 0..=shared.below(3) {
                self.cause_one();
                shared.sleep(&(0..500)).await;
            }
            shared
                .sleep(&pace.faulty[shared.index(pace.faulty.len())])
                .await;
            shared.step(|| "heal".to_owned());
            shared.heal();
        }
    }

    fn cause_one(&self) {
        let shared = &self.0;
        let server = [Server::Postgres, Server::Redis][shared.index(2)];
        let node = shared.node().id;
        let slow = Condition::Slow(Duration::from_millis(5 + shared.below(100)));
        match shared.below(shared.pace.faults) {
            kind @ 0..4 => {
                let conditions = [Condition::Cut, Condition::Deaf, Condition::Refusing, slow];
                let condition = conditions[kind as usize];
                shared.step(|| format!("{node} to {server:?}: {condition:?}"));
                shared.set(node, server, condition);
            }
            4 => {
                shared.step(|| format!("{node} loses its connections to {server:?}"));
                shared.network.reset(&host(node, server));
                shared.set(node, server, Condition::Up);
            }
            5 => {
                shared.step(|| "Redis loses all keys".to_owned());
                shared.redis.flush();
                shared.model.borrow_mut().flush(shared.now());
            }
            6..8 => {
                shared.step(|| "PostgreSQL loses commits and their replies".to_owned());
                shared.postgres.lose_commits(true);
            }
            _ => self.crash(server),
        }
    }

    fn crash(&self, server: Server) {
        let shared = &self.0;
        shared.step(|| format!("{server:?} crashes"));
        shared.model.borrow_mut().crash(shared.now());
        match server {
            Server::Postgres => shared.postgres.crash(),
            Server::Redis => shared.redis.crash(),
        }
        for node in shared.nodes.borrow().iter() {
            shared.network.reset(&host(node.id, server));
            shared.set(node.id, server, Condition::Refusing);
        }
    }
}
