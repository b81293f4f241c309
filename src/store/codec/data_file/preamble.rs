//! The first bytes of a data file: what it is, and its format.

use crate::store::codec::FORMAT;

/// The length of [`MAGIC`], the format and their checksum.
pub(crate) const PREAMBLE: usize = MAGIC.len() + 4 + CHECKSUM;

/// Like the signature of PNG, reveals a transfer that changes line ends or the eighth bit.
const MAGIC: [u8; 12] = *b"\x89keyguard\r\n\x1a";
const CHECKSUM: usize = 4;

/// Returns the first bytes of a data file.
pub(crate) fn preamble(format: u32) -> [u8; PREAMBLE] {
    let mut bytes = [0; PREAMBLE];
    let (stated, checksum) = bytes.split_at_mut(PREAMBLE - CHECKSUM);
    stated[..MAGIC.len()].copy_from_slice(&MAGIC);
    stated[MAGIC.len()..].copy_from_slice(&format.to_le_bytes());
    checksum.copy_from_slice(&checksum_of(stated));
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

/// Checks the first [`PREAMBLE`] bytes of a file, or all bytes of a shorter one.
pub(crate) fn read_preamble(bytes: &[u8]) -> Result<(), Unreadable> {
    let magic = bytes.len().min(MAGIC.len());
    if bytes[..magic] != MAGIC[..magic] {
        return Err(Unreadable::Foreign);
    }
    let bytes: &[u8; PREAMBLE] = bytes.try_into().map_err(|_| Unreadable::Damaged)?;
    let mut format = [0; 4];
    format.copy_from_slice(&bytes[MAGIC.len()..MAGIC.len() + 4]);
    match u32::from_le_bytes(format) {
        format if preamble(format) != *bytes => Err(Unreadable::Damaged),
        format if format > FORMAT => Err(Unreadable::Newer(format)),
        format if format < FORMAT => Err(Unreadable::Older(format)),
        _ => Ok(()),
    }
}

/// Returns the checksum of eight zeros and `bytes`, as in all formats.
fn checksum_of(bytes: &[u8]) -> [u8; CHECKSUM] {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&[0; 8]);
    crc.update(bytes);
    crc.finalize().to_le_bytes()
}
