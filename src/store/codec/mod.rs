//! The layout of a data file: its tables, its records and its usage blocks.
//!
//! Nothing outside this module knows how a stored byte is laid out. A record is one schema tag
//! byte and then a [postcard](https://postcard.jamesmunns.com/wire-format) value; a change to a
//! record takes a new tag, and [`FORMAT`] grows with every change of what is written. Numbers outside of postcard are little-endian.
//!
//! Decoding never panics: bytes that no version wrote are [`StoreError::Damaged`].

mod audit;
pub(crate) mod block;
mod counter;
pub(crate) mod frame;
mod lock;
mod record;
mod varint;

use redb::TableDefinition;

use super::StoreError;

pub(crate) use self::audit::{decode_done, decode_entry, encode_done, encode_entry};
#[cfg(feature = "postgres")]
pub(crate) use self::counter::{decode_balance_id, encode_balance_id};
pub(crate) use self::counter::{decode_counters, decode_network, encode_counters, encode_network};
#[cfg(feature = "postgres")]
pub(crate) use self::lock::decode_lock_key;
pub(crate) use self::lock::{decode_lock, encode_lock, lock_key};
pub(crate) use self::record::*;

/// The format that this version writes, and the only one that it reads: files of format 1 were
/// never released. Every file says its own in its [first bytes](frame::preamble).
pub(crate) const FORMAT: u32 = 2;

/// Rows of one kind each: see [`meta`].
pub(crate) const META: TableDefinition<&str, &[u8]> = TableDefinition::new("keyguard");

/// [`decode_org`] by organization.
pub(crate) const ORGS: TableDefinition<u64, &[u8]> = TableDefinition::new("orgs");
/// Organizations by name; a name is taken once.
pub(crate) const ORG_NAMES: TableDefinition<&str, u64> = TableDefinition::new("org names");
/// By what names that look alike share.
pub(crate) const ORG_SKELETONS: TableDefinition<&str, u64> = TableDefinition::new("org skeletons");
/// [`decode_key`] by key.
pub(crate) const KEYS: TableDefinition<u64, &[u8]> = TableDefinition::new("keys");
/// (time of expiry in milliseconds, key), of keys that expire and are not revoked.
pub(crate) const EXPIRIES: TableDefinition<(u64, u64), ()> = TableDefinition::new("expiries");
/// (organization, key)
pub(crate) const ORG_KEYS: TableDefinition<(u64, u64), ()> = TableDefinition::new("org keys");
/// [`decode_credential`] by the hash of a key's text.
pub(crate) const CREDENTIALS: TableDefinition<&[u8; 32], &[u8]> =
    TableDefinition::new("credentials");
/// (key, hash)
pub(crate) const KEY_CREDENTIALS: TableDefinition<(u64, &[u8; 32]), ()> =
    TableDefinition::new("key credentials");

/// [`Activity`] by key: one row for each key that was ever used.
pub(crate) const ACTIVITY: TableDefinition<u64, &[u8]> = TableDefinition::new("activity");
/// [`Count`](super::Count) by (hour, key), of hours that ended. By hour first: rows are added and
/// expire at the ends of the table, and one key's hours are still single look-ups.
pub(crate) const KEY_HOURS: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("key hours");
/// [`Count`](super::Count) by (key, day), of days that ended.
pub(crate) const KEY_DAYS: TableDefinition<(u64, u64), &[u8]> = TableDefinition::new("key days");
/// [`Tally`] by minute.
pub(crate) const MINUTES: TableDefinition<u64, &[u8]> = TableDefinition::new("minutes");

/// The [block](mod@block) that is still growing, in the pieces in which it was written.
pub(crate) const USAGE_OPEN: TableDefinition<u64, &[u8]> = TableDefinition::new("usage open");
/// Full [blocks](mod@block) by sequence number.
pub(crate) const USAGE_BLOCKS: TableDefinition<u64, &[u8]> = TableDefinition::new("usage blocks");
/// The earliest and the latest time in each full block, so that most blocks are never read.
pub(crate) const USAGE_SPANS: TableDefinition<u64, (u64, u64)> =
    TableDefinition::new("usage spans");

/// [`decode_lock`] by [`lock_key`].
pub(crate) const LOCKS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("locks");

/// [`decode_counters`] by group: what is used of calendar quotas and credits.
pub(crate) const BALANCES: TableDefinition<u64, &[u8]> = TableDefinition::new("balances");
/// [`decode_counters`] by group: windows as an orderly stop left them.
pub(crate) const WINDOWS: TableDefinition<u64, &[u8]> = TableDefinition::new("windows");
/// [`decode_network`], in no order: windows over networks as an orderly stop left them.
pub(crate) const NETWORKS: TableDefinition<u64, &[u8]> = TableDefinition::new("networks");

/// How often what is in shadow mode would have refused, by its name.
pub(crate) const SHADOWED: TableDefinition<&str, u64> = TableDefinition::new("shadowed");

/// [`decode_entry`] by number: the audit log, which is only added to.
pub(crate) const AUDIT: TableDefinition<u64, &[u8]> = TableDefinition::new("audit");
/// [`decode_done`] by the hash of an idempotency key.
pub(crate) const DONE: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("done");

/// The rows of [`META`].
pub(crate) mod meta {
    /// The fingerprint of the secret: 32 bytes.
    pub(crate) const SECRET: &str = "secret";
    /// When the file was made: 8 bytes, milliseconds since the Unix epoch.
    pub(crate) const CREATED: &str = "created";
    /// How many changes were made: 8 bytes. What is acknowledged in memory is compared with it.
    pub(crate) const COMMITS: &str = "commits";
    /// The id of the batch of usage that was counted last: 16 bytes of its process and 8 of its
    /// number. There is none before the first.
    pub(crate) const BATCH: &str = "batch";
    /// [`Counters`](super::Counters)
    pub(crate) const COUNTERS: &str = "counters";
    /// [`Lifetime`](super::Lifetime)
    pub(crate) const LIFETIME: &str = "lifetime";
    /// [`TopKeys`](super::TopKeys)
    pub(crate) const TOP_KEYS: &str = "top keys";
}

fn damaged(what: &'static str) -> StoreError {
    StoreError::Damaged(what.into())
}
