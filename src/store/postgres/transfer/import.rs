//! Writing a page of an import.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;
use tokio_postgres::types::Json;

use super::conflicts::{self, Existing};
use super::counts;
use crate::input::text;
use crate::lockout::LockChange;
use crate::model::{Credential, HashedKey, Key, KeyId, LimitOverride, OrgId};
use crate::store::StoreError;
use crate::store::postgres::audit::CommitTurn;
use crate::store::postgres::conn::Conn;
use crate::store::postgres::credentials::{self, hex, scheme};
use crate::store::postgres::feed::FeedEntry;
use crate::store::postgres::{counters, locks, rows};
use crate::store::transfer::merge::{Growth, merge_credential, merge_key, merge_lock};
use crate::store::transfer::{LastIds, TransferPage};
use crate::time::Timestamp;

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
    counts::import(conn, page).await?;
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

/// A row of `organizations`, with the names of its columns.
#[derive(Debug, Serialize)]
struct OrgRow<'a> {
    id: OrgId,
    name: &'a str,
    skeleton: String,
    status: &'static str,
    created_at: Timestamp,
    limits: Vec<String>,
    overrides: &'a [LimitOverride],
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
        to_put.push(OrgRow {
            id: org.id,
            name: &org.name,
            skeleton: text::skeleton(&org.name),
            status: rows::status(org.status),
            created_at: org.created_at,
            limits: rows::limit_texts(&org.limits),
            overrides: &org.overrides,
        });
    }
    if to_put.is_empty() {
        return Ok(());
    }
    conn.run(
        "INSERT INTO organizations \
         SELECT * FROM json_populate_recordset(NULL::organizations, $1) \
         ON CONFLICT (id) DO UPDATE SET status = excluded.status, limits = excluded.limits, \
             overrides = excluded.overrides",
        &[&Json(to_put)],
    )
    .await?;
    Ok(())
}

/// A row of `api_keys`, with the names of its columns.
#[derive(Debug, Serialize)]
struct KeyRow<'a> {
    id: KeyId,
    org_id: OrgId,
    label: &'a str,
    prefix: &'a str,
    hashed_key: String,
    active: bool,
    scopes: String,
    rate_limit_per_minute: u32,
    monthly_limit: Option<i64>,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    last_used_at: Option<Timestamp>,
    limits: Vec<String>,
    allowed_ips: Vec<String>,
    overrides: &'a [LimitOverride],
}

impl<'a> KeyRow<'a> {
    fn new(key: &'a Key, shown: Option<&Credential>) -> Self {
        Self {
            id: key.id,
            org_id: key.org_id,
            label: &key.label,
            prefix: &key.shown_prefix,
            hashed_key: shown.map(|shown| hex(&shown.hash)).unwrap_or_default(),
            active: !key.is_revoked(),
            scopes: rows::scopes_text(&key.scopes),
            rate_limit_per_minute: key.rate_limit_per_minute.get(),
            monthly_limit: rows::monthly_limit(&key.limits),
            created_at: key.created_at,
            expires_at: key.expires_at,
            last_used_at: key.last_used_at,
            limits: rows::limit_texts(&key.limits),
            allowed_ips: key.allowed_ips.texts(),
            overrides: &key.overrides,
        }
    }
}

async fn import_keys(
    conn: &Conn,
    turn: &mut CommitTurn,
    page: &TransferPage,
    existing: &Existing,
    growth: &mut Growth,
) -> Result<(), StoreError> {
    have_orgs(conn, page).await?;
    let known = known_credentials(conn, existing).await?;
    let none = BTreeMap::new();
    let (mut keys, mut to_put) = (BTreeMap::new(), Vec::new());
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
        to_put.extend(changed);
        keys.insert(merged.id, (merged, latest(all)));
    }
    put_keys(conn, &keys).await?;
    put_credentials(conn, &to_put).await
}

/// The displayed credential. An expiring one has been replaced.
fn latest(all: BTreeMap<[u8; 32], Credential>) -> Option<Credential> {
    all.into_values()
        .max_by_key(|credential| (credential.created_at, credential.expires_at.is_none()))
}

/// Checks that the organizations of all keys exist.
async fn have_orgs(conn: &Conn, page: &TransferPage) -> Result<(), StoreError> {
    let wanted: BTreeSet<_> = page
        .keys
        .iter()
        .map(|transfer| transfer.key.org_id)
        .collect();
    let ids: Vec<_> = wanted.iter().map(|id| id.0 as i64).collect();
    let missing = conn
        .row(
            "SELECT wanted FROM unnest($1::bigint[]) AS wanted \
             WHERE NOT EXISTS (SELECT FROM organizations WHERE id = wanted) LIMIT 1",
            &[&ids],
        )
        .await?;
    match missing {
        Some(row) => Err(StoreError::NoOrg(OrgId(row.try_get::<_, i64>(0)? as u64))),
        None => Ok(()),
    }
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

async fn put_keys(
    conn: &Conn,
    keys: &BTreeMap<KeyId, (Key, Option<Credential>)>,
) -> Result<(), StoreError> {
    if keys.is_empty() {
        return Ok(());
    }
    let rows = keys
        .values()
        .map(|(key, shown)| KeyRow::new(key, shown.as_ref()));
    let rows: Vec<_> = rows.collect();
    // Other nodes may record a later use meanwhile.
    conn.run(
        "INSERT INTO api_keys AS k SELECT * FROM json_populate_recordset(NULL::api_keys, $1) \
         ON CONFLICT (id) DO UPDATE SET label = excluded.label, prefix = excluded.prefix, \
             hashed_key = excluded.hashed_key, active = excluded.active, \
             scopes = excluded.scopes, \
             rate_limit_per_minute = excluded.rate_limit_per_minute, \
             monthly_limit = excluded.monthly_limit, expires_at = excluded.expires_at, \
             last_used_at = greatest(k.last_used_at, excluded.last_used_at), \
             limits = excluded.limits, allowed_ips = excluded.allowed_ips, \
             overrides = excluded.overrides",
        &[&Json(rows)],
    )
    .await?;
    Ok(())
}

async fn put_credentials(conn: &Conn, all: &[Credential]) -> Result<(), StoreError> {
    if all.is_empty() {
        return Ok(());
    }
    let hashes: Vec<_> = all.iter().map(|c| c.hash.0.as_slice()).collect();
    let keys: Vec<_> = all.iter().map(|c| c.key_id.0 as i64).collect();
    let schemes: Vec<_> = all.iter().map(|c| scheme(c.scheme)).collect();
    let secrets: Vec<_> = all.iter().map(|c| c.secret_id as i32).collect();
    let created: Vec<_> = all.iter().map(|c| c.created_at.to_utc()).collect();
    let expire: Vec<_> = all
        .iter()
        .map(|c| c.expires_at.map(Timestamp::to_utc))
        .collect();
    conn.run(
        "INSERT INTO keyguard_credentials (hash, key_id, scheme, secret_id, created_at, expires_at) \
         SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::smallint[], $4::integer[], \
                              $5::timestamptz[], $6::timestamptz[]) \
         ON CONFLICT (hash) DO UPDATE SET expires_at = excluded.expires_at",
        &[&hashes, &keys, &schemes, &secrets, &created, &expire],
    )
    .await?;
    Ok(())
}

async fn import_locks(
    conn: &Conn,
    turn: &mut CommitTurn,
    page: &TransferPage,
) -> Result<(), StoreError> {
    if page.locks.is_empty() {
        return Ok(());
    }
    let ids = page.locks.iter().map(crate::lockout::Lock::id);
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
            turn.entries.push(FeedEntry::Lock(id.clone()));
            changes.push(LockChange {
                id,
                lock: Some(lock),
            });
        }
    }
    locks::change(conn, &changes).await
}
