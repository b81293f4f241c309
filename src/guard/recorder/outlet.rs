//! Requests on their way to a sink.

use std::io;

use crate::model::Usage;
use crate::sink::SharedSink;
use crate::store::UsageBatch;

/// Single requests for a sink.
pub(in crate::guard) struct Outlet {
    sink: SharedSink,
    waiting: Vec<Usage>,
    capacity: usize,
    /// Whether the requests are not stored as well.
    pub(super) is_only: bool,
}

impl Outlet {
    pub(in crate::guard) fn new(
        sink: Option<SharedSink>,
        capacity: usize,
        is_only: bool,
    ) -> Option<Self> {
        sink.map(|sink| Self {
            sink,
            waiting: Vec::new(),
            capacity,
            is_only,
        })
    }

    /// Adds the events of a batch and refusals without a known key. Returns the number of events without room.
    pub(super) fn take(&mut self, batch: &UsageBatch, mut keyless: Vec<Usage>) -> u64 {
        let start = self.waiting.len();
        let room = self.capacity.saturating_sub(start);
        let events = batch.events_with_paths().take(room);
        let events = events.map(|(event, path)| event.to_usage(path));
        self.waiting.extend(events);
        let offered = batch.events.len() + keyless.len();
        keyless.truncate(self.capacity.saturating_sub(self.waiting.len()));
        if !keyless.is_empty() {
            // The others are in order.
            self.waiting.append(&mut keyless);
            self.waiting[start..].sort_by_key(|usage| usage.at);
        }
        offered.saturating_sub(room) as u64
    }

    /// Writes all waiting requests to the sink. They are kept if that fails.
    pub(super) fn write(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.sink.write(&self.waiting)?;
        self.waiting.clear();
        Ok(())
    }
}
