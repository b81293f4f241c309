//! The tables of the database.

use redb::{Key, ReadableTable, TableDefinition, TableHandle, Value, WriteTransaction};

use super::rows::missing;
use crate::store::StoreError;
use crate::store::codec::{Record, RecordCounts};
use crate::store::totals::{Lifetime, TopKeys};
use crate::time::Timestamp;

/// A table of records.
pub(super) type Records<K> = TableDefinition<'static, K, &'static [u8]>;

/// Single rows: see [`meta`].
pub(super) const META: Records<&str> = TableDefinition::new("keyguard");

/// Organizations by id.
pub(super) const ORGS: Records<u64> = TableDefinition::new("orgs");
/// Ids of organizations by name.
pub(super) const ORG_NAMES: TableDefinition<&str, u64> = TableDefinition::new("org names");
/// Ids of organizations by name skeleton. Names that look alike have the same skeleton.
pub(super) const ORG_SKELETONS: TableDefinition<&str, u64> = TableDefinition::new("org skeletons");
/// Keys by id.
pub(super) const KEYS: Records<u64> = TableDefinition::new("keys");
/// (time of expiry in milliseconds, key), of keys that expire and are not revoked.
pub(super) const EXPIRIES: TableDefinition<(u64, u64), ()> = TableDefinition::new("expiries");
/// (shown prefix, key)
pub(super) const KEY_PREFIXES: TableDefinition<(&str, u64), ()> =
    TableDefinition::new("key prefixes");
/// (organization, key)
pub(super) const ORG_KEYS: TableDefinition<(u64, u64), ()> = TableDefinition::new("org keys");
/// Credentials by hash.
pub(super) const CREDENTIALS: Records<&[u8; 32]> = TableDefinition::new("credentials");
/// (key, hash)
pub(super) const KEY_CREDENTIALS: TableDefinition<(u64, &[u8; 32]), ()> =
    TableDefinition::new("key credentials");

/// [`Activity`](crate::store::totals::Activity) by key: a row for each key that was ever used.
pub(super) const ACTIVITY: Records<u64> = TableDefinition::new("activity");
/// [`Count`](crate::store::Count) by (hour, key), of ended hours. With the hour first, rows are added
/// and expire at the ends of the table.
pub(super) const KEY_HOURS: Records<(u64, u64)> = TableDefinition::new("key hours");
/// [`Count`](crate::store::Count) by (key, day), of ended days.
pub(super) const KEY_DAYS: Records<(u64, u64)> = TableDefinition::new("key days");
/// [`Tally`](crate::store::Tally) by minute.
pub(super) const MINUTES: Records<u64> = TableDefinition::new("minutes");

/// The growing [block](crate::store::codec::block) of usage, in the pieces in which it was written.
pub(super) const USAGE_OPEN: Records<u64> = TableDefinition::new("usage open");
/// Full [blocks](crate::store::codec::block) of usage by sequence number; in the last row, the next number.
pub(super) const USAGE_BLOCKS: Records<u64> = TableDefinition::new("usage blocks");
/// The earliest and the latest time of each full block, so that most blocks are never read.
pub(super) const USAGE_TIMES: TableDefinition<u64, (u64, u64)> =
    TableDefinition::new("usage times");

/// Locks by [`lock_key`](crate::store::codec::lock_key).
pub(super) const LOCKS: Records<&[u8]> = TableDefinition::new("locks");

/// Calendar quotas and credits by subject.
pub(super) const BALANCES: Records<u64> = TableDefinition::new("balances");
/// Windows at the last orderly stop, by subject.
pub(super) const WINDOWS: Records<u64> = TableDefinition::new("windows");
/// Windows of addresses at the last orderly stop, in no order.
pub(super) const IP_WINDOWS: Records<u64> = TableDefinition::new("ip windows");

/// Refusals by rules in shadow mode, by the name of the rule.
pub(super) const SHADOW_DENIED: TableDefinition<&str, u64> = TableDefinition::new("shadow denied");

/// The audit log by number; append-only.
pub(super) const AUDIT: Records<u64> = TableDefinition::new("audit");
/// Completed requests by the hash of their idempotency key.
pub(super) const COMPLETED_REQUESTS: Records<&[u8; 32]> =
    TableDefinition::new("completed requests");

/// The outbox of webhooks, and the log of its deliveries: [`Delivery`](crate::model::Delivery) by number.
pub(super) const DELIVERIES: Records<u64> = TableDefinition::new("webhook deliveries");
/// (time of the next attempt in milliseconds, delivery), of pending deliveries.
pub(super) const DUE_DELIVERIES: TableDefinition<(u64, u64), ()> =
    TableDefinition::new("webhook due");
/// Until when no further event about a text is stored, in milliseconds.
pub(super) const EVENT_MARKS: TableDefinition<&str, u64> = TableDefinition::new("webhook marks");

/// Rows of [`META`].
pub(super) mod meta {
    /// The fingerprint of the secret: 32 bytes.
    pub(in crate::store::redb) const SECRET: &str = "secret";
    /// A random number that a file shares with its copies alone: 4 bytes.
    pub(in crate::store::redb) const FILE_ID: &str = "file id";
    /// When the file was created: 8 bytes, milliseconds since the Unix epoch.
    pub(in crate::store::redb) const CREATED: &str = "created";
    /// The number of committed changes: 8 bytes. Compared with the number of acknowledged ones.
    pub(in crate::store::redb) const COMMITS: &str = "commits";
    /// The id of the last counted batch of usage: 24 bytes. Absent before the first batch.
    pub(in crate::store::redb) const BATCH: &str = "batch";
    /// [`RecordCounts`](crate::store::codec::RecordCounts)
    pub(in crate::store::redb) const RECORD_COUNTS: &str = "record counts";
    /// [`Lifetime`](crate::store::Lifetime)
    pub(in crate::store::redb) const LIFETIME: &str = "lifetime";
    /// [`TopKeys`](crate::store::totals::TopKeys)
    pub(in crate::store::redb) const TOP_KEYS: &str = "top keys";
}

/// Work that is done on every table.
pub(super) trait TableVisitor {
    type Error;

    /// Works on one table. `show` returns the key of a row as text; `None` for keys that tell users nothing.
    fn visit<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
        show: impl Fn(K::SelfType<'_>) -> Option<String>,
    ) -> Result<(), Self::Error>;
}

/// Visits all tables: the only list of them.
pub(super) fn visit_all<T: TableVisitor>(visitor: &mut T) -> Result<(), T::Error> {
    visitor.visit(META, |name| text(&name))?;
    visitor.visit(ORGS, |id| text(&id))?;
    visitor.visit(ORG_NAMES, |name| text(&name))?;
    visitor.visit(ORG_SKELETONS, |name| text(&name))?;
    visitor.visit(KEYS, |id| text(&id))?;
    visitor.visit(EXPIRIES, |(_, key)| text(&key))?;
    visitor.visit(KEY_PREFIXES, |(_, key)| text(&key))?;
    visitor.visit(ORG_KEYS, |(_, key)| text(&key))?;
    visitor.visit(CREDENTIALS, |_| None)?;
    visitor.visit(KEY_CREDENTIALS, |(key, _)| text(&key))?;
    visitor.visit(ACTIVITY, |key| text(&key))?;
    visitor.visit(KEY_HOURS, |(hour, _)| minute(hour.saturating_mul(60)))?;
    visitor.visit(KEY_DAYS, |(key, _)| text(&key))?;
    visitor.visit(MINUTES, minute)?;
    visitor.visit(USAGE_OPEN, |_| None)?;
    visitor.visit(USAGE_TIMES, |number| text(&number))?;
    visitor.visit(USAGE_BLOCKS, |number| text(&number))?;
    visitor.visit(LOCKS, |_| None)?;
    visitor.visit(BALANCES, |subject| text(&subject))?;
    visitor.visit(WINDOWS, |subject| text(&subject))?;
    visitor.visit(IP_WINDOWS, |_| None)?;
    visitor.visit(SHADOW_DENIED, |name| text(&name))?;
    visitor.visit(AUDIT, |number| text(&number))?;
    visitor.visit(COMPLETED_REQUESTS, |_| None)?;
    visitor.visit(DELIVERIES, |number| text(&number))?;
    visitor.visit(DUE_DELIVERIES, |(_, number)| text(&number))?;
    visitor.visit(EVENT_MARKS, |mark| text(&mark))
}

/// Whether a table has only totals.
pub(super) fn is_of_totals(name: &str) -> bool {
    let totals = [
        ACTIVITY.name(),
        KEY_HOURS.name(),
        KEY_DAYS.name(),
        MINUTES.name(),
        SHADOW_DENIED.name(),
    ];
    totals.contains(&name)
}

/// Whether a table has only windows of rate limits, which count as empty if they cannot be read.
pub(super) fn is_of_windows(name: &str) -> bool {
    [WINDOWS.name(), IP_WINDOWS.name()].contains(&name)
}

/// Whether a new table may take the place of a damaged one, and lacks what cannot be read.
pub(super) fn is_replaceable(name: &str) -> bool {
    is_of_totals(name) || is_of_windows(name)
}

fn text(key: &impl ToString) -> Option<String> {
    Some(key.to_string())
}

/// Shows a minute since the Unix epoch.
fn minute(minute: u64) -> Option<String> {
    text(&Timestamp::from_unix_millis(minute.saturating_mul(60_000)))
}

/// Creates all tables and the rows of totals, so that a reader never meets an absent one.
pub(super) fn create(txn: &WriteTransaction) -> Result<(), StoreError> {
    visit_all(&mut Creation(txn))?;
    let mut meta = txn.open_table(META)?;
    meta.insert(
        meta::RECORD_COUNTS,
        RecordCounts::default().encode()?.as_slice(),
    )?;
    meta.insert(meta::LIFETIME, Lifetime::default().encode()?.as_slice())?;
    meta.insert(meta::TOP_KEYS, TopKeys::default().encode()?.as_slice())?;
    Ok(())
}

struct Creation<'txn>(&'txn WriteTransaction);

impl TableVisitor for Creation<'_> {
    type Error = StoreError;

    fn visit<K: Key + 'static, V: Value + 'static>(
        &mut self,
        table: TableDefinition<'static, K, V>,
        _: impl Fn(K::SelfType<'_>) -> Option<String>,
    ) -> Result<(), StoreError> {
        self.0.open_table(table)?;
        Ok(())
    }
}

/// Reads a row of totals.
pub(super) fn read_meta<R: Record>(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    row: &'static str,
) -> Result<R, StoreError> {
    match meta.get(row)? {
        Some(bytes) => R::decode(bytes.value()),
        None => Err(missing("a row of totals")),
    }
}

/// Changes a row of totals.
pub(super) fn update_meta<R: Record, T>(
    txn: &WriteTransaction,
    row: &'static str,
    change: impl FnOnce(&mut R) -> T,
) -> Result<T, StoreError> {
    let mut meta = txn.open_table(META)?;
    let mut record = read_meta(&meta, row)?;
    let result = change(&mut record);
    meta.insert(row, record.encode()?.as_slice())?;
    Ok(result)
}
