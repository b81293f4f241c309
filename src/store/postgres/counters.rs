//! Balances of calendar quotas and credits.

use std::collections::BTreeSet;

use tokio_postgres::Row;

use super::array::Array;
use super::conn::Conn;
use super::rows;
use crate::counter::{CounterId, SavedCounter, SavedValue, SubjectId};
use crate::limit::Balance;
use crate::store::StoreError;
use crate::store::codec::{decode_balance_id, encode_balance_id};
use crate::time::Timestamp;

/// Balances by subject.
pub(super) type Balances = Vec<(SubjectId, Vec<SavedCounter>)>;

/// Rows to store, in table order. The last of several rows of one counter wins.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BalanceRow {
    subject: i64,
    counter: Vec<u8>,
    at: i64,
    used: i64,
    /// The maximum number of milliseconds by which `at` can lie ahead.
    ahead: i64,
}

pub(super) fn as_rows(
    balances: &[(SubjectId, Vec<SavedCounter>)],
) -> Result<Vec<BalanceRow>, StoreError> {
    let mut rows = Vec::new();
    for (subject, balances) in balances {
        for saved in balances {
            let SavedValue::Balance(balance) = &saved.value else {
                continue;
            };
            let Some(counter) = encode_balance_id(&saved.id)? else {
                continue;
            };
            rows.push(BalanceRow {
                subject: bits(*subject),
                counter,
                at: balance.at().unix_millis() as i64,
                used: i64::try_from(balance.used()).unwrap_or(i64::MAX),
                ahead: Balance::latest(Timestamp::default(), saved.id.period).unix_millis() as i64,
            });
        }
    }
    rows.sort();
    // A statement must not write a row twice.
    rows.dedup_by(|next, row| {
        let is_same = next.subject == row.subject && next.counter == row.counter;
        if is_same {
            std::mem::swap(next, row);
        }
        is_same
    });
    Ok(rows)
}

pub(super) async fn of(conn: &Conn, id: SubjectId) -> Result<Vec<SavedCounter>, StoreError> {
    let rows = conn
        .rows(
            "SELECT counter, used, at FROM keyguard_balances WHERE subject_id = $1 ORDER BY counter",
            &[&bits(id)],
        )
        .await?;
    let saved = |row: &Row| saved(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    rows.iter().map(saved).collect()
}

fn saved(counter: &[u8], used: i64, at: i64) -> Result<SavedCounter, StoreError> {
    let at = Timestamp::from_unix_millis(at as u64);
    Ok(SavedCounter {
        id: decode_balance_id(counter)?,
        value: SavedValue::Balance(Balance::stored(used as u64, at)),
    })
}

/// The columns of the balances of a key `k` and its organization `o`; see [`resolved`].
macro_rules! balances_join {
    () => {
        " CROSS JOIN LATERAL (SELECT array_agg(b.subject_id) AS subjects, \
             array_agg(b.counter) AS counters, array_agg(b.used) AS used, array_agg(b.at) AS at \
             FROM (SELECT * FROM keyguard_balances \
                   WHERE subject_id = ANY(ARRAY[k.id, o.id | (1::bigint << 63)]) \
                   ORDER BY subject_id, counter) b) b "
    };
}

macro_rules! balances_columns {
    () => {
        "b.subjects, b.counters, b.used, b.at"
    };
}

pub(super) use {balances_columns, balances_join};

/// Reads the balances of a key and its organization, starting at a column.
pub(super) fn resolved(row: &Row, at: usize) -> Result<Balances, StoreError> {
    let Some(Array(subjects)) = row.try_get::<_, Option<Array<i64>>>(at)? else {
        return Ok(Vec::new());
    };
    let Array::<&[u8]>(counters) = row.try_get(at + 1)?;
    let Array::<i64>(used) = row.try_get(at + 2)?;
    let Array::<i64>(since) = row.try_get(at + 3)?;
    let values = used.into_iter().zip(since);
    let rows = subjects.into_iter().zip(counters).zip(values);
    by_subject(
        rows.map(|((subject, counter), (used, at))| Ok((subject, saved(counter, used, at)?))),
    )
}

/// The balances of at most `limit` subjects with ids above `after`.
pub(super) async fn page(
    conn: &Conn,
    after: Option<i64>,
    limit: i64,
) -> Result<Balances, StoreError> {
    let rows = conn
        .rows(
            "SELECT subject_id, counter, used, at FROM keyguard_balances \
             WHERE subject_id IN (SELECT DISTINCT subject_id FROM keyguard_balances \
                                WHERE subject_id > $1 ORDER BY subject_id LIMIT $2) \
             ORDER BY subject_id, counter",
            &[&after.unwrap_or(i64::MIN), &limit],
        )
        .await?;
    let balance = |row: &Row| {
        let saved = saved(row.try_get(1)?, row.try_get(2)?, row.try_get(3)?)?;
        Ok((row.try_get(0)?, saved))
    };
    by_subject(rows.iter().map(balance))
}

/// Groups consecutive rows by subject.
fn by_subject(
    rows: impl Iterator<Item = Result<(i64, SavedCounter), StoreError>>,
) -> Result<Balances, StoreError> {
    let mut subjects: Balances = Vec::new();
    for row in rows {
        let (subject, saved) = row?;
        let subject = SubjectId::from_bits(subject as u64);
        match subjects.last_mut() {
            Some((last, balances)) if *last == subject => balances.push(saved),
            _ => subjects.push((subject, vec![saved])),
        }
    }
    Ok(subjects)
}

/// When several nodes write a balance, the later day, month or refill wins, then the larger amount.
/// A time further ahead than any period is from a wrong clock: it is cut and does not win.
pub(super) async fn put(conn: &Conn, balances: &[BalanceRow]) -> Result<(), StoreError> {
    if balances.is_empty() {
        return Ok(());
    }
    let now = rows::server_time(conn).await?.unix_millis() as i64;
    let kinds: BTreeSet<i64> = balances.iter().map(|row| row.ahead).collect();
    // All nodes write in this order, and rows of a table in key order, to avoid deadlocks.
    for ahead in kinds {
        let of_kind = balances.iter().filter(|row| row.ahead == ahead);
        put_of_kind(conn, of_kind.collect(), now + ahead).await?;
    }
    Ok(())
}

async fn put_of_kind(
    conn: &Conn,
    balances: Vec<&BalanceRow>,
    latest: i64,
) -> Result<(), StoreError> {
    let subjects: Vec<_> = balances.iter().map(|row| row.subject).collect();
    let counters: Vec<_> = balances.iter().map(|row| row.counter.as_slice()).collect();
    let used: Vec<_> = balances.iter().map(|row| row.used).collect();
    let at: Vec<_> = balances.iter().map(|row| row.at.min(latest)).collect();
    conn.run(
        "INSERT INTO keyguard_balances AS b (subject_id, counter, used, at) \
         SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::bigint[]) \
         ON CONFLICT (subject_id, counter) DO UPDATE SET at = excluded.at, used = \
             CASE WHEN excluded.at = b.at THEN greatest(excluded.used, b.used) \
             ELSE excluded.used END \
         WHERE excluded.at >= b.at OR b.at > $5",
        &[&subjects, &counters, &used, &at, &latest],
    )
    .await?;
    Ok(())
}

pub(super) async fn forget(
    conn: &Conn,
    counters: &[(SubjectId, CounterId)],
) -> Result<(), StoreError> {
    let (mut subjects, mut ids) = (Vec::new(), Vec::new());
    for (subject, id) in counters {
        if let Some(id) = encode_balance_id(id)? {
            subjects.push(bits(*subject));
            ids.push(id);
        }
    }
    conn.run(
        "DELETE FROM keyguard_balances WHERE (subject_id, counter) IN \
         (SELECT * FROM unnest($1::bigint[], $2::bytea[]))",
        &[&subjects, &ids],
    )
    .await?;
    Ok(())
}

/// Ids of organizations have the first bit set and are negative as `i64`.
pub(super) fn bits(id: SubjectId) -> i64 {
    id.to_bits() as i64
}
