//! The tables.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use time::OffsetDateTime;

/// All rows. Tables that nothing reads back (raw usage, hours, days, minutes, audit) have none.
#[derive(Clone, Default)]
pub struct Tables {
    pub(super) meta: BTreeMap<String, String>,
    pub(super) generation: i64,
    pub(super) last_org_id: i64,
    pub(super) last_key_id: i64,
    /// Rows as JSON objects, by id.
    pub(super) orgs: BTreeMap<i64, Value>,
    pub(super) keys: BTreeMap<i64, Value>,
    pub(super) credentials: BTreeMap<Vec<u8>, Credential>,
    pub(super) changes: Vec<Change>,
    pub(super) locks: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The used amount and the time, by subject and counter.
    pub(super) balances: BTreeMap<(i64, Vec<u8>), (i64, i64)>,
    pub(super) batches: BTreeSet<(Vec<u8>, i64)>,
    pub(super) totals: BTreeMap<String, i64>,
    pub(super) key_totals: BTreeMap<i64, i64>,
    /// The session of a transaction that notifies when it commits.
    pub(super) notifier: Option<i32>,
}

#[derive(Clone)]
pub(super) struct Credential {
    pub(super) key_id: i64,
    pub(super) scheme: i16,
    pub(super) expires_at: Option<OffsetDateTime>,
}

#[derive(Clone)]
pub(super) struct Change {
    pub(super) generation: i64,
    pub(super) kind: String,
    pub(super) subject: Option<i64>,
    pub(super) lock: Option<Vec<u8>>,
}

impl Tables {
    pub(super) fn new(fingerprint: String) -> Self {
        let meta = [("schema", "4".to_owned()), ("fingerprint", fingerprint)];
        Self {
            meta: meta.map(|(name, value)| (name.to_owned(), value)).into(),
            ..Self::default()
        }
    }

    /// A total of all time: `requests`, `errors`, `dropped`, or `refused` with a reason.
    pub fn total(&self, name: &str) -> u64 {
        self.totals.get(name).map_or(0, |value| *value as u64)
    }

    pub fn lock_count(&self) -> usize {
        self.locks.len()
    }
}
