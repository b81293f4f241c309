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

    /// Returns a checksum of all checksums.
    pub(crate) fn digest(&self) -> u32 {
        crc32fast::hash(&self.0)
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

/// Returns a checksum of the digests of all tables.
pub(crate) fn digest_of_all(digests: &[u32]) -> u32 {
    // One long run: every commit computes it, of 4 bytes for each 4 MiB of the file.
    let bytes = digests.iter().flat_map(|digest| digest.to_le_bytes());
    crc32fast::hash(&bytes.collect::<Vec<u8>>())
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
}
