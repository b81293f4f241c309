//! Locks.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Row;

use super::conn::Conn;
use super::rows;
use crate::lockout::{Lock, LockChange, LockId};
use crate::store::StoreError;
use crate::store::codec::{decode_lock, encode_lock, lock_key};
use crate::time::Timestamp;

pub(super) async fn all(conn: &Conn) -> Result<Vec<Lock>, StoreError> {
    let rows = conn
        .rows("SELECT id, lock FROM keyguard_locks ORDER BY id", &[])
        .await?;
    rows.iter().map(lock).collect()
}

fn lock(row: &Row) -> Result<Lock, StoreError> {
    decode_lock(row.try_get(0)?, row.try_get(1)?)
}

/// Reads locks by id.
pub(super) async fn current(
    conn: &Conn,
    ids: BTreeSet<LockId>,
) -> Result<Vec<LockChange>, StoreError> {
    let names: Vec<_> = ids.iter().map(lock_key).collect();
    let rows = conn
        .rows(
            "SELECT id, lock FROM keyguard_locks WHERE id = ANY($1)",
            &[&names],
        )
        .await?;
    let locks = rows.iter().map(lock).collect::<Result<Vec<_>, _>>()?;
    let change = |id: LockId| LockChange {
        lock: locks.iter().find(|lock| lock.id() == id).cloned(),
        id,
    };
    Ok(ids.into_iter().map(change).collect())
}

pub(super) async fn change(conn: &Conn, changes: &[LockChange]) -> Result<(), StoreError> {
    // The last change of a lock wins.
    let mut last = BTreeMap::new();
    for LockChange { id, lock } in changes {
        last.insert(lock_key(id), lock.as_ref());
    }
    let (mut ids, mut rows) = (Vec::new(), Vec::new());
    let (mut ips, mut ends) = (Vec::new(), Vec::new());
    let mut gone = Vec::new();
    for (id, lock) in last {
        let Some(lock) = lock else {
            gone.push(id);
            continue;
        };
        ids.push(id);
        rows.push(encode_lock(lock)?);
        ips.push(lock.ip.to_string());
        ends.push(lock.until.to_utc());
    }
    conn.run(
        "INSERT INTO keyguard_locks (id, lock, ip, until) \
         SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::text[], $4::timestamptz[]) \
         ON CONFLICT (id) DO UPDATE SET lock = excluded.lock, until = excluded.until",
        &[&ids, &rows, &ips, &ends],
    )
    .await?;
    conn.run("DELETE FROM keyguard_locks WHERE id = ANY($1)", &[&gone])
        .await?;
    Ok(())
}

/// Like [`change`], but joins each lock with the stored one, which another node may have changed.
pub(super) async fn join(
    conn: &Conn,
    changes: &[LockChange],
    now: Timestamp,
) -> Result<(), StoreError> {
    let there = lasting(conn, changes, now).await?;
    change(conn, &joined(changes.iter(), &there)).await
}

/// Like [`join`], for ended locks: deletes them unless another node has renewed them.
pub(super) async fn join_or_end(
    conn: &Conn,
    changes: &[LockChange],
    now: Timestamp,
) -> Result<(), StoreError> {
    let there = lasting(conn, changes, now).await?;
    let is_meant = |change: &&LockChange| change.lock.is_some() || !there.contains_key(&change.id);
    change(conn, &joined(changes.iter().filter(is_meant), &there)).await
}

fn joined<'a>(
    changes: impl Iterator<Item = &'a LockChange>,
    there: &BTreeMap<LockId, Lock>,
) -> Vec<LockChange> {
    let joined = changes.cloned().map(|LockChange { id, lock }| LockChange {
        lock: match (lock, there.get(&id)) {
            (Some(lock), Some(there)) => Some(lock.joined(there)),
            (lock, _) => lock,
        },
        id,
    });
    joined.collect()
}

/// The stored locks among the changed ones that have not ended.
async fn lasting(
    conn: &Conn,
    changes: &[LockChange],
    now: Timestamp,
) -> Result<BTreeMap<LockId, Lock>, StoreError> {
    // Also by the server's clock, because the clock of this process may be ahead.
    let now = now.min(rows::server_time(conn).await?);
    let ids = changes.iter().map(|change| change.id.clone());
    let there = current(conn, ids.collect()).await?.into_iter();
    let there = there.filter_map(|there| {
        let mut lock = there.lock?;
        // A lock that lies ahead would outlast the corrected one.
        lock.bring_back(now);
        let lasts = now < lock.until.max(lock.remembered_until);
        lasts.then_some((there.id, lock))
    });
    Ok(there.collect())
}
