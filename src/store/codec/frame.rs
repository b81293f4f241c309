//! How the database's bytes lie in the file: in blocks of 4 KiB, each with a checksum behind it, so
//! that a byte that was altered is found when it is read.
//!
//! The first block is laid out in sectors of 512 bytes, which disks write whole or not at all:
//!
//! | sector | holds |
//! |---|---|
//! | 0 | the [preamble](PREAMBLE_LEN), which never changes |
//! | 1, 2 | the database's header, twice |
//! | 3, 4 | the header before or after that one, twice |
//!
//! The header is the one thing that is written over. It goes to the pair of sectors with the older
//! one, so that a write that is cut short leaves one of them, and one bad sector leaves its twin.

use super::FORMAT;

/// The bytes of a block that the database sees.
pub(crate) const BLOCK: usize = 4_096;
/// A block and its checksum in the file.
pub(crate) const FRAMED: usize = BLOCK + CHECKSUM;
/// The part of the first block that the database uses.
pub(crate) const HEADER: usize = 320;
/// Two equal sectors.
pub(crate) const PAIR: usize = 2 * SECTOR;
/// Where the two pairs are.
pub(crate) const PAIRS: [u64; 2] = [SECTOR as u64, (SECTOR + PAIR) as u64];
/// [`MAGIC`], the format, and their checksum.
pub(crate) const PREAMBLE_LEN: usize = MAGIC.len() + 4 + CHECKSUM;

/// As in PNG: a transfer that changes line ends or the eighth bit shows.
const MAGIC: [u8; 12] = *b"\x89keyguard\r\n\x1a";
const SECTOR: usize = 512;
const CHECKSUM: usize = 4;
const TURN: usize = 8;

/// The first bytes of a data file.
pub(crate) fn preamble(format: u32) -> [u8; PREAMBLE_LEN] {
    let mut bytes = [0; PREAMBLE_LEN];
    let (said, checksum) = bytes.split_at_mut(PREAMBLE_LEN - CHECKSUM);
    said[..MAGIC.len()].copy_from_slice(&MAGIC);
    said[MAGIC.len()..].copy_from_slice(&format.to_le_bytes());
    checksum.copy_from_slice(&checksum_of(0, said));
    bytes
}

/// Why a file is not one that this version reads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    Foreign,
    Newer(u32),
    Older(u32),
    Damaged,
}

/// What the first [`PREAMBLE_LEN`] bytes, or the fewer that there are, say of a file.
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

/// Puts `block`, which is the one at `index`, and its checksum into `framed`.
pub(crate) fn seal(index: u64, block: &[u8], framed: &mut [u8]) {
    framed[..BLOCK].copy_from_slice(block);
    framed[BLOCK..].copy_from_slice(&checksum_of(index, block));
}

/// The block in `framed`, if it is as it was written and at its place.
pub(crate) fn unseal(index: u64, framed: &[u8]) -> Option<&[u8]> {
    let (block, checksum) = framed.split_at(BLOCK);
    (checksum == checksum_of(index, block)).then_some(block)
}

/// The `turn`-th header, as both sectors of a pair.
pub(crate) fn seal_header(turn: u64, header: &[u8; HEADER]) -> [u8; PAIR] {
    let mut pair = [0; PAIR];
    for sector in pair.chunks_exact_mut(SECTOR) {
        sector[CHECKSUM..][..TURN].copy_from_slice(&turn.to_le_bytes());
        sector[CHECKSUM + TURN..][..HEADER].copy_from_slice(header);
        let checksum = checksum_of(0, &sector[CHECKSUM..]);
        sector[..CHECKSUM].copy_from_slice(&checksum);
    }
    pair
}

/// The later header of a pair, and its turn.
pub(crate) fn unseal_header(pair: &[u8; PAIR]) -> Option<(u64, [u8; HEADER])> {
    let sectors = pair.chunks_exact(SECTOR);
    let sound = sectors.filter(|sector| sector[..CHECKSUM] == checksum_of(0, &sector[CHECKSUM..]));
    let read = sound.filter_map(|sector| {
        let turn = sector[CHECKSUM..][..TURN].try_into().ok()?;
        let header = sector[CHECKSUM + TURN..][..HEADER].try_into().ok()?;
        Some((u64::from_le_bytes(turn), header))
    });
    read.max_by_key(|(turn, _)| *turn)
}

fn checksum_of(index: u64, bytes: &[u8]) -> [u8; CHECKSUM] {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&index.to_le_bytes());
    crc.update(bytes);
    crc.finalize().to_le_bytes()
}
