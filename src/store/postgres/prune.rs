//! Retention. Concurrent calls are serialized.

use tokio_postgres::error::SqlState;

use super::conn::Conn;
use super::rows::at_second;
use super::server_error::cause;
use super::{recording, rows};
use crate::store::{IdempotencyKey, StoreError, retention};
use crate::time::Timestamp;

/// Deletes rows and returns the days whose tables are due. Locks tables in the order in which usage is
/// recorded.
pub(super) async fn delete(
    conn: &Conn,
    raw_before: Timestamp,
    now: Timestamp,
) -> Result<Vec<u64>, StoreError> {
    if !is_alone(conn).await? {
        return Ok(Vec::new());
    }
    // Ended by both clocks, because the clock of this process may be wrong.
    let ahead = now.since(rows::server_time(conn).await?);
    let (raw_before, now) = (raw_before.minus(ahead).to_utc(), now.minus(ahead));
    conn.run(
        "DELETE FROM usage_logs_default WHERE created_at < $1",
        &[&raw_before],
    )
    .await?;
    // A bounded number, so that other nodes do not wait long.
    let most = i64::from(retention::MOST_PRUNED);
    conn.run(
        "DELETE FROM keyguard_key_hours WHERE (hour, key_id) IN (SELECT hour, key_id \
         FROM keyguard_key_hours WHERE hour < $1 ORDER BY hour, key_id LIMIT $2)",
        &[&at_second(retention::first_hour(now) * 3_600), &most],
    )
    .await?;
    conn.run(
        "DELETE FROM keyguard_minutes WHERE minute < $1",
        &[&at_second(retention::first_minute(now) * 60)],
    )
    .await?;
    conn.run(
        "DELETE FROM keyguard_completed_requests \
         WHERE name IN (SELECT name FROM keyguard_completed_requests \
         WHERE at <= $1 OR at > $2 ORDER BY at LIMIT $3)",
        &[
            &now.minus(IdempotencyKey::KEPT).to_utc(),
            &now.plus(IdempotencyKey::KEPT).to_utc(),
            &most,
        ],
    )
    .await?;
    conn.run(
        "DELETE FROM keyguard_batches WHERE written_at < now() - interval '7 days'",
        &[],
    )
    .await?;
    due_days(conn, raw_before).await
}

async fn is_alone(conn: &Conn) -> Result<bool, StoreError> {
    let row = conn
        .one(
            "SELECT pg_try_advisory_xact_lock(hashtext('keyguard pruning'))",
            &[],
        )
        .await?;
    Ok(row.try_get(0)?)
}

/// Deletes changes, but those of the last hour and at least 10,000. Nodes further behind treat everything
/// as changed.
///
/// In a transaction without [`delete`]: administrative changes lock the state first, then rows that
/// `delete` locks.
pub(super) async fn forget_changes(conn: &Conn) -> Result<(), StoreError> {
    if !is_alone(conn).await? {
        return Ok(());
    }
    let forgotten = conn
        .rows(
            "DELETE FROM keyguard_changes WHERE changed_at < now() - interval '1 hour' \
             AND generation <= (SELECT generation - 10000 FROM keyguard_state) \
             RETURNING generation",
            &[],
        )
        .await?;
    let mut last = 0_i64;
    for row in &forgotten {
        last = last.max(row.try_get(0)?);
    }
    if last > 0 {
        conn.run(
            "UPDATE keyguard_state SET forgotten = greatest(forgotten, $1)",
            &[&last],
        )
        .await?;
    }
    Ok(())
}

async fn due_days(conn: &Conn, raw_before: time::OffsetDateTime) -> Result<Vec<u64>, StoreError> {
    let tables = conn
        .rows(
            "SELECT relname::text FROM pg_inherits JOIN pg_class ON oid = inhrelid \
             WHERE inhparent = 'usage_logs'::regclass",
            &[],
        )
        .await?;
    let before = Timestamp::from_utc(raw_before).hour() / 24;
    let mut due = Vec::new();
    for row in &tables {
        let name: &str = row.try_get(0)?;
        due.extend(day_of(name).filter(|day| *day < before));
    }
    Ok(due)
}

/// The day of a usage table, in days since the Unix epoch.
fn day_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("usage_logs_")?;
    let (year, month, day) = (digits.get(..4)?, digits.get(4..6)?, digits.get(6..)?);
    let start: Timestamp = format!("{year}-{month}-{day}T00:00:00Z").parse().ok()?;
    Some(start.hour() / 24)
}

/// Drops the table of a day. If it is in use, the next run retries.
pub(super) async fn drop_day(conn: &Conn, day: u64) -> Result<(), StoreError> {
    if !is_alone(conn).await? {
        return Ok(());
    }
    let table = recording::name_of(day);
    conn.batch(&format!(
        "SET LOCAL lock_timeout = '1s'; DROP TABLE IF EXISTS {table}"
    ))
    .await?;
    Ok(())
}

/// Whether a table is in use.
pub(super) fn is_in_use(error: &StoreError) -> bool {
    cause(error).is_some_and(|why| why.is(&SqlState::LOCK_NOT_AVAILABLE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_known_by_its_day() {
        for day in [0, 59, 20_469, 40_000] {
            assert_eq!(day_of(&recording::name_of(day)), Some(day));
        }
        for name in [
            "usage_logs_default",
            "usage_logs_20270230",
            "usage_logs_2027",
        ] {
            assert_eq!(day_of(name), None, "{name}");
        }
    }
}
