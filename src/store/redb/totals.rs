//! Counts: of each key, of each minute and of all time, kept as usage is recorded, so that
//! reading them scans nothing.

use std::collections::BTreeMap;

use foldhash::quality::RandomState;
use hashbrown::HashMap;
use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, Table, WriteTransaction};
use smallvec::{SmallVec, smallvec};

use super::rows::{existing, find_key, find_org, missing, with_last_use};
use crate::model::{KeyId, Reason};
use crate::store::batches::BatchId;
use crate::store::codec::{
    ACTIVITY, Activity, Counters, EXPIRIES, KEY_DAYS, KEY_HOURS, KEYS, Lifetime, META, MINUTES,
    ORGS, Record, SHADOWED, Tally, TopKeys, meta,
};
use crate::store::{Count, Minute, StoreError, Totals, UsageBatch, UsageEvent};
use crate::time::Timestamp;

/// Returns whether the batch of this `id` was counted before, and notes that it is now.
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
    let (keys, minutes) = summarize(batch);
    add_to_lifetime(txn, &minutes, batch.dropped)?;
    add_to_minutes(txn, &minutes)?;
    add_to_shadowed(txn, &batch.shadowed)?;
    add_to_keys(txn, keys, batch.now)
}

/// More names than this are counted as one.
const MOST_NAMES: u64 = 1_000;
const OTHERS: &str = "others";

fn add_to_shadowed(txn: &WriteTransaction, shadowed: &[(String, u64)]) -> Result<(), StoreError> {
    if shadowed.is_empty() {
        return Ok(());
    }
    let mut table = txn.open_table(SHADOWED)?;
    for (name, count) in shadowed {
        let is_known = table.get(name.as_str())?.is_some();
        let name = if is_known || table.len()? < MOST_NAMES {
            name
        } else {
            OTHERS
        };
        let sum = table.get(name)?.map_or(0, |row| row.value());
        table.insert(name, sum.saturating_add(*count))?;
    }
    Ok(())
}

pub(super) fn shadowed(txn: &ReadTransaction) -> Result<Vec<(String, u64)>, StoreError> {
    let Some(table) = existing(txn, SHADOWED)? else {
        return Ok(Vec::new());
    };
    let rows = table.iter()?.map(|row| {
        let (name, count) = row?;
        Ok((name.value().to_owned(), count.value()))
    });
    rows.collect()
}

pub(super) fn totals(txn: &ReadTransaction, now: Timestamp) -> Result<Totals, StoreError> {
    let meta = txn.open_table(META)?;
    let counters: Counters = read_meta(&meta, meta::COUNTERS)?;
    let lifetime: Lifetime = read_meta(&meta, meta::LIFETIME)?;
    let top: TopKeys = read_meta(&meta, meta::TOP_KEYS)?;

    // The minute in which the hour began counts whole.
    let mut last_hour = Count::default();
    let hour = now.minute().saturating_sub(60)..=now.minute();
    for row in txn.open_table(MINUTES)?.range(hour)? {
        last_hour.add(Tally::decode(row?.1.value())?.count);
    }

    let keys = txn.open_table(KEYS)?;
    let orgs = txn.open_table(ORGS)?;
    let activity = txn.open_table(ACTIVITY)?;
    let mut top_keys = Vec::with_capacity(top.0.len());
    for (id, requests) in top.0 {
        let key = find_key(&keys, KeyId(id))?.ok_or_else(|| missing("a key"))?;
        let org = find_org(&orgs, key.org_id)?.ok_or_else(|| missing("an organization"))?;
        top_keys.push((with_last_use(&activity, key)?, org, requests));
    }
    Ok(Totals {
        orgs: counters.orgs,
        keys: counters.keys,
        active_keys: counters.active_keys.saturating_sub(expired_keys(txn, now)?),
        all_time: lifetime.tally.count,
        last_hour,
        refused: lifetime.tally.refused,
        dropped: lifetime.dropped,
        shadowed: shadowed(txn)?,
        top_keys,
    })
}

/// How many keys have expired that are not revoked. Reads a row for each.
fn expired_keys(txn: &ReadTransaction, now: Timestamp) -> Result<u64, StoreError> {
    let Some(expiries) = existing(txn, EXPIRIES)? else {
        return Ok(0);
    };
    let mut count = 0;
    for row in expiries.range(..=(now.unix_millis(), u64::MAX))? {
        row?;
        count += 1;
    }
    Ok(count)
}

/// What one batch says of one key.
#[derive(Default)]
struct KeyShare {
    last_used_at: Option<Timestamp>,
    /// By hour, in the order in which they came: hardly ever more than one.
    hours: SmallVec<[(u64, Count); 1]>,
}

impl KeyShare {
    fn add(&mut self, event: &UsageEvent, count: Count) {
        if event.refused.is_none() {
            self.last_used_at = self.last_used_at.max(Some(event.at));
        }
        let hour = event.at.hour();
        match self.hours.iter_mut().find(|(of, _)| *of == hour) {
            Some((_, sum)) => sum.add(count),
            None => self.hours.push((hour, count)),
        }
    }
}

type KeyShares = HashMap<u64, KeyShare, RandomState>;
type Minutes = BTreeMap<Minute, Tally>;

fn summarize(batch: &UsageBatch) -> (KeyShares, Minutes) {
    let mut keys = KeyShares::default();
    let mut minutes = Minutes::new();
    // Events come in bunches of one minute, which is looked up once.
    for events in batch.events.chunk_by(|a, b| a.at.minute() == b.at.minute()) {
        let Some(first) = events.first() else {
            continue;
        };
        let tally = minutes.entry(first.at.minute()).or_default();
        for event in events {
            let count = count_of(event);
            tally.count.add(count);
            if let Some(reason) = event.refused {
                tally.refused[reason as usize] += 1;
            }
            keys.entry(event.key_id.0).or_default().add(event, count);
        }
    }
    for (minute, refused) in &batch.refusals {
        let requests = refused.iter().sum();
        minutes.entry(*minute).or_default().add(&Tally {
            count: Count {
                requests,
                errors: requests,
            },
            refused: *refused,
        });
    }
    (keys, minutes)
}

fn count_of(event: &UsageEvent) -> Count {
    Count {
        requests: 1,
        errors: u64::from(event.refused.is_some() || event.status >= 400),
    }
}

fn add_to_lifetime(
    txn: &WriteTransaction,
    minutes: &Minutes,
    dropped: u64,
) -> Result<(), StoreError> {
    let mut table = txn.open_table(META)?;
    let mut lifetime: Lifetime = read_meta(&table, meta::LIFETIME)?;
    for tally in minutes.values() {
        lifetime.tally.add(tally);
    }
    lifetime.dropped = lifetime.dropped.saturating_add(dropped);
    table.insert(meta::LIFETIME, lifetime.encode()?.as_slice())?;
    Ok(())
}

fn add_to_minutes(txn: &WriteTransaction, minutes: &Minutes) -> Result<(), StoreError> {
    let mut table = txn.open_table(MINUTES)?;
    for (minute, tally) in minutes {
        let mut sum = tally.clone();
        if let Some(row) = table.get(minute)? {
            sum.add(&Tally::decode(row.value())?);
        }
        table.insert(minute, sum.encode()?.as_slice())?;
    }
    Ok(())
}

fn add_to_keys(txn: &WriteTransaction, keys: KeyShares, now: Timestamp) -> Result<(), StoreError> {
    if keys.is_empty() {
        return Ok(());
    }
    let mut tables = KeyTables {
        activity: txn.open_table(ACTIVITY)?,
        hours: txn.open_table(KEY_HOURS)?,
        days: txn.open_table(KEY_DAYS)?,
    };
    let mut meta = txn.open_table(META)?;
    let mut top: TopKeys = read_meta(&meta, meta::TOP_KEYS)?;
    // In the order of the table, neighbours share a page.
    let mut keys: Vec<_> = keys.into_iter().collect();
    keys.sort_unstable_by_key(|(key, _)| *key);
    for (key, share) in keys {
        let requests = tables.add(key, share, now)?;
        if requests > 0 {
            top.note(key, requests);
        }
    }
    meta.insert(meta::TOP_KEYS, top.encode()?.as_slice())?;
    Ok(())
}

struct KeyTables<'txn> {
    activity: Table<'txn, u64, &'static [u8]>,
    hours: Table<'txn, (u64, u64), &'static [u8]>,
    days: Table<'txn, (u64, u64), &'static [u8]>,
}

impl KeyTables<'_> {
    /// Returns how many requests the key has made ever.
    fn add(&mut self, key: u64, share: KeyShare, now: Timestamp) -> Result<u64, StoreError> {
        let mut activity = match self.activity.get(key)? {
            Some(row) => Activity::decode(row.value())?,
            None => Activity::default(),
        };
        // A last use that lies ahead is from a clock that was wrong.
        let known = activity.last_used_at.filter(|at| *at <= now);
        activity.last_used_at = known.max(share.last_used_at);
        for (hour, count) in share.hours {
            activity.all_time.add(count);
            let (hours, days) = add_to_hour(&mut activity, hour, count);
            for (hour, count) in hours {
                add_to_row(&mut self.hours, (hour, key), count)?;
            }
            for (day, count) in days {
                add_to_row(&mut self.days, (key, day), count)?;
            }
        }
        self.activity.insert(key, activity.encode()?.as_slice())?;
        Ok(activity.all_time.requests)
    }
}

type Ended = SmallVec<[(u64, Count); 1]>;

/// Adds to the running hour and day and returns those that are not, or no longer, running: an
/// ended one makes way for a later one, and what comes late for an ended one goes to it.
fn add_to_hour(activity: &mut Activity, hour: u64, count: Count) -> (Ended, Ended) {
    (
        add_to_running(&mut activity.hour, &mut activity.in_hour, hour, count),
        add_to_running(&mut activity.day, &mut activity.in_day, hour / 24, count),
    )
}

fn add_to_running(running: &mut u64, sum: &mut Count, period: u64, count: Count) -> Ended {
    if period < *running {
        return smallvec![(period, count)];
    }
    if period == *running {
        sum.add(count);
        return smallvec![];
    }
    let ended = (
        std::mem::replace(running, period),
        std::mem::replace(sum, count),
    );
    if ended.1.requests == 0 {
        return smallvec![];
    }
    smallvec![ended]
}

fn add_to_row(
    table: &mut Table<'_, (u64, u64), &'static [u8]>,
    row: (u64, u64),
    mut count: Count,
) -> Result<(), StoreError> {
    if let Some(earlier) = table.get(row)? {
        count.add(Count::decode(earlier.value())?);
    }
    table.insert(row, count.encode()?.as_slice())?;
    Ok(())
}

pub(super) fn read_meta<R: Record>(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    row: &'static str,
) -> Result<R, StoreError> {
    match meta.get(row)? {
        Some(bytes) => R::decode(bytes.value()),
        None => Err(missing("a row of totals")),
    }
}

const _: () = assert!(
    (Reason::IpNotAllowed as usize) < Reason::COUNT,
    "every reason has a place in a tally"
);
