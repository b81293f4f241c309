//! Refusals and drops in the log: a line of each kind at most every ten seconds.

use std::time::Duration;

use crate::log::{Event, Log};
use crate::model::{Reason, Usage};
use crate::store::UsageBatch;
use crate::time::Moment;

const INTERVAL: Duration = Duration::from_secs(10);

/// What is not logged yet.
pub(super) struct DecisionLog {
    log: Log,
    /// By the code of the reason.
    refused: [Refused; Reason::COUNT],
    dropped: Pending,
}

#[derive(Default)]
struct Refused {
    pending: Pending,
    /// The latest refusal with details.
    sample: Option<Usage>,
}

#[derive(Default)]
struct Pending {
    count: u64,
    /// When the next line is due.
    next: Moment,
}

impl DecisionLog {
    pub(super) fn new(log: Log) -> Self {
        Self {
            log,
            refused: Default::default(),
            dropped: Pending::default(),
        }
    }

    /// Adds a new batch. `samples` are refusals without a known key.
    pub(super) fn add(&mut self, batch: &UsageBatch, samples: Vec<Usage>) {
        if !self.log.has_output() {
            return;
        }
        for (event, path) in batch.events_with_paths() {
            let Some(reason) = event.refused else {
                continue;
            };
            let refused = &mut self.refused[reason as usize];
            refused.pending.count += 1;
            // The first of the batch, so that the others cost nothing more.
            if refused.pending.count == 1 {
                refused.sample = Some(event.to_usage(path));
            }
        }
        for (_, counts) in &batch.refusals {
            for (refused, more) in self.refused.iter_mut().zip(counts) {
                refused.pending.count += more;
            }
        }
        for sample in samples {
            if let Some(reason) = sample.refused {
                self.refused[reason as usize].sample = Some(sample);
            }
        }
        self.dropped.count += batch.dropped;
    }

    /// Logs what is due, or all before the guard stops.
    pub(super) fn log_due(&mut self, now: Moment, is_last: bool) {
        for (code, refused) in self.refused.iter_mut().enumerate() {
            let reason = u8::try_from(code).ok().and_then(Reason::from_code);
            let due = refused.pending.take_due(now, is_last);
            if let Some((reason, count)) = reason.zip(due) {
                self.log.emit(&Event::Refused {
                    reason,
                    count,
                    sample: refused.sample.take().as_ref(),
                });
            }
        }
        if let Some(requests) = self.dropped.take_due(now, is_last) {
            self.log.emit(&Event::Dropped { requests });
        }
    }
}

impl Pending {
    fn take_due(&mut self, now: Moment, is_last: bool) -> Option<u64> {
        if self.count == 0 || now < self.next && !is_last {
            return None;
        }
        self.next = now.plus(INTERVAL);
        Some(std::mem::take(&mut self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{KeyId, Method};
    use crate::net::ClientIp;
    use crate::store::UsageEvent;
    use crate::time::Timestamp;

    fn batch(refusals: usize) -> UsageBatch {
        let path = b"/orders";
        let event = UsageEvent {
            at: Timestamp::default(),
            key_id: KeyId(7),
            ip: ClientIp::LOCAL,
            latency_micros: 0,
            status: 429,
            path_len: path.len() as u16,
            method: Method::Get,
            refused: Some(Reason::RateLimited),
        };
        UsageBatch {
            events: vec![event; refusals],
            paths: path.repeat(refusals),
            ..UsageBatch::default()
        }
    }

    fn after(seconds: u64) -> Moment {
        Moment::default().plus(Duration::from_secs(seconds))
    }

    #[test]
    fn refusals_of_a_reason_are_one_line_in_ten_seconds() {
        let (log, captured) = Log::captured();
        let mut decisions = DecisionLog::new(log);
        let mut logged_at = |seconds, refusals| {
            decisions.add(&batch(refusals), Vec::new());
            decisions.log_due(after(seconds), false);
            captured.take()
        };
        let line = |count: u64| {
            let sample = "key_id=7 ip=local method=GET path=/orders";
            format!("refused reason=rate_limited status=429 count={count} {sample}")
        };
        assert_eq!(logged_at(1, 3), [line(3)]);
        assert_eq!(logged_at(2, 1_000), [""; 0]);
        assert_eq!(logged_at(10, 0), [""; 0]);
        assert_eq!(logged_at(11, 0), [line(1_000)]);
        assert_eq!(logged_at(30, 0), [""; 0]);
        decisions.add(&batch(1), Vec::new());
        decisions.log_due(after(30), false);
        decisions.add(&batch(2), Vec::new());
        decisions.log_due(after(31), true);
        assert_eq!(captured.take(), [line(1), line(2)], "all at the end");
    }

    #[test]
    fn refusals_without_a_key_and_drops_are_counted() {
        let (log, captured) = Log::captured();
        let mut decisions = DecisionLog::new(log);
        let mut refused = [0; Reason::COUNT];
        refused[Reason::UnknownKey as usize] = 4;
        let batch = UsageBatch {
            refusals: vec![(1, refused), (2, refused)],
            dropped: 9,
            ..UsageBatch::default()
        };
        decisions.add(&batch, Vec::new());
        decisions.log_due(after(1), false);
        let unknown = "refused reason=unknown_key status=401 count=8";
        assert_eq!(captured.take(), [unknown, "dropped count=9"]);
    }
}
