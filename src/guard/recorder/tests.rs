use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;

use super::*;
use crate::counter::{Rule, SavedIpWindow, SavedValue, Subject, SubjectId};
use crate::guard::active_locks::ActiveLocks;
use crate::guard::backends;
use crate::guard::cached_key::GrantBackends;
use crate::guard::config::Config;
use crate::guard::policy_reloader::{PolicyHandle, PolicyReloader};
use crate::guard::revisions::Revisions;
use crate::guard::storage::Storage;
use crate::limit::Limit;
use crate::limiter::{AnyLimiter, CounterSet, CounterSets, Demand, MemoryLimiter, Subjects};
use crate::lockout::{AuthFailure, LockChange};
use crate::log::Log;
use crate::model::{EventType, HashedKey, KeyId, Method, OrgId, Secret};
use crate::net::{ClientIp, IpKey};
use crate::policy::{CompiledPolicy, Policy};
use crate::store::{
    AuditContext, Minute, NewCredential, NewKey, Rehash, SavedSet, Store, UsageStore,
};
use crate::sys::{Deadline, block_on};
use crate::time::{ManualClock, TimeZone, Timestamp};

/// The start of a minute.
const START: Timestamp = Timestamp::from_unix_millis(1_800_057_600_000);
const MINUTE: Duration = Duration::from_secs(60);

/// A store in memory that can fail like a full disk.
#[derive(Default)]
struct Disk {
    is_full: AtomicBool,
    panics: AtomicBool,
    refuses_windows: AtomicBool,
    stored: Mutex<Stored>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Stored {
    /// The status of each request, and its path.
    requests: Vec<(u16, String)>,
    refusals: BTreeMap<Minute, [u64; Reason::COUNT]>,
    balances: BTreeMap<u64, u64>,
    dropped: u64,
    locked: BTreeSet<IpKey>,
    /// The most rows of refusals that one batch had, stored or not.
    most_refusals: usize,
    pruned: Vec<(Timestamp, Timestamp)>,
    events: Vec<EventType>,
}

impl Disk {
    fn fill_up(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::SeqCst);
    }

    fn stored(&self) -> Stored {
        self.stored.lock().clone()
    }

    fn statuses(&self) -> Vec<u16> {
        let requests = self.stored().requests.into_iter();
        requests.map(|(status, _)| status).collect()
    }
}

impl UsageStore for Disk {
    fn record(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        assert!(!self.panics.load(Ordering::SeqCst), "the store panics");
        let mut stored = self.stored.lock();
        stored.most_refusals = stored.most_refusals.max(batch.refusals.len());
        if self.is_full.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("no space left".into()));
        }
        let mut paths = batch.paths.as_slice();
        for event in &batch.events {
            let path = paths.split_off(..event.path_len.into()).unwrap();
            let path = String::from_utf8(path.to_vec()).unwrap();
            stored.requests.push((event.status, path));
        }
        assert!(paths.is_empty(), "every path belongs to a request");
        for (minute, counts) in &batch.refusals {
            let sums = stored.refusals.entry(*minute).or_default();
            sums.iter_mut()
                .zip(counts)
                .for_each(|(sum, count)| *sum += count);
        }
        for (subject, balances) in &batch.balances {
            let used = balances.iter().map(|saved| match &saved.value {
                SavedValue::Balance(balance) => balance.used(),
                SavedValue::Hits(_) => panic!("a window is no balance"),
            });
            stored.balances.insert(subject.to_bits(), used.sum());
        }
        stored.dropped += batch.dropped;
        let kinds = batch.webhook_events.iter().map(|event| event.kind);
        stored.events.extend(kinds);
        for LockChange { id, lock } in &batch.locks {
            match lock {
                Some(_) => stored.locked.insert(id.ip),
                None => stored.locked.remove(&id.ip),
            };
        }
        Ok(())
    }

    fn prune(&self, raw_before: Timestamp, now: Timestamp) -> Result<(), StoreError> {
        self.stored.lock().pruned.push((raw_before, now));
        Ok(())
    }

    fn save_windows(&self, _: &mut dyn Iterator<Item = SavedSet>) -> Result<(), StoreError> {
        Ok(())
    }
    fn delete_ended_windows(&self, _: Timestamp) -> Result<(), StoreError> {
        match self.refuses_windows.load(Ordering::SeqCst) {
            true => Err(StoreError::Unavailable("no space left".into())),
            false => Ok(()),
        }
    }
    fn save_ip_windows(&self, _: Vec<SavedIpWindow>) -> Result<(), StoreError> {
        Ok(())
    }
    fn rehash(&self, _: &[Rehash], _: &AuditContext) -> Result<(), StoreError> {
        unimplemented!()
    }
    fn append_audit(&self, _: &AuditContext) -> Result<(), StoreError> {
        unimplemented!()
    }
}

/// A recorder over a [`Disk`] with a writer that the test drives.
struct World {
    clock: ManualClock,
    disk: Arc<Disk>,
    limiter: Arc<AnyLimiter>,
    recorder: Arc<Recorder>,
    locks: Arc<ActiveLocks>,
}

impl World {
    fn new() -> Self {
        Self::with(true)
    }

    fn with(enabled: bool) -> Self {
        let clock = ManualClock::starting_at(START);
        let config = Config::default().max_locks(16).lockout_threshold(1);
        Self {
            disk: Arc::default(),
            locks: Arc::new(ActiveLocks::new(&config, Arc::default())),
            limiter: Arc::new(AnyLimiter::Memory(MemoryLimiter::new(
                clock.clone().into(),
                TimeZone::utc(),
                16,
                16,
            ))),
            recorder: Arc::new(Recorder::new(clock.clone().into(), enabled, 16_384, false)),
            clock,
        }
    }

    fn writer(&self) -> Writer {
        Writer {
            backends: Arc::new(GrantBackends {
                recorder: Arc::clone(&self.recorder),
                limiter: Arc::clone(&self.limiter),
                rate_limit_headers: crate::guard::RateLimitHeaders::default(),
            }),
            store: Arc::clone(&self.disk) as _,
            locks: Arc::clone(&self.locks),
            warnings: Arc::default(),
            events: None,
            policy_reloader: Arc::new(PolicyReloader::new(
                Arc::new(PolicyHandle::new(
                    CompiledPolicy::new(Policy::default()).unwrap(),
                )),
                Arc::new(Revisions::new()),
                Arc::default(),
                None,
            )),
            retention: 10 * MINUTE,
            outlet: None,
            state: WriterState::new(Log::default()),
        }
    }

    /// A writer that works by itself.
    fn spawn(&self) -> JoinHandle<()> {
        self.writer().spawn().unwrap().unwrap()
    }

    /// Takes one from a month.
    fn consume(&self, key: &Arc<CounterSet>) {
        let monthly = Rule::new(Limit::monthly(1_000).unwrap(), Subject::Key);
        let sets = CounterSets {
            key,
            org: None,
            org_id: OrgId(1),
        };
        let rules: &[&[Rule]] = &[&[monthly]];
        let demand = Demand::new(Subjects::Key(sets), rules);
        let _ = block_on(self.limiter.admit(demand, &Deadline::default()).get());
    }

    fn refuse(&self, reason: Reason) {
        let headers: [(&str, &str); 0] = [];
        let request = Request::new(&headers, ClientIp::LOCAL, "/");
        self.recorder
            .record_keyless(&request, ClientIp::LOCAL, reason);
    }

    /// Records requests that are told apart by their status.
    fn record(&self, statuses: impl IntoIterator<Item = u16>) {
        for status in statuses {
            self.record_path(status, &path_of(status));
        }
    }

    fn record_path(&self, status: u16, path: &str) {
        let event = UsageEvent {
            at: self.clock.timestamp(),
            key_id: KeyId(1),
            ip: ClientIp::LOCAL,
            latency_micros: 0,
            status,
            path_len: path.len() as u16,
            method: Method::Get,
            refused: None,
        };
        self.recorder.record(&event, path.as_bytes());
    }
}

/// Paths differ in length, so a misplaced path is detected.
fn path_of(status: u16) -> String {
    "/".repeat(usize::from(status % 5))
}

fn causes(error: StoreError) -> String {
    error.describe()
}

#[test]
fn requests_are_stored_in_order_each_with_its_path() {
    let world = World::new();
    let mut writer = world.writer();
    world.record(0..100);
    writer.store_all().unwrap();
    world.record(100..200);
    writer.store_all().unwrap();
    writer.store_all().unwrap();
    let expected: Vec<_> = (0..200).map(|status| (status, path_of(status))).collect();
    assert_eq!(world.disk.stored().requests, expected);
}

#[test]
fn keys_in_paths_are_shortened_and_other_paths_stay_with_their_requests() {
    let world = World::new();
    let key = "kg_live_2loam6jy9PNDwjKpPpShaRI8k1BYhn-t0PeWeGdlHm03z7H35";
    let with_key = format!("/{key}/x");
    let paths = ["/a", &with_key, "/bc", &with_key, &with_key, "", "/d"];
    for (path, status) in paths.iter().zip(0..) {
        world.record_path(status, path);
    }
    world.recorder.follow(None, 1);
    world.writer().store_all().unwrap();
    let shown = paths.map(|path| path.replace(key, "kg_live_2loa…"));
    let stored = world.disk.stored().requests.into_iter();
    assert_eq!(stored.map(|(_, path)| path).collect::<Vec<_>>(), shown);
    let followed = world.recorder.follow(Some(0), 9).requests.into_iter();
    assert_eq!(followed.map(|usage| usage.path).collect::<Vec<_>>(), shown);
}

#[test]
fn unstored_usage_is_bounded_and_drops_are_counted() {
    let world = World::new();
    let mut writer = world.writer();
    world.disk.fill_up(true);
    world.record(0..3);
    writer.store_all().unwrap_err();
    let bound = world.recorder.capacity as u16;
    let sent = 2 * bound;
    world.record(3..sent);
    for _ in 0..10 {
        writer.store_all().unwrap_err();
    }
    assert_eq!(world.disk.stored().requests, []);

    world.disk.fill_up(false);
    writer.store_all().unwrap();
    let stored = world.disk.stored();
    let kept = stored.requests.len() as u16;
    // The chunk of this thread is full, too.
    assert!((bound..bound + 1_000).contains(&kept), "{kept} are kept");
    let expected: Vec<_> = (0..kept).map(|n| (n, path_of(n))).collect();
    assert_eq!(stored.requests, expected);
    assert_eq!(stored.dropped, u64::from(sent - kept));

    // Nothing is stored or counted twice, and there is room again.
    world.record(0..bound / 2);
    writer.store_all().unwrap();
    writer.store_all().unwrap();
    assert_eq!(world.disk.statuses().len(), usize::from(kept + bound / 2));
    assert_eq!(world.disk.stored().dropped, u64::from(sent - kept));
}

#[test]
fn refusals_are_counted_by_minute_and_reason_and_survive_a_failure() {
    let world = World::new();
    let mut writer = world.writer();
    let refuse = |reason, times| (0..times).for_each(|_| world.refuse(reason));
    world.disk.fill_up(true);
    refuse(Reason::MissingKey, 2);
    refuse(Reason::UnknownKey, 3);
    writer.store_all().unwrap_err();
    refuse(Reason::UnknownKey, 4);
    world.clock.advance(MINUTE);
    refuse(Reason::UnknownKey, 5);
    writer.store_all().unwrap_err();
    world.disk.fill_up(false);
    writer.store_all().unwrap();
    writer.store_all().unwrap();

    let mut expected = BTreeMap::from([(START.minute(), [0; Reason::COUNT])]);
    expected.insert(START.minute() + 1, [0; Reason::COUNT]);
    for (minute, reason, times) in [
        (0, Reason::MissingKey, 2),
        (0, Reason::UnknownKey, 3 + 4),
        (1, Reason::UnknownKey, 5),
    ] {
        expected.get_mut(&(START.minute() + minute)).unwrap()[reason as usize] = times;
    }
    assert_eq!(world.disk.stored().refusals, expected);
}

#[test]
#[cfg(any(feature = "metrics", feature = "serve"))]
fn drops_and_refusals_are_counted_while_nothing_can_be_stored() {
    let world = World::new();
    let mut writer = world.writer();
    world.disk.fill_up(true);
    world.record(0..3);
    writer.store_all().unwrap_err();
    let sent = 2 * world.recorder.capacity as u16;
    world.record(3..sent);
    world.refuse(Reason::UnknownKey);
    writer.store_all().unwrap_err();
    let counts = || {
        let counts = world.recorder.decision_counts();
        let unknown = counts.refused[Reason::UnknownKey as usize];
        (counts.admitted, unknown, counts.dropped)
    };
    let (admitted, unknown, dropped) = counts();
    assert_eq!((admitted, unknown), (3, 1));
    assert!(dropped > 0);

    world.disk.fill_up(false);
    writer.store_all().unwrap();
    writer.store_all().unwrap();
    assert_eq!(counts(), (u64::from(sent) - dropped, 1, dropped));
}

#[test]
fn usage_that_cannot_be_stored_is_logged() {
    let world = World::new();
    let (log, captured) = Log::captured();
    let mut writer = world.writer();
    writer.state = WriterState::new(log);
    let thread = writer.spawn().unwrap().unwrap();
    for is_full in [true, true, false, false] {
        world.disk.fill_up(is_full);
        world.refuse(Reason::UnknownKey);
        let flushed = world.recorder.flush_store();
        assert_eq!(flushed.is_err(), is_full);
    }
    world.recorder.close().unwrap();
    thread.join().unwrap();
    let mut events = captured.take();
    events.retain(|event| event.starts_with("store_"));
    assert_eq!(
        events,
        ["store_failed problem=no space left", "store_recovered"]
    );
}

#[test]
fn refusals_of_a_minute_take_no_more_memory_the_longer_they_cannot_be_stored() {
    let world = World::new();
    let mut writer = world.writer();
    world.disk.fill_up(true);
    for _ in 0..100 {
        world.refuse(Reason::UnknownKey);
        writer.store_all().unwrap_err();
    }
    let most = world.disk.stored().most_refusals;
    assert!(
        most <= world.recorder.queues.len(),
        "{most} rows of a minute"
    );
}

#[test]
fn a_quota_that_cannot_be_stored_is_stored_later_as_it_is_then() {
    let world = World::new();
    let mut writer = world.writer();
    let id = SubjectId::key(KeyId(7));
    let set = world.limiter.attach(id, &mut || Ok(Vec::new()));
    let set = set.unwrap();
    let consume = || {
        world.consume(&set);
    };
    consume();
    writer.store_all().unwrap();
    assert_eq!(world.disk.stored().balances, [(7, 1)].into());

    world.disk.fill_up(true);
    consume();
    writer.store_all().unwrap_err();
    writer.store_all().unwrap_err();
    consume();
    world.disk.fill_up(false);
    writer.store_all().unwrap();
    assert_eq!(world.disk.stored().balances, [(7, 3)].into());
}

#[test]
fn a_quota_is_stored_while_requests_are_not_recorded() {
    let world = World::with(false);
    let mut writer = world.writer();
    world.record(0..3);
    world.refuse(Reason::UnknownKey);
    let id = SubjectId::key(KeyId(7));
    let set = world.limiter.attach(id, &mut || Ok(Vec::new()));
    world.consume(&set.unwrap());
    writer.store_all().unwrap();
    let expected = Stored {
        balances: [(7, 1)].into(),
        ..Stored::default()
    };
    assert_eq!(world.disk.stored(), expected);
}

#[test]
fn expired_usage_is_looked_for_once_a_minute() {
    let world = World::new();
    let mut writer = world.writer();
    let mut expected = Vec::new();
    for round in 0..3 {
        let now = world.clock.timestamp();
        // Not at the first look, when there is nothing to compare the calendar with.
        if round > 0 {
            expected.push((now.minus(10 * MINUTE), now));
        }
        writer.maintain();
        writer.maintain();
        world.clock.advance(MINUTE - Duration::from_nanos(1));
        writer.maintain();
        assert_eq!(world.disk.stored().pruned, expected);
        world.clock.advance(Duration::from_nanos(1));
    }
}

#[test]
fn a_flush_returns_once_all_that_was_recorded_before_is_stored() {
    let world = World::new();
    let writer = world.spawn();
    for n in 0..20 {
        world.record([n]);
        world.recorder.flush().unwrap();
        assert_eq!(world.disk.statuses(), (0..=n).collect::<Vec<_>>());
    }
    world.recorder.close().unwrap();
    writer.join().unwrap();
}

#[test]
fn a_flush_that_fails_says_why_and_one_that_works_again_says_so() {
    let world = World::new();
    let writer = world.spawn();
    world.disk.fill_up(true);
    world.record([200]);
    for _ in 0..2 {
        let text = causes(world.recorder.flush().unwrap_err());
        assert!(text.ends_with(": no space left"), "{text}");
    }
    world.disk.fill_up(false);
    world.recorder.flush().unwrap();
    assert_eq!(world.disk.statuses(), [200]);
    world.recorder.close().unwrap();
    writer.join().unwrap();
}

#[test]
fn closing_stores_what_all_threads_have_recorded() {
    let world = World::new();
    let writer = world.spawn();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let world = &world;
            scope.spawn(move || world.record(thread * 100..(thread + 1) * 100));
        }
    });
    world.recorder.close().unwrap();
    writer.join().unwrap();
    let mut statuses = world.disk.statuses();
    statuses.sort_unstable();
    assert_eq!(statuses, (0..800).collect::<Vec<_>>());

    // A flush or close after the end of the writer returns at once.
    world.record([999]);
    world.recorder.flush().unwrap();
    world.recorder.close().unwrap();
    assert_eq!(world.disk.statuses().len(), 800);
}

#[test]
fn closing_says_why_it_could_not_store_all() {
    let world = World::new();
    let writer = world.spawn();
    world.disk.fill_up(true);
    world.record([200]);
    let text = causes(world.recorder.close().unwrap_err());
    assert!(text.ends_with(": usage was lost: no space left"), "{text}");
    writer.join().unwrap();
}

/// Regression: the error said that usage was lost, which was stored.
#[test]
fn closing_says_that_only_windows_were_not_stored() {
    let world = World::new();
    let writer = world.spawn();
    world.disk.refuses_windows.store(true, Ordering::SeqCst);
    world.record([200]);
    let text = causes(world.recorder.close().unwrap_err());
    let end = ": only the windows of rate limits were lost: no space left";
    assert!(text.ends_with(end), "{text}");
    writer.join().unwrap();
    assert_eq!(world.disk.statuses(), [200]);
}

#[test]
fn a_flush_stores_what_came_after_a_failure_too() {
    let world = World::new();
    let writer = world.spawn();
    world.disk.fill_up(true);
    world.record([200]);
    world.recorder.flush().unwrap_err();
    world.record([201]);
    world.disk.fill_up(false);
    world.recorder.flush().unwrap();
    let flushed = world.disk.statuses();
    world.recorder.close().unwrap();
    writer.join().unwrap();
    assert_eq!(flushed, [200, 201]);
}

#[test]
fn closing_stores_what_came_after_a_failure_too() {
    let world = World::new();
    let mut writer = world.writer();
    world.disk.fill_up(true);
    world.record([200]);
    writer.store_all().unwrap_err();
    world.record([201]);
    world.disk.fill_up(false);
    world.recorder.control.lock().closing = true;
    writer.run();
    assert_eq!(world.disk.statuses(), [200, 201]);
}

#[test]
fn a_lock_that_could_not_be_stored_is_tried_again() {
    let world = World::new();
    let mut writer = world.writer();
    let ip_key: IpKey = "192.0.2.1".parse().unwrap();
    let lock = AuthFailure::BadKey.lock(ip_key, START);
    world.locks.add(lock, START);
    world.disk.fill_up(true);
    writer.store_all().unwrap_err();
    assert_eq!(world.disk.stored().locked, [].into());
    world.disk.fill_up(false);
    writer.store_all().unwrap();
    assert_eq!(world.disk.stored().locked, [ip_key].into());
    world.locks.expire(START.plus(24 * 60 * MINUTE));
    writer.store_all().unwrap();
    assert_eq!(world.disk.stored().locked, [].into());
}

/// Opens a file with a key that expires soon.
fn store_with_expiring_key(dir: &std::path::Path, clock: &ManualClock) -> Arc<dyn Store> {
    let file = dir.join("keyguard.redb");
    let config = Config::default().clock(clock.clone());
    let secret = Secret::from(b"a long random secret".to_vec());
    let store = backends::store(&Storage::of(&file).unwrap(), &config, &secret).unwrap();
    let audit = AuditContext::of_program(START, "create", serde_json::Value::Null);
    let key = NewKey {
        org_id: store.create_org("acme", &audit).unwrap().id,
        label: "key".into(),
        scopes: Vec::new(),
        rate_limit_per_minute: std::num::NonZeroU32::MIN,
        limits: Vec::new(),
        allowed_ips: Default::default(),
        created_at: START,
        expires_at: Some(START.plus(24 * 60 * MINUTE)),
    };
    let credential = NewCredential {
        hash: HashedKey([7; 32]),
        shown_prefix: "kg_live_abcd".into(),
        created_at: START,
    };
    store.create_key(key, credential, &audit).unwrap();
    store
}

/// Regression: each minute of a full disk added the same events about keys that expire.
#[test]
fn events_of_a_full_disk_and_of_expiring_keys_are_kept_once_for_the_batch_after_it() {
    let (world, dir) = (World::new(), tempfile::tempdir().unwrap());
    let events = EventSource::new(
        store_with_expiring_key(dir.path(), &world.clock),
        Arc::new(PolicyHandle::new(
            CompiledPolicy::new(Policy::default()).unwrap(),
        )),
        Arc::new(Revisions::new()),
        Arc::default(),
        TimeZone::utc(),
    );
    let mut writer = Writer {
        events: Some(events),
        ..world.writer()
    };
    writer.round(false, false).result.unwrap();
    world.disk.fill_up(true);
    for _ in 0..10 {
        world.clock.advance(MINUTE);
        world.record([200]);
        writer.round(false, false).result.unwrap_err();
    }
    assert_eq!(world.disk.stored().events, []);
    world.disk.fill_up(false);
    writer.round(false, false).result.unwrap();
    let expected = [EventType::KeyExpiring, EventType::DiskFault];
    assert_eq!(world.disk.stored().events, expected);
}

#[test]
fn flush_returns_after_a_writer_panic() {
    let world = World::new();
    let writer = world.spawn();
    world.disk.panics.store(true, Ordering::SeqCst);
    world.record([200]);
    for outcome in [
        world.recorder.flush(),
        world.recorder.flush_store(),
        world.recorder.close(),
    ] {
        let text = causes(outcome.unwrap_err());
        assert!(text.contains("panicked"), "{text}");
    }
    writer.join().unwrap_err();
}

/// Regression: random keys filled all room while a sink was set, and usage of known keys was dropped.
#[test]
fn refusals_that_name_no_key_take_no_more_room_than_their_share() {
    let world = World::new();
    let recorder = Recorder::new(world.clock.clone().into(), true, 16_384, true);
    let headers: [(&str, &str); 0] = [];
    let request = Request::new(&headers, ClientIp::LOCAL, "/");
    for _ in 0..20_000 {
        recorder.record_keyless(&request, ClientIp::LOCAL, Reason::UnknownKey);
    }
    let waiting = recorder.waiting.load(Ordering::Relaxed);
    assert!(waiting <= 16_384 / KEYLESS_SHARE, "{waiting}");
    let queue = recorder.queue().lock();
    assert_eq!(queue.refusals[0].1[Reason::UnknownKey as usize], 20_000);
    assert_eq!(queue.keyless.len(), waiting);
    assert_eq!(queue.dropped + waiting as u64, 20_000);
}

#[test]
fn usage_of_threads_that_ended_is_stored_and_leaves_nothing_behind() {
    let world = Arc::new(World::new());
    let mut writer = world.writer();
    for run in 1..=3_u16 {
        for thread in 0..5 {
            let (first, theirs) = (thread * 1_000, Arc::clone(&world));
            // A scope would not wait for the destructors of thread-local values.
            let thread = std::thread::spawn(move || theirs.record(first..first + 1_000));
            thread.join().unwrap();
        }
        writer.store_all().unwrap();
        assert_eq!(world.disk.statuses().len(), usize::from(run) * 5_000);
        assert_eq!(world.recorder.receivers.lock().len(), 0);
        assert_eq!(world.recorder.waiting.load(Ordering::Relaxed), 0);
    }
}

/// Regression: each thread that had ended kept a chunk until the writer collected it, and all of them while
/// the disk was full.
#[test]
fn short_lived_threads_take_no_chunk_each() {
    const THREADS: u16 = 100;

    let world = Arc::new(World::new());
    for thread in 0..THREADS {
        let theirs = Arc::clone(&world);
        let thread = std::thread::spawn(move || theirs.record([thread]));
        thread.join().unwrap();
        assert_eq!(world.recorder.receivers.lock().len(), 1);
    }
    world.writer().store_all().unwrap();
    assert_eq!(world.disk.statuses(), (0..THREADS).collect::<Vec<_>>());
    assert_eq!(world.recorder.receivers.lock().len(), 0);
}

#[test]
fn a_thread_keeps_no_memory_of_recorders_that_are_gone() {
    for _ in 0..3 {
        let world = World::new();
        world.record([200]);
        SENDERS.with_borrow(|senders| assert_eq!(senders.0.len(), 1));
    }
}

/// The destructors of thread-local values may drop grants after ours ran.
#[test]
fn usage_of_an_ending_thread_is_stored() {
    struct RecordsAtEnd(Arc<World>);

    impl Drop for RecordsAtEnd {
        fn drop(&mut self) {
            self.0.record([2]);
        }
    }

    thread_local!(static AT_END: RefCell<Option<RecordsAtEnd>> = const { RefCell::new(None) });

    let world = Arc::new(World::new());
    let theirs = Arc::clone(&world);
    let thread = std::thread::spawn(move || {
        // Destroyed after what `record` uses.
        AT_END.set(Some(RecordsAtEnd(Arc::clone(&theirs))));
        theirs.record([1]);
    });
    thread.join().unwrap();
    world.writer().store_all().unwrap();
    assert_eq!(world.disk.statuses(), [1, 2]);
}

/// Several threads record while the writer collects: nothing is lost, doubled or reordered.
#[test]
fn each_thread_is_stored_in_order_while_others_record() {
    const THREADS: u16 = 3;
    const EVENTS: u16 = 5_000;

    let world = World::new();
    let mut writer = world.writer();
    std::thread::scope(|scope| {
        let recording: Vec<_> = (0..THREADS)
            .map(|thread| {
                let world = &world;
                scope.spawn(move || world.record(thread * EVENTS..(thread + 1) * EVENTS))
            })
            .collect();
        while recording.iter().any(|thread| !thread.is_finished()) {
            writer.store_all().unwrap();
        }
    });
    writer.store_all().unwrap();
    let stored = world.disk.stored();
    assert!(
        stored
            .requests
            .iter()
            .all(|(status, path)| *path == path_of(*status))
    );
    for thread in 0..THREADS {
        let range = thread * EVENTS..(thread + 1) * EVENTS;
        let statuses = stored.requests.iter().map(|(status, _)| *status);
        let of_thread = statuses.filter(|status| range.contains(status));
        assert_eq!(
            of_thread.collect::<Vec<_>>(),
            range.clone().collect::<Vec<_>>()
        );
    }
    assert_eq!(stored.dropped, 0);
}
