//! Usage on its way from the recorder to a store.

use std::time::Duration;

use super::Minute;
use crate::counter::{SavedCounter, SubjectId};
use crate::lockout::LockChange;
use crate::model::{KeyId, Method, Reason, Usage, WebhookEvent};
use crate::net::ClientIp;
use crate::time::Timestamp;

/// Usage to record: events of known keys, counts of other refusals, and changed balances and locks.
#[derive(Debug, Default)]
pub(crate) struct UsageBatch {
    pub(crate) events: Vec<UsageEvent>,
    /// The paths of all events, concatenated.
    pub(crate) paths: Vec<u8>,
    /// Refusals of requests without a known key, by minute.
    pub(crate) refusals: Vec<(Minute, [u64; Reason::COUNT])>,
    /// All balances of each subject. These are states, not differences: writing them twice is harmless.
    pub(crate) balances: Vec<(SubjectId, Vec<SavedCounter>)>,
    /// Refusals by rules in shadow mode, by the name of the rule.
    pub(crate) shadow_denied: Vec<(String, u64)>,
    /// States of locks. A removed lock has ended. A repeated batch has the same locks in their current state; they are
    /// not written twice, because they may have been changed in between.
    pub(crate) locks: Vec<LockChange>,
    /// Events for webhooks. Those of locks are made by the store.
    pub(crate) webhook_events: Vec<WebhookEvent>,
    /// The time at which the batch is written. Later times of locks and last uses come from wrong clocks.
    pub(crate) now: Timestamp,
    /// The number of events that were dropped because too many were waiting.
    pub(crate) dropped: u64,
    /// Adds the events to totals only; their rows are stored elsewhere.
    pub(crate) has_rows_elsewhere: bool,
}

impl UsageBatch {
    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty()
            && self.refusals.is_empty()
            && self.balances.is_empty()
            && self.locks.is_empty()
            && self.shadow_denied.is_empty()
            && self.webhook_events.is_empty()
            && self.dropped == 0
    }

    /// Returns each event with its path.
    pub(crate) fn events_with_paths(&self) -> impl Iterator<Item = (&UsageEvent, &[u8])> {
        let mut paths = self.paths.as_slice();
        self.events.iter().map(move |event| {
            let (path, rest) = paths.split_at(paths.len().min(event.path_len.into()));
            paths = rest;
            (event, path)
        })
    }

    /// Replaces the paths for which `replacement` returns another one, which must not be longer.
    pub(crate) fn replace_paths(&mut self, replacement: impl Fn(&[u8]) -> Option<Vec<u8>>) {
        let (mut start, mut kept) = (0, 0);
        for event in &mut self.events {
            let end = start + usize::from(event.path_len);
            match replacement(&self.paths[start..end]) {
                Some(path) => {
                    self.paths[kept..kept + path.len()].copy_from_slice(&path);
                    event.path_len = path.len() as u16;
                }
                None if kept < start => self.paths.copy_within(start..end, kept),
                None => {}
            }
            kept += usize::from(event.path_len);
            start = end;
        }
        self.paths.truncate(kept);
    }

    /// Empties the batch, which keeps its memory.
    pub(crate) fn clear(&mut self) {
        self.events.clear();
        self.paths.clear();
        self.refusals.clear();
        self.balances.clear();
        self.locks.clear();
        self.shadow_denied.clear();
        self.webhook_events.clear();
        self.dropped = 0;
    }
}

/// A request by a known key. Its path is the next `path_len` bytes of [`UsageBatch::paths`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct UsageEvent {
    pub(crate) at: Timestamp,
    pub(crate) key_id: KeyId,
    pub(crate) ip: ClientIp,
    pub(crate) latency_micros: u32,
    pub(crate) status: u16,
    pub(crate) path_len: u16,
    pub(crate) method: Method,
    pub(crate) refused: Option<Reason>,
}

impl UsageEvent {
    pub(crate) fn to_usage(self, path: &[u8]) -> Usage {
        Usage {
            at: self.at,
            key_id: Some(self.key_id),
            method: self.method,
            path: String::from_utf8_lossy(path).into_owned(),
            ip: self.ip,
            status: self.status,
            latency: Duration::from_micros(self.latency_micros.into()),
            refused: self.refused,
        }
    }
}
