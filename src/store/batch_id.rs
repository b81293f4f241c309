//! Ids of usage batches, by which a repeated batch is recognized.
//!
//! A commit may be reported as failed although it succeeds. The batch is then written again under the
//! same id, which is stored with it.

use super::UsageBatch;

/// Identifies a batch by the process that counted it and a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchId {
    pub(super) node: [u8; 16],
    pub(super) sequence: i64,
}

impl BatchId {
    /// Returns the node and the number in little-endian.
    pub(super) fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(&self.node);
        bytes[16..].copy_from_slice(&self.sequence.to_le_bytes());
        bytes
    }
}

/// Assigns ids to the batches of this process.
pub(super) struct BatchIds {
    node: [u8; 16],
    last: i64,
    /// The batch that may have been written without an acknowledgement.
    pending: Option<(i64, Shape)>,
}

/// The sizes that a repeated batch shares with its first attempt.
type Shape = (usize, usize, usize, usize, u64);

impl BatchIds {
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

    /// Returns the id of a batch; the same one for a repeated batch. Returns `None` for a batch of balances
    /// alone, which may be written any number of times.
    pub(super) fn id(&mut self, batch: &UsageBatch) -> Option<BatchId> {
        let shape = shape(batch);
        if shape == Shape::default() {
            return None;
        }
        let sequence = match self.pending {
            Some((sequence, attempted)) if attempted == shape => sequence,
            _ => self.last + 1,
        };
        self.last = self.last.max(sequence);
        self.pending = Some((sequence, shape));
        Some(BatchId {
            node: self.node,
            sequence,
        })
    }

    /// Notes that the last batch was committed.
    pub(super) fn acknowledge(&mut self) {
        self.pending = None;
    }

    /// Undoes [`acknowledge`](Self::acknowledge) of the last batch, which was `batch`.
    #[cfg(all(test, feature = "postgres"))]
    pub(super) fn not_acknowledged(&mut self, batch: &UsageBatch) {
        self.pending = Some((self.last, shape(batch)));
    }
}

fn shape(batch: &UsageBatch) -> Shape {
    (
        batch.events.len(),
        batch.paths.len(),
        batch.refusals.len() + batch.shadow_denied.len(),
        batch.locks.len() + batch.webhook_events.len(),
        batch.dropped,
    )
}
