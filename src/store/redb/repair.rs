//! Continuing after damage in a table of totals or windows: a new table takes its place, with all rows that can be read.

use std::cell::Cell;

use redb::{
    AccessGuard, Key, ReadTransaction, ReadableTable, StorageError, TableDefinition, TableHandle,
    Value, WriteTransaction,
};

use super::tables::{self, TableVisitor};
use super::undamaged;
use crate::store::StoreError;

/// The start of the names of tables that were [set aside](set_aside), such as `damaged 1 minutes`.
pub(super) const DAMAGED_PREFIX: &str = "damaged ";

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

/// Whether `name` is that of a table which was set aside, and had the name `of` before.
pub(super) fn was_set_aside(name: &str, of: &str) -> bool {
    let rest = name.strip_prefix(DAMAGED_PREFIX);
    let before = rest.and_then(|rest| rest.split_once(' '));
    before.is_some_and(|(_, before)| before == of)
}

/// Returns the names of the tables that were set aside.
pub(super) fn names_set_aside(txn: &ReadTransaction) -> Result<Vec<String>, StoreError> {
    let names = txn.list_tables()?.map(|table| table.name().to_owned());
    Ok(names
        .filter(|name| name.starts_with(DAMAGED_PREFIX))
        .collect())
}

/// The rows of a damaged table that can be read: this many from its start, and from its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadableRows {
    start: u64,
    end: u64,
}

type Row<'t, K, V> = Result<(AccessGuard<'t, K>, AccessGuard<'t, V>), StorageError>;

impl ReadableRows {
    /// Finds the rows of a table that can be read; `None` if it is not damaged. `read` gives a transaction of a
    /// database that has not failed.
    pub(super) fn of<K: Key + 'static, V: Value + 'static>(
        table: TableDefinition<'static, K, V>,
        read: impl Fn(&dyn Fn(&ReadTransaction) -> Result<(), StoreError>) -> Result<(), StoreError>,
    ) -> Result<Option<Self>, StoreError> {
        let count = |backwards: bool| {
            let rows = Cell::new(0);
            let read = read(&|txn| {
                rows.set(0);
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

/// Replaces damaged tables of totals and windows.
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
        let readable = ReadableRows::of(table, |read| self.store.read(read))?;
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
