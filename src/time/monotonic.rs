//! Monotonic time, read from the processor's counter where the system itself trusts it.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::sys::MonotonicInstant as Instant;

/// Nanoseconds since the clock was created.
#[derive(Debug)]
pub(super) struct MonotonicClock {
    origin: Instant,
    counter: Option<Counter>,
}

impl MonotonicClock {
    pub(super) fn new() -> Self {
        Self {
            origin: Instant::now(),
            counter: is_counter_used().then(Counter::new),
        }
    }

    #[inline]
    pub(super) fn nanos(&self) -> u64 {
        match &self.counter {
            Some(counter) => counter.nanos(),
            None => nanos_since(self.origin),
        }
    }

    /// Aligns the counter with the system's clock. Called a few times per second, so that neither the
    /// error of its measured rate nor a jump of a virtual machine's counter lasts.
    pub(super) fn correct(&self) {
        if let Some(counter) = &self.counter {
            counter.correct(self.origin);
        }
    }
}

fn nanos_since(origin: Instant) -> u64 {
    let elapsed = origin.elapsed();
    elapsed.as_secs() * 1_000_000_000 + u64::from(elapsed.subsec_nanos())
}

/// The counter knows nothing of simulated time.
fn is_counter_used() -> bool {
    #[cfg(all(test, feature = "postgres", feature = "redis", not(loom)))]
    if crate::sys::simulation::is_active() {
        return false;
    }
    is_counter_trusted()
}

/// Whether the system reads its own clock from the processor's counter: it checks that the counter runs at
/// a constant rate and is the same on all processors.
fn is_counter_trusted() -> bool {
    const SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    cfg!(target_os = "linux")
        && std::fs::read_to_string(SOURCE)
            .is_ok_and(|source| matches!(source.trim_end(), "tsc" | "arch_sys_counter"))
}

/// The counter of the processor. Reading it takes less than half the time of [`Instant::elapsed`].
#[derive(Debug)]
struct Counter {
    clock: quanta::Clock,
    start: u64,
    /// The nanoseconds to add.
    correction: AtomicI64,
}

impl Counter {
    /// The longest time, in nanoseconds, between the two readings of the counter around one of the system's
    /// clock.
    const TOLERANCE: u64 = 10_000;

    fn new() -> Self {
        let clock = quanta::Clock::new();
        Self {
            start: clock.raw(),
            clock,
            correction: AtomicI64::new(0),
        }
    }

    #[inline]
    fn nanos(&self) -> u64 {
        self.counted()
            .saturating_add_signed(self.correction.load(Ordering::Relaxed))
    }

    #[inline]
    fn counted(&self) -> u64 {
        self.clock.delta_as_nanos(self.start, self.clock.raw())
    }

    /// Corrects the counter by the system's clock, unless the thread is interrupted each time.
    fn correct(&self, origin: Instant) {
        for _ in 0..8 {
            let before = self.counted();
            let elapsed = nanos_since(origin);
            if self.counted().saturating_sub(before) <= Self::TOLERANCE {
                let correction = elapsed.wrapping_sub(before) as i64;
                self.correction.store(correction, Ordering::Relaxed);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_jumped_is_corrected() {
        const HOUR: i64 = 3_600_000_000_000;
        let origin = Instant::now();
        for jump in [HOUR, -HOUR] {
            let counter = Counter::new();
            counter.correction.store(jump, Ordering::Relaxed);
            while counter.correction.load(Ordering::Relaxed) == jump {
                counter.correct(origin);
            }
            let earliest = nanos_since(origin) - Counter::TOLERANCE;
            let found = counter.nanos();
            let latest = nanos_since(origin) + Counter::TOLERANCE;
            assert!(
                (earliest..=latest).contains(&found),
                "{earliest} {found} {latest}"
            );
        }
    }

    #[test]
    fn time_advances_with_and_without_a_counter() {
        for counter in [None, Some(Counter::new())] {
            let clock = MonotonicClock {
                origin: Instant::now(),
                counter,
            };
            clock.correct();
            let first = clock.nanos();
            while clock.nanos() <= first {}
        }
    }
}
