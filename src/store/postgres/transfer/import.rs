//! Writing a page of an import.

use std::collections::{BTreeMap, HashMap};

use super::conflicts::{self, Existing};
use crate::lockout::{Lock, LockChange};
use crate::model::{Credential, HashedKey, KeyId};
use crate::store::StoreError;
use crate::store::postgres::audit::CommitTurn;
use crate::store::postgres::conn::Conn;
use crate::store::postgres::feed::FeedEntry;
use crate::store::postgres::records::{put_credentials, put_keys, put_orgs, require_orgs};
use crate::store::postgres::total_rows::{Combine, TotalRows};
use crate::store::postgres::{counters, credentials, locks};
use crate::store::transfer::merge::{Growth, merge_credential, merge_key, merge_lock};
use crate::store::transfer::{LastIds, TransferPage};

pub(in crate::store::postgres) async fn import(
    conn: &Conn,
    turn: &mut CommitTurn,
    page: &TransferPage,
) -> Result<(), StoreError> {
    let existing = conflicts::existing(conn, page).await?;
    let mut growth = Growth::default();
    import_orgs(conn, turn, page, &existing, &mut growth).await?;
    import_keys(conn, turn, page, &existing, &mut growth).await?;
    if growth.orgs + growth.keys > 0 {
        turn.entries.push(FeedEntry::Created);
    }
    count(conn, page, &growth).await?;
    import_locks(conn, turn, page).await?;
    TotalRows::of_page(page).write(conn, Combine::Raise).await?;
    counters::put(conn, &counters::as_rows(&page.balances)?).await
}

async fn count(conn: &Conn, page: &TransferPage, growth: &Growth) -> Result<(), StoreError> {
    let last = LastIds::default().raised_to(page);
    conn.run(
        "UPDATE keyguard_state SET orgs = orgs + $1, keys = keys + $2, \
         active_keys = active_keys + $3, last_org_id = greatest(last_org_id, $4), \
         last_key_id = greatest(last_key_id, $5)",
        &[
            &growth.orgs,
            &growth.keys,
            &growth.active_keys,
            &(last.org as i64),
            &(last.key as i64),
        ],
    )
    .await?;
    Ok(())
}

async fn import_orgs(
    conn: &Conn,
    turn: &mut CommitTurn,
    page: &TransferPage,
    existing: &Existing,
    growth: &mut Growth,
) -> Result<(), StoreError> {
    let mut to_put = Vec::new();
    for org in &page.orgs {
        match existing.orgs.get(&org.id) {
            Some(existing) if existing == org => continue,
            Some(_) => turn.entries.push(FeedEntry::Org(org.id)),
            None => growth.orgs += 1,
        }
        to_put.push(org);
    }
    put_orgs(conn, to_put).await
}

async fn import_keys(
    conn: &Conn,
    turn: &mut CommitTurn,
    page: &TransferPage,
    existing: &Existing,
    growth: &mut Growth,
) -> Result<(), StoreError> {
    require_orgs(conn, page.keys.iter().map(|transfer| transfer.key.org_id)).await?;
    let known = known_credentials(conn, existing).await?;
    let none = BTreeMap::new();
    let (mut keys, mut credentials) = (BTreeMap::new(), Vec::new());
    for transfer in &page.keys {
        let existing = existing.keys.get(&transfer.key.id);
        let merged = merge_key(existing, &transfer.key);
        let known = known.get(&transfer.key.id).unwrap_or(&none);
        let mut all = known.clone();
        for incoming in &transfer.credentials {
            let same = known.get(&incoming.hash.0);
            if let Some(merged) = merge_credential(same, incoming, existing.is_none()) {
                all.insert(merged.hash.0, merged);
            }
        }
        let changed = all
            .values()
            .filter(|merged| known.get(&merged.hash.0) != Some(merged));
        let changed: Vec<_> = changed.cloned().collect();
        growth.add_key(existing, &merged);
        match existing {
            Some(existing) if *existing == merged && changed.is_empty() => continue,
            Some(_) => turn.entries.push(FeedEntry::Key(merged.id)),
            None => {}
        }
        credentials.extend(changed);
        keys.insert(merged.id, (merged, displayed(all)));
    }
    put_keys(conn, keys.values().map(|(key, hash)| (key, *hash))).await?;
    put_credentials(conn, &credentials).await
}

/// The displayed hash: of the latest credential. An expiring one has been replaced.
fn displayed(all: ByHash) -> Option<HashedKey> {
    let latest = all
        .into_values()
        .max_by_key(|credential| (credential.created_at, credential.expires_at.is_none()));
    latest.map(|credential| credential.hash)
}

type ByHash = BTreeMap<[u8; 32], Credential>;

/// Returns the credentials of existing keys.
async fn known_credentials(
    conn: &Conn,
    existing: &Existing,
) -> Result<HashMap<KeyId, ByHash>, StoreError> {
    let mut known: HashMap<KeyId, ByHash> = HashMap::new();
    let ids: Vec<_> = existing.keys.keys().map(|id| id.0 as i64).collect();
    if ids.is_empty() {
        return Ok(known);
    }
    for credential in credentials::of_keys(conn, &ids).await? {
        let HashedKey(hash) = credential.hash;
        let of_key = known.entry(credential.key_id).or_default();
        of_key.insert(hash, credential);
    }
    Ok(known)
}

async fn import_locks(
    conn: &Conn,
    turn: &mut CommitTurn,
    page: &TransferPage,
) -> Result<(), StoreError> {
    if page.locks.is_empty() {
        return Ok(());
    }
    let ids = page.locks.iter().map(Lock::id);
    let there = locks::current(conn, ids.collect()).await?;
    let there: BTreeMap<_, _> = there
        .into_iter()
        .map(|there| (there.id, there.lock))
        .collect();
    let mut changes = Vec::new();
    for lock in &page.locks {
        let id = lock.id();
        let there = there.get(&id).and_then(Option::as_ref);
        if let Some(lock) = merge_lock(there, lock) {
            turn.entries.push(FeedEntry::Lock(id));
            changes.push(LockChange::put(lock));
        }
    }
    locks::change(conn, &changes).await
}
