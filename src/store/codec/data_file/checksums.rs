//! The checksums of the blocks of a group.

use super::layout::BLOCK;

/// The number of checksums in a page.
pub(super) const PER_TABLE: usize = (BLOCK - START) / CHECKSUM;

const CHECKSUM: usize = 4;
/// The length of the page's own checksum and its generation.
const START: usize = CHECKSUM + 8;

/// The CRC-32 of a block of zeros.
const OF_ZEROS: u32 = 0xc71c_0011;

/// The checksums of the blocks of a group, in the bytes of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ChecksumTable(Box<[u8]>);

impl Default for ChecksumTable {
    fn default() -> Self {
        Self(vec![0; BLOCK - START].into())
    }
}

impl ChecksumTable {
    pub(crate) fn get(&self, index: usize) -> u32 {
        read_checksum(&self.0[index * CHECKSUM..])
    }

    pub(crate) fn set(&mut self, index: usize, checksum: u32) {
        self.0[index * CHECKSUM..][..CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Returns the checksum of a block: zero for zeros, as in a block that was never written.
    pub(crate) fn checksum_of(block: &[u8]) -> u32 {
        crc32fast::hash(block) ^ OF_ZEROS
    }

    /// Returns a checksum of all checksums of a group. The header has the wrapping sum of those of all groups, to
    /// which a change adds only those of the changed tables. A CRC would not do: equal changes of two tables could
    /// cancel each other out.
    pub(crate) fn digest(&self, group: usize) -> u64 {
        let mut hash = blake3::Hasher::new();
        hash.update(&(group as u64).to_le_bytes());
        hash.update(&self.0);
        let mut digest = [0; 8];
        hash.finalize_xof().fill(&mut digest);
        u64::from_le_bytes(digest)
    }

    /// Returns a page with the table of a group. Later tables have higher generations.
    pub(crate) fn seal(&self, group: usize, generation: u64) -> Vec<u8> {
        let mut page = vec![0; BLOCK];
        page[CHECKSUM..START].copy_from_slice(&generation.to_le_bytes());
        page[START..].copy_from_slice(&self.0);
        let checksum = page_checksum(group, &page).to_le_bytes();
        page[..CHECKSUM].copy_from_slice(&checksum);
        page
    }

    /// Returns the generation and the table in a page, if it is an unaltered page of this group.
    pub(crate) fn unseal(group: usize, page: &[u8]) -> Option<(u64, Self)> {
        if read_checksum(page) != page_checksum(group, page) {
            return None;
        }
        let generation = page[CHECKSUM..START].try_into().ok()?;
        Some((u64::from_le_bytes(generation), Self(page[START..].into())))
    }
}

fn read_checksum(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn page_checksum(group: usize, page: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&(group as u64).to_le_bytes());
    crc.update(&page[CHECKSUM..]);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_block_has_the_checksum_of_a_new_table() {
        let new = ChecksumTable::default();
        assert_eq!(ChecksumTable::checksum_of(&[0; BLOCK]), new.get(0));
        assert_ne!(ChecksumTable::checksum_of(&[1; BLOCK]), new.get(0));
    }

    #[test]
    fn equal_changes_of_two_tables_do_not_cancel_out() {
        let sum = |tables: [&ChecksumTable; 2]| {
            let digests = tables
                .iter()
                .zip(0..)
                .map(|(table, group)| table.digest(group));
            digests.fold(0, u64::wrapping_add)
        };
        let (old, mut new) = (ChecksumTable::default(), ChecksumTable::default());
        new.set(7, 1);
        let sums = [[&old, &old], [&new, &old], [&old, &new], [&new, &new]].map(sum);
        let distinct: std::collections::BTreeSet<u64> = sums.into();
        assert_eq!(distinct.len(), 4);
    }
}
