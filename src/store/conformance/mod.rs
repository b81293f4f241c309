//! The behaviour of every store, tested with each backend.

mod audit;
mod credentials;
mod locks;
mod management;
mod transfer;
mod usage;
mod usage_counts;

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use super::{
    AuditContext, KeyChange, NewCredential, NewKey, OrgChange, Resolved, Rotation, Store,
    StoreError, UsageBatch, UsageEvent,
};
use crate::counter::{CounterId, SavedCounter, SavedValue};
use crate::limit::Period;
use crate::lockout::LockChange;
use crate::log::Log;
use crate::model::{HashedKey, Key, KeyId, Method, Org, OrgId, OrgStatus};
use crate::net::{CidrSet, ClientIp};
use crate::sys::{Deadline, block_on};
use crate::time::Timestamp;

pub(super) use self::audit::*;
pub(super) use self::credentials::*;
pub(super) use self::locks::*;
pub(super) use self::management::*;
pub(super) use self::transfer::*;
pub(super) use self::usage::*;
pub(super) use self::usage_counts::*;

/// A data file or database, which can be opened repeatedly.
pub(super) trait TestDatabase {
    fn open(&self) -> Box<dyn Store>;
    /// Returns an empty one of the same kind.
    fn another(&self) -> Box<dyn TestDatabase>;
}

/// Defines a test for each behaviour; the expression creates a [`TestDatabase`].
macro_rules! conforms {
    ($database:expr) => {
        crate::store::conformance::conforms! { $database;
            credentials_resolve_to_key_and_organization
            org_names_are_unique
            keys_are_created_all_or_none
            listings_are_paged
            keys_are_found_by_prefix
            searches_find_parts_of_names_and_ids
            updates_change_only_named_fields
            rotation_keeps_the_key_and_retires_other_credentials
            expired_keys_are_counted_apart_and_extended_only_explicitly
            revocation_is_final
            suspended_keys_are_counted_apart_until_they_are_resumed
            idempotency_keys_are_remembered_for_a_day
            totals_equal_the_events
            refused_requests_keep_the_last_use
            raw_usage_is_the_events_in_order
            balances_are_states
            all_fields_of_keys_and_organizations_read_back
            overrides_of_different_limits_are_independent
            changes_are_in_the_audit_log
            locks_are_added_and_removed
            paths_of_any_bytes_are_recorded
            requests_stored_elsewhere_are_counted
            pruned_usage_stays_in_totals
            usage_is_counted_by_any_group
            limit_of_counted_usage_keeps_the_total
            usage_without_rows_is_counted_by_whole_hours
            totals_count_usage_after_its_rows_are_deleted
            pages_of_usage_have_every_request_once
            a_copy_equals_the_original_and_copying_again_changes_nothing
            an_interrupted_copy_can_be_completed
            conflicts_are_refused_before_anything_is_written
            merging_keeps_the_stricter_or_later_state
            credentials_of_the_python_package_are_copied_unchanged
            rehashed_credentials_resolve_only_by_the_new_hash
        }
    };
    ($database:expr; $($behaviour:ident)*) => {
        $(
            #[test]
            fn $behaviour() {
                crate::store::conformance::$behaviour(&$database);
            }
        )*
    };
}
pub(super) use conforms;

/// The start of an hour and of a day.
pub(super) const NOW: Timestamp = Timestamp::from_unix_millis(1_673_827_200_000);

/// The context of any change.
pub(super) fn audit_context() -> AuditContext {
    AuditContext {
        at: NOW,
        actor: "a test".into(),
        ip: ClientIp::LOCAL,
        action: "change",
        subject: None,
        details: serde_json::Value::Null,
        idempotency_key: None,
        webhook_events: Vec::new(),
        log: Log::default(),
    }
}

pub(super) fn hash(n: u64) -> HashedKey {
    HashedKey(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

pub(super) fn new_key(org_id: OrgId, n: u64) -> (NewKey, NewCredential) {
    let key = NewKey {
        org_id,
        label: format!("key {n}"),
        scopes: vec!["read".parse().unwrap()],
        rate_limit_per_minute: NonZeroU32::new(60).unwrap(),
        limits: Vec::new(),
        allowed_ips: CidrSet::default(),
        created_at: NOW,
        expires_at: None,
    };
    let credential = NewCredential {
        hash: hash(n),
        shown_prefix: "kg_live_abcd".into(),
        created_at: NOW,
    };
    (key, credential)
}

pub(super) fn suspended() -> OrgChange {
    OrgChange {
        status: Some(OrgStatus::Suspended),
        ..OrgChange::default()
    }
}

/// A change that suspends a key, or resumes it.
pub(super) fn suspending(suspended: bool) -> KeyChange {
    KeyChange {
        suspended: Some(suspended),
        ..KeyChange::default()
    }
}

pub(super) fn event(key: u64, at: Timestamp) -> UsageEvent {
    UsageEvent {
        at,
        key_id: KeyId(key),
        ip: IpAddr::from([192, 0, 2, 1]).into(),
        latency_micros: 1_500,
        status: 200,
        path_len: 0,
        method: Method::Get,
        refused: None,
    }
}

pub(super) fn batch(events: impl IntoIterator<Item = (UsageEvent, &'static str)>) -> UsageBatch {
    let mut batch = UsageBatch::default();
    for (event, path) in events {
        batch.now = batch.now.max(event.at);
        batch.paths.extend_from_slice(path.as_bytes());
        batch.events.push(UsageEvent {
            path_len: u16::try_from(path.len()).unwrap(),
            ..event
        });
    }
    batch
}

pub(super) fn requests(key: u64, at: Timestamp, count: usize) -> UsageBatch {
    batch(std::iter::repeat_n((event(key, at), "/data"), count))
}

pub(super) fn after(minutes: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(60 * minutes))
}

pub(super) fn counter(period: Period, value: SavedValue) -> SavedCounter {
    SavedCounter {
        id: CounterId::plain(period),
        value,
    }
}

/// A store with one organization and `keys` keys, with ids and hashes from 1.
pub(super) fn with_keys(database: &dyn TestDatabase, keys: u64) -> Box<dyn Store> {
    let store = database.open();
    fill(&*store, keys);
    store
}

/// Creates one organization and `keys` keys, with ids and hashes from 1.
pub(super) fn fill(store: &dyn Store, keys: u64) {
    let org = store.add_org("acme");
    let keys = (1..=keys).map(|n| new_key(org.id, n)).collect();
    store.create_keys(keys, &audit_context()).unwrap();
}

/// Changes that must succeed.
pub(super) trait Changes: Store {
    fn add_org(&self, name: &str) -> Org {
        self.create_org(name, &audit_context()).unwrap()
    }

    /// Adds the key of [`new_key`].
    fn add_key(&self, org_id: OrgId, n: u64) -> Key {
        let (key, credential) = new_key(org_id, n);
        self.create_key(key, credential, &audit_context()).unwrap()
    }

    fn change_key(&self, id: KeyId, change: KeyChange) -> Key {
        self.update_key(id, change, &audit_context()).unwrap()
    }

    fn revoke(&self, id: KeyId) -> Key {
        self.revoke_key(id, &audit_context()).unwrap()
    }

    fn suspend(&self, id: OrgId) -> Org {
        self.update_org(id, suspended(), &audit_context()).unwrap()
    }

    fn apply_locks(&self, changes: &[LockChange]) {
        self.change_locks(changes, &audit_context()).unwrap();
    }
}

impl<S: Store + ?Sized> Changes for S {}

pub(super) fn resolve(store: &dyn Store, n: u64) -> Result<Option<Resolved>, StoreError> {
    block_on(store.resolve(&hash(n), &Deadline::default()).get())
}

/// A rotation now, after which other texts expire at this time.
pub(super) fn retiring(retire_at: Timestamp) -> Rotation {
    Rotation {
        now: NOW,
        retire_at,
        expires_at: None,
    }
}
