//! The feed: changes of other nodes, read from the table of changes.

use std::collections::BTreeSet;

use tokio_postgres::Row;

use super::conn::Conn;
use super::{locks, rows};
use crate::lockout::LockId;
use crate::model::{KeyId, OrgId};
use crate::store::codec::decode_lock_key;
use crate::store::{ChangeEvent, StoreError};
use crate::time::Timestamp;

/// An entry of the feed: a row of the table of changes.
#[derive(Clone, Debug)]
pub(super) enum FeedEntry {
    /// A new key or organization.
    Created,
    Key(KeyId),
    Org(OrgId),
    Lock(LockId),
}

impl FeedEntry {
    pub(super) fn lock(&self) -> Option<&LockId> {
        match self {
            Self::Lock(id) => Some(id),
            _ => None,
        }
    }
}

/// The changes up to a generation.
pub(super) struct FeedPage {
    pub(super) generation: i64,
    pub(super) changes: Vec<ChangeEvent>,
    /// Whether absent keys may exist now.
    pub(super) is_any: bool,
    /// The server process that returned them.
    pub(super) backend: i32,
    /// Calendar time of the server.
    pub(super) time: Timestamp,
}

/// Reads the changes after a generation, without those that `is_own` excludes, and some locks in any case. Begins
/// with [`ChangeEvent::Everything`] and all locks if they are no longer listed, if no generation is
/// given, or if requested.
pub(super) async fn read(
    conn: &Conn,
    after: Option<i64>,
    is_own: impl Fn(i64) -> bool,
    locks: BTreeSet<LockId>,
    wanted: bool,
) -> Result<FeedPage, StoreError> {
    let rows = conn
        .rows(
            "SELECT s.generation, s.forgotten, c.generation, c.kind, c.subject, c.lock, \
                 pg_backend_pid(), clock_timestamp() \
             FROM keyguard_state s LEFT JOIN keyguard_changes c ON c.generation > $1 \
             ORDER BY c.generation, c.number",
            &[&after.unwrap_or(i64::MAX)],
        )
        .await?;
    let Some(first) = rows.first() else {
        return Err(StoreError::damaged("the row of the state table is missing"));
    };
    let (generation, forgotten): (i64, i64) = (first.try_get(0)?, first.try_get(1)?);
    let (backend, time) = (first.try_get(6)?, rows::time(first.try_get(7)?));
    let is_listed = after.is_some_and(|after| forgotten <= after && after <= generation);
    let mut changes = Vec::new();
    if wanted || !is_listed {
        changes.push(ChangeEvent::Everything);
        let (locks, except) = (locks::all(conn).await?, Vec::new());
        changes.push(ChangeEvent::AllLocks { locks, except });
    }
    if is_listed {
        changes.extend(listed(conn, &rows, is_own, locks).await?);
    }
    Ok(FeedPage {
        generation,
        changes,
        is_any: wanted || !is_listed || rows.iter().any(concerns_keys),
        backend,
        time,
    })
}

/// Locks do not affect the negative cache.
fn concerns_keys(row: &Row) -> bool {
    let kind = row.try_get::<_, Option<&str>>(3);
    kind.is_ok_and(|kind| kind.is_some_and(|kind| kind != "lock"))
}

async fn listed(
    conn: &Conn,
    rows: &[Row],
    is_own: impl Fn(i64) -> bool,
    mut locks: BTreeSet<LockId>,
) -> Result<Vec<ChangeEvent>, StoreError> {
    let mut changes = Vec::new();
    for row in rows {
        let Some(generation) = row.try_get::<_, Option<i64>>(2)? else {
            continue;
        };
        if is_own(generation) {
            continue;
        }
        match decode_entry(row)? {
            FeedEntry::Created => {}
            FeedEntry::Key(id) => changes.push(ChangeEvent::Key(id)),
            FeedEntry::Org(id) => changes.push(ChangeEvent::Org(id)),
            FeedEntry::Lock(id) => {
                locks.insert(id);
            }
        }
    }
    if !locks.is_empty() {
        changes.push(ChangeEvent::Locks(locks::current(conn, locks).await?));
    }
    Ok(changes)
}

fn decode_entry(row: &Row) -> Result<FeedEntry, StoreError> {
    let unknown = || StoreError::damaged("a change has an unknown kind");
    let subject = || {
        let subject = row.try_get::<_, Option<i64>>(4)?;
        subject.map(|id| id as u64).ok_or_else(unknown)
    };
    Ok(match row.try_get(3)? {
        "created" => FeedEntry::Created,
        "key" => FeedEntry::Key(KeyId(subject()?)),
        "org" => FeedEntry::Org(OrgId(subject()?)),
        "lock" => {
            let id = row.try_get::<_, Option<&[u8]>>(5)?;
            FeedEntry::Lock(id.and_then(decode_lock_key).ok_or_else(unknown)?)
        }
        _ => return Err(unknown()),
    })
}

/// Adds entries under a generation and notifies other nodes.
pub(super) async fn publish(
    conn: &Conn,
    generation: i64,
    entries: &[FeedEntry],
) -> Result<(), StoreError> {
    let mut kinds = Vec::with_capacity(entries.len());
    let mut subjects = Vec::with_capacity(entries.len());
    let mut locks = Vec::with_capacity(entries.len());
    for entry in entries {
        let (kind, subject, lock) = match entry {
            FeedEntry::Created => ("created", None, None),
            FeedEntry::Key(id) => ("key", Some(id.0 as i64), None),
            FeedEntry::Org(id) => ("org", Some(id.0 as i64), None),
            FeedEntry::Lock(id) => ("lock", None, Some(crate::store::codec::lock_key(id))),
        };
        kinds.push(kind);
        subjects.push(subject);
        locks.push(lock);
    }
    conn.run(
        "INSERT INTO keyguard_changes (generation, number, kind, subject, lock) \
         SELECT $1, number, kind, subject, lock \
         FROM unnest($2::text[], $3::bigint[], $4::bytea[]) \
             WITH ORDINALITY AS entries (kind, subject, lock, number)",
        &[&generation, &kinds, &subjects, &locks],
    )
    .await?;
    conn.run("SELECT pg_notify('keyguard', '')", &[]).await?;
    Ok(())
}
