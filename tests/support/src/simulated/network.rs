//! A network of byte streams with delays, losses and partitions.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, sleep, timeout};

use crate::Random;

/// The capacity of a stream, and the most bytes that arrive together.
const BUFFER: usize = 64 * 1024;

/// How long bytes may stay undelivered before their connection is lost.
const SILENCE: Duration = Duration::from_secs(5);

/// Calendar time at the start: 2026-01-15T12:00:00Z.
const START: Duration = Duration::from_secs(1_768_478_400);

/// The condition of the way from a client to a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    #[default]
    Up,
    /// Everything takes this much longer.
    Slow(Duration),
    /// Nothing arrives, in either direction.
    Cut,
    /// Requests arrive, and replies do not.
    Deaf,
    /// Connections are refused.
    Refusing,
}

/// Hosts are named `CLIENT.SERVER`, so that each client has its own way to each server.
pub struct Network {
    start: Instant,
    random: RefCell<Random>,
    servers: RefCell<BTreeMap<String, Accept>>,
    links: RefCell<BTreeMap<String, Rc<Link>>>,
}

type Accept = Rc<dyn Fn(DuplexStream)>;

#[derive(Default)]
struct Link {
    condition: Cell<Condition>,
    changed: Notify,
    connections: RefCell<Vec<AbortHandle>>,
}

impl Network {
    pub fn new(seed: u64) -> Rc<Self> {
        Rc::new(Self {
            start: Instant::now(),
            random: RefCell::new(Random(seed)),
            servers: RefCell::default(),
            links: RefCell::default(),
        })
    }

    /// Passes connections to a server on.
    pub fn serve(&self, server: &str, accept: impl Fn(DuplexStream) + 'static) {
        let mut servers = self.servers.borrow_mut();
        servers.insert(server.to_owned(), Rc::new(accept));
    }

    /// Calendar time since the Unix epoch.
    pub fn unix_time(&self) -> Duration {
        START + self.start.elapsed()
    }

    pub fn set(&self, host: &str, condition: Condition) {
        let link = self.link(host);
        link.condition.set(condition);
        link.changed.notify_waiters();
    }

    /// Loses all connections to a host, with what is on its way.
    pub fn reset(&self, host: &str) {
        for connection in self.link(host).connections.take() {
            connection.abort();
        }
    }

    /// Connects to a host.
    pub async fn connect(self: Rc<Self>, host: &str) -> io::Result<DuplexStream> {
        let link = self.link(host);
        let server = host.split_once('.').map_or(host, |(_, server)| server);
        let accept = self.servers.borrow().get(server).cloned();
        let accept = accept.ok_or(io::ErrorKind::NotFound)?;
        for is_reply in [false, true] {
            self.delay(&link).await;
            link.until_delivered(is_reply).await;
            if link.condition.get() == Condition::Refusing {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
        }
        let (client, client_side) = tokio::io::duplex(BUFFER);
        let (server, server_side) = tokio::io::duplex(BUFFER);
        let task = spawn_local(Rc::clone(&self).run(Rc::clone(&link), client_side, server_side));
        let mut connections = link.connections.borrow_mut();
        connections.retain(|connection| !connection.is_finished());
        connections.push(task.abort_handle());
        drop(connections);
        accept(server);
        Ok(client)
    }

    fn link(&self, host: &str) -> Rc<Link> {
        let mut links = self.links.borrow_mut();
        Rc::clone(links.entry(host.to_owned()).or_default())
    }

    /// Passes bytes on until both sides are closed or the connection is lost.
    async fn run(self: Rc<Self>, link: Rc<Link>, client: DuplexStream, server: DuplexStream) {
        let (from_client, to_client) = tokio::io::split(client);
        let (from_server, to_server) = tokio::io::split(server);
        let requests = self.forward(&link, false, from_client, to_server);
        let replies = self.forward(&link, true, from_server, to_client);
        // Both sides see the end of a lost connection.
        let _ = tokio::try_join!(requests, replies);
    }

    async fn forward(
        &self,
        link: &Link,
        is_reply: bool,
        mut from: ReadHalf<DuplexStream>,
        mut to: WriteHalf<DuplexStream>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let len = from.read(&mut buffer).await?;
            self.delay(link).await;
            timeout(SILENCE, link.until_delivered(is_reply)).await?;
            if len == 0 {
                return to.shutdown().await;
            }
            to.write_all(&buffer[..len]).await?;
        }
    }

    async fn delay(&self, link: &Link) {
        let more = match link.condition.get() {
            Condition::Slow(more) => more,
            _ => Duration::ZERO,
        };
        // Timers of tokio have a resolution of a millisecond.
        let millis = self.random.borrow_mut().below(3);
        let delay = Duration::from_millis(millis) + more;
        if !delay.is_zero() {
            sleep(delay).await;
        }
    }
}

impl Link {
    fn loses(&self, is_reply: bool) -> bool {
        match self.condition.get() {
            Condition::Cut => true,
            Condition::Deaf => is_reply,
            _ => false,
        }
    }

    /// Waits until what is sent again and again arrives.
    async fn until_delivered(&self, is_reply: bool) {
        while self.loses(is_reply) {
            self.changed.notified().await;
        }
    }
}
