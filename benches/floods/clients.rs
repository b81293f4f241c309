//! Valid clients, and the latency of their checks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use keyguard::KeyGuard;
use keyguard_benches::Fallible;
use keyguard_benches::world::{PATH, headers, peer};

/// The time between two checks.
const APART: Duration = Duration::from_micros(50);

/// The thread of the clients.
pub(crate) struct Clients {
    shared: Arc<Shared>,
    thread: JoinHandle<Result<Latency, String>>,
}

#[derive(Default)]
struct Shared {
    is_flooded: AtomicBool,
    is_over: AtomicBool,
}

/// Latencies in the flood and in the quiet.
pub(crate) struct Latency {
    flooded: Histogram,
    quiet: Histogram,
}

impl Latency {
    /// A quantile in the flood, over that in the quiet.
    pub(crate) fn ratio(&self, quantile: f64) -> f64 {
        self.flooded.quantile(quantile) / self.quiet.quantile(quantile)
    }
}

impl Clients {
    /// Starts to check the keys in turn.
    pub(crate) fn start(kg: &KeyGuard, keys: Vec<String>) -> Self {
        let (kg, shared) = (kg.clone(), Arc::<Shared>::default());
        Self {
            shared: Arc::clone(&shared),
            thread: std::thread::spawn(move || check_until_over(&kg, &keys, &shared)),
        }
    }

    /// Says whether the flood runs.
    pub(crate) fn set_flooded(&self, is_flooded: bool) {
        self.shared.is_flooded.store(is_flooded, Ordering::SeqCst);
    }

    pub(crate) fn stop(self) -> Fallible<Latency> {
        self.shared.is_over.store(true, Ordering::SeqCst);
        Ok(self.thread.join().map_err(|_| "the clients panicked")??)
    }
}

fn check_until_over(kg: &KeyGuard, keys: &[String], shared: &Shared) -> Result<Latency, String> {
    let mut latency = Latency {
        flooded: Histogram::new(),
        quiet: Histogram::new(),
    };
    let mut next = Instant::now();
    for key in keys.iter().cycle() {
        if shared.is_over.load(Ordering::SeqCst) {
            break;
        }
        // A sleep would end too late.
        while Instant::now() < next {
            std::hint::spin_loop();
        }
        let was_flooded = shared.is_flooded.load(Ordering::SeqCst);
        let start = Instant::now();
        let outcome = kg.check(&headers(key), peer(), PATH);
        let elapsed = start.elapsed();
        outcome
            .map_err(|denial| format!("a valid client was refused: {denial:?}"))?
            .finish(200);
        if was_flooded == shared.is_flooded.load(Ordering::SeqCst) {
            let latencies = match was_flooded {
                true => &mut latency.flooded,
                false => &mut latency.quiet,
            };
            latencies.add(elapsed);
        }
        next = start + APART;
    }
    Ok(latency)
}

/// Counts of latencies in steps of [`Histogram::STEP`].
struct Histogram(Vec<u64>);

impl Histogram {
    /// In nanoseconds.
    const STEP: u128 = 10;

    fn new() -> Self {
        Self(vec![0; 100_000])
    }

    /// Longer latencies than a millisecond count as one.
    fn add(&mut self, latency: Duration) {
        let step = (latency.as_nanos() / Self::STEP) as usize;
        let last = self.0.len() - 1;
        self.0[step.min(last)] += 1;
    }

    /// In nanoseconds.
    fn quantile(&self, quantile: f64) -> f64 {
        let total: u64 = self.0.iter().sum();
        let wanted = (total as f64 * quantile) as u64;
        let mut passed = 0;
        let reached = self.0.iter().position(|count| {
            passed += count;
            passed > wanted
        });
        (reached.unwrap_or(self.0.len()) + 1) as f64 * Self::STEP as f64
    }
}
