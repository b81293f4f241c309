//! The header of a data file.

use super::layout::{BLOCK, PAIR};

/// The length of the database's header.
pub(crate) const DATABASE_HEADER: usize = 320;
/// The length of the part of a page that a copy of the header uses: a sector, which disks write whole or not
/// at all.
pub(crate) const SECTOR: usize = 512;

/// The state of the file that a sync made durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Incremented by every write of a header.
    pub(crate) sequence: u64,
    /// Checksum tables of later generations are not in use.
    pub(crate) generation: u64,
    /// The number of blocks, which determines the length of the file.
    pub(crate) blocks: u64,
    /// The wrapping sum of the [digests](super::ChecksumTable::digest) of all tables in use.
    pub(crate) digest: u64,
    pub(crate) database: [u8; DATABASE_HEADER],
}

impl Default for Header {
    fn default() -> Self {
        Self {
            sequence: 0,
            generation: 0,
            blocks: 0,
            digest: 0,
            database: [0; DATABASE_HEADER],
        }
    }
}

/// The offsets of the fields in a copy, after its checksum.
const SEQUENCE: usize = 4;
const GENERATION: usize = SEQUENCE + 8;
const BLOCKS: usize = GENERATION + 8;
const DIGEST: usize = BLOCKS + 8;
const DATABASE: usize = DIGEST + 8;

impl Header {
    /// Returns both copies.
    pub(crate) fn seal(&self) -> Vec<u8> {
        let mut copy = [0; SECTOR];
        copy[SEQUENCE..GENERATION].copy_from_slice(&self.sequence.to_le_bytes());
        copy[GENERATION..BLOCKS].copy_from_slice(&self.generation.to_le_bytes());
        copy[BLOCKS..DIGEST].copy_from_slice(&self.blocks.to_le_bytes());
        copy[DIGEST..DATABASE].copy_from_slice(&self.digest.to_le_bytes());
        copy[DATABASE..][..DATABASE_HEADER].copy_from_slice(&self.database);
        let checksum = crc32fast::hash(&copy[SEQUENCE..]).to_le_bytes();
        copy[..SEQUENCE].copy_from_slice(&checksum);
        let mut pair = vec![0; PAIR];
        for page in pair.chunks_exact_mut(BLOCK) {
            page[..SECTOR].copy_from_slice(&copy);
        }
        pair
    }

    /// Returns the header in one copy, if it is unaltered and its numbers are such that the next ones do not
    /// overflow.
    pub(crate) fn unseal(copy: &[u8; SECTOR]) -> Option<Self> {
        let number = |at: usize| Some(u64::from_le_bytes(copy[at..at + 8].try_into().ok()?));
        let checksum = u32::from_le_bytes(copy[..SEQUENCE].try_into().ok()?);
        if checksum != crc32fast::hash(&copy[SEQUENCE..]) {
            return None;
        }
        let header = Self {
            sequence: number(SEQUENCE)?,
            generation: number(GENERATION)?,
            blocks: number(BLOCKS)?,
            digest: number(DIGEST)?,
            database: copy[DATABASE..][..DATABASE_HEADER].try_into().ok()?,
        };
        let is_possible = header.generation <= header.sequence && header.sequence <= u64::MAX / 2;
        is_possible.then_some(header)
    }

    /// Returns whether the database finds the same state by both headers. The database's header is 64 bytes
    /// and two commit slots, of which a bit in the first part selects the one in use. A commit first fills the
    /// other slot, and syncs; then it selects it, and syncs again.
    pub(crate) fn selects_the_state_of(&self, other: &Self) -> bool {
        self.database[..SLOTS] == other.database[..SLOTS]
            && self.selected_slot() == other.selected_slot()
    }

    fn selected_slot(&self) -> &[u8] {
        let slot = usize::from(self.database[SELECTION] & 1);
        &self.database[SLOTS + slot * SLOT..][..SLOT]
    }
}

/// The offset of the byte whose lowest bit selects a slot.
const SELECTION: usize = 9;
const SLOTS: usize = 64;
const SLOT: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            sequence: 2,
            generation: 1,
            blocks: 3,
            digest: 4,
            database: [5; DATABASE_HEADER],
        }
    }

    #[test]
    fn both_copies_read_back_and_an_altered_byte_is_detected() {
        let pair = header().seal();
        for page in pair.chunks_exact(BLOCK) {
            let copy: [u8; SECTOR] = page[..SECTOR].try_into().unwrap();
            assert_eq!(Header::unseal(&copy), Some(header()));
            for at in 0..SECTOR {
                let mut altered = copy;
                altered[at] ^= 1;
                assert_eq!(Header::unseal(&altered), None, "byte {at}");
            }
        }
        assert_eq!(Header::unseal(&[0; SECTOR]), None);
    }

    #[test]
    fn impossible_numbers_are_detected() {
        for (sequence, generation) in [(u64::MAX, 0), (1, 2)] {
            let header = Header {
                sequence,
                generation,
                ..header()
            };
            let copy = header.seal()[..SECTOR].try_into().unwrap();
            assert_eq!(Header::unseal(&copy), None, "{sequence} {generation}");
        }
    }

    #[test]
    fn only_the_slot_that_is_not_selected_is_without_effect() {
        for selection in [4, 5] {
            let mut before = header();
            before.database[SELECTION] = selection;
            let mut without_effect = 0;
            for at in 0..DATABASE_HEADER {
                let mut after = before.clone();
                after.database[at] ^= 1;
                without_effect += usize::from(after.selects_the_state_of(&before));
            }
            assert_eq!(without_effect, SLOT);
        }
    }
}
