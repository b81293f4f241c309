//! What is used of calendar quotas and of credits.

use super::conn::Conn;
use super::recording::BalanceRow;
use crate::clock::Timestamp;
use crate::counter::{SavedCounter, SavedValue};
use crate::quota::Balance;
use crate::rule::GroupId;
use crate::store::StoreError;
use crate::store::codec::decode_balance_id;

pub(super) async fn of(conn: &Conn, id: GroupId) -> Result<Vec<SavedCounter>, StoreError> {
    let rows = conn
        .rows(
            "SELECT counter, used, at FROM keyguard_balances WHERE group_id = $1 ORDER BY counter",
            &[&bits(id)],
        )
        .await?;
    let saved = |row: &tokio_postgres::Row| {
        let (used, at): (i64, i64) = (row.try_get(1)?, row.try_get(2)?);
        let at = Timestamp::from_unix_millis(at as u64);
        Ok(SavedCounter {
            id: decode_balance_id(row.try_get(0)?)?,
            value: SavedValue::Balance(Balance::stored(used as u64, at)),
        })
    };
    rows.iter().map(saved).collect()
}

/// Of a balance that several write, the one of the later day, month or refill stands, and of the
/// same the one of which more is used.
pub(super) async fn put(conn: &Conn, balances: &[BalanceRow]) -> Result<(), StoreError> {
    if balances.is_empty() {
        return Ok(());
    }
    let groups: Vec<_> = balances.iter().map(|row| row.group).collect();
    let counters: Vec<_> = balances.iter().map(|row| row.counter.as_slice()).collect();
    let used: Vec<_> = balances.iter().map(|row| row.used).collect();
    let at: Vec<_> = balances.iter().map(|row| row.at).collect();
    conn.run(
        "INSERT INTO keyguard_balances AS b (group_id, counter, used, at) \
         SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::bigint[]) \
         ON CONFLICT (group_id, counter) DO UPDATE SET at = excluded.at, used = \
             CASE WHEN excluded.at = b.at THEN greatest(excluded.used, b.used) \
             ELSE excluded.used END \
         WHERE excluded.at >= b.at",
        &[&groups, &counters, &used, &at],
    )
    .await?;
    Ok(())
}

pub(super) async fn forget(conn: &Conn, ids: &[GroupId]) -> Result<(), StoreError> {
    let ids: Vec<_> = ids.iter().copied().map(bits).collect();
    conn.run(
        "DELETE FROM keyguard_balances WHERE group_id = ANY($1)",
        &[&ids],
    )
    .await?;
    Ok(())
}

/// Those of organizations have the first bit set, and are negative here.
pub(super) fn bits(id: GroupId) -> i64 {
    id.to_bits() as i64
}
