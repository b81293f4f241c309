//! Recording by threads that begin and end while the writer takes what they recorded: every interleaving
//! with few preemptions, by loom. A chunk has room for one event here, so that each further one is a
//! hand-over.

use std::ops::Range;

use keyguard_test_support::loom::model::Builder;
use keyguard_test_support::loom::thread::{self, JoinHandle};

use super::*;
use crate::model::{KeyId, Method};
use crate::time::{ManualClock, Timestamp};

fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

fn recorder(capacity: usize) -> Arc<Recorder> {
    let clock = ManualClock::starting_at(Timestamp::default());
    Arc::new(Recorder::new(clock.into(), true, capacity, false))
}

/// Starts a thread that records requests with these statuses.
fn recording(recorder: &Arc<Recorder>, statuses: Range<u16>) -> JoinHandle<()> {
    let recorder = Arc::clone(recorder);
    thread::spawn(move || {
        for status in statuses {
            let event = UsageEvent {
                at: Timestamp::default(),
                key_id: KeyId(status.into()),
                ip: ClientIp::LOCAL,
                latency_micros: 0,
                status,
                path_len: 2,
                method: Method::Get,
                refused: None,
            };
            recorder.record(&event, b"/a");
        }
    })
}

/// Takes what threads record, as the writer does: while they run, and after they have ended.
fn taken(recorder: &Recorder, threads: impl IntoIterator<Item = JoinHandle<()>>) -> UsageBatch {
    let mut batch = UsageBatch::default();
    let mut take = || {
        recorder.take_events(&mut Vec::new(), &mut batch);
        recorder.take_counts(&mut batch);
    };
    take();
    for thread in threads {
        thread.join().unwrap();
    }
    take();
    batch
}

/// Checks that a batch has each of these requests once, except dropped ones. Returns the number of those.
fn check_all_once(batch: &UsageBatch, all: Range<u16>) -> u64 {
    let mut stored: Vec<_> = batch.events.iter().map(|event| event.status).collect();
    let is_whole = |event: &UsageEvent| event.key_id == KeyId(event.status.into());
    assert!(batch.events.iter().all(is_whole));
    assert_eq!(batch.paths, b"/a".repeat(stored.len()));
    stored.sort_unstable();
    let count = stored.len();
    stored.dedup();
    assert_eq!(stored.len(), count, "no request is counted twice");
    assert!(stored.iter().all(|status| all.contains(status)));
    assert_eq!(
        stored.len() as u64 + batch.dropped,
        all.len() as u64,
        "none is lost"
    );
    batch.dropped
}

#[test]
fn requests_of_a_thread_are_taken_once() {
    check(3, || {
        let recorder = recorder(1_000);
        let batch = taken(&recorder, [recording(&recorder, 0..3)]);
        assert_eq!(check_all_once(&batch, 0..3), 0);
        assert_eq!(recorder.waiting.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn the_channel_of_a_thread_that_ended_is_taken_over_whole() {
    check(2, || {
        let recorder = recorder(1_000);
        let threads = [recording(&recorder, 0..1), recording(&recorder, 1..2)];
        let batch = taken(&recorder, threads);
        assert_eq!(check_all_once(&batch, 0..2), 0);
    });
}

#[test]
fn a_full_queue_counts_what_it_drops() {
    check(3, || {
        let recorder = recorder(1);
        let batch = taken(&recorder, [recording(&recorder, 0..4)]);
        assert!(check_all_once(&batch, 0..4) <= 2);
        assert_eq!(recorder.waiting.load(Ordering::SeqCst), 0);
    });
}
