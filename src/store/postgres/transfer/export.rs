//! Reading a page of what moves.

use tokio_postgres::Row;

use crate::model::{KeyId, OrgId};
use crate::store::postgres::conn::Conn;
use crate::store::postgres::rows::time;
use crate::store::postgres::totals::{self, at_second};
use crate::store::postgres::{counters, credentials, locks, manage};
use crate::store::transfer::{LastIds, MovedKey, PageCursor, Tally, TransferPage};
use crate::store::{Count, StoreError};

/// So many rows make a page.
const PAGE: usize = 4_096;
const LIMIT: i64 = PAGE as i64;

/// Behind which row of a stage; `None` for its start.
type After = Option<(u64, u64)>;

/// Stages are read one after the other: organizations before their keys, and keys before what is
/// counted for them.
pub(in crate::store::postgres) async fn page(
    conn: &Conn,
    PageCursor { stage, after }: PageCursor,
) -> Result<TransferPage, StoreError> {
    let mut page = TransferPage::default();
    let last = match stage {
        0 => orgs(conn, after, &mut page).await?,
        1 => keys(conn, after, &mut page).await?,
        2 => key_totals(conn, after, &mut page).await?,
        3 => key_hours(conn, after, &mut page).await?,
        4 => key_days(conn, after, &mut page).await?,
        5 => minutes(conn, after, &mut page).await?,
        6 => balances(conn, after, &mut page).await?,
        _ => {
            rest(conn, &mut page).await?;
            return Ok(page);
        }
    };
    page.next = Some(PageCursor {
        stage: stage + u8::from(last.is_none()),
        after: last,
    });
    Ok(page)
}

/// Where the last row is, if there may be more.
fn last_of<T>(page: &[T], place: impl FnOnce(&T) -> (u64, u64)) -> After {
    page.last().filter(|_| page.len() == PAGE).map(place)
}

async fn orgs(conn: &Conn, after: After, page: &mut TransferPage) -> Result<After, StoreError> {
    page.orgs = manage::orgs(conn, after.map(|(id, _)| OrgId(id)), PAGE).await?;
    Ok(last_of(&page.orgs, |org| (org.id.0, 0)))
}

async fn keys(conn: &Conn, after: After, page: &mut TransferPage) -> Result<After, StoreError> {
    let keys = manage::keys(conn, None, after.map(|(id, _)| KeyId(id)), PAGE).await?;
    let ids: Vec<_> = keys.iter().map(|key| key.id.0 as i64).collect();
    // Both come in the order of the keys.
    let all = credentials::of_keys(conn, &ids).await?;
    let mut all = all.into_iter().peekable();
    for key in keys {
        let of_key = std::iter::from_fn(|| all.next_if(|credential| credential.key_id == key.id));
        let credentials = of_key.collect();
        page.keys.push(MovedKey { key, credentials });
    }
    Ok(last_of(&page.keys, |moved| (moved.key.id.0, 0)))
}

async fn key_totals(
    conn: &Conn,
    after: After,
    page: &mut TransferPage,
) -> Result<After, StoreError> {
    let rows = conn
        .rows(
            "SELECT key_id, requests, errors FROM keyguard_key_totals WHERE key_id > $1 \
             ORDER BY key_id LIMIT $2",
            &[&after.map_or(0, |(id, _)| id as i64), &LIMIT],
        )
        .await?;
    let total = |row: &Row| Ok((key_id(row, 0)?, count(row, 1)?));
    page.key_totals = rows.iter().map(total).collect::<Result<_, StoreError>>()?;
    Ok(last_of(&page.key_totals, |(key, _)| (key.0, 0)))
}

async fn key_hours(
    conn: &Conn,
    after: After,
    page: &mut TransferPage,
) -> Result<After, StoreError> {
    let (hour, key) = after.unwrap_or_default();
    let rows = conn
        .rows(
            "SELECT key_id, requests, errors, hour FROM keyguard_key_hours \
             WHERE (hour, key_id) > ($1, $2) ORDER BY hour, key_id LIMIT $3",
            &[&at_second(hour * 3_600), &(key as i64), &LIMIT],
        )
        .await?;
    let hour = |row: &Row| {
        Ok((
            key_id(row, 0)?,
            time(row.try_get(3)?).hour(),
            count(row, 1)?,
        ))
    };
    page.key_hours = rows.iter().map(hour).collect::<Result<_, StoreError>>()?;
    Ok(last_of(&page.key_hours, |(key, hour, _)| (*hour, key.0)))
}

async fn key_days(conn: &Conn, after: After, page: &mut TransferPage) -> Result<After, StoreError> {
    let (day, key) = after.unwrap_or_default();
    let rows = conn
        .rows(
            "SELECT key_id, requests, errors, day FROM keyguard_key_days \
             WHERE (day, key_id) > ($1, $2) ORDER BY day, key_id LIMIT $3",
            &[&at_second(day * 86_400), &(key as i64), &LIMIT],
        )
        .await?;
    let day = |row: &Row| {
        let day = time(row.try_get(3)?).hour() / 24;
        Ok((key_id(row, 0)?, day, count(row, 1)?))
    };
    page.key_days = rows.iter().map(day).collect::<Result<_, StoreError>>()?;
    Ok(last_of(&page.key_days, |(key, day, _)| (*day, key.0)))
}

async fn minutes(conn: &Conn, after: After, page: &mut TransferPage) -> Result<After, StoreError> {
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
    Ok(last_of(minutes, |(minute, _)| (*minute, 0)))
}

async fn balances(conn: &Conn, after: After, page: &mut TransferPage) -> Result<After, StoreError> {
    let after = after.map(|(group, _)| group as i64);
    page.balances = counters::page(conn, after, LIMIT).await?;
    Ok(last_of(&page.balances, |(group, _)| (group.to_bits(), 0)))
}

/// What is bounded: in one page.
async fn rest(conn: &Conn, page: &mut TransferPage) -> Result<(), StoreError> {
    let ids = conn
        .one("SELECT last_org_id, last_key_id FROM keyguard_state", &[])
        .await?;
    page.last_ids = Some(LastIds {
        org: ids.try_get::<_, i64>(0)? as u64,
        key: ids.try_get::<_, i64>(1)? as u64,
    });
    page.lifetime = Some(totals::lifetime(conn).await?);
    page.shadowed = totals::shadowed(conn).await?;
    page.locks = locks::all(conn).await?;
    Ok(())
}

fn key_id(row: &Row, at: usize) -> Result<KeyId, StoreError> {
    Ok(KeyId(row.try_get::<_, i64>(at)? as u64))
}

/// Requests and errors, from this column on.
fn count(row: &Row, at: usize) -> Result<Count, StoreError> {
    Ok(Count {
        requests: row.try_get::<_, i64>(at)? as u64,
        errors: row.try_get::<_, i64>(at + 1)? as u64,
    })
}
