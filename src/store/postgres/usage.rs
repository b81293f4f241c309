//! Raw usage: one row per request, one table per day.

use std::time::Duration;

use tokio_postgres::Row;

use super::conn::Conn;
use super::rows::{at_most, time};
use crate::model::{KeyId, Method, Reason, Usage};
use crate::store::StoreError;
use crate::time::Timestamp;

/// Rows starting at `from`, in recording order.
pub(super) async fn since(
    conn: &Conn,
    key: Option<KeyId>,
    from: Timestamp,
    limit: usize,
) -> Result<Vec<Usage>, StoreError> {
    let (from, limit) = (from.to_utc(), at_most(limit));
    let rows = match key {
        None => {
            conn.rows(
                "SELECT created_at, key_id, method, path, ip, status_code, latency_ms, refused \
                 FROM usage_logs WHERE created_at >= $1 ORDER BY id LIMIT $2",
                &[&from, &limit],
            )
            .await?
        }
        Some(key) => {
            conn.rows(
                "SELECT created_at, key_id, method, path, ip, status_code, latency_ms, refused \
                 FROM usage_logs WHERE created_at >= $1 AND key_id = $3 ORDER BY id LIMIT $2",
                &[&from, &limit, &(key.0 as i64)],
            )
            .await?
        }
    };
    rows.iter().map(usage).collect()
}

/// Reads a row of usage.
pub(super) fn usage(row: &Row) -> Result<Usage, StoreError> {
    let ip = row.try_get::<_, &str>(4)?.parse();
    let status = u16::try_from(row.try_get::<_, i32>(5)?);
    let micros = (row.try_get::<_, f64>(6)? * 1_000.0).round();
    let refused = row.try_get::<_, Option<i16>>(7)?;
    let reason = |code: i16| {
        let reason = u8::try_from(code).ok().and_then(Reason::from_code);
        reason.ok_or_else(|| StoreError::damaged("a row of usage has an unknown reason"))
    };
    Ok(Usage {
        at: time(row.try_get(0)?),
        key_id: Some(KeyId(row.try_get::<_, i64>(1)? as u64)),
        method: Method::from(row.try_get::<_, &str>(2)?),
        path: row.try_get(3)?,
        ip: ip.map_err(|_| StoreError::damaged("a row of usage has no address"))?,
        status: status.map_err(|_| StoreError::damaged("a row of usage has no status"))?,
        latency: Duration::from_micros(micros as u64),
        refused: refused.map(reason).transpose()?,
    })
}
