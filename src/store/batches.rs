//! Numbers of usage batches, by which a batch that is written again is recognized.
//!
//! The commit of a batch may be reported as failed and turn out to be there later. The batch is then
//! written again under the same id, which is stored with its totals.

use super::UsageBatch;

/// Identifies a batch: the process that counted it, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchId {
    pub(super) node: [u8; 16],
    pub(super) sequence: i64,
}

impl BatchId {
    /// The node, and the number in little-endian.
    pub(super) fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(&self.node);
        bytes[16..].copy_from_slice(&self.sequence.to_le_bytes());
        bytes
    }
}

/// The batches of this process.
pub(super) struct Batches {
    node: [u8; 16],
    last: i64,
    /// The one that may have been written although that was not acknowledged.
    pending: Option<(i64, Shape)>,
}

/// What a batch that is tried again has in common with what was tried.
type Shape = (usize, usize, usize, u64);

impl Batches {
    /// Fails if the system has no random numbers.
    pub(super) fn new() -> Result<Self, getrandom::Error> {
        let mut node = [0; 16];
        getrandom::fill(&mut node)?;
        Ok(Self {
            node,
            last: 0,
            pending: None,
        })
    }

    /// Returns the id of a batch: the same as before if it is the one that could not be written
    /// before. `None` for a batch of absolute states alone, which may be written any number of times.
    pub(super) fn id(&mut self, batch: &UsageBatch) -> Option<BatchId> {
        let shape = shape(batch);
        if shape == Shape::default() {
            return None;
        }
        let sequence = match self.pending {
            Some((sequence, tried)) if tried == shape => sequence,
            _ => self.last + 1,
        };
        self.last = self.last.max(sequence);
        self.pending = Some((sequence, shape));
        Some(BatchId {
            node: self.node,
            sequence,
        })
    }

    /// Notes that the last batch was written.
    pub(super) fn written(&mut self) {
        self.pending = None;
    }

    /// As if the last batch, which was `batch`, had not been acknowledged.
    #[cfg(all(test, feature = "postgres"))]
    pub(super) fn not_acknowledged(&mut self, batch: &UsageBatch) {
        self.pending = Some((self.last, shape(batch)));
    }
}

fn shape(batch: &UsageBatch) -> Shape {
    (
        batch.events.len(),
        batch.paths.len(),
        batch.refusals.len() + batch.shadowed.len(),
        batch.dropped,
    )
}
