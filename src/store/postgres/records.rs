//! Writing rows of organizations, keys and credentials, any number at a time.

use serde::Serialize;
use tokio_postgres::types::Json;

use super::conn::Conn;
use super::rows::{hex, monthly_limit, scopes_text};
use crate::input::text;
use crate::model::{Credential, HashedKey, Key, KeyId, KeyStatus, LimitOverride, Org, OrgId};
use crate::store::StoreError;
use crate::store::codec::texts;
use crate::time::Timestamp;

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

/// Adds organizations, or replaces what can change of them.
pub(super) async fn put_orgs(
    conn: &Conn,
    orgs: impl IntoIterator<Item = &Org>,
) -> Result<(), StoreError> {
    let rows = orgs.into_iter().map(|org| OrgRow {
        id: org.id,
        name: &org.name,
        skeleton: text::skeleton(&org.name),
        status: org.status.as_str(),
        created_at: org.created_at,
        limits: texts(&org.limits),
        overrides: &org.overrides,
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return Ok(());
    }
    conn.run(
        "INSERT INTO organizations \
         SELECT * FROM json_populate_recordset(NULL::organizations, $1) \
         ON CONFLICT (id) DO UPDATE SET status = excluded.status, limits = excluded.limits, \
             overrides = excluded.overrides",
        &[&Json(rows)],
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
    suspended: bool,
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

/// Adds or replaces keys with their displayed hashes; `None` keeps the existing hash.
pub(super) async fn put_keys(
    conn: &Conn,
    keys: impl IntoIterator<Item = (&Key, Option<HashedKey>)>,
) -> Result<(), StoreError> {
    let rows = keys.into_iter().map(|(key, hash)| KeyRow {
        id: key.id,
        org_id: key.org_id,
        label: &key.label,
        prefix: &key.shown_prefix,
        hashed_key: hash.map(|hash| hex(&hash.0)).unwrap_or_default(),
        active: key.is_enabled(),
        suspended: key.status == KeyStatus::Suspended,
        scopes: scopes_text(&key.scopes),
        rate_limit_per_minute: key.rate_limit_per_minute.get(),
        monthly_limit: monthly_limit(&key.limits),
        created_at: key.created_at,
        expires_at: key.expires_at,
        last_used_at: key.last_used_at,
        limits: texts(&key.limits),
        allowed_ips: key.allowed_ips.texts(),
        overrides: &key.overrides,
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return Ok(());
    }
    // Other nodes may record a later use meanwhile.
    conn.run(
        "INSERT INTO api_keys AS k SELECT * FROM json_populate_recordset(NULL::api_keys, $1) \
         ON CONFLICT (id) DO UPDATE SET label = excluded.label, prefix = excluded.prefix, \
             hashed_key = coalesce(nullif(excluded.hashed_key, ''), k.hashed_key), \
             active = excluded.active, suspended = excluded.suspended, \
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

/// The statement that inserts credentials, up to its `ON CONFLICT`.
macro_rules! insert_credentials {
    ($on_conflict:literal) => {
        concat!(
            "INSERT INTO keyguard_credentials \
                 (hash, key_id, scheme, secret_id, created_at, expires_at) \
             SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::smallint[], $4::integer[], \
                                  $5::timestamptz[], $6::timestamptz[]) \
             ON CONFLICT (hash) DO ",
            $on_conflict
        )
    };
}

/// Adds new credentials. The transaction must not commit after an error.
pub(super) async fn insert_credentials(conn: &Conn, new: &[Credential]) -> Result<(), StoreError> {
    let inserted = write_credentials(conn, insert_credentials!("NOTHING"), new).await?;
    match inserted == new.len() as u64 {
        true => Ok(()),
        false => Err(StoreError::DuplicateCredential),
    }
}

/// Adds credentials, or replaces their expiry.
pub(super) async fn put_credentials(conn: &Conn, all: &[Credential]) -> Result<(), StoreError> {
    let sql = insert_credentials!("UPDATE SET expires_at = excluded.expires_at");
    write_credentials(conn, sql, all).await.map(drop)
}

async fn write_credentials(
    conn: &Conn,
    sql: &'static str,
    all: &[Credential],
) -> Result<u64, StoreError> {
    if all.is_empty() {
        return Ok(0);
    }
    let hashes: Vec<_> = all.iter().map(|c| c.hash.0.as_slice()).collect();
    let keys: Vec<_> = all.iter().map(|c| c.key_id.0 as i64).collect();
    let schemes: Vec<_> = all.iter().map(|c| c.scheme as i16).collect();
    let secrets: Vec<_> = all.iter().map(|c| c.secret_id as i32).collect();
    let created: Vec<_> = all.iter().map(|c| c.created_at.to_utc()).collect();
    let expire: Vec<_> = all
        .iter()
        .map(|c| c.expires_at.map(Timestamp::to_utc))
        .collect();
    conn.run(
        sql,
        &[&hashes, &keys, &schemes, &secrets, &created, &expire],
    )
    .await
}

/// Fails unless all organizations exist.
pub(super) async fn require_orgs(
    conn: &Conn,
    ids: impl Iterator<Item = OrgId>,
) -> Result<(), StoreError> {
    let ids: Vec<_> = ids.map(|id| id.0 as i64).collect();
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
