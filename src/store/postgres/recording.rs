//! Usage batches: aggregated by the node, each written in one transaction.
//!
//! Nodes write concurrently. All of them lock tables in the order used here, and rows in key order,
//! to avoid deadlocks.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use time::OffsetDateTime;

use super::audit::CommitTurn;
use super::conn::Conn;
use super::copy::CopyRows;
use super::counters::{self, BalanceRow};
use super::feed::FeedEntry;
use super::{locks, totals};
use crate::lockout::LockChange;
use crate::store::batch_id::BatchId;
use crate::store::totals::BatchTotals;
use crate::store::{StoreError, UsageBatch};
use crate::time::Timestamp;

/// An aggregated batch, sorted by the keys of the tables.
pub(super) struct Prepared {
    /// `None` if there are only balances.
    pub(super) id: Option<BatchId>,
    rows: Option<Bytes>,
    /// The days of the rows, in days since the Unix epoch.
    pub(super) days: BTreeSet<u64>,
    pub(super) totals: BatchTotals,
    pub(super) dropped: u64,
    pub(super) shadow_denied: BTreeMap<String, u64>,
    balances: Vec<BalanceRow>,
    locks: Vec<LockChange>,
    now: Timestamp,
}

impl Prepared {
    pub(super) fn new(batch: &UsageBatch, id: Option<BatchId>) -> Result<Self, StoreError> {
        let mut shadow_denied = BTreeMap::new();
        for (name, count) in &batch.shadow_denied {
            *shadow_denied.entry(name.clone()).or_default() += count;
        }
        let has_rows = !batch.has_rows_elsewhere && !batch.events.is_empty();
        let days = batch.events.iter().filter(|_| has_rows);
        Ok(Self {
            id,
            rows: has_rows.then(|| copy_rows(batch)),
            days: days.map(|event| event.at.hour() / 24).collect(),
            totals: BatchTotals::new(batch),
            dropped: batch.dropped,
            shadow_denied,
            balances: counters::as_rows(&batch.balances)?,
            locks: batch.locks.clone(),
            now: batch.now,
        })
    }
}

fn copy_rows(batch: &UsageBatch) -> Bytes {
    let mut rows = CopyRows::default();
    for (event, path) in batch.events_with_paths() {
        rows.push(event, path);
    }
    rows.finish()
}

/// Writes a batch, unless it is stored already. Returns the turn of changed locks, if any.
pub(super) async fn write(conn: &Conn, batch: &Prepared) -> Result<Option<CommitTurn>, StoreError> {
    // First, in the same order as administrative changes, which lock rows of keys later.
    let mut turn = match batch.locks.is_empty() {
        true => None,
        false => Some(CommitTurn::take(conn).await?),
    };
    let is_counted = is_counted(conn, batch.id).await?;
    if let Some(turn) = &mut turn {
        if !is_counted {
            locks::join_or_end(conn, &batch.locks, batch.now).await?;
        }
        let ids = batch.locks.iter().map(|change| change.id.clone());
        turn.entries.extend(ids.map(FeedEntry::Lock));
        turn.end(conn).await?;
    }
    if !is_counted {
        if let Some(rows) = &batch.rows {
            conn.copy(
                "COPY usage_logs (key_id, path, method, status_code, latency_ms, ip, created_at, \
                 refused) FROM STDIN BINARY",
                rows.clone(),
            )
            .await?;
        }
        totals::add(conn, batch).await?;
    }
    counters::put(conn, &batch.balances).await?;
    // Otherwise this node, too, reads what has become of the locks since they were stored.
    Ok(turn.filter(|_| !is_counted))
}

/// Whether a batch is already stored, because its commit succeeded without an acknowledgement.
/// Waits for an undecided transaction.
async fn is_counted(conn: &Conn, id: Option<BatchId>) -> Result<bool, StoreError> {
    let Some(BatchId { node, sequence }) = id else {
        return Ok(false);
    };
    let inserted = conn
        .run(
            "INSERT INTO keyguard_batches (node, sequence) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            &[&node.as_slice(), &sequence],
        )
        .await?;
    Ok(inserted == 0)
}

/// Adds the table of a day, unless the tables are locked for more than a moment, since others would
/// queue behind this. If the default table already has rows of that day, they stay there.
pub(super) async fn add_day(conn: &Conn, day: u64) -> Result<(), StoreError> {
    let (start, end) = (start_of(day), start_of(day + 1));
    conn.batch(&format!(
        "SELECT pg_advisory_xact_lock(hashtext('keyguard days')); \
         SET LOCAL lock_timeout = '100ms'; \
         CREATE TABLE IF NOT EXISTS {} PARTITION OF usage_logs \
         FOR VALUES FROM ('{} 00:00+00') TO ('{} 00:00+00')",
        name_of(day),
        start.date(),
        end.date(),
    ))
    .await?;
    Ok(())
}

pub(super) fn name_of(day: u64) -> String {
    let date = start_of(day).date();
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    format!("usage_logs_{year:04}{month:02}{day:02}")
}

fn start_of(day: u64) -> OffsetDateTime {
    Timestamp::from_unix_millis(day * 86_400_000).to_utc()
}
