//! Who is locked out.

use std::collections::BTreeSet;

use tokio_postgres::Row;

use super::conn::Conn;
use crate::lockout::{Lock, LockChange, LockId};
use crate::store::StoreError;
use crate::store::codec::{decode_lock, encode_lock, lock_key};

pub(super) async fn all(conn: &Conn) -> Result<Vec<Lock>, StoreError> {
    let rows = conn
        .rows("SELECT id, lock FROM keyguard_locks ORDER BY id", &[])
        .await?;
    rows.iter().map(lock).collect()
}

fn lock(row: &Row) -> Result<Lock, StoreError> {
    decode_lock(row.try_get(0)?, row.try_get(1)?)
}

/// Some locks as they are now.
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
    for LockChange { id, lock } in changes {
        let id = lock_key(id);
        match lock {
            Some(lock) => {
                let (network, until) = (lock.network.to_string(), lock.until.to_utc());
                conn.run(
                    "INSERT INTO keyguard_locks (id, lock, network, until) VALUES ($1, $2, $3, $4) \
                     ON CONFLICT (id) DO UPDATE SET lock = excluded.lock, until = excluded.until",
                    &[&id, &encode_lock(lock)?, &network, &until],
                )
                .await?
            }
            None => {
                conn.run("DELETE FROM keyguard_locks WHERE id = $1", &[&id])
                    .await?
            }
        };
    }
    Ok(())
}
