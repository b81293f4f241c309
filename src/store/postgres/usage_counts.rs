//! Counting requests: one statement over the totals of keys and individual requests, or the totals of
//! minutes.

use std::collections::BTreeMap;
use std::ops::Range;

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::conn::Conn;
use super::rows::{at_most, at_second, time};
use super::server_error::is_cancelled;
use super::totals::set;
use super::usage::usage;
use crate::model::{KeyId, Reason, UsageFilter, UsageGroup, UsageQuery};
use crate::store::usage_counts::{
    GroupValue, UsageCounts, UsageGroups, UsagePage, UsagePart, UsagePlan, in_order,
};
use crate::store::{Count, Minute, StoreError, Tally};
use crate::time::Timestamp;

/// Statements see one state of the database, and end before the whole query must.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
    SET LOCAL statement_timeout = '9s'";

pub(super) async fn count(
    conn: &Conn,
    query: &UsageQuery,
    now: Timestamp,
) -> Result<UsageCounts, StoreError> {
    conn.batch(BEGIN).await?;
    let counted = count_in_transaction(conn, query, now).await;
    conn.batch("ROLLBACK").await?;
    counted.map_err(|error| match is_cancelled(&error) {
        true => StoreError::TooMuchUsage,
        false => error,
    })
}

async fn count_in_transaction(
    conn: &Conn,
    query: &UsageQuery,
    now: Timestamp,
) -> Result<UsageCounts, StoreError> {
    let plan = UsagePlan::new(query, now, first_time(conn).await?);
    if let [UsagePart::Minutes(minutes)] = plan.parts.as_slice() {
        let mut groups = UsageGroups::new(query);
        add_minutes(conn, minutes, &mut groups).await?;
        return Ok(groups.finish(&plan));
    }
    let statement = Statement::new(query, &plan);
    let rows = conn.rows_once(&statement.sql, &statement.params()).await?;
    // Without a row, nothing was counted.
    let total = rows
        .first()
        .map_or(Ok(Count::default()), |row| count_at(row, 4))?;
    let groups = rows.iter().map(|row| {
        let group = group(row, query.by)?;
        Ok((group, count_at(row, 2)?))
    });
    let mut groups = groups.collect::<Result<Vec<_>, StoreError>>()?;
    in_order(query, &mut groups);
    Ok(plan.counts(total, groups))
}

/// Returns at most `limit` rows with ids above `from`.
pub(super) async fn page(
    conn: &Conn,
    query: &UsageQuery,
    from: u64,
    limit: usize,
) -> Result<UsagePage, StoreError> {
    let mut statement = Statement::default();
    let above = statement.param(from as i64);
    let conditions = statement.conditions(query, &(query.since..query.until));
    let most = statement.param(at_most(limit));
    let sql = format!(
        "SELECT created_at, key_id, method, path, ip, status_code, latency_ms, refused, id \
         FROM usage_logs WHERE id > {above} AND {conditions} ORDER BY id LIMIT {most}"
    );
    let rows = conn.rows_once(&sql, &statement.params()).await?;
    let last = rows.last().filter(|_| rows.len() == limit);
    let next = last.map(|row| row.try_get::<_, i64>(8)).transpose()?;
    Ok(UsagePage {
        rows: rows.iter().map(usage).collect::<Result<_, _>>()?,
        next: next.map(|id| id as u64),
    })
}

/// Returns a time since which all rows are kept, except for rows of wrong clocks; `None` without rows.
async fn first_time(conn: &Conn) -> Result<Option<Timestamp>, StoreError> {
    let sql = "SELECT created_at FROM usage_logs ORDER BY id LIMIT 1";
    let row = conn.row(sql, &[]).await?;
    row.map(|row| Ok(time(row.try_get(0)?))).transpose()
}

async fn add_minutes(
    conn: &Conn,
    minutes: &Range<Minute>,
    groups: &mut UsageGroups<'_>,
) -> Result<(), StoreError> {
    let rows = conn
        .rows(
            "SELECT minute, name, value FROM keyguard_minutes \
             WHERE minute >= $1 AND minute < $2 ORDER BY minute",
            &[
                &at_second(minutes.start.saturating_mul(60)),
                &at_second(minutes.end.saturating_mul(60)),
            ],
        )
        .await?;
    let mut tallies: BTreeMap<Minute, Tally> = BTreeMap::new();
    for row in &rows {
        let minute = time(row.try_get(0)?).minute();
        let value = row.try_get::<_, i64>(2)? as u64;
        set(tallies.entry(minute).or_default(), row.try_get(1)?, value);
    }
    for (minute, tally) in &tallies {
        groups.add_minute(*minute, tally);
    }
    Ok(())
}

/// A statement that counts the parts of a plan. It returns a text, a number, requests and errors of each
/// group, and the requests and errors of all groups.
#[derive(Default)]
struct Statement {
    sql: String,
    params: Vec<Box<dyn ToSql + Sync>>,
}

impl Statement {
    fn new(query: &UsageQuery, plan: &UsagePlan) -> Self {
        let mut statement = Self::default();
        let parts = plan.parts.iter();
        let parts: Vec<_> = parts.map(|part| statement.part(query, part)).collect();
        let order = match query.by.period_millis() {
            // The latest periods.
            Some(_) => "number DESC",
            None => "requests DESC, number, text COLLATE \"C\"",
        };
        // At least one row, for the total.
        let limit = statement.param(at_most(query.limit.max(1)));
        statement.sql = format!(
            "SELECT text, number, requests, errors, \
                 (sum(requests) OVER ())::bigint, (sum(errors) OVER ())::bigint \
             FROM (SELECT text, number, sum(requests)::bigint AS requests, \
                 sum(errors)::bigint AS errors \
                 FROM ({}) AS part GROUP BY text, number) AS groups \
             ORDER BY {order} LIMIT {limit}",
            parts.join(" UNION ALL "),
        );
        statement
    }

    fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.params.iter().map(AsRef::as_ref).collect()
    }

    /// Adds a parameter; returns its name.
    fn param(&mut self, value: impl ToSql + Sync + 'static) -> String {
        self.params.push(Box::new(value));
        format!("${}", self.params.len())
    }

    fn part(&mut self, query: &UsageQuery, part: &UsagePart) -> String {
        match part {
            UsagePart::KeyHours(hours) => {
                self.periods(query, "keyguard_key_hours", "hour", 3_600, hours)
            }
            UsagePart::KeyDays(days) => {
                self.periods(query, "keyguard_key_days", "day", 86_400, days)
            }
            UsagePart::KeyTotals => {
                let keys = self.keys(&query.filter);
                format!(
                    "SELECT NULL::text AS text, key_id AS number, requests, errors \
                     FROM keyguard_key_totals WHERE requests > 0{keys}"
                )
            }
            UsagePart::Rows(range) => self.rows(query, range),
            // Counted without a statement.
            UsagePart::Minutes(_) => "SELECT NULL::text AS text, 0::bigint AS number, \
                0::bigint AS requests, 0::bigint AS errors WHERE false"
                .to_owned(),
        }
    }

    fn periods(
        &mut self,
        query: &UsageQuery,
        table: &str,
        column: &str,
        seconds: u64,
        periods: &Range<u64>,
    ) -> String {
        let number = number(query.by, column);
        let first = self.param(at_second(periods.start.saturating_mul(seconds)));
        let end = self.param(at_second(periods.end.saturating_mul(seconds)));
        let keys = self.keys(&query.filter);
        format!(
            "SELECT NULL::text AS text, {number} AS number, requests, errors FROM {table} \
             WHERE {column} >= {first} AND {column} < {end}{keys}"
        )
    }

    fn rows(&mut self, query: &UsageQuery, range: &Range<Timestamp>) -> String {
        let text = match query.by {
            UsageGroup::Path => "path",
            UsageGroup::Ip => "ip",
            _ => "NULL::text",
        };
        let number = number(query.by, "created_at");
        // Then an index has all that is read.
        let errors = match query.filter.refused || query.filter.reason.is_some() {
            true => "count(*)",
            false => "count(*) FILTER (WHERE refused IS NOT NULL OR status_code >= 400)",
        };
        let conditions = self.conditions(query, range);
        format!(
            "SELECT {text} AS text, {number} AS number, count(*) AS requests, {errors} AS errors \
             FROM usage_logs WHERE {conditions} GROUP BY 1, 2"
        )
    }

    /// The conditions of individual requests.
    fn conditions(&mut self, query: &UsageQuery, range: &Range<Timestamp>) -> String {
        let since = self.param(range.start.to_utc());
        let mut conditions = format!("created_at >= {since}");
        if range.end < Timestamp::MAX {
            let until = self.param(range.end.to_utc());
            conditions += &format!(" AND created_at < {until}");
        }
        conditions += &self.keys(&query.filter);
        conditions += &self.responses(&query.filter);
        conditions
    }

    fn keys(&mut self, filter: &UsageFilter) -> String {
        let mut conditions = String::new();
        if let Some(key) = filter.key {
            let key = self.param(key.0 as i64);
            conditions += &format!(" AND key_id = {key}");
        }
        if let Some(org) = filter.org {
            let org = self.param(org.0 as i64);
            conditions += &format!(" AND key_id IN (SELECT id FROM api_keys WHERE org_id = {org})");
        }
        conditions
    }

    /// The conditions that only individual requests can meet.
    fn responses(&mut self, filter: &UsageFilter) -> String {
        let mut conditions = String::new();
        if filter.refused {
            conditions += " AND refused IS NOT NULL";
        }
        if let Some(reason) = filter.reason {
            let reason = self.param(reason as i16);
            conditions += &format!(" AND refused = {reason}");
        }
        if let Some(statuses) = filter.statuses {
            let first = self.param(i32::from(statuses.first));
            let last = self.param(i32::from(statuses.last));
            conditions += &format!(" AND status_code BETWEEN {first} AND {last}");
        }
        if let Some(path) = &filter.path {
            // PostgreSQL text cannot contain NUL; paths are stored without.
            let text = |text: &str| text.replace('\0', "\u{fffd}");
            conditions += &match path.prefix() {
                Some(prefix) => {
                    let prefix = self.param(text(prefix));
                    format!(" AND starts_with(path, {prefix})")
                }
                None => {
                    let path = self.param(text(path.text()));
                    format!(" AND path = {path}")
                }
            };
        }
        if let Some(ips) = &filter.ips {
            // `local` is stored as such.
            let (nets, addresses): (Vec<_>, Vec<_>) =
                ips.texts().into_iter().partition(|text| text.contains('/'));
            let has_nets = !nets.is_empty();
            let addresses = self.param(addresses);
            let nets = has_nets.then(|| self.param(nets));
            // Comparing texts takes half as long as parsing them. Not every text is an `inet`.
            conditions += &match nets {
                None => format!(" AND ip = ANY ({addresses})"),
                Some(nets) => format!(
                    " AND (ip = ANY ({addresses}) OR CASE ip WHEN 'local' THEN false \
                     ELSE ip::inet <<= ANY ({nets}::text[]::inet[]) END)"
                ),
            };
        }
        conditions
    }
}

/// The number of a group in SQL.
fn number(by: UsageGroup, at: &str) -> String {
    match by {
        UsageGroup::Minute | UsageGroup::Hour | UsageGroup::Day => {
            let seconds = by.period_millis().unwrap_or(1_000) / 1_000;
            format!("floor(extract(epoch FROM {at}) / {seconds})::bigint")
        }
        UsageGroup::Key => "key_id".to_owned(),
        UsageGroup::Status => "status_code::bigint".to_owned(),
        UsageGroup::Reason => "coalesce(refused, 0)::bigint".to_owned(),
        UsageGroup::Path | UsageGroup::Ip => "0::bigint".to_owned(),
    }
}

fn group(row: &Row, by: UsageGroup) -> Result<GroupValue, StoreError> {
    let number = row.try_get::<_, i64>(1)?;
    let damaged = |what: &str| StoreError::damaged(format!("a row of usage has {what}"));
    Ok(match by {
        UsageGroup::Minute | UsageGroup::Hour | UsageGroup::Day => {
            let unit = by.period_millis().unwrap_or(1);
            let start = (number as u64).saturating_mul(unit);
            GroupValue::Start(Timestamp::from_unix_millis(start))
        }
        UsageGroup::Key => GroupValue::Key(KeyId(number as u64)),
        UsageGroup::Status => {
            let status = u16::try_from(number).map_err(|_| damaged("no status"))?;
            GroupValue::Status(status)
        }
        UsageGroup::Reason if number == 0 => GroupValue::Reason(None),
        UsageGroup::Reason => {
            let reason = u8::try_from(number).ok().and_then(Reason::from_code);
            let reason = reason.ok_or_else(|| damaged("an unknown reason"))?;
            GroupValue::Reason(Some(reason))
        }
        UsageGroup::Path => GroupValue::Path(row.try_get(0)?),
        UsageGroup::Ip => {
            let ip = row.try_get::<_, &str>(0)?.parse();
            GroupValue::Ip(ip.map_err(|_| damaged("no address"))?)
        }
    })
}

fn count_at(row: &Row, column: usize) -> Result<Count, StoreError> {
    Ok(Count {
        requests: row.try_get::<_, i64>(column)? as u64,
        errors: row.try_get::<_, i64>(column + 1)? as u64,
    })
}
