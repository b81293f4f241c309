//! The trait that every store implements.

use std::path::Path;
use std::time::Duration;

use crate::counter::{CounterId, SavedCounter, SavedIpWindow, SubjectId};
use crate::lockout::{Lock, LockChange, LockId};
use crate::model::{
    AuditEntry, BackendHealth, Condition, Delivery, HashedKey, Key, KeyId, Org, OrgId, Usage,
    UsageQuery, WebhookEvent,
};
use crate::sys::{Deadline, DiskSpace, MaybeReady};
use crate::time::Timestamp;

use super::copy::{CopyError, CopyProgress, FileCopy};
use super::transfer::{PageCursor, TransferPage};
use super::usage_counts::{UsageCounts, UsagePage};
use super::{
    AuditContext, KeyChange, LegacyKeys, NewCredential, NewKey, OrgChange, Rehash, Rotation,
    Search, StoreError, Totals, UsageBatch, Verification, WebhookChange,
};

/// The counters of a subject.
pub(crate) type SavedSet = (SubjectId, Vec<SavedCounter>);

/// The changes that the usage writer makes.
pub(crate) trait UsageStore: Send + Sync + 'static {
    /// Writes all of a batch of usage, with its totals and balances, or nothing.
    fn record(&self, batch: &UsageBatch) -> Result<(), StoreError>;
    /// Deletes raw usage before `raw_before` and totals past their [retention](super::retention).
    fn prune(&self, raw_before: Timestamp, now: Timestamp) -> Result<(), StoreError>;
    /// Replaces the hashes of credentials by hashes under [`HashScheme::RehashedSha256`]. Skips a
    /// credential that no longer has its old hash, or whose new hash exists. Appends one audit entry
    /// per replaced hash, about its key.
    ///
    /// [`HashScheme::RehashedSha256`]: crate::model::HashScheme::RehashedSha256
    fn rehash(&self, jobs: &[Rehash], audit: &AuditContext) -> Result<(), StoreError>;
    /// Appends to the audit log without changing anything else.
    fn append_audit(&self, audit: &AuditContext) -> Result<(), StoreError>;
    /// Stores the windows of keys and organizations in place of the stored ones of the same subject.
    fn save_windows(&self, windows: &mut dyn Iterator<Item = SavedSet>) -> Result<(), StoreError>;
    /// Deletes the stored windows of keys and organizations that have ended. Reads all stored windows.
    fn delete_ended_windows(&self, now: Timestamp) -> Result<(), StoreError>;
    /// Replaces all stored windows of addresses.
    fn save_ip_windows(&self, windows: Vec<SavedIpWindow>) -> Result<(), StoreError>;

    /// Retries changes after a failure, if a retry is due or `at_once` is set.
    fn recover(&self, at_once: bool) {
        let _ = at_once;
    }

    /// Returns why changes are refused now, if they are.
    fn fault(&self) -> Option<String> {
        None
    }

    /// Whether changes are refused because of damage.
    fn is_damaged(&self) -> bool {
        false
    }

    /// Returns the health of the other server, if there is one.
    fn health(&self) -> Option<BackendHealth> {
        None
    }
}

/// Organizations, keys, credentials and usage.
///
/// A change is durable when its method returns. A method that takes an [`AuditContext`] appends it to
/// the audit log in the same transaction, and fails without a change if a request with the same
/// idempotency key was completed before.
pub(crate) trait Store: UsageStore {
    /// Returns the key that `hash` authenticates and its organization, from one consistent read.
    fn resolve<'a>(
        &'a self,
        hash: &'a HashedKey,
        deadline: &'a Deadline,
    ) -> MaybeReady<'a, Result<Option<Resolved>, StoreError>>;

    /// Like [`Store::resolve`], by id; `credential_expires_at` is `None`.
    fn resolve_id(&self, id: KeyId) -> Result<Option<Resolved>, StoreError>;

    /// Returns the stored counters of a key or an organization.
    fn counters(&self, id: SubjectId) -> Result<Vec<SavedCounter>, StoreError>;

    fn create_org(&self, name: &str, audit: &AuditContext) -> Result<Org, StoreError>;
    fn org(&self, id: OrgId) -> Result<Org, StoreError>;
    fn org_named(&self, name: &str) -> Result<Org, StoreError>;
    /// Returns at most `limit` organizations with ids above `after`, by id.
    fn orgs(&self, after: Option<OrgId>, limit: usize) -> Result<Vec<Org>, StoreError>;
    /// Returns the organizations that a search finds, by id.
    fn search_orgs(&self, search: &Search) -> Result<Vec<Org>, StoreError>;
    fn update_org(
        &self,
        id: OrgId,
        change: OrgChange,
        audit: &AuditContext,
    ) -> Result<Org, StoreError>;

    /// Creates all of the keys or none. One call is faster than one per key.
    fn create_keys(
        &self,
        keys: Vec<(NewKey, NewCredential)>,
        audit: &AuditContext,
    ) -> Result<Vec<Key>, StoreError>;
    fn create_key(
        &self,
        key: NewKey,
        credential: NewCredential,
        audit: &AuditContext,
    ) -> Result<Key, StoreError> {
        let created = self.create_keys(vec![(key, credential)], audit)?.pop();
        created.ok_or_else(|| StoreError::damaged("a created key is missing"))
    }
    fn key(&self, id: KeyId) -> Result<Key, StoreError>;
    /// Returns at most `limit` keys, of one organization or of all, with ids above `after`, by id.
    fn keys(
        &self,
        org: Option<OrgId>,
        after: Option<KeyId>,
        limit: usize,
    ) -> Result<Vec<Key>, StoreError>;
    /// Returns the keys, of one organization or of all, that a search finds, or of whose organization it finds
    /// the name; by id.
    fn search_keys(&self, search: &Search, org: Option<OrgId>) -> Result<Vec<Key>, StoreError>;
    /// Returns the rotated keys among these, in any order, with the latest time at which a replaced
    /// credential expires.
    fn old_texts_until(&self, ids: &[KeyId]) -> Result<Vec<(KeyId, Timestamp)>, StoreError>;
    /// Whether there is any of these texts. Reads all credentials, or those of the sample or of the key.
    fn has_legacy_keys(&self, which: LegacyKeys, now: Timestamp) -> Result<bool, StoreError>;
    /// Returns at most `limit` keys whose shown prefix starts with `text`, by prefix and id.
    fn keys_with_prefix(&self, text: &str, limit: usize) -> Result<Vec<Key>, StoreError>;
    fn update_key(
        &self,
        id: KeyId,
        change: KeyChange,
        audit: &AuditContext,
    ) -> Result<Key, StoreError>;
    /// Adds a credential to a key that is not revoked. Its other credentials expire at
    /// [`Rotation::retire_at`], or earlier if they already do.
    ///
    /// Fails with [`StoreError::Expired`] if the key has expired and gets no new time of expiry.
    fn add_credential(
        &self,
        id: KeyId,
        credential: NewCredential,
        rotation: Rotation,
        audit: &AuditContext,
    ) -> Result<Key, StoreError>;
    /// Marks a key as revoked. Revoking a revoked key changes nothing.
    fn revoke_key(&self, id: KeyId, audit: &AuditContext) -> Result<Key, StoreError>;

    /// Returns at most `limit` audit entries with ids below `before`, latest first.
    fn audit_log(&self, before: Option<u64>, limit: usize) -> Result<Vec<AuditEntry>, StoreError>;

    fn ip_windows(&self) -> Result<Vec<SavedIpWindow>, StoreError>;
    /// Deletes stored windows.
    fn delete_counters(
        &self,
        counters: &[(SubjectId, CounterId)],
        audit: &AuditContext,
    ) -> Result<(), StoreError>;

    /// Returns at most `limit` rows of raw usage since `from`, in the order of recording.
    fn usage(
        &self,
        key: Option<KeyId>,
        from: Timestamp,
        limit: usize,
    ) -> Result<Vec<Usage>, StoreError>;
    /// Counts the recorded requests that a query asks for, at the time `now`.
    ///
    /// Fails with [`StoreError::TooMuchUsage`] after [`TIME_LIMIT`](super::usage_counts::TIME_LIMIT).
    fn count_usage(&self, query: &UsageQuery, now: Timestamp) -> Result<UsageCounts, StoreError>;
    /// Returns at most `limit` of the individual requests that a query asks for, from a place on: 0, or
    /// [`UsagePage::next`]. The group of the query does not matter.
    ///
    /// A call reads a bounded number of requests. Those that are recorded meanwhile may be missing.
    fn usage_page(
        &self,
        query: &UsageQuery,
        from: u64,
        limit: usize,
    ) -> Result<UsagePage, StoreError>;
    /// Returns all stored locks, including those that have ended.
    fn locks(&self) -> Result<Vec<Lock>, StoreError>;
    fn change_locks(&self, changes: &[LockChange], audit: &AuditContext) -> Result<(), StoreError>;
    fn totals(&self, now: Timestamp) -> Result<Totals, StoreError>;

    /// Returns a page of an export. The first page starts at [`PageCursor::default`], each further one
    /// at [`TransferPage::next`].
    ///
    /// Each organization, key, balance, lock and total is in exactly one page; organizations precede
    /// keys, and keys precede their counts. Concurrent changes may be missed.
    #[cfg_attr(not(feature = "cli"), allow(dead_code))]
    fn export(&self, from: PageCursor) -> Result<TransferPage, StoreError>;
    /// Checks that a page can be imported; writes nothing.
    ///
    /// Fails with [`StoreError::Occupied`] if the id or the name of an organization, the id of a key or
    /// the hash of a credential is taken by another one.
    #[cfg_attr(not(feature = "cli"), allow(dead_code))]
    fn check_import(&self, page: &TransferPage) -> Result<(), StoreError>;
    /// Writes all of a page or nothing, and fails like [`Store::check_import`]. Ids are kept; new ids
    /// are above all imported ones.
    ///
    /// Importing a page again changes nothing, in any order of pages. An imported organization or key
    /// replaces the existing one, but a suspended or revoked key stays so. Of credentials, balances and locks
    /// on both sides, the stricter or later one stays; of totals, the greater number of each row. See
    /// [`transfer::merge`](super::transfer::merge).
    ///
    /// Appends nothing to the audit log.
    #[cfg_attr(not(feature = "cli"), allow(dead_code))]
    fn import(&self, page: &TransferPage) -> Result<(), StoreError>;

    /// Calls `listener` with changes by other processes until the store is dropped. Changes through
    /// this store may be reported too.
    fn subscribe(&self, listener: Box<dyn Fn(ChangeEvent) + Send + Sync>) {
        drop(listener);
    }

    /// Whether the data is on another server.
    fn is_remote(&self) -> bool {
        false
    }

    /// Returns the length of the data file and the space on its disk, if there is one.
    #[cfg_attr(not(any(feature = "metrics", feature = "serve")), allow(dead_code))]
    fn file_space(&self) -> Option<FileSpace> {
        None
    }

    /// Returns the number that the data file shares with its copies alone; `None` for a database of another
    /// server.
    #[cfg_attr(not(feature = "serve"), allow(dead_code))]
    fn file_id(&self) -> Result<Option<u32>, StoreError> {
        Ok(None)
    }

    /// Reads all rows, and returns what is damaged. Fails for a database of another server.
    fn verify(&self) -> Result<Verification, StoreError> {
        Err(StoreError::Unavailable(
            "only data files are verified; the server of a database verifies its own".into(),
        ))
    }

    /// Copies all rows to a new data file, from one state. Fails for a database of another server.
    fn backup(&self, to: &Path, progress: &CopyProgress) -> Result<FileCopy, CopyError> {
        let _ = (to, progress);
        Err(CopyError::Source(StoreError::Unavailable(
            "only data files are copied; for a database use `pg_dump`".into(),
        )))
    }

    /// Stores events for these webhooks from now on. Without webhooks, no event is stored.
    fn send_events_to(&self, urls: Vec<String>) {
        drop(urls);
    }

    /// Returns at most `limit` deliveries to a webhook that are due.
    #[cfg_attr(not(feature = "serve"), allow(dead_code))]
    fn due_deliveries(
        &self,
        url: &str,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<Delivery>, StoreError> {
        let _ = (url, now, limit);
        Ok(Vec::new())
    }

    /// Returns at most `limit` deliveries with numbers below `before`, the latest first.
    fn deliveries(&self, before: Option<u64>, limit: usize) -> Result<Vec<Delivery>, StoreError> {
        let _ = (before, limit);
        Ok(Vec::new())
    }

    /// Returns the webhooks of pending deliveries.
    #[cfg_attr(not(feature = "serve"), allow(dead_code))]
    fn pending_webhooks(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    /// The numbers of pending deliveries and, since the store was opened, of dropped ones.
    #[cfg_attr(not(feature = "serve"), allow(dead_code))]
    fn outbox_counts(&self) -> Result<OutboxCounts, StoreError> {
        Ok(OutboxCounts::default())
    }

    /// Changes deliveries. Returns the changed one, or `None` if there is none of that number. Fails with
    /// [`StoreError::WebhookNotConfigured`] if a delivery is to be attempted again that nobody attempts.
    fn change_deliveries(&self, change: &WebhookChange) -> Result<Option<Delivery>, StoreError> {
        let _ = change;
        Ok(None)
    }

    /// Stores events for the webhooks.
    fn add_events(&self, events: &[WebhookEvent]) -> Result<(), StoreError> {
        let _ = events;
        Ok(())
    }

    /// Returns at most `limit` keys that expire `within` a time and have no event about it.
    fn expiring_keys(
        &self,
        now: Timestamp,
        within: Duration,
        limit: usize,
    ) -> Result<Vec<Key>, StoreError> {
        let _ = (now, within, limit);
        Ok(Vec::new())
    }

    /// Returns what needs an administrator's attention.
    fn conditions(&self) -> Vec<Condition> {
        Vec::new()
    }

    #[cfg(test)]
    fn warnings(&self) -> Vec<String> {
        let conditions = self.conditions().into_iter();
        conditions.map(|condition| condition.problem).collect()
    }
}

/// A key and all that a decision needs to know about it.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub(crate) key: Key,
    pub(crate) org: Org,
    pub(crate) credential_expires_at: Option<Timestamp>,
    /// Balances of the key and its organization; `None` if they are read on demand.
    pub(crate) balances: Option<Vec<(SubjectId, Vec<SavedCounter>)>>,
}

/// Numbers of deliveries to webhooks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(not(feature = "serve"), allow(dead_code))]
pub(crate) struct OutboxCounts {
    pub(crate) pending: u64,
    pub(crate) dropped: u64,
}

/// The length of a data file and the space on its disk.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(any(feature = "metrics", feature = "serve")), allow(dead_code))]
pub(crate) struct FileSpace {
    /// In bytes.
    pub(crate) len: u64,
    /// `None` if the system does not tell.
    pub(crate) disk: Option<DiskSpace>,
}

/// A change of a shared store by another process.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "postgres"), allow(dead_code))]
pub(crate) enum ChangeEvent {
    /// A key, or one of its credentials.
    Key(KeyId),
    Org(OrgId),
    /// Changed locks, in their current state.
    Locks(Vec<LockChange>),
    /// All current locks, except for those that this process has changed meanwhile.
    AllLocks {
        locks: Vec<Lock>,
        except: Vec<LockId>,
    },
    /// Any key or organization may have changed: events were lost, or the connection was lost for too
    /// long.
    Everything,
}
