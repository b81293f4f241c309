//! The seam behind which organizations, keys and usage are kept.

mod batches;
pub(crate) mod codec;
#[cfg(test)]
mod conformance;
#[cfg(feature = "postgres")]
mod postgres;
mod redb;
#[cfg_attr(not(feature = "cli"), allow(dead_code))]
pub(crate) mod transfer;

use std::num::NonZeroU32;
use std::time::Duration;

use crate::counter::SubjectId;
use crate::counter::{CounterId, SavedCounter, SavedIpCounters};
use crate::limit::Limit;
use crate::lockout::{Lock, LockChange};
use crate::model::BackendHealth;
use crate::model::HashedKey;
use crate::model::Scope;
use crate::model::{
    AuditEntry, Key, KeyId, LimitOverride, Method, Org, OrgId, OrgStatus, Reason, Usage,
};
use crate::net::CidrSet;
use crate::net::ClientIp;
use crate::sys::{Deadline, MaybeReady};
use crate::time::Timestamp;

use self::transfer::{PageCursor, TransferPage};

#[cfg(all(feature = "postgres", feature = "cli"))]
pub(crate) use self::postgres::Address as PostgresAddress;
#[cfg(feature = "postgres")]
pub(crate) use self::postgres::{Options as PostgresOptions, PostgresStore};
pub use self::redb::OpenError;
pub(crate) use self::redb::RedbStore;

/// Organizations, keys, credentials and usage, durable once a method has returned.
///
/// A method that takes an [`AuditContext`] enters it in the audit log in the same transaction, and does
/// nothing if it was done before.
pub(crate) trait Store: Send + Sync + 'static {
    /// All that a decision needs to know of the key behind `hash`, in one consistent read.
    fn resolve<'a>(
        &'a self,
        hash: &'a HashedKey,
        deadline: &'a Deadline,
    ) -> MaybeReady<'a, Result<Option<Resolved>, StoreError>>;

    /// As [`Store::resolve`], of a key by its id; `credential_expires_at` is then `None`.
    fn resolve_id(&self, id: KeyId) -> Result<Option<Resolved>, StoreError>;

    /// The counters of a key or an organization, as they were last stored.
    fn counters(&self, id: SubjectId) -> Result<Vec<SavedCounter>, StoreError>;

    fn create_org(&self, name: &str, audit: &AuditContext) -> Result<Org, StoreError>;
    fn org(&self, id: OrgId) -> Result<Org, StoreError>;
    fn org_named(&self, name: &str) -> Result<Org, StoreError>;
    /// At most `limit` organizations with ids above `after`, by id.
    fn orgs(&self, after: Option<OrgId>, limit: usize) -> Result<Vec<Org>, StoreError>;
    fn update_org(
        &self,
        id: OrgId,
        change: OrgChange,
        audit: &AuditContext,
    ) -> Result<Org, StoreError>;

    /// Creates all of the keys or none, which for many is faster than one by one.
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
        created.ok_or_else(|| StoreError::Damaged("a key was created and is not there".into()))
    }
    fn key(&self, id: KeyId) -> Result<Key, StoreError>;
    /// At most `limit` keys, of one organization or all, with ids above `after`, by id.
    fn keys(
        &self,
        org: Option<OrgId>,
        after: Option<KeyId>,
        limit: usize,
    ) -> Result<Vec<Key>, StoreError>;
    fn update_key(
        &self,
        id: KeyId,
        change: KeyChange,
        audit: &AuditContext,
    ) -> Result<Key, StoreError>;
    /// Gives a key that is not revoked one more credential. Its others expire at
    /// [`Rotation::retire_at`], or earlier if they would anyway. Fails with [`StoreError::Expired`] if
    /// the key has expired and gets no new time of expiry.
    fn add_credential(
        &self,
        id: KeyId,
        credential: NewCredential,
        rotation: Rotation,
        audit: &AuditContext,
    ) -> Result<Key, StoreError>;
    /// Has credentials found by other hashes, under [`HashScheme::KeyedBlake3`]; all else about them
    /// stays. One that is not there under the old hash, or there under the new one, is passed over.
    /// Enters an act for each, about its key.
    ///
    /// [`HashScheme::KeyedBlake3`]: crate::model::HashScheme::KeyedBlake3
    fn rehash(&self, jobs: &[Rehash], audit: &AuditContext) -> Result<(), StoreError>;
    /// Marks a key inactive, which is final.
    fn revoke_key(&self, id: KeyId, audit: &AuditContext) -> Result<Key, StoreError>;

    /// Enters what changes nothing else that is stored.
    fn note(&self, audit: &AuditContext) -> Result<(), StoreError>;
    /// At most `limit` changes with ids below `before`, the latest first.
    fn audit(&self, before: Option<u64>, limit: usize) -> Result<Vec<AuditEntry>, StoreError>;

    /// Stores the windows of groups until they are over, in place of those stored before.
    fn save_windows(
        &self,
        groups: Vec<(SubjectId, Vec<SavedCounter>)>,
        now: Timestamp,
    ) -> Result<(), StoreError>;
    /// Stores the windows over networks, in place of all that were stored before.
    fn save_networks(&self, networks: Vec<SavedIpCounters>) -> Result<(), StoreError>;
    fn networks(&self) -> Result<Vec<SavedIpCounters>, StoreError>;
    /// Forgets the stored windows of groups.
    fn forget_counters(
        &self,
        counters: &[(SubjectId, CounterId)],
        audit: &AuditContext,
    ) -> Result<(), StoreError>;

    /// Writes a batch of usage, its totals and balances, whole or not at all.
    fn record(&self, batch: &UsageBatch) -> Result<(), StoreError>;
    /// Deletes raw usage that ended before `raw_before` and totals past their own retention.
    fn prune(&self, raw_before: Timestamp, now: Timestamp) -> Result<(), StoreError>;
    /// Raw usage from `from` on, in the order it was recorded, at most `limit` rows.
    fn usage(
        &self,
        key: Option<KeyId>,
        from: Timestamp,
        limit: usize,
    ) -> Result<Vec<Usage>, StoreError>;
    /// Every lock that is stored, also those that have ended.
    fn locks(&self) -> Result<Vec<Lock>, StoreError>;
    fn change_locks(&self, changes: &[LockChange], audit: &AuditContext) -> Result<(), StoreError>;
    fn totals(&self, now: Timestamp) -> Result<Totals, StoreError>;

    /// A page of all that moves to another store: the first from [`PageCursor::default`], and from each the
    /// [next](Parcel::next). Each organization, key, balance, lock and total is in exactly one page;
    /// organizations come before keys, and keys before what is counted for them. What others change
    /// meanwhile may be missed.
    #[cfg_attr(not(feature = "cli"), allow(dead_code))]
    fn page(&self, from: PageCursor) -> Result<TransferPage, StoreError>;
    /// Fails, with [`StoreError::Occupied`], if an organization of the parcel comes where there is
    /// another one of its id or its name ([`transfer::same_org`]), a key where there is another one of
    /// its id ([`transfer::same_key`]), or a credential where its hash opens another key
    /// ([`transfer::same_credential`]). Writes nothing.
    #[cfg_attr(not(feature = "cli"), allow(dead_code))]
    fn has_room_for(&self, page: &TransferPage) -> Result<(), StoreError>;
    /// Writes a page, whole or not at all, or fails as [`Store::has_room_for`] does. Ids stay, and new
    /// ones are above all that ever came.
    ///
    /// Adopting the same once more changes nothing, in whatever order pages come again. An organization
    /// and a key are from then on as they come, but a key that is revoked stays so
    /// ([`transfer::merged_key`]). Of credentials, balances and locks that are on both sides, what is
    /// stricter or later stays ([`transfer::merged_credential`], [`transfer::merged_balances`],
    /// [`transfer::replaces`]). Of totals, the greater number of each row stays; counts of
    /// organizations and keys, and the keys with the most requests, follow from what is there.
    ///
    /// Enters nothing in the audit log.
    #[cfg_attr(not(feature = "cli"), allow(dead_code))]
    fn import(&self, page: &TransferPage) -> Result<(), StoreError>;

    /// Has what others change told to `listener`, from now on until the store is dropped. What this
    /// store itself changes need not be told.
    fn follow(&self, listener: Box<dyn Fn(Change) + Send + Sync>) {
        drop(listener);
    }

    /// Whether another server is asked.
    fn asks_others(&self) -> bool {
        false
    }

    /// How the server stands that is asked.
    fn health(&self) -> Option<BackendHealth> {
        None
    }

    /// Tries whether changes can be made again, if they were refused since one failed: when that is
    /// due, or `at_once`.
    fn recover(&self, at_once: bool) {
        let _ = at_once;
    }

    /// Why changes are refused at the moment, if they are.
    fn fault(&self) -> Option<String> {
        None
    }

    /// What an administrator should know.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What somebody else has changed in a store that is shared.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "postgres"), allow(dead_code))]
pub(crate) enum Change {
    /// A key, or one of its credentials.
    Key(KeyId),
    Org(OrgId),
    /// Locks, as they are now.
    Locks(Vec<LockChange>),
    /// All locks that there are.
    AllLocks(Vec<Lock>),
    /// Keys and organizations may all have changed, and cannot be told apart: some changes went
    /// unheard, or nothing has been heard for too long.
    Everything,
}

/// A change that somebody makes, to be entered in the audit log.
#[derive(Clone, Debug)]
pub(crate) struct AuditContext {
    pub(crate) at: Timestamp,
    pub(crate) actor: String,
    pub(crate) ip: ClientIp,
    pub(crate) action: &'static str,
    /// The id of what it concerns; `None` if that is not there yet.
    pub(crate) subject: Option<u64>,
    pub(crate) details: serde_json::Value,
    /// To be done once only.
    pub(crate) once: Option<IdempotencyKey>,
}

/// What tells one change from all others, where a client may ask for it twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdempotencyKey {
    /// The hash of what the client calls it.
    pub(crate) name: [u8; 32],
    /// The hash of what it asks for.
    pub(crate) request: [u8; 32],
}

impl IdempotencyKey {
    /// For how long a change is known not to be made again.
    pub(crate) const KEPT: Duration = Duration::from_secs(86_400);

    /// Whether a change that was made `at` may be made again.
    pub(crate) fn is_over(at: Timestamp, now: Timestamp) -> bool {
        // One that lies further ahead is from a clock that was wrong.
        at.plus(Self::KEPT) <= now || at.since(now) > Self::KEPT
    }
}

/// A key and all that decides about it.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub(crate) key: Key,
    pub(crate) org: Org,
    pub(crate) credential_expires_at: Option<Timestamp>,
    /// Those of the key and of its organization, as far as there are any; `None` if they are to be
    /// read when they are needed.
    pub(crate) balances: Option<Vec<(SubjectId, Vec<SavedCounter>)>>,
}

pub(crate) struct NewKey {
    pub(crate) org_id: OrgId,
    pub(crate) label: String,
    pub(crate) scopes: Vec<Scope>,
    pub(crate) rate_limit_per_minute: NonZeroU32,
    pub(crate) limits: Vec<Limit>,
    pub(crate) allowed_ips: CidrSet,
    pub(crate) created_at: Timestamp,
    pub(crate) expires_at: Option<Timestamp>,
}

/// The secret that a store is made with; a rotated one will be 2.
pub(crate) const FIRST_SECRET: u32 = 1;

/// A credential for a key that may not have its id yet.
pub(crate) struct NewCredential {
    pub(crate) hash: HashedKey,
    /// The start of the key's text that listings show from now on.
    pub(crate) shown_prefix: String,
    pub(crate) created_at: Timestamp,
}

/// How a key gets a new credential.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rotation {
    /// When it happens.
    pub(crate) now: Timestamp,
    /// When the other credentials expire.
    pub(crate) retire_at: Timestamp,
    /// A new time of expiry for the key; `None` leaves it as it is.
    pub(crate) expires_at: Option<Option<Timestamp>>,
}

impl Rotation {
    /// Gives a key its new time of expiry, and returns when its other credentials expire. Those of a
    /// key that had expired are not accepted again.
    pub(crate) fn apply(&self, key: &mut Key) -> Result<Timestamp, StoreError> {
        let is_expired = key.is_expired(self.now);
        match self.expires_at {
            None if is_expired => return Err(StoreError::Expired(key.id)),
            None => {}
            Some(expires_at) => key.expires_at = expires_at,
        }
        Ok(match is_expired {
            true => self.retire_at.min(self.now),
            false => self.retire_at,
        })
    }
}

/// A credential that is to be found by another hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rehash {
    pub(crate) old: HashedKey,
    pub(crate) new: HashedKey,
}

/// Fields of a key to change; `None` leaves a field as it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyChange {
    pub(crate) label: Option<String>,
    pub(crate) scopes: Option<Vec<Scope>>,
    pub(crate) rate_limit_per_minute: Option<NonZeroU32>,
    pub(crate) limits: Option<Vec<Limit>>,
    pub(crate) allowed_ips: Option<CidrSet>,
    pub(crate) lift: Option<NewLift>,
    pub(crate) expires_at: Option<Option<Timestamp>>,
    /// Fails with [`StoreError::Expired`] if the key has expired by this time.
    pub(crate) unless_expired_at: Option<Timestamp>,
}

impl KeyChange {
    /// Changes a key that is not revoked.
    pub(crate) fn apply(&self, key: &mut Key) -> Result<(), StoreError> {
        if !key.active {
            return Err(StoreError::Revoked(key.id));
        }
        if self
            .unless_expired_at
            .is_some_and(|now| key.is_expired(now))
        {
            return Err(StoreError::Expired(key.id));
        }
        set(&mut key.label, &self.label);
        set(&mut key.scopes, &self.scopes);
        set(&mut key.rate_limit_per_minute, &self.rate_limit_per_minute);
        set(&mut key.limits, &self.limits);
        set(&mut key.allowed_ips, &self.allowed_ips);
        if let Some(lift) = &self.lift {
            lift.add_to(&mut key.lifts);
        }
        set(&mut key.expires_at, &self.expires_at);
        Ok(())
    }
}

fn set<T: Clone>(field: &mut T, value: &Option<T>) {
    if let Some(value) = value {
        field.clone_from(value);
    }
}

/// Fields of an organization to change; `None` leaves a field as it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct OrgChange {
    pub(crate) status: Option<OrgStatus>,
    pub(crate) limits: Option<Vec<Limit>>,
    pub(crate) lift: Option<NewLift>,
}

/// A limit to lift, in place of an earlier lift of it. The other lifts stay, so that lifts made at the
/// same time are all there.
#[derive(Clone, Debug)]
pub(crate) struct NewLift {
    pub(crate) lift: LimitOverride,
    /// Lifts that are over by then are forgotten; so is this one.
    pub(crate) now: Timestamp,
}

impl NewLift {
    pub(crate) fn add_to(&self, lifts: &mut Vec<LimitOverride>) {
        lifts.retain(|known| known.rule != self.lift.rule && known.until > self.now);
        if self.lift.until > self.now {
            lifts.push(self.lift.clone());
        }
    }
}

/// Usage on its way to the store: events by known keys, counts of all other refusals, and the
/// balances that changed.
#[derive(Debug, Default)]
pub(crate) struct UsageBatch {
    pub(crate) events: Vec<UsageEvent>,
    /// The paths of all events, one behind the other.
    pub(crate) paths: Vec<u8>,
    /// Refusals that named no known key, by minute.
    pub(crate) refusals: Vec<(Minute, [u64; Reason::COUNT])>,
    /// All balances of a group, not differences: writing them twice is harmless.
    pub(crate) balances: Vec<(SubjectId, Vec<SavedCounter>)>,
    /// By the name of what would have refused, were it not in shadow mode.
    pub(crate) shadowed: Vec<(String, u64)>,
    /// Absolute states too. One that is taken away had ended.
    pub(crate) locks: Vec<LockChange>,
    /// When the locks stood so.
    pub(crate) now: Timestamp,
    /// Events that were dropped because the queue was full.
    pub(crate) dropped: u64,
    /// The events count in totals; as single requests they are kept elsewhere.
    pub(crate) has_rows_elsewhere: bool,
}

impl UsageBatch {
    pub(crate) fn is_empty(&self) -> bool {
        self.events.is_empty()
            && self.refusals.is_empty()
            && self.balances.is_empty()
            && self.locks.is_empty()
            && self.shadowed.is_empty()
            && self.dropped == 0
    }

    /// Moves all of `other` behind what is here; `other` keeps its memory.
    pub(crate) fn append(&mut self, other: &mut Self) {
        self.events.append(&mut other.events);
        self.paths.append(&mut other.paths);
        self.refusals.append(&mut other.refusals);
        self.balances.append(&mut other.balances);
        self.locks.append(&mut other.locks);
        self.now = self.now.max(other.now);
        self.shadowed.append(&mut other.shadowed);
        self.dropped += std::mem::take(&mut other.dropped);
    }

    /// Empties the batch, which keeps its memory.
    pub(crate) fn clear(&mut self) {
        self.events.clear();
        self.paths.clear();
        self.refusals.clear();
        self.balances.clear();
        self.locks.clear();
        self.shadowed.clear();
        self.dropped = 0;
    }
}

/// Minutes since the Unix epoch.
pub(crate) type Minute = u64;

/// One request by a known key. Its path is the next `path_len` bytes of [`UsageBatch::paths`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct UsageEvent {
    pub(crate) at: Timestamp,
    pub(crate) key_id: KeyId,
    pub(crate) ip: ClientIp,
    pub(crate) latency_micros: u32,
    pub(crate) status: u16,
    pub(crate) path_len: u16,
    pub(crate) method: Method,
    pub(crate) refused: Option<Reason>,
}

impl UsageEvent {
    pub(crate) fn to_usage(self, path: &[u8]) -> Usage {
        Usage {
            at: self.at,
            key_id: Some(self.key_id),
            method: self.method,
            path: String::from_utf8_lossy(path).into_owned(),
            ip: self.ip,
            status: self.status,
            latency: Duration::from_micros(self.latency_micros.into()),
            refused: self.refused,
        }
    }
}

/// Counts kept as usage is written, so that reading them scans nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) orgs: u64,
    pub(crate) keys: u64,
    pub(crate) active_keys: u64,
    pub(crate) all_time: Count,
    pub(crate) last_hour: Count,
    /// All refusals ever, by the code of their reason.
    pub(crate) refused: [u64; Reason::COUNT],
    pub(crate) dropped: u64,
    /// By the name of what would have refused, were it not in shadow mode.
    pub(crate) shadowed: Vec<(String, u64)>,
    /// The keys with the most requests ever, most first.
    pub(crate) top_keys: Vec<(Key, Org, u64)>,
}

/// Requests, and how many of them were answered with a status of 400 or above.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
}

impl Count {
    pub(crate) fn add(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.errors = self.errors.saturating_add(other.errors);
    }
}

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("there is no organization with the id {0}")]
    NoOrg(OrgId),
    #[error("there is no organization named `{0}`")]
    NoOrgNamed(String),
    #[error("an organization named `{0}` exists already")]
    DuplicateOrg(String),
    #[error("the organization `{0}` exists already, whose name looks the same; give another name")]
    SimilarOrg(String),
    #[error("there is no key with the id {0}")]
    NoKey(KeyId),
    #[error("key {0} was revoked, which is final")]
    Revoked(KeyId),
    #[error(
        "key {0} has expired, and its text may have leaked since: to accept it again, give \
         `reactivate` (`--reactivate`) and a later `expires_at`; to rotate it, give a new `expires_at` \
         (`--expires-at`)"
    )]
    Expired(KeyId),
    /// The change was made before; with the id of what it concerns.
    #[error("this was done before, under the same idempotency key")]
    Done(Option<u64>),
    /// What is to be moved here meets something else in its place.
    #[error(
        "{0}; nothing was moved there, so give a target that is empty or was made by this command"
    )]
    Occupied(String),
    #[error("the idempotency key was used for another request")]
    OtherDone,
    /// What is stored is not what this version wrote.
    #[error("what is stored is damaged: {0}")]
    Damaged(String),
    /// The disk or the database engine failed.
    #[error("what is stored cannot be read or written")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl StoreError {
    /// The error and what caused it, in one line.
    pub(crate) fn describe(&self) -> String {
        with_causes(self)
    }

    /// What caused it, in one line, for a text that says by itself what failed.
    pub(crate) fn cause(&self) -> String {
        match self {
            Self::Unavailable(cause) => with_causes(&**cause),
            other => with_causes(other),
        }
    }
}

/// An error and what caused it, each said once.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        source = cause.source();
    }
    message
}
