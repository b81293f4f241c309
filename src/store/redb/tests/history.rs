//! The bytes on a disk after a power cut, from the operations before it.

use super::disk::Op;

/// The operations on a disk since a moment when all bytes were on it.
pub(super) struct History {
    pub(super) start: Vec<u8>,
    pub(super) ops: Vec<Op>,
}

/// The effect of a power cut on what was written since the last sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Nothing is on the disk.
    Lost,
    /// All is on the disk: only the process was killed.
    Kept,
    /// Some sectors of 512 bytes are on the disk.
    Torn,
    /// Some writes are on the disk, of two at the same place perhaps the first.
    Reordered,
    /// Some sectors are on the disk, and one of 4 KiB is random bytes.
    Garbled,
}

pub(super) const CUTS: [Cut; 5] = [
    Cut::Lost,
    Cut::Kept,
    Cut::Torn,
    Cut::Reordered,
    Cut::Garbled,
];

/// A fault of the disk that no file can survive in all cases, but that must not go unnoticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lie {
    /// A write of 4 KiB was lost, long ago or just now.
    LostWrite,
    /// Since a moment, syncs had no effect.
    NoSyncs,
}

pub(super) const LIES: [Lie; 2] = [Lie::LostWrite, Lie::NoSyncs];

const SECTOR: usize = 512;
const PAGE: usize = 4_096;

impl History {
    /// Returns these operations up to `at`, and then those of a process that found all of them.
    pub(super) fn continued(&self, at: usize, next: &Self) -> Self {
        Self {
            start: self.start.clone(),
            ops: [&self.ops[..at], &next.ops].concat(),
        }
    }

    /// Returns the bytes on the disk after a power cut before operation `at`.
    pub(super) fn cut(&self, at: usize, cut: Cut, random: &mut Random) -> Vec<u8> {
        let synced = self.synced(at);
        self.partly(synced, at, cut, random)
    }

    /// Returns the bytes on a disk with this fault, after a power cut before operation `at`.
    pub(super) fn lie(&self, at: usize, lie: Lie, random: &mut Random) -> Vec<u8> {
        match lie {
            Lie::NoSyncs => {
                let synced = self.synced(random.below(at + 1));
                let cut = CUTS[random.below(CUTS.len() - 1)];
                self.partly(synced, at, cut, random)
            }
            Lie::LostWrite => {
                let mut bytes = self.after(at);
                let writes = (0..at).filter(|&op| matches!(self.ops[op], Op::Write(..)));
                let writes: Vec<usize> = writes.collect();
                if writes.is_empty() {
                    return bytes;
                }
                let lost = writes[random.below(writes.len())];
                let (mut before, page) = (self.after(lost), page_of(&self.ops[lost], random));
                before.resize(before.len().max(page + PAGE), 0);
                if let Some(written) = bytes.get_mut(page..page + PAGE) {
                    written.copy_from_slice(&before[page..page + PAGE]);
                }
                bytes
            }
        }
    }

    /// Returns the number of operations before `at` up to the last sync.
    fn synced(&self, at: usize) -> usize {
        let sync = self.ops[..at].iter().rposition(|op| matches!(op, Op::Sync));
        sync.map_or(0, |sync| sync + 1)
    }

    fn after(&self, at: usize) -> Vec<u8> {
        let mut bytes = self.start.clone();
        self.ops[..at].iter().for_each(|op| op.apply(&mut bytes));
        bytes
    }

    fn partly(&self, synced: usize, at: usize, cut: Cut, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.after(synced);
        let mut ops: Vec<&Op> = self.ops[synced..at].iter().collect();
        match cut {
            Cut::Lost => {}
            Cut::Kept => ops.into_iter().for_each(|op| apply(op, &mut bytes)),
            Cut::Torn => ops.into_iter().for_each(|op| tear(op, &mut bytes, random)),
            Cut::Reordered => {
                random.shuffle(&mut ops);
                ops.truncate(random.below(ops.len() + 1));
                ops.into_iter().for_each(|op| apply(op, &mut bytes));
            }
            Cut::Garbled => {
                ops.iter().for_each(|op| tear(op, &mut bytes, random));
                ops.retain(|op| matches!(op, Op::Write(..)));
                if !ops.is_empty() {
                    let page = page_of(ops[random.below(ops.len())], random);
                    if let Some(page) = bytes.get_mut(page..page + PAGE) {
                        random.fill(page);
                    }
                }
            }
        }
        bytes
    }
}

/// Applies an operation. Of a write, nothing is beyond the end: the new length may not be on the disk.
fn apply(op: &Op, bytes: &mut Vec<u8>) {
    let len = bytes.len();
    op.apply(bytes);
    if matches!(op, Op::Write(..)) {
        bytes.truncate(len);
    }
}

/// Applies some sectors of a write.
fn tear(op: &Op, bytes: &mut Vec<u8>, random: &mut Random) {
    match op {
        Op::Write(at, data) => {
            // Often all of them or none.
            let share = [0, 1, 2, 4][random.below(4)];
            for (sector, data) in data.chunks(SECTOR).enumerate() {
                if random.below(4) < share {
                    apply(&Op::Write(at + sector * SECTOR, data.to_vec()), bytes);
                }
            }
        }
        op if random.below(2) == 0 => apply(op, bytes),
        _ => {}
    }
}

/// Returns the position of one of the pages of a write.
fn page_of(write: &Op, random: &mut Random) -> usize {
    let Op::Write(at, data) = write else {
        unreachable!("not a write")
    };
    let (first, last) = (at / PAGE, (at + data.len() - 1) / PAGE);
    (first + random.below(last - first + 1)) * PAGE
}

/// A sequence of numbers from a seed.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}
