//! The I/O thread: one connection, on which all calls in progress are pipelined.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use redis::{ErrorKind, RedisError, Script, ServerErrorKind};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{sleep, timeout, timeout_at};

use super::client::{
    Announcements, CONNECT_TIMEOUT, Job, NoReply, Outage, State, UnclaimedReply, unusable,
};
use super::names::{group_of, probe_name};
use super::script::{Action, ScriptCall, ScriptReply};
use super::server::{Connection, Servers};
use crate::store::OpenError;
use crate::sys::{Instant, spawn_io};

/// How often slots are renewed, well within their lease.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(1);

/// How many slots are renewed at the same time.
const RENEWAL_BATCH: usize = 256;

/// How often a lost connection is tried again.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// How many calls in a row may time out before no more are sent until a probe succeeds.
const MAX_TIMEOUTS: u32 = 3;

pub(super) struct Worker {
    pub(super) servers: Servers,
    pub(super) node: String,
    pub(super) announcements: Announcements,
    pub(super) jobs: mpsc::WeakSender<Job>,
    pub(super) state: Arc<State>,
}

impl Worker {
    /// Starts the thread, which ends when all senders of the queue are dropped. The receiver learns
    /// when the first connection has succeeded or failed.
    pub(super) fn spawn(
        self,
        queue: mpsc::Receiver<Job>,
    ) -> Result<oneshot::Receiver<()>, OpenError> {
        let not_started =
            |error: io::Error| unusable(format!("its thread cannot be started: {error}"));
        let (tried, first_try) = oneshot::channel();
        let work = move || {
            let io = Rc::new(Io {
                script: Script::new(include_str!("counters.lua")),
                connection: RefCell::default(),
                missed_checks: Cell::default(),
                // In the braces of a group, as for counters.
                probe_key: RefCell::new(probe_name(&format!("{{{}", self.announcements.channel))),
                worker: self,
            });
            run(io, queue, tried)
        };
        spawn_io("keyguard-redis", work).map_err(not_started)?;
        Ok(first_try)
    }
}

async fn run(io: Rc<Io>, mut queue: mpsc::Receiver<Job>, tried: oneshot::Sender<()>) {
    io.connect().await;
    let _ = tried.send(());
    let background = [
        spawn_local(Rc::clone(&io).maintain()),
        spawn_local(Rc::clone(&io).listen()),
    ];
    while let Some(job) = queue.recv().await {
        spawn_local(Rc::clone(&io).serve(job));
    }
    background.iter().for_each(JoinHandle::abort);
    io.give_up_slots().await;
}

/// The worker on its thread.
struct Io {
    worker: Worker,
    script: Script,
    connection: RefCell<Option<Connection>>,
    /// The number of checks in a row that had no reply in time.
    missed_checks: Cell<u32>,
    /// The key that checks write. After a refused write it is in the group of that write, so that the
    /// same server of a cluster is checked until it accepts writes.
    probe_key: RefCell<String>,
}

impl Io {
    async fn serve(self: Rc<Self>, job: Job) {
        let Job { call, due, reply } = job;
        let state = &self.worker.state;
        state.slots.note_call(&call);
        let result = self.call(&call, due).await;
        state.slots.note_reply(&call, result.as_ref().ok());
        let Some(waiting) = reply else { return };
        let result = match result {
            Ok(reply) => Ok(UnclaimedReply::new(&call, reply, &self.worker.jobs, state)),
            Err(NoReply) => Err(state.count_failure()),
        };
        // An unclaimed reply gives its slots back.
        let _ = waiting.send(result);
    }

    async fn call(&self, call: &ScriptCall, due: Instant) -> Result<ScriptReply, NoReply> {
        let Some(mut connection) = self.connection.borrow().clone() else {
            return Err(NoReply);
        };
        if Instant::now() >= due {
            return Err(NoReply);
        }
        let command = call.command(&self.script, &self.worker.node);
        let running = connection.run(&command, &self.script);
        let timeouts = &self.worker.state.timeouts;
        match timeout_at(due, running).await {
            Ok(Ok(values)) => {
                timeouts.store(0, Ordering::Relaxed);
                ScriptReply::parse(&values)
            }
            Ok(Err(error)) => {
                if let Some(counter) = call.counters.first()
                    && refuses_writes(&error)
                {
                    *self.probe_key.borrow_mut() = probe_name(group_of(&counter.key));
                }
                self.note_error(&error);
                Err(NoReply)
            }
            Err(_) => {
                if timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_TIMEOUTS {
                    self.disconnect(Outage::Timeout);
                }
                Err(NoReply)
            }
        }
    }

    /// Restores a lost connection, and renews slots.
    async fn maintain(self: Rc<Self>) {
        let mut next_renewal = Instant::now() + RENEWAL_INTERVAL;
        loop {
            sleep(PROBE_INTERVAL).await;
            if !self.worker.state.is_up.load(Ordering::Relaxed) {
                self.probe().await;
            }
            if Instant::now() >= next_renewal {
                next_renewal = Instant::now() + RENEWAL_INTERVAL;
                self.check().await;
                self.sync_clock().await;
                self.renew_slots().await;
            }
        }
    }

    /// Checks whether a connection that heals by itself has healed, or makes another one.
    async fn probe(&self) {
        if self.connection.borrow().is_none() {
            self.connect().await;
        } else if self.check().await {
            self.note_up();
        }
    }

    /// Reads the eviction policy, which may change at any time, and writes. Returns whether both succeeded.
    /// Without calls, only this finds that the server is gone or refuses writes.
    async fn check(&self) -> bool {
        let connection = self.connection.borrow().clone();
        let Some(mut connection) = connection else {
            return false;
        };
        let probe_key = self.probe_key.borrow().clone();
        let checking = async {
            self.note_eviction_policy(&connection.memory_info().await?);
            connection.probe(&probe_key).await
        };
        match timeout(CONNECT_TIMEOUT, checking).await {
            Ok(Ok(())) => {
                self.missed_checks.set(0);
                return true;
            }
            Ok(Err(error)) => self.note_error(&error),
            Err(_) => {
                self.missed_checks.update(|missed| missed + 1);
                if self.missed_checks.get() >= MAX_TIMEOUTS {
                    self.disconnect(Outage::Timeout);
                }
            }
        }
        false
    }

    async fn sync_clock(&self) {
        let Some(clock) = self.worker.state.clock.get() else {
            return;
        };
        let peek = ScriptCall::new(Action::Peek, 0, Vec::new());
        let called_at = clock.now();
        if let Ok(reply) = self.call(&peek, Instant::now() + CONNECT_TIMEOUT).await {
            reply.sync(clock, called_at);
        }
    }

    /// Receives announcements that a group has room again, and removes its cached refusals. The cache
    /// is not used without a subscription.
    async fn listen(self: Rc<Self>) {
        let Announcements { channel, exhausted } = &self.worker.announcements;
        let is_subscribed = &self.worker.state.is_subscribed;
        loop {
            let subscribing = self.worker.servers.subscribe(channel);
            if let Ok(Ok(mut messages)) = timeout(CONNECT_TIMEOUT, subscribing).await {
                exhausted.invalidate_all();
                is_subscribed.store(true, Ordering::Release);
                while let Some(message) = messages.next().await {
                    match message.get_payload::<String>() {
                        Ok(key) => exhausted.invalidate(group_of(&key)),
                        Err(_) => exhausted.invalidate_all(),
                    }
                }
                is_subscribed.store(false, Ordering::Release);
            }
            sleep(PROBE_INTERVAL).await;
        }
    }

    async fn connect(&self) {
        let probe_key = self.probe_key.borrow().clone();
        let connecting = async {
            let mut connection = self.worker.servers.connect(CONNECT_TIMEOUT).await?;
            self.note_eviction_policy(&connection.memory_info().await?);
            self.script.load_async(&mut connection).await?;
            connection.probe(&probe_key).await?;
            Ok::<_, RedisError>(connection)
        };
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(connection)) => {
                *self.connection.borrow_mut() = Some(connection);
                self.note_up();
            }
            Ok(Err(error)) => self.disconnect(Outage::Error(text(&error))),
            Err(_) => self.disconnect(Outage::Timeout),
        }
    }

    fn note_error(&self, error: &RedisError) {
        if needs_another_connection(error) || refuses_writes(error) {
            self.disconnect(Outage::Error(text(error)));
        }
    }

    /// Stops sending calls until a probe succeeds.
    fn disconnect(&self, outage: Outage) {
        let state = &self.worker.state;
        state.is_up.store(false, Ordering::Relaxed);
        *state.outage.lock() = Some(outage);
        let mut connection = self.connection.borrow_mut();
        if !connection.as_ref().is_some_and(Connection::heals) {
            *connection = None;
        }
    }

    fn note_up(&self) {
        let state = &self.worker.state;
        self.missed_checks.set(0);
        state.timeouts.store(0, Ordering::Relaxed);
        *state.outage.lock() = None;
        state.is_up.store(true, Ordering::Relaxed);
    }

    fn note_eviction_policy(&self, info: &[String]) {
        let policy = info.iter().find_map(|info| eviction_policy(info));
        *self.worker.state.eviction_policy.lock() = policy.map(str::to_owned);
    }

    /// Renews the leases of all slots, many at a time, so that none expires meanwhile.
    async fn renew_slots(&self) {
        for keys in self.worker.state.slots.keys().chunks(RENEWAL_BATCH) {
            join_all(keys.iter().map(|key| self.renew(key))).await;
        }
    }

    async fn renew(&self, key: &str) {
        let slots = &self.worker.state.slots;
        // Read when the call is sent, so that calls sent later change what Redis has by then.
        let Some(renewal) = slots.renewal(key) else {
            return;
        };
        let due = Instant::now() + CONNECT_TIMEOUT;
        if self.call(&renewal, due).await.is_ok() {
            slots.note_renewed(&renewal);
        }
    }

    async fn give_up_slots(&self) {
        for calls in self.worker.state.slots.give_up().chunks(RENEWAL_BATCH) {
            let due = Instant::now() + CONNECT_TIMEOUT;
            join_all(calls.iter().map(|call| self.call(call, due))).await;
        }
    }
}

/// Whether a connection is lost, or leads to a replica without its master.
fn needs_another_connection(error: &RedisError) -> bool {
    let is_lost = error.is_io_error() || error.is_connection_dropped();
    is_lost
        || error.is_unrecoverable_error()
        || error.kind() == ErrorKind::Server(ServerErrorKind::MasterDown)
}

/// Whether a server refuses all writes: as a replica, while its memory is full, after a failed save, or
/// with too few replicas.
fn refuses_writes(error: &RedisError) -> bool {
    matches!(
        error.code(),
        Some("READONLY" | "OOM" | "MISCONF" | "NOREPLICAS")
    )
}

/// Returns the text of an error: that of the server, or one that has addresses and causes, but no password.
fn text(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    }
}

/// Returns the policy by which a full server would evict counters.
fn eviction_policy(info: &str) -> Option<&str> {
    let mut lines = info.lines();
    let policy = lines.find_map(|line| line.strip_prefix("maxmemory_policy:"))?;
    let policy = policy.trim();
    (policy != "noeviction").then_some(policy)
}
