//! What is there already of a page that comes.

use std::collections::HashMap;

use crate::input::text;
use crate::model::HashedKey;
use crate::model::{Key, KeyId, Org, OrgId};
use crate::store::StoreError;
use crate::store::postgres::conn::Conn;
use crate::store::postgres::credentials;
use crate::store::postgres::rows::{self, key_columns, org_columns};
use crate::store::transfer::{TransferPage, same_credential, same_key, same_org};

/// Organizations and keys of a page that are there.
pub(super) struct There {
    pub(super) orgs: HashMap<OrgId, Org>,
    pub(super) keys: HashMap<KeyId, Key>,
}

pub(in crate::store::postgres) async fn has_room_for(
    conn: &Conn,
    page: &TransferPage,
) -> Result<(), StoreError> {
    find_room(conn, page).await.map(drop)
}

/// Fails if something else is in the place of what comes.
pub(super) async fn find_room(conn: &Conn, page: &TransferPage) -> Result<There, StoreError> {
    let orgs = orgs(conn, &page.orgs).await?;
    for comes in &page.orgs {
        let skeleton = text::skeleton(&comes.name);
        let is_in_its_place =
            |there: &&Org| there.id == comes.id || text::skeleton(&there.name) == skeleton;
        orgs.iter()
            .filter(is_in_its_place)
            .try_for_each(|there| same_org(there, comes))?;
    }
    let keys = keys(conn, page).await?;
    let owners = owners(conn, page).await?;
    for moved in &page.keys {
        if let Some(there) = keys.get(&moved.key.id) {
            same_key(there, &moved.key)?;
        }
        for credential in &moved.credentials {
            if let Some(owner) = owners.get(&credential.hash) {
                same_credential(*owner, credential)?;
            }
        }
    }
    Ok(There {
        orgs: orgs.into_iter().map(|org| (org.id, org)).collect(),
        keys,
    })
}

/// Those that have the id of one that comes, or a name that looks like its.
async fn orgs(conn: &Conn, come: &[Org]) -> Result<Vec<Org>, StoreError> {
    if come.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<_> = come.iter().map(|org| org.id.0 as i64).collect();
    let skeletons: Vec<_> = come.iter().map(|org| text::skeleton(&org.name)).collect();
    let found = conn
        .rows(
            concat!(
                "SELECT ",
                org_columns!(),
                " FROM organizations o WHERE o.id = ANY($1) OR o.skeleton = ANY($2)"
            ),
            &[&ids, &skeletons],
        )
        .await?;
    found.iter().map(|row| rows::org(row, 0)).collect()
}

async fn keys(conn: &Conn, page: &TransferPage) -> Result<HashMap<KeyId, Key>, StoreError> {
    if page.keys.is_empty() {
        return Ok(HashMap::new());
    }
    let ids: Vec<_> = page.keys.iter().map(|m| m.key.id.0 as i64).collect();
    let found = conn
        .rows(
            concat!(
                "SELECT ",
                key_columns!(),
                " FROM api_keys k WHERE k.id = ANY($1)"
            ),
            &[&ids],
        )
        .await?;
    let keys = found.iter().map(|row| rows::key(row, 0));
    keys.map(|key| key.map(|key| (key.id, key))).collect()
}

async fn owners(conn: &Conn, page: &TransferPage) -> Result<HashMap<HashedKey, KeyId>, StoreError> {
    let credentials = page.keys.iter().flat_map(|moved| &moved.credentials);
    let hashes: Vec<_> = credentials.map(|c| c.hash.0.as_slice()).collect();
    if hashes.is_empty() {
        return Ok(HashMap::new());
    }
    let owners = credentials::owners(conn, &hashes).await?;
    Ok(owners.into_iter().collect())
}
