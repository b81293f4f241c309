//! The thread that stores usage.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;

use super::Recorder;
use super::channel::Part;
use super::decision_log::DecisionLog;
use super::event_source::EventSource;
use super::health_log::HealthLog;
use super::outlet::Outlet;
use crate::guard::active_locks::ActiveLocks;
use crate::guard::cached_key::GrantBackends;
use crate::guard::policy_reloader::PolicyReloader;
use crate::guard::warnings::{Topic, WarningKind, Warnings};
use crate::log::Log;
use crate::model::WebhookEvent;
use crate::policy::path;
use crate::store::{AuditContext, StoreError, UsageBatch, UsageStore};
use crate::time::{CalendarCheck, Moment, Timestamp};

/// The longest time before usage is written.
const INTERVAL: Duration = Duration::from_millis(200);

/// The longest time that a stop waits for a log.
const LOGGED_WITHIN: Duration = Duration::from_secs(1);

const DROPPED_BY_SINK: &str = "requests were not written to the sink, because it is too slow; `stats` counts them as \
    `not recorded`";

const DROPPED: &str = "requests were not recorded, because too many were pending; `stats` counts them as `not \
    recorded`: raise `Config::usage_queue_capacity`, or use a faster disk";

/// How often expired usage is deleted.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);

/// The thread that stores what a [`Recorder`] has. It also does maintenance: it stores balances,
/// locks and rehashed keys of the Python package, deletes expired usage, frees idle counters and follows
/// the system's calendar.
pub(in crate::guard) struct Writer {
    pub(in crate::guard) backends: Arc<GrantBackends>,
    pub(in crate::guard) store: Arc<dyn UsageStore>,
    pub(in crate::guard) locks: Arc<ActiveLocks>,
    pub(in crate::guard) warnings: Arc<Warnings>,
    pub(in crate::guard) policy_reloader: Arc<PolicyReloader>,
    pub(in crate::guard) retention: Duration,
    pub(in crate::guard) outlet: Option<Outlet>,
    /// `None` without webhooks.
    pub(in crate::guard) events: Option<EventSource>,
    pub(in crate::guard) state: WriterState,
}

/// What a writer keeps from one round to the next.
pub(in crate::guard) struct WriterState {
    /// Empty between two batches.
    parts: Vec<Part>,
    /// Usage that is not stored yet. After a failure it stays as it was, because it may be stored nevertheless.
    batch: UsageBatch,
    /// Events of the next batch.
    next_events: Vec<WebhookEvent>,
    next_prune: Moment,
    /// Checked before expired usage is deleted.
    calendar: CalendarCheck,
    log: Log,
    decision_log: DecisionLog,
    health_log: HealthLog,
}

impl WriterState {
    pub(in crate::guard) fn new(log: Log) -> Self {
        Self {
            parts: Vec::new(),
            batch: UsageBatch::default(),
            next_events: Vec::new(),
            next_prune: Moment::default(),
            calendar: CalendarCheck::default(),
            decision_log: DecisionLog::new(log.clone()),
            health_log: HealthLog::new(log.clone()),
            log,
        }
    }
}

impl Writer {
    /// Starts the thread.
    pub(in crate::guard) fn spawn(self) -> std::io::Result<Option<JoinHandle<()>>> {
        #[cfg(all(test, feature = "postgres", feature = "redis", not(loom)))]
        if crate::sys::simulation::is_active() {
            let mut writer = self;
            crate::sys::simulation::keep_writer(move || {
                let result = writer.round(true, false).result;
                result.map_err(|error| error.cause())
            });
            return Ok(None);
        }
        let thread = std::thread::Builder::new().name("keyguard-writer".into());
        thread.spawn(|| self.run()).map(Some)
    }

    pub(super) fn run(mut self) {
        let _end = End(Arc::clone(&self.backends.recorder));
        let mut done = 0;
        loop {
            let (requested, closing) = self.wait_for_work();
            // A waiting flush makes the store reconnect at once.
            let is_waited_for = closing || requested != std::mem::replace(&mut done, requested);
            let Round {
                result,
                sink_failure,
            } = self.round(is_waited_for, closing);
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

    /// Stores everything recorded before, and does maintenance.
    pub(super) fn round(&mut self, is_waited_for: bool, closing: bool) -> Round {
        self.store.recover(is_waited_for);
        let mut result = self.store_all().and(self.rehash());
        if closing {
            result = result
                .map_err(|error| unstored("usage was lost", &error))
                .and_then(|()| {
                    let saved = self.save_windows();
                    saved.map_err(|error| {
                        unstored("only the windows of rate limits were lost", &error)
                    })
                });
        }
        let offered = self.outlet.as_mut().map_or(Ok(()), Outlet::write);
        let sink_failure = offered.err().map(|error| error.to_string());
        self.warn_of_sink(sink_failure.as_deref());
        // Otherwise the audit entry would not be stored either, and the signal waits.
        if result.is_ok() {
            self.reload_policy_if_signalled();
        }
        self.maintain();
        self.note_fault(result.as_ref().err());
        self.log(result.as_ref().err(), closing);
        self.warnings.log_new();
        #[cfg(any(feature = "metrics", feature = "serve"))]
        if result.is_err() {
            self.backends.recorder.counts.lock().write_failures += 1;
        }
        Round {
            result,
            sink_failure,
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

    /// Stores the batch that failed before, then what was recorded since. While the store fails, nothing is
    /// collected and further events are dropped and counted, so that memory is bounded.
    pub(super) fn store_all(&mut self) -> Result<(), StoreError> {
        if !self.state.batch.is_empty() {
            self.store_batch(true)?;
        }
        self.collect();
        self.add_events();
        self.store_batch(false)
    }

    /// Stores the batch, which may have failed before. Then it keeps its locks, and changes since then follow with
    /// the next batch.
    fn store_batch(&mut self, has_failed: bool) -> Result<(), StoreError> {
        let _storing = self.locks.storing();
        let batch = &mut self.state.batch;
        batch.now = self.backends.recorder.clock.timestamp();
        match has_failed {
            true => self.locks.refresh(&mut batch.locks),
            false => batch.locks = self.locks.take_changes(),
        }
        let changed = self.backends.limiter.take_changed();
        batch.balances.clear();
        let rows = changed.iter().map(|set| (set.id(), set.take_balances()));
        let rows = rows.filter(|(_, balances)| !balances.is_empty());
        batch.balances.extend(rows);
        if batch.is_empty() {
            return Ok(());
        }
        match self.store.record(batch) {
            Ok(()) => {
                batch.clear();
                Ok(())
            }
            Err(error) => {
                self.backends.limiter.return_changed(changed);
                batch.balances.clear();
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

    /// Stores the windows at an orderly stop.
    fn save_windows(&self) -> Result<(), StoreError> {
        let (limiter, clock) = (&self.backends.limiter, self.backends.recorder.clock());
        self.store.delete_ended_windows(clock.timestamp())?;
        let mut ip_windows = Vec::new();
        let parts = (0..).map_while(|part| limiter.windows(part));
        let mut sets = parts.flat_map(|part| {
            ip_windows.extend(part.ip_windows);
            part.sets
        });
        self.store.save_windows(&mut sets)?;
        drop(sets);
        self.store.save_ip_windows(ip_windows)
    }

    /// Moves everything recorded into the batch, which is empty.
    fn collect(&mut self) {
        let (recorder, state) = (&self.backends.recorder, &mut self.state);
        #[cfg(any(feature = "metrics", feature = "serve"))]
        let mut counts = recorder.counts.lock();
        recorder.take_events(&mut state.parts, &mut state.batch);
        let (mut keyless, mut samples) = recorder.take_counts(&mut state.batch);
        // Before anything else sees them.
        state.batch.replace_paths(path::without_keys);
        for usage in keyless.iter_mut().chain(&mut samples) {
            usage.path = path::shown(&usage.path);
        }
        recorder
            .tail
            .add(&state.batch, &keyless, recorder.clock.now());
        if state.batch.dropped > 0 {
            self.warnings.add_of(WarningKind::Usage, DROPPED);
        }
        if let Some(outlet) = &mut self.outlet {
            state.batch.has_rows_elsewhere = outlet.is_only;
            let dropped = outlet.take(&state.batch, keyless);
            if dropped > 0 {
                self.warnings.add_of(WarningKind::Usage, DROPPED_BY_SINK);
            }
            state.batch.dropped += dropped;
        }
        #[cfg(any(feature = "metrics", feature = "serve"))]
        counts.add(&state.batch);
        state.decision_log.add(&state.batch, samples);
    }

    /// Adds what webhooks are told to the batch: limits that are nearly or wholly used, and keys that were used by
    /// a replaced text.
    fn add_events(&mut self) {
        let recorder = &self.backends.recorder;
        let old_texts = recorder.take_old_texts();
        if let Some(events) = &mut self.events {
            let now = recorder.clock.timestamp();
            let batch = &mut self.state.batch;
            batch.webhook_events.append(&mut self.state.next_events);
            events.observe_limits(batch, &**self.backends.limiter, now);
            events.observe_old_texts(batch, &old_texts, now);
        }
    }

    /// Adds the begin of a fault of the store to the next batch, which is written after it.
    fn note_fault(&mut self, failure: Option<&StoreError>) {
        if let Some(events) = &mut self.events {
            let fault = self.store.fault();
            let fault = fault.or_else(|| failure.map(StoreError::cause));
            let now = self.backends.recorder.clock.timestamp();
            events.observe_fault(&mut self.state.next_events, fault.as_deref(), now);
        }
    }

    /// Logs refusals, drops and faults, among them that usage cannot be stored.
    fn log(&mut self, failure: Option<&StoreError>, is_last: bool) {
        if !self.state.log.has_output() {
            return;
        }
        let now = self.backends.recorder.clock().now();
        let servers = [self.store.health(), self.backends.limiter.status().health];
        let servers: Vec<_> = servers.into_iter().flatten().collect();
        self.state.decision_log.log_due(now, is_last);
        let fault = self.store.fault();
        let fault = fault.or_else(|| failure.map(StoreError::cause));
        self.state.health_log.update(fault, &servers);
    }

    fn warn_of_sink(&self, failure: Option<&str>) {
        let warning =
            failure.map(|failure| format!("the usage sink fails; requests are queued: {failure}"));
        self.warnings.set(Topic::Sink, warning);
    }

    /// Warns of the last step of the calendar clock.
    fn warn_of_clock(&self, now: Timestamp) {
        let warning = format!(
            "the calendar clock was set, or the machine slept: at {now} it had moved by more than a second \
             against the monotonic clock; expiry times and quotas follow it"
        );
        self.warnings.set(Topic::Clock, Some(warning));
    }

    fn reload_policy_if_signalled(&self) {
        let clock = self.backends.recorder.clock();
        self.policy_reloader.reload_if_signalled(|| {
            let details = json!({ "signal": "SIGHUP" });
            let audit = AuditContext {
                log: self.state.log.clone(),
                ..AuditContext::of_program(clock.timestamp(), "reload", details)
            };
            self.store.append_audit(&audit)
        });
    }

    pub(super) fn maintain(&mut self) {
        let clock = self.backends.recorder.clock();
        clock.resync();
        #[cfg(feature = "http")]
        self.policy_reloader.warn_of_mounts();
        self.backends.limiter.sweep();
        let now = clock.now();
        if now >= self.state.next_prune {
            self.state.next_prune = now.plus(PRUNE_INTERVAL);
            let timestamp = clock.timestamp_at(now);
            let is_first = self.state.calendar.is_new();
            // A wrong clock must not delete anything.
            if !self.state.calendar.is_steady(now, timestamp) {
                if !is_first {
                    self.warn_of_clock(timestamp);
                }
            } else {
                self.locks.expire(timestamp);
                // A failure shows in the next batch of usage, and the next round tries again.
                let _ = self.store.prune(timestamp.minus(self.retention), timestamp);
                // Otherwise they wait for a batch, which may fail, and would be found again each time.
                if let Some(events) = &self.events
                    && self.state.next_events.is_empty()
                {
                    events.observe_expiries(&mut self.state.next_events, timestamp);
                }
            }
        }
    }
}

/// The outcome of one round of the writer.
pub(super) struct Round {
    pub(super) result: Result<(), StoreError>,
    sink_failure: Option<String>,
}

/// The error of a stop that did not store everything.
fn unstored(what: &str, error: &StoreError) -> StoreError {
    StoreError::Unavailable(format!("{what}: {}", error.cause()).into())
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
