//! Totals per key, hour, day and minute, updated when usage is recorded, so that reading them needs
//! no scan.

use std::collections::BTreeMap;

use time::OffsetDateTime;
use tokio_postgres::Row;

use super::conn::Conn;
use super::recording::Prepared;
use super::rows::{self, KEY_WIDTH, key_columns, org_columns};
use crate::model::{KeyId, Reason};
use crate::store::totals::{KeyTotals, shadow_name};
use crate::store::{Count, Lifetime, StoreError, Tally, Totals};
use crate::time::Timestamp;

const REFUSED: &str = "refused ";
pub(super) const DROPPED: &str = "dropped";

/// The name of the counter of a refusal reason.
fn refused(reason: Option<Reason>) -> String {
    format!("{REFUSED}{}", text_of(reason))
}

fn text_of(reason: Option<Reason>) -> &'static str {
    reason.map_or("unknown", Reason::as_str)
}

/// Adds a batch to all totals.
pub(super) async fn add(conn: &Conn, batch: &Prepared) -> Result<(), StoreError> {
    add_to_keys(conn, batch).await?;
    add_to_shadow_denied(conn, &batch.shadow_denied).await?;
    add_to_minutes(conn, batch).await?;
    // Last, because other nodes wait for these rows.
    let mut all: BTreeMap<_, _> = names(&batch.totals.all).collect();
    if batch.dropped > 0 {
        all.insert(DROPPED.to_owned(), batch.dropped);
    }
    let (names, values) = columns(&all);
    if names.is_empty() {
        return Ok(());
    }
    conn.run(
        "INSERT INTO keyguard_totals AS t (name, value) \
         SELECT * FROM unnest($1::text[], $2::bigint[]) \
         ON CONFLICT (name) DO UPDATE SET value = t.value + excluded.value",
        &[&names, &values],
    )
    .await?;
    Ok(())
}

fn columns(counts: &BTreeMap<String, u64>) -> (Vec<&str>, Vec<i64>) {
    let counts = counts.iter();
    counts
        .map(|(name, &count)| (name.as_str(), count as i64))
        .unzip()
}

async fn add_to_keys(conn: &Conn, batch: &Prepared) -> Result<(), StoreError> {
    let keys = &batch.totals.keys;
    if keys.is_empty() {
        return Ok(());
    }
    add_to_lifetimes(conn, keys).await?;
    let mut hours = Periods::default();
    let mut days = Periods::default();
    for (key, totals) in keys {
        for &(hour, count) in &totals.hours {
            hours.add(hour * 3_600, key.0, count);
            days.add(hour / 24 * 86_400, key.0, count);
        }
    }
    hours
        .write(
            conn,
            "INSERT INTO keyguard_key_hours AS t (hour, key_id, requests, errors) \
             SELECT * FROM unnest($1::timestamptz[], $2::bigint[], $3::bigint[], $4::bigint[]) \
             ON CONFLICT (hour, key_id) DO UPDATE SET requests = t.requests + excluded.requests, \
                 errors = t.errors + excluded.errors",
        )
        .await?;
    days.write(
        conn,
        "INSERT INTO keyguard_key_days AS t (day, key_id, requests, errors) \
         SELECT * FROM unnest($1::timestamptz[], $2::bigint[], $3::bigint[], $4::bigint[]) \
         ON CONFLICT (day, key_id) DO UPDATE SET requests = t.requests + excluded.requests, \
             errors = t.errors + excluded.errors",
    )
    .await
}

async fn add_to_lifetimes(conn: &Conn, all: &[(KeyId, KeyTotals)]) -> Result<(), StoreError> {
    let (mut used, mut used_at) = (Vec::new(), Vec::new());
    let (mut keys, mut requests, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for (key, totals) in all {
        let key = key.0 as i64;
        if let Some(at) = totals.last_used_at {
            used.push(key);
            used_at.push(at.to_utc());
        }
        let sum = totals.sum();
        keys.push(key);
        requests.push(sum.requests as i64);
        errors.push(sum.errors as i64);
    }
    // A last use in the future is from a wrong clock. Locks rows in key order, which `UPDATE` alone
    // does not guarantee.
    conn.run(
        "WITH used AS (SELECT k.id, u.at FROM unnest($1::bigint[], $2::timestamptz[]) AS u (id, at) \
             JOIN api_keys k ON k.id = u.id ORDER BY k.id FOR NO KEY UPDATE OF k) \
         UPDATE api_keys k SET last_used_at = greatest(used.at, \
             CASE WHEN k.last_used_at <= clock_timestamp() THEN k.last_used_at END) \
         FROM used WHERE k.id = used.id",
        &[&used, &used_at],
    )
    .await?;
    conn.run(
        "INSERT INTO keyguard_key_totals AS t (key_id, requests, errors) \
         SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) \
         ON CONFLICT (key_id) DO UPDATE SET requests = t.requests + excluded.requests, \
             errors = t.errors + excluded.errors",
        &[&keys, &requests, &errors],
    )
    .await?;
    Ok(())
}

/// Counts of keys per period, by the start of the period in seconds.
#[derive(Default)]
struct Periods(BTreeMap<(u64, u64), Count>);

impl Periods {
    fn add(&mut self, start: u64, key: u64, count: Count) {
        self.0.entry((start, key)).or_default().add(count);
    }

    async fn write(self, conn: &Conn, sql: &'static str) -> Result<(), StoreError> {
        let (mut starts, mut keys) = (Vec::new(), Vec::new());
        let (mut requests, mut errors) = (Vec::new(), Vec::new());
        for ((start, key), count) in self.0 {
            starts.push(at_second(start));
            keys.push(key as i64);
            requests.push(count.requests as i64);
            errors.push(count.errors as i64);
        }
        conn.run(sql, &[&starts, &keys, &requests, &errors]).await?;
        Ok(())
    }
}

pub(super) fn at_second(second: u64) -> OffsetDateTime {
    Timestamp::from_unix_millis(second.saturating_mul(1_000)).to_utc()
}

async fn add_to_shadow_denied(
    conn: &Conn,
    shadow_denied: &BTreeMap<String, u64>,
) -> Result<(), StoreError> {
    if shadow_denied.is_empty() {
        return Ok(());
    }
    let known = conn
        .rows("SELECT name FROM keyguard_shadow_denied", &[])
        .await?;
    let mut known = known
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<std::collections::HashSet<String>, _>>()?;
    let mut counts = BTreeMap::new();
    for (name, count) in shadow_denied {
        let name = shadow_name(name, known.contains(name), known.len() as u64);
        known.insert(name.to_owned());
        *counts.entry(name.to_owned()).or_default() += count;
    }
    let (names, values) = columns(&counts);
    conn.run(
        "INSERT INTO keyguard_shadow_denied AS t (name, value) \
         SELECT * FROM unnest($1::text[], $2::bigint[]) \
         ON CONFLICT (name) DO UPDATE SET value = t.value + excluded.value",
        &[&names, &values],
    )
    .await?;
    Ok(())
}

async fn add_to_minutes(conn: &Conn, batch: &Prepared) -> Result<(), StoreError> {
    let (mut minutes, mut named, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for (minute, tally) in &batch.totals.minutes {
        for (name, value) in names(tally).collect::<BTreeMap<_, _>>() {
            minutes.push(at_second(minute * 60));
            named.push(name);
            values.push(value as i64);
        }
    }
    if minutes.is_empty() {
        return Ok(());
    }
    conn.run(
        "INSERT INTO keyguard_minutes AS t (minute, name, value) \
         SELECT * FROM unnest($1::timestamptz[], $2::text[], $3::bigint[]) \
         ON CONFLICT (minute, name) DO UPDATE SET value = t.value + excluded.value",
        &[&minutes, &named, &values],
    )
    .await?;
    Ok(())
}

pub(super) async fn totals(conn: &Conn, now: Timestamp) -> Result<Totals, StoreError> {
    let counts = conn
        .one(
            "SELECT orgs, keys, active_keys - \
             (SELECT count(*) FROM api_keys WHERE active AND expires_at <= $1) FROM keyguard_state",
            &[&now.to_utc()],
        )
        .await?;
    let mut totals = Totals {
        orgs: counts.try_get::<_, i64>(0)? as u64,
        keys: counts.try_get::<_, i64>(1)? as u64,
        active_keys: counts.try_get::<_, i64>(2)? as u64,
        last_hour: last_hour(conn, now).await?,
        shadow_denied: shadow_denied(conn).await?,
        top_keys: top_keys(conn).await?,
        ..Totals::default()
    };
    let Lifetime { tally, dropped } = lifetime(conn).await?;
    (totals.all_time, totals.refused, totals.dropped) = (tally.count, tally.refused, dropped);
    Ok(totals)
}

pub(super) async fn lifetime(conn: &Conn) -> Result<Lifetime, StoreError> {
    let rows = conn
        .rows("SELECT name, value FROM keyguard_totals", &[])
        .await?;
    let mut lifetime = Lifetime::default();
    for (name, value) in named(&rows)? {
        match name.as_str() {
            DROPPED => lifetime.dropped = value,
            name => set(&mut lifetime.tally, name, value),
        }
    }
    Ok(lifetime)
}

/// Sets a named number.
pub(super) fn set(tally: &mut Tally, name: &str, value: u64) {
    match name {
        "requests" => tally.count.requests = value,
        "errors" => tally.count.errors = value,
        name => {
            let reason = name.strip_prefix(REFUSED).and_then(reason);
            if let Some(place) = reason.and_then(|code| tally.refused.get_mut(code)) {
                *place = value;
            }
        }
    }
}

/// The nonzero numbers by name.
pub(super) fn names(tally: &Tally) -> impl Iterator<Item = (String, u64)> {
    let count = tally.count;
    let counts = [
        ("requests".to_owned(), count.requests),
        ("errors".to_owned(), count.errors),
    ];
    let by_reason = (0..).zip(tally.refused);
    let by_reason = by_reason.map(|(code, value)| (refused(Reason::from_code(code)), value));
    counts
        .into_iter()
        .chain(by_reason)
        .filter(|(_, value)| *value > 0)
}

/// The code of a reason.
fn reason(name: &str) -> Option<usize> {
    let is_named = |code: &usize| {
        let reason = u8::try_from(*code).ok().and_then(Reason::from_code);
        text_of(reason) == name
    };
    (0..Reason::COUNT).find(is_named)
}

fn named(rows: &[Row]) -> Result<Vec<(String, u64)>, StoreError> {
    let named = |row: &Row| Ok((row.try_get(0)?, row.try_get::<_, i64>(1)? as u64));
    rows.iter().map(named).collect()
}

async fn last_hour(conn: &Conn, now: Timestamp) -> Result<Count, StoreError> {
    // The first minute of the hour counts entirely.
    let first = at_second(now.minute().saturating_sub(60) * 60);
    let rows = conn
        .rows(
            "SELECT name, sum(value)::bigint FROM keyguard_minutes \
             WHERE minute BETWEEN $1 AND $2 AND name IN ('requests', 'errors') GROUP BY name",
            &[&first, &now.to_utc()],
        )
        .await?;
    let mut count = Count::default();
    for (name, value) in named(&rows)? {
        match name.as_str() {
            "requests" => count.requests = value,
            _ => count.errors = value,
        }
    }
    Ok(count)
}

pub(super) async fn shadow_denied(conn: &Conn) -> Result<Vec<(String, u64)>, StoreError> {
    let rows = conn
        .rows(
            "SELECT name, value FROM keyguard_shadow_denied ORDER BY name COLLATE \"C\"",
            &[],
        )
        .await?;
    named(&rows)
}

async fn top_keys(
    conn: &Conn,
) -> Result<Vec<(crate::model::Key, crate::model::Org, u64)>, StoreError> {
    let rows = conn
        .rows(
            concat!(
                "SELECT ",
                key_columns!(),
                ", ",
                org_columns!(),
                ", t.requests FROM (SELECT key_id, requests FROM keyguard_key_totals \
                 WHERE requests > 0 ORDER BY requests DESC, key_id LIMIT 10) t \
                 JOIN api_keys k ON k.id = t.key_id JOIN organizations o ON o.id = k.org_id \
                 ORDER BY t.requests DESC, k.id"
            ),
            &[],
        )
        .await?;
    let top = |row: &Row| {
        let requests = row.try_get::<_, i64>(KEY_WIDTH + 6)?;
        Ok((
            rows::key(row, 0)?,
            rows::org(row, KEY_WIDTH)?,
            requests as u64,
        ))
    };
    rows.iter().map(top).collect()
}
