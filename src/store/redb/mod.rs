//! The embedded backend: one redb file, opened by one process at a time.
//!
//! Every change is one transaction, durable when it returns. Each also saves the state that redb needs
//! to reopen a file of any size quickly after a kill.

mod audit;
mod block_file;
mod copy;
mod counters;
mod credentials;
mod engine;
mod file;
mod identity;
mod keys;
mod lock_holder;
mod locks;
mod open;
mod orgs;
mod outbox;
mod prune;
mod repair;
mod rows;
mod tables;
mod totals;
#[cfg_attr(not(feature = "cli"), allow(dead_code))]
mod transfer;
mod usage;
mod usage_counts;
mod verify;

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use redb::{
    CommitError, DatabaseError, ReadTransaction, StorageError, TableError, TransactionError,
    WriteTransaction,
};

use self::engine::Engine;
use self::repair::{MetDamage, TotalsRepair};
use self::rows::missing;
use self::tables::{META, USAGE_BLOCKS, USAGE_OPEN, meta};
use self::usage::{BlockNumber, BlockRepair, OpenBlock, SkippedBlocks};
use super::audit::AuditSubject;
use super::batch_id::{BatchId, BatchIds};
use super::copy::{CopyError, CopyProgress, FileCopy};
use super::transfer::{PageCursor, TransferPage};
use super::usage_counts::{UsageCounts, UsagePage};
use super::{
    AuditContext, ChangeEvent, Damage, FileSpace, KeyChange, LegacyKeys, NewCredential, NewKey,
    OrgChange, OutboxCounts, Rehash, Resolved, Rotation, SavedSet, Search, Store, StoreError,
    Totals, UsageBatch, UsageStore, Verification, WebhookChange, webhooks,
};
use crate::counter::{CounterId, SavedCounter, SavedIpWindow, SubjectId};
use crate::lockout::{Lock, LockChange};
use crate::model::{
    Area, AuditEntry, Condition, Delivery, HashedKey, Key, KeyId, Org, OrgId, Usage, UsageQuery,
    WebhookEvent,
};
use crate::sys::{Deadline, MaybeReady};
use crate::time::Timestamp;

/// Whether the name of a table is that of one that was set aside because it was damaged.
#[cfg(feature = "cli")]
pub(crate) fn is_set_aside(table: &str) -> bool {
    repair::original_name(table).is_some()
}

/// A [`Store`] in one redb file.
pub(crate) struct RedbStore {
    engine: Arc<Engine>,
    /// The growing usage block after the last commit. `None` before the first batch and after a failed
    /// one: the block is then read from the file. Locked while tables of totals are changed or replaced.
    open_block: Mutex<Option<OpenBlock>>,
    batch_ids: Mutex<BatchIds>,
    /// Blocks of usage that could not be read since the file was opened.
    damaged_usage: Mutex<BTreeSet<BlockNumber>>,
    met_damage: Mutex<MetDamage>,
    /// The names of the tables of totals and windows that were set aside.
    set_aside: Mutex<Vec<String>>,
    /// The webhooks that get events.
    webhooks: ArcSwap<Vec<String>>,
    /// Deliveries for which there was no room since the file was opened.
    dropped_deliveries: AtomicU64,
}

impl UsageStore for RedbStore {
    fn record(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        // Put back only after the commit: a failed batch leaves the block in the file.
        let mut open_block = self.open_block.lock();
        let mut batch_ids = self.batch_ids.lock();
        let id = batch_ids.id(batch);
        let block = match self.write_batch(batch, id, open_block.take()) {
            Err(StoreError::Damaged(_)) if self.repair_usage()? | self.repair_totals()? => {
                self.write_batch(batch, id, None)?
            }
            written => written?,
        };
        batch_ids.acknowledge();
        *open_block = block;
        Ok(())
    }

    fn prune(&self, raw_before: Timestamp, now: Timestamp) -> Result<(), StoreError> {
        let mut open_block = self.open_block.lock();
        let mut due = self.read(|txn| prune::due(txn, open_block.as_ref(), raw_before, now))?;
        if due.is_empty() {
            return Ok(());
        }
        if due.open_block {
            // Before the change, which may be reported as failed and be in the file nevertheless.
            *open_block = None;
        }
        let deleted = self.write(|txn| prune::delete(txn, &due));
        let Err(StoreError::Damaged(_)) = deleted else {
            return deleted;
        };
        self.repair_totals()?;
        due.damaged_blocks = self.damaged_among(&due.blocks);
        self.write(|txn| prune::delete(txn, &due))
    }

    fn rehash(&self, jobs: &[Rehash], audit: &AuditContext) -> Result<(), StoreError> {
        self.write(|txn| {
            for job in jobs {
                if let Some(key) = credentials::rehash(txn, job)? {
                    audit::append(txn, audit, Some(key.0))?;
                }
            }
            Ok(())
        })
    }

    fn append_audit(&self, audit: &AuditContext) -> Result<(), StoreError> {
        self.commit_audited(audit, |_| Ok(()))
    }

    fn save_windows(&self, windows: &mut dyn Iterator<Item = SavedSet>) -> Result<(), StoreError> {
        loop {
            let rows = counters::next_windows(windows)?;
            if rows.is_empty() {
                return Ok(());
            }
            self.write_windows(|txn| counters::put_windows(txn, &rows))?;
        }
    }

    fn delete_ended_windows(&self, now: Timestamp) -> Result<(), StoreError> {
        self.write_windows(|txn| counters::delete_ended_windows(txn, now))
    }

    fn save_ip_windows(&self, windows: Vec<SavedIpWindow>) -> Result<(), StoreError> {
        self.write_windows(|txn| counters::put_ip_windows(txn, &windows))
    }

    fn recover(&self, at_once: bool) {
        self.engine.recover(at_once);
        if self.met_damage.lock().is_new() {
            let _block = self.open_block.lock();
            // Tried again at the next call.
            let _ = self.repair_totals();
        }
    }

    fn fault(&self) -> Option<String> {
        self.engine.fault()
    }

    fn is_damaged(&self) -> bool {
        self.engine.is_damaged()
    }
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
        let balances = RefCell::new(None);
        let windows = self.engine.read_now(|txn| {
            balances.replace(None);
            balances.replace(Some(counters::balances(txn, id)?));
            counters::windows(txn, id)
        });
        match (balances.into_inner(), windows) {
            // Windows that cannot be read count as empty.
            (Some(balances), Err(damaged @ StoreError::Damaged(_))) => {
                self.note_damage(&damaged);
                Ok(balances)
            }
            (balances, windows) => {
                let mut all = balances.unwrap_or_default();
                all.extend(windows?);
                Ok(all)
            }
        }
    }

    fn create_org(&self, name: &str, audit: &AuditContext) -> Result<Org, StoreError> {
        self.commit_audited(audit, |txn| orgs::create(txn, name, audit.at))
    }

    fn org(&self, id: OrgId) -> Result<Org, StoreError> {
        self.read(|txn| orgs::get(txn, id))
    }

    fn org_named(&self, name: &str) -> Result<Org, StoreError> {
        self.read(|txn| orgs::named(txn, name))
    }

    fn orgs(&self, after: Option<OrgId>, limit: usize) -> Result<Vec<Org>, StoreError> {
        self.read(|txn| orgs::list(txn, after, limit))
    }

    fn search_orgs(&self, search: &Search) -> Result<Vec<Org>, StoreError> {
        self.read(|txn| orgs::search(txn, search))
    }

    fn update_org(
        &self,
        id: OrgId,
        change: OrgChange,
        audit: &AuditContext,
    ) -> Result<Org, StoreError> {
        self.commit_audited(audit, |txn| orgs::update(txn, id, &change))
    }

    fn create_keys(
        &self,
        keys: Vec<(NewKey, NewCredential)>,
        audit: &AuditContext,
    ) -> Result<Vec<Key>, StoreError> {
        self.commit_audited(audit, |txn| keys::create(txn, &keys))
    }

    fn key(&self, id: KeyId) -> Result<Key, StoreError> {
        self.read(|txn| keys::get(txn, id))
    }

    fn keys(
        &self,
        org: Option<OrgId>,
        after: Option<KeyId>,
        limit: usize,
    ) -> Result<Vec<Key>, StoreError> {
        self.read(|txn| keys::list(txn, org, after, limit))
    }

    fn old_texts_until(&self, ids: &[KeyId]) -> Result<Vec<(KeyId, Timestamp)>, StoreError> {
        self.read(|txn| credentials::old_texts_until(txn, ids))
    }

    fn has_legacy_keys(&self, which: LegacyKeys, now: Timestamp) -> Result<bool, StoreError> {
        self.read(|txn| credentials::has_legacy(txn, which, now))
    }

    fn search_keys(&self, search: &Search, org: Option<OrgId>) -> Result<Vec<Key>, StoreError> {
        self.read(|txn| keys::search(txn, search, org))
    }

    fn keys_with_prefix(&self, text: &str, limit: usize) -> Result<Vec<Key>, StoreError> {
        self.read(|txn| keys::with_prefix(txn, text, limit))
    }

    fn update_key(
        &self,
        id: KeyId,
        change: KeyChange,
        audit: &AuditContext,
    ) -> Result<Key, StoreError> {
        self.commit_audited(audit, |txn| keys::update(txn, id, &change))
    }

    fn add_credential(
        &self,
        id: KeyId,
        credential: NewCredential,
        rotation: Rotation,
        audit: &AuditContext,
    ) -> Result<Key, StoreError> {
        self.commit_audited(audit, |txn| {
            keys::add_credential(txn, id, &credential, rotation)
        })
    }

    fn revoke_key(&self, id: KeyId, audit: &AuditContext) -> Result<Key, StoreError> {
        self.commit_audited(audit, |txn| keys::revoke(txn, id))
    }

    fn audit_log(&self, before: Option<u64>, limit: usize) -> Result<Vec<AuditEntry>, StoreError> {
        self.read(|txn| audit::log(txn, before, limit))
    }

    fn ip_windows(&self) -> Result<Vec<SavedIpWindow>, StoreError> {
        // Those that cannot be read count as empty.
        Ok(undamaged(self.read(counters::ip_windows))?.unwrap_or_default())
    }

    /// Keeps balances: the next batch of usage writes their new state.
    fn delete_counters(
        &self,
        counters: &[(SubjectId, CounterId)],
        audit: &AuditContext,
    ) -> Result<(), StoreError> {
        let subjects = counters.iter().map(|(subject, _)| *subject);
        self.commit_audited(audit, |txn| counters::delete_windows(txn, subjects.clone()))
    }

    fn usage(
        &self,
        key: Option<KeyId>,
        from: Timestamp,
        limit: usize,
    ) -> Result<Vec<Usage>, StoreError> {
        self.read_blocks(|txn, skipped| usage::since(txn, key, from, limit, skipped))
    }

    fn count_usage(&self, query: &UsageQuery, now: Timestamp) -> Result<UsageCounts, StoreError> {
        self.read_blocks(|txn, skipped| {
            let counts = usage_counts::count(txn, query, now, skipped)?;
            Ok(UsageCounts {
                omitted_blocks: skipped.omitted(),
                ..counts
            })
        })
    }

    fn usage_page(
        &self,
        query: &UsageQuery,
        from: u64,
        limit: usize,
    ) -> Result<UsagePage, StoreError> {
        self.read_blocks(|txn, skipped| usage_counts::page(txn, query, from, limit, skipped))
    }

    fn locks(&self) -> Result<Vec<Lock>, StoreError> {
        self.read(locks::all)
    }

    fn change_locks(&self, changes: &[LockChange], audit: &AuditContext) -> Result<(), StoreError> {
        self.commit_audited(audit, |txn| locks::change(txn, changes))
    }

    fn totals(&self, now: Timestamp) -> Result<Totals, StoreError> {
        self.read(|txn| totals::totals(txn, now))
    }

    fn export(&self, from: PageCursor) -> Result<TransferPage, StoreError> {
        self.read(|txn| transfer::page(txn, from))
    }

    fn check_import(&self, page: &TransferPage) -> Result<(), StoreError> {
        self.read(|txn| transfer::check(txn, page))
    }

    fn import(&self, page: &TransferPage) -> Result<(), StoreError> {
        // Tables of totals are not replaced meanwhile.
        let _block = self.open_block.lock();
        self.write(|txn| transfer::import(txn, page))
    }

    /// No other process changes the file. Reports changes that were reported as failed but are in the
    /// file nevertheless.
    fn subscribe(&self, listener: Box<dyn Fn(ChangeEvent) + Send + Sync>) {
        self.engine.on_late_commit(Box::new(move |database| {
            listener(ChangeEvent::Everything);
            if let Ok(locks) = database.read(locks::all) {
                let except = Vec::new();
                listener(ChangeEvent::AllLocks { locks, except });
            }
        }));
    }

    fn file_space(&self) -> Option<FileSpace> {
        self.engine.file_space()
    }

    fn file_id(&self) -> Result<Option<u32>, StoreError> {
        self.read(|txn| {
            let row = txn.open_table(META)?.get(meta::FILE_ID)?;
            let row = row.ok_or_else(|| missing("the id of the file"))?;
            let id = row.value().try_into().map(u32::from_le_bytes);
            let id = id.map_err(|_| StoreError::damaged("the id of the file is invalid"))?;
            Ok(Some(id))
        })
    }

    fn send_events_to(&self, urls: Vec<String>) {
        self.webhooks.store(Arc::new(urls));
    }

    fn due_deliveries(
        &self,
        url: &str,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<Delivery>, StoreError> {
        self.read(|txn| outbox::due(txn, url, now, limit))
    }

    fn deliveries(&self, before: Option<u64>, limit: usize) -> Result<Vec<Delivery>, StoreError> {
        self.read(|txn| outbox::list(txn, before, limit))
    }

    fn pending_webhooks(&self) -> Result<Vec<String>, StoreError> {
        self.read(outbox::pending_urls)
    }

    fn outbox_counts(&self) -> Result<OutboxCounts, StoreError> {
        Ok(OutboxCounts {
            pending: self.read(outbox::pending)?,
            dropped: self.dropped_deliveries.load(Ordering::Relaxed),
        })
    }

    fn change_deliveries(&self, change: &WebhookChange) -> Result<Option<Delivery>, StoreError> {
        self.write(|txn| outbox::change(txn, &self.webhooks.load(), change))
    }

    fn add_events(&self, events: &[WebhookEvent]) -> Result<(), StoreError> {
        let urls = self.webhooks.load();
        self.note_dropped(self.write(|txn| outbox::add(txn, &urls, events))?);
        Ok(())
    }

    fn expiring_keys(
        &self,
        now: Timestamp,
        within: Duration,
        limit: usize,
    ) -> Result<Vec<Key>, StoreError> {
        self.read(|txn| outbox::expiring(txn, now, within, limit))
    }

    fn conditions(&self) -> Vec<Condition> {
        let damaged = self.damaged_usage.lock().len();
        let dropped = self.dropped_deliveries.load(Ordering::Relaxed);
        let damaged = (damaged > 0).then(|| {
            format!(
                "blocks of usage that could not be read: {damaged}; listings of requests omit them, and \
                 `keyguard verify` shows what is lost"
            )
        });
        let dropped = (dropped > 0).then(|| {
            format!(
                "deliveries to webhooks that were dropped, because too many were pending: {dropped}; \
                 `keyguard webhooks` shows why the others fail"
            )
        });
        let names = self.set_aside.lock().clone();
        let set_aside = |is_such: fn(&str) -> bool, what| {
            let is_such = |name: &&String| repair::original_name(name).is_some_and(is_such);
            let names: Vec<&str> = names.iter().filter(is_such).map(|name| &**name).collect();
            (!names.is_empty()).then(|| {
                format!(
                    "{what}: {}; `keyguard verify` shows what is lost, and `keyguard compact` gives them up",
                    names.join(", ")
                )
            })
        };
        let totals = set_aside(
            tables::is_of_totals,
            "totals that could not be read were set aside, and `stats` and `usage` lack them",
        );
        let windows = set_aside(
            tables::is_of_windows,
            "windows of rate limits that could not be read were set aside, and count as empty",
        );
        let preamble = self.engine.is_preamble_restored().then(|| {
            "the first bytes of the data file were altered by another program or the disk, and were written again; \
             `keyguard verify` shows whether more is damaged"
                .to_owned()
        });
        let damage = damaged
            .into_iter()
            .chain(totals)
            .chain(windows)
            .chain(preamble);
        let damage = damage.map(|problem| Condition::new(Area::Damage, problem));
        let dropped = dropped.map(|problem| Condition::new(Area::Webhooks, problem));
        damage.chain(dropped).collect()
    }

    fn verify(&self) -> Result<Verification, StoreError> {
        let was_restored = self.engine.is_preamble_restored();
        self.engine.restore_preamble();
        let mut found = verify::verify(|| self.engine.snapshot(verify::CACHE))?;
        if found.is_sound() {
            self.damaged_usage.lock().clear();
            let damage = self.engine.damage().map(verify::of_free_space);
            found.damage.extend(damage);
        }
        if self.engine.is_preamble_restored() && !was_restored {
            found.damage.push(Damage {
                table: "first bytes".into(),
                rows: Some(0),
                lost: "no rows; they were written again".into(),
                problem: "the first bytes of the file were altered".into(),
            });
        }
        Ok(found)
    }

    fn backup(&self, to: &Path, progress: &CopyProgress) -> Result<FileCopy, CopyError> {
        copy::require_free(to)?;
        let copy = || copy::copy(|| self.engine.snapshot(verify::CACHE), to, progress);
        let copied = match copy() {
            Err(CopyError::Source(damaged @ StoreError::Damaged(_))) => {
                self.note_damage(&damaged);
                let repaired = self.repair_totals_when_free();
                match repaired.map_err(CopyError::Source)? {
                    true => copy(),
                    false => Err(CopyError::Source(damaged)),
                }
            }
            copied => copied,
        };
        copied?.take_name(to)
    }
}

impl RedbStore {
    fn read<T>(
        &self,
        read: impl Fn(&ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.engine
            .read(read)
            .inspect_err(|error| self.note_damage(error))
    }

    /// Runs `change` in one transaction, which is durable when this returns, or undone.
    fn write<T>(
        &self,
        change: impl Fn(&WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.engine
            .write(change)
            .inspect_err(|error| self.note_damage(error))
    }

    fn note_damage(&self, error: &StoreError) {
        if let StoreError::Damaged(problem) = error {
            let now = self.engine.now();
            self.met_damage.lock().note(problem, now);
        }
    }

    fn write_windows(
        &self,
        change: impl Fn(&WriteTransaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.repairing(|| self.write(&change))
    }

    /// Makes a change, and again after damaged tables were replaced. A change of a key also reads its totals.
    fn repairing<T>(&self, change: impl Fn() -> Result<T, StoreError>) -> Result<T, StoreError> {
        match change() {
            Err(StoreError::Damaged(_)) if self.repair_totals_when_free()? => change(),
            changed => changed,
        }
    }

    /// Reads blocks of usage without those that are known to be damaged, and again without each further one.
    fn read_blocks<T>(
        &self,
        read: impl Fn(&ReadTransaction, &SkippedBlocks) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let skipped = SkippedBlocks::of(self.damaged_usage.lock().clone());
        loop {
            let result = self.read(|txn| {
                skipped.begin();
                read(txn, &skipped)
            });
            let Err(StoreError::Damaged(_)) = &result else {
                return result;
            };
            let Some(damaged) = skipped.skip_damaged() else {
                return result;
            };
            self.damaged_usage.lock().insert(damaged);
        }
    }

    /// Writes a batch after the growing block `current`; `None` reads it from the file. Returns the block
    /// after the commit.
    fn write_batch(
        &self,
        batch: &UsageBatch,
        id: Option<BatchId>,
        current: Option<OpenBlock>,
    ) -> Result<Option<OpenBlock>, StoreError> {
        let current = Cell::new(current);
        let urls = self.webhooks.load();
        let locked = webhooks::lock_events(&batch.locks, batch.now, urls.is_empty());
        let (block, dropped) = self.write(|txn| {
            let (mut block, mut dropped) = (current.take(), 0);
            if !totals::is_counted(txn, id)? {
                if !batch.has_rows_elsewhere {
                    block = Some(usage::add(txn, block, batch)?);
                }
                totals::add(txn, batch)?;
                locks::change(txn, &batch.locks)?;
                let events = batch.webhook_events.iter().chain(&locked);
                dropped = outbox::add(txn, &urls, events)?;
            }
            counters::put_balances(txn, &batch.balances)?;
            Ok((block, dropped))
        })?;
        self.note_dropped(dropped);
        Ok(block)
    }

    fn note_dropped(&self, deliveries: u64) {
        self.dropped_deliveries
            .fetch_add(deliveries, Ordering::Relaxed);
    }

    /// Begins new tables of usage in place of those that cannot be added to because they are damaged. Returns
    /// whether there were any.
    fn repair_usage(&self) -> Result<bool, StoreError> {
        let growing = self.read(|txn| OpenBlock::resume(&txn.open_table(USAGE_OPEN)?));
        let is_growing_block_damaged = undamaged(growing)?.is_none();
        if is_growing_block_damaged {
            self.write(usage::replace_growing_block)?;
            self.damaged_usage.lock().insert(usage::GROWING);
        }
        let numbers = undamaged(self.read(usage::block_numbers))?;
        let next = self.read(|txn| usage::next_number(&txn.open_table(USAGE_BLOCKS)?));
        let next = undamaged(next)?;
        if numbers.is_some() && next.is_some() {
            return Ok(is_growing_block_damaged);
        }
        let mut repair = BlockRepair {
            blocks: next.is_none(),
            times: numbers.is_none(),
            unreadable: Vec::new(),
            readable: numbers.unwrap_or_else(|| (0..next.unwrap_or_default()).collect()),
            next: 0,
        };
        repair.next = next.unwrap_or_else(|| repair.readable.last().map_or(0, |last| last + 1));
        repair.unreadable = self.damaged_among(&repair.readable);
        let unreadable = repair.unreadable.iter().copied().collect::<BTreeSet<_>>();
        repair
            .readable
            .retain(|number| !unreadable.contains(number));
        self.write(|txn| usage::repair_blocks(txn, &repair))?;
        let mut damaged = self.damaged_usage.lock();
        damaged.extend(unreadable);
        // Those of later blocks are used again.
        damaged.retain(|number| *number < repair.next || *number == usage::GROWING);
        Ok(true)
    }

    /// Begins new tables of totals and windows in place of damaged ones, if damage was met that may be in them.
    /// Returns whether there were any. Reads all of them. `open_block` must be locked.
    fn repair_totals(&self) -> Result<bool, StoreError> {
        if !self.met_damage.lock().is_new() {
            return Ok(false);
        }
        let mut repair = TotalsRepair {
            store: self,
            is_any: false,
        };
        let searched = tables::visit_all(&mut repair);
        if repair.is_any {
            *self.set_aside.lock() = self.engine.read(repair::replaced)?;
        }
        searched?;
        let now = self.engine.now();
        self.met_damage.lock().searched(repair.is_any, now);
        Ok(repair.is_any)
    }

    /// Like [`Self::repair_totals`], and waits until nothing changes the totals. Returns true if another thread
    /// has searched them meanwhile.
    fn repair_totals_when_free(&self) -> Result<bool, StoreError> {
        let is_new = || self.met_damage.lock().is_new();
        if !is_new() {
            return Ok(false);
        }
        let _block = self.open_block.lock();
        match is_new() {
            true => self.repair_totals(),
            false => Ok(true),
        }
    }

    /// Returns which of these blocks of usage cannot be read.
    fn damaged_among(&self, blocks: &[BlockNumber]) -> Vec<BlockNumber> {
        let mut damaged = Vec::new();
        for number in blocks {
            let is_there =
                self.read(|txn| Ok(txn.open_table(USAGE_BLOCKS)?.get(number)?.is_some()));
            if let Err(StoreError::Damaged(_)) = is_there {
                damaged.push(*number);
            }
        }
        damaged
    }

    #[cfg(test)]
    fn database(&self) -> Arc<engine::OpenDatabase> {
        self.engine.database()
    }

    /// Runs `change` in one transaction that also appends to the audit log. Fails if the request was
    /// completed before.
    fn commit_audited<T: AuditSubject>(
        &self,
        audit: &AuditContext,
        change: impl Fn(&WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let urls = self.webhooks.load();
        let (result, dropped) = self.repairing(|| {
            self.write(|txn| {
                audit::begin(txn, audit)?;
                let result = change(txn)?;
                audit::append(txn, audit, result.audit_subject().or(audit.subject))?;
                let dropped = outbox::add(txn, &urls, &audit.webhook_events)?;
                Ok((result, dropped))
            })
        })?;
        self.note_dropped(dropped);
        audit.committed(result.audit_subject());
        Ok(result)
    }
}

/// Returns `None` for what is damaged.
fn undamaged<T>(read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Err(StoreError::Damaged(_)) => Ok(None),
        read => read.map(Some),
    }
}

/// The error of a panic in redb. Altered blocks are detected before redb reads them, so the checksums of
/// this file were forged.
const PANICKED: &str = "a page is invalid";

/// Turns a panic into an error: redb trusts the pages of a file and may panic.
fn catching_panics<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    // redb rolls back an unfinished transaction, and refuses further work where it cannot.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(StoreError::damaged(PANICKED)))
}

fn store_error(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Corrupted(problem) => StoreError::Damaged(problem),
        redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            StoreError::damaged(error.to_string())
        }
        error @ (redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TableDoesNotExist(_)
        | redb::Error::TypeDefinitionChanged { .. }) => StoreError::damaged(error.to_string()),
        error => StoreError::Unavailable(error.into()),
    }
}

macro_rules! from_redb {
    ($($error:ty),+) => {$(
        impl From<$error> for StoreError {
            fn from(error: $error) -> Self {
                store_error(error)
            }
        }
    )+};
}

from_redb!(
    DatabaseError,
    StorageError,
    TableError,
    TransactionError,
    CommitError
);
