//! The positions of pages in a data file.

use super::checksums::PER_TABLE;

/// The length of a page of the file and of a block of the database.
pub(crate) const BLOCK: usize = 4_096;
/// The length of the part before the first group.
pub(crate) const FRONT: u64 = 5 * PAGE;
/// The length of the two copies of a header.
pub(crate) const PAIR: usize = 2 * BLOCK;
/// The positions of the two headers.
pub(crate) const HEADERS: [u64; 2] = [PAGE, 3 * PAGE];

const PAGE: u64 = BLOCK as u64;
/// The length of the two checksum tables of a group.
const TABLES: u64 = 2 * PAGE;
const GROUP: u64 = TABLES + PER_TABLE as u64 * PAGE;

/// Consecutive blocks of one group.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// The position in the file.
    pub(crate) offset: u64,
    /// The length in bytes.
    pub(crate) len: usize,
}

/// Returns the group of a block other than the first, and its index in the group.
pub(crate) fn group_of(block: u64) -> (usize, usize) {
    let (group, index) = place(block);
    (usize::try_from(group).unwrap_or(usize::MAX), index)
}

/// Returns the blocks of a group.
pub(crate) fn group_blocks(group: usize) -> std::ops::Range<u64> {
    let first = group as u64 * PER_TABLE as u64 + 1;
    first..first + PER_TABLE as u64
}

/// Returns the runs of `count` blocks from `block` on.
pub(crate) fn runs(block: u64, count: usize) -> impl Iterator<Item = Run> {
    let mut next = block;
    let end = block + count as u64;
    std::iter::from_fn(move || {
        let (group, index) = place(next);
        let count = (end - next).min((PER_TABLE - index) as u64);
        next += count;
        (count > 0).then(|| Run {
            offset: group_offset(group) + TABLES + index as u64 * PAGE,
            len: usize::try_from(count * PAGE).unwrap_or(usize::MAX),
        })
    })
}

/// Returns the position of one of the two checksum tables of a group.
pub(crate) fn table_offset(group: usize, slot: usize) -> u64 {
    group_offset(group as u64) + slot as u64 * PAGE
}

/// Returns the number of groups of a database with this number of blocks.
pub(crate) fn groups(blocks: u64) -> usize {
    match blocks {
        0 | 1 => 0,
        _ => group_of(blocks - 1).0 + 1,
    }
}

/// Returns the length of the file of a database with this number of blocks.
pub(crate) fn file_len(blocks: u64) -> u64 {
    let in_groups = blocks.saturating_sub(1);
    let tables = in_groups.div_ceil(PER_TABLE as u64).saturating_mul(TABLES);
    in_groups
        .saturating_mul(PAGE)
        .saturating_add(tables)
        .saturating_add(FRONT)
}

fn place(block: u64) -> (u64, usize) {
    let block = block.saturating_sub(1);
    let index = block % PER_TABLE as u64;
    // Less than PER_TABLE.
    (
        block / PER_TABLE as u64,
        usize::try_from(index).unwrap_or(0),
    )
}

fn group_offset(group: u64) -> u64 {
    group.saturating_mul(GROUP).saturating_add(FRONT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_one_purpose_and_none_is_left_over() {
        for blocks in [0, 1, 2, 3, 1_021, 1_022, 1_023, 2_043, 2_044, 5_000] {
            let mut pages: Vec<u64> = (0..FRONT / PAGE).collect();
            for group in 0..groups(blocks) {
                pages.extend([0, 1].map(|slot| table_offset(group, slot) / PAGE));
            }
            for block in 1..blocks {
                let mut runs = runs(block, 1);
                let run = runs.next().unwrap();
                assert_eq!((run.len, runs.next()), (BLOCK, None));
                pages.push(run.offset / PAGE);
            }
            pages.sort_unstable();
            let expected: Vec<u64> = (0..file_len(blocks) / PAGE).collect();
            assert_eq!(pages, expected, "{blocks} blocks");
        }
    }

    #[test]
    fn runs_end_with_their_group() {
        let count = 3 * PER_TABLE;
        let found: Vec<Run> = runs(3, count).collect();
        let mut block = 3;
        for run in &found {
            assert_eq!(run.offset, runs(block, 1).next().unwrap().offset);
            block += (run.len / BLOCK) as u64;
        }
        assert_eq!((found.len(), block), (4, 3 + count as u64));
    }
}
