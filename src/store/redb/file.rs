//! The bytes of a data file, as redb reads and writes them.

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::RwLock;
use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use super::blocks::Blocks;

/// A file that redb may think it is changing while it is still being verified.
///
/// redb marks a file as open, and repairs one that was not closed, before it can be asked what is
/// in it. A staged file keeps these changes in memory; [`publish`](Self::publish) makes them, in
/// their order, and from then on every change goes straight to the file. A file that is refused
/// before that keeps every byte.
///
/// Clones are one file.
#[derive(Debug)]
pub(super) struct DataFile<F = Blocks>(Arc<Shared<F>>);

impl<F> Clone for DataFile<F> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Shared<F> {
    file: F,
    /// `None` once published.
    staged: RwLock<Option<Staged>>,
}

/// Changes not yet made, in order.
#[derive(Debug, Default)]
struct Staged {
    changes: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Sync,
}

impl DataFile {
    /// A file whose bytes stay as they are until it is published.
    pub(super) fn staged(file: File) -> io::Result<Self> {
        Ok(Self::staged_on(Blocks::existing(backend(file)?)))
    }

    /// A new file, which nobody else knows yet.
    pub(super) fn published(file: File) -> io::Result<Self> {
        let file = Blocks::new(backend(file)?)?;
        Ok(Self::from_parts(file, None))
    }
}

fn backend(file: File) -> io::Result<FileBackend> {
    FileBackend::new(file).map_err(io::Error::other)
}

impl<F: StorageBackend> DataFile<F> {
    fn staged_on(file: F) -> Self {
        // Not even its length is read yet: whoever has it locked may still change it.
        Self::from_parts(file, Some(Staged::default()))
    }

    fn from_parts(file: F, staged: Option<Staged>) -> Self {
        Self(Arc::new(Shared {
            file,
            staged: RwLock::new(staged),
        }))
    }

    /// Makes the staged changes. If that fails the file is as after a crash at that point, which
    /// redb recovers from, and nothing more reaches it.
    pub(super) fn publish(&self) -> io::Result<()> {
        let mut staged = self.0.staged.write();
        for change in staged.iter().flat_map(|staged| &staged.changes) {
            match change {
                Change::Write(offset, data) => self.0.file.write(*offset, data)?,
                Change::SetLen(len) => self.0.file.set_len(*len)?,
                Change::Sync => self.0.file.sync_data()?,
            }
        }
        *staged = None;
        Ok(())
    }

    /// Stages a change, or makes it by `direct` once published.
    fn change(
        &self,
        change: impl FnOnce() -> Change,
        direct: impl FnOnce(&F) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.0.staged.read().is_some()
            && let Some(staged) = self.0.staged.write().as_mut()
        {
            staged.changes.push(change());
            return Ok(());
        }
        direct(&self.0.file)
    }
}

impl Staged {
    /// The length that the changes lead to.
    fn len(&self, file: &impl StorageBackend) -> io::Result<u64> {
        let start = file.len()?;
        Ok(self.changes.iter().fold(start, |len, change| match change {
            Change::Write(offset, data) => len.max(offset.saturating_add(data.len() as u64)),
            Change::SetLen(len) => *len,
            Change::Sync => len,
        }))
    }

    /// Reads the file as it will be: its own bytes first, then every change within `out` again.
    fn read(&self, file: &impl StorageBackend, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset.saturating_add(out.len() as u64) > self.len(file)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        out.fill(0);
        let in_file = index(file.len()?.saturating_sub(offset)).min(out.len());
        if in_file > 0 {
            file.read(offset, &mut out[..in_file])?;
        }
        for change in &self.changes {
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
                // What a shorter file lost reads as zero when it has grown again.
                Change::SetLen(len) => {
                    let keep = index(len.saturating_sub(offset)).min(out.len());
                    out[keep..].fill(0);
                }
                Change::Sync => {}
            }
        }
        Ok(())
    }
}

/// A distance in memory; one too long for memory is longer than any slice.
fn index(distance: u64) -> usize {
    usize::try_from(distance).unwrap_or(usize::MAX)
}

impl<F: StorageBackend> StorageBackend for DataFile<F> {
    fn len(&self) -> io::Result<u64> {
        match &*self.0.staged.read() {
            Some(staged) => staged.len(&self.0.file),
            None => self.0.file.len(),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match &*self.0.staged.read() {
            Some(staged) => staged.read(&self.0.file, offset, out),
            None => self.0.file.read(offset, out),
        }
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

    fn close(&self) -> io::Result<()> {
        self.0.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.0.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.file.query_lock_range(start, end)
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
                prop_assert_eq!(bytes(&file.0.file), start.clone());

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
            prop_assert_eq!(bytes(&file.0.file), model.clone());
            for change in &after {
                apply(change, &file, &mut model);
                prop_assert_eq!(bytes(&file.0.file), model.clone());
            }
        }
    }
}
