//! The checksums of all blocks of an open file.

use std::collections::{BTreeMap, BTreeSet};

use crate::store::codec::data_file::{ChecksumTable, group_blocks, group_of, groups, table_offset};

/// The checksum tables by group, in three states: in use by the header on disk, written for the next header,
/// and changed since.
#[derive(Debug, Default)]
pub(super) struct Tables {
    committed: Vec<CommittedTable>,
    /// The wrapping sum of the digests of `committed`.
    digest: u64,
    written: BTreeMap<usize, ChecksumTable>,
    changed: BTreeMap<usize, ChecksumTable>,
    /// The group whose table in use is not in the file.
    rebuilt: Option<usize>,
}

/// A table that the header on disk refers to.
#[derive(Debug)]
pub(super) struct CommittedTable {
    pub(super) table: ChecksumTable,
    /// The page of the group that contains the table. The next table goes to the other.
    pub(super) slot: usize,
    pub(super) digest: u64,
}

impl CommittedTable {
    pub(super) fn new(table: ChecksumTable, group: usize, slot: usize) -> Self {
        Self {
            digest: table.digest(group),
            table,
            slot,
        }
    }
}

/// A page to write.
pub(super) struct TablePage {
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
}

impl Tables {
    /// Returns the tables in use by a header. Later ones of the groups `stale` are in the file; that of the group
    /// `rebuilt` is not.
    pub(super) fn new(
        committed: Vec<CommittedTable>,
        stale: &[usize],
        rebuilt: Option<usize>,
    ) -> Self {
        let digests = committed.iter().map(|table| table.digest);
        let mut tables = Self {
            digest: digests.fold(0, u64::wrapping_add),
            committed,
            rebuilt,
            ..Self::default()
        };
        tables.replace(stale.iter().copied().collect());
        tables
    }

    /// Returns the page of the table in use that is not in the file. It is of this generation, the latest one in
    /// use.
    pub(super) fn rebuilt_page(&self, generation: u64) -> Option<TablePage> {
        let group = self.rebuilt?;
        let committed = self.committed.get(group)?;
        Some(TablePage {
            offset: table_offset(group, committed.slot),
            bytes: committed.table.seal(group, generation),
        })
    }

    /// Notes that [`Self::rebuilt_page`] is on disk.
    pub(super) fn note_rebuilt_on_disk(&mut self) {
        self.rebuilt = None;
    }

    /// Returns the checksum of a block; zero for blocks beyond the end.
    pub(super) fn get(&self, block: u64) -> u32 {
        let (group, index) = group_of(block);
        self.table(group).map_or(0, |table| table.get(index))
    }

    pub(super) fn set(&mut self, block: u64, checksum: u32) {
        let (group, index) = group_of(block);
        if !self.changed.contains_key(&group) {
            let table = self.table(group).cloned().unwrap_or_default();
            self.changed.insert(group, table);
        }
        if let Some(table) = self.changed.get_mut(&group) {
            table.set(index, checksum);
        }
    }

    fn table(&self, group: usize) -> Option<&ChecksumTable> {
        let later = self
            .changed
            .get(&group)
            .or_else(|| self.written.get(&group));
        later.or_else(|| Some(&self.committed.get(group)?.table))
    }

    /// Adds empty tables of new groups, or drops those of groups that are gone. A block that comes back later is
    /// empty.
    pub(super) fn resize(&mut self, before: u64, blocks: u64) {
        let groups_now = groups(blocks);
        self.written.retain(|group, _| *group < groups_now);
        self.changed.retain(|group, _| *group < groups_now);
        for group in groups(before)..groups_now {
            self.changed.insert(group, ChecksumTable::default());
        }
        let Some(last_group) = groups_now.checked_sub(1) else {
            return;
        };
        for block in blocks..before.min(group_blocks(last_group).end) {
            if self.get(block) != 0 {
                self.set(block, 0);
            }
        }
    }

    /// Whether tables must be written.
    pub(super) fn has_changes(&self) -> bool {
        !self.changed.is_empty() || self.rebuilt.is_some()
    }

    /// Returns the changed tables as pages, for the header of this sequence number.
    pub(super) fn write_changes(&mut self, sequence: u64) -> Vec<TablePage> {
        let changed = std::mem::take(&mut self.changed);
        let pages = changed.iter().map(|(&group, table)| TablePage {
            offset: table_offset(group, self.next_slot(group)),
            bytes: table.seal(group, sequence),
        });
        let pages = pages.collect();
        self.written.extend(changed);
        pages
    }

    fn next_slot(&self, group: usize) -> usize {
        let committed = self.committed.get(group);
        committed.map_or(0, |committed| 1 - committed.slot)
    }

    /// Returns the digest of the tables that the next header refers to. Computes those of written tables only.
    pub(super) fn digest(&self, blocks: u64) -> u64 {
        let groups = groups(blocks);
        let gone = self.committed.iter().skip(groups);
        let mut digest = gone.fold(self.digest, |sum, table| sum.wrapping_sub(table.digest));
        for (&group, table) in self.written.range(..groups) {
            digest = digest
                .wrapping_sub(self.committed_digest(group))
                .wrapping_add(table.digest(group));
        }
        digest
    }

    fn committed_digest(&self, group: usize) -> u64 {
        self.committed.get(group).map_or(0, |table| table.digest)
    }

    /// Notes that a header that refers to the written tables is on disk.
    pub(super) fn commit_written(&mut self) {
        for (group, table) in std::mem::take(&mut self.written) {
            let committed = CommittedTable::new(table, group, self.next_slot(group));
            self.digest = self
                .digest
                .wrapping_sub(self.committed_digest(group))
                .wrapping_add(committed.digest);
            match self.committed.get_mut(group) {
                Some(before) => *before = committed,
                None => self.committed.push(committed),
            }
        }
    }

    /// Forgets the tables of groups that no header on disk refers to.
    pub(super) fn drop_beyond(&mut self, blocks: u64) {
        let gone = groups(blocks).min(self.committed.len());
        for table in self.committed.drain(gone..) {
            self.digest = self.digest.wrapping_sub(table.digest);
        }
    }

    /// Restores the tables in use by the header on disk.
    pub(super) fn roll_back(&mut self) {
        let later = self.written.keys().chain(self.changed.keys());
        let later = later.copied().collect();
        self.replace(later);
    }

    /// Changes no checksum, but writes the tables of these groups for the next header: otherwise that header
    /// would refer to a later table that is in the file already.
    fn replace(&mut self, stale: BTreeSet<usize>) {
        self.written.clear();
        let committed = &self.committed;
        let tables = stale
            .into_iter()
            .filter_map(|group| Some((group, committed.get(group)?.table.clone())));
        self.changed = tables.collect();
    }
}

#[cfg(test)]
impl Tables {
    /// Returns the page of the group that contains the table in use.
    pub(super) fn slot(&self, group: usize) -> usize {
        self.committed[group].slot
    }
}
