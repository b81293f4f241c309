//! The thread that talks to Redis: one connection, on which all that is asked at once is pipelined.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use parking_lot::Mutex;
use redis::{ErrorKind, RedisError, ServerErrorKind};
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

use super::call::{Action, Answer, Call, Counter};
use super::names::group_of;
use super::server::{Connection, Servers};
use crate::limiter::exhausted::Exhausted;
use crate::store::OpenError;
use crate::sys::{Deadline, block_on};
use crate::time::Clock;

/// Calls that may wait to be sent.
const QUEUE: usize = 65_536;

/// How often slots are renewed, well within their lease, and a lost connection is tried again.
const RENEWAL: Duration = Duration::from_secs(1);
const PROBE: Duration = Duration::from_millis(100);

/// Calls that are made at once where there are many to make.
const MANY: usize = 256;

/// How long connecting may take.
const CONNECTING: Duration = Duration::from_secs(1);

/// How many calls in a row may find no answer in time before none is sent until a probe is answered.
const TOLERATED: u32 = 3;

/// Redis did not answer, or not in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failed;

/// Why Redis cannot be asked.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("it does not answer in time")]
    Late,
    #[error("{0}")]
    Failed(String),
}

/// Announcements between processes that a counter has room again.
pub(super) struct Hearing {
    pub(super) channel: String,
    pub(super) exhausted: Arc<Exhausted>,
}

pub(super) struct Link {
    jobs: mpsc::Sender<Job>,
    state: Arc<State>,
    deadline: Duration,
}

struct Job {
    call: Call,
    due: Instant,
    /// `None` if nobody waits.
    answer: Option<oneshot::Sender<Result<Delivery, Failed>>>,
}

/// An answer on its way.
pub(super) struct Asked(oneshot::Receiver<Result<Delivery, Failed>>);

impl Asked {
    pub(super) async fn answer(self) -> Result<Answer, Failed> {
        self.0.await.map_err(|_| Failed)?.map(Delivery::receive)
    }
}

/// An answer, and what gives the slots back that were taken with it, if nobody receives it.
struct Delivery {
    answer: Answer,
    release: Option<Release>,
}

struct Release {
    call: Call,
    jobs: mpsc::WeakSender<Job>,
    state: Arc<State>,
}

impl Delivery {
    fn receive(mut self) -> Answer {
        self.release = None;
        std::mem::take(&mut self.answer)
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(Release { call, jobs, state }) = self.release.take()
            && let Some(jobs) = jobs.upgrade()
        {
            state.tell(&jobs, call, Instant::now() + CONNECTING);
        }
    }
}

#[derive(Default)]
pub(super) struct State {
    is_up: AtomicBool,
    /// Whether announcements are heard.
    hears: AtomicBool,
    /// The clock that follows that of the server, if it does.
    led: OnceLock<Clock>,
    /// The policy by which a server could forget limits.
    evicting: Mutex<Option<String>>,
    /// Calls in a row that were not answered in time.
    late: AtomicU32,
    failed: AtomicU64,
    /// Why there is no connection.
    trouble: Mutex<Option<Trouble>>,
    /// What this node holds, by the name of the counter.
    slots: Mutex<HashMap<String, Held>>,
}

impl State {
    fn failed(&self) -> Failed {
        self.failed.fetch_add(1, Ordering::Relaxed);
        Failed
    }

    /// Has a call run that nobody waits for. Where too many wait to be sent, it is not sent, and the
    /// next renewal gives the slots back.
    fn tell(&self, jobs: &mpsc::Sender<Job>, call: Call, due: Instant) {
        let job = Job {
            call,
            due,
            answer: None,
        };
        if let Err(unsent) = jobs.try_send(job) {
            self.note_released(&unsent.into_inner().call);
        }
    }

    /// Why limits could be forgotten, if they could.
    fn evicting_warning(&self) -> Option<String> {
        let policy = self.evicting.lock().clone()?;
        Some(format!(
            "its `maxmemory-policy` is `{policy}`, by which it could forget limits; set \
             `maxmemory-policy noeviction`"
        ))
    }

    fn note_memory(&self, servers: &[String]) {
        let policy = servers.iter().find_map(|memory| evicting_policy(memory));
        *self.evicting.lock() = policy.map(str::to_owned);
    }

    fn note_released(&self, call: &Call) {
        if call.action == Action::Release {
            self.held(call, |held| held.count = held.count.saturating_sub(1));
        }
    }

    fn held(&self, call: &Call, change: impl Fn(&mut Held)) {
        self.held_if(call, |_| true, change);
    }

    fn held_if(&self, call: &Call, is_meant: impl Fn(usize) -> bool, change: impl Fn(&mut Held)) {
        let meant = call.slots().filter(|(index, _)| is_meant(*index));
        // Most calls take none.
        let mut slots = None;
        for (_, key) in meant {
            let slots = slots.get_or_insert_with(|| self.slots.lock());
            change(slots.entry(key.to_owned()).or_default());
        }
    }
}

impl Link {
    /// Starts the thread, and waits a little for the first connection.
    pub(super) fn open(
        servers: Servers,
        node: String,
        deadline: Duration,
        hearing: Hearing,
    ) -> Result<Self, OpenError> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (tried, first_try) = oneshot::channel();
        let state = Arc::new(State::default());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(not_started)?;
        let worker = Worker {
            servers,
            node,
            script: redis::Script::new(include_str!("counters.lua")),
            hearing,
            connection: RefCell::default(),
            jobs: jobs.downgrade(),
            state: Arc::clone(&state),
        };
        std::thread::Builder::new()
            .name("keyguard-redis".into())
            .spawn(move || LocalSet::new().block_on(&runtime, worker.run(queue, tried)))
            .map_err(not_started)?;
        // At the latest when connecting takes too long.
        let _ = block_on(first_try);
        if let Some(warning) = state.evicting_warning() {
            return Err(unusable(warning));
        }
        // If it is not there now, it may be later.
        Ok(Self {
            jobs,
            state,
            deadline,
        })
    }

    /// Has a call run. Its answer comes within the deadline, or there is none.
    pub(super) fn ask(&self, call: Call, deadline: &Deadline) -> Result<Asked, Failed> {
        self.send(call, deadline.ends_at(self.deadline))
    }

    /// The same, for who can wait.
    pub(super) fn ask_patiently(&self, call: Call) -> Result<Asked, Failed> {
        self.send(call, Instant::now() + CONNECTING)
    }

    fn send(&self, call: Call, due: Instant) -> Result<Asked, Failed> {
        if !self.state.is_up.load(Ordering::Relaxed) {
            return Err(self.state.failed());
        }
        let (answer, asked) = oneshot::channel();
        let job = Job {
            call,
            due,
            answer: Some(answer),
        };
        match self.jobs.try_send(job) {
            Ok(()) => Ok(Asked(asked)),
            Err(_) => Err(self.state.failed()),
        }
    }

    /// Has a call run that nobody waits for.
    pub(super) fn tell(&self, call: Call) {
        self.state
            .tell(&self.jobs, call, Instant::now() + self.deadline);
    }

    /// Calls that were not answered, or not in time.
    pub(super) fn failed(&self) -> u64 {
        self.state.failed.load(Ordering::Relaxed)
    }

    /// Has a clock follow that of the server from now on.
    pub(super) fn lead(&self, clock: &Clock) {
        let _ = self.state.led.set(clock.clone());
    }

    /// Whether it is announced here where there is room again.
    pub(super) fn hears(&self) -> bool {
        self.state.hears.load(Ordering::Acquire)
    }

    /// Why Redis could forget limits, if it could.
    pub(super) fn evicting_warning(&self) -> Option<String> {
        self.state.evicting_warning()
    }

    /// Why Redis is not asked at the moment.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.state.trouble.lock().clone()
    }
}

/// Slots of this node under one counter.
#[derive(Clone, Copy, Default)]
struct Held {
    count: u32,
    /// Calls on their way that may take one.
    admitting: u32,
}

struct Worker {
    servers: Servers,
    node: String,
    script: redis::Script,
    hearing: Hearing,
    connection: RefCell<Option<Connection>>,
    jobs: mpsc::WeakSender<Job>,
    state: Arc<State>,
}

impl Worker {
    async fn run(
        self,
        mut queue: mpsc::Receiver<Job>,
        tried: oneshot::Sender<Result<(), Trouble>>,
    ) {
        let worker = Rc::new(self);
        let _ = tried.send(worker.connect().await);
        let keepers = [
            tokio::task::spawn_local(Rc::clone(&worker).keep()),
            tokio::task::spawn_local(Rc::clone(&worker).hear()),
        ];
        while let Some(job) = queue.recv().await {
            tokio::task::spawn_local(Rc::clone(&worker).serve(job));
        }
        keepers.iter().for_each(tokio::task::JoinHandle::abort);
        worker.give_up_slots().await;
    }

    /// Connects again when the connection is lost, and renews slots.
    async fn keep(self: Rc<Self>) {
        let mut next_renewal = Instant::now() + RENEWAL;
        loop {
            tokio::time::sleep(PROBE).await;
            if !self.state.is_up.load(Ordering::Relaxed) {
                self.probe().await;
            }
            if Instant::now() >= next_renewal {
                next_renewal = Instant::now() + RENEWAL;
                self.check_memory().await;
                self.lead_clock().await;
                self.renew_slots().await;
            }
        }
    }

    /// Notices a policy that was changed while this runs.
    async fn check_memory(&self) {
        let connection = self.connection.borrow().clone();
        let Some(mut connection) = connection else {
            return;
        };
        let asked = tokio::time::timeout(CONNECTING, connection.memory()).await;
        if let Ok(Ok(memory)) = asked {
            self.state.note_memory(&memory);
        }
    }

    async fn lead_clock(&self) {
        let Some(clock) = self.state.led.get() else {
            return;
        };
        let look = Call {
            action: Action::Look,
            now: 0,
            cost: 0,
            admitted_at: 0,
            counters: Vec::new(),
        };
        let asked = clock.now();
        if let Ok(answer) = self.run_by(&look, Instant::now() + CONNECTING).await {
            answer.lead(clock, asked);
        }
    }

    /// Forgets what was refused where others say that there is room again. While that is not heard,
    /// nothing is remembered.
    async fn hear(self: Rc<Self>) {
        let Hearing { channel, exhausted } = &self.hearing;
        loop {
            let subscribing = self.servers.subscribe(channel);
            if let Ok(Ok(mut announced)) = tokio::time::timeout(CONNECTING, subscribing).await {
                exhausted.forget_all();
                self.state.hears.store(true, Ordering::Release);
                while let Some(message) = announced.next().await {
                    match message.get_payload::<String>() {
                        Ok(key) => exhausted.forget(group_of(&key)),
                        Err(_) => exhausted.forget_all(),
                    }
                }
                self.state.hears.store(false, Ordering::Release);
            }
            tokio::time::sleep(PROBE).await;
        }
    }

    /// Asks a connection that heals by itself whether it has, or makes another one.
    async fn probe(&self) {
        let connection = self.connection.borrow().clone();
        let Some(mut connection) = connection else {
            let _ = self.connect().await;
            return;
        };
        let asked = tokio::time::timeout(CONNECTING, connection.memory()).await;
        if let Ok(Ok(memory)) = asked {
            self.state.note_memory(&memory);
            self.note_up();
        }
    }

    fn note_up(&self) {
        self.state.late.store(0, Ordering::Relaxed);
        *self.state.trouble.lock() = None;
        self.state.is_up.store(true, Ordering::Relaxed);
    }

    async fn connect(&self) -> Result<(), Trouble> {
        let connecting = async {
            let mut connection = self.servers.connect(CONNECTING).await?;
            let memory = connection.memory().await?;
            self.script.load_async(&mut connection).await?;
            Ok::<_, RedisError>((connection, memory))
        };
        let connected = match tokio::time::timeout(CONNECTING, connecting).await {
            Ok(Ok((connection, memory))) => {
                self.state.note_memory(&memory);
                Ok(connection)
            }
            // Addresses and causes; a password is in neither.
            Ok(Err(error)) => Err(Trouble::Failed(error.to_string())),
            Err(_) => Err(Trouble::Late),
        };
        match connected {
            Ok(connection) => {
                *self.connection.borrow_mut() = Some(connection);
                self.note_up();
                Ok(())
            }
            Err(trouble) => {
                self.disconnect(trouble.clone());
                Err(trouble)
            }
        }
    }

    /// Asks nothing any more until a probe is answered.
    fn disconnect(&self, trouble: Trouble) {
        self.state.is_up.store(false, Ordering::Relaxed);
        *self.state.trouble.lock() = Some(trouble);
        let mut connection = self.connection.borrow_mut();
        if !connection.as_ref().is_some_and(Connection::heals) {
            *connection = None;
        }
    }

    async fn serve(self: Rc<Self>, job: Job) {
        let Job { call, due, answer } = job;
        let takes_slots = call.action == Action::Admit;
        self.state.note_released(&call);
        if takes_slots {
            self.state.held(&call, |held| held.admitting += 1);
        }
        let result = self.run_by(&call, due).await;
        if takes_slots {
            self.state.held(&call, |held| {
                held.admitting = held.admitting.saturating_sub(1)
            });
            if let Ok(answer) = &result
                && answer.is_admitted
            {
                let is_taken = |index: usize| answer.standings[index].room_in == Some(0);
                self.state.held_if(&call, is_taken, |held| held.count += 1);
            }
        }
        let Some(waiting) = answer else { return };
        let delivery = result.map(|answer| Delivery {
            release: self.release_of(&call, &answer),
            answer,
        });
        if delivery.is_err() {
            self.state.failed();
        }
        // What nobody receives gives its slots back.
        let _ = waiting.send(delivery);
    }

    /// What gives the slots back that an answer says were taken.
    fn release_of(&self, call: &Call, answer: &Answer) -> Option<Release> {
        if call.action != Action::Admit || !answer.is_admitted {
            return None;
        }
        let taken = call
            .slots()
            .filter(|(index, _)| answer.standings[*index].room_in == Some(0));
        let counters: Vec<_> = taken
            .map(|(_, key)| Counter::slots(key.to_owned()))
            .collect();
        if counters.is_empty() {
            return None;
        }
        Some(Release {
            call: Call {
                action: Action::Release,
                counters,
                ..*call
            },
            jobs: self.jobs.clone(),
            state: Arc::clone(&self.state),
        })
    }

    async fn run_by(&self, call: &Call, due: Instant) -> Result<Answer, Failed> {
        let Some(mut connection) = self.connection.borrow().clone() else {
            return Err(Failed);
        };
        if Instant::now() >= due {
            return Err(Failed);
        }
        let command = call.write(&self.script, &self.node);
        let running = connection.run(&command, &self.script);
        match tokio::time::timeout_at(due.into(), running).await {
            Ok(Ok(values)) => {
                self.state.late.store(0, Ordering::Relaxed);
                Answer::read(&values)
            }
            Ok(Err(error)) => {
                if needs_another_connection(&error) {
                    self.disconnect(Trouble::Failed(error.to_string()));
                }
                Err(Failed)
            }
            Err(_) => {
                let late = self.state.late.fetch_add(1, Ordering::Relaxed) + 1;
                if late >= TOLERATED {
                    self.disconnect(Trouble::Late);
                }
                Err(Failed)
            }
        }
    }

    /// Says how many slots are held, under many counters at once, so that no lease ends meanwhile.
    async fn renew_slots(&self) {
        let keys: Vec<String> = self.state.slots.lock().keys().cloned().collect();
        for keys in keys.chunks(MANY) {
            join_all(keys.iter().map(|key| self.renew(key))).await;
        }
    }

    async fn renew(&self, key: &str) {
        // Read when it is sent: what is sent later changes what Redis has by then.
        let held = self.state.slots.lock().get(key).copied();
        let Some(held) = held else {
            return;
        };
        let action = match held.admitting {
            0 => Action::Renew,
            // Redis may know of slots that are not known of here yet.
            _ => Action::Extend,
        };
        let said = self.say_slots(action, key, held.count).await;
        let mut slots = self.state.slots.lock();
        let is_free = |held: &Held| held.count == 0 && held.admitting == 0;
        if said.is_ok() && held.count == 0 && slots.get(key).is_some_and(is_free) {
            slots.remove(key);
        }
    }

    async fn give_up_slots(&self) {
        let held = std::mem::take(&mut *self.state.slots.lock());
        let keys: Vec<String> = held.into_keys().collect();
        for keys in keys.chunks(MANY) {
            join_all(keys.iter().map(|key| self.say_slots(Action::Renew, key, 0))).await;
        }
    }

    async fn say_slots(&self, action: Action, key: &str, count: u32) -> Result<Answer, Failed> {
        let renew = Call {
            action,
            now: 0,
            cost: count.into(),
            admitted_at: 0,
            counters: vec![Counter::slots(key.to_owned())],
        };
        self.run_by(&renew, Instant::now() + CONNECTING).await
    }
}

fn not_started(error: std::io::Error) -> OpenError {
    unusable(format!("its thread cannot be started: {error}"))
}

pub(super) fn unusable(problem: String) -> OpenError {
    let server = "Redis";
    OpenError::Server { server, problem }
}

/// Whether a connection is lost, or leads to a server that no longer is the master.
fn needs_another_connection(error: &RedisError) -> bool {
    let lost = error.is_io_error() || error.is_connection_dropped();
    let kind = error.kind();
    lost || error.is_unrecoverable_error()
        || kind == ErrorKind::Server(ServerErrorKind::ReadOnly)
        || kind == ErrorKind::Server(ServerErrorKind::MasterDown)
}

/// The policy by which a server that is full would forget counters.
fn evicting_policy(info: &str) -> Option<&str> {
    let policy = info
        .lines()
        .find_map(|line| line.strip_prefix("maxmemory_policy:"))?
        .trim();
    (policy != "noeviction").then_some(policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_whose_release_cannot_be_sent_is_held_no_longer() {
        let (jobs, mut queue) = mpsc::channel(1);
        let state = State::default();
        let release = Call {
            action: Action::Release,
            now: 0,
            cost: 0,
            admitted_at: 0,
            counters: vec![Counter::slots("{kg}:s".to_owned())],
        };
        state.held(&release, |held| held.count = 2);
        let held = || state.slots.lock()["{kg}:s"].count;
        state.tell(&jobs, release.clone(), Instant::now());
        // It still is until it is on its way to Redis.
        assert_eq!(held(), 2);
        state.tell(&jobs, release, Instant::now());
        assert_eq!(held(), 1);
        state.note_released(&queue.blocking_recv().unwrap().call);
        assert_eq!(held(), 0);
    }
}
