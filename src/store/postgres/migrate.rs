//! Schema migrations.

use tokio_postgres::error::SqlState;

use super::conn::Conn;
use super::rows::hex;
use super::server_error::{ServerError, cause};
use crate::model::Fingerprint;
use crate::store::StoreError;
use crate::time::Timestamp;

/// Migrations in version order.
const MIGRATIONS: [&str; 1] = [include_str!("migrations/0005_tables.sql")];

/// The version created by the first migration. Earlier versions were never released.
const FIRST_VERSION: usize = 5;

const VERSION: usize = FIRST_VERSION + MIGRATIONS.len() - 1;

/// Recorded in new tables; existing ones must have this fingerprint.
pub(super) struct SchemaParams {
    pub(super) fingerprint: Fingerprint,
    pub(super) now: Timestamp,
}

/// Creates or migrates the tables, or returns why they cannot be used. Concurrent calls are
/// serialized.
pub(super) async fn check(conn: &Conn, params: &SchemaParams) -> Result<(), StoreError> {
    conn.batch("BEGIN; SELECT pg_advisory_xact_lock(hashtext('keyguard tables'))")
        .await?;
    let checked = check_locked(conn, params).await;
    let end = if checked.is_ok() {
        "COMMIT"
    } else {
        "ROLLBACK"
    };
    conn.batch(end).await?;
    checked.map_err(explained)
}

async fn check_locked(conn: &Conn, params: &SchemaParams) -> Result<(), StoreError> {
    let version = match existing_version(conn).await? {
        Some(version) if version < FIRST_VERSION => {
            return Err(refused(format!(
                "its tables have version {version}, but this version of keyguard supports {VERSION}; \
                 use the version that created them, or a new database"
            )));
        }
        Some(version) => {
            check_fingerprint(conn, params).await?;
            version
        }
        None => {
            conn.batch("CREATE TABLE keyguard_meta (name text PRIMARY KEY, value text NOT NULL)")
                .await?;
            put(conn, "fingerprint", hex(&params.fingerprint.0)).await?;
            put(conn, "created_at", params.now.to_string()).await?;
            FIRST_VERSION - 1
        }
    };
    if version > VERSION {
        return Err(refused(format!(
            "its tables have version {version}, but this version of keyguard supports {VERSION}; use \
             the version that created them, or a newer one"
        )));
    }
    if version < VERSION {
        for migration in &MIGRATIONS[version + 1 - FIRST_VERSION..] {
            conn.batch(migration).await?;
        }
        put(conn, "schema", VERSION.to_string()).await?;
    }
    check_privileges(conn).await
}

/// Returns `None` if there are no tables.
async fn existing_version(conn: &Conn) -> Result<Option<usize>, StoreError> {
    let row = conn
        .one(
            "SELECT to_regclass('keyguard_meta') IS NOT NULL, \
             to_regclass('organizations') IS NOT NULL OR to_regclass('api_keys') IS NOT NULL",
            &[],
        )
        .await?;
    match (row.try_get(0)?, row.try_get(1)?) {
        (true, _) => {
            let version = get(conn, "schema").await?;
            let version = version.and_then(|version| version.parse().ok());
            let unknown = || StoreError::damaged("the version of its tables is unknown");
            version.ok_or_else(unknown).map(Some)
        }
        (false, true) => Err(refused(
            "the database contains tables `organizations` and `api_keys` of another program, perhaps \
             the Python package, and was not changed; import it into a new database: keyguard --db NEW import --from postgres://…",
        )),
        (false, false) => Ok(None),
    }
}

async fn check_fingerprint(conn: &Conn, params: &SchemaParams) -> Result<(), StoreError> {
    if get(conn, "fingerprint").await? == Some(hex(&params.fingerprint.0)) {
        return Ok(());
    }
    Err(refused(
        "the database was created with another secret; give that secret (keys are hashed under it)",
    ))
}

/// Checks the privileges on all tables and for adding daily usage tables.
async fn check_privileges(conn: &Conn) -> Result<(), StoreError> {
    let row = conn
        .one(
            "SELECT has_schema_privilege(current_schema(), 'CREATE'), \
             (SELECT pg_has_role(relowner, 'USAGE') FROM pg_class \
              WHERE oid = to_regclass('usage_logs')), \
             (SELECT string_agg(relname, ', ' ORDER BY relname) FROM pg_class \
              WHERE oid IN (to_regclass('organizations'), to_regclass('api_keys'), \
                            to_regclass('usage_logs'), to_regclass('keyguard_state'), \
                            to_regclass('keyguard_credentials'), to_regclass('keyguard_audit'), \
                            to_regclass('keyguard_totals')) \
                AND NOT (has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT') \
                     AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE')))",
            &[],
        )
        .await?;
    let (creates, owns): (Option<bool>, Option<bool>) = (row.try_get(0)?, row.try_get(1)?);
    let closed: Option<String> = row.try_get(2)?;
    let missing = match (closed, creates, owns) {
        (Some(tables), ..) => format!("read and write {tables}"),
        (_, Some(true), Some(true)) => return Ok(()),
        _ => "create tables and own those of keyguard".into(),
    };
    Err(refused(format!(
        "its user must be able to {missing}, because keyguard adds a table for each day of usage"
    )))
}

async fn get(conn: &Conn, name: &str) -> Result<Option<String>, StoreError> {
    let row = conn
        .row("SELECT value FROM keyguard_meta WHERE name = $1", &[&name])
        .await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}

async fn put(conn: &Conn, name: &str, value: String) -> Result<(), StoreError> {
    conn.run(
        "INSERT INTO keyguard_meta VALUES ($1, $2) \
         ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        &[&name, &value],
    )
    .await?;
    Ok(())
}

/// Adds a remedy to a privilege error.
fn explained(error: StoreError) -> StoreError {
    match cause(&error) {
        Some(error) if error.is(&SqlState::INSUFFICIENT_PRIVILEGE) => refused(format!(
            "{error}; let its user create tables in the database's schema"
        )),
        _ => error,
    }
}

fn refused(text: impl Into<String>) -> StoreError {
    ServerError::refusal(text).into()
}
