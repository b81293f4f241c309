//! How long decisions take.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use quanta::Instant;

use crate::metrics::Family;
use crate::model::Latencies;

/// The endpoints that decide.
#[derive(Clone, Copy)]
pub(super) enum Endpoint {
    Check,
    Auth,
}

const ENDPOINTS: [(Endpoint, &str); 2] = [(Endpoint::Check, "check"), (Endpoint::Auth, "auth")];

impl Endpoint {
    pub(super) fn span_name(self) -> &'static str {
        match self {
            Self::Check => "keyguard.check",
            Self::Auth => "keyguard.auth",
        }
    }
}

/// Latencies of decisions by endpoint. Few threads share a part, so that they hardly wait for each other.
pub(super) struct DecisionTimes(Box<[Part]>);

#[derive(Default)]
#[repr(align(128))]
struct Part(Mutex<[Latencies; ENDPOINTS.len()]>);

impl DecisionTimes {
    pub(super) fn new() -> Self {
        let threads = std::thread::available_parallelism().map_or(4, usize::from);
        Self((0..threads).map(|_| Part::default()).collect())
    }

    /// Measures the time to a response, without that to read the request.
    pub(super) async fn timed<T>(
        &self,
        endpoint: Endpoint,
        response: impl Future<Output = T>,
    ) -> T {
        let started = Instant::now();
        let response = response.await;
        let Part(latencies) = &self.0[thread_number() % self.0.len()];
        latencies.lock()[endpoint as usize].add(started.elapsed());
        response
    }

    pub(super) fn family(&self) -> Family {
        let samples = ENDPOINTS.map(|(endpoint, name)| {
            let mut sum = Latencies::default();
            for Part(latencies) in &self.0 {
                sum.merge(&latencies.lock()[endpoint as usize]);
            }
            (vec![("endpoint", name.to_owned())], sum)
        });
        Family::histograms(
            "keyguard_decision_duration_seconds",
            "Time from a complete request to /v1/check or /auth to its response.",
            samples,
        )
    }
}

/// Returns the number of this thread; threads are numbered from 0 as they first decide.
fn thread_number() -> usize {
    thread_local!(static NUMBER: Cell<Option<usize>> = const { Cell::new(None) });
    static NEXT: AtomicUsize = AtomicUsize::new(0);

    NUMBER.with(|number| {
        let known = number.get();
        let own = known.unwrap_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed));
        number.set(Some(own));
        own
    })
}
