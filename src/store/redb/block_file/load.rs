//! Reading the state of a file at opening.

use std::io;

use redb::StorageBackend;

use super::tables::{CommittedTable, Tables};
use super::{invalid, read_header};
use crate::store::codec::data_file::{
    BLOCK, ChecksumTable, FRONT, HEADERS, Header, digest_of_all, file_len, group_blocks, groups,
    table_offset,
};

/// The state of a file on disk.
pub(super) struct Loaded {
    pub(super) header: Header,
    /// The index in [`HEADERS`] of the header.
    pub(super) pair: usize,
    pub(super) tables: Tables,
}

/// Reads the latest header and the checksums that it refers to.
pub(super) fn load(file: &dyn StorageBackend) -> io::Result<Loaded> {
    let len = file.len()?;
    if len < FRONT {
        return Err(cut_off(len, FRONT));
    }
    let mut headers = Vec::new();
    for pair in 0..HEADERS.len() {
        // An interrupted write leaves a valid copy. Without one, the later header may be lost, and with it an
        // acknowledged change.
        let header = read_header(file, pair)?.ok_or_else(|| invalid("the header was altered"))?;
        headers.push((header, pair));
    }
    let latest = headers
        .into_iter()
        .max_by_key(|(header, _)| header.sequence);
    let (header, pair) = latest.ok_or_else(|| invalid("the file has no header"))?;
    let expected = file_len(header.blocks);
    if len < expected {
        return Err(cut_off(len, expected));
    }
    if !len.is_multiple_of(BLOCK as u64) {
        return Err(invalid("bytes were appended to the file"));
    }
    let tables = load_tables(file, &header)?;
    Ok(Loaded {
        header,
        pair,
        tables,
    })
}

fn load_tables(file: &dyn StorageBackend, header: &Header) -> io::Result<Tables> {
    let (mut committed, mut stale) = (Vec::new(), Vec::new());
    for group in 0..groups(header.blocks) {
        let mut pages = [0; 2 * BLOCK];
        file.read(table_offset(group, 0), &mut pages)?;
        let tables = pages.chunks_exact(BLOCK).enumerate();
        let tables = tables.filter_map(|(slot, page)| {
            let (generation, table) = ChecksumTable::unseal(group, page)?;
            Some((generation, slot, table))
        });
        let (later, usable): (Vec<_>, Vec<_>) =
            tables.partition(|(generation, ..)| *generation > header.generation);
        if !later.is_empty() {
            stale.push(group);
        }
        let latest = usable
            .into_iter()
            .max_by_key(|(generation, ..)| *generation);
        let (_, slot, table) = latest.ok_or_else(|| altered_checksums(group))?;
        committed.push(CommittedTable {
            digest: table.digest(),
            slot,
            table,
        });
    }
    let digests = committed.iter().map(|table| table.digest);
    if digest_of_all(digests) != header.digest {
        return Err(invalid(
            "the checksums of some blocks are not those of the last change",
        ));
    }
    Ok(Tables::new(committed, &stale))
}

fn cut_off(len: u64, expected: u64) -> io::Error {
    invalid(format!("it has {len} bytes instead of {expected}"))
}

fn altered_checksums(group: usize) -> io::Error {
    let blocks = group_blocks(group);
    let (first, last) = (blocks.start, blocks.end - 1);
    invalid(format!(
        "the checksums of blocks {first} to {last} were altered"
    ))
}
