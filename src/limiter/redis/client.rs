//! The handle of the I/O thread, which all threads share.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::exhausted::ExhaustedLimits;
use super::script::{Action, CounterArgs, ScriptCall, ScriptReply};
use super::server::Servers;
use super::slots::HeldSlots;
use super::worker::Worker;
use crate::store::OpenError;
use crate::sys::{Deadline, Instant, block_on};
use crate::time::Clock;

/// The capacity of the queue of calls to send.
const QUEUE_CAPACITY: usize = 65_536;

/// How long connecting, and calls that nobody waits for, may take.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Redis did not reply, or not in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoReply;

/// The reason why Redis is unavailable.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Outage {
    #[error("no response within the deadline")]
    Timeout,
    #[error("{0}")]
    Error(String),
}

/// Announcements of other processes that a group of counters has room again.
pub(super) struct Announcements {
    pub(super) channel: String,
    pub(super) exhausted: Arc<ExhaustedLimits>,
}

pub(super) struct Client {
    jobs: mpsc::Sender<Job>,
    state: Arc<State>,
    timeout: Duration,
}

/// A call to send.
pub(super) struct Job {
    pub(super) call: ScriptCall,
    pub(super) due: Instant,
    /// `None` if nobody waits for the reply.
    pub(super) reply: Option<oneshot::Sender<Result<UnclaimedReply, NoReply>>>,
}

impl Client {
    /// Starts the thread, and waits a little for the first connection.
    pub(super) fn open(
        servers: Servers,
        node: String,
        timeout: Duration,
        announcements: Announcements,
    ) -> Result<Self, OpenError> {
        let (jobs, queue) = mpsc::channel(QUEUE_CAPACITY);
        let state = Arc::new(State::default());
        let connected = Worker {
            servers,
            node,
            announcements,
            jobs: jobs.downgrade(),
            state: Arc::clone(&state),
        }
        .spawn(queue)?;
        // An unavailable server may become available later.
        let _ = block_on(connected);
        match state.eviction_warning() {
            Some(warning) => Err(unusable(warning)),
            None => Ok(Self {
                jobs,
                state,
                timeout,
            }),
        }
    }

    /// Sends a call, whose reply comes before the deadline or not at all.
    pub(super) fn send(
        &self,
        call: ScriptCall,
        deadline: &Deadline,
    ) -> Result<PendingReply, NoReply> {
        self.send_until(call, deadline.ends_at(self.timeout))
    }

    /// Like `send`, with the longer timeout of administration.
    pub(super) fn send_with_admin_timeout(
        &self,
        call: ScriptCall,
    ) -> Result<PendingReply, NoReply> {
        self.send_until(call, Instant::now() + CONNECT_TIMEOUT)
    }

    fn send_until(&self, call: ScriptCall, due: Instant) -> Result<PendingReply, NoReply> {
        if !self.state.is_up.load(Ordering::Relaxed) {
            return Err(self.state.count_failure());
        }
        let (reply, pending) = oneshot::channel();
        let job = Job {
            call,
            due,
            reply: Some(reply),
        };
        match self.jobs.try_send(job) {
            Ok(()) => Ok(PendingReply(pending)),
            Err(_) => Err(self.state.count_failure()),
        }
    }

    /// Sends a call without waiting for its reply.
    pub(super) fn post(&self, call: ScriptCall) {
        let due = Instant::now() + self.timeout;
        self.state.post(&self.jobs, call, due);
    }

    /// Makes a clock follow that of the server.
    pub(super) fn sync_clock(&self, clock: &Clock) {
        let _ = self.state.clock.set(clock.clone());
    }

    /// Whether announcements are received.
    pub(super) fn is_subscribed(&self) -> bool {
        self.state.is_subscribed.load(Ordering::Acquire)
    }

    /// Returns the number of calls without a reply in time.
    pub(super) fn failures(&self) -> u64 {
        self.state.failures.load(Ordering::Relaxed)
    }

    pub(super) fn outage(&self) -> Option<Outage> {
        self.state.outage.lock().clone()
    }

    pub(super) fn eviction_warning(&self) -> Option<String> {
        self.state.eviction_warning()
    }
}

/// A reply that the I/O thread will bring.
pub(super) struct PendingReply(oneshot::Receiver<Result<UnclaimedReply, NoReply>>);

impl PendingReply {
    pub(super) async fn get(self) -> Result<ScriptReply, NoReply> {
        self.0
            .await
            .map_err(|_| NoReply)?
            .map(UnclaimedReply::claim)
    }
}

/// A reply that gives its slots back when it is dropped unclaimed.
pub(super) struct UnclaimedReply {
    reply: ScriptReply,
    release: Option<SlotRelease>,
}

struct SlotRelease {
    call: ScriptCall,
    jobs: mpsc::WeakSender<Job>,
    state: Arc<State>,
}

impl UnclaimedReply {
    pub(super) fn new(
        call: &ScriptCall,
        reply: ScriptReply,
        jobs: &mpsc::WeakSender<Job>,
        state: &Arc<State>,
    ) -> Self {
        let taken = call.taken_slots(&reply);
        let slots: Vec<_> = taken
            .map(|key| CounterArgs::slots(key.to_owned()))
            .collect();
        let release = (!slots.is_empty()).then(|| SlotRelease {
            call: ScriptCall {
                action: Action::Release,
                counters: slots,
                ..*call
            },
            jobs: jobs.clone(),
            state: Arc::clone(state),
        });
        Self { reply, release }
    }

    fn claim(mut self) -> ScriptReply {
        self.release = None;
        std::mem::take(&mut self.reply)
    }
}

impl Drop for UnclaimedReply {
    fn drop(&mut self) {
        if let Some(SlotRelease { call, jobs, state }) = self.release.take()
            && let Some(jobs) = jobs.upgrade()
        {
            state.post(&jobs, call, Instant::now() + CONNECT_TIMEOUT);
        }
    }
}

/// The state that the handle and the I/O thread share.
#[derive(Default)]
pub(super) struct State {
    pub(super) is_up: AtomicBool,
    pub(super) is_subscribed: AtomicBool,
    /// The clock that is synchronized with the server, if any.
    pub(super) clock: OnceLock<Clock>,
    /// The policy by which a server could evict counters.
    pub(super) eviction_policy: Mutex<Option<String>>,
    /// The number of calls in a row that timed out.
    pub(super) timeouts: AtomicU32,
    failures: AtomicU64,
    pub(super) outage: Mutex<Option<Outage>>,
    pub(super) slots: HeldSlots,
}

impl State {
    pub(super) fn count_failure(&self) -> NoReply {
        self.failures.fetch_add(1, Ordering::Relaxed);
        NoReply
    }

    /// Queues a call without waiting for its reply. With a full queue it is dropped, and the next
    /// renewal gives the slots back.
    fn post(&self, jobs: &mpsc::Sender<Job>, call: ScriptCall, due: Instant) {
        let job = Job {
            call,
            due,
            reply: None,
        };
        if let Err(unsent) = jobs.try_send(job) {
            self.slots.note_call(&unsent.into_inner().call);
        }
    }

    fn eviction_warning(&self) -> Option<String> {
        let policy = self.eviction_policy.lock().clone()?;
        Some(format!(
            "its `maxmemory-policy` is `{policy}`, under which it evicts counters; set \
             `maxmemory-policy noeviction`"
        ))
    }
}

pub(super) fn unusable(problem: String) -> OpenError {
    let server = "Redis";
    OpenError::Server { server, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_that_cannot_be_queued_frees_the_slot() {
        let (jobs, mut queue) = mpsc::channel(1);
        let state = State::default();
        let key = "{kg}:s";
        let slots = || vec![CounterArgs::slots(key.to_owned())];
        for _ in 0..2 {
            let admit = ScriptCall::new(Action::Admit, 1, slots());
            let reply = ScriptReply::parse(&[0, 1, 1, -1, 0, 1, 0]).unwrap();
            state.slots.note_reply(&admit, Some(&reply));
        }
        let release = ScriptCall::new(Action::Release, 0, slots());
        state.post(&jobs, release.clone(), Instant::now());
        // Held until the call is sent.
        assert_eq!(state.slots.held(key), 2);
        state.post(&jobs, release, Instant::now());
        assert_eq!(state.slots.held(key), 1);
        state.slots.note_call(&queue.blocking_recv().unwrap().call);
        assert_eq!(state.slots.held(key), 0);
    }
}
