//! Conversion of rows.

use std::num::NonZeroU32;

use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::types::Json;

use super::array::Array;
use super::conn::Conn;
use crate::limit::{Limit, Period};
use crate::model::{Key, KeyId, KeyStatus, LimitOverride, Org, OrgId, OrgStatus, Scope};
use crate::store::StoreError;
use crate::store::codec::{read_allowed_ips, read_limits, read_scopes};
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
         k.allowed_ips, k.overrides, k.created_at, k.expires_at, k.last_used_at, k.suspended"
    };
}

/// Selects organizations `o` for [`org`]; the condition may go on with an order.
macro_rules! select_orgs {
    ($condition:literal) => {
        concat!(
            "SELECT ",
            org_columns!(),
            " FROM organizations o WHERE ",
            $condition
        )
    };
}

/// Selects keys `k` for [`key`]; the condition may go on with an order.
macro_rules! select_keys {
    ($condition:literal) => {
        concat!(
            "SELECT ",
            key_columns!(),
            " FROM api_keys k WHERE ",
            $condition
        )
    };
}

pub(super) use {key_columns, org_columns, select_keys, select_orgs};

/// Number of columns of a key.
pub(super) const KEY_WIDTH: usize = 14;
/// Number of columns of an organization.
pub(super) const ORG_WIDTH: usize = 6;

/// Reads an organization, starting at a column.
pub(super) fn org(row: &Row, at: usize) -> Result<Org, StoreError> {
    Ok(Org {
        id: OrgId(row.try_get::<_, i64>(at)? as u64),
        name: row.try_get(at + 1)?,
        status: org_status(row.try_get(at + 2)?)?,
        limits: read_limits(row.try_get::<_, Array<&str>>(at + 3)?.0)?,
        overrides: row.try_get::<_, Json<Vec<LimitOverride>>>(at + 4)?.0,
        created_at: time(row.try_get(at + 5)?),
    })
}

fn org_status(text: &str) -> Result<OrgStatus, StoreError> {
    let known = [OrgStatus::Active, OrgStatus::Suspended];
    let status = known.into_iter().find(|status| status.as_str() == text);
    status.ok_or_else(|| StoreError::damaged("an organization has an unknown status"))
}

/// Reads a key, starting at a column.
pub(super) fn key(row: &Row, at: usize) -> Result<Key, StoreError> {
    let rate = row.try_get::<_, i64>(at + 6)?;
    let rate = u32::try_from(rate).ok().and_then(NonZeroU32::new);
    let scopes: &str = row.try_get(at + 5)?;
    Ok(Key {
        id: KeyId(row.try_get::<_, i64>(at)? as u64),
        org_id: OrgId(row.try_get::<_, i64>(at + 1)? as u64),
        label: row.try_get(at + 2)?,
        shown_prefix: row.try_get(at + 3)?,
        status: key_status(row.try_get(at + 4)?, row.try_get(at + 13)?),
        scopes: read_scopes(scopes.split(',').filter(|scope| !scope.is_empty()))?,
        rate_limit_per_minute: rate
            .ok_or_else(|| StoreError::damaged("a key has an invalid limit"))?,
        limits: read_limits(row.try_get::<_, Array<&str>>(at + 7)?.0)?,
        allowed_ips: read_allowed_ips(row.try_get::<_, Array<&str>>(at + 8)?.0)?,
        overrides: row.try_get::<_, Json<Vec<LimitOverride>>>(at + 9)?.0,
        created_at: time(row.try_get(at + 10)?),
        expires_at: row.try_get::<_, Option<_>>(at + 11)?.map(time),
        last_used_at: row.try_get::<_, Option<_>>(at + 12)?.map(time),
        old_text_until: None,
    })
}

fn key_status(active: bool, suspended: bool) -> KeyStatus {
    match (active, suspended) {
        (_, true) => KeyStatus::Suspended,
        (true, false) => KeyStatus::Active,
        (false, false) => KeyStatus::Revoked,
    }
}

pub(super) fn time(at: OffsetDateTime) -> Timestamp {
    Timestamp::from_utc(at)
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

/// The number of rows to request.
pub(super) fn at_most(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// As hexadecimal digits.
pub(super) fn hex(bytes: &[u8; 32]) -> String {
    blake3::Hash::from_bytes(*bytes).to_hex().to_string()
}

pub(super) fn at_second(second: u64) -> OffsetDateTime {
    Timestamp::from_unix_millis(second.saturating_mul(1_000)).to_utc()
}

/// Calendar time of the server.
pub(super) async fn server_time(conn: &Conn) -> Result<Timestamp, StoreError> {
    let row = conn.one("SELECT clock_timestamp()", &[]).await?;
    Ok(time(row.try_get(0)?))
}
