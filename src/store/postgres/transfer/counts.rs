//! Import of totals: the larger number of each row wins.

use tokio_postgres::types::ToSql;

use crate::model::KeyId;
use crate::store::postgres::conn::Conn;
use crate::store::postgres::totals::{self, at_second};
use crate::store::transfer::TransferPage;
use crate::store::{Count, Lifetime, StoreError};

/// Rows are locked in the same order as when usage is recorded: by table, then by key.
pub(super) async fn import(conn: &Conn, page: &TransferPage) -> Result<(), StoreError> {
    key_totals(conn, &page.key_totals).await?;
    periods(
        conn,
        &page.key_hours,
        3_600,
        "INSERT INTO keyguard_key_hours AS t (hour, key_id, requests, errors) \
         SELECT * FROM unnest($1::timestamptz[], $2::bigint[], $3::bigint[], $4::bigint[]) \
         ON CONFLICT (hour, key_id) DO UPDATE SET requests = greatest(t.requests, excluded.requests), \
             errors = greatest(t.errors, excluded.errors)",
    )
    .await?;
    periods(
        conn,
        &page.key_days,
        86_400,
        "INSERT INTO keyguard_key_days AS t (day, key_id, requests, errors) \
         SELECT * FROM unnest($1::timestamptz[], $2::bigint[], $3::bigint[], $4::bigint[]) \
         ON CONFLICT (day, key_id) DO UPDATE SET requests = greatest(t.requests, excluded.requests), \
             errors = greatest(t.errors, excluded.errors)",
    )
    .await?;
    named(
        conn,
        page.shadow_denied.clone(),
        "INSERT INTO keyguard_shadow_denied AS t (name, value) \
         SELECT * FROM unnest($1::text[], $2::bigint[]) \
         ON CONFLICT (name) DO UPDATE SET value = greatest(t.value, excluded.value)",
    )
    .await?;
    minutes(conn, page).await?;
    let lifetime = page.lifetime.iter().flat_map(names);
    named(
        conn,
        lifetime.collect(),
        "INSERT INTO keyguard_totals AS t (name, value) \
         SELECT * FROM unnest($1::text[], $2::bigint[]) \
         ON CONFLICT (name) DO UPDATE SET value = greatest(t.value, excluded.value)",
    )
    .await
}

fn names(lifetime: &Lifetime) -> impl Iterator<Item = (String, u64)> {
    let dropped = (totals::DROPPED.to_owned(), lifetime.dropped);
    let dropped = Some(dropped).filter(|(_, count)| *count > 0);
    totals::names(&lifetime.tally).chain(dropped)
}

async fn key_totals(conn: &Conn, all: &[(KeyId, Count)]) -> Result<(), StoreError> {
    let mut all = all.to_vec();
    all.sort_unstable_by_key(|(key, _)| *key);
    let keys: Vec<_> = all.iter().map(|(key, _)| key.0 as i64).collect();
    let [requests, errors] = columns(all.iter().map(|(_, count)| count));
    put(
        conn,
        "INSERT INTO keyguard_key_totals AS t (key_id, requests, errors) \
         SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) \
         ON CONFLICT (key_id) DO UPDATE SET requests = greatest(t.requests, excluded.requests), \
             errors = greatest(t.errors, excluded.errors)",
        keys.len(),
        &[&keys, &requests, &errors],
    )
    .await
}

/// Counts per period of a number of seconds.
async fn periods(
    conn: &Conn,
    all: &[(KeyId, u64, Count)],
    seconds: u64,
    sql: &'static str,
) -> Result<(), StoreError> {
    let mut all = all.to_vec();
    all.sort_unstable_by_key(|(key, period, _)| (*period, *key));
    let starts = all.iter().map(|(_, period, _)| at_second(period * seconds));
    let starts: Vec<_> = starts.collect();
    let keys: Vec<_> = all.iter().map(|(key, ..)| key.0 as i64).collect();
    let [requests, errors] = columns(all.iter().map(|(.., count)| count));
    put(conn, sql, keys.len(), &[&starts, &keys, &requests, &errors]).await
}

async fn minutes(conn: &Conn, page: &TransferPage) -> Result<(), StoreError> {
    let mut all = Vec::new();
    for (minute, tally) in &page.minutes {
        let named = totals::names(tally).map(|(name, value)| (*minute, name, value));
        all.extend(named);
    }
    all.sort_unstable();
    let (mut minutes, mut names, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for (minute, name, value) in all {
        minutes.push(at_second(minute * 60));
        names.push(name);
        values.push(number(value));
    }
    put(
        conn,
        "INSERT INTO keyguard_minutes AS t (minute, name, value) \
         SELECT * FROM unnest($1::timestamptz[], $2::text[], $3::bigint[]) \
         ON CONFLICT (minute, name) DO UPDATE SET value = greatest(t.value, excluded.value)",
        names.len(),
        &[&minutes, &names, &values],
    )
    .await
}

async fn named(
    conn: &Conn,
    mut all: Vec<(String, u64)>,
    sql: &'static str,
) -> Result<(), StoreError> {
    all.sort_unstable();
    let (names, values): (Vec<_>, Vec<_>) = all
        .into_iter()
        .map(|(name, value)| (name, number(value)))
        .unzip();
    put(conn, sql, names.len(), &[&names, &values]).await
}

async fn put(
    conn: &Conn,
    sql: &'static str,
    rows: usize,
    columns: &[&(dyn ToSql + Sync)],
) -> Result<(), StoreError> {
    if rows > 0 {
        conn.run(sql, columns).await?;
    }
    Ok(())
}

/// Requests and errors.
fn columns<'a>(counts: impl Iterator<Item = &'a Count>) -> [Vec<i64>; 2] {
    let numbers = counts.map(|count| (number(count.requests), number(count.errors)));
    let (requests, errors) = numbers.unzip();
    [requests, errors]
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
