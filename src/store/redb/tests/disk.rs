//! A simulated disk that fails at a chosen operation.

use std::ops::Bound;
use std::sync::{Mutex, MutexGuard};

use ::redb::StorageBackend;

use super::*;

/// A failure from an operation on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// One operation of any kind fails without effect.
    Once,
    /// One operation fails; of a write, the first half takes effect.
    Halfway,
    /// One operation takes effect and is reported as failed.
    Unacknowledged,
    /// The same, and all later operations fail.
    UnacknowledgedThenGone,
    /// One operation reads altered bytes.
    BadBlock,
    /// Writes and syncs fail.
    ReadOnly,
    /// Writes fail, halfway, as there is no space left.
    Full,
    /// All operations fail.
    Gone,
}

pub(super) const FAILURES: [Failure; 6] = [
    Failure::Once,
    Failure::Halfway,
    Failure::Unacknowledged,
    Failure::ReadOnly,
    Failure::Full,
    Failure::Gone,
];

/// A disk in memory, below the cache of the system. Like on Linux, a failed sync discards from the disk
/// what was written since the last sync, but keeps it in the cache.
#[derive(Debug, Default)]
pub(super) struct Sim {
    pub(super) cache: Vec<u8>,
    pub(super) disk: Vec<u8>,
    unsynced: Vec<Op>,
    pub(super) operations: u64,
    /// The first failing operation, and its failure.
    failure: Option<(u64, Failure)>,
    pub(super) has_failed: bool,
    /// All operations that took effect, if they are recorded.
    pub(super) history: Option<Vec<Op>>,
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    Write(usize, Vec<u8>),
    SetLen(usize),
    Sync,
}

impl Op {
    pub(super) fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(at, data) => {
                bytes.resize(bytes.len().max(at + data.len()), 0);
                bytes[*at..at + data.len()].copy_from_slice(data);
            }
            Self::SetLen(len) => bytes.resize(*len, 0),
            Self::Sync => {}
        }
    }
}

impl Sim {
    /// Returns the failure of the next operation.
    fn next(&mut self, is_change: bool) -> Option<Failure> {
        self.operations += 1;
        let (from, failure) = self.failure?;
        let fails = match failure {
            Failure::Once | Failure::Halfway | Failure::Unacknowledged | Failure::BadBlock => {
                self.operations == from
            }
            Failure::ReadOnly | Failure::Full => self.operations >= from && is_change,
            Failure::Gone | Failure::UnacknowledgedThenGone => self.operations >= from,
        };
        self.has_failed |= fails;
        fails.then_some(match failure {
            Failure::UnacknowledgedThenGone if self.operations == from => Failure::Unacknowledged,
            failure => failure,
        })
    }

    fn make(&mut self, op: &Op) {
        op.apply(&mut self.cache);
        self.unsynced.push(op.clone());
        self.record(op);
    }

    fn record(&mut self, op: &Op) {
        if let Some(history) = &mut self.history {
            history.push(op.clone());
        }
    }

    fn change(&mut self, op: Op) -> io::Result<()> {
        match (self.next(true), op) {
            (None, op) => self.make(&op),
            (Some(failure @ (Failure::Halfway | Failure::Full)), Op::Write(at, mut data)) => {
                data.truncate(data.len() / 2);
                self.make(&Op::Write(at, data));
                return Err(failure.error());
            }
            (Some(failure @ Failure::Unacknowledged), op) => {
                self.make(&op);
                return Err(failure.error());
            }
            (Some(failure), _) => return Err(failure.error()),
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let failure = self.next(true).filter(|failure| *failure != Failure::Full);
        let unsynced = std::mem::take(&mut self.unsynced);
        if matches!(failure, None | Some(Failure::Unacknowledged)) {
            unsynced.iter().for_each(|op| op.apply(&mut self.disk));
            self.record(&Op::Sync);
        }
        failure.map_or(Ok(()), |failure| Err(failure.error()))
    }
}

impl Failure {
    fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            Self::Full => 28,
            _ => 5,
        })
    }
}

#[derive(Clone, Debug)]
pub(super) struct Disk(Arc<Mutex<Sim>>);

impl Disk {
    pub(super) fn holding(bytes: &[u8]) -> Self {
        Self(Arc::new(Mutex::new(Sim {
            cache: bytes.to_vec(),
            disk: bytes.to_vec(),
            ..Sim::default()
        })))
    }

    pub(super) fn sim(&self) -> MutexGuard<'_, Sim> {
        self.0.lock().unwrap()
    }

    /// Like [`Self::holding`], and records all operations.
    pub(super) fn recording(bytes: &[u8]) -> Self {
        let disk = Self::holding(bytes);
        disk.sim().history = Some(Vec::new());
        disk
    }

    /// Starts a failure `after` this number of operations.
    pub(super) fn fail(&self, after: u64, failure: Failure) {
        let mut sim = self.sim();
        sim.failure = Some((sim.operations + after + 1, failure));
    }

    pub(super) fn heal(&self) {
        self.sim().failure = None;
    }

    pub(super) fn open(&self, file: &File, clock: &ManualClock) -> RedbStore {
        self.open_with_cache(file, clock, CACHE).unwrap()
    }

    pub(super) fn open_with_cache(
        &self,
        file: &File,
        clock: &ManualClock,
        cache_bytes: usize,
    ) -> Result<RedbStore, OpenError> {
        let clock = clock.clone().into();
        RedbStore::open_on(&file.path, SECRET, &clock, cache_bytes, |_| self.clone())
    }

    /// Returns the disk as a power cut leaves it.
    pub(super) fn cut_off(&self) -> Self {
        Self::holding(&self.sim().disk)
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.sim().cache.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut sim = self.sim();
        let failure = sim.next(false);
        if let Some(failure) = failure.filter(|failure| *failure != Failure::BadBlock) {
            return Err(failure.error());
        }
        let at = offset as usize;
        let bytes = sim.cache.get(at..at + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        if failure.is_some() {
            out[0] ^= 1;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.sim().change(Op::SetLen(len as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sim().sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.sim().change(Op::Write(offset as usize, data.to_vec()))
    }

    fn try_lock_range(&self, _: Bound<u64>, _: Bound<u64>) -> Result<bool, BackendError> {
        Ok(true)
    }
}
