//! Continuing after damage in a table of totals or windows: a new table takes its place, with all rows that can be
//! read.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use redb::{
    AccessGuard, Key, ReadTransaction, ReadableTable, StorageError, TableDefinition, TableHandle,
    Value, WriteTransaction,
};

use super::engine::Snapshot;
use super::tables::{self, TableVisitor};
use super::undamaged;
use super::verify::{self, snapshot_lost};
use crate::store::StoreError;
use crate::time::Moment;

/// The start of the names of tables that were [set aside](set_aside), such as `damaged 1 minutes`.
const DAMAGED_PREFIX: &str = "damaged ";
/// How long the totals are not searched again for a problem that is not theirs.
const PAUSE: Duration = Duration::from_secs(60);

/// Begins a new table in place of a damaged one, whose pages can neither be changed nor be deleted. Returns the new
/// name of the damaged one.
pub(super) fn set_aside<K: Key + 'static, V: Value + 'static>(
    txn: &WriteTransaction,
    table: TableDefinition<'static, K, V>,
) -> Result<String, StoreError> {
    let names: Vec<String> = txn
        .list_tables()?
        .map(|table| table.name().to_owned())
        .collect();
    let mut free = (1..).map(|n| format!("{DAMAGED_PREFIX}{n} {}", table.name()));
    let name = free.find(|name| !names.contains(name)).unwrap_or_default();
    txn.rename_table(table, TableDefinition::<K, V>::new(&name))?;
    txn.open_table(table)?;
    Ok(name)
}

/// Returns the name that a table had before it was [set aside](set_aside); `None` for all others.
pub(super) fn original_name(name: &str) -> Option<&str> {
    let (_, original) = name.strip_prefix(DAMAGED_PREFIX)?.split_once(' ')?;
    Some(original)
}

/// Returns the names of the tables of totals and windows that were set aside.
pub(super) fn replaced(txn: &ReadTransaction) -> Result<Vec<String>, StoreError> {
    let mut names = names_set_aside(txn)?;
    names.retain(|name| original_name(name).is_some_and(tables::is_replaceable));
    Ok(names)
}

/// Returns the names of the tables that were set aside.
pub(super) fn names_set_aside(txn: &ReadTransaction) -> Result<Vec<String>, StoreError> {
    let names = txn.list_tables()?.map(|table| table.name().to_owned());
    Ok(names.filter(|name| original_name(name).is_some()).collect())
}

/// Damage that was met, and may be in the totals.
#[derive(Default)]
pub(super) struct MetDamage {
    /// The problems that were met since the last search.
    new: BTreeSet<String>,
    /// Problems that a search did not find in the totals, and when one of these may cause the next search.
    elsewhere: BTreeMap<String, Moment>,
}

impl MetDamage {
    pub(super) fn note(&mut self, problem: &str, now: Moment) {
        let next = self.elsewhere.get(problem);
        if next.is_none_or(|next| *next <= now) {
            self.new.insert(problem.to_owned());
        }
    }

    /// Whether the totals must be searched.
    pub(super) fn is_new(&self) -> bool {
        !self.new.is_empty()
    }

    /// Notes that all totals were searched.
    pub(super) fn searched(&mut self, is_any_found: bool, now: Moment) {
        let new = std::mem::take(&mut self.new);
        if !is_any_found {
            self.elsewhere.retain(|_, next| now < *next);
            let next = now.plus(PAUSE);
            self.elsewhere
                .extend(new.into_iter().map(|problem| (problem, next)));
        }
    }
}

/// The rows of a damaged table that can be read: this many from its start, and from its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadableRows {
    start: u64,
    end: u64,
}

type Row<'t, K, V> = Result<(AccessGuard<'t, K>, AccessGuard<'t, V>), StorageError>;

impl ReadableRows {
    /// Finds the rows of a table that can be read; `None` if it is not damaged. The table must not change meanwhile.
    pub(super) fn of<K: Key + 'static, V: Value + 'static>(
        table: TableDefinition<'static, K, V>,
        open: impl Fn() -> Result<Snapshot, StoreError>,
    ) -> Result<Option<Self>, StoreError> {
        let count = |backwards: bool| {
            let rows = Cell::new(0);
            let snapshot = open()?;
            let read = snapshot.database.read(|txn| {
                let table = txn.open_table(table)?;
                let mut all = table.iter()?;
                while let Some(row) = match backwards {
                    true => all.next_back(),
                    false => all.next(),
                } {
                    row?;
                    rows.set(rows.get() + 1);
                }
                Ok(())
            });
            let is_damaged = undamaged(read)?.is_none();
            if is_damaged && !snapshot.is_pinned() {
                return Err(snapshot_lost());
            }
            Ok::<_, StoreError>(is_damaged.then_some(rows.get()))
        };
        let Some(start) = count(false)? else {
            return Ok(None);
        };
        Ok(count(true)?.map(|end| Self { start, end }))
    }

    /// Returns these rows, those at the end backwards.
    pub(super) fn read<'t, K: Key + 'static, V: Value + 'static>(
        self,
        table: &'t impl ReadableTable<K, V>,
    ) -> Result<impl Iterator<Item = Row<'t, K, V>>, StorageError> {
        let of = |rows: u64| usize::try_from(rows).unwrap_or(usize::MAX);
        let start = table.iter()?.take(of(self.start));
        Ok(start.chain(table.iter()?.rev().take(of(self.end))))
    }

    /// Whether there are none. Such a table cannot even be opened if its root is damaged.
    pub(super) fn is_empty(self) -> bool {
        self.start == 0 && self.end == 0
    }
}

/// Replaces damaged tables of totals and windows, while nothing else changes them.
pub(super) struct TotalsRepair<'a> {
    pub(super) store: &'a super::RedbStore,
    /// Whether a table was damaged.
    pub(super) is_any: bool,
}

impl TableVisitor for TotalsRepair<'_> {
    type Error = StoreError;

    fn visit<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
        _: impl Fn(K::SelfType<'_>) -> Option<String>,
    ) -> Result<(), StoreError> {
        if !tables::is_replaceable(table.name()) {
            return Ok(());
        }
        let readable = ReadableRows::of(table, || self.store.engine.snapshot(verify::CACHE))?;
        let Some(readable) = readable else {
            return Ok(());
        };
        self.is_any = true;
        self.store.write(|txn| {
            let name = set_aside(txn, table)?;
            if readable.is_empty() {
                return Ok(());
            }
            let damaged = txn.open_table(TableDefinition::<K, V>::new(&name))?;
            let mut new = txn.open_table(table)?;
            for row in readable.read(&damaged)? {
                let (key, value) = row?;
                new.insert(key.value(), value.value())?;
            }
            Ok(())
        })
    }
}
