//! Recording of usage: requests add it to queues, a thread writes it to the store in batches.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::active_locks::ActiveLocks;
use super::key_cache::GrantBackends;
use super::legacy::Rehashing;
use super::policy_reloader::PolicyReloader;
use super::request::Request;
use super::warnings::{Topic, Warnings};
use crate::model::{Reason, Usage};
use crate::net::ClientIp;
use crate::policy::path;
use crate::sink::SharedSink;
use crate::store::{StoreError, UsageBatch, UsageEvent, UsageStore};
use crate::time::{CalendarCheck, Clock, Moment};

/// The longest time before usage is written.
const INTERVAL: Duration = Duration::from_millis(200);

/// The longest time that a stop waits for a log.
const LOGGED_WITHIN: Duration = Duration::from_secs(1);

/// How often expired usage is deleted.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);

/// The queues of usage. Each thread shares its queue with few others.
pub(crate) struct Recorder {
    queues: Box<[Mutex<Queue>]>,
    capacity: usize,
    /// The part of `capacity` that no queue has claimed.
    free: AtomicUsize,
    enabled: bool,
    /// Whether a sink gets all requests, including those without a known key.
    has_sink: bool,
    pub(super) rehashing: Rehashing,
    clock: Clock,
    control: Mutex<Control>,
    /// Wakes the writer.
    work: Condvar,
    /// Wakes the threads that wait for the writer.
    done: Condvar,
}

/// The share of the capacity for refusals without a known key: one in this many events.
const KEYLESS_SHARE: usize = 4;

/// The number of events for which a queue claims room at a time.
const CLAIM: usize = 256;

/// The number of events that wake the writer. They fit into the cache of a processor.
const BATCH: usize = 16_384;

#[derive(Default)]
#[repr(align(128))]
struct Queue {
    batch: UsageBatch,
    /// Refusals without a known key, for the sink only.
    keyless: Vec<Usage>,
    /// The number of events that still fit.
    room: usize,
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

    /// Also keeps the requests that only a sink gets.
    pub(super) fn with_sink(self, has_sink: bool) -> Self {
        Self { has_sink, ..self }
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.enabled
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Records a request with a known key; `path` as it is stored.
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

    /// Reserves room for one event, or counts it as dropped.
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

    /// Claims room for some events, if there is any.
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
            self.wake_writer();
        }
        claimed
    }

    /// Records a refusal without a known key, of a request from `ip`: counts it by reason, and keeps it for
    /// a sink.
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
                status: reason.status(),
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
        let shadow_denied = &mut self.queue().lock().batch.shadow_denied;
        for name in names {
            match shadow_denied.iter_mut().find(|(known, _)| known == name) {
                Some((_, count)) => *count += 1,
                None => shadow_denied.push((name.clone(), 1)),
            }
        }
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

/// The thread that writes the queues of a [`Recorder`]. It also does maintenance: it stores balances,
/// locks and rehashed keys of the Python package, deletes expired usage, frees idle counters and follows
/// the system's calendar.
pub(super) struct Writer {
    backends: Arc<GrantBackends>,
    store: Arc<dyn UsageStore>,
    locks: Arc<ActiveLocks>,
    warnings: Arc<Warnings>,
    policy_reloader: Arc<PolicyReloader>,
    retention: Duration,
    outlet: Option<Outlet>,
    /// An empty batch, to be swapped with that of a queue.
    spare: UsageBatch,
    /// Usage that is not stored yet.
    batch: UsageBatch,
    next_prune: Moment,
    /// Checked before expired usage is deleted.
    calendar: CalendarCheck,
}

impl Writer {
    pub(super) fn spawn(
        backends: Arc<GrantBackends>,
        store: Arc<dyn UsageStore>,
        locks: Arc<ActiveLocks>,
        warnings: Arc<Warnings>,
        policy_reloader: Arc<PolicyReloader>,
        retention: Duration,
        outlet: Option<Outlet>,
    ) -> std::io::Result<JoinHandle<()>> {
        let writer = Self {
            backends,
            store,
            locks,
            warnings,
            policy_reloader,
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
            let (requested, closing) = self.wait_for_work();
            // A waiting flush makes the store reconnect at once.
            let is_waited_for = closing || requested != std::mem::replace(&mut done, requested);
            self.store.recover(is_waited_for);
            let mut result = self.store_all().and(self.rehash());
            if closing {
                result = result.and(self.save_windows());
            }
            let offered = self.outlet.as_mut().map_or(Ok(()), Outlet::write);
            let sink_failure = offered.err().map(|error| error.to_string());
            self.warn_of_sink(sink_failure.as_deref());
            self.maintain();
            self.warnings.log_new();
            let mut control = self.backends.recorder.control.lock();
            control.done = requested;
            control.failure = result.err().map(|error| error.cause());
            control.sink_failures += u64::from(sink_failure.is_some());
            control.sink_failure = sink_failure;
            drop(control);
            self.backends.recorder.done.notify_all();
            if closing {
                self.warnings.log_rest(LOGGED_WITHIN);
                return;
            }
        }
    }

    /// Waits until usage is due or a flush is requested. Returns the number of the last requested flush,
    /// and whether the writer is to end after it.
    fn wait_for_work(&self) -> (u64, bool) {
        let mut control = self.backends.recorder.control.lock();
        if control.requested == control.done && !control.urgent {
            self.backends.recorder.work.wait_for(&mut control, INTERVAL);
        }
        control.urgent = false;
        (control.requested, control.closing)
    }

    /// Stores the batch that failed before, then the queues. While the store fails, the queues fill up and
    /// further events are dropped and counted, so that memory is bounded.
    fn store_all(&mut self) -> Result<(), StoreError> {
        if !self.batch.is_empty() {
            self.store_batch()?;
        }
        self.collect();
        self.store_batch()
    }

    fn store_batch(&mut self) -> Result<(), StoreError> {
        let _storing = self.locks.storing();
        self.batch.now = self.backends.recorder.clock.timestamp();
        self.batch.locks = self.locks.take_changes();
        let changed = self.backends.limiter.take_changed();
        self.batch.balances.clear();
        let rows = changed.iter().map(|set| (set.id(), set.take_balances()));
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
                self.locks.return_changes(locks);
                self.batch.balances.clear();
                Err(error)
            }
        }
    }

    /// Rehashes used keys of the Python package.
    fn rehash(&self) -> Result<(), StoreError> {
        let recorder = &self.backends.recorder;
        let now = recorder.clock.timestamp();
        recorder.rehashing.store(&*self.store, now)
    }

    /// Stores the windows at an orderly stop, some thousand counter sets at a time.
    fn save_windows(&self) -> Result<(), StoreError> {
        const MANY: usize = 4_096;
        let (limiter, clock) = (&self.backends.limiter, self.backends.recorder.clock());
        self.store.delete_ended_windows(clock.timestamp())?;
        let (mut sets, mut ip_windows) = (Vec::new(), Vec::new());
        for part in 0.. {
            let Some(more) = limiter.windows(part) else {
                break;
            };
            ip_windows.extend(more.ip_windows);
            sets.extend(more.sets);
            if sets.len() >= MANY {
                self.store.save_windows(std::mem::take(&mut sets))?;
            }
        }
        self.store.save_windows(sets)?;
        self.store.save_ip_windows(ip_windows)
    }

    /// Moves the queues into the batch.
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
        let warning =
            failure.map(|failure| format!("the usage sink fails; requests are queued: {failure}"));
        self.warnings.set(Topic::Sink, warning);
    }

    fn maintain(&mut self) {
        let clock = self.backends.recorder.clock();
        clock.resync();
        self.policy_reloader.reload_if_signalled();
        #[cfg(feature = "http")]
        self.policy_reloader.warn_of_mounts();
        self.backends.limiter.sweep();
        let now = clock.now();
        if now >= self.next_prune {
            self.next_prune = Moment::from_nanos(now.nanos() + PRUNE_INTERVAL.as_nanos() as u64);
            let timestamp = clock.timestamp_at(now);
            // A wrong clock must not delete anything.
            if self.calendar.is_steady(now, timestamp) {
                self.locks.expire(timestamp);
                // A failure shows in the next batch of usage, and the next round tries again.
                let _ = self.store.prune(timestamp.minus(self.retention), timestamp);
            }
        }
    }
}

/// Marks the writer as ended when dropped, so that no thread waits for a writer that panicked.
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

/// Single requests for a sink.
pub(super) struct Outlet {
    sink: SharedSink,
    waiting: Vec<Usage>,
    capacity: usize,
    /// Whether the requests are not stored as well.
    is_only: bool,
}

impl Outlet {
    pub(super) fn new(sink: Option<SharedSink>, capacity: usize, is_only: bool) -> Option<Self> {
        sink.map(|sink| Self {
            sink,
            waiting: Vec::new(),
            capacity,
            is_only,
        })
    }

    /// Adds the events of a queue. Returns the number of events without room.
    fn take(&mut self, batch: &UsageBatch, mut keyless: Vec<Usage>) -> u64 {
        let mut paths = batch.paths.as_slice();
        let start = self.waiting.len();
        let room = self.capacity.saturating_sub(start);
        for event in batch.events.iter().take(room) {
            let (path, rest) = paths.split_at(paths.len().min(event.path_len.into()));
            paths = rest;
            self.waiting.push(event.to_usage(path));
        }
        let offered = batch.events.len() + keyless.len();
        keyless.truncate(self.capacity.saturating_sub(self.waiting.len()));
        if !keyless.is_empty() {
            // The others are in order.
            self.waiting.append(&mut keyless);
            self.waiting[start..].sort_by_key(|usage| usage.at);
        }
        offered.saturating_sub(room) as u64
    }

    /// Writes all waiting requests to the sink. They are kept if that fails.
    fn write(&mut self) -> io::Result<()> {
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
