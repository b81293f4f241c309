//! The system clock, and a manual one for tests.

use std::sync::Arc;
use std::time::Duration;

use super::monotonic::MonotonicClock;
use super::{Moment, Timestamp};
use crate::sys;
use crate::sys::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

/// The source of time of a [`KeyGuard`](crate::KeyGuard): the system clocks, or a [`ManualClock`].
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System(Arc<SystemClock>),
    Manual(ManualClock),
}

impl Clock {
    /// The system's monotonic and calendar clocks.
    pub fn system() -> Self {
        Self(Source::System(Arc::new(SystemClock::new())))
    }

    /// Reads the monotonic clock.
    #[inline]
    pub(crate) fn now(&self) -> Moment {
        match &self.0 {
            Source::System(clock) => clock.now(),
            Source::Manual(clock) => clock.now(),
        }
    }

    /// Calendar time at `moment`. Does not read a clock.
    #[inline]
    pub(crate) fn timestamp_at(&self, moment: Moment) -> Timestamp {
        match &self.0 {
            Source::System(clock) => clock.timestamp_at(moment),
            Source::Manual(clock) => clock.timestamp_at(moment),
        }
    }

    /// Calendar time of a manual clock in microseconds; 0 for the system clock.
    #[cfg(feature = "redis")]
    pub(crate) fn manual_micros(&self) -> u64 {
        match &self.0 {
            Source::System(_) => 0,
            Source::Manual(clock) => {
                let into_millisecond = clock.now().nanos() % 1_000_000 / 1_000;
                clock.timestamp().unix_millis() * 1_000 + into_millisecond
            }
        }
    }

    /// Calendar time now.
    pub(crate) fn timestamp(&self) -> Timestamp {
        self.timestamp_at(self.now())
    }

    /// Follows the calendar time of a server from now on, so that processes with the same server
    /// agree. The server reported `server` at some time between `asked` and now. Manual clocks
    /// ignore this.
    #[cfg(any(feature = "postgres", feature = "redis"))]
    pub(crate) fn follow(&self, server: Timestamp, asked: Moment) {
        if let Source::System(clock) = &self.0 {
            clock.follow(server, asked);
        }
    }

    /// Follows the system's monotonic clock and, unless a server is followed, steps of its calendar clock.
    /// Cheap; called a few times per second.
    pub(crate) fn resync(&self) {
        if let Source::System(clock) = &self.0 {
            clock.resync();
        }
    }
}

impl From<ManualClock> for Clock {
    fn from(clock: ManualClock) -> Self {
        Self(Source::Manual(clock))
    }
}

/// A clock for tests that moves only when told to. Clones share one time.
///
/// ```
/// use std::time::Duration;
/// use keyguard::{ManualClock, Timestamp};
///
/// let clock = ManualClock::starting_at(Timestamp::from_unix_millis(1_000));
/// clock.advance(Duration::from_secs(2));
/// assert_eq!(clock.timestamp(), Timestamp::from_unix_millis(3_000));
/// ```
#[derive(Clone, Debug)]
pub struct ManualClock {
    /// Calendar time at [`Moment::START`], in milliseconds since the Unix epoch.
    start_unix_millis: Arc<AtomicI64>,
    elapsed_nanos: Arc<AtomicU64>,
}

impl ManualClock {
    /// A clock that shows `start`.
    pub fn starting_at(start: Timestamp) -> Self {
        Self {
            start_unix_millis: Arc::new(AtomicI64::new(millis(start.0))),
            elapsed_nanos: Arc::new(AtomicU64::new(0)),
        }
    }

    /// Sets calendar time, as an administrator or NTP does. The monotonic time, which windows and
    /// latencies use, does not change.
    pub fn set(&self, timestamp: Timestamp) {
        let elapsed = self.elapsed_nanos.load(Ordering::SeqCst) / 1_000_000;
        let start = millis(timestamp.0).saturating_sub(millis(elapsed));
        self.start_unix_millis.store(start, Ordering::SeqCst);
    }

    /// Moves the clock forward, at most to the end of its range after about 290 years.
    pub fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        let _ = self
            .elapsed_nanos
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |elapsed| {
                Some(elapsed.saturating_add(by).min(u64::MAX / 2))
            });
    }

    /// The calendar time this clock shows.
    pub fn timestamp(&self) -> Timestamp {
        self.timestamp_at(self.now())
    }

    fn now(&self) -> Moment {
        Moment(Moment::START.0 + self.elapsed_nanos.load(Ordering::SeqCst))
    }

    fn timestamp_at(&self, moment: Moment) -> Timestamp {
        let since = |later: Moment, earlier| millis(later.since(earlier).as_millis());
        let unix = (self.start_unix_millis.load(Ordering::SeqCst))
            .saturating_add(since(moment, Moment::START))
            .saturating_sub(since(Moment::START, moment));
        Timestamp::from_unix_millis(u64::try_from(unix).unwrap_or(0))
    }
}

fn millis(millis: impl TryInto<i64>) -> i64 {
    millis.try_into().unwrap_or(i64::MAX)
}

/// Detects steps of the calendar clock. Irreversible work (deletion by age) waits until calendar
/// time has advanced as much as the monotonic clock since the last check, so a step in either
/// direction is trusted two checks later at the earliest.
#[derive(Debug, Default)]
pub(crate) struct CalendarCheck(Option<(Moment, Timestamp)>);

impl CalendarCheck {
    /// Maximum difference between the advances of the two clocks.
    const TOLERANCE: Duration = Duration::from_secs(1);

    /// Whether it has not been called yet.
    pub(crate) fn is_new(&self) -> bool {
        self.0.is_none()
    }

    /// Whether both clocks have advanced equally since the last call. False for the first call.
    pub(crate) fn is_steady(&mut self, now: Moment, timestamp: Timestamp) -> bool {
        let Some((moment, before)) = self.0.replace((now, timestamp)) else {
            return false;
        };
        let expected = before.plus(now.since(moment));
        let difference = timestamp.since(expected).max(expected.since(timestamp));
        difference <= Self::TOLERANCE
    }
}

#[derive(Debug)]
struct SystemClock {
    monotonic: MonotonicClock,
    /// Calendar time at the moment 0, in milliseconds since the Unix epoch.
    origin_unix_millis: AtomicI64,
    /// Whether a server sets calendar time.
    follows: AtomicBool,
}

impl SystemClock {
    /// Maximum difference from the server's time that is not corrected.
    #[cfg(any(feature = "postgres", feature = "redis"))]
    const TOLERANCE: Duration = Duration::from_millis(100);

    fn new() -> Self {
        let clock = Self {
            monotonic: MonotonicClock::new(),
            origin_unix_millis: AtomicI64::new(0),
            follows: AtomicBool::new(false),
        };
        clock.resync();
        clock
    }

    #[inline]
    fn now(&self) -> Moment {
        Moment(Moment::START.0 + self.monotonic.nanos())
    }

    #[inline]
    fn timestamp_at(&self, moment: Moment) -> Timestamp {
        let origin = self.origin_unix_millis.load(Ordering::Relaxed);
        let elapsed = millis(moment.0 / 1_000_000);
        Timestamp::from_unix_millis(u64::try_from(origin.saturating_add(elapsed)).unwrap_or(0))
    }

    fn resync(&self) {
        self.monotonic.correct();
        if !self.follows.load(Ordering::Relaxed) {
            self.set(Timestamp::from(sys::system_time()));
        }
    }

    #[cfg(any(feature = "postgres", feature = "redis"))]
    fn follow(&self, server: Timestamp, asked: Moment) {
        self.follows.store(true, Ordering::Relaxed);
        let (first, last) = (self.timestamp_at(asked), self.timestamp_at(self.now()));
        if first.since(server).max(server.since(last)) > Self::TOLERANCE {
            self.set(server);
        }
    }

    fn set(&self, unix: Timestamp) {
        let elapsed = self.now().0 / 1_000_000;
        let origin = millis(unix.0).saturating_sub(millis(elapsed));
        self.origin_unix_millis.store(origin, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn the_system_clock_agrees_with_the_calendar() {
        let clock = Clock::system();
        let system = Timestamp::from(SystemTime::now());
        let ours = clock.timestamp();
        assert!(ours.since(system).max(system.since(ours)) < Duration::from_secs(60));
    }

    #[test]
    fn clones_of_a_manual_clock_share_one_time() {
        let clock = ManualClock::starting_at(Timestamp::default());
        let reader = Clock::from(clock.clone());
        clock.advance(Duration::from_millis(1_500));
        assert_eq!(
            reader.now().since(Moment::START),
            Duration::from_millis(1_500)
        );
        assert_eq!(reader.timestamp(), Timestamp(1_500));
    }

    #[test]
    fn a_manual_clock_that_is_set_keeps_its_monotonic_reading() {
        let clock = ManualClock::starting_at(Timestamp(5_000));
        clock.advance(Duration::from_secs(3));
        let moment = clock.now();
        clock.set(Timestamp(1_000));
        assert_eq!((clock.now(), clock.timestamp()), (moment, Timestamp(1_000)));
        clock.advance(Duration::from_secs(1));
        assert_eq!(clock.timestamp(), Timestamp(2_000));
    }

    #[test]
    fn calendar_is_steady_when_both_clocks_advance_equally() {
        let clock = ManualClock::starting_at(Timestamp(1_000_000));
        let mut check = CalendarCheck::default();
        let mut look = |by: u64, step: i64| {
            clock.advance(Duration::from_secs(by));
            let unix = clock.timestamp().0.checked_add_signed(step * 1_000);
            clock.set(Timestamp(unix.unwrap()));
            check.is_steady(clock.now(), clock.timestamp())
        };
        assert!(!look(0, 0), "nothing to compare with");
        assert!(look(60, 0));
        assert!(look(60, 1), "slewed");
        assert!(!look(60, 31_536_000), "a year ahead");
        assert!(!look(60, -31_536_000), "back");
        assert!(look(60, 0));
    }

    #[cfg(any(feature = "postgres", feature = "redis"))]
    #[test]
    fn a_followed_server_overrides_the_system_clock() {
        let clock = Clock::system();
        let year = Duration::from_secs(365 * 86_400);
        let here = clock.timestamp();
        for server in [here.plus(year), here.minus(year)] {
            clock.follow(server, clock.now());
            clock.resync();
            let now = clock.timestamp();
            assert!(now >= server && now.since(server) < Duration::from_secs(60));
        }
        let manual = ManualClock::starting_at(here);
        Clock::from(manual.clone()).follow(here.plus(year), manual.now());
        assert_eq!(manual.timestamp(), here);
    }
}
