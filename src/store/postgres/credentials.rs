//! Credentials: from the hash of a text to its key.

use tokio_postgres::Row;

use super::conn::Conn;
use super::counters::{self, balances_columns, balances_join};
use super::rows::{self, KEY_WIDTH, ORG_WIDTH, hex, key_columns, org_columns};
use crate::model::{Credential, HashScheme, HashedKey, KeyId};
use crate::store::codec::read_scheme;
use crate::store::{LegacyKeys, Rehash, Resolved, StoreError};
use crate::time::Timestamp;

/// The columns of a key, its organization and their balances.
macro_rules! resolved_columns {
    () => {
        concat!(
            key_columns!(),
            ", ",
            org_columns!(),
            ", ",
            balances_columns!()
        )
    };
}

/// The number of these columns.
const WIDTH: usize = KEY_WIDTH + ORG_WIDTH + 4;

pub(super) async fn resolve(conn: &Conn, hash: HashedKey) -> Result<Option<Resolved>, StoreError> {
    let row = conn
        .row(
            concat!(
                "SELECT ",
                resolved_columns!(),
                ", c.expires_at, c.scheme FROM keyguard_credentials c \
                 JOIN api_keys k ON k.id = c.key_id JOIN organizations o ON o.id = k.org_id",
                balances_join!(),
                "WHERE c.hash = $1"
            ),
            &[&hash.0.as_slice()],
        )
        .await?;
    let resolved = |row: &Row| {
        let expires_at: Option<_> = row.try_get(WIDTH)?;
        read_scheme(row.try_get::<_, i16>(WIDTH + 1)?)?;
        Ok(Resolved {
            credential_expires_at: expires_at.map(rows::time),
            ..resolved(row)?
        })
    };
    row.as_ref().map(resolved).transpose()
}

pub(super) async fn resolve_id(conn: &Conn, id: KeyId) -> Result<Option<Resolved>, StoreError> {
    let row = conn
        .row(
            concat!(
                "SELECT ",
                resolved_columns!(),
                " FROM api_keys k JOIN organizations o ON o.id = k.org_id",
                balances_join!(),
                "WHERE k.id = $1"
            ),
            &[&(id.0 as i64)],
        )
        .await?;
    row.as_ref().map(resolved).transpose()
}

fn resolved(row: &Row) -> Result<Resolved, StoreError> {
    Ok(Resolved {
        key: rows::key(row, 0)?,
        org: rows::org(row, KEY_WIDTH)?,
        credential_expires_at: None,
        balances: Some(counters::resolved(row, KEY_WIDTH + ORG_WIDTH)?),
    })
}

/// The credentials of some keys, ordered by key and hash.
pub(super) async fn of_keys(conn: &Conn, keys: &[i64]) -> Result<Vec<Credential>, StoreError> {
    let found = conn
        .rows(
            "SELECT hash, scheme, secret_id, key_id, created_at, expires_at \
             FROM keyguard_credentials WHERE key_id = ANY($1) ORDER BY key_id, hash",
            &[&keys],
        )
        .await?;
    found.iter().map(credential).collect()
}

/// The rotated keys among these, with the latest time at which a replaced credential expires.
pub(super) async fn old_texts_until(
    conn: &Conn,
    keys: &[i64],
) -> Result<Vec<(KeyId, Timestamp)>, StoreError> {
    let found = conn
        .rows(
            "SELECT key_id, max(expires_at) FROM keyguard_credentials \
             WHERE key_id = ANY($1) AND expires_at IS NOT NULL GROUP BY key_id",
            &[&keys],
        )
        .await?;
    let until = |row: &Row| Ok((key_id(row.try_get(0)?), rows::time(row.try_get(1)?)));
    found.iter().map(until).collect()
}

/// See [`Store::has_legacy_keys`](crate::store::Store::has_legacy_keys).
pub(super) async fn has_legacy(
    conn: &Conn,
    which: LegacyKeys,
    now: Timestamp,
) -> Result<bool, StoreError> {
    // Without a limit, `$1` is null, and without a key, `$2`.
    let sql = "SELECT EXISTS (SELECT FROM \
               (SELECT scheme, key_id, expires_at FROM keyguard_credentials \
               WHERE $2::int8 IS NULL OR key_id = $2 ORDER BY hash LIMIT $1) AS c \
               JOIN api_keys k ON k.id = c.key_id \
               WHERE c.scheme = ANY($3) AND ($5 OR k.active AND NOT k.suspended \
               AND (k.expires_at > $4) IS NOT FALSE AND (c.expires_at > $4) IS NOT FALSE))";
    let most = which.most();
    let most = most.map(|most| i64::try_from(most).unwrap_or(i64::MAX));
    let key = match which {
        LegacyKeys::Of(id) => Some(id.0 as i64),
        _ => None,
    };
    let schemes = which.schemes().iter().map(|scheme| *scheme as i16);
    let schemes: Vec<i16> = schemes.collect();
    let now = now.to_utc();
    let found = conn
        .one(sql, &[&most, &key, &schemes, &now, &which.in_any_state()])
        .await?;
    Ok(found.try_get(0)?)
}

/// The keys of some hashes.
pub(super) async fn owners(
    conn: &Conn,
    hashes: &[&[u8]],
) -> Result<Vec<(HashedKey, KeyId)>, StoreError> {
    let found = conn
        .rows(
            "SELECT hash, key_id FROM keyguard_credentials WHERE hash = ANY($1)",
            &[&hashes],
        )
        .await?;
    let owner = |row: &Row| Ok((hash(row.try_get(0)?)?, key_id(row.try_get(1)?)));
    found.iter().map(owner).collect()
}

fn credential(row: &Row) -> Result<Credential, StoreError> {
    Ok(Credential {
        hash: hash(row.try_get(0)?)?,
        scheme: read_scheme(row.try_get::<_, i16>(1)?)?,
        secret_id: row.try_get::<_, i32>(2)? as u32,
        key_id: key_id(row.try_get(3)?),
        created_at: rows::time(row.try_get(4)?),
        expires_at: row.try_get::<_, Option<_>>(5)?.map(rows::time),
    })
}

fn hash(bytes: &[u8]) -> Result<HashedKey, StoreError> {
    let hash = bytes.try_into().map(HashedKey);
    hash.map_err(|_| StoreError::damaged("a credential has a hash of invalid length"))
}

fn key_id(id: i64) -> KeyId {
    KeyId(id as u64)
}

/// Makes all credentials of a key expire at `at`, unless they expire earlier.
pub(super) async fn retire(conn: &Conn, id: KeyId, at: Timestamp) -> Result<(), StoreError> {
    conn.run(
        "UPDATE keyguard_credentials SET expires_at = least(expires_at, $2) WHERE key_id = $1",
        &[&(id.0 as i64), &at.to_utc()],
    )
    .await?;
    Ok(())
}

/// Replaces hashes of credentials and returns the keys. If several get the same hash, one wins.
pub(super) async fn rehash(conn: &Conn, jobs: &[Rehash]) -> Result<Vec<KeyId>, StoreError> {
    let old: Vec<_> = jobs.iter().map(|job| job.old.0.as_slice()).collect();
    let new: Vec<_> = jobs.iter().map(|job| job.new.0.as_slice()).collect();
    let moved = conn
        .rows(
            "UPDATE keyguard_credentials c SET hash = job.new, scheme = $3 \
             FROM (SELECT DISTINCT ON (new) old, new \
                   FROM unnest($1::bytea[], $2::bytea[]) AS job (old, new) \
                   JOIN keyguard_credentials ON hash = old \
                   WHERE NOT EXISTS (SELECT FROM keyguard_credentials there \
                                     WHERE there.hash = job.new) \
                   ORDER BY new) job \
             WHERE c.hash = job.old RETURNING c.key_id, job.old, job.new",
            &[&old, &new, &(HashScheme::RehashedSha256 as i16)],
        )
        .await?;
    show_rehashed(conn, &moved).await?;
    let owner = |row: &Row| Ok(key_id(row.try_get(0)?));
    moved.iter().map(owner).collect()
}

/// Updates the displayed hash of keys. Rows are locked in key order, like when usage is recorded.
async fn show_rehashed(conn: &Conn, moved: &[Row]) -> Result<(), StoreError> {
    let (mut keys, mut old, mut new) = (Vec::new(), Vec::new(), Vec::new());
    for row in moved {
        keys.push(row.try_get::<_, i64>(0)?);
        old.push(hex(&hash(row.try_get(1)?)?.0));
        new.push(hex(&hash(row.try_get(2)?)?.0));
    }
    conn.run(
        "WITH shown AS (SELECT k.id, moved.new \
             FROM unnest($1::bigint[], $2::text[], $3::text[]) AS moved (id, old, new) \
             JOIN api_keys k ON k.id = moved.id AND k.hashed_key = moved.old \
             ORDER BY k.id FOR NO KEY UPDATE OF k) \
         UPDATE api_keys k SET hashed_key = shown.new FROM shown WHERE k.id = shown.id",
        &[&keys, &old, &new],
    )
    .await?;
    Ok(())
}
