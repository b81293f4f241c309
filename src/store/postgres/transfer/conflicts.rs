//! Conflicts of an import with existing data.

use std::collections::HashMap;

use crate::input::text;
use crate::model::{HashedKey, Key, KeyId, Org, OrgId};
use crate::store::StoreError;
use crate::store::postgres::conn::Conn;
use crate::store::postgres::credentials;
use crate::store::postgres::rows::{self, key_columns, org_columns, select_keys, select_orgs};
use crate::store::transfer::TransferPage;
use crate::store::transfer::merge::{require_same_key, require_same_org, require_same_owner};

/// Existing organizations and keys with the ids or names of imported ones.
pub(super) struct Existing {
    pub(super) orgs: HashMap<OrgId, Org>,
    pub(super) keys: HashMap<KeyId, Key>,
}

pub(in crate::store::postgres) async fn check(
    conn: &Conn,
    page: &TransferPage,
) -> Result<(), StoreError> {
    existing(conn, page).await.map(drop)
}

/// Reads what exists of a page. Fails if the page conflicts with it.
pub(super) async fn existing(conn: &Conn, page: &TransferPage) -> Result<Existing, StoreError> {
    let orgs = orgs(conn, &page.orgs).await?;
    let by_skeleton = orgs.values().map(|org| (text::skeleton(&org.name), org));
    let by_skeleton: HashMap<_, _> = by_skeleton.collect();
    for incoming in &page.orgs {
        let similar = by_skeleton.get(&text::skeleton(&incoming.name)).copied();
        let mut others = [orgs.get(&incoming.id), similar].into_iter().flatten();
        others.try_for_each(|org| require_same_org(org, incoming))?;
    }
    let keys = keys(conn, page).await?;
    let owners = owners(conn, page).await?;
    for transfer in &page.keys {
        if let Some(key) = keys.get(&transfer.key.id) {
            require_same_key(key, &transfer.key)?;
        }
        for credential in &transfer.credentials {
            if let Some(owner) = owners.get(&credential.hash) {
                require_same_owner(*owner, credential)?;
            }
        }
    }
    Ok(Existing { orgs, keys })
}

/// Returns organizations that have the id of an imported one, or a name that looks like its name.
async fn orgs(conn: &Conn, incoming: &[Org]) -> Result<HashMap<OrgId, Org>, StoreError> {
    if incoming.is_empty() {
        return Ok(HashMap::new());
    }
    let ids: Vec<_> = incoming.iter().map(|org| org.id.0 as i64).collect();
    let skeletons: Vec<_> = incoming
        .iter()
        .map(|org| text::skeleton(&org.name))
        .collect();
    let found = conn
        .rows(
            select_orgs!("o.id = ANY($1) OR o.skeleton = ANY($2)"),
            &[&ids, &skeletons],
        )
        .await?;
    let orgs = found.iter().map(|row| rows::org(row, 0));
    orgs.map(|org| org.map(|org| (org.id, org))).collect()
}

async fn keys(conn: &Conn, page: &TransferPage) -> Result<HashMap<KeyId, Key>, StoreError> {
    if page.keys.is_empty() {
        return Ok(HashMap::new());
    }
    let ids: Vec<_> = page
        .keys
        .iter()
        .map(|transfer| transfer.key.id.0 as i64)
        .collect();
    let found = conn.rows(select_keys!("k.id = ANY($1)"), &[&ids]).await?;
    let keys = found.iter().map(|row| rows::key(row, 0));
    keys.map(|key| key.map(|key| (key.id, key))).collect()
}

async fn owners(conn: &Conn, page: &TransferPage) -> Result<HashMap<HashedKey, KeyId>, StoreError> {
    let credentials = page.keys.iter().flat_map(|transfer| &transfer.credentials);
    let hashes: Vec<_> = credentials.map(|c| c.hash.0.as_slice()).collect();
    if hashes.is_empty() {
        return Ok(HashMap::new());
    }
    let owners = credentials::owners(conn, &hashes).await?;
    Ok(owners.into_iter().collect())
}
