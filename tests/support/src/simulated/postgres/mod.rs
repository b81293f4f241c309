//! A simulated PostgreSQL: the protocol of the real one, and the statements of KeyGuard by their text.
//!
//! A transaction that writes locks the whole database until it ends, so that transactions are serial. The
//! locks of a real server are finer, but it orders those transactions alike that change keys and locks.

mod session;
mod statements;
mod tables;

use std::cell::{Cell, Ref, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio::io::DuplexStream;
use tokio::sync::Mutex;
use tokio::task::{AbortHandle, spawn_local};

use self::session::Session;
pub use self::tables::Tables;
use super::Network;
use super::outbox::Outbox;

pub struct Postgres {
    network: Rc<Network>,
    committed: RefCell<Tables>,
    /// Held by the transaction that writes.
    writing: Arc<Mutex<()>>,
    sessions: RefCell<BTreeMap<i32, AbortHandle>>,
    /// The sessions that receive notifications.
    listening: RefCell<BTreeMap<i32, Outbox>>,
    last_pid: Cell<i32>,
    is_losing_commits: Cell<bool>,
    /// The number of commits asked for while they are lost.
    lost_commits: Cell<u64>,
}

/// What a commit comes to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Commit {
    Acknowledged,
    /// It is durable, and the session ends without a reply.
    Unacknowledged,
    /// The session ends before it.
    Lost,
}

impl Postgres {
    /// A server of the network under the name `postgres`. `secret` is the fingerprint, in hexadecimal
    /// digits, of the secret of its tables.
    pub fn serve(network: &Rc<Network>, secret: String) -> Rc<Self> {
        let postgres = Rc::new(Self {
            network: Rc::clone(network),
            committed: RefCell::new(Tables::new(secret)),
            writing: Arc::default(),
            sessions: RefCell::default(),
            listening: RefCell::default(),
            last_pid: Cell::new(0),
            is_losing_commits: Cell::new(false),
            lost_commits: Cell::new(0),
        });
        let server = Rc::clone(&postgres);
        network.serve("postgres", move |stream| Rc::clone(&server).accept(stream));
        postgres
    }

    /// What is durable.
    pub fn tables(&self) -> Ref<'_, Tables> {
        self.committed.borrow()
    }

    /// Ends all sessions; what is not committed is lost.
    pub fn crash(&self) {
        self.listening.take();
        for session in self.sessions.take().into_values() {
            session.abort();
        }
    }

    /// From now on, two of three sessions that commit end without a reply: one after its commit is durable,
    /// and one before. Or again none.
    pub fn lose_commits(&self, is_losing: bool) {
        self.is_losing_commits.set(is_losing);
    }

    fn next_commit(&self) -> Commit {
        if !self.is_losing_commits.get() {
            return Commit::Acknowledged;
        }
        let number = self.lost_commits.get();
        self.lost_commits.set(number + 1);
        match number % 3 {
            0 => Commit::Unacknowledged,
            1 => Commit::Lost,
            _ => Commit::Acknowledged,
        }
    }

    fn accept(self: Rc<Self>, stream: DuplexStream) {
        let pid = self.last_pid.get() + 1;
        self.last_pid.set(pid);
        let server = Rc::clone(&self);
        let session = spawn_local(async move {
            Session::new(Rc::clone(&server), pid, stream).run().await;
            server.listening.borrow_mut().remove(&pid);
            server.sessions.borrow_mut().remove(&pid);
        });
        self.sessions
            .borrow_mut()
            .insert(pid, session.abort_handle());
    }
}
