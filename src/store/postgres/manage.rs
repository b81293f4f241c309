//! Organizations and keys.

use futures_util::future::try_join_all;
use tokio_postgres::Row;
use tokio_postgres::types::Json;

use super::audit::CommitTurn;
use super::conn::Conn;
use super::credentials::{self, hex};
use super::feed::FeedEntry;
use super::rows::{self, at_most, key_columns, org_columns};
use crate::input::text;
use crate::model::{HashedKey, Key, KeyId, Org, OrgId, OrgStatus};
use crate::store::{KeyChange, NewCredential, NewKey, OrgChange, Rotation, StoreError, changes};
use crate::time::Timestamp;

/// Number of rows in flight.
const MANY: usize = 256;

pub(super) async fn create_org(
    conn: &Conn,
    turn: &mut CommitTurn,
    name: &str,
    at: Timestamp,
) -> Result<Org, StoreError> {
    match org_named(conn, name).await {
        Err(StoreError::NoOrgNamed(_)) => {}
        Ok(_) => return Err(StoreError::DuplicateOrg(name.into())),
        Err(error) => return Err(error),
    }
    let skeleton = text::skeleton(name);
    let similar = "SELECT name FROM organizations WHERE skeleton = $1";
    if let Some(there) = conn.row(similar, &[&skeleton]).await? {
        return Err(StoreError::SimilarOrg(there.try_get(0)?));
    }
    let counted = conn
        .one(
            "UPDATE keyguard_state SET last_org_id = last_org_id + 1, orgs = orgs + 1 \
             RETURNING last_org_id",
            &[],
        )
        .await?;
    let id: i64 = counted.try_get(0)?;
    conn.run(
        "INSERT INTO organizations (id, name, skeleton, status, created_at) \
         VALUES ($1, $2, $3, $4, $5)",
        &[
            &id,
            &name,
            &skeleton,
            &rows::status(OrgStatus::Active),
            &at.to_utc(),
        ],
    )
    .await?;
    turn.entries.push(FeedEntry::Created);
    Ok(changes::new_org(OrgId(id as u64), name, at))
}

pub(super) async fn org(conn: &Conn, id: OrgId) -> Result<Org, StoreError> {
    let row = conn
        .row(
            concat!(
                "SELECT ",
                org_columns!(),
                " FROM organizations o WHERE o.id = $1"
            ),
            &[&(id.0 as i64)],
        )
        .await?;
    rows::org(&row.ok_or(StoreError::NoOrg(id))?, 0)
}

pub(super) async fn org_named(conn: &Conn, name: &str) -> Result<Org, StoreError> {
    let row = conn
        .row(
            concat!(
                "SELECT ",
                org_columns!(),
                " FROM organizations o WHERE o.name = $1"
            ),
            &[&name],
        )
        .await?;
    rows::org(&row.ok_or_else(|| StoreError::NoOrgNamed(name.into()))?, 0)
}

pub(super) async fn orgs(
    conn: &Conn,
    after: Option<OrgId>,
    limit: usize,
) -> Result<Vec<Org>, StoreError> {
    let rows = conn
        .rows(
            concat!(
                "SELECT ",
                org_columns!(),
                " FROM organizations o WHERE o.id > $1 ORDER BY o.id LIMIT $2"
            ),
            &[&after.map_or(0, |id| id.0 as i64), &at_most(limit)],
        )
        .await?;
    rows.iter().map(|row| rows::org(row, 0)).collect()
}

pub(super) async fn update_org(
    conn: &Conn,
    turn: &mut CommitTurn,
    id: OrgId,
    change: OrgChange,
) -> Result<Org, StoreError> {
    let mut org = org(conn, id).await?;
    change.apply(&mut org);
    conn.run(
        "UPDATE organizations SET status = $2, limits = $3, overrides = $4 WHERE id = $1",
        &[
            &(id.0 as i64),
            &rows::status(org.status),
            &rows::limit_texts(&org.limits),
            &Json(&org.overrides),
        ],
    )
    .await?;
    turn.entries.push(FeedEntry::Org(id));
    Ok(org)
}

pub(super) async fn create_keys(
    conn: &Conn,
    turn: &mut CommitTurn,
    new: Vec<(NewKey, NewCredential)>,
) -> Result<Vec<Key>, StoreError> {
    let count = at_most(new.len());
    let counted = conn
        .one(
            "UPDATE keyguard_state SET last_key_id = last_key_id + $1, keys = keys + $1, \
             active_keys = active_keys + $1 RETURNING last_key_id - $1",
            &[&count],
        )
        .await?;
    let last = counted.try_get::<_, i64>(0)? as u64;
    let created: Vec<_> = (last + 1..)
        .zip(new)
        .map(|(id, (new, credential))| (new.with_id(KeyId(id), &credential), credential))
        .collect();
    for keys in created.chunks(MANY) {
        try_join_all(keys.iter().map(|(key, credential)| async move {
            insert_key(conn, key, &credential.hash).await?;
            credentials::insert(conn, key.id, credential).await
        }))
        .await?;
    }
    turn.entries.push(FeedEntry::Created);
    Ok(created.into_iter().map(|(key, _)| key).collect())
}

async fn insert_key(conn: &Conn, key: &Key, hash: &HashedKey) -> Result<(), StoreError> {
    let inserted = conn
        .run(
            "INSERT INTO api_keys (id, org_id, label, prefix, hashed_key, active, scopes, \
             rate_limit_per_minute, monthly_limit, created_at, expires_at, limits, allowed_ips) \
             SELECT $1, o.id, $3, $4, $5, true, $6, $7, $8, $9, $10, $11, $12 \
             FROM organizations o WHERE o.id = $2",
            &[
                &(key.id.0 as i64),
                &(key.org_id.0 as i64),
                &key.label,
                &key.shown_prefix,
                &hex(hash),
                &rows::scopes_text(&key.scopes),
                &i64::from(key.rate_limit_per_minute.get()),
                &rows::monthly_limit(&key.limits),
                &key.created_at.to_utc(),
                &key.expires_at.map(Timestamp::to_utc),
                &rows::limit_texts(&key.limits),
                &key.allowed_ips.texts(),
            ],
        )
        .await?;
    match inserted {
        0 => Err(StoreError::NoOrg(key.org_id)),
        _ => Ok(()),
    }
}

pub(super) async fn key(conn: &Conn, id: KeyId) -> Result<Key, StoreError> {
    let row = conn
        .row(
            concat!(
                "SELECT ",
                key_columns!(),
                " FROM api_keys k WHERE k.id = $1"
            ),
            &[&(id.0 as i64)],
        )
        .await?;
    rows::key(&row.ok_or(StoreError::NoKey(id))?, 0)
}

pub(super) async fn keys(
    conn: &Conn,
    of: Option<OrgId>,
    after: Option<KeyId>,
    limit: usize,
) -> Result<Vec<Key>, StoreError> {
    let (after, limit) = (after.map_or(0, |id| id.0 as i64), at_most(limit));
    let found = match of {
        None => {
            let sql = concat!(
                "SELECT ",
                key_columns!(),
                " FROM api_keys k WHERE k.id > $1 ORDER BY k.id LIMIT $2"
            );
            conn.rows(sql, &[&after, &limit]).await?
        }
        Some(of) => {
            let sql = concat!(
                "SELECT ",
                key_columns!(),
                " FROM api_keys k WHERE k.org_id = $3 AND k.id > $1 ORDER BY k.id LIMIT $2"
            );
            conn.rows(sql, &[&after, &limit, &(of.0 as i64)]).await?
        }
    };
    if let (Some(of), []) = (of, found.as_slice()) {
        org(conn, of).await?;
    }
    found.iter().map(|row: &Row| rows::key(row, 0)).collect()
}

pub(super) async fn keys_with_prefix(
    conn: &Conn,
    text: &str,
    limit: usize,
) -> Result<Vec<Key>, StoreError> {
    let sql = concat!(
        "SELECT ",
        key_columns!(),
        " FROM api_keys k WHERE k.prefix COLLATE \"C\" ^@ $1 ORDER BY k.prefix COLLATE \"C\", k.id LIMIT $2"
    );
    let found = conn.rows(sql, &[&text, &at_most(limit)]).await?;
    found.iter().map(|row| rows::key(row, 0)).collect()
}

pub(super) async fn update_key(
    conn: &Conn,
    turn: &mut CommitTurn,
    id: KeyId,
    change: KeyChange,
) -> Result<Key, StoreError> {
    let mut key = key(conn, id).await?;
    change.apply(&mut key)?;
    conn.run(
        "UPDATE api_keys SET label = $2, scopes = $3, rate_limit_per_minute = $4, limits = $5, \
         monthly_limit = $6, allowed_ips = $7, overrides = $8, expires_at = $9 WHERE id = $1",
        &[
            &(id.0 as i64),
            &key.label,
            &rows::scopes_text(&key.scopes),
            &i64::from(key.rate_limit_per_minute.get()),
            &rows::limit_texts(&key.limits),
            &rows::monthly_limit(&key.limits),
            &key.allowed_ips.texts(),
            &Json(&key.overrides),
            &key.expires_at.map(Timestamp::to_utc),
        ],
    )
    .await?;
    turn.entries.push(FeedEntry::Key(id));
    Ok(key)
}

pub(super) async fn add_credential(
    conn: &Conn,
    turn: &mut CommitTurn,
    id: KeyId,
    credential: NewCredential,
    rotation: Rotation,
) -> Result<Key, StoreError> {
    let mut key = key(conn, id).await?;
    let retire_at = rotation.apply(&mut key, &credential)?;
    credentials::retire(conn, id, retire_at).await?;
    credentials::insert(conn, id, &credential).await?;
    conn.run(
        "UPDATE api_keys SET prefix = $2, hashed_key = $3, expires_at = $4 WHERE id = $1",
        &[
            &(id.0 as i64),
            &key.shown_prefix,
            &hex(&credential.hash),
            &key.expires_at.map(Timestamp::to_utc),
        ],
    )
    .await?;
    turn.entries.push(FeedEntry::Key(id));
    Ok(key)
}

/// Revoking twice is allowed.
pub(super) async fn revoke_key(
    conn: &Conn,
    turn: &mut CommitTurn,
    id: KeyId,
) -> Result<Key, StoreError> {
    let revoked = conn
        .run(
            "UPDATE api_keys SET active = false WHERE id = $1 AND active",
            &[&(id.0 as i64)],
        )
        .await?;
    if revoked > 0 {
        conn.run(
            "UPDATE keyguard_state SET active_keys = active_keys - 1",
            &[],
        )
        .await?;
        turn.entries.push(FeedEntry::Key(id));
    }
    key(conn, id).await
}
