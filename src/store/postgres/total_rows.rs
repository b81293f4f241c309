//! Writing rows of totals: those of a batch are added to existing ones, those of an import raise them.

use std::collections::BTreeMap;

use super::conn::{Conn, Params};
use super::rows::at_second;
use super::totals::{DROPPED, names};
use crate::model::KeyId;
use crate::store::totals::BatchTotals;
use crate::store::transfer::TransferPage;
use crate::store::{Count, Minute, StoreError, Tally};

/// The rows of all tables of totals, in the order of their keys.
#[derive(Default)]
pub(super) struct TotalRows {
    keys: BTreeMap<KeyId, Count>,
    /// By hour since the Unix epoch.
    key_hours: BTreeMap<(u64, KeyId), Count>,
    /// By day since the Unix epoch.
    key_days: BTreeMap<(u64, KeyId), Count>,
    shadow_denied: BTreeMap<String, u64>,
    /// Named numbers of minutes.
    minutes: BTreeMap<(Minute, String), u64>,
    /// Named numbers of all time.
    lifetime: BTreeMap<String, u64>,
}

impl TotalRows {
    pub(super) fn of_batch(
        batch: &BatchTotals,
        dropped: u64,
        shadow_denied: BTreeMap<String, u64>,
    ) -> Self {
        let mut rows = Self {
            shadow_denied,
            ..Self::default()
        };
        for (key, totals) in &batch.keys {
            rows.keys.insert(*key, totals.sum());
            for &(hour, count) in &totals.hours {
                rows.key_hours.insert((hour, *key), count);
                rows.key_days
                    .entry((hour / 24, *key))
                    .or_default()
                    .add(count);
            }
        }
        for (minute, tally) in &batch.minutes {
            rows.insert_minute(*minute, tally);
        }
        rows.insert_lifetime(&batch.all, dropped);
        rows
    }

    pub(super) fn of_page(page: &TransferPage) -> Self {
        let by_period = |&(key, period, count): &(KeyId, u64, Count)| ((period, key), count);
        let mut rows = Self {
            keys: page.key_totals.iter().copied().collect(),
            key_hours: page.key_hours.iter().map(by_period).collect(),
            key_days: page.key_days.iter().map(by_period).collect(),
            shadow_denied: page.shadow_denied.iter().cloned().collect(),
            ..Self::default()
        };
        for (minute, tally) in &page.minutes {
            rows.insert_minute(*minute, tally);
        }
        if let Some(lifetime) = &page.lifetime {
            rows.insert_lifetime(&lifetime.tally, lifetime.dropped);
        }
        rows
    }

    fn insert_minute(&mut self, minute: Minute, tally: &Tally) {
        let named = names(tally).map(|(name, value)| ((minute, name), value));
        self.minutes.extend(named);
    }

    fn insert_lifetime(&mut self, tally: &Tally, dropped: u64) {
        let dropped = (DROPPED.to_owned(), dropped);
        let dropped = Some(dropped).filter(|(_, count)| *count > 0);
        self.lifetime.extend(names(tally).chain(dropped));
    }

    /// Writes the rows in the order in which all nodes lock them. The rows of all time come last, because
    /// other nodes wait for them.
    pub(super) async fn write(&self, conn: &Conn, how: Combine) -> Result<(), StoreError> {
        let how = how as i64;
        let keys: Vec<_> = self.keys.keys().map(|key| key.0 as i64).collect();
        let [requests, errors] = counts(self.keys.values());
        let columns: Params<'_> = &[&how, &keys, &requests, &errors];
        put(conn, KEY_TOTALS, keys.len(), columns).await?;
        put_periods(conn, KEY_HOURS, how, 3_600, &self.key_hours).await?;
        put_periods(conn, KEY_DAYS, how, 86_400, &self.key_days).await?;
        put_named(conn, SHADOW_DENIED, how, &self.shadow_denied).await?;
        let minutes = self.minutes.keys();
        let minutes: Vec<_> = minutes.map(|(minute, _)| at_second(minute * 60)).collect();
        let names: Vec<_> = self.minutes.keys().map(|(_, name)| name).collect();
        let values: Vec<_> = self.minutes.values().copied().map(number).collect();
        let columns: Params<'_> = &[&how, &minutes, &names, &values];
        put(conn, MINUTES, minutes.len(), columns).await?;
        put_named(conn, LIFETIME, how, &self.lifetime).await
    }
}

/// How the numbers of a row are combined with those of an existing row: the factor with which an existing
/// number is added before the greater one is stored.
#[derive(Clone, Copy)]
pub(super) enum Combine {
    Raise = 0,
    Add = 1,
}

const KEY_TOTALS: &str = "INSERT INTO keyguard_key_totals AS t (key_id, requests, errors) \
    SELECT * FROM unnest($2::bigint[], $3::bigint[], $4::bigint[]) \
    ON CONFLICT (key_id) DO UPDATE SET \
        requests = greatest(t.requests, excluded.requests + $1::bigint * t.requests), \
        errors = greatest(t.errors, excluded.errors + $1::bigint * t.errors)";

const KEY_HOURS: &str = "INSERT INTO keyguard_key_hours AS t (hour, key_id, requests, errors) \
    SELECT * FROM unnest($2::timestamptz[], $3::bigint[], $4::bigint[], $5::bigint[]) \
    ON CONFLICT (hour, key_id) DO UPDATE SET \
        requests = greatest(t.requests, excluded.requests + $1::bigint * t.requests), \
        errors = greatest(t.errors, excluded.errors + $1::bigint * t.errors)";

const KEY_DAYS: &str = "INSERT INTO keyguard_key_days AS t (day, key_id, requests, errors) \
    SELECT * FROM unnest($2::timestamptz[], $3::bigint[], $4::bigint[], $5::bigint[]) \
    ON CONFLICT (day, key_id) DO UPDATE SET \
        requests = greatest(t.requests, excluded.requests + $1::bigint * t.requests), \
        errors = greatest(t.errors, excluded.errors + $1::bigint * t.errors)";

const SHADOW_DENIED: &str = "INSERT INTO keyguard_shadow_denied AS t (name, value) \
    SELECT * FROM unnest($2::text[], $3::bigint[]) \
    ON CONFLICT (name) DO UPDATE SET \
        value = greatest(t.value, excluded.value + $1::bigint * t.value)";

const MINUTES: &str = "INSERT INTO keyguard_minutes AS t (minute, name, value) \
    SELECT * FROM unnest($2::timestamptz[], $3::text[], $4::bigint[]) \
    ON CONFLICT (minute, name) DO UPDATE SET \
        value = greatest(t.value, excluded.value + $1::bigint * t.value)";

const LIFETIME: &str = "INSERT INTO keyguard_totals AS t (name, value) \
    SELECT * FROM unnest($2::text[], $3::bigint[]) \
    ON CONFLICT (name) DO UPDATE SET \
        value = greatest(t.value, excluded.value + $1::bigint * t.value)";

/// Writes counts of keys per period of a number of seconds.
async fn put_periods(
    conn: &Conn,
    sql: &'static str,
    how: i64,
    seconds: u64,
    rows: &BTreeMap<(u64, KeyId), Count>,
) -> Result<(), StoreError> {
    let starts = rows.keys().map(|(period, _)| at_second(period * seconds));
    let starts: Vec<_> = starts.collect();
    let keys: Vec<_> = rows.keys().map(|(_, key)| key.0 as i64).collect();
    let [requests, errors] = counts(rows.values());
    let columns: Params<'_> = &[&how, &starts, &keys, &requests, &errors];
    put(conn, sql, rows.len(), columns).await
}

async fn put_named(
    conn: &Conn,
    sql: &'static str,
    how: i64,
    rows: &BTreeMap<String, u64>,
) -> Result<(), StoreError> {
    let names: Vec<_> = rows.keys().collect();
    let values: Vec<_> = rows.values().copied().map(number).collect();
    put(conn, sql, rows.len(), &[&how, &names, &values]).await
}

async fn put(
    conn: &Conn,
    sql: &'static str,
    rows: usize,
    columns: Params<'_>,
) -> Result<(), StoreError> {
    if rows > 0 {
        conn.run(sql, columns).await?;
    }
    Ok(())
}

/// Requests and errors.
fn counts<'a>(counts: impl Iterator<Item = &'a Count>) -> [Vec<i64>; 2] {
    let numbers = counts.map(|count| (number(count.requests), number(count.errors)));
    let (requests, errors) = numbers.unzip();
    [requests, errors]
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
