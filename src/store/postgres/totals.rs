//! Totals per key, hour, day and minute, updated when usage is recorded, so that reading them needs
//! no scan.

use std::collections::{BTreeMap, HashSet};

use tokio_postgres::Row;

use super::conn::Conn;
use super::recording::Prepared;
use super::rows::{self, KEY_WIDTH, ORG_WIDTH, at_second, key_columns, org_columns};
use super::total_rows::{Combine, TotalRows};
use crate::model::{Key, KeyId, Org, Reason};
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
    note_last_uses(conn, &batch.totals.keys).await?;
    let shadow_denied = with_known_names(conn, &batch.shadow_denied).await?;
    let rows = TotalRows::of_batch(&batch.totals, batch.dropped, shadow_denied);
    rows.write(conn, Combine::Add).await
}

async fn note_last_uses(conn: &Conn, keys: &[(KeyId, KeyTotals)]) -> Result<(), StoreError> {
    let uses = keys.iter().filter_map(|(key, totals)| {
        let at = totals.last_used_at?;
        Some((key.0 as i64, at.to_utc()))
    });
    let (used, used_at): (Vec<_>, Vec<_>) = uses.unzip();
    if used.is_empty() {
        return Ok(());
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
    Ok(())
}

/// Returns the counts by the names under which they are stored, whose number is bounded.
async fn with_known_names(
    conn: &Conn,
    shadow_denied: &BTreeMap<String, u64>,
) -> Result<BTreeMap<String, u64>, StoreError> {
    let mut counts = BTreeMap::new();
    if shadow_denied.is_empty() {
        return Ok(counts);
    }
    let sql = "SELECT name FROM keyguard_shadow_denied";
    let known = conn.rows(sql, &[]).await?;
    let known = known.iter().map(|row| row.try_get(0));
    let mut known = known.collect::<Result<HashSet<String>, _>>()?;
    for (name, count) in shadow_denied {
        let name = shadow_name(name, known.contains(name), known.len() as u64);
        known.insert(name.to_owned());
        *counts.entry(name.to_owned()).or_default() += count;
    }
    Ok(counts)
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

async fn top_keys(conn: &Conn) -> Result<Vec<(Key, Org, u64)>, StoreError> {
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
        let requests = row.try_get::<_, i64>(KEY_WIDTH + ORG_WIDTH)?;
        Ok((
            rows::key(row, 0)?,
            rows::org(row, KEY_WIDTH)?,
            requests as u64,
        ))
    };
    rows.iter().map(top).collect()
}
