//! Reading a page of an export.

use std::borrow::Borrow;
use std::ops::Bound;

use redb::{Key as RedbKey, ReadTransaction, ReadableTable, Value};

use crate::counter::SubjectId;
use crate::model::{KeyId, OrgId};
use crate::store::codec::{Record, RecordCounts, decode_counters};
use crate::store::redb::tables::{
    ACTIVITY, BALANCES, KEY_DAYS, KEY_HOURS, META, MINUTES, meta, read_meta,
};
use crate::store::redb::{credentials, keys, locks, orgs, totals};
use crate::store::totals::Activity;
use crate::store::transfer::{
    LastIds, PAGE_ROWS, PageCursor, RowId, Stage, TransferKey, TransferPage, last_if_full,
};
use crate::store::{Count, StoreError, Tally};

/// The last row of the page before.
type After = Option<RowId>;
/// The last row of a page; `None` if no rows follow.
type Last = Result<Option<RowId>, StoreError>;

pub(in crate::store::redb) fn page(
    txn: &ReadTransaction,
    cursor: PageCursor,
) -> Result<TransferPage, StoreError> {
    let mut page = TransferPage::default();
    let read = match cursor.stage {
        Stage::Orgs => read_orgs,
        Stage::Keys => read_keys,
        Stage::KeyTotals => read_activity,
        Stage::KeyHours => read_key_hours,
        Stage::KeyDays => read_key_days,
        Stage::Minutes => read_minutes,
        Stage::Balances => read_balances,
        Stage::Rest => read_rest,
    };
    page.next = cursor.next(read(txn, cursor.after, &mut page)?);
    Ok(page)
}

fn read_orgs(txn: &ReadTransaction, after: After, page: &mut TransferPage) -> Last {
    page.orgs = orgs::list(txn, after.map(|(id, _)| OrgId(id)), PAGE_ROWS)?;
    Ok(last_if_full(&page.orgs, |org| (org.id.0, 0)))
}

fn read_keys(txn: &ReadTransaction, after: After, page: &mut TransferPage) -> Last {
    for key in keys::list(txn, None, after.map(|(id, _)| KeyId(id)), PAGE_ROWS)? {
        let credentials = credentials::of_key(txn, key.id)?;
        page.keys.push(TransferKey { key, credentials });
    }
    Ok(last_if_full(&page.keys, |transfer| (transfer.key.id.0, 0)))
}

/// Reads the totals of keys of all time, and their running hours and days.
fn read_activity(txn: &ReadTransaction, after: After, page: &mut TransferPage) -> Last {
    let table = txn.open_table(ACTIVITY)?;
    let after = after.map(|(id, _)| id);
    for_each_row(&table, after, |id, bytes: &[u8]| {
        let (key, activity) = (KeyId(id), Activity::decode(bytes)?);
        page.key_totals.push((key, activity.all_time));
        let (hour, day) = (activity.hour, activity.day);
        if hour.count != Count::default() {
            page.key_hours.push((key, hour.period, hour.count));
        }
        if day.count != Count::default() {
            page.key_days.push((key, day.period, day.count));
        }
        Ok((id, 0))
    })
}

fn read_key_hours(txn: &ReadTransaction, after: After, page: &mut TransferPage) -> Last {
    let table = txn.open_table(KEY_HOURS)?;
    for_each_row(&table, after, |(hour, key), bytes: &[u8]| {
        let count = Count::decode(bytes)?;
        page.key_hours.push((KeyId(key), hour, count));
        Ok((hour, key))
    })
}

fn read_key_days(txn: &ReadTransaction, after: After, page: &mut TransferPage) -> Last {
    let table = txn.open_table(KEY_DAYS)?;
    for_each_row(&table, after, |(key, day), bytes: &[u8]| {
        let count = Count::decode(bytes)?;
        page.key_days.push((KeyId(key), day, count));
        Ok((key, day))
    })
}

fn read_minutes(txn: &ReadTransaction, after: After, page: &mut TransferPage) -> Last {
    let table = txn.open_table(MINUTES)?;
    let after = after.map(|(minute, _)| minute);
    for_each_row(&table, after, |minute, bytes: &[u8]| {
        page.minutes.push((minute, Tally::decode(bytes)?));
        Ok((minute, 0))
    })
}

fn read_balances(txn: &ReadTransaction, after: After, page: &mut TransferPage) -> Last {
    let table = txn.open_table(BALANCES)?;
    let after = after.map(|(id, _)| id);
    for_each_row(&table, after, |id, bytes: &[u8]| {
        let balances = decode_counters(bytes)?;
        page.balances.push((SubjectId::from_bits(id), balances));
        Ok((id, 0))
    })
}

fn read_rest(txn: &ReadTransaction, _: After, page: &mut TransferPage) -> Last {
    let rows = txn.open_table(META)?;
    let counts: RecordCounts = read_meta(&rows, meta::RECORD_COUNTS)?;
    page.last_ids = Some(LastIds {
        org: counts.last_org_id,
        key: counts.last_key_id,
    });
    page.lifetime = Some(read_meta(&rows, meta::LIFETIME)?);
    page.shadow_denied = totals::shadow_denied(txn)?;
    page.locks = locks::all(txn)?;
    Ok(None)
}

/// Calls `handle`, which returns the id of a row, for the rows of a page. Returns the last id of a full
/// page.
fn for_each_row<K, V, Id>(
    table: &impl ReadableTable<K, V>,
    after: Option<Id>,
    mut handle: impl for<'a> FnMut(K::SelfType<'a>, V::SelfType<'a>) -> Result<RowId, StoreError>,
) -> Last
where
    K: RedbKey + 'static,
    V: Value + 'static,
    Id: for<'a> Borrow<K::SelfType<'a>>,
{
    let start = after.map_or(Bound::Unbounded, Bound::Excluded);
    let mut last = None;
    let mut count = 0;
    for row in table
        .range::<Id>((start, Bound::Unbounded))?
        .take(PAGE_ROWS)
    {
        let (id, value) = row?;
        last = Some(handle(id.value(), value.value())?);
        count += 1;
    }
    Ok(last.filter(|_| count == PAGE_ROWS))
}
