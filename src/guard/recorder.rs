//! Usage on its way to the store: taken from requests at once, written in batches by a thread.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::denial::status;
use super::key_cache::Backends;
use super::legacy::Rehashing;
use super::lockouts::Lockouts;
use super::policy_reloader::PolicyReloader;
use super::request::Request;
use super::warnings::Topic;
use crate::model::{Reason, Usage};
use crate::net::ClientIp;
use crate::policy::path;
use crate::sink::SharedSink;
use crate::store::{Store, StoreError, UsageBatch, UsageEvent};
use crate::time::{CalendarCheck, Clock, Moment};

/// How long usage waits at most before it is written.
const INTERVAL: Duration = Duration::from_millis(200);

/// How often expired usage is looked for.
/// The longest time that a stop waits for a log.
const LOGGED_WITHIN: Duration = Duration::from_secs(1);

const PRUNE_INTERVAL: Duration = Duration::from_secs(60);

/// Where requests leave their usage. Each thread has a queue that it shares with few others.
pub(crate) struct Recorder {
    queues: Box<[Mutex<Queue>]>,
    capacity: usize,
    /// Events for which no queue has room yet, out of `capacity`.
    free: AtomicUsize,
    enabled: bool,
    /// Whether a sink is to be told of requests, also of those that name no known key.
    has_sink: bool,
    pub(super) rehashing: Rehashing,
    clock: Clock,
    control: Mutex<Control>,
    /// Wakes the writer.
    work: Condvar,
    /// Wakes those who wait for the writer.
    done: Condvar,
}

/// One out of so many events may be a refusal that named no known key.
const KEYLESS_SHARE: usize = 4;

/// How many events a queue claims room for at a time.
const CLAIM: usize = 256;

/// How many events wake the writer: no more than stay in a processor's cache until they are written.
const BATCH: usize = 16_384;

#[derive(Default)]
#[repr(align(128))]
struct Queue {
    batch: UsageBatch,
    /// Refusals that named no known key, for a sink alone.
    keyless: Vec<Usage>,
    /// How many more events it has room for.
    room: usize,
}

#[derive(Default)]
struct Control {
    /// Flushes asked for, and those that are done.
    asked: u64,
    done: u64,
    /// What went wrong when usage was last stored.
    failure: Option<String>,
    /// What went wrong when requests were last offered to the sink.
    sink_failure: Option<String>,
    /// How often it went wrong.
    sink_failures: u64,
    urgent: bool,
    closing: bool,
    closed: bool,
}

impl Recorder {
    pub(super) fn new(clock: Clock, enabled: bool, capacity: usize) -> Self {
        let threads = std::thread::available_parallelism().map_or(4, usize::from);
        let queues = (2 * threads).next_power_of_two();
        Self {
            queues: (0..queues).map(|_| Mutex::default()).collect(),
            capacity,
            free: AtomicUsize::new(capacity),
            enabled,
            has_sink: false,
            rehashing: Rehashing::default(),
            clock,
            control: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
        }
    }

    /// Keeps for a sink what nothing is stored of.
    pub(super) fn with_sink(self, has_sink: bool) -> Self {
        Self { has_sink, ..self }
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.enabled
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Takes a request by a known key; `path` as it is to be stored.
    #[inline]
    pub(super) fn record(&self, event: UsageEvent, path: &[u8]) {
        if !self.enabled {
            return;
        }
        let mut queue = self.queue().lock();
        if self.reserve(&mut queue) {
            queue.batch.paths.extend_from_slice(path);
            queue.batch.events.push(event);
        }
    }

    /// Takes room for one event, or counts it as dropped.
    #[inline]
    fn reserve(&self, queue: &mut Queue) -> bool {
        if queue.room == 0 {
            let claimed = self.claim();
            if claimed == 0 {
                queue.batch.dropped += 1;
                return false;
            }
            queue.room = claimed;
        }
        queue.room -= 1;
        true
    }

    /// Takes room for some events, as long as there is any.
    #[cold]
    fn claim(&self) -> usize {
        let take = |free: usize| Some(free.saturating_sub(CLAIM));
        let free = self
            .free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .unwrap_or_default();
        let claimed = free.min(CLAIM);
        let mark = self.capacity - BATCH.min(self.capacity / 4);
        if free >= mark && free - claimed < mark {
            self.hurry();
        }
        claimed
    }

    /// Takes a refusal that named no known key, of a request from `ip`: it is counted, and single
    /// ones go to a sink alone.
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
        // A flood of these takes no room from requests by known keys but its share.
        let share = self.capacity / KEYLESS_SHARE / self.queues.len();
        let is_above = queue.keyless.len() >= share.max(1);
        if self.has_sink && is_above {
            queue.batch.dropped += 1;
        } else if self.has_sink && self.reserve(&mut queue) {
            queue.keyless.push(Usage {
                at,
                key_id: None,
                method: request.method,
                path: path::stored(request.path).to_owned(),
                ip,
                status: status(reason),
                latency: Duration::ZERO,
                refused: Some(reason),
            });
        }
        let minute = at.minute();
        let refusals = &mut queue.batch.refusals;
        if refusals.last().is_none_or(|(last, _)| *last != minute) {
            refusals.push((minute, [0; Reason::COUNT]));
        }
        if let Some((_, counts)) = refusals.last_mut() {
            counts[reason as usize] += 1;
        }
    }

    /// Counts what shadow mode let through, by the names of what would have refused.
    #[inline]
    pub(super) fn count_shadowed(&self, names: &[String]) {
        if !self.enabled || names.is_empty() {
            return;
        }
        let shadowed = &mut self.queue().lock().batch.shadowed;
        for name in names {
            match shadowed.iter_mut().find(|(known, _)| known == name) {
                Some((_, count)) => *count += 1,
                None => shadowed.push((name.clone(), 1)),
            }
        }
    }

    /// Waits until all that was recorded before is stored, and was offered to the sink.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        let control = self.wait_for_writer(false);
        outcome(&control.failure).and(outcome(&control.sink_failure))
    }

    /// Waits until all that was recorded before is stored, whether or not the sink takes it.
    pub(crate) fn flush_store(&self) -> Result<(), StoreError> {
        outcome(&self.wait_for_writer(false).failure)
    }

    /// Has the writer store all and end. What is recorded later is lost.
    pub(super) fn close(&self) -> Result<(), StoreError> {
        let control = self.wait_for_writer(true);
        outcome(&control.failure).and(outcome(&control.sink_failure))
    }

    /// How often the sink has failed.
    pub(crate) fn sink_failures(&self) -> u64 {
        self.control.lock().sink_failures
    }

    fn wait_for_writer(&self, closing: bool) -> MutexGuard<'_, Control> {
        let mut control = self.control.lock();
        control.asked += 1;
        control.closing |= closing;
        let ticket = control.asked;
        self.work.notify_one();
        while control.done < ticket && !control.closed {
            self.done.wait(&mut control);
        }
        control
    }

    fn hurry(&self) {
        self.control.lock().urgent = true;
        self.work.notify_one();
    }

    #[inline]
    fn queue(&self) -> &Mutex<Queue> {
        thread_local!(static THREAD: Cell<usize> = const { Cell::new(usize::MAX) });
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let thread = THREAD.with(|thread| {
            if thread.get() == usize::MAX {
                thread.set(NEXT.fetch_add(1, Ordering::Relaxed));
            }
            thread.get()
        });
        &self.queues[thread & (self.queues.len() - 1)]
    }
}

fn outcome(failure: &Option<String>) -> Result<(), StoreError> {
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

/// The thread that writes what a [`Recorder`] takes. It also does maintenance: it stores balances, locks
/// and keys of the Python package anew, deletes expired usage, frees idle counters and follows the system's
/// calendar.
pub(super) struct Writer {
    backends: Arc<Backends>,
    store: Arc<dyn Store>,
    lockouts: Arc<Lockouts>,
    policies: Arc<PolicyReloader>,
    retention: Duration,
    outlet: Option<Outlet>,
    /// An emptied queue's memory, to be swapped in for a full one.
    spare: UsageBatch,
    /// What could not be stored, to be tried again.
    batch: UsageBatch,
    next_prune: Moment,
    /// Looked at as often as expired usage is looked for.
    calendar: CalendarCheck,
}

impl Writer {
    pub(super) fn spawn(
        backends: Arc<Backends>,
        store: Arc<dyn Store>,
        lockouts: Arc<Lockouts>,
        policies: Arc<PolicyReloader>,
        retention: Duration,
        outlet: Option<Outlet>,
    ) -> std::io::Result<JoinHandle<()>> {
        let writer = Self {
            backends,
            store,
            lockouts,
            policies,
            retention,
            spare: UsageBatch::default(),
            batch: UsageBatch {
                has_rows_elsewhere: outlet.as_ref().is_some_and(|outlet| outlet.is_only),
                ..UsageBatch::default()
            },
            outlet,
            next_prune: Moment::default(),
            calendar: CalendarCheck::default(),
        };
        std::thread::Builder::new()
            .name("keyguard-writer".into())
            .spawn(|| writer.run())
    }

    fn run(mut self) {
        let _end = End(Arc::clone(&self.backends.recorder));
        let mut done = 0;
        loop {
            let (asked, closing) = self.wait_for_work();
            // Whoever waits for a flush does not wait for the next attempt too.
            let is_waited_for = closing || asked != std::mem::replace(&mut done, asked);
            self.store.recover(is_waited_for);
            let mut result = self.store_all().and(self.rehash());
            if closing {
                result = result.and(self.save_windows());
            }
            let offered = self.outlet.as_mut().map_or(Ok(()), Outlet::hand_out);
            let sink_failure = offered.err().map(|error| error.to_string());
            self.warn_of_sink(sink_failure.as_deref());
            self.maintain();
            self.lockouts.warnings().log_new();
            let mut control = self.backends.recorder.control.lock();
            control.done = asked;
            control.failure = result.err().map(|error| error.cause());
            control.sink_failures += u64::from(sink_failure.is_some());
            control.sink_failure = sink_failure;
            drop(control);
            self.backends.recorder.done.notify_all();
            if closing {
                self.lockouts.warnings().log_rest(LOGGED_WITHIN);
                return;
            }
        }
    }

    /// Sleeps until usage is due or somebody cannot wait; returns the number of the last flush
    /// asked for, and whether there is to be none after it.
    fn wait_for_work(&self) -> (u64, bool) {
        let mut control = self.backends.recorder.control.lock();
        if control.asked == control.done && !control.urgent {
            self.backends.recorder.work.wait_for(&mut control, INTERVAL);
        }
        control.urgent = false;
        (control.asked, control.closing)
    }

    /// Stores what failed before, and then what has come since. While that cannot be stored,
    /// requests fill their queues and then are dropped and counted, so that memory stays bounded.
    fn store_all(&mut self) -> Result<(), StoreError> {
        if !self.batch.is_empty() {
            self.store_batch()?;
        }
        self.collect();
        self.store_batch()
    }

    fn store_batch(&mut self) -> Result<(), StoreError> {
        let _storing = self.lockouts.storing();
        self.batch.now = self.backends.recorder.clock.timestamp();
        self.batch.locks = self.lockouts.take_changes();
        let changed = self.backends.limiter.take_changed();
        self.batch.balances.clear();
        let rows = changed
            .iter()
            .map(|group| (group.id(), group.take_balances()));
        let rows = rows.filter(|(_, balances)| !balances.is_empty());
        self.batch.balances.extend(rows);
        if self.batch.is_empty() {
            return Ok(());
        }
        match self.store.record(&self.batch) {
            Ok(()) => {
                self.batch.clear();
                Ok(())
            }
            Err(error) => {
                self.backends.limiter.return_changed(changed);
                let locks = std::mem::take(&mut self.batch.locks);
                self.lockouts.return_changes(locks);
                self.batch.balances.clear();
                Err(error)
            }
        }
    }

    /// Stores keys of the Python package that were used under our own hash.
    fn rehash(&self) -> Result<(), StoreError> {
        let recorder = &self.backends.recorder;
        let now = recorder.clock.timestamp();
        recorder.rehashing.store(&*self.store, now)
    }

    /// Stores what an orderly stop leaves of windows, some thousand groups at a time.
    fn save_windows(&self) -> Result<(), StoreError> {
        const MANY: usize = 4_096;
        let (limiter, clock) = (&self.backends.limiter, self.backends.recorder.clock());
        let (mut sets, mut addresses) = (Vec::new(), Vec::new());
        for part in 0.. {
            let Some(more) = limiter.windows(part) else {
                break;
            };
            addresses.extend(more.addresses);
            sets.extend(more.sets);
            if sets.len() >= MANY {
                self.store
                    .save_windows(std::mem::take(&mut sets), clock.timestamp())?;
            }
        }
        self.store.save_windows(sets, clock.timestamp())?;
        self.store.save_ip_counters(addresses)
    }

    /// Empties the queues into the batch.
    fn collect(&mut self) {
        for queue in &self.backends.recorder.queues {
            let (unused, keyless) = {
                let mut queue = queue.lock();
                std::mem::swap(&mut queue.batch, &mut self.spare);
                let keyless = std::mem::take(&mut queue.keyless);
                (std::mem::take(&mut queue.room), keyless)
            };
            let room = self.spare.events.len() + keyless.len() + unused;
            self.backends
                .recorder
                .free
                .fetch_add(room, Ordering::Relaxed);
            if let Some(outlet) = &mut self.outlet {
                self.spare.dropped += outlet.take(&self.spare, keyless);
            }
            self.batch.append(&mut self.spare);
        }
    }

    fn warn_of_sink(&self, failure: Option<&str>) {
        let warning = failure.map(|failure| {
            format!("the usage sink does not take requests, which wait for it: {failure}")
        });
        self.lockouts.warnings().set(Topic::Sink, warning);
    }

    fn maintain(&mut self) {
        let clock = self.backends.recorder.clock();
        clock.resync();
        self.policies.reload_if_signalled();
        #[cfg(feature = "http")]
        self.policies.warn_of_mounts();
        self.backends.limiter.sweep();
        let now = clock.now();
        if now >= self.next_prune {
            self.next_prune = Moment::from_nanos(now.nanos() + PRUNE_INTERVAL.as_nanos() as u64);
            let timestamp = clock.timestamp_at(now);
            // What a wrong clock deletes is gone for good.
            if self.calendar.is_steady(now, timestamp) {
                self.lockouts.expire(timestamp);
                // A failure shows in the next batch of usage; the next round tries again.
                let _ = self.store.prune(timestamp.minus(self.retention), timestamp);
            }
        }
    }
}

/// Marks the writer as ended when it is dropped, so that nobody waits for one that panicked.
struct End(Arc<Recorder>);

impl Drop for End {
    fn drop(&mut self) {
        let mut control = self.0.control.lock();
        control.closed = true;
        if std::thread::panicking() {
            control.failure = Some("the thread that stores usage panicked".into());
        }
        drop(control);
        self.0.done.notify_all();
    }
}

/// Single requests on their way to a sink.
pub(super) struct Outlet {
    sink: SharedSink,
    waiting: Vec<Usage>,
    /// How many may wait.
    most: usize,
    /// Whether they are not also stored.
    is_only: bool,
}

impl Outlet {
    pub(super) fn new(sink: Option<SharedSink>, most: usize, is_only: bool) -> Option<Self> {
        sink.map(|sink| Self {
            sink,
            waiting: Vec::new(),
            most,
            is_only,
        })
    }

    /// Has the events of a queue wait, in the order of their times; returns how many there is no
    /// room for.
    fn take(&mut self, batch: &UsageBatch, mut keyless: Vec<Usage>) -> u64 {
        let mut paths = batch.paths.as_slice();
        let start = self.waiting.len();
        let room = self.most.saturating_sub(start);
        for event in batch.events.iter().take(room) {
            let (path, rest) = paths.split_at(paths.len().min(event.path_len.into()));
            paths = rest;
            self.waiting.push(event.to_usage(path));
        }
        let offered = batch.events.len() + keyless.len();
        keyless.truncate(self.most.saturating_sub(self.waiting.len()));
        if !keyless.is_empty() {
            self.waiting.append(&mut keyless);
            self.waiting[start..].sort_by_key(|usage| usage.at);
        }
        offered.saturating_sub(room) as u64
    }

    /// Offers all that waits. What is not taken goes on waiting.
    fn hand_out(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.sink.write(&self.waiting)?;
        self.waiting.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
