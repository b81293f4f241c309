//! Recording of usage: requests are recorded in memory, a thread writes them to the store in batches.

mod channel;
mod chunk;
#[cfg(any(feature = "metrics", feature = "serve"))]
mod counts;
mod decision_log;
mod event_source;
mod health_log;
mod outlet;
mod tail;
mod writer;

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, MutexGuard};

use self::channel::{Part, Receiver, Sender, channel};
use self::chunk::Chunk;
#[cfg(any(feature = "metrics", feature = "serve"))]
pub(crate) use self::counts::DecisionCounts;
pub(crate) use self::event_source::{EventSource, UrgentEvents};
pub(super) use self::outlet::Outlet;
use self::tail::{Followed, Tail};
pub(super) use self::writer::{Writer, WriterState};
use super::legacy::Rehashing;
use super::request::Request;
use crate::model::{KeyId, Reason, Usage};
use crate::net::ClientIp;
use crate::policy::path;
use crate::store::{Minute, StoreError, UsageBatch, UsageEvent};
use crate::sys::sync::atomic::{AtomicUsize, Ordering};
use crate::sys::sync::{self, Mutex};
use crate::time::{Clock, Timestamp};

/// Usage on its way to the writer. Events of known keys take one channel per thread, so that recording one
/// locks nothing and shares no cache line with other recording threads. Other refusals are counted in
/// queues.
pub(crate) struct Recorder {
    receivers: Mutex<Vec<Receiver>>,
    idle: Arc<IdleSenders>,
    /// Empty chunks to be used again.
    spare: Mutex<Vec<Arc<Chunk>>>,
    /// Each thread shares its queue with few others.
    queues: Box<[Mutex<Queue>]>,
    capacity: usize,
    /// What the writer has collected. Held while it collects, so that nothing is missing meanwhile.
    #[cfg(any(feature = "metrics", feature = "serve"))]
    counts: parking_lot::Mutex<DecisionCounts>,
    /// The number of events that were handed over and are not collected. Each channel has up to one chunk
    /// more, and there are no more channels than threads at a time.
    pub(super) waiting: AtomicUsize,
    enabled: bool,
    /// Whether a sink gets all requests, including those without a known key.
    has_sink: bool,
    tail: Tail,
    /// Whether some refusals without a known key are kept for the log.
    has_log: bool,
    pub(super) rehashing: Rehashing,
    /// Keys that were used by a replaced text, and until when it is accepted.
    old_texts: parking_lot::Mutex<Vec<(KeyId, Timestamp)>>,
    clock: Clock,
    control: parking_lot::Mutex<Control>,
    /// Wakes the writer.
    work: Condvar,
    /// Wakes the threads that wait for the writer.
    done: Condvar,
}

/// The share of the capacity for refusals without a known key: one in this many events.
const KEYLESS_SHARE: usize = 4;

/// The number of events that wake the writer. They fit into the cache of a processor.
const BATCH: usize = 16_384;

/// The most chunks that are kept for reuse: 4 MiB.
const MAX_SPARE: usize = 256;

/// The most keys that are noted between two rounds of the writer because a replaced text was used.
const MAX_OLD_TEXTS: usize = 256;

/// Counts of refusals without a known key, and of events that were dropped.
#[derive(Default)]
#[repr(align(128))]
struct Queue {
    refusals: Vec<(Minute, [u64; Reason::COUNT])>,
    shadow_denied: Vec<(String, u64)>,
    dropped: u64,
    /// Refusals without a known key, for the sink and those who follow requests.
    keyless: Vec<Usage>,
    /// One refusal without a known key for each reason, for the log only.
    samples: Vec<Usage>,
}

#[derive(Default)]
struct Control {
    /// The number of flushes requested, and of those done.
    requested: u64,
    done: u64,
    /// The error of the last attempt to store usage.
    failure: Option<String>,
    /// The error of the last attempt to write to the sink.
    sink_failure: Option<String>,
    /// The number of failed attempts to write to the sink.
    sink_failures: u64,
    urgent: bool,
    closing: bool,
    closed: bool,
}

/// Senders of threads that ended. Other threads continue with them, so that short-lived threads do not
/// take a chunk each.
type IdleSenders = Mutex<Vec<Sender>>;

/// The senders of a thread, one for each recorder, with the idle ones of that recorder.
struct ThreadSenders(Vec<(Arc<IdleSenders>, Sender)>);

sync::thread_local! {
    static SENDERS: RefCell<ThreadSenders> = const { RefCell::new(ThreadSenders(Vec::new())) };
}

impl Drop for ThreadSenders {
    /// The thread ends.
    fn drop(&mut self) {
        for (idle, sender) in self.0.drain(..) {
            if !sender.is_orphaned() {
                idle.lock().push(sender);
            }
        }
    }
}

impl Recorder {
    pub(super) fn new(clock: Clock, enabled: bool, capacity: usize, has_sink: bool) -> Self {
        let threads = std::thread::available_parallelism().map_or(4, usize::from);
        let queues = (2 * threads).next_power_of_two();
        Self {
            receivers: Mutex::default(),
            idle: Arc::default(),
            spare: Mutex::default(),
            queues: (0..queues).map(|_| Mutex::default()).collect(),
            capacity,
            #[cfg(any(feature = "metrics", feature = "serve"))]
            counts: parking_lot::Mutex::default(),
            waiting: AtomicUsize::new(0),
            enabled,
            has_sink,
            tail: Tail::default(),
            has_log: false,
            rehashing: Rehashing::default(),
            old_texts: parking_lot::Mutex::default(),
            clock,
            control: parking_lot::Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
        }
    }

    /// Keeps some refusals without a known key for the log.
    pub(super) fn with_log(mut self, has_log: bool) -> Self {
        self.has_log = has_log;
        self
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Notes that a key was loaded by a replaced text. Beyond [`MAX_OLD_TEXTS`], one is not noted.
    #[cold]
    pub(super) fn note_old_text(&self, key: KeyId, until: Timestamp) {
        let mut noted = self.old_texts.lock();
        if noted.len() < MAX_OLD_TEXTS && !noted.contains(&(key, until)) {
            noted.push((key, until));
        }
    }

    pub(super) fn take_old_texts(&self) -> Vec<(KeyId, Timestamp)> {
        std::mem::take(&mut *self.old_texts.lock())
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Records a request with a known key; `path` as it is stored.
    #[inline]
    pub(super) fn record(&self, event: &UsageEvent, path: &[u8]) {
        if !self.enabled {
            return;
        }
        let sent = SENDERS.try_with(|senders| {
            let senders = &mut senders.borrow_mut().0;
            let known = senders
                .iter()
                .position(|(idle, _)| Arc::ptr_eq(idle, &self.idle));
            let at = known.unwrap_or_else(|| self.add_sender(senders));
            self.send(&mut senders[at].1, event, path);
        });
        if sent.is_err() {
            // The thread ends.
            let mut sender = self.sender();
            self.send(&mut sender, event, path);
            self.idle.lock().push(sender);
        }
    }

    #[inline]
    fn send(&self, sender: &mut Sender, event: &UsageEvent, path: &[u8]) {
        if !sender.send(event, path) {
            self.send_in_next_chunk(sender, event, path);
        }
    }

    /// Sends an event in another chunk, or counts it as dropped if too many events are waiting.
    #[cold]
    fn send_in_next_chunk(&self, sender: &mut Sender, event: &UsageEvent, path: &[u8]) {
        if self.claim(sender.events()) {
            sender.hand_over(self.empty_chunk());
            sender.send(event, path);
        } else {
            self.queue().lock().dropped += 1;
        }
    }

    /// Adds a sender to those of this thread. Returns its index.
    #[cold]
    fn add_sender(&self, senders: &mut Vec<(Arc<IdleSenders>, Sender)>) -> usize {
        senders.retain(|(_, sender)| !sender.is_orphaned());
        senders.push((Arc::clone(&self.idle), self.sender()));
        senders.len() - 1
    }

    /// Returns the sender of a thread that ended, or that of a new channel.
    fn sender(&self) -> Sender {
        if let Some(sender) = self.idle.lock().pop() {
            return sender;
        }
        let (sender, receiver) = channel(self.empty_chunk());
        self.receivers.lock().push(receiver);
        sender
    }

    /// Counts events as waiting, if they have room. Wakes the writer for each batch.
    fn claim(&self, events: usize) -> bool {
        let add = |waiting: usize| Some(waiting + events).filter(|sum| *sum <= self.capacity);
        let ordering = Ordering::Relaxed;
        let Ok(waiting) = self.waiting.fetch_update(ordering, ordering, add) else {
            return false;
        };
        let batch = BATCH.min(self.capacity / 4);
        if waiting < batch && waiting + events >= batch {
            self.wake_writer();
        }
        true
    }

    fn empty_chunk(&self) -> Arc<Chunk> {
        self.spare.lock().pop().unwrap_or_default()
    }

    /// Moves all events to the end of a batch. `parts` is empty, before and after.
    fn take_events(&self, parts: &mut Vec<Part>, batch: &mut UsageBatch) {
        // Closes the channels that no thread has continued with.
        self.idle.lock().clear();
        let mut waited = 0;
        self.receivers.lock().retain(|receiver| {
            let received = receiver.receive(parts);
            waited += received.handed_over;
            !received.is_closed
        });
        self.waiting.fetch_sub(waited, Ordering::Relaxed);
        for Part {
            chunk,
            words,
            is_last,
        } in parts.drain(..)
        {
            chunk.read(words, batch);
            if is_last {
                self.reuse(chunk);
            }
        }
    }

    fn reuse(&self, chunk: Arc<Chunk>) {
        chunk.clear();
        let mut spare = self.spare.lock();
        if spare.len() < MAX_SPARE {
            spare.push(chunk);
        }
    }

    /// Records a refusal without a known key, of a request from `ip`: counts it by reason, and keeps it for
    /// a sink and for those who follow requests.
    pub(super) fn record_keyless<H: ?Sized>(
        &self,
        request: &Request<'_, H>,
        ip: ClientIp,
        reason: Reason,
    ) {
        if !self.enabled {
            return;
        }
        let at = self.clock.timestamp();
        let mut queue = self.queue().lock();
        // A flood of these takes at most its share of the room.
        let share = self.capacity / KEYLESS_SHARE / self.queues.len();
        let usage = || Usage {
            at,
            key_id: None,
            method: request.method,
            path: path::stored(request.path).to_owned(),
            ip,
            status: reason.status(),
            latency: Duration::ZERO,
            refused: Some(reason),
        };
        let is_wanted = self.has_sink || self.tail.is_followed();
        if is_wanted && queue.keyless.len() < share.max(1) && self.claim(1) {
            queue.keyless.push(usage());
        } else if self.has_sink {
            queue.dropped += 1;
        }
        let is_kept = |sample: &Usage| sample.refused == Some(reason);
        if self.has_log && !queue.samples.iter().any(is_kept) {
            queue.samples.push(usage());
        }
        let minute = at.minute();
        let refusals = &mut queue.refusals;
        if refusals.last().is_none_or(|(last, _)| *last != minute) {
            refusals.push((minute, [0; Reason::COUNT]));
        }
        if let Some((_, counts)) = refusals.last_mut() {
            counts[reason as usize] += 1;
        }
    }

    /// Counts the rules and routes in shadow mode that would have refused a request, whether or not
    /// another rule refused it.
    #[inline]
    pub(super) fn count_shadow_denied(&self, names: &[String]) {
        if self.enabled && !names.is_empty() {
            self.add_shadow_denied(names);
        }
    }

    #[cold]
    fn add_shadow_denied(&self, names: &[String]) {
        let shadow_denied = &mut self.queue().lock().shadow_denied;
        for name in names {
            match shadow_denied.iter_mut().find(|(known, _)| known == name) {
                Some((_, count)) => *count += 1,
                None => shadow_denied.push((name.clone(), 1)),
            }
        }
    }

    /// Moves all counts to a batch. Returns refusals without a known key: those that were kept, and those for
    /// the log.
    fn take_counts(&self, batch: &mut UsageBatch) -> (Vec<Usage>, Vec<Usage>) {
        let (mut keyless, mut samples) = (Vec::new(), Vec::new());
        for queue in &self.queues {
            let mut queue = std::mem::take(&mut *queue.lock());
            batch.refusals.append(&mut queue.refusals);
            batch.shadow_denied.append(&mut queue.shadow_denied);
            batch.dropped += queue.dropped;
            keyless.append(&mut queue.keyless);
            samples.append(&mut queue.samples);
        }
        self.waiting.fetch_sub(keyless.len(), Ordering::Relaxed);
        (keyless, samples)
    }

    /// Returns at most `limit` of the latest requests: see [`Tail::follow`].
    pub(crate) fn follow(&self, from: Option<u64>, limit: usize) -> Followed {
        self.tail.follow(from, limit, self.clock.now())
    }

    /// Waits until everything recorded before is stored and written to the sink.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        let control = self.wait_for_writer(false);
        result(&control.failure).and(result(&control.sink_failure))
    }

    /// Waits until everything recorded before is stored, whether or not the sink works.
    pub(crate) fn flush_store(&self) -> Result<(), StoreError> {
        result(&self.wait_for_writer(false).failure)
    }

    /// Makes the writer store everything and end. Later usage is lost.
    pub(super) fn close(&self) -> Result<(), StoreError> {
        let control = self.wait_for_writer(true);
        result(&control.failure).and(result(&control.sink_failure))
    }

    /// The number of failed attempts to write to the sink.
    pub(crate) fn sink_failures(&self) -> u64 {
        self.control.lock().sink_failures
    }

    /// Returns the counts of all decisions but those by known keys that the writer has not collected: while
    /// the store fails, refusals of unknown keys and drops are counted nevertheless.
    #[cfg(any(feature = "metrics", feature = "serve"))]
    pub(super) fn decision_counts(&self) -> DecisionCounts {
        let collected = self.counts.lock();
        let mut counts = collected.clone();
        for queue in &self.queues {
            let queue = queue.lock();
            counts.add_counts(&queue.refusals, &queue.shadow_denied, queue.dropped);
        }
        counts
    }

    /// Returns the latencies since the last call.
    #[cfg(feature = "metrics")]
    pub(crate) fn take_latencies(&self) -> crate::model::Latencies {
        std::mem::take(&mut self.counts.lock().latencies)
    }

    fn wait_for_writer(&self, closing: bool) -> MutexGuard<'_, Control> {
        let mut control = self.control.lock();
        control.requested += 1;
        control.closing |= closing;
        let ticket = control.requested;
        self.work.notify_one();
        while control.done < ticket && !control.closed {
            self.done.wait(&mut control);
        }
        control
    }

    fn wake_writer(&self) {
        self.control.lock().urgent = true;
        self.work.notify_one();
    }

    #[inline]
    fn queue(&self) -> &Mutex<Queue> {
        thread_local!(static THREAD: Cell<usize> = const { Cell::new(usize::MAX) });
        static NEXT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let thread = THREAD.with(|thread| {
            if thread.get() == usize::MAX {
                thread.set(NEXT.fetch_add(1, Ordering::Relaxed));
            }
            thread.get()
        });
        &self.queues[thread & (self.queues.len() - 1)]
    }
}

fn result(failure: &Option<String>) -> Result<(), StoreError> {
    let failed = |failure: &String| Err(StoreError::Unavailable(failure.clone().into()));
    failure.as_ref().map_or(Ok(()), failed)
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder")
            .field("enabled", &self.enabled)
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, loom))]
mod interleavings;
#[cfg(test)]
#[cfg(not(loom))]
mod tests;
