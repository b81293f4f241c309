//! The latest requests, for those who follow them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::model::Usage;
use crate::store::UsageBatch;
use crate::time::Moment;

/// The number of requests that are kept: about 2 MiB.
const CAPACITY: usize = 10_000;

/// How long requests are kept after someone has asked for them.
const FOLLOWED_FOR: Duration = Duration::from_secs(10);

/// The latest requests. Empty unless someone follows them.
#[derive(Default)]
pub(crate) struct Tail {
    is_followed: AtomicBool,
    state: Mutex<TailState>,
}

#[derive(Default)]
struct TailState {
    /// Numbered in this order; the last one has the number `next - 1`.
    requests: VecDeque<Usage>,
    next: u64,
    followed_at: Moment,
}

/// Some of the latest requests.
#[derive(Debug, Default)]
pub(crate) struct Followed {
    pub(crate) requests: Vec<Usage>,
    /// The number of the request behind them.
    pub(crate) next: u64,
    /// The requests before them that are no longer kept.
    pub(crate) missed: u64,
    /// Whether more requests wait.
    pub(crate) has_more: bool,
}

impl Tail {
    /// Returns at most `limit` requests from the number `from` on; none without a number. Requests are kept
    /// from the first call on, until there was no call for 10 seconds.
    pub(crate) fn follow(&self, from: Option<u64>, limit: usize, now: Moment) -> Followed {
        let mut state = self.state.lock();
        state.followed_at = now;
        self.is_followed.store(true, Ordering::Relaxed);
        let first = state.next - state.requests.len() as u64;
        // A number from another run may lie ahead.
        let from = from.unwrap_or(state.next).min(state.next);
        let start = from.max(first);
        let skipped = usize::try_from(start - first).unwrap_or(usize::MAX);
        let requests = state.requests.iter().skip(skipped).take(limit);
        let requests: Vec<_> = requests.cloned().collect();
        let next = start + requests.len() as u64;
        Followed {
            requests,
            next,
            missed: start - from,
            has_more: next < state.next,
        }
    }

    #[inline]
    pub(super) fn is_followed(&self) -> bool {
        self.is_followed.load(Ordering::Relaxed)
    }

    /// Adds the requests of a batch and refusals without a known key, if someone follows them.
    pub(super) fn add(&self, batch: &UsageBatch, keyless: &[Usage], now: Moment) {
        if !self.is_followed() {
            return;
        }
        let mut state = self.state.lock();
        if now.since(state.followed_at) > FOLLOWED_FOR {
            self.is_followed.store(false, Ordering::Relaxed);
            state.requests = VecDeque::new();
            return;
        }
        let skipped = batch.events.len().saturating_sub(CAPACITY);
        let events = batch.events_with_paths().skip(skipped);
        let events = events.map(|(event, path)| event.to_usage(path));
        let mut added: Vec<_> = events.chain(keyless.iter().cloned()).collect();
        added.sort_by_key(|usage| usage.at);
        state.next += (skipped + added.len()) as u64;
        state.requests.extend(added);
        let surplus = state.requests.len().saturating_sub(CAPACITY);
        state.requests.drain(..surplus);
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::model::{KeyId, Method};
    use crate::net::ClientIp;
    use crate::store::UsageEvent;
    use crate::time::Timestamp;

    fn batch(times: impl IntoIterator<Item = u64>) -> UsageBatch {
        let event = |at| UsageEvent {
            at: Timestamp::from_unix_millis(at),
            key_id: KeyId(1),
            ip: ClientIp::LOCAL,
            latency_micros: 0,
            status: 200,
            path_len: 0,
            method: Method::Get,
            refused: None,
        };
        UsageBatch {
            events: times.into_iter().map(event).collect(),
            ..UsageBatch::default()
        }
    }

    fn times(followed: &Followed) -> Vec<u64> {
        let requests = followed.requests.iter();
        requests.map(|usage| usage.at.unix_millis()).collect()
    }

    const NOW: Moment = Moment::from_nanos(1 << 60);

    #[test]
    fn requests_are_followed_from_the_first_call_on() {
        let tail = Tail::default();
        tail.add(&batch([1, 2]), &[], NOW);
        let first = tail.follow(None, 9, NOW);
        assert_eq!((times(&first), first.next), (vec![], 0));
        tail.add(&batch([4, 3, 5]), &[], NOW);
        let second = tail.follow(Some(first.next), 2, NOW);
        assert_eq!(times(&second), [3, 4]);
        assert!(second.has_more);
        let third = tail.follow(Some(second.next), 2, NOW);
        assert_eq!((times(&third), third.has_more), (vec![5], false));
        assert_eq!(tail.follow(Some(third.next), 2, NOW).requests, []);
        assert_eq!(tail.follow(Some(u64::MAX), 2, NOW).next, third.next);
    }

    #[test]
    fn nothing_is_kept_for_nobody() {
        let tail = Tail::default();
        tail.follow(None, 9, NOW);
        tail.add(&batch([1]), &[], NOW.plus(FOLLOWED_FOR));
        assert_eq!(times(&tail.follow(Some(0), 9, NOW)), [1]);
        let late = NOW.plus(FOLLOWED_FOR + Duration::from_secs(1));
        tail.add(&batch([2]), &[], late);
        assert!(!tail.is_followed());
        let followed = tail.follow(Some(0), 9, late);
        assert_eq!((followed.requests, followed.missed), (vec![], 1));
    }

    #[test]
    fn requests_that_do_not_fit_are_counted_as_missed() {
        let tail = Tail::default();
        let start = tail.follow(None, 9, NOW).next;
        let more = CAPACITY as u64 + 7;
        tail.add(&batch(0..more), &[], NOW);
        tail.add(&batch([more, more + 1]), &[], NOW);
        let followed = tail.follow(Some(start), 1, NOW);
        assert_eq!((times(&followed), followed.missed), (vec![9], 9));
    }
}
