//! Counters that go on after a restart.

use std::time::Duration;

use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};
use time::{Date, Month, OffsetDateTime, Time};

use super::rows::existing;
use crate::counter::SubjectId;
use crate::counter::{CounterId, SavedCounter, SavedIpCounters, SavedValue};
use crate::limit::Balance;
use crate::limit::Period;
use crate::store::StoreError;
use crate::store::codec::{
    ACTIVITY, Activity, BALANCES, NETWORKS, Record, WINDOWS, decode_counters, decode_network,
    encode_counters, encode_network,
};
use crate::time::TimeZone;
use crate::time::Timestamp;

pub(super) fn of(txn: &ReadTransaction, id: SubjectId) -> Result<Vec<SavedCounter>, StoreError> {
    let mut counters = match row(txn, BALANCES, id)? {
        Some(balances) => balances,
        None => old_quota(txn, id)?.into_iter().collect(),
    };
    counters.extend(row(txn, WINDOWS, id)?.into_iter().flatten());
    Ok(counters)
}

fn row(
    txn: &ReadTransaction,
    table: TableDefinition<'static, u64, &'static [u8]>,
    id: SubjectId,
) -> Result<Option<Vec<SavedCounter>>, StoreError> {
    let Some(table) = existing(txn, table)? else {
        return Ok(None);
    };
    let row = table.get(id.to_bits())?;
    row.map(|row| decode_counters(row.value())).transpose()
}

/// What a key had used of a month in a file from before there were balances.
pub(super) fn old_quota(
    txn: &ReadTransaction,
    id: SubjectId,
) -> Result<Option<SavedCounter>, StoreError> {
    let activity = txn.open_table(ACTIVITY)?.get(id.to_bits())?;
    let activity = activity.map(|row| Activity::decode(row.value()));
    let (month, used) = activity.transpose()?.unwrap_or_default().old_quota;
    if used == 0 {
        return Ok(None);
    }
    let name = Month::try_from((month % 12 + 1) as u8).unwrap_or(Month::January);
    let start = Date::from_calendar_date((month / 12) as i32, name, 1);
    let start = start.map_or(Timestamp::MAX, |date| {
        OffsetDateTime::new_utc(date, Time::MIDNIGHT).into()
    });
    Ok(Some(SavedCounter {
        id: CounterId::plain(Period::Month),
        value: SavedValue::Balance(Balance::stored(used, TimeZone::utc().end_of_month(start))),
    }))
}

pub(super) fn put_balances(
    txn: &WriteTransaction,
    balances: &[(SubjectId, Vec<SavedCounter>)],
) -> Result<(), StoreError> {
    if balances.is_empty() {
        return Ok(());
    }
    let mut table = txn.open_table(BALANCES)?;
    for (id, balances) in balances {
        table.insert(id.to_bits(), encode_counters(balances)?.as_slice())?;
    }
    Ok(())
}

/// Windows that were stored before stay until they are over: whose keys were not used since.
pub(super) fn put_windows(
    txn: &WriteTransaction,
    groups: &[(SubjectId, Vec<SavedCounter>)],
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut table = txn.open_table(WINDOWS)?;
    let is_running = |row: &[u8]| {
        // A row that cannot be read has nothing to say.
        decode_counters(row).is_ok_and(|windows| windows.iter().any(|w| ends_after(w, now)))
    };
    table.retain(|_, row| is_running(row))?;
    for (id, windows) in groups {
        table.insert(id.to_bits(), encode_counters(windows)?.as_slice())?;
    }
    Ok(())
}

fn ends_after(window: &SavedCounter, now: Timestamp) -> bool {
    let (Period::Sliding(length), SavedValue::Hits(hits)) = (window.id.period, &window.value)
    else {
        return false;
    };
    let length = Duration::from_nanos(length.nanos());
    // One that lies further ahead than its length is from a clock that was wrong.
    hits.last()
        .is_some_and(|(at, _)| at.plus(length) > now && at.since(now) <= length)
}

pub(super) fn forget_windows(
    txn: &WriteTransaction,
    ids: impl Iterator<Item = SubjectId>,
) -> Result<(), StoreError> {
    let mut table = txn.open_table(WINDOWS)?;
    for id in ids {
        table.remove(id.to_bits())?;
    }
    Ok(())
}

pub(super) fn put_networks(
    txn: &WriteTransaction,
    networks: &[SavedIpCounters],
) -> Result<(), StoreError> {
    let mut table = txn.open_table(NETWORKS)?;
    table.retain(|_, _| false)?;
    for (number, saved) in (0..).zip(networks) {
        table.insert(number, encode_network(saved)?.as_slice())?;
    }
    Ok(())
}

pub(super) fn networks(txn: &ReadTransaction) -> Result<Vec<SavedIpCounters>, StoreError> {
    let Some(table) = existing(txn, NETWORKS)? else {
        return Ok(Vec::new());
    };
    table
        .iter()?
        .map(|row| decode_network(row?.1.value()))
        .collect()
}
