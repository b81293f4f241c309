//! Organizations and keys.

use tokio_postgres::Row;

use super::audit::CommitTurn;
use super::conn::Conn;
use super::credentials;
use super::feed::FeedEntry;
use super::records::{insert_credentials, put_keys, put_orgs, require_orgs};
use super::rows::{self, at_most, key_columns, org_columns, select_keys, select_orgs};
use crate::input::text;
use crate::model::{Key, KeyId, Org, OrgId};
use crate::store::{
    KeyChange, NewCredential, NewKey, OrgChange, Rotation, Search, StoreError, changes,
};
use crate::time::Timestamp;

pub(super) async fn create_org(
    conn: &Conn,
    turn: &mut CommitTurn,
    name: &str,
    at: Timestamp,
) -> Result<Org, StoreError> {
    let sql = "SELECT name FROM organizations WHERE skeleton = $1";
    if let Some(existing) = conn.row(sql, &[&text::skeleton(name)]).await? {
        return Err(changes::org_exists(existing.try_get(0)?, name));
    }
    let sql = "UPDATE keyguard_state SET last_org_id = last_org_id + 1, orgs = orgs + 1 \
         RETURNING last_org_id";
    let id: i64 = conn.one(sql, &[]).await?.try_get(0)?;
    let org = changes::new_org(OrgId(id as u64), name, at);
    put_orgs(conn, [&org]).await?;
    turn.entries.push(FeedEntry::Created);
    Ok(org)
}

pub(super) async fn org(conn: &Conn, id: OrgId) -> Result<Org, StoreError> {
    let row = conn
        .row(select_orgs!("o.id = $1"), &[&(id.0 as i64)])
        .await?;
    rows::org(&row.ok_or(StoreError::NoOrg(id))?, 0)
}

pub(super) async fn org_named(conn: &Conn, name: &str) -> Result<Org, StoreError> {
    let row = conn.row(select_orgs!("o.name = $1"), &[&name]).await?;
    rows::org(&row.ok_or_else(|| StoreError::NoOrgNamed(name.into()))?, 0)
}

pub(super) async fn orgs(
    conn: &Conn,
    after: Option<OrgId>,
    limit: usize,
) -> Result<Vec<Org>, StoreError> {
    let rows = conn
        .rows(
            select_orgs!("o.id > $1 ORDER BY o.id LIMIT $2"),
            &[&after.map_or(0, |id| id.0 as i64), &at_most(limit)],
        )
        .await?;
    rows.iter().map(|row| rows::org(row, 0)).collect()
}

pub(super) async fn search_orgs(conn: &Conn, search: &Search) -> Result<Vec<Org>, StoreError> {
    let [first, last, id] = searched_ids(search);
    let rows = conn
        .rows(
            // In the collation C, `lower` changes only the letters A to Z.
            select_orgs!(
                "o.id BETWEEN $1 AND $2 AND (o.id = $3 OR strpos(lower(o.name COLLATE \"C\"), $4) > 0) \
                 ORDER BY o.id LIMIT $5"
            ),
            &[&first, &last, &id, &search.text.as_str(), &at_most(search.limit)],
        )
        .await?;
    rows.iter().map(|row| rows::org(row, 0)).collect()
}

/// The first and the last id to look at, and the one that is looked for, or 0, which is none.
fn searched_ids(search: &Search) -> [i64; 3] {
    let (first, last) = search.ids.clone().into_inner();
    let wanted = search.text.id().unwrap_or_default();
    [first, last, wanted].map(|id| i64::try_from(id).unwrap_or(i64::MAX))
}

pub(super) async fn update_org(
    conn: &Conn,
    turn: &mut CommitTurn,
    id: OrgId,
    change: OrgChange,
) -> Result<Org, StoreError> {
    let mut org = org(conn, id).await?;
    change.apply(&mut org);
    put_orgs(conn, [&org]).await?;
    turn.entries.push(FeedEntry::Org(id));
    Ok(org)
}

pub(super) async fn create_keys(
    conn: &Conn,
    turn: &mut CommitTurn,
    new: Vec<(NewKey, NewCredential)>,
) -> Result<Vec<Key>, StoreError> {
    require_orgs(conn, new.iter().map(|(new, _)| new.org_id)).await?;
    let counted = conn
        .one(
            "UPDATE keyguard_state SET last_key_id = last_key_id + $1, keys = keys + $1, \
             active_keys = active_keys + $1 RETURNING last_key_id - $1",
            &[&at_most(new.len())],
        )
        .await?;
    let last = counted.try_get::<_, i64>(0)? as u64;
    let (mut keys, mut credentials) = (Vec::new(), Vec::new());
    for (id, (new, credential)) in (last + 1..).map(KeyId).zip(&new) {
        keys.push(new.with_id(id, credential));
        credentials.push(credential.of_key(id));
    }
    let hashes = credentials.iter().map(|credential| Some(credential.hash));
    put_keys(conn, keys.iter().zip(hashes)).await?;
    insert_credentials(conn, &credentials).await?;
    turn.entries.push(FeedEntry::Created);
    Ok(keys)
}

pub(super) async fn key(conn: &Conn, id: KeyId) -> Result<Key, StoreError> {
    let row = conn
        .row(select_keys!("k.id = $1"), &[&(id.0 as i64)])
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
            let sql = select_keys!("k.id > $1 ORDER BY k.id LIMIT $2");
            conn.rows(sql, &[&after, &limit]).await?
        }
        Some(of) => {
            let sql = select_keys!("k.org_id = $3 AND k.id > $1 ORDER BY k.id LIMIT $2");
            conn.rows(sql, &[&after, &limit, &(of.0 as i64)]).await?
        }
    };
    if let (Some(of), []) = (of, found.as_slice()) {
        org(conn, of).await?;
    }
    found.iter().map(|row: &Row| rows::key(row, 0)).collect()
}

pub(super) async fn search_keys(
    conn: &Conn,
    search: &Search,
    of: Option<OrgId>,
) -> Result<Vec<Key>, StoreError> {
    let [first, last, id] = searched_ids(search);
    let of = of.map(|id| id.0 as i64);
    let found = conn
        .rows(
            select_keys!(
                "k.id BETWEEN $1 AND $2 AND ($6::bigint IS NULL OR k.org_id = $6) AND (k.id = $3 \
                 OR strpos(lower(k.label COLLATE \"C\"), $4) > 0 \
                 OR strpos(lower(k.prefix COLLATE \"C\"), $4) > 0 \
                 OR k.org_id IN (SELECT id FROM organizations \
                                 WHERE strpos(lower(name COLLATE \"C\"), $4) > 0)) \
                 ORDER BY k.id LIMIT $5"
            ),
            &[
                &first,
                &last,
                &id,
                &search.text.as_str(),
                &at_most(search.limit),
                &of,
            ],
        )
        .await?;
    found.iter().map(|row| rows::key(row, 0)).collect()
}

pub(super) async fn keys_with_prefix(
    conn: &Conn,
    text: &str,
    limit: usize,
) -> Result<Vec<Key>, StoreError> {
    let sql =
        select_keys!("k.prefix COLLATE \"C\" ^@ $1 ORDER BY k.prefix COLLATE \"C\", k.id LIMIT $2");
    let found = conn.rows(sql, &[&text, &at_most(limit)]).await?;
    found.iter().map(|row| rows::key(row, 0)).collect()
}

pub(super) async fn update_key(
    conn: &Conn,
    turn: &mut CommitTurn,
    id: KeyId,
    change: KeyChange,
) -> Result<Key, StoreError> {
    let before = key(conn, id).await?;
    let mut key = before.clone();
    change.apply(&mut key)?;
    put_changed_key(conn, turn, &before, &key).await?;
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
    insert_credentials(conn, &[credential.of_key(id)]).await?;
    put_keys(conn, [(&key, Some(credential.hash))]).await?;
    turn.entries.push(FeedEntry::Key(id));
    Ok(key)
}

/// Revoking twice is allowed.
pub(super) async fn revoke_key(
    conn: &Conn,
    turn: &mut CommitTurn,
    id: KeyId,
) -> Result<Key, StoreError> {
    let before = key(conn, id).await?;
    let mut key = before.clone();
    if changes::revoke(&mut key) {
        put_changed_key(conn, turn, &before, &key).await?;
    }
    Ok(key)
}

async fn put_changed_key(
    conn: &Conn,
    turn: &mut CommitTurn,
    before: &Key,
    key: &Key,
) -> Result<(), StoreError> {
    put_keys(conn, [(key, None)]).await?;
    let growth = changes::enabled_growth(Some(before), key);
    if growth != 0 {
        let sql = "UPDATE keyguard_state SET active_keys = active_keys + $1";
        conn.run(sql, &[&growth]).await?;
    }
    turn.entries.push(FeedEntry::Key(key.id));
    Ok(())
}
