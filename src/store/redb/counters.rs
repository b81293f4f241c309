//! Counters that survive a restart.

use std::time::Duration;

use redb::{ReadTransaction, ReadableTable, WriteTransaction};

use super::tables::{BALANCES, IP_WINDOWS, Records, WINDOWS};
use crate::counter::{SavedCounter, SavedIpWindow, SavedValue, SubjectId};
use crate::limit::Period;
use crate::store::codec::{decode_counters, decode_ip_window, encode_counters, encode_ip_window};
use crate::store::{SavedSet, StoreError};
use crate::time::Timestamp;

pub(super) fn balances(
    txn: &ReadTransaction,
    id: SubjectId,
) -> Result<Vec<SavedCounter>, StoreError> {
    counters(txn, BALANCES, id)
}

pub(super) fn windows(
    txn: &ReadTransaction,
    id: SubjectId,
) -> Result<Vec<SavedCounter>, StoreError> {
    counters(txn, WINDOWS, id)
}

fn counters(
    txn: &ReadTransaction,
    table: Records<u64>,
    id: SubjectId,
) -> Result<Vec<SavedCounter>, StoreError> {
    let row = txn.open_table(table)?.get(id.to_bits())?;
    row.map_or(Ok(Vec::new()), |row| decode_counters(row.value()))
}

pub(super) fn put_balances(
    txn: &WriteTransaction,
    balances: &[SavedSet],
) -> Result<(), StoreError> {
    if balances.is_empty() {
        return Ok(());
    }
    let mut table = txn.open_table(BALANCES)?;
    for (id, counters) in balances {
        table.insert(id.to_bits(), encode_counters(counters)?.as_slice())?;
    }
    Ok(())
}

/// The windows that one transaction stores: those of some 100,000 keys.
const MOST_BYTES: usize = 16 << 20;

/// Returns the next windows as rows in the order of the table, so that each page of it is written once.
pub(super) fn next_windows(
    windows: &mut dyn Iterator<Item = SavedSet>,
) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
    let (mut rows, mut bytes) = (Vec::new(), 0);
    while bytes < MOST_BYTES
        && let Some((id, counters)) = windows.next()
    {
        let row = encode_counters(&counters)?;
        bytes += row.len();
        rows.push((id.to_bits(), row));
    }
    rows.sort_unstable_by_key(|(id, _)| *id);
    Ok(rows)
}

pub(super) fn put_windows(
    txn: &WriteTransaction,
    rows: &[(u64, Vec<u8>)],
) -> Result<(), StoreError> {
    let mut table = txn.open_table(WINDOWS)?;
    for (id, row) in rows {
        table.insert(id, row.as_slice())?;
    }
    Ok(())
}

pub(super) fn delete_ended_windows(
    txn: &WriteTransaction,
    now: Timestamp,
) -> Result<(), StoreError> {
    txn.open_table(WINDOWS)?.retain(|_, row| {
        // Deletes a row that cannot be read.
        decode_counters(row).is_ok_and(|windows| windows.iter().any(|w| is_running(w, now)))
    })?;
    Ok(())
}

fn is_running(window: &SavedCounter, now: Timestamp) -> bool {
    let (Period::Sliding(length), SavedValue::Hits(hits)) = (window.id.period, &window.value)
    else {
        return false;
    };
    let length = Duration::from_nanos(length.nanos());
    // A hit further ahead than the length comes from a wrong clock.
    hits.last()
        .is_some_and(|(at, _)| at.plus(length) > now && at.since(now) <= length)
}

pub(super) fn delete_windows(
    txn: &WriteTransaction,
    ids: impl Iterator<Item = SubjectId>,
) -> Result<(), StoreError> {
    let mut table = txn.open_table(WINDOWS)?;
    for id in ids {
        table.remove(id.to_bits())?;
    }
    Ok(())
}

pub(super) fn put_ip_windows(
    txn: &WriteTransaction,
    windows: &[SavedIpWindow],
) -> Result<(), StoreError> {
    let mut table = txn.open_table(IP_WINDOWS)?;
    table.retain(|_, _| false)?;
    for (number, saved) in (0..).zip(windows) {
        table.insert(number, encode_ip_window(saved)?.as_slice())?;
    }
    Ok(())
}

pub(super) fn ip_windows(txn: &ReadTransaction) -> Result<Vec<SavedIpWindow>, StoreError> {
    let table = txn.open_table(IP_WINDOWS)?;
    let rows = table.iter()?;
    rows.map(|row| decode_ip_window(row?.1.value())).collect()
}
