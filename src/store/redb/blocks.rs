//! The file below the database: every block is checked when it is read.

use std::io;
use std::ops::Bound;

use parking_lot::Mutex;
use redb::{BackendError, StorageBackend};

use crate::store::codec::FORMAT;
use crate::store::codec::frame::{self, BLOCK, FRAMED, HEADER, PAIR, PAIRS};

/// The bytes that redb sees of a file that is laid out as [`frame`] says.
///
/// redb trusts what it reads: on an altered byte it may panic, also while it unwinds, which aborts
/// the process, or overwrite what is in use. An altered byte is therefore an error here, of the
/// kind [`io::ErrorKind::InvalidData`], and redb does nothing more with the file.
#[derive(Debug)]
pub(super) struct Blocks {
    file: Box<dyn StorageBackend>,
    /// `None` until it is read, which must not be before redb has locked the file.
    header: Mutex<Option<Header>>,
    /// The change of the file that failed last.
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
    /// The last one that is known to be on disk.
    synced: Written,
}

/// A header as it was written, and the file then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Written {
    bytes: [u8; HEADER],
    /// The bytes of the file.
    len: u64,
    /// Grows with every write.
    turn: u64,
    /// Which of [`PAIRS`] it went to.
    pair: usize,
}

impl Header {
    fn is_synced(&self) -> bool {
        self.current == self.synced
    }

    /// Takes the pair that does not hold the synced header for the next write.
    fn advance(&mut self) {
        self.current.turn += 1;
        self.current.pair = 1 - self.synced.pair;
    }
}

impl Blocks {
    /// Over a file that starts with a preamble.
    pub(super) fn existing(file: impl StorageBackend) -> Self {
        Self {
            file: Box::new(file),
            header: Mutex::new(None),
            failed: Mutex::new(None),
        }
    }

    /// Over a file without any bytes.
    pub(super) fn new(file: impl StorageBackend) -> io::Result<Self> {
        let preamble = frame::preamble(FORMAT);
        file.set_len(preamble.len() as u64)?;
        file.write(0, &preamble)?;
        let blank = Written {
            bytes: [0; HEADER],
            len: preamble.len() as u64,
            turn: 0,
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

    /// Goes back to the header that was last synced, after a write or a sync has failed. Whatever was
    /// written since then is in blocks that this header does not refer to. The system may drop it
    /// while its cache still shows it, so the file must not be trusted to hold any of it.
    ///
    /// Writes nothing; [`Blocks::settle`] does. Fails if the file no longer holds that header, as
    /// when another program has written the file.
    pub(super) fn roll_back(&self) -> io::Result<()> {
        let mut place = self.header.lock();
        let Some(header) = &mut *place else {
            return Ok(());
        };
        self.require(&header.synced)?;
        header.current.bytes = header.synced.bytes;
        header.current.len = header.synced.len;
        Ok(())
    }

    /// Fails with [`io::ErrorKind::InvalidData`] if another program has cut the file off or has
    /// overwritten its header.
    pub(super) fn check(&self) -> io::Result<()> {
        let place = self.header.lock();
        let synced = place.as_ref().map(|header| &header.synced);
        synced.map_or(Ok(()), |synced| self.require(synced))
    }

    /// Fails with [`io::ErrorKind::InvalidData`] unless the file holds what was `synced`.
    fn require(&self, synced: &Written) -> io::Result<()> {
        if self.file.len()? < synced.len {
            return Err(overwritten());
        }
        let mut sectors = [0; PAIR];
        self.file.read(PAIRS[synced.pair], &mut sectors)?;
        match frame::unseal_header(&sectors) == Some((synced.turn, synced.bytes)) {
            true => Ok(()),
            false => Err(overwritten()),
        }
    }

    /// Writes and syncs the header that [`Blocks::roll_back`] went back to, in place of a later one
    /// that may be on disk.
    ///
    /// Before that makes the change that failed, so that this succeeds only once the file can grow
    /// and be written where it could not. The header refers to nothing of it.
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
        let mut place = self.header.lock();
        let Some(header) = place.as_mut().filter(|header| !header.is_synced()) else {
            return Ok(());
        };
        header.advance();
        self.write_header(&header.current)?;
        self.file.sync_data()?;
        header.synced = header.current;
        Ok(())
    }

    fn write_header(&self, header: &Written) -> io::Result<()> {
        let sectors = frame::seal_header(header.turn, &header.bytes);
        self.file.write(PAIRS[header.pair], &sectors)
    }

    /// Notes the length that the file is given. A shorter one counts as synced at once.
    fn note_len(&self, len: u64) {
        if let Some(header) = &mut *self.header.lock() {
            header.current.len = len;
            header.synced.len = header.synced.len.min(len);
        }
    }

    fn with_header<T>(&self, work: impl FnOnce(&mut Header) -> io::Result<T>) -> io::Result<T> {
        let mut place = self.header.lock();
        match &mut *place {
            Some(header) => work(header),
            None => work(place.insert(self.read_header()?)),
        }
    }

    fn read_header(&self) -> io::Result<Header> {
        let len = self.file.len()?;
        let mut headers = Vec::new();
        for (pair, at) in PAIRS.into_iter().enumerate() {
            let mut sectors = [0; PAIR];
            self.file.read(at, &mut sectors)?;
            // A crash spoils one sector at most. Where both are, the later header may be lost, and
            // with it a change that was acknowledged.
            let (turn, bytes) = frame::unseal_header(&sectors).ok_or_else(|| altered(0))?;
            headers.push(Written {
                bytes,
                len,
                turn,
                pair,
            });
        }
        let latest = headers.into_iter().max_by_key(|header| header.turn);
        let latest = latest.ok_or_else(|| altered(0))?;
        Ok(Header {
            current: latest,
            synced: latest,
        })
    }
}

impl StorageBackend for Blocks {
    fn len(&self) -> io::Result<u64> {
        let len = self.file.len()?;
        let blocks = len / FRAMED as u64;
        // A preamble alone is a file that redb has not begun to fill.
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
        let places = framed.chunks_exact_mut(FRAMED);
        for ((index, block), framed) in (first..).zip(data.chunks_exact(BLOCK)).zip(places) {
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
        // Before the file is shorter, so that this is not taken for another program's doing.
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
        // Held throughout, so that a header written meanwhile does not count as synced.
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

/// The part of the header that is meant. All else that redb reads and writes is whole blocks.
fn in_header(offset: u64, len: usize) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(len)?;
    (end <= HEADER).then_some(start..end)
}

/// The index of a block other than the first.
fn block_at(offset: u64) -> io::Result<u64> {
    let index = offset / BLOCK as u64;
    let whole = offset.is_multiple_of(BLOCK as u64) && index > 0;
    // So that the place in the file is a number too.
    let reachable = index < u64::MAX / (2 * FRAMED as u64);
    (whole && reachable).then_some(index).ok_or_else(unaligned)
}

fn blocks_of(len: usize) -> io::Result<usize> {
    len.is_multiple_of(BLOCK)
        .then_some(len / BLOCK)
        .ok_or_else(unaligned)
}

fn unaligned() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a whole block")
}

/// What is wrong with a file that another program has changed.
const OVERWRITTEN: &str = "the data file was cut off or overwritten by another program; \
    stop this process and restore the file from a backup";

fn overwritten() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, OVERWRITTEN)
}

fn altered(index: u64) -> io::Error {
    let what = format!("block {index} is not as it was written");
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use redb::backends::InMemoryBackend;

    fn bytes(file: &dyn StorageBackend) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read(0, &mut bytes).unwrap();
        bytes
    }

    fn reopened(bytes: &[u8]) -> Blocks {
        let file = InMemoryBackend::new();
        file.set_len(bytes.len() as u64).unwrap();
        file.write(0, bytes).unwrap();
        Blocks::existing(file)
    }

    fn header(blocks: &Blocks) -> io::Result<[u8; HEADER]> {
        let mut header = [0; HEADER];
        blocks.read(0, &mut header).map(|()| header)
    }

    /// Four blocks, of which the last three are 1, 2 and 3 throughout, and headers 1 and 2.
    fn filled() -> Blocks {
        let blocks = Blocks::new(InMemoryBackend::new()).unwrap();
        assert_eq!(blocks.len().unwrap(), 0);
        blocks.set_len(4 * BLOCK as u64).unwrap();
        for n in 1..=2 {
            blocks.write(0, &[n; HEADER]).unwrap();
            blocks.sync_data().unwrap();
        }
        let data = [[1; BLOCK], [2; BLOCK], [3; BLOCK]].concat();
        blocks.write(BLOCK as u64, &data).unwrap();
        blocks
    }

    #[test]
    fn blocks_and_the_last_header_are_read_back() {
        let filled = filled();
        for blocks in [reopened(&bytes(&*filled.file)), filled] {
            assert_eq!(blocks.len().unwrap(), 4 * BLOCK as u64);
            assert_eq!(header(&blocks).unwrap(), [2; HEADER]);
            let mut two = [0; 2 * BLOCK];
            blocks.read(2 * BLOCK as u64, &mut two).unwrap();
            assert_eq!(two[..BLOCK], [2; BLOCK]);
            assert_eq!(two[BLOCK..], [3; BLOCK]);
        }
    }

    #[test]
    fn rolling_back_leads_to_the_header_that_was_last_synced() {
        let blocks = filled();
        blocks.write(0, &[3; HEADER]).unwrap();
        blocks.write(0, &[4; HEADER]).unwrap();
        blocks.roll_back().unwrap();
        assert_eq!(header(&blocks).unwrap(), [2; HEADER]);
        // In the file only once it is settled.
        let in_file = |blocks: &Blocks| header(&reopened(&bytes(&*blocks.file))).unwrap();
        assert_eq!(in_file(&blocks), [4; HEADER]);
        blocks.settle().unwrap();
        assert_eq!(in_file(&blocks), [2; HEADER]);
        blocks.write(0, &[5; HEADER]).unwrap();
        blocks.sync_data().unwrap();
        assert_eq!(in_file(&blocks), [5; HEADER]);
    }

    #[test]
    fn a_file_that_another_program_has_written_is_not_rolled_back() {
        let blocks = filled();
        let older = bytes(&*blocks.file);
        for n in 3..5 {
            blocks.write(0, &[n; HEADER]).unwrap();
            blocks.sync_data().unwrap();
        }
        blocks.file.write(0, &older).unwrap();
        let error = blocks.roll_back().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_block_at_the_place_of_another_is_an_error() {
        let mut bytes = bytes(&*filled().file);
        bytes.copy_within(FRAMED..2 * FRAMED, 2 * FRAMED);
        let blocks = reopened(&bytes);
        let mut block = [0; BLOCK];
        blocks.read(BLOCK as u64, &mut block).unwrap();
        let moved = blocks.read(2 * BLOCK as u64, &mut block).unwrap_err();
        assert_eq!(moved.kind(), io::ErrorKind::InvalidData);
        assert_eq!(moved.to_string(), "block 2 is not as it was written");
    }

    #[test]
    fn a_block_of_zeros_is_an_error() {
        let mut bytes = bytes(&*filled().file);
        bytes[FRAMED..].fill(0);
        let mut block = [0; BLOCK];
        assert!(reopened(&bytes).read(BLOCK as u64, &mut block).is_err());
    }

    #[test]
    fn one_bad_sector_of_the_header_is_made_good_and_two_are_an_error() {
        let sound = bytes(&*filled().file);
        for pair in PAIRS {
            let start = usize::try_from(pair).unwrap();
            let mut bytes = sound.clone();
            for (bad, sector) in bytes[start..start + PAIR].chunks_mut(PAIR / 2).enumerate() {
                let mut one = sound.clone();
                one[start + bad * PAIR / 2..][..PAIR / 2].fill(0);
                assert_eq!(header(&reopened(&one)).unwrap(), [2; HEADER]);
                sector[17] ^= 1;
            }
            let error = header(&reopened(&bytes)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }

    proptest! {
        #[test]
        fn an_altered_byte_is_an_error(at in FRAMED..4 * FRAMED, change in 1..=u8::MAX) {
            let mut bytes = bytes(&*filled().file);
            bytes[at] ^= change;
            let blocks = reopened(&bytes);
            for index in 1..4 {
                let mut block = [0; BLOCK];
                let read = blocks.read((index * BLOCK) as u64, &mut block);
                prop_assert_eq!(read.is_err(), index == at / FRAMED);
            }
        }

        #[test]
        fn a_header_that_was_cut_short_leaves_it_or_the_one_before(
            writes in 1..5_u8,
            written in 0..FRAMED,
        ) {
            let blocks = filled();
            let before = bytes(&*blocks.file);
            // Only the first sync makes room for more, so all of these go to one pair.
            for n in 3..3 + writes {
                blocks.write(0, &[n; HEADER]).unwrap();
            }
            let mut bytes = bytes(&*blocks.file);
            bytes[written..].copy_from_slice(&before[written..]);
            let found = header(&reopened(&bytes)).unwrap();
            prop_assert!(found == [2; HEADER] || found == [2 + writes; HEADER]);
        }
    }
}
