//! The file that redb reads and writes.

use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};
use redb::{BackendError, StorageBackend};

use super::block_file::BlockFile;

/// A file that stays unchanged while it is verified.
///
/// Before redb can read a file, it marks the file as open, and repairs it if it was not closed. A staged
/// file keeps these changes in memory; [`publish`](Self::publish) applies them in their order, and from
/// then on every change goes directly to the file. A file that is refused before keeps every byte.
///
/// A database is opened on each generation of a file; clones are the same generation. After an error redb
/// does no more work, so the database is reopened on the [next generation](Self::reopened). The locks of
/// the file are held until the last generation is dropped, so that no other process opens it in between.
#[derive(Debug)]
pub(super) struct DataFile<F: StorageBackend = BlockFile> {
    shared: Arc<Shared<F>>,
    generation: Arc<FileGeneration>,
}

impl<F: StorageBackend> Clone for DataFile<F> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            generation: Arc::clone(&self.generation),
        }
    }
}

#[derive(Debug)]
struct Shared<F: StorageBackend> {
    file: F,
    /// The locked ranges.
    locked: Mutex<Vec<(Bound<u64>, Bound<u64>)>>,
}

impl<F: StorageBackend> Drop for Shared<F> {
    /// Unlocks the file. Closing it is not enough: a forked child process that does not run its program
    /// yet has a copy of the descriptor, and with it the locks.
    fn drop(&mut self) {
        let _ = self.file.close();
    }
}

/// The time from one opening of the file to the next.
#[derive(Debug)]
struct FileGeneration {
    /// `None` after publishing.
    staged: RwLock<Option<Staged>>,
    /// Whether redb got an error, after which it refuses all work.
    failed: AtomicBool,
    /// Whether all reads and writes fail, as the next generation has begun.
    invalid: AtomicBool,
}

/// Pending changes, in order.
type Staged = Vec<Change>;

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Sync,
}

impl DataFile {
    /// Returns a file that is not changed before it is published.
    pub(super) fn staged(file: impl StorageBackend) -> Self {
        Self::staged_on(BlockFile::existing(file))
    }

    /// Returns a new file, which no other process has open.
    pub(super) fn published(file: impl StorageBackend) -> io::Result<Self> {
        Ok(Self::from_parts(BlockFile::new(file)?, None))
    }

    /// Returns the next generation, staged on the last synced state of the file. The current one must not
    /// be writing; it can read until it is [invalidated](Self::invalidate).
    pub(super) fn reopened(&self) -> io::Result<Self> {
        self.shared.file.roll_back()?;
        Ok(Self {
            shared: Arc::clone(&self.shared),
            generation: Arc::new(FileGeneration::new(Some(Staged::new()))),
        })
    }

    /// Returns the file as it is on disk now, for another database that only reads. The blocks that it reads
    /// must not be overwritten meanwhile. All reads fail after `is_cancelled` is set.
    pub(super) fn read_only(&self, is_cancelled: Arc<AtomicBool>) -> Self {
        Self::staged(self.shared.file.read_only(is_cancelled))
    }

    /// Like [`BlockFile::check`].
    pub(super) fn check(&self) -> io::Result<()> {
        self.shared.file.check()
    }

    /// Like [`BlockFile::restore_preamble`].
    pub(super) fn restore_preamble(&self) -> io::Result<bool> {
        self.shared.file.restore_preamble()
    }

    /// Like [`Self::publish`], for generations after the first.
    pub(super) fn settle(&self) -> io::Result<()> {
        self.checked(self.shared.file.settle())?;
        self.publish()
    }
}

impl<F: StorageBackend> DataFile<F> {
    fn staged_on(file: F) -> Self {
        // The length is not read yet: a process that has locked the file may change it.
        Self::from_parts(file, Some(Staged::new()))
    }

    fn from_parts(file: F, staged: Option<Staged>) -> Self {
        Self {
            shared: Arc::new(Shared {
                file,
                locked: Mutex::default(),
            }),
            generation: Arc::new(FileGeneration::new(staged)),
        }
    }

    /// Returns whether redb refuses work after an error in this generation.
    pub(super) fn has_failed(&self) -> bool {
        self.generation.failed.load(Ordering::SeqCst)
    }

    #[cfg(test)]
    pub(super) fn fail(&self) {
        self.generation.failed.store(true, Ordering::SeqCst);
    }

    /// Makes all later reads and writes of this generation fail.
    pub(super) fn invalidate(&self) {
        self.generation.invalid.store(true, Ordering::SeqCst);
    }

    /// Returns the result, or an error if this generation is invalid. Notes an error: redb refuses all
    /// work after it.
    fn checked<T>(&self, result: io::Result<T>) -> io::Result<T> {
        let result = match self.generation.invalid.load(Ordering::SeqCst) {
            true => Err(io::Error::other("the file was reopened")),
            false => result,
        };
        if result.is_err() {
            self.generation.failed.store(true, Ordering::SeqCst);
        }
        result
    }

    /// Applies the staged changes. After a failure the file is as after a crash at that point, which redb
    /// recovers from, and the generation has failed.
    pub(super) fn publish(&self) -> io::Result<()> {
        // Other threads may read meanwhile, but none writes.
        self.checked(self.apply_staged_changes())?;
        *self.generation.staged.write() = None;
        Ok(())
    }

    fn apply_staged_changes(&self) -> io::Result<()> {
        let file = &self.shared.file;
        let staged = self.generation.staged.read();
        for change in staged.iter().flatten() {
            match change {
                Change::Write(offset, data) => file.write(*offset, data)?,
                Change::SetLen(len) => file.set_len(*len)?,
                Change::Sync => file.sync_data()?,
            }
        }
        Ok(())
    }

    /// Stages a change, or applies it by `direct` after publishing.
    fn change(
        &self,
        change: impl FnOnce() -> Change,
        direct: impl FnOnce(&F) -> io::Result<()>,
    ) -> io::Result<()> {
        // Checked before as well: an invalid generation must not write.
        self.checked(Ok(()))?;
        if self.generation.staged.read().is_some()
            && let Some(staged) = self.generation.staged.write().as_mut()
        {
            staged.push(change());
            return Ok(());
        }
        self.checked(direct(&self.shared.file))
    }
}

impl FileGeneration {
    fn new(staged: Option<Staged>) -> Self {
        Self {
            staged: RwLock::new(staged),
            failed: AtomicBool::new(false),
            invalid: AtomicBool::new(false),
        }
    }
}

/// Returns the length of the file after the changes.
fn staged_len(staged: &[Change], file: &impl StorageBackend) -> io::Result<u64> {
    let start = file.len()?;
    Ok(staged.iter().fold(start, |len, change| match change {
        Change::Write(offset, data) => len.max(offset.saturating_add(data.len() as u64)),
        Change::SetLen(len) => *len,
        Change::Sync => len,
    }))
}

/// Reads the file as it is after the changes: its own bytes, overwritten by each change.
fn staged_read(
    staged: &[Change],
    file: &impl StorageBackend,
    offset: u64,
    out: &mut [u8],
) -> io::Result<()> {
    if offset.saturating_add(out.len() as u64) > staged_len(staged, file)? {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    out.fill(0);
    let in_file = index(file.len()?.saturating_sub(offset)).min(out.len());
    if in_file > 0 {
        file.read(offset, &mut out[..in_file])?;
    }
    for change in staged {
        match change {
            Change::Write(at, data) => {
                let (skip_out, skip_data) = (
                    index(at.saturating_sub(offset)),
                    index(offset.saturating_sub(*at)),
                );
                let to = out.iter_mut().skip(skip_out);
                to.zip(data.iter().skip(skip_data))
                    .for_each(|(to, &from)| *to = from);
            }
            // Truncated bytes read as zero after the file has grown again.
            Change::SetLen(len) => {
                let keep = index(len.saturating_sub(offset)).min(out.len());
                out[keep..].fill(0);
            }
            Change::Sync => {}
        }
    }
    Ok(())
}

/// Converts a distance; one too long for memory is longer than any slice.
fn index(distance: u64) -> usize {
    usize::try_from(distance).unwrap_or(usize::MAX)
}

impl<F: StorageBackend> StorageBackend for DataFile<F> {
    fn len(&self) -> io::Result<u64> {
        let file = &self.shared.file;
        self.checked(match &*self.generation.staged.read() {
            Some(staged) => staged_len(staged, file),
            None => file.len(),
        })
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let file = &self.shared.file;
        // Checked afterwards: the bytes may belong to the next generation.
        self.checked(match &*self.generation.staged.read() {
            Some(staged) => staged_read(staged, file, offset, out),
            None => file.read(offset, out),
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|| Change::SetLen(len), |file| file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.change(|| Change::Sync, F::sync_data)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(
            || Change::Write(offset, data.to_vec()),
            |file| file.write(offset, data),
        )
    }

    /// Does nothing: dropping the last generation unlocks the file.
    fn close(&self) -> io::Result<()> {
        Ok(())
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        let mut locked = self.shared.locked.lock();
        if locked.contains(&(start, end)) {
            return Ok(true);
        }
        let is_ours = self.shared.file.try_lock_range(start, end)?;
        if is_ours {
            locked.push((start, end));
        }
        Ok(is_ours)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.shared.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.shared.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.shared.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        if self.shared.locked.lock().contains(&(start, end)) {
            return Ok(());
        }
        self.shared.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.shared.file.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use redb::backends::InMemoryBackend;

    fn bytes(file: &impl StorageBackend) -> Vec<u8> {
        let mut bytes = vec![0; index(file.len().unwrap())];
        file.read(0, &mut bytes).unwrap();
        bytes
    }

    fn memory(bytes: &[u8]) -> InMemoryBackend {
        let memory = InMemoryBackend::new();
        memory.set_len(bytes.len() as u64).unwrap();
        memory.write(0, bytes).unwrap();
        memory
    }

    fn any_change() -> impl Strategy<Value = Change> {
        prop_oneof![
            (0..90_u64, prop::collection::vec(any::<u8>(), 0..20))
                .prop_map(|(offset, data)| Change::Write(offset, data)),
            (0..110_u64).prop_map(Change::SetLen),
            Just(Change::Sync),
        ]
    }

    fn apply(change: &Change, file: &DataFile<InMemoryBackend>, model: &mut Vec<u8>) {
        match change {
            Change::Write(offset, data) => {
                // redb lengthens a file before it writes beyond its end.
                let (start, end) = (index(*offset), index(*offset) + data.len());
                if end > model.len() {
                    file.set_len(end as u64).unwrap();
                    model.resize(end, 0);
                }
                file.write(*offset, data).unwrap();
                model[start..end].copy_from_slice(data);
            }
            Change::SetLen(len) => {
                file.set_len(*len).unwrap();
                model.resize(index(*len), 0);
            }
            Change::Sync => file.sync_data().unwrap(),
        }
    }

    proptest! {
        #[test]
        fn a_staged_file_reads_as_if_it_were_written(
            start in prop::collection::vec(any::<u8>(), 0..100),
            changes in prop::collection::vec(any_change(), 0..30),
            after in prop::collection::vec(any_change(), 0..5),
            window in (0..110_usize, 0..110_usize),
        ) {
            let file = DataFile::staged_on(memory(&start));
            let mut model = start.clone();
            for change in &changes {
                apply(change, &file, &mut model);
                prop_assert_eq!(bytes(&file), model.clone());
                prop_assert_eq!(bytes(&file.shared.file), start.clone());

                let (from, len) = window;
                let mut out = vec![0xee; len];
                let read = file.read(from as u64, &mut out);
                match model.get(from..from + len) {
                    Some(expected) => {
                        prop_assert!(read.is_ok());
                        prop_assert_eq!(out.as_slice(), expected);
                    }
                    None => prop_assert!(read.is_err()),
                }
            }
            file.publish().unwrap();
            prop_assert_eq!(bytes(&file.shared.file), model.clone());
            for change in &after {
                apply(change, &file, &mut model);
                prop_assert_eq!(bytes(&file.shared.file), model.clone());
            }
        }
    }
}
