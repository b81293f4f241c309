//! The embedded backend: one redb file, held by one process.
//!
//! Every change is one transaction that is durable when it returns. All of them also save what
//! redb needs to reopen quickly after a kill, whatever the size of the file.

mod audit;
mod blocks;
mod counters;
mod credentials;
mod engine;
mod file;
mod holder;
mod identity;
mod locks;
mod manage;
mod open;
mod open_error;
mod prune;
mod rows;
mod totals;
#[cfg_attr(not(feature = "cli"), allow(dead_code))]
mod transfer;
mod usage;

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::Mutex;
use redb::{
    CommitError, DatabaseError, ReadTransaction, StorageError, TableError, TransactionError,
    WriteTransaction,
};

use self::engine::Engine;
use self::usage::OpenBlock;
use super::batches::Batches;
use super::transfer::{PageCursor, TransferPage};
use super::{
    AuditContext, Change, KeyChange, NewCredential, NewKey, OrgChange, Rehash, Resolved, Rotation,
    Store, StoreError, Totals, UsageBatch,
};
use crate::counter::SubjectId;
use crate::counter::{CounterId, SavedCounter, SavedIpCounters};
use crate::lockout::{Lock, LockChange};
use crate::model::HashedKey;
use crate::model::{AuditEntry, Key, KeyId, Org, OrgId, Usage};
use crate::sys::{Deadline, MaybeReady};
use crate::time::Timestamp;

pub use self::open_error::OpenError;

/// A [`Store`] in one redb file.
pub(crate) struct RedbStore {
    engine: Arc<Engine>,
    /// The usage block that is being written. `None` until the first batch, and after a batch
    /// that failed: what is in the file then decides.
    open_block: Mutex<Option<OpenBlock>>,
    batches: Mutex<Batches>,
}

impl Store for RedbStore {
    fn resolve<'a>(
        &'a self,
        hash: &'a HashedKey,
        _: &'a Deadline,
    ) -> MaybeReady<'a, Result<Option<Resolved>, StoreError>> {
        MaybeReady::Now(self.engine.read_now(|txn| credentials::resolve(txn, hash)))
    }

    fn resolve_id(&self, id: KeyId) -> Result<Option<Resolved>, StoreError> {
        self.engine.read_now(|txn| credentials::resolve_id(txn, id))
    }

    fn counters(&self, id: SubjectId) -> Result<Vec<SavedCounter>, StoreError> {
        self.engine.read_now(|txn| counters::of(txn, id))
    }

    fn create_org(&self, name: &str, audit: &AuditContext) -> Result<Org, StoreError> {
        self.commit_audited(audit, |txn| {
            let org = manage::create_org(txn, name, audit.at)?;
            Ok((Some(org.id.0), org))
        })
    }

    fn org(&self, id: OrgId) -> Result<Org, StoreError> {
        self.read(|txn| manage::org(txn, id))
    }

    fn org_named(&self, name: &str) -> Result<Org, StoreError> {
        self.read(|txn| manage::org_named(txn, name))
    }

    fn orgs(&self, after: Option<OrgId>, limit: usize) -> Result<Vec<Org>, StoreError> {
        self.read(|txn| manage::orgs(txn, after, limit))
    }

    fn update_org(
        &self,
        id: OrgId,
        change: OrgChange,
        audit: &AuditContext,
    ) -> Result<Org, StoreError> {
        self.commit_audited(audit, |txn| {
            Ok((Some(id.0), manage::update_org(txn, id, &change)?))
        })
    }

    fn create_keys(
        &self,
        keys: Vec<(NewKey, NewCredential)>,
        audit: &AuditContext,
    ) -> Result<Vec<Key>, StoreError> {
        self.commit_audited(audit, |txn| {
            let keys = manage::create_keys(txn, &keys)?;
            Ok((keys.first().map(|key| key.id.0), keys))
        })
    }

    fn key(&self, id: KeyId) -> Result<Key, StoreError> {
        self.read(|txn| manage::key(txn, id))
    }

    fn keys(
        &self,
        org: Option<OrgId>,
        after: Option<KeyId>,
        limit: usize,
    ) -> Result<Vec<Key>, StoreError> {
        self.read(|txn| manage::keys(txn, org, after, limit))
    }

    fn update_key(
        &self,
        id: KeyId,
        change: KeyChange,
        audit: &AuditContext,
    ) -> Result<Key, StoreError> {
        self.commit_audited(audit, |txn| {
            Ok((Some(id.0), manage::update_key(txn, id, &change)?))
        })
    }

    fn add_credential(
        &self,
        id: KeyId,
        credential: NewCredential,
        rotation: Rotation,
        audit: &AuditContext,
    ) -> Result<Key, StoreError> {
        self.commit_audited(audit, |txn| {
            let key = manage::add_credential(txn, id, &credential, rotation)?;
            Ok((Some(id.0), key))
        })
    }

    fn rehash(&self, jobs: &[Rehash], audit: &AuditContext) -> Result<(), StoreError> {
        self.write(|txn| {
            for job in jobs {
                if let Some(key) = credentials::rehash(txn, job)? {
                    audit::enter(txn, audit, Some(key.0))?;
                }
            }
            Ok(())
        })
    }

    fn revoke_key(&self, id: KeyId, audit: &AuditContext) -> Result<Key, StoreError> {
        self.commit_audited(audit, |txn| Ok((Some(id.0), manage::revoke_key(txn, id)?)))
    }

    fn note(&self, audit: &AuditContext) -> Result<(), StoreError> {
        self.commit_audited(audit, |_| Ok((None, ())))
    }

    fn audit(&self, before: Option<u64>, limit: usize) -> Result<Vec<AuditEntry>, StoreError> {
        self.read(|txn| audit::before(txn, before, limit))
    }

    fn save_windows(
        &self,
        groups: Vec<(SubjectId, Vec<SavedCounter>)>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(|txn| counters::put_windows(txn, &groups, now))
    }

    fn save_networks(&self, networks: Vec<SavedIpCounters>) -> Result<(), StoreError> {
        self.write(|txn| counters::put_networks(txn, &networks))
    }

    fn networks(&self) -> Result<Vec<SavedIpCounters>, StoreError> {
        self.read(counters::networks)
    }

    /// Balances are written as they are then.
    fn forget_counters(
        &self,
        counters: &[(SubjectId, CounterId)],
        audit: &AuditContext,
    ) -> Result<(), StoreError> {
        let groups = counters.iter().map(|(group, _)| *group);
        self.commit_audited(audit, |txn| {
            Ok((None, counters::forget_windows(txn, groups.clone())?))
        })
    }

    fn record(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        // Taken out of its place, so that it is back there only once the file has all of it.
        let mut place = self.open_block.lock();
        let mut batches = self.batches.lock();
        let id = batches.id(batch);
        let continued = Cell::new(place.take());
        let block = self.write(|txn| {
            let mut block = continued.take();
            if !totals::is_counted(txn, id)? {
                if !batch.has_rows_elsewhere {
                    block = Some(usage::add(txn, block, batch)?);
                }
                totals::add(txn, batch)?;
            }
            locks::change(txn, &batch.locks)?;
            counters::put_balances(txn, &batch.balances)?;
            Ok(block)
        })?;
        batches.written();
        *place = block;
        Ok(())
    }

    fn prune(&self, raw_before: Timestamp, now: Timestamp) -> Result<(), StoreError> {
        // The growing block may go too.
        let mut place = self.open_block.lock();
        let due = self.read(|txn| prune::due(txn, place.as_ref(), raw_before, now))?;
        if due.is_nothing() {
            return Ok(());
        }
        self.write(|txn| prune::delete(txn, &due))?;
        if due.open_block {
            *place = None;
        }
        Ok(())
    }

    fn usage(
        &self,
        key: Option<KeyId>,
        from: Timestamp,
        limit: usize,
    ) -> Result<Vec<Usage>, StoreError> {
        self.read(|txn| usage::since(txn, key, from, limit))
    }

    fn locks(&self) -> Result<Vec<Lock>, StoreError> {
        self.read(locks::all)
    }

    fn change_locks(&self, changes: &[LockChange], audit: &AuditContext) -> Result<(), StoreError> {
        self.commit_audited(audit, |txn| Ok((None, locks::change(txn, changes)?)))
    }

    fn totals(&self, now: Timestamp) -> Result<Totals, StoreError> {
        self.read(|txn| totals::totals(txn, now))
    }

    fn page(&self, from: PageCursor) -> Result<TransferPage, StoreError> {
        self.read(|txn| transfer::page(txn, from))
    }

    fn has_room_for(&self, page: &TransferPage) -> Result<(), StoreError> {
        self.read(|txn| transfer::has_room_for(txn, page))
    }

    fn import(&self, page: &TransferPage) -> Result<(), StoreError> {
        self.write(|txn| transfer::import(txn, page))
    }

    /// Nobody else changes the file. What is told is a change that was reported as failed and is
    /// there nevertheless.
    fn follow(&self, listener: Box<dyn Fn(Change) + Send + Sync>) {
        self.engine.on_surfaced(Box::new(move |session| {
            listener(Change::Everything);
            if let Ok(locks) = session.read(locks::all) {
                listener(Change::AllLocks(locks));
            }
        }));
    }

    fn recover(&self, at_once: bool) {
        self.engine.recover(at_once);
    }

    fn fault(&self) -> Option<String> {
        self.engine.fault()
    }
}

impl RedbStore {
    fn read<T>(
        &self,
        look: impl Fn(&ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.engine.read(look)
    }

    /// One transaction: all that `change` does is durable when this returns, or none of it is
    /// done.
    fn write<T>(
        &self,
        change: impl Fn(&WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.engine.write(change)
    }

    #[cfg(test)]
    fn session(&self) -> Arc<engine::Session> {
        self.engine.session()
    }

    /// One transaction that also enters what is done, and does nothing if it was done before.
    /// `change` also says what it concerns.
    fn commit_audited<T>(
        &self,
        audit: &AuditContext,
        change: impl Fn(&WriteTransaction) -> Result<(Option<u64>, T), StoreError>,
    ) -> Result<T, StoreError> {
        self.write(|txn| {
            audit::begin(txn, audit)?;
            let (subject, done) = change(txn)?;
            audit::enter(txn, audit, subject.or(audit.subject))?;
            Ok(done)
        })
    }
}

/// What a panic in redb is reported as. Altered blocks are found before redb sees them, so this is
/// a file that was made to look sound.
const NONSENSE: &str = "a page of it makes no sense";

/// redb trusts the pages of a file and may panic, which must not reach a request.
fn catching_panics<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    // An unfinished transaction is rolled back, and redb refuses to go on where it cannot.
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(StoreError::Damaged(NONSENSE.into())))
}

fn engine(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Corrupted(what) => StoreError::Damaged(what),
        redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            StoreError::Damaged(error.to_string())
        }
        error @ (redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TableDoesNotExist(_)
        | redb::Error::TypeDefinitionChanged { .. }) => StoreError::Damaged(error.to_string()),
        error => StoreError::Unavailable(error.into()),
    }
}

macro_rules! from_engine {
    ($($error:ty),+) => {$(
        impl From<$error> for StoreError {
            fn from(error: $error) -> Self {
                engine(error)
            }
        }
    )+};
}

from_engine!(
    DatabaseError,
    StorageError,
    TableError,
    TransactionError,
    CommitError
);
