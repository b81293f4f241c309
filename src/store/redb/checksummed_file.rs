//! Checksums of blocks, between the database and the file.

use std::io;
use std::ops::Bound;

use parking_lot::Mutex;
use redb::{BackendError, StorageBackend};

use crate::store::codec::FORMAT;
use crate::store::codec::frame::{self, BLOCK, FRAMED, HEADER, PAIR, PAIRS};

/// The storage of redb on a file with the layout of [`frame`].
///
/// redb trusts what it reads: on an altered byte it may overwrite data in use, or panic, even while
/// unwinding, which aborts the process. Reading an altered byte therefore fails with
/// [`io::ErrorKind::InvalidData`], after which redb does no more work on the file.
#[derive(Debug)]
pub(super) struct ChecksummedFile {
    file: Box<dyn StorageBackend>,
    /// `None` before it is read, which is after redb has locked the file.
    header: Mutex<Option<Header>>,
    /// The last failed change.
    failed: Mutex<Option<Failed>>,
}

#[derive(Clone, Debug)]
enum Failed {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

#[derive(Debug)]
struct Header {
    current: Written,
    /// The last header that is known to be on disk.
    synced: Written,
}

/// A written header, and the length of the file at that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Written {
    bytes: [u8; HEADER],
    /// The length of the file.
    len: u64,
    /// Incremented by every write.
    sequence: u64,
    /// The index in [`PAIRS`] of its location.
    pair: usize,
}

impl Header {
    fn is_synced(&self) -> bool {
        self.current == self.synced
    }

    /// Selects the pair without the synced header for the next write.
    fn advance(&mut self) {
        self.current.sequence += 1;
        self.current.pair = 1 - self.synced.pair;
    }
}

impl ChecksummedFile {
    /// Returns the storage on a file that starts with a preamble.
    pub(super) fn existing(file: impl StorageBackend) -> Self {
        Self {
            file: Box::new(file),
            header: Mutex::new(None),
            failed: Mutex::new(None),
        }
    }

    /// Returns the storage on an empty file.
    pub(super) fn new(file: impl StorageBackend) -> io::Result<Self> {
        let preamble = frame::preamble(FORMAT);
        file.set_len(preamble.len() as u64)?;
        file.write(0, &preamble)?;
        let blank = Written {
            bytes: [0; HEADER],
            len: preamble.len() as u64,
            sequence: 0,
            pair: 0,
        };
        Ok(Self {
            file: Box::new(file),
            header: Mutex::new(Some(Header {
                current: blank,
                synced: blank,
            })),
            failed: Mutex::new(None),
        })
    }

    /// Restores the last synced header, after a failed write or sync. All later writes are in blocks that
    /// this header does not refer to. The system may discard them although its cache still shows them.
    ///
    /// Writes nothing, unlike [`Self::settle`]. Fails if the file does not contain that header, because
    /// another program has written the file.
    pub(super) fn roll_back(&self) -> io::Result<()> {
        let mut current = self.header.lock();
        let Some(header) = &mut *current else {
            return Ok(());
        };
        self.require(&header.synced)?;
        header.current.bytes = header.synced.bytes;
        header.current.len = header.synced.len;
        Ok(())
    }

    /// Fails with [`io::ErrorKind::InvalidData`] if another program has truncated the file or overwritten
    /// its header.
    pub(super) fn check(&self) -> io::Result<()> {
        let current = self.header.lock();
        let synced = current.as_ref().map(|header| &header.synced);
        synced.map_or(Ok(()), |synced| self.require(synced))
    }

    /// Fails with [`io::ErrorKind::InvalidData`] unless the file contains the header `synced`.
    fn require(&self, synced: &Written) -> io::Result<()> {
        if self.file.len()? < synced.len {
            return Err(overwritten());
        }
        let mut sectors = [0; PAIR];
        self.file.read(PAIRS[synced.pair], &mut sectors)?;
        match frame::unseal_header(&sectors) == Some((synced.sequence, synced.bytes)) {
            true => Ok(()),
            false => Err(overwritten()),
        }
    }

    /// Writes and syncs the header that [`Self::roll_back`] restored, in place of a later one that may be
    /// on disk.
    ///
    /// First repeats the failed change, to which the header does not refer: this succeeds only when the
    /// file can grow and be written again.
    pub(super) fn settle(&self) -> io::Result<()> {
        let failed = self.failed.lock().clone();
        if let Some(failed) = failed {
            match failed {
                Failed::Write(offset, framed) => self.file.write(offset, &framed)?,
                Failed::SetLen(len) => self.file.set_len(len)?,
            }
            self.file.sync_data()?;
            *self.failed.lock() = None;
        }
        let mut current = self.header.lock();
        let Some(header) = current.as_mut().filter(|header| !header.is_synced()) else {
            return Ok(());
        };
        header.advance();
        self.write_header(&header.current)?;
        self.file.sync_data()?;
        header.synced = header.current;
        Ok(())
    }

    fn write_header(&self, header: &Written) -> io::Result<()> {
        let sectors = frame::seal_header(header.sequence, &header.bytes);
        self.file.write(PAIRS[header.pair], &sectors)
    }

    /// Notes a new length of the file. A shorter one counts as synced at once.
    fn note_len(&self, len: u64) {
        if let Some(header) = &mut *self.header.lock() {
            header.current.len = len;
            header.synced.len = header.synced.len.min(len);
        }
    }

    fn with_header<T>(&self, work: impl FnOnce(&mut Header) -> io::Result<T>) -> io::Result<T> {
        let mut current = self.header.lock();
        match &mut *current {
            Some(header) => work(header),
            None => work(current.insert(self.read_header()?)),
        }
    }

    fn read_header(&self) -> io::Result<Header> {
        let len = self.file.len()?;
        let mut headers = Vec::new();
        for (pair, at) in PAIRS.into_iter().enumerate() {
            let mut sectors = [0; PAIR];
            self.file.read(at, &mut sectors)?;
            // A crash damages one sector at most. If both are damaged, the later header may be lost,
            // and with it an acknowledged change.
            let (sequence, bytes) = frame::unseal_header(&sectors).ok_or_else(|| altered(0))?;
            headers.push(Written {
                bytes,
                len,
                sequence,
                pair,
            });
        }
        let latest = headers.into_iter().max_by_key(|header| header.sequence);
        let latest = latest.ok_or_else(|| altered(0))?;
        Ok(Header {
            current: latest,
            synced: latest,
        })
    }
}

impl StorageBackend for ChecksummedFile {
    fn len(&self) -> io::Result<u64> {
        let len = self.file.len()?;
        let blocks = len / FRAMED as u64;
        // A file with a preamble alone is empty for redb.
        if blocks > 0 && !len.is_multiple_of(FRAMED as u64) {
            return Err(altered(blocks));
        }
        Ok(blocks * BLOCK as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if let Some(range) = in_header(offset, out.len()) {
            return self.with_header(|header| {
                out.copy_from_slice(&header.current.bytes[range]);
                Ok(())
            });
        }
        let first = block_at(offset)?;
        let mut framed = vec![0; blocks_of(out.len())? * FRAMED];
        self.file.read(first * FRAMED as u64, &mut framed)?;
        let framed = framed.chunks_exact(FRAMED);
        for ((index, framed), out) in (first..).zip(framed).zip(out.chunks_exact_mut(BLOCK)) {
            let block = frame::unseal(index, framed).ok_or_else(|| altered(index))?;
            out.copy_from_slice(block);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if let Some(range) = in_header(offset, data.len()) {
            return self.with_header(|header| {
                header.current.bytes[range].copy_from_slice(data);
                header.advance();
                self.write_header(&header.current)
            });
        }
        let first = block_at(offset)?;
        let mut framed = vec![0; blocks_of(data.len())? * FRAMED];
        let targets = framed.chunks_exact_mut(FRAMED);
        for ((index, block), framed) in (first..).zip(data.chunks_exact(BLOCK)).zip(targets) {
            frame::seal(index, block, framed);
        }
        let offset = first * FRAMED as u64;
        self.file.write(offset, &framed).inspect_err(|_| {
            *self.failed.lock() = Some(Failed::Write(offset, framed));
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if !len.is_multiple_of(BLOCK as u64) {
            return Err(unaligned());
        }
        let len = len / BLOCK as u64 * FRAMED as u64;
        let is_longer = self.file.len()? < len;
        // Before truncating, so that the check for other programs does not fail.
        if !is_longer {
            self.note_len(len);
        }
        self.file.set_len(len).inspect_err(|_| {
            *self.failed.lock() = is_longer.then_some(Failed::SetLen(len));
        })?;
        self.note_len(len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        // Locked until the end, so that a header written meanwhile does not count as synced.
        let mut header = self.header.lock();
        self.file.sync_data()?;
        if let Some(header) = &mut *header {
            header.synced = header.current;
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

/// Returns the range within the header, if it is there. All other accesses of redb are whole blocks.
fn in_header(offset: u64, len: usize) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(len)?;
    (end <= HEADER).then_some(start..end)
}

/// Returns the index of a block other than the first.
fn block_at(offset: u64) -> io::Result<u64> {
    let index = offset / BLOCK as u64;
    let whole = offset.is_multiple_of(BLOCK as u64) && index > 0;
    // The offset in the file must not overflow.
    let reachable = index < u64::MAX / (2 * FRAMED as u64);
    (whole && reachable).then_some(index).ok_or_else(unaligned)
}

fn blocks_of(len: usize) -> io::Result<usize> {
    len.is_multiple_of(BLOCK)
        .then_some(len / BLOCK)
        .ok_or_else(unaligned)
}

fn unaligned() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        "length is not a multiple of 4,096 bytes",
    )
}

/// The problem of a file that another program has changed.
const OVERWRITTEN: &str = "the data file was truncated or overwritten by another program; \
    stop this process and restore the file from a backup";

fn overwritten() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, OVERWRITTEN)
}

fn altered(index: u64) -> io::Error {
    let what = format!("block {index} was altered");
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests;
