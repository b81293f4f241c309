//! The database over a data file, and opening it anew after an error.
//!
//! After one failed read, write or sync redb refuses everything until its file is opened again. So
//! the file is opened again here, while its locks are held: first for reading alone, which writes
//! nothing, and for changes when the next one is due. While changes fail, further ones are refused at
//! once and tried again at growing intervals.

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
use crate::store::StoreError;

use crate::time::{Clock, Moment};

/// How long changes are refused after the first failure; twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub(super) type SessionListener = Box<dyn Fn(&Session) + Send + Sync>;

pub(super) struct Engine {
    current: ArcSwap<Session>,
    /// Held by whoever changes the file or opens it anew.
    turn: Mutex<CommitTurn>,
    fault: Mutex<Option<Fault>>,
    /// Whether a thread is about to open the file anew.
    is_reopening: AtomicBool,
    /// Told of a session that holds a change which was reported as failed.
    surfaced: OnceLock<SessionListener>,
    identity: Identity,
    clock: Clock,
    cache_bytes: usize,
}

/// One opening of the file.
pub(super) struct Session {
    /// `None` only once closed.
    database: Option<Database>,
    file: DataFile,
}

struct CommitTurn {
    /// How many changes the file holds, as far as they were acknowledged.
    commits: u64,
    /// Whether the current session may write.
    is_writable: bool,
}

/// Why changes are refused.
struct Fault {
    reason: String,
    failures: u32,
    retry_at: Moment,
}

/// The changes that a file holds which was opened anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// All that were acknowledged.
    Acknowledged,
    /// The one after them too: only its acknowledgement failed.
    OneMore,
}

impl Engine {
    pub(super) fn new(
        session: Session,
        identity: Identity,
        clock: Clock,
        cache_bytes: usize,
    ) -> Result<Self, StoreError> {
        let commits = catching_panics(|| commits(&session.begin_read()?))?;
        Ok(Self {
            current: ArcSwap::from_pointee(session),
            turn: Mutex::new(CommitTurn {
                commits,
                is_writable: true,
            }),
            fault: Mutex::new(None),
            is_reopening: AtomicBool::new(false),
            surfaced: OnceLock::new(),
            identity,
            clock,
            cache_bytes,
        })
    }

    #[cfg(test)]
    pub(super) fn session(&self) -> Arc<Session> {
        self.current.load_full()
    }

    /// Why changes are refused, if they are.
    pub(super) fn fault(&self) -> Option<String> {
        let fault = self.fault.lock();
        fault.as_ref().map(|fault| fault.reason.clone())
    }

    /// Has `listener` told of a change that was reported as failed, since its disk could not be read
    /// then, and turned out to be there.
    pub(super) fn on_surfaced(&self, listener: SessionListener) {
        let _ = self.surfaced.set(listener);
    }

    /// Reads without waiting for anybody. If that fails the file is opened anew meanwhile, so that the
    /// next call can succeed.
    pub(super) fn read_now<T>(
        self: &Arc<Self>,
        look: impl Fn(&ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let session = self.current.load();
        let answer = session.read(&look);
        if answer.is_err() && session.file.has_failed() {
            return self.failed_now(&session, answer, look);
        }
        answer
    }

    #[cold]
    fn failed_now<T>(
        self: &Arc<Self>,
        failed: &Arc<Session>,
        answer: Result<T, StoreError>,
        look: impl Fn(&ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let session = self.current.load();
        if !Arc::ptr_eq(&session, failed) {
            return session.read(look);
        }
        if self.may_retry() && !self.is_reopening.swap(true, Ordering::SeqCst) {
            let engine = Arc::clone(self);
            let reopen = move || {
                // A panic ends no more than this attempt.
                let _ = catch_unwind(AssertUnwindSafe(|| engine.reopen_for_reading()));
                engine.is_reopening.store(false, Ordering::SeqCst);
            };
            let thread = std::thread::Builder::new().name("keyguard-reopen".into());
            if thread.spawn(reopen).is_err() {
                self.is_reopening.store(false, Ordering::SeqCst);
            }
        }
        answer
    }

    /// Reads, and opens the file anew if that fails. What fails because another read did is read again.
    pub(super) fn read<T>(
        &self,
        look: impl Fn(&ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let session = self.current.load_full();
        let answer = session.read(&look);
        match answer {
            Err(error) if session.file.has_failed() => {
                drop(session);
                let is_reopened = self.may_retry() && self.reopen_for_reading();
                match is_reopened && is_previous(&error) {
                    true => self.current.load_full().read(look),
                    false => Err(error),
                }
            }
            answer => answer,
        }
    }

    /// One transaction: all that `change` does is durable when this returns, or none of it is done.
    /// `change` may be called a second time if a read by another thread fails meanwhile.
    pub(super) fn write<T>(
        &self,
        change: impl Fn(&WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut turn = self.turn.lock();
        if !self.may_retry() {
            return Err(self.refusal());
        }
        self.write_once(&mut turn, &change)
            .or_else(|error| match is_previous(&error) {
                true => self.write_once(&mut turn, &change),
                false => Err(error),
            })
    }

    /// Tries whether changes can be made again, if they were refused: when it is due, or `at_once`.
    pub(super) fn recover(&self, at_once: bool) {
        let is_due = {
            let mut fault = self.fault.lock();
            if let Some(fault) = fault.as_mut().filter(|_| at_once) {
                fault.retry_at = Moment::default();
            }
            fault.is_some().then(|| self.is_due(fault.as_ref()))
        };
        if is_due.unwrap_or_else(|| self.check_file().is_err()) {
            // What it fails with is the fault from then on.
            let _ = self.write(|_| Ok(()));
        }
    }

    /// Fails with what is wrong if another program has moved, replaced or overwritten the file: what
    /// is written to it is then lost.
    fn check_file(&self) -> Result<(), String> {
        self.identity.check()?;
        let kept = self.current.load().file.check();
        kept.map_err(|error| unavailable(error).describe())
    }

    fn write_once<T>(
        &self,
        turn: &mut CommitTurn,
        change: &impl Fn(&WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let Err(reason) = self.check_file() {
            return Err(self.failed(reason));
        }
        if let Err(error) = self.make_writable(turn) {
            return Err(self.failed(error.cause()));
        }
        let session = self.current.load_full();
        let mut done = None;
        let committed = session.write(|txn| {
            done = Some(change(txn)?);
            set_commits(txn, turn.commits + 1)
        });
        match committed {
            Err(error) if session.file.has_failed() => {
                drop(session);
                self.after_failure(turn, error, done)
            }
            Err(error) => Err(error),
            Ok(()) => {
                turn.commits += 1;
                self.fault.lock().take();
                done.ok_or_else(|| StoreError::Damaged("a change has no result".into()))
            }
        }
    }

    /// Finds out what became of a change that failed on the disk. Usually it is not there.
    fn after_failure<T>(
        &self,
        turn: &mut CommitTurn,
        error: StoreError,
        done: Option<T>,
    ) -> Result<T, StoreError> {
        match (self.reopen(turn), done) {
            (Ok(Found::OneMore), Some(done)) => return Ok(done),
            // Another thread's read failed: nothing is wrong with changes.
            (Ok(_), _) if is_previous(&error) => {}
            _ => match &error {
                StoreError::Unavailable(_) => drop(self.failed(error.cause())),
                // Only what needs the damaged block fails.
                StoreError::Damaged(_) => self.note_damage(error.cause()),
                _ => {}
            },
        }
        Err(error)
    }

    /// Opens the file anew if the current session is of no more use, for reading. Returns whether it
    /// is of use then.
    fn reopen_for_reading(&self) -> bool {
        let mut turn = self.turn.lock();
        if !self.current.load().file.has_failed() {
            return true;
        }
        let reopened = self.reopen_and_tell(&mut turn);
        if let Err(error) = &reopened {
            self.failed(error.cause());
        }
        reopened.is_ok()
    }

    fn make_writable(&self, turn: &mut CommitTurn) -> Result<(), StoreError> {
        if self.current.load().file.has_failed() {
            self.reopen_and_tell(turn)?;
        }
        if !turn.is_writable {
            self.current.load().file.settle().map_err(unavailable)?;
            turn.is_writable = true;
        }
        Ok(())
    }

    fn reopen_and_tell(&self, turn: &mut CommitTurn) -> Result<(), StoreError> {
        if self.reopen(turn)? == Found::OneMore
            && let Some(listener) = self.surfaced.get()
        {
            listener(&self.current.load());
        }
        Ok(())
    }

    /// Puts a new session in the place of the current one. Writes nothing. Fails if the file lacks a
    /// change that was acknowledged.
    fn reopen(&self, turn: &mut CommitTurn) -> Result<Found, StoreError> {
        let file = self.current.load().file.reopened().map_err(unavailable)?;
        let session = catching_panics(|| Ok(Session::open(file, self.cache_bytes)?))?;
        let found = catching_panics(|| commits(&session.begin_read()?))?;
        let found = match found.checked_sub(turn.commits) {
            Some(0) => Found::Acknowledged,
            Some(1) => Found::OneMore,
            _ => {
                return Err(StoreError::Damaged(format!(
                    "it holds {found} changes, but {} were acknowledged; \
                     restore it from a backup, and restart",
                    turn.commits
                )));
            }
        };
        turn.commits += u64::from(found == Found::OneMore);
        turn.is_writable = false;
        let before = self.current.swap(Arc::new(session));
        before.file.end();
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
    fn failed(&self, reason: String) -> StoreError {
        let mut fault = self.fault.lock();
        let failures = fault.as_ref().map_or(0, |fault| fault.failures);
        let pause = FIRST_PAUSE * (1 << failures.min(10));
        *fault = Some(Fault {
            reason,
            failures: failures + 1,
            retry_at: self.clock.now().plus(pause.min(LONGEST_PAUSE)),
        });
        drop(fault);
        self.refusal()
    }

    /// Says that a change met a damaged block. Others are still tried.
    fn note_damage(&self, reason: String) {
        *self.fault.lock() = Some(Fault {
            reason,
            failures: 0,
            retry_at: Moment::default(),
        });
    }

    fn refusal(&self) -> StoreError {
        let reason = self.fault().unwrap_or_default();
        let refusal = format!("changes are refused until it can be written again: {reason}");
        StoreError::Unavailable(refusal.into())
    }
}

impl Session {
    pub(super) fn open(file: DataFile, cache_bytes: usize) -> Result<Self, redb::DatabaseError> {
        let database = Database::builder()
            .set_cache_size(cache_bytes)
            .create_with_backend(file.clone())?;
        Ok(Self {
            database: Some(database),
            file,
        })
    }

    /// As an error of the disk would.
    #[cfg(test)]
    pub(super) fn fail(&self) {
        self.file.fail();
    }

    pub(super) fn begin_read(&self) -> Result<ReadTransaction, TransactionError> {
        self.database()?.begin_read()
    }

    pub(super) fn begin_write(&self) -> Result<WriteTransaction, TransactionError> {
        self.database()?.begin_write()
    }

    pub(super) fn read<T>(
        &self,
        look: impl FnOnce(&ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        catching_panics(|| look(&self.begin_read()?))
    }

    fn write(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        catching_panics(|| {
            // Durable at once, which is redb's default.
            let mut txn = self.begin_write()?;
            // Without it, reopening after a kill reads every page of the file.
            txn.set_quick_repair(true);
            change(&txn)?;
            Ok(txn.commit()?)
        })
    }

    fn database(&self) -> Result<&Database, TransactionError> {
        let closed = || StorageError::DatabaseClosed.into();
        self.database.as_ref().ok_or_else(closed)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let database = self.database.take();
        // All changes are durable already. What closing adds is a mark that spares a repair.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            let kept = self.file.check();
            if kept.is_err_and(|error| error.kind() == io::ErrorKind::InvalidData) {
                // What overwrote it may be a backup, which has to stay as it is.
                self.file.end();
            }
            drop(database);
        }));
    }
}

/// The changes that a file holds.
fn commits(txn: &ReadTransaction) -> Result<u64, StoreError> {
    let row = txn.open_table(META)?.get(meta::COMMITS)?;
    let bytes = row.map(|row| row.value().try_into());
    let wrong = |_| StoreError::Damaged("the number of changes is not a number".into());
    Ok(u64::from_le_bytes(
        bytes.transpose().map_err(wrong)?.unwrap_or_default(),
    ))
}

fn set_commits(txn: &WriteTransaction, commits: u64) -> Result<(), StoreError> {
    let mut meta = txn.open_table(META)?;
    meta.insert(meta::COMMITS, commits.to_le_bytes().as_slice())?;
    Ok(())
}

/// Whether an error says only that there was an error before.
fn is_previous(error: &StoreError) -> bool {
    let StoreError::Unavailable(source) = error else {
        return false;
    };
    matches!(source.downcast_ref(), Some(redb::Error::PreviousIo))
}

fn unavailable(error: io::Error) -> StoreError {
    StorageError::Io(error).into()
}
