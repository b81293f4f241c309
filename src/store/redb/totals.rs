//! Counts of each key, of each minute and of all time.

use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, Table, WriteTransaction};

use super::rows::{activity_of, find_key, find_org, missing, with_last_use};
use super::tables::{
    ACTIVITY, EXPIRIES, KEY_DAYS, KEY_HOURS, KEYS, META, MINUTES, ORGS, SHADOW_DENIED, meta,
    read_meta, update_meta,
};
use crate::model::KeyId;
use crate::store::batch_id::BatchId;
use crate::store::codec::{Record, RecordCounts};
use crate::store::totals::{Activity, BatchTotals, KeyTotals, Running, TopKeys, shadow_name};
use crate::store::{Count, Lifetime, StoreError, Tally, Totals, UsageBatch};
use crate::time::Timestamp;

/// Notes that the batch of this `id` is counted. Returns whether it was counted before.
pub(super) fn is_counted(txn: &WriteTransaction, id: Option<BatchId>) -> Result<bool, StoreError> {
    let Some(id) = id else {
        return Ok(false);
    };
    let mut meta = txn.open_table(META)?;
    let before = meta.insert(meta::BATCH, id.to_bytes().as_slice())?;
    Ok(before.is_some_and(|before| before.value() == id.to_bytes()))
}

/// Adds a batch to all counts.
pub(super) fn add(txn: &WriteTransaction, batch: &UsageBatch) -> Result<(), StoreError> {
    let totals = BatchTotals::new(batch);
    update_meta(txn, meta::LIFETIME, |lifetime: &mut Lifetime| {
        lifetime.tally.add(&totals.all);
        lifetime.dropped = lifetime.dropped.saturating_add(batch.dropped);
    })?;
    let mut minutes = txn.open_table(MINUTES)?;
    for (minute, tally) in totals.minutes {
        update_row(&mut minutes, minute, |sum: &mut Tally| sum.add(&tally))?;
    }
    add_to_shadow_denied(txn, &batch.shadow_denied)?;
    add_to_keys(txn, totals.keys, batch.now)
}

fn add_to_shadow_denied(
    txn: &WriteTransaction,
    shadow_denied: &[(String, u64)],
) -> Result<(), StoreError> {
    if shadow_denied.is_empty() {
        return Ok(());
    }
    let mut table = txn.open_table(SHADOW_DENIED)?;
    for (name, count) in shadow_denied {
        let is_known = table.get(name.as_str())?.is_some();
        let name = shadow_name(name, is_known, table.len()?);
        let sum = table.get(name)?.map_or(0, |row| row.value());
        table.insert(name, sum.saturating_add(*count))?;
    }
    Ok(())
}

fn add_to_keys(
    txn: &WriteTransaction,
    keys: Vec<(KeyId, KeyTotals)>,
    now: Timestamp,
) -> Result<(), StoreError> {
    if keys.is_empty() {
        return Ok(());
    }
    let mut tables = KeyTables::open(txn)?;
    let mut requests = Vec::with_capacity(keys.len());
    for (key, totals) in keys {
        requests.push((key, tables.add(key, totals, now)?));
    }
    note_top_keys(txn, &requests)
}

/// Notes the requests of keys, of all time.
pub(super) fn note_top_keys(
    txn: &WriteTransaction,
    requests: &[(KeyId, u64)],
) -> Result<(), StoreError> {
    update_meta(txn, meta::TOP_KEYS, |top: &mut TopKeys| {
        for &(key, requests) in requests.iter().filter(|(_, requests)| *requests > 0) {
            top.note(key.0, requests);
        }
    })
}

/// The totals of keys.
pub(super) struct KeyTables<'txn> {
    activity: Table<'txn, u64, &'static [u8]>,
    pub(super) hours: Table<'txn, (u64, u64), &'static [u8]>,
    pub(super) days: Table<'txn, (u64, u64), &'static [u8]>,
}

impl<'txn> KeyTables<'txn> {
    pub(super) fn open(txn: &'txn WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            activity: txn.open_table(ACTIVITY)?,
            hours: txn.open_table(KEY_HOURS)?,
            days: txn.open_table(KEY_DAYS)?,
        })
    }

    /// Adds to the totals of a key. Returns its requests of all time.
    fn add(&mut self, key: KeyId, totals: KeyTotals, now: Timestamp) -> Result<u64, StoreError> {
        let mut activity = self.activity(key)?;
        if let Some(at) = totals.last_used_at {
            activity.use_at(at, now);
        }
        for (hour, count) in totals.hours {
            activity.all_time.add(count);
            let (hours, row) = (&mut self.hours, |hour| (hour, key.0));
            merge_period(&mut activity.hour, (hour, count), hours, row, Count::add)?;
            let (days, row) = (&mut self.days, |day| (key.0, day));
            merge_period(&mut activity.day, (hour / 24, count), days, row, Count::add)?;
        }
        self.put(key, &activity)?;
        Ok(activity.all_time.requests)
    }

    pub(super) fn activity(&self, key: KeyId) -> Result<Activity, StoreError> {
        activity_of(&self.activity, key)
    }

    pub(super) fn put(&mut self, key: KeyId, activity: &Activity) -> Result<(), StoreError> {
        self.activity.insert(key.0, activity.encode()?.as_slice())?;
        Ok(())
    }
}

/// Merges the count of a period into that of the running one, or into the row of an ended one. `row`
/// returns the key of a row.
pub(super) fn merge_period(
    running: &mut Running,
    counted: (u64, Count),
    table: &mut Table<'_, (u64, u64), &'static [u8]>,
    row: impl FnOnce(u64) -> (u64, u64),
    merge: fn(&mut Count, Count),
) -> Result<(), StoreError> {
    let (period, count) = counted;
    match running.merge(period, count, merge) {
        Some((ended, count)) => update_row(table, row(ended), |known| merge(known, count)),
        None => Ok(()),
    }
}

/// Changes a record; an absent one is the default.
pub(super) fn update_row<K, R>(
    table: &mut Table<'_, K, &'static [u8]>,
    key: K,
    change: impl FnOnce(&mut R),
) -> Result<(), StoreError>
where
    K: for<'a> redb::Key<SelfType<'a> = K> + Copy + 'static,
    R: Record + Default,
{
    let row = table.get(key)?.map(|row| R::decode(row.value()));
    let mut record = row.transpose()?.unwrap_or_default();
    change(&mut record);
    table.insert(key, record.encode()?.as_slice())?;
    Ok(())
}

pub(super) fn shadow_denied(txn: &ReadTransaction) -> Result<Vec<(String, u64)>, StoreError> {
    let table = txn.open_table(SHADOW_DENIED)?;
    let rows = table.iter()?.map(|row| {
        let (name, count) = row?;
        Ok((name.value().to_owned(), count.value()))
    });
    rows.collect()
}

pub(super) fn totals(txn: &ReadTransaction, now: Timestamp) -> Result<Totals, StoreError> {
    let meta = txn.open_table(META)?;
    let counts: RecordCounts = read_meta(&meta, meta::RECORD_COUNTS)?;
    let lifetime: Lifetime = read_meta(&meta, meta::LIFETIME)?;

    // All of the minute in which the hour began.
    let mut last_hour = Count::default();
    let hour = now.minute().saturating_sub(60)..=now.minute();
    for row in txn.open_table(MINUTES)?.range(hour)? {
        last_hour.add(Tally::decode(row?.1.value())?.count);
    }
    Ok(Totals {
        orgs: counts.orgs,
        keys: counts.keys,
        active_keys: counts.active_keys.saturating_sub(expired_keys(txn, now)?),
        all_time: lifetime.tally.count,
        last_hour,
        refused: lifetime.tally.refused,
        dropped: lifetime.dropped,
        shadow_denied: shadow_denied(txn)?,
        top_keys: top_keys(txn, read_meta(&meta, meta::TOP_KEYS)?)?,
    })
}

fn top_keys(
    txn: &ReadTransaction,
    TopKeys(top): TopKeys,
) -> Result<Vec<(crate::model::Key, crate::model::Org, u64)>, StoreError> {
    let keys = txn.open_table(KEYS)?;
    let orgs = txn.open_table(ORGS)?;
    let activity = txn.open_table(ACTIVITY)?;
    let rows = top.into_iter().map(|(id, requests)| {
        let key = find_key(&keys, KeyId(id))?.ok_or_else(|| missing("a key"))?;
        let org = find_org(&orgs, key.org_id)?.ok_or_else(|| missing("an organization"))?;
        Ok((with_last_use(&activity, key)?, org, requests))
    });
    rows.collect()
}

/// Returns the number of expired keys that are neither suspended nor revoked. Reads a row for each.
fn expired_keys(txn: &ReadTransaction, now: Timestamp) -> Result<u64, StoreError> {
    let expiries = txn.open_table(EXPIRIES)?;
    let mut count = 0;
    for row in expiries.range(..=(now.unix_millis(), u64::MAX))? {
        row?;
        count += 1;
    }
    Ok(count)
}
