//! The layout of a data file: blocks of 4 KiB, each followed by a checksum, so that an altered byte is
//! detected when it is read.
//!
//! The first block consists of sectors of 512 bytes, which disks write whole or not at all:
//!
//! | sector | holds |
//! |---|---|
//! | 0 | the [preamble](preamble), which never changes |
//! | 1, 2 | the database's header, twice |
//! | 3, 4 | the header before or after that one, twice |
//!
//! Only the header is overwritten. It goes to the pair of sectors with the older header, so that an
//! interrupted write leaves the other pair, and a bad sector leaves its copy.

use super::FORMAT;

/// The length of a block as the database sees it.
pub(crate) const BLOCK: usize = 4_096;
/// The length of a block with its checksum in the file.
pub(crate) const FRAMED: usize = BLOCK + CHECKSUM;
/// The length of the part of the first block that the database uses.
pub(crate) const HEADER: usize = 320;
/// The length of two equal sectors.
pub(crate) const PAIR: usize = 2 * SECTOR;
/// The offsets of the two pairs.
pub(crate) const PAIRS: [u64; 2] = [SECTOR as u64, (SECTOR + PAIR) as u64];
/// The length of [`MAGIC`], the format and their checksum.
pub(crate) const PREAMBLE_LEN: usize = MAGIC.len() + 4 + CHECKSUM;

/// Like the signature of PNG, reveals a transfer that changes line ends or the eighth bit.
const MAGIC: [u8; 12] = *b"\x89keyguard\r\n\x1a";
const SECTOR: usize = 512;
const CHECKSUM: usize = 4;
const SEQUENCE: usize = 8;

/// Returns the first bytes of a data file.
pub(crate) fn preamble(format: u32) -> [u8; PREAMBLE_LEN] {
    let mut bytes = [0; PREAMBLE_LEN];
    let (stated, checksum) = bytes.split_at_mut(PREAMBLE_LEN - CHECKSUM);
    stated[..MAGIC.len()].copy_from_slice(&MAGIC);
    stated[MAGIC.len()..].copy_from_slice(&format.to_le_bytes());
    checksum.copy_from_slice(&checksum_of(0, stated));
    bytes
}

/// Why this version does not read a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    Foreign,
    Newer(u32),
    Older(u32),
    Damaged,
}

/// Checks the first [`PREAMBLE_LEN`] bytes of a file, or all bytes of a shorter one.
pub(crate) fn read_preamble(bytes: &[u8]) -> Result<(), Unreadable> {
    let magic = bytes.len().min(MAGIC.len());
    if bytes[..magic] != MAGIC[..magic] {
        return Err(Unreadable::Foreign);
    }
    let bytes: &[u8; PREAMBLE_LEN] = bytes.try_into().map_err(|_| Unreadable::Damaged)?;
    let mut format = [0; 4];
    format.copy_from_slice(&bytes[MAGIC.len()..MAGIC.len() + 4]);
    match u32::from_le_bytes(format) {
        format if preamble(format) != *bytes => Err(Unreadable::Damaged),
        format if format > FORMAT => Err(Unreadable::Newer(format)),
        format if format < FORMAT => Err(Unreadable::Older(format)),
        _ => Ok(()),
    }
}

/// Copies the block at `index` and its checksum to `framed`.
pub(crate) fn seal(index: u64, block: &[u8], framed: &mut [u8]) {
    framed[..BLOCK].copy_from_slice(block);
    framed[BLOCK..].copy_from_slice(&checksum_of(index, block));
}

/// Returns the block in `framed` if it is unaltered and belongs at `index`.
pub(crate) fn unseal(index: u64, framed: &[u8]) -> Option<&[u8]> {
    let (block, checksum) = framed.split_at(BLOCK);
    (checksum == checksum_of(index, block)).then_some(block)
}

/// Returns the header number `sequence`, as both sectors of a pair.
pub(crate) fn seal_header(sequence: u64, header: &[u8; HEADER]) -> [u8; PAIR] {
    let mut pair = [0; PAIR];
    for sector in pair.chunks_exact_mut(SECTOR) {
        sector[CHECKSUM..][..SEQUENCE].copy_from_slice(&sequence.to_le_bytes());
        sector[CHECKSUM + SEQUENCE..][..HEADER].copy_from_slice(header);
        let checksum = checksum_of(0, &sector[CHECKSUM..]);
        sector[..CHECKSUM].copy_from_slice(&checksum);
    }
    pair
}

/// Returns the later header of a pair with its sequence number.
pub(crate) fn unseal_header(pair: &[u8; PAIR]) -> Option<(u64, [u8; HEADER])> {
    let sectors = pair.chunks_exact(SECTOR);
    let intact = sectors.filter(|sector| sector[..CHECKSUM] == checksum_of(0, &sector[CHECKSUM..]));
    let headers = intact.filter_map(|sector| {
        let sequence = sector[CHECKSUM..][..SEQUENCE].try_into().ok()?;
        let header = sector[CHECKSUM + SEQUENCE..][..HEADER].try_into().ok()?;
        Some((u64::from_le_bytes(sequence), header))
    });
    headers.max_by_key(|(sequence, _)| *sequence)
}

fn checksum_of(index: u64, bytes: &[u8]) -> [u8; CHECKSUM] {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&index.to_le_bytes());
    crc.update(bytes);
    crc.finalize().to_le_bytes()
}
