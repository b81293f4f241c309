//! From the text of a key to the key: credentials.

use tokio_postgres::error::SqlState;

use super::conn::Conn;
use super::problem::cause;
use super::rows::{self, KEY_WIDTH, key_columns, org_columns};
use crate::clock::Timestamp;
use crate::key::HashedKey;
use crate::record::KeyId;
use crate::store::{NewCredential, Resolved, StoreError};

/// Keyed BLAKE3, and the secret that a database is made with; a rotated one will be 2.
const SCHEME: i16 = 1;
const FIRST_SECRET: i32 = 1;

pub(super) async fn resolve(conn: &Conn, hash: HashedKey) -> Result<Option<Resolved>, StoreError> {
    let row = conn
        .row(
            concat!(
                "SELECT ",
                key_columns!(),
                ", ",
                org_columns!(),
                ", c.expires_at, c.scheme FROM keyguard_credentials c \
                 JOIN api_keys k ON k.id = c.key_id JOIN organizations o ON o.id = k.org_id \
                 WHERE c.hash = $1"
            ),
            &[&hash.0.as_slice()],
        )
        .await?;
    let Some(row) = row else {
        return Ok(None);
    };
    if row.try_get::<_, i16>("scheme")? != SCHEME {
        return Err(rows::damaged("a credential has an unknown hash scheme"));
    }
    let expires_at = row.try_get::<_, Option<_>>(KEY_WIDTH + 6)?;
    Ok(Some(Resolved {
        key: rows::key(&row, 0)?,
        org: rows::org(&row, KEY_WIDTH)?,
        credential_expires_at: expires_at.map(rows::time),
    }))
}

pub(super) async fn resolve_id(conn: &Conn, id: KeyId) -> Result<Option<Resolved>, StoreError> {
    let row = conn
        .row(
            concat!(
                "SELECT ",
                key_columns!(),
                ", ",
                org_columns!(),
                " FROM api_keys k JOIN organizations o ON o.id = k.org_id WHERE k.id = $1"
            ),
            &[&(id.0 as i64)],
        )
        .await?;
    let resolved = |row| {
        Ok(Resolved {
            key: rows::key(&row, 0)?,
            org: rows::org(&row, KEY_WIDTH)?,
            credential_expires_at: None,
        })
    };
    row.map(resolved).transpose()
}

pub(super) async fn insert(
    conn: &Conn,
    id: KeyId,
    credential: &NewCredential,
) -> Result<(), StoreError> {
    let inserted = conn
        .run(
            "INSERT INTO keyguard_credentials (hash, key_id, scheme, secret_id, created_at) \
             VALUES ($1, $2, $3, $4, $5)",
            &[
                &credential.hash.0.as_slice(),
                &(id.0 as i64),
                &SCHEME,
                &FIRST_SECRET,
                &credential.created_at.to_utc(),
            ],
        )
        .await;
    match inserted {
        Ok(_) => Ok(()),
        // The text of one key would from now on open another: the transaction must not commit.
        Err(error) if cause(&error).is_some_and(|why| why.is(&SqlState::UNIQUE_VIOLATION)) => Err(
            StoreError::Unavailable("a key with this text exists already".into()),
        ),
        Err(error) => Err(error),
    }
}

/// Lets all of a key expire at `at`, or earlier if they would anyway.
pub(super) async fn retire(conn: &Conn, id: KeyId, at: Timestamp) -> Result<(), StoreError> {
    conn.run(
        "UPDATE keyguard_credentials SET expires_at = least(expires_at, $2) WHERE key_id = $1",
        &[&(id.0 as i64), &at.to_utc()],
    )
    .await?;
    Ok(())
}
