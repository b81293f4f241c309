//! The tables of the database.

use redb::{ReadableTable, TableDefinition, WriteTransaction};

use super::rows::missing;
use crate::store::StoreError;
use crate::store::codec::{Record, RecordCounts};
use crate::store::totals::{Lifetime, TopKeys};

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
/// Full [blocks](crate::store::codec::block) of usage by sequence number; behind them, the next number.
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

/// Creates all tables and the rows of totals, so that a reader never meets an absent one.
pub(super) fn create(txn: &WriteTransaction) -> Result<(), StoreError> {
    let mut meta = txn.open_table(META)?;
    meta.insert(
        meta::RECORD_COUNTS,
        RecordCounts::default().encode()?.as_slice(),
    )?;
    meta.insert(meta::LIFETIME, Lifetime::default().encode()?.as_slice())?;
    meta.insert(meta::TOP_KEYS, TopKeys::default().encode()?.as_slice())?;
    for table in [
        ORGS,
        KEYS,
        ACTIVITY,
        MINUTES,
        USAGE_OPEN,
        USAGE_BLOCKS,
        BALANCES,
        WINDOWS,
        IP_WINDOWS,
        AUDIT,
        DELIVERIES,
    ] {
        txn.open_table(table)?;
    }
    for table in [KEY_HOURS, KEY_DAYS] {
        txn.open_table(table)?;
    }
    for table in [EXPIRIES, ORG_KEYS, DUE_DELIVERIES] {
        txn.open_table(table)?;
    }
    for table in [ORG_NAMES, ORG_SKELETONS, SHADOW_DENIED, EVENT_MARKS] {
        txn.open_table(table)?;
    }
    for table in [CREDENTIALS, COMPLETED_REQUESTS] {
        txn.open_table(table)?;
    }
    txn.open_table(KEY_PREFIXES)?;
    txn.open_table(KEY_CREDENTIALS)?;
    txn.open_table(USAGE_TIMES)?;
    txn.open_table(LOCKS)?;
    Ok(())
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
