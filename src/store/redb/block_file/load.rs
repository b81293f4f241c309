//! Reading the state of a file at opening.

use std::io;

use redb::StorageBackend;

use super::tables::{CommittedTable, Tables};
use super::{invalid, read_header};
use crate::store::codec::data_file::{
    BLOCK, ChecksumTable, FRONT, HEADERS, Header, file_len, group_blocks, groups, runs,
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
    let groups = 0..groups(header.blocks);
    let mut found = groups
        .map(|group| FoundTables::read(file, group, header.generation))
        .collect::<io::Result<Vec<_>>>()?;
    let rebuilt = match is_digest_of(header, &found) {
        true => None,
        false => Some(rebuild_one(file, header, &mut found)?),
    };
    let stale = (0..found.len()).filter(|group| found[*group].has_later);
    let stale: Vec<usize> = stale.collect();
    let committed = found.into_iter().filter_map(|group| group.latest);
    Ok(Tables::new(committed.collect(), &stale, rebuilt))
}

/// The two checksum tables of a group.
struct FoundTables {
    /// The latest table that the header can refer to.
    latest: Option<CommittedTable>,
    /// A page that contains no table: it was never written, or was altered.
    unreadable: Option<usize>,
    /// Whether a page contains a table of a later header.
    has_later: bool,
}

impl FoundTables {
    fn read(file: &dyn StorageBackend, group: usize, generation: u64) -> io::Result<Self> {
        let mut pages = [0; 2 * BLOCK];
        file.read(table_offset(group, 0), &mut pages)?;
        let mut found = Self {
            latest: None,
            unreadable: None,
            has_later: false,
        };
        let mut of_latest = 0;
        for (slot, page) in pages.chunks_exact(BLOCK).enumerate() {
            match ChecksumTable::unseal(group, page) {
                None => found.unreadable = Some(slot),
                Some((later, _)) if later > generation => found.has_later = true,
                Some((earlier, _)) if found.latest.is_some() && earlier < of_latest => {}
                Some((latest, table)) => {
                    of_latest = latest;
                    found.latest = Some(CommittedTable::new(table, group, slot));
                }
            }
        }
        Ok(found)
    }
}

fn is_digest_of(header: &Header, found: &[FoundTables]) -> bool {
    let mut latest = found.iter().map(|group| group.latest.as_ref());
    let sum = latest.try_fold(0_u64, |sum, table| Some(sum.wrapping_add(table?.digest)));
    sum == Some(header.digest)
}

/// Computes the table of one group from its blocks, in place of an unreadable page, if the header confirms the
/// result: all other tables and all blocks of the group are then those of the last change. Returns the group.
fn rebuild_one(
    file: &dyn StorageBackend,
    header: &Header,
    found: &mut [FoundTables],
) -> io::Result<usize> {
    let mut missing = (0..found.len()).filter(|group| found[*group].latest.is_none());
    let (first, second) = (missing.next(), missing.next());
    if let (Some(group), Some(_)) = (first, second) {
        return Err(altered_checksums(group));
    }
    let suspects = match first {
        Some(group) => group..group + 1,
        None => 0..found.len(),
    };
    for group in suspects {
        let Some(slot) = found[group].unreadable else {
            continue;
        };
        let table = checksums_of_blocks(file, group, header.blocks)?;
        let rebuilt = CommittedTable::new(table, group, slot);
        let before = found[group].latest.replace(rebuilt);
        if is_digest_of(header, found) {
            return Ok(group);
        }
        found[group].latest = before;
    }
    Err(match first {
        Some(group) => altered_checksums(group),
        None => invalid("the checksums of some blocks are not those of the last change"),
    })
}

fn checksums_of_blocks(
    file: &dyn StorageBackend,
    group: usize,
    blocks: u64,
) -> io::Result<ChecksumTable> {
    let mut table = ChecksumTable::default();
    let in_group = group_blocks(group);
    let count = in_group.end.min(blocks).saturating_sub(in_group.start);
    let mut index = 0;
    for run in runs(in_group.start, usize::try_from(count).unwrap_or(0)) {
        let mut bytes = vec![0; run.len];
        file.read(run.offset, &mut bytes)?;
        for block in bytes.chunks_exact(BLOCK) {
            table.set(index, ChecksumTable::checksum_of(block));
            index += 1;
        }
    }
    Ok(table)
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
