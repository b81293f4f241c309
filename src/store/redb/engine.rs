//! The database over a data file, and reopening it after an error.
//!
//! After a failed read, write or sync, redb refuses all work until its file is reopened. The engine
//! reopens the file while it holds the locks: first for reading, which writes nothing, and for writing
//! at the next change. While changes fail, further ones are refused at once, and retried at growing
//! intervals.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use redb::{
    Database, ReadTransaction, ReadableDatabase, StorageError, TransactionError, WriteTransaction,
};

use super::catching_panics;
use super::file::DataFile;
use super::identity::Identity;
use super::tables::{META, meta};
use crate::store::{FileSpace, StoreError};
use crate::time::{Clock, Moment};

/// How long changes are refused after the first failure; doubled after each further failure.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub(super) type LateCommitListener = Box<dyn Fn(&OpenDatabase) + Send + Sync>;

pub(super) struct Engine {
    current: ArcSwap<OpenDatabase>,
    /// Held while the file is changed or reopened.
    write_state: Mutex<WriteState>,
    fault: Mutex<Option<Fault>>,
    /// Whether a thread is reopening the file.
    is_reopening: AtomicBool,
    is_preamble_restored: AtomicBool,
    /// Called with a database that contains a change that was reported as failed.
    late_commit_listener: OnceLock<LateCommitListener>,
    identity: Identity,
    clock: Clock,
    cache_bytes: usize,
}

/// A database over one [generation](DataFile) of the file.
pub(super) struct OpenDatabase {
    /// `None` after closing.
    inner: Option<Database>,
    file: DataFile,
}

/// A database that only reads.
pub(super) struct Snapshot {
    pub(super) database: OpenDatabase,
    /// Keeps the pages of the snapshot from being overwritten, until this database fails.
    pinned: Option<(ReadTransaction, Arc<OpenDatabase>)>,
}

impl Snapshot {
    /// Returns a snapshot of a file that is not changed meanwhile.
    pub(super) fn at_rest(database: OpenDatabase) -> Self {
        Self {
            database,
            pinned: None,
        }
    }

    /// Whether all snapshots of the file are the same.
    pub(super) fn is_at_rest(&self) -> bool {
        self.pinned.is_none()
    }

    /// Whether all pages of the snapshot are as they were: what cannot be read is damaged.
    pub(super) fn is_pinned(&self) -> bool {
        let pinned = self.pinned.as_ref();
        pinned.is_none_or(|(_, current)| !current.file.has_failed())
    }
}

/// The state of writing, locked by the writing thread.
struct WriteState {
    /// The number of acknowledged changes in the file.
    commits: u64,
    /// Whether the current database may write.
    is_writable: bool,
}

/// Why changes are refused.
struct Fault {
    reason: String,
    is_damage: bool,
    /// The damage that a change met.
    damage: Option<String>,
    failures: u32,
    retry_at: Moment,
}

/// The changes in a reopened file: all acknowledged ones, and perhaps one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reopened {
    Complete,
    /// The acknowledgement of the last change failed.
    WithLateCommit,
}

impl Engine {
    pub(super) fn new(
        database: OpenDatabase,
        identity: Identity,
        clock: Clock,
        cache_bytes: usize,
    ) -> Result<Self, StoreError> {
        let commits = catching_panics(|| commits(&database.begin_read()?))?;
        Ok(Self {
            current: ArcSwap::from_pointee(database),
            write_state: Mutex::new(WriteState {
                commits,
                is_writable: true,
            }),
            fault: Mutex::new(None),
            is_reopening: AtomicBool::new(false),
            is_preamble_restored: AtomicBool::new(false),
            late_commit_listener: OnceLock::new(),
            identity,
            clock,
            cache_bytes,
        })
    }

    #[cfg(test)]
    pub(super) fn database(&self) -> Arc<OpenDatabase> {
        self.current.load_full()
    }

    /// Whether another thread is reopening the file.
    #[cfg(test)]
    pub(super) fn is_reopening(&self) -> bool {
        self.is_reopening.load(Ordering::SeqCst)
    }

    pub(super) fn now(&self) -> Moment {
        self.clock.now()
    }

    /// Returns why changes are refused, if they are.
    pub(super) fn fault(&self) -> Option<String> {
        let fault = self.fault.lock();
        fault.as_ref().map(|fault| fault.reason.clone())
    }

    /// Whether changes are refused because of damage.
    pub(super) fn is_damaged(&self) -> bool {
        let fault = self.fault.lock();
        fault.as_ref().is_some_and(|fault| fault.is_damage)
    }

    /// Returns the damage that the last change met, if it failed because of it.
    pub(super) fn damage(&self) -> Option<String> {
        let fault = self.fault.lock();
        fault.as_ref().and_then(|fault| fault.damage.clone())
    }

    pub(super) fn file_space(&self) -> Option<FileSpace> {
        self.identity.file_space()
    }

    /// Calls `listener` when a change turns out to be committed that was reported as failed, because the
    /// disk could not be read.
    pub(super) fn on_late_commit(&self, listener: LateCommitListener) {
        let _ = self.late_commit_listener.set(listener);
    }

    /// Reads without waiting. After a failure another thread reopens the file, so that a later call can
    /// succeed.
    pub(super) fn read_now<T>(
        self: &Arc<Self>,
        read: impl Fn(&ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let database = self.current.load();
        let result = database.read(&read);
        if result.is_err() && database.file.has_failed() {
            return self.after_failed_read(&database, result, read);
        }
        result
    }

    #[cold]
    fn after_failed_read<T>(
        self: &Arc<Self>,
        failed: &Arc<OpenDatabase>,
        result: Result<T, StoreError>,
        read: impl Fn(&ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let database = self.current.load();
        if !Arc::ptr_eq(&database, failed) {
            return database.read(read);
        }
        if self.may_retry() && !self.is_reopening.swap(true, Ordering::SeqCst) {
            let engine = Arc::clone(self);
            let reopen = move || {
                // A panic ends only this attempt.
                let _ = catch_unwind(AssertUnwindSafe(|| engine.reopen_for_reading()));
                engine.is_reopening.store(false, Ordering::SeqCst);
            };
            let thread = std::thread::Builder::new().name("keyguard-reopen".into());
            if thread.spawn(reopen).is_err() {
                self.is_reopening.store(false, Ordering::SeqCst);
            }
        }
        result
    }

    /// Reads. After a failure reopens the file, and repeats a read that failed because of an earlier
    /// failure.
    pub(super) fn read<T>(
        &self,
        read: impl Fn(&ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let database = self.current.load_full();
        let result = database.read(&read);
        match result {
            Err(error) if database.file.has_failed() => {
                drop(database);
                let is_reopened = self.may_retry() && self.reopen_for_reading();
                match is_previous(&error) {
                    true if is_reopened => self.current.load_full().read(read),
                    true => Err(self.first_error(error)),
                    false => Err(error),
                }
            }
            result => result,
        }
    }

    /// Returns the error that an earlier failure had, for one that only says that there was one.
    fn first_error(&self, previous: StoreError) -> StoreError {
        match self.fault() {
            Some(reason) => StoreError::Unavailable(reason.into()),
            None => previous,
        }
    }

    /// Runs `change` in one transaction, which is durable when this returns, or undone. Calls `change` a
    /// second time if a read of another thread fails meanwhile.
    pub(super) fn write<T>(
        &self,
        change: impl Fn(&WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut state = self.write_state.lock();
        if !self.may_retry() {
            return Err(self.refusal());
        }
        self.write_once(&mut state, &change)
            .or_else(|error| match is_previous(&error) {
                true => self.write_once(&mut state, &change),
                false => Err(error),
            })
    }

    /// Opens another database on the file as it is on disk, regardless of what the current one has in memory.
    /// Changes wait until it is open.
    pub(super) fn snapshot(&self, cache_bytes: usize) -> Result<Snapshot, StoreError> {
        let mut state = self.write_state.lock();
        // Otherwise the header on disk may be later than that of the current database.
        self.make_writable(&mut state)?;
        let current = self.current.load_full();
        let pinned = current.begin_read()?;
        let file = current.file.read_only(Arc::default());
        let database = catching_panics(|| Ok(OpenDatabase::open(file, cache_bytes)?))?;
        Ok(Snapshot {
            database,
            pinned: Some((pinned, current)),
        })
    }

    /// Retries changes after a failure, if a retry is due or `at_once` is set.
    pub(super) fn recover(&self, at_once: bool) {
        let is_due = {
            let mut fault = self.fault.lock();
            if let Some(fault) = fault.as_mut().filter(|_| at_once) {
                fault.retry_at = Moment::default();
            }
            fault.is_some().then(|| self.is_due(fault.as_ref()))
        };
        if is_due.unwrap_or_else(|| self.check_file().is_err()) {
            // Its error becomes the fault.
            let _ = self.write(|_| Ok(()));
        }
    }

    /// Fails with the problem if another program has moved, replaced or overwritten the file: changes
    /// would be lost.
    fn check_file(&self) -> Result<(), String> {
        self.identity.check()?;
        let kept = self.current.load().file.check();
        kept.map_err(|error| unavailable(error).describe())?;
        self.restore_preamble();
        Ok(())
    }

    /// Writes the first bytes of the file again if they were altered. A failure is left to the next call: nothing reads
    /// them while the file is open.
    pub(super) fn restore_preamble(&self) {
        if self.current.load().file.restore_preamble().unwrap_or(false) {
            self.is_preamble_restored.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the first bytes of the file were altered while it was open, and were written again.
    pub(super) fn is_preamble_restored(&self) -> bool {
        self.is_preamble_restored.load(Ordering::Relaxed)
    }

    fn write_once<T>(
        &self,
        state: &mut WriteState,
        change: &impl Fn(&WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let Err(reason) = self.check_file() {
            return Err(self.refuse_changes(&StoreError::Unavailable(reason.into())));
        }
        if let Err(error) = self.make_writable(state) {
            return Err(self.refuse_changes(&error));
        }
        let database = self.current.load_full();
        let mut result = None;
        let committed = database.write(|txn| {
            result = Some(change(txn)?);
            set_commits(txn, state.commits + 1)
        });
        match committed {
            Err(error) if database.file.has_failed() => {
                drop(database);
                self.after_failure(state, error, result)
            }
            Err(error) => Err(error),
            Ok(()) => {
                state.commits += 1;
                self.fault.lock().take();
                result.ok_or_else(|| StoreError::damaged("a change has no result"))
            }
        }
    }

    /// Determines the result of a change that failed on the disk. Usually it was not committed.
    fn after_failure<T>(
        &self,
        state: &mut WriteState,
        error: StoreError,
        result: Option<T>,
    ) -> Result<T, StoreError> {
        match (self.reopen(state), result) {
            (Ok(Reopened::WithLateCommit), Some(result)) => return Ok(result),
            // A read of another thread failed; changes work.
            (Ok(_), _) if is_previous(&error) => {}
            _ => match &error {
                StoreError::Unavailable(_) => drop(self.refuse_changes(&error)),
                // Only changes that need the damaged block fail.
                StoreError::Damaged(damage) => self.note_damage(error.cause(), damage),
                _ => {}
            },
        }
        Err(error)
    }

    /// Reopens the file for reading if the current database has failed. Returns whether reading works.
    fn reopen_for_reading(&self) -> bool {
        let mut state = self.write_state.lock();
        if !self.current.load().file.has_failed() {
            return true;
        }
        let reopened = self.reopen_and_notify(&mut state);
        if let Err(error) = &reopened {
            self.refuse_changes(error);
        }
        reopened.is_ok()
    }

    fn make_writable(&self, state: &mut WriteState) -> Result<(), StoreError> {
        if self.current.load().file.has_failed() {
            self.reopen_and_notify(state)?;
        }
        if !state.is_writable {
            self.current.load().file.settle().map_err(unavailable)?;
            state.is_writable = true;
        }
        Ok(())
    }

    fn reopen_and_notify(&self, state: &mut WriteState) -> Result<(), StoreError> {
        if self.reopen(state)? == Reopened::WithLateCommit
            && let Some(listener) = self.late_commit_listener.get()
        {
            listener(&self.current.load());
        }
        Ok(())
    }

    /// Replaces the current database by a new one. Writes nothing. Fails if the file lacks an acknowledged
    /// change.
    fn reopen(&self, state: &mut WriteState) -> Result<Reopened, StoreError> {
        let file = self.current.load().file.reopened().map_err(unavailable)?;
        let database = catching_panics(|| Ok(OpenDatabase::open(file, self.cache_bytes)?))?;
        let found = catching_panics(|| commits(&database.begin_read()?))?;
        let found = match found.checked_sub(state.commits) {
            Some(0) => Reopened::Complete,
            Some(1) => Reopened::WithLateCommit,
            _ => {
                return Err(StoreError::damaged(format!(
                    "the data file lacks acknowledged changes ({found} of {}); \
                     restore it from a backup, and restart",
                    state.commits
                )));
            }
        };
        state.commits += u64::from(found == Reopened::WithLateCommit);
        state.is_writable = false;
        let before = self.current.swap(Arc::new(database));
        before.file.invalidate();
        Ok(found)
    }

    fn may_retry(&self) -> bool {
        let fault = self.fault.lock();
        self.is_due(fault.as_ref())
    }

    fn is_due(&self, fault: Option<&Fault>) -> bool {
        fault.is_none_or(|fault| self.clock.now() >= fault.retry_at)
    }

    /// Refuses changes for a while.
    fn refuse_changes(&self, error: &StoreError) -> StoreError {
        let mut fault = self.fault.lock();
        let failures = fault.as_ref().map_or(0, |fault| fault.failures);
        let pause = FIRST_PAUSE * (1 << failures.min(10));
        *fault = Some(Fault {
            reason: error.cause(),
            is_damage: matches!(error, StoreError::Damaged(_)),
            damage: None,
            failures: failures + 1,
            retry_at: self.clock.now().plus(pause.min(LONGEST_PAUSE)),
        });
        drop(fault);
        self.refusal()
    }

    /// Notes that a change needs a damaged block. Other changes are still tried.
    fn note_damage(&self, reason: String, damage: &str) {
        *self.fault.lock() = Some(Fault {
            reason,
            is_damage: true,
            damage: Some(damage.to_owned()),
            failures: 0,
            retry_at: Moment::default(),
        });
    }

    fn refusal(&self) -> StoreError {
        let reason = self.fault().unwrap_or_default();
        let refusal =
            format!("changes are refused until the data file is writable again: {reason}");
        StoreError::Unavailable(refusal.into())
    }
}

impl OpenDatabase {
    pub(super) fn open(file: DataFile, cache_bytes: usize) -> Result<Self, redb::DatabaseError> {
        let database = Database::builder()
            .set_cache_size(cache_bytes)
            .create_with_backend(file.clone())?;
        Ok(Self {
            inner: Some(database),
            file,
        })
    }

    /// Reads all pages in use, also those that contain no rows.
    pub(super) fn check_integrity(&mut self) -> Result<(), StoreError> {
        let database = self.inner.as_mut();
        catching_panics(|| match database {
            Some(database) => Ok(database.check_integrity().map(drop)?),
            None => Err(StorageError::DatabaseClosed.into()),
        })
    }

    /// Fails like after an error of the disk.
    #[cfg(test)]
    pub(super) fn fail(&self) {
        self.file.fail();
    }

    pub(super) fn begin_read(&self) -> Result<ReadTransaction, TransactionError> {
        self.inner()?.begin_read()
    }

    pub(super) fn begin_write(&self) -> Result<WriteTransaction, TransactionError> {
        self.inner()?.begin_write()
    }

    pub(super) fn read<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        catching_panics(|| read(&self.begin_read()?))
    }

    fn write(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        catching_panics(|| {
            // Durability::Immediate is redb's default.
            let mut txn = self.begin_write()?;
            // Otherwise reopening after a kill reads every page of the file.
            txn.set_quick_repair(true);
            change(&txn)?;
            Ok(txn.commit()?)
        })
    }

    fn inner(&self) -> Result<&Database, TransactionError> {
        let closed = || StorageError::DatabaseClosed.into();
        self.inner.as_ref().ok_or_else(closed)
    }
}

impl Drop for OpenDatabase {
    fn drop(&mut self) {
        let database = self.inner.take();
        // All changes are durable already. Closing adds a mark that avoids a repair.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let kept = self.file.check();
            if kept.is_err_and(|error| error.kind() == io::ErrorKind::InvalidData) {
                // It may have been overwritten by a backup, which must not be changed.
                self.file.invalidate();
            }
            drop(database);
        }));
    }
}

/// Returns the number of changes in a file.
fn commits(txn: &ReadTransaction) -> Result<u64, StoreError> {
    let row = txn.open_table(META)?.get(meta::COMMITS)?;
    let bytes = row.map(|row| row.value().try_into());
    let wrong = |_| StoreError::damaged("the number of changes is invalid");
    Ok(u64::from_le_bytes(
        bytes.transpose().map_err(wrong)?.unwrap_or_default(),
    ))
}

fn set_commits(txn: &WriteTransaction, commits: u64) -> Result<(), StoreError> {
    let mut meta = txn.open_table(META)?;
    meta.insert(meta::COMMITS, commits.to_le_bytes().as_slice())?;
    Ok(())
}

/// Returns whether an error only reports an earlier error.
fn is_previous(error: &StoreError) -> bool {
    let StoreError::Unavailable(source) = error else {
        return false;
    };
    matches!(source.downcast_ref(), Some(redb::Error::PreviousIo))
}

fn unavailable(error: io::Error) -> StoreError {
    StorageError::Io(error).into()
}
