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
        let keys: Vec<_> = self.keys.keys().map(|key| key.0 as i64).collect();
        let [requests, errors] = counts(self.keys.values());
        let columns: Params<'_> = &[&keys, &requests, &errors];
        KEY_TOTALS.run(conn, how, keys.len(), columns).await?;
        write_periods(conn, how, &KEY_HOURS, 3_600, &self.key_hours).await?;
        write_periods(conn, how, &KEY_DAYS, 86_400, &self.key_days).await?;
        write_named(conn, how, &SHADOW_DENIED, &self.shadow_denied).await?;
        let minutes = self.minutes.keys();
        let minutes: Vec<_> = minutes.map(|(minute, _)| at_second(minute * 60)).collect();
        let names: Vec<_> = self.minutes.keys().map(|(_, name)| name).collect();
        let values: Vec<_> = self.minutes.values().copied().map(number).collect();
        let columns: Params<'_> = &[&minutes, &names, &values];
        MINUTES.run(conn, how, minutes.len(), columns).await?;
        write_named(conn, how, &LIFETIME, &self.lifetime).await
    }
}

/// Writes counts of keys per period of a number of seconds.
async fn write_periods(
    conn: &Conn,
    how: Combine,
    table: &Upsert,
    seconds: u64,
    rows: &BTreeMap<(u64, KeyId), Count>,
) -> Result<(), StoreError> {
    let starts = rows.keys().map(|(period, _)| at_second(period * seconds));
    let starts: Vec<_> = starts.collect();
    let keys: Vec<_> = rows.keys().map(|(_, key)| key.0 as i64).collect();
    let [requests, errors] = counts(rows.values());
    let columns: Params<'_> = &[&starts, &keys, &requests, &errors];
    table.run(conn, how, rows.len(), columns).await
}

async fn write_named(
    conn: &Conn,
    how: Combine,
    table: &Upsert,
    rows: &BTreeMap<String, u64>,
) -> Result<(), StoreError> {
    let names: Vec<_> = rows.keys().collect();
    let values: Vec<_> = rows.values().copied().map(number).collect();
    table.run(conn, how, rows.len(), &[&names, &values]).await
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

/// How the numbers of a row are combined with those of an existing row.
#[derive(Clone, Copy)]
pub(super) enum Combine {
    Add,
    Raise,
}

/// The statements that write rows of a table.
struct Upsert {
    add: &'static str,
    raise: &'static str,
}

impl Upsert {
    async fn run(
        &self,
        conn: &Conn,
        how: Combine,
        rows: usize,
        columns: Params<'_>,
    ) -> Result<(), StoreError> {
        if rows > 0 {
            let statement = match how {
                Combine::Add => self.add,
                Combine::Raise => self.raise,
            };
            conn.run(statement, columns).await?;
        }
        Ok(())
    }
}

/// `$key` are the columns of the primary key, `$types` those of the key and of the numbers.
macro_rules! upsert {
    ($table:literal, $key:literal, counts, $types:literal) => {
        upsert!(
            $table,
            $key,
            "requests, errors",
            $types,
            "requests = t.requests + excluded.requests, errors = t.errors + excluded.errors",
            "requests = greatest(t.requests, excluded.requests), \
             errors = greatest(t.errors, excluded.errors)"
        )
    };
    ($table:literal, $key:literal, value, $types:literal) => {
        upsert!(
            $table,
            $key,
            "value",
            $types,
            "value = t.value + excluded.value",
            "value = greatest(t.value, excluded.value)"
        )
    };
    ($table:literal, $key:literal, $numbers:literal, $types:literal, $sum:literal, $greatest:literal) => {
        Upsert {
            add: upsert!($table, $key, $numbers, $types, $sum),
            raise: upsert!($table, $key, $numbers, $types, $greatest),
        }
    };
    ($table:literal, $key:literal, $numbers:literal, $types:literal, $set:literal) => {
        concat!(
            "INSERT INTO ",
            $table,
            " AS t (",
            $key,
            ", ",
            $numbers,
            ") ",
            "SELECT * FROM unnest(",
            $types,
            ") ON CONFLICT (",
            $key,
            ") DO UPDATE SET ",
            $set
        )
    };
}

const KEY_TOTALS: Upsert = upsert!(
    "keyguard_key_totals",
    "key_id",
    counts,
    "$1::bigint[], $2::bigint[], $3::bigint[]"
);
const KEY_HOURS: Upsert = upsert!(
    "keyguard_key_hours",
    "hour, key_id",
    counts,
    "$1::timestamptz[], $2::bigint[], $3::bigint[], $4::bigint[]"
);
const KEY_DAYS: Upsert = upsert!(
    "keyguard_key_days",
    "day, key_id",
    counts,
    "$1::timestamptz[], $2::bigint[], $3::bigint[], $4::bigint[]"
);
const SHADOW_DENIED: Upsert = upsert!(
    "keyguard_shadow_denied",
    "name",
    value,
    "$1::text[], $2::bigint[]"
);
const MINUTES: Upsert = upsert!(
    "keyguard_minutes",
    "minute, name",
    value,
    "$1::timestamptz[], $2::text[], $3::bigint[]"
);
const LIFETIME: Upsert = upsert!("keyguard_totals", "name", value, "$1::text[], $2::bigint[]");
