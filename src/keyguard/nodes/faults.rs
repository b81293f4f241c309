//! Faults of the network and the servers.

use std::rc::Rc;
use std::time::Duration;

use keyguard_test_support::simulated::{Condition, Postgres, Redis};
use tokio::time::sleep;

use super::model::Server;
use super::shared::{Shared, host};

pub(super) struct Faults {
    pub(super) shared: Rc<Shared>,
    pub(super) postgres: Rc<Postgres>,
    pub(super) redis: Rc<Redis>,
}

impl Faults {
    /// Causes faults again and again, with some calm in between.
    pub(super) async fn run(self) {
        let shared = &self.shared;
        loop {
            let calm = [100, 1_000, 5_000, 20_000, 40_000][shared.index(5)];
            sleep(Duration::from_millis(shared.below(calm))).await;
            for _ in 0..=shared.below(3) {
                self.cause_one();
                sleep(Duration::from_millis(shared.below(500))).await;
            }
            let time = [200, 1_000, 3_000, 8_000, 30_000][shared.index(5)];
            sleep(Duration::from_millis(shared.below(time))).await;
            shared.step(|| "heal".to_owned());
            shared.heal();
        }
    }

    fn cause_one(&self) {
        let shared = &self.shared;
        let server = [Server::Postgres, Server::Redis][shared.index(2)];
        let node = shared.node().id;
        let slow = Condition::Slow(Duration::from_millis(5 + shared.below(100)));
        match shared.below(8) {
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
                self.redis.flush();
                shared.model.borrow_mut().flush(shared.now());
            }
            _ => self.crash(server),
        }
    }

    fn crash(&self, server: Server) {
        let shared = &self.shared;
        shared.step(|| format!("{server:?} crashes"));
        match server {
            Server::Postgres => self.postgres.crash(),
            Server::Redis => self.redis.crash(),
        }
        for node in shared.nodes.borrow().iter() {
            shared.network.reset(&host(node.id, server));
            shared.set(node.id, server, Condition::Refusing);
        }
    }
}
