//! What was sent, to be compared with the totals of the guard.

use std::collections::{BTreeMap, VecDeque};

use keyguard::{Denial, Grant, Reason, Stats, Timestamp};

/// Counts of outcomes that the guard records.
#[derive(Default)]
pub(crate) struct Sent {
    pub(crate) requests: u64,
    refused: BTreeMap<Reason, u64>,
    errors: u64,
    /// The requests of each of the last minutes.
    minutes: VecDeque<(u64, u64)>,
}

impl Sent {
    /// Finishes a grant, and counts the outcome of a request that was sent at `now`. Returns whether it was
    /// admitted.
    pub(crate) fn count(&mut self, outcome: Result<Grant, Denial>, now: Timestamp) -> bool {
        let is_admitted = outcome.is_ok();
        match outcome {
            // Requests that need no key are not recorded.
            Ok(grant) if grant.key().is_none() => return true,
            Ok(grant) => grant.finish(200),
            Err(denial) => {
                *self.refused.entry(denial.reason()).or_default() += 1;
                self.errors += 1;
            }
        }
        self.requests += 1;
        let minute = now.unix_millis() / 60_000;
        match self.minutes.back_mut() {
            Some((last, count)) if *last == minute => *count += 1,
            _ => self.minutes.push_back((minute, 1)),
        }
        while self
            .minutes
            .front()
            .is_some_and(|(first, _)| first + 60 < minute)
        {
            self.minutes.pop_front();
        }
        is_admitted
    }

    /// The sum of all differences from the totals of the guard.
    pub(crate) fn difference(&self, stats: &Stats, now: Timestamp) -> u64 {
        let hour_ago = (now.unix_millis() / 60_000).saturating_sub(60);
        let in_last_hour = self
            .minutes
            .iter()
            .filter(|(minute, _)| *minute >= hour_ago);
        let last_hour: u64 = in_last_hour.map(|(_, count)| count).sum();
        let totals = [
            (self.requests, stats.requests),
            (self.errors, stats.errors),
            (last_hour, stats.requests_1h),
        ];
        let of_totals: u64 = totals
            .iter()
            .map(|(sent, stored)| sent.abs_diff(*stored))
            .sum();
        let stored: BTreeMap<_, _> = stats.refused.iter().copied().collect();
        let reasons = self.refused.keys().chain(stored.keys());
        let of_reasons = reasons.map(|reason| {
            let count = |counts: &BTreeMap<_, _>| counts.get(reason).copied().unwrap_or(0);
            count(&self.refused).abs_diff(count(&stored))
        });
        of_totals + of_reasons.sum::<u64>()
    }

    /// The reasons and their counts, for people.
    pub(crate) fn refusals(&self) -> String {
        let refused = self.refused.iter();
        let refused = refused.map(|(reason, count)| format!("{count} {reason}"));
        refused.collect::<Vec<_>>().join(", ")
    }
}
