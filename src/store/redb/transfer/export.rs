//! Reading a page of what moves.

use std::ops::Bound;

use redb::{Key as RedbKey, ReadTransaction, ReadableTable, Value};

use crate::counter::SavedCounter;
use crate::counter::SubjectId;
use crate::model::HashedKey;
use crate::model::{Credential, KeyId, OrgId};
use crate::store::codec::{
    ACTIVITY, Activity, BALANCES, CREDENTIALS, Counters, KEY_CREDENTIALS, KEY_DAYS, KEY_HOURS,
    META, MINUTES, Record, Tally, decode_counters, decode_credential, meta,
};
use crate::store::redb::rows::{existing, missing};
use crate::store::redb::{counters, locks, manage, totals};
use crate::store::transfer::{LastIds, MovedKey, PageCursor, TransferPage};
use crate::store::{Count, StoreError};

/// So many rows make a page.
const PAGE: usize = 4_096;

/// In which order the tables are read: organizations before their keys, and keys before what is
/// counted for them.
const STAGES: [Stage; 8] = [
    orgs, keys, activity, key_hours, key_days, minutes, balances, rest,
];

/// Reads rows behind one into a parcel; returns the last of them, or `None` if there are no more.
type Stage = fn(&ReadTransaction, After, &mut TransferPage) -> Result<After, StoreError>;
type After = Option<(u64, u64)>;

pub(in crate::store::redb) fn page(
    txn: &ReadTransaction,
    place: PageCursor,
) -> Result<TransferPage, StoreError> {
    let mut page = TransferPage::default();
    let Some(read) = STAGES.get(usize::from(place.stage)) else {
        return Ok(page);
    };
    let after = read(txn, place.after, &mut page)?;
    let stage = place.stage + u8::from(after.is_none());
    let is_last = usize::from(stage) == STAGES.len();
    page.next = (!is_last).then_some(PageCursor { stage, after });
    Ok(page)
}

fn orgs(txn: &ReadTransaction, after: After, page: &mut TransferPage) -> Result<After, StoreError> {
    page.orgs = manage::orgs(txn, after.map(|(id, _)| OrgId(id)), PAGE)?;
    let is_full = page.orgs.len() == PAGE;
    let last = page.orgs.last().filter(|_| is_full);
    Ok(last.map(|org| (org.id.0, 0)))
}

fn keys(txn: &ReadTransaction, after: After, page: &mut TransferPage) -> Result<After, StoreError> {
    for key in manage::keys(txn, None, after.map(|(id, _)| KeyId(id)), PAGE)? {
        let credentials = credentials(txn, key.id)?;
        page.keys.push(MovedKey { key, credentials });
    }
    let is_full = page.keys.len() == PAGE;
    let last = page.keys.last().filter(|_| is_full);
    Ok(last.map(|moved| (moved.key.id.0, 0)))
}

fn credentials(txn: &ReadTransaction, KeyId(id): KeyId) -> Result<Vec<Credential>, StoreError> {
    let by_hash = txn.open_table(CREDENTIALS)?;
    let of_key = txn.open_table(KEY_CREDENTIALS)?;
    let of_key = of_key.range((id, &[0; 32])..=(id, &[0xff; 32]))?;
    let credential = |row: Result<_, redb::StorageError>| {
        let (row, _): (redb::AccessGuard<'_, (u64, &[u8; 32])>, _) = row?;
        let hash = HashedKey(*row.value().1);
        let bytes = by_hash.get(&hash.0)?;
        let bytes = bytes.ok_or_else(|| missing("a credential"))?;
        decode_credential(hash, bytes.value())
    };
    of_key.map(credential).collect()
}

/// What keys were ever asked for, with their running hours and days, and quotas from before there were
/// balances.
fn activity(
    txn: &ReadTransaction,
    after: After,
    page: &mut TransferPage,
) -> Result<After, StoreError> {
    let table = txn.open_table(ACTIVITY)?;
    let balances = existing(txn, BALANCES)?;
    rows(&table, after.map(|(id, _)| id), |id, bytes: &[u8]| {
        let (key, of) = (KeyId(id), Activity::decode(bytes)?);
        page.key_totals.push((key, of.all_time));
        if of.in_hour != Count::default() {
            page.key_hours.push((key, of.hour, of.in_hour));
        }
        if of.in_day != Count::default() {
            page.key_days.push((key, of.day, of.in_day));
        }
        let has_balances = match &balances {
            Some(balances) => balances.get(id)?.is_some(),
            None => false,
        };
        if !has_balances && let Some(old) = counters::old_quota(txn, SubjectId::key(key))? {
            page.balances.push((SubjectId::key(key), vec![old]));
        }
        Ok((id, 0))
    })
}

fn key_hours(
    txn: &ReadTransaction,
    after: After,
    page: &mut TransferPage,
) -> Result<After, StoreError> {
    let table = txn.open_table(KEY_HOURS)?;
    rows(&table, after, |(hour, key), bytes: &[u8]| {
        let count = Count::decode(bytes)?;
        page.key_hours.push((KeyId(key), hour, count));
        Ok((hour, key))
    })
}

fn key_days(
    txn: &ReadTransaction,
    after: After,
    page: &mut TransferPage,
) -> Result<After, StoreError> {
    let table = txn.open_table(KEY_DAYS)?;
    rows(&table, after, |(key, day), bytes: &[u8]| {
        let count = Count::decode(bytes)?;
        page.key_days.push((KeyId(key), day, count));
        Ok((key, day))
    })
}

fn minutes(
    txn: &ReadTransaction,
    after: After,
    page: &mut TransferPage,
) -> Result<After, StoreError> {
    let table = txn.open_table(MINUTES)?;
    rows(
        &table,
        after.map(|(minute, _)| minute),
        |minute, bytes: &[u8]| {
            page.minutes.push((minute, Tally::decode(bytes)?));
            Ok((minute, 0))
        },
    )
}

fn balances(
    txn: &ReadTransaction,
    after: After,
    page: &mut TransferPage,
) -> Result<After, StoreError> {
    let Some(table) = existing(txn, BALANCES)? else {
        return Ok(None);
    };
    rows(&table, after.map(|(id, _)| id), |id, bytes: &[u8]| {
        let balances: Vec<SavedCounter> = decode_counters(bytes)?;
        page.balances.push((SubjectId::from_bits(id), balances));
        Ok((id, 0))
    })
}

/// What is bounded: in one page.
fn rest(txn: &ReadTransaction, _: After, page: &mut TransferPage) -> Result<After, StoreError> {
    let rows = txn.open_table(META)?;
    let ids: Counters = totals::read_meta(&rows, meta::COUNTERS)?;
    page.last_ids = Some(LastIds {
        org: ids.last_org_id,
        key: ids.last_key_id,
    });
    page.lifetime = Some(totals::read_meta(&rows, meta::LIFETIME)?);
    page.shadowed = totals::shadowed(txn)?;
    page.locks = locks::all(txn)?;
    Ok(None)
}

/// Gives a page of rows to `take`, which says where each is; returns where the last one is, or `None`
/// if there are no more.
fn rows<K, V, At>(
    table: &impl ReadableTable<K, V>,
    after: Option<At>,
    mut take: impl for<'a> FnMut(K::SelfType<'a>, V::SelfType<'a>) -> Result<(u64, u64), StoreError>,
) -> Result<After, StoreError>
where
    K: RedbKey + 'static,
    V: Value + 'static,
    At: for<'a> std::borrow::Borrow<K::SelfType<'a>>,
{
    let start = after.map_or(Bound::Unbounded, Bound::Excluded);
    let mut last = None;
    let mut count = 0;
    for row in table.range::<At>((start, Bound::Unbounded))?.take(PAGE) {
        let (at, value) = row?;
        last = Some(take(at.value(), value.value())?);
        count += 1;
    }
    Ok(last.filter(|_| count == PAGE))
}
