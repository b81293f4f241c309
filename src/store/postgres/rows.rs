//! Conversion of rows.

use std::num::NonZeroU32;

use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::Json;

use super::conn::Conn;
use crate::limit::{Limit, Period};
use crate::model::{Key, KeyId, KeyStatus, LimitOverride, Org, OrgId, OrgStatus, Scope};
use crate::net::CidrSet;
use crate::store::StoreError;
use crate::time::Timestamp;

/// The columns of [`org`].
macro_rules! org_columns {
    () => {
        "o.id, o.name, o.status, o.limits, o.overrides, o.created_at"
    };
}

/// The columns of [`key`].
macro_rules! key_columns {
    () => {
        "k.id, k.org_id, k.label, k.prefix, k.active, k.scopes, k.rate_limit_per_minute, k.limits, \
         k.allowed_ips, k.overrides, k.created_at, k.expires_at, k.last_used_at"
    };
}

pub(super) use {key_columns, org_columns};

/// Number of columns of a key.
pub(super) const KEY_WIDTH: usize = 13;
/// Number of columns of an organization.
pub(super) const ORG_WIDTH: usize = 6;

/// Reads an organization, starting at a column.
pub(super) fn org(row: &Row, at: usize) -> Result<Org, StoreError> {
    Ok(Org {
        id: OrgId(row.try_get::<_, i64>(at)? as u64),
        name: row.try_get(at + 1)?,
        status: match row.try_get(at + 2)? {
            "active" => OrgStatus::Active,
            "suspended" => OrgStatus::Suspended,
            _ => return Err(damaged("an organization has an unknown status")),
        },
        limits: limits(row.try_get(at + 3)?)?,
        overrides: row.try_get::<_, Json<Vec<LimitOverride>>>(at + 4)?.0,
        created_at: time(row.try_get(at + 5)?),
    })
}

pub(super) fn status(status: OrgStatus) -> &'static str {
    match status {
        OrgStatus::Active => "active",
        OrgStatus::Suspended => "suspended",
    }
}

/// Reads a key, starting at a column.
pub(super) fn key(row: &Row, at: usize) -> Result<Key, StoreError> {
    let rate = row.try_get::<_, i64>(at + 6)?;
    let rate = u32::try_from(rate).ok().and_then(NonZeroU32::new);
    Ok(Key {
        id: KeyId(row.try_get::<_, i64>(at)? as u64),
        org_id: OrgId(row.try_get::<_, i64>(at + 1)? as u64),
        label: row.try_get(at + 2)?,
        shown_prefix: row.try_get(at + 3)?,
        status: KeyStatus::stored(row.try_get(at + 4)?),
        scopes: read_scopes(row.try_get(at + 5)?)?,
        rate_limit_per_minute: rate.ok_or_else(|| damaged("a key has an invalid limit"))?,
        limits: limits(row.try_get(at + 7)?)?,
        allowed_ips: CidrSet::parse("allowed_ips", row.try_get::<_, Vec<&str>>(at + 8)?)
            .map_err(|_| damaged("a key has an invalid allowed address"))?,
        overrides: row.try_get::<_, Json<Vec<LimitOverride>>>(at + 9)?.0,
        created_at: time(row.try_get(at + 10)?),
        expires_at: row.try_get::<_, Option<_>>(at + 11)?.map(time),
        last_used_at: row.try_get::<_, Option<_>>(at + 12)?.map(time),
    })
}

pub(super) fn time(at: OffsetDateTime) -> Timestamp {
    Timestamp::from_utc(at)
}

fn limits(texts: Vec<&str>) -> Result<Vec<Limit>, StoreError> {
    let limits = texts.into_iter().map(str::parse);
    limits
        .collect::<Result<_, _>>()
        .map_err(|_| damaged("a limit cannot be read"))
}

pub(super) fn limit_texts(limits: &[Limit]) -> Vec<String> {
    limits.iter().map(Limit::to_string).collect()
}

/// The enforced monthly limit, if any.
pub(super) fn monthly_limit(limits: &[Limit]) -> Option<i64> {
    let monthly = |limit: &&Limit| limit.period == Period::Month && !limit.shadow;
    let limit = limits.iter().find(monthly)?;
    i64::try_from(limit.amount.get()).ok()
}

/// Scopes contain no comma.
pub(super) fn scopes_text(scopes: &[Scope]) -> String {
    let scopes: Vec<_> = scopes.iter().map(Scope::as_str).collect();
    scopes.join(",")
}

fn read_scopes(text: &str) -> Result<Vec<Scope>, StoreError> {
    let scopes = text.split(',').filter(|scope| !scope.is_empty());
    scopes
        .map(str::parse)
        .collect::<Result<_, _>>()
        .map_err(|_| damaged("a key has an invalid scope"))
}

/// The number of rows to request.
pub(super) fn at_most(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

pub(super) fn damaged(what: &str) -> StoreError {
    StoreError::Damaged(what.into())
}

/// Calendar time of the server.
pub(super) async fn server_time(conn: &Conn) -> Result<Timestamp, StoreError> {
    let row = conn.one("SELECT clock_timestamp()", &[]).await?;
    Ok(time(row.try_get(0)?))
}
