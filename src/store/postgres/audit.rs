//! The audit log and the order of changes. Each change adds its entry in its own transaction.

use super::conn::Conn;
use super::feed::{self, FeedEntry};
use super::rows::time;
use crate::model::AuditEntry;
use crate::store::{AuditContext, CompletedRequest, StoreError};
use crate::time::Timestamp;

/// The position of a transaction in the order of changes.
pub(super) struct CommitTurn {
    pub(super) generation: i64,
    /// The entries of the feed for other nodes.
    pub(super) entries: Vec<FeedEntry>,
}

impl CommitTurn {
    /// Waits until the transaction that holds the turn has committed, so that generations are in
    /// commit order.
    pub(super) async fn take(conn: &Conn) -> Result<Self, StoreError> {
        let row = conn
            .one(
                "UPDATE keyguard_state SET generation = generation + 1 RETURNING generation",
                &[],
            )
            .await?;
        Ok(Self {
            generation: row.try_get(0)?,
            entries: Vec::new(),
        })
    }

    pub(super) async fn end(&self, conn: &Conn) -> Result<(), StoreError> {
        match self.entries.as_slice() {
            [] => Ok(()),
            entries => feed::publish(conn, self.generation, entries).await,
        }
    }
}

/// Fails if the request with this idempotency key was already completed.
pub(super) async fn begin(conn: &Conn, audit: &AuditContext) -> Result<(), StoreError> {
    let Some(key) = &audit.idempotency_key else {
        return Ok(());
    };
    let row = conn
        .row(
            "SELECT request, subject, at FROM keyguard_completed_requests WHERE name = $1",
            &[&key.name.as_slice()],
        )
        .await?;
    let Some(row) = row else {
        return Ok(());
    };
    let request = row.try_get::<_, &[u8]>(0)?.try_into();
    let completed = CompletedRequest {
        at: time(row.try_get(2)?),
        request: request
            .map_err(|_| StoreError::damaged("a completed request has an invalid hash"))?,
        subject: row.try_get::<_, Option<i64>>(1)?.map(|id| id as u64),
    };
    key.check(&completed, audit.at)
}

/// Adds an entry to the audit log.
pub(super) async fn enter(
    conn: &Conn,
    audit: &AuditContext,
    subject: Option<u64>,
) -> Result<(), StoreError> {
    enter_each(conn, audit, &[subject]).await?;
    if let Some(key) = &audit.idempotency_key {
        conn.run(
            "INSERT INTO keyguard_completed_requests (name, request, subject, at) \
             VALUES ($1, $2, $3, $4) \
             ON CONFLICT (name) DO UPDATE \
             SET request = excluded.request, subject = excluded.subject, at = excluded.at",
            &[
                &key.name.as_slice(),
                &key.request.as_slice(),
                &subject.map(|id| id as i64),
                &audit.at.to_utc(),
            ],
        )
        .await?;
    }
    Ok(())
}

/// Adds one entry per subject.
pub(super) async fn enter_each(
    conn: &Conn,
    audit: &AuditContext,
    subjects: &[Option<u64>],
) -> Result<(), StoreError> {
    let subjects: Vec<_> = subjects.iter().map(|id| id.map(|id| id as i64)).collect();
    // Turns serialize the entries.
    conn.run(
        "INSERT INTO keyguard_audit (id, at, actor, ip, action, subject, details) \
         SELECT (SELECT coalesce(max(id), 0) FROM keyguard_audit) + number, \
             $1, $2, $3, $4, subject, $5 \
         FROM unnest($6::bigint[]) WITH ORDINALITY AS concerned (subject, number)",
        &[
            &audit.at.to_utc(),
            &audit.actor,
            &audit.ip.to_string(),
            &audit.action,
            &audit.details,
            &subjects,
        ],
    )
    .await?;
    Ok(())
}

pub(super) async fn before(
    conn: &Conn,
    id: Option<u64>,
    limit: usize,
) -> Result<Vec<AuditEntry>, StoreError> {
    let below = i64::try_from(id.unwrap_or(u64::MAX)).unwrap_or(i64::MAX);
    let rows = conn
        .rows(
            "SELECT id, at, actor, ip, action, subject, details FROM keyguard_audit \
             WHERE id < $1 ORDER BY id DESC LIMIT $2",
            &[&below, &super::rows::at_most(limit)],
        )
        .await?;
    let entry = |row: &tokio_postgres::Row| {
        let ip: &str = row.try_get(3)?;
        let ip = ip.parse();
        Ok(AuditEntry {
            id: row.try_get::<_, i64>(0)? as u64,
            at: Timestamp::from_utc(row.try_get(1)?),
            actor: row.try_get(2)?,
            ip: ip.map_err(|_| StoreError::damaged("an audit entry has an invalid address"))?,
            action: row.try_get(4)?,
            subject: row.try_get::<_, Option<i64>>(5)?.map(|id| id as u64),
            details: row.try_get(6)?,
        })
    };
    rows.iter().map(entry).collect()
}
