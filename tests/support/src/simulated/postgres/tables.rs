//! The tables.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::Value;
use time::OffsetDateTime;

/// All rows. Tables that nothing reads back (raw usage, hours, days, minutes, audit) have none. A
/// transaction copies only the large tables that it changes.
#[derive(Clone, Default)]
pub struct Tables {
    pub(super) meta: BTreeMap<String, String>,
    pub(super) generation: i64,
    pub(super) last_org_id: i64,
    pub(super) last_key_id: i64,
    /// Rows as JSON objects, by id.
    pub(super) orgs: Rc<BTreeMap<i64, Value>>,
    pub(super) keys: Rc<BTreeMap<i64, Value>>,
    pub(super) credentials: Rc<BTreeMap<Vec<u8>, Credential>>,
    pub(super) changes: Rc<Vec<Change>>,
    pub(super) locks: Rc<BTreeMap<Vec<u8>, Vec<u8>>>,
    /// The used amount and the time, by subject and counter.
    pub(super) balances: BTreeMap<(i64, Vec<u8>), (i64, i64)>,
    /// The last batch of each node, whose numbers ascend.
    pub(super) batches: BTreeMap<Vec<u8>, i64>,
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
        let meta = [("schema", "5".to_owned()), ("fingerprint", fingerprint)];
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
