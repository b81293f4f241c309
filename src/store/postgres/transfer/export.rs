//! Reading a page of an export.

use tokio_postgres::Row;

use crate::model::{KeyId, OrgId};
use crate::store::postgres::conn::{Conn, Params};
use crate::store::postgres::rows::{at_second, time};
use crate::store::postgres::{counters, credentials, locks, manage, totals};
use crate::store::transfer::{
    LastIds, PAGE_ROWS, PageCursor, RowId, Stage, TransferKey, TransferPage, last_if_full,
};
use crate::store::{Count, StoreError, Tally};

const LIMIT: i64 = PAGE_ROWS as i64;

/// The last row of a page; `None` if no rows follow.
type Last = Option<RowId>;

pub(in crate::store::postgres) async fn page(
    conn: &Conn,
    cursor: PageCursor,
) -> Result<TransferPage, StoreError> {
    let mut page = TransferPage::default();
    let after = cursor.after;
    let last = match cursor.stage {
        Stage::Orgs => orgs(conn, after, &mut page).await?,
        Stage::Keys => keys(conn, after, &mut page).await?,
        Stage::KeyTotals => key_totals(conn, after, &mut page).await?,
        Stage::KeyHours => key_hours(conn, after, &mut page).await?,
        Stage::KeyDays => key_days(conn, after, &mut page).await?,
        Stage::Minutes => minutes(conn, after, &mut page).await?,
        Stage::Balances => balances(conn, after, &mut page).await?,
        Stage::Rest => rest(conn, &mut page).await?,
    };
    page.next = cursor.next(last);
    Ok(page)
}

async fn orgs(conn: &Conn, after: Last, page: &mut TransferPage) -> Result<Last, StoreError> {
    page.orgs = manage::orgs(conn, after.map(|(id, _)| OrgId(id)), PAGE_ROWS).await?;
    Ok(last_if_full(&page.orgs, |org| (org.id.0, 0)))
}

async fn keys(conn: &Conn, after: Last, page: &mut TransferPage) -> Result<Last, StoreError> {
    let keys = manage::keys(conn, None, after.map(|(id, _)| KeyId(id)), PAGE_ROWS).await?;
    let ids: Vec<_> = keys.iter().map(|key| key.id.0 as i64).collect();
    // Both are in key order.
    let all = credentials::of_keys(conn, &ids).await?;
    let mut all = all.into_iter().peekable();
    for key in keys {
        let of_key = std::iter::from_fn(|| all.next_if(|credential| credential.key_id == key.id));
        let credentials = of_key.collect();
        page.keys.push(TransferKey { key, credentials });
    }
    Ok(last_if_full(&page.keys, |transfer| (transfer.key.id.0, 0)))
}

async fn key_totals(conn: &Conn, after: Last, page: &mut TransferPage) -> Result<Last, StoreError> {
    let rows = conn
        .rows(
            "SELECT key_id, requests, errors FROM keyguard_key_totals WHERE key_id > $1 \
             ORDER BY key_id LIMIT $2",
            &[&after.map_or(0, |(id, _)| id as i64), &LIMIT],
        )
        .await?;
    let total = |row: &Row| Ok((key_id(row, 0)?, count(row, 1)?));
    page.key_totals = rows.iter().map(total).collect::<Result<_, StoreError>>()?;
    Ok(last_if_full(&page.key_totals, |(key, _)| (key.0, 0)))
}

/// Selects counts of keys per period; `$period` is the column of its start.
macro_rules! select_periods {
    ($table:literal, $period:literal) => {
        concat!(
            "SELECT key_id, requests, errors, ",
            $period,
            " FROM ",
            $table,
            " WHERE (",
            $period,
            ", key_id) > ($1, $2) ORDER BY ",
            $period,
            ", key_id LIMIT $3"
        )
    };
}

async fn key_hours(conn: &Conn, after: Last, page: &mut TransferPage) -> Result<Last, StoreError> {
    let sql = select_periods!("keyguard_key_hours", "hour");
    page.key_hours = periods(conn, sql, after, 3_600).await?;
    Ok(last_if_full(&page.key_hours, period_id))
}

async fn key_days(conn: &Conn, after: Last, page: &mut TransferPage) -> Result<Last, StoreError> {
    let sql = select_periods!("keyguard_key_days", "day");
    page.key_days = periods(conn, sql, after, 86_400).await?;
    Ok(last_if_full(&page.key_days, period_id))
}

/// Reads counts per period of a number of seconds.
async fn periods(
    conn: &Conn,
    sql: &'static str,
    after: Last,
    seconds: u64,
) -> Result<Vec<(KeyId, u64, Count)>, StoreError> {
    let (period, key) = after.unwrap_or_default();
    let params: Params<'_> = &[&at_second(period * seconds), &(key as i64), &LIMIT];
    let rows = conn.rows(sql, params).await?;
    let read = |row: &Row| {
        let start = time(row.try_get(3)?).unix_millis() / 1_000;
        Ok((key_id(row, 0)?, start / seconds, count(row, 1)?))
    };
    rows.iter().map(read).collect()
}

fn period_id((key, period, _): &(KeyId, u64, Count)) -> RowId {
    (*period, key.0)
}

async fn minutes(conn: &Conn, after: Last, page: &mut TransferPage) -> Result<Last, StoreError> {
    let first = after.map_or(0, |(minute, _)| minute + 1);
    let rows = conn
        .rows(
            "SELECT minute, name, value FROM keyguard_minutes \
             WHERE minute IN (SELECT DISTINCT minute FROM keyguard_minutes WHERE minute >= $1 \
                              ORDER BY minute LIMIT $2) ORDER BY minute",
            &[&at_second(first * 60), &LIMIT],
        )
        .await?;
    let minutes = &mut page.minutes;
    for row in &rows {
        let minute = time(row.try_get(0)?).minute();
        if minutes.last().is_none_or(|(last, _)| *last != minute) {
            minutes.push((minute, Tally::default()));
        }
        if let Some((_, tally)) = minutes.last_mut() {
            totals::set(tally, row.try_get(1)?, row.try_get::<_, i64>(2)? as u64);
        }
    }
    Ok(last_if_full(minutes, |(minute, _)| (*minute, 0)))
}

async fn balances(conn: &Conn, after: Last, page: &mut TransferPage) -> Result<Last, StoreError> {
    let after = after.map(|(subject, _)| subject as i64);
    page.balances = counters::page(conn, after, LIMIT).await?;
    Ok(last_if_full(&page.balances, |(subject, _)| {
        (subject.to_bits(), 0)
    }))
}

async fn rest(conn: &Conn, page: &mut TransferPage) -> Result<Last, StoreError> {
    let ids = conn
        .one("SELECT last_org_id, last_key_id FROM keyguard_state", &[])
        .await?;
    page.last_ids = Some(LastIds {
        org: ids.try_get::<_, i64>(0)? as u64,
        key: ids.try_get::<_, i64>(1)? as u64,
    });
    page.lifetime = Some(totals::lifetime(conn).await?);
    page.shadow_denied = totals::shadow_denied(conn).await?;
    page.locks = locks::all(conn).await?;
    Ok(None)
}

fn key_id(row: &Row, at: usize) -> Result<KeyId, StoreError> {
    Ok(KeyId(row.try_get::<_, i64>(at)? as u64))
}

/// Reads requests and errors, starting at a column.
fn count(row: &Row, at: usize) -> Result<Count, StoreError> {
    Ok(Count {
        requests: row.try_get::<_, i64>(at)? as u64,
        errors: row.try_get::<_, i64>(at + 1)? as u64,
    })
}
