//! The in-memory table of locks.
//!
//! An address and its surrounding /24 or /48 share a shard, so a look-up takes at most one mutex,
//! and none if the shard is empty.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use foldhash::quality::RandomState;
use parking_lot::Mutex;

use super::{Lock, LockCause, LockId, LockScope};
use crate::net::IpKey;
use crate::time::Timestamp;

const SHARDS: usize = 256;

/// Minimum number of locks in a /24 or /48 to be merged. Fewer do not indicate that the whole
/// network is hostile.
const FAMILY: usize = 8;

/// One merge pass tries to free this fraction of the table, to amortize its cost.
const ROOM: usize = 16;

/// Minimum time between merge passes that free less than that.
const FULL_FOR: Duration = Duration::from_secs(1);

/// A bounded table of locks. Locks are never evicted: when the table is full, the largest groups of
/// automatic locks of neighbouring addresses are merged into one lock of their network. Manual
/// locks are never merged or changed by merging.
#[derive(Debug)]
pub(crate) struct Locks {
    shards: Box<[Shard]>,
    len: AtomicUsize,
    capacity: usize,
    hasher: RandomState,
    /// Time of the last merge pass that freed little. Locked during a pass.
    searched_at: Mutex<Option<Timestamp>>,
    /// The last trusted time, in milliseconds since the Unix epoch.
    trusted_at: AtomicU64,
    /// Locks to be stored.
    changed: Mutex<IdSet>,
    /// Locks that were taken last: they are being stored, or could not be stored yet.
    taken: Mutex<IdSet>,
}

type IdSet = HashSet<LockId, RandomState>;

#[derive(Debug, Default)]
struct Shard {
    len: AtomicUsize,
    locks: Mutex<LocksOf>,
}

/// The locks of a shard by address.
type LocksOf = HashMap<IpKey, Vec<Lock>, RandomState>;

/// The end times of the locks that refuse a request, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LockStatus {
    pub(crate) manual: Option<Timestamp>,
    pub(crate) limits: Option<Timestamp>,
    pub(crate) auth_failures: Option<Timestamp>,
    /// Failed authentications that refuse it if it has no key.
    pub(crate) keyless: Option<Timestamp>,
}

/// A change to store: the new state of a lock, or `None` to delete it.
#[derive(Clone, Debug)]
pub(crate) struct LockChange {
    pub(crate) id: LockId,
    pub(crate) lock: Option<Lock>,
}

impl LockChange {
    pub(crate) fn put(lock: Lock) -> Self {
        Self {
            id: lock.id(),
            lock: Some(lock),
        }
    }

    pub(crate) fn delete(lock: &Lock) -> Self {
        Self {
            id: lock.id(),
            lock: None,
        }
    }
}

impl Locks {
    /// Creates a table of at most `capacity` locks.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            len: AtomicUsize::new(0),
            capacity,
            hasher: RandomState::default(),
            searched_at: Mutex::default(),
            trusted_at: AtomicU64::new(0),
            changed: Mutex::default(),
            taken: Mutex::default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// The lock status of a client. `applies` tells whether a lock applies to the request.
    /// `applies` and `now` are called only if the client has a lock.
    #[inline]
    pub(crate) fn lock_status(
        &self,
        ip_key: IpKey,
        applies: impl Fn(&LockScope) -> bool,
        now: impl FnOnce() -> Timestamp,
    ) -> Option<Box<LockStatus>> {
        if self.len() == 0 {
            return None;
        }
        let shard = self.shard(ip_key);
        if shard.len.load(Ordering::Acquire) == 0 {
            return None;
        }
        shard.lock_status(ip_key, applies, now)
    }

    /// Adds a lock, [joined](Lock::joined) with an existing one. Returns false if the table is full
    /// and nothing could be merged.
    pub(crate) fn add(&self, lock: Lock, now: Timestamp) -> bool {
        let note = |id| {
            self.changed.lock().insert(id);
        };
        self.insert(lock, now, false, note)
    }

    /// Whether a lock exists or fits.
    pub(crate) fn has_room_for(&self, id: &LockId, now: Timestamp) -> bool {
        self.len() < self.capacity || self.get(id).is_some() || self.make_room(now)
    }

    /// Adds a stored lock for which [there was room](Locks::has_room_for), even if the table is full now.
    ///
    /// It is stored again only if it is joined with one added meanwhile: another process may have
    /// deleted it by then.
    pub(crate) fn put(&self, stored: Lock, now: Timestamp) {
        let id = stored.id();
        self.insert(stored.clone(), now, true, |_| ());
        if self.get(&id).is_some_and(|lock| lock != stored) {
            self.changed.lock().insert(id);
        }
    }

    /// Applies a change that is already stored. Returns like [`Locks::add`].
    pub(crate) fn apply(&self, change: LockChange, now: Timestamp) -> bool {
        let LockChange { id, lock } = change;
        if let Some(lock) = lock {
            return self.insert(lock, now, false, |_| ());
        }
        let shard = self.shard(id.ip);
        self.retain(shard, &mut shard.locks.lock(), |lock| lock.id() != id);
        true
    }

    /// Removes locks that are neither in `stored` nor waiting to be stored.
    pub(crate) fn keep(&self, stored: &[LockId]) {
        let stored: HashSet<&LockId, RandomState> = stored.iter().collect();
        for shard in &self.shards {
            if shard.len.load(Ordering::Acquire) == 0 {
                continue;
            }
            let mut locks = shard.locks.lock();
            // Additions to this shard are noted while its mutex is held.
            let (changed, taken) = (self.changed.lock(), self.taken.lock());
            self.retain(shard, &mut locks, |lock| {
                let id = lock.id();
                stored.contains(&id) || changed.contains(&id) || taken.contains(&id)
            });
        }
    }

    fn insert(&self, lock: Lock, now: Timestamp, is_certain: bool, note: impl Fn(LockId)) -> bool {
        let shard = self.shard(lock.ip);
        let id = lock.id();
        loop {
            {
                let mut locks = shard.locks.lock();
                let known = locks.entry(lock.ip).or_default();
                if let Some(found) = known.iter_mut().find(|known| known.is_same(&id)) {
                    let joined = lock.joined(found);
                    if joined != *found {
                        *found = joined;
                        note(id);
                    }
                    return true;
                }
                if self.claim(is_certain) {
                    // Nearly all addresses have one lock.
                    known.reserve_exact(1);
                    known.push(lock);
                    shard.len.fetch_add(1, Ordering::Release);
                    note(id);
                    return true;
                }
                if known.is_empty() {
                    locks.remove(&lock.ip);
                }
            }
            if !self.make_room(now) {
                return false;
            }
        }
    }

    /// Removes and returns the locks of a client for which `matches` is true. Those that are deleted from
    /// the store already are not deleted again: another process may have put them back by then.
    pub(crate) fn remove(
        &self,
        ip_key: IpKey,
        matches: impl Fn(&LockScope) -> bool,
        deleted: &[LockChange],
    ) -> Vec<Lock> {
        let shard = self.shard(ip_key);
        let mut locks = shard.locks.lock();
        let removed = self.retain(shard, &mut locks, |lock| {
            lock.ip != ip_key || !matches(&lock.scope)
        });
        let mut changed = self.changed.lock();
        changed.extend(removed.iter().map(Lock::id));
        for deleted in deleted {
            changed.remove(&deleted.id);
        }
        drop(changed);
        removed
    }

    /// The active locks, ordered by address.
    pub(crate) fn active(&self, now: Timestamp) -> Vec<Lock> {
        let mut all = Vec::new();
        for shard in &self.shards {
            let locks = shard.locks.lock();
            all.extend(
                locks
                    .values()
                    .flatten()
                    .filter(|lock| now < lock.until)
                    .cloned(),
            );
        }
        all.sort_by_key(Lock::id);
        all
    }

    /// Moves locks that start in the future; see [`Lock::bring_back`].
    pub(crate) fn bring_back(&self, now: Timestamp) {
        for shard in &self.shards {
            if shard.len.load(Ordering::Acquire) > 0 {
                let mut locks = shard.locks.lock();
                let moved = locks.values_mut().flatten();
                let moved = moved.filter_map(|lock| lock.bring_back(now).then(|| lock.id()));
                self.changed.lock().extend(moved);
            }
        }
    }

    /// Frees ended locks that are no longer remembered. Requires a trusted `now`, because this is
    /// irreversible.
    pub(crate) fn expire(&self, now: Timestamp) {
        self.trusted_at.store(now.unix_millis(), Ordering::Relaxed);
        self.free(|lock| now < lock.until.max(lock.remembered_until));
    }

    fn free(&self, stays: impl Fn(&Lock) -> bool) {
        if self.len() == 0 {
            return;
        }
        for shard in &self.shards {
            if shard.len.load(Ordering::Acquire) > 0 {
                let gone = self.retain(shard, &mut shard.locks.lock(), &stays);
                self.changed.lock().extend(gone.iter().map(Lock::id));
            }
        }
    }

    /// The locks changed since the last call, in their current state. To be called once the changes of the
    /// last call are stored.
    pub(crate) fn take_changes(&self) -> Vec<LockChange> {
        let mut ids: Vec<_> = {
            let mut changed = self.changed.lock();
            let taken = std::mem::take(&mut *changed);
            let ids = taken.iter().cloned().collect();
            *self.taken.lock() = taken;
            ids
        };
        ids.sort_unstable();
        ids.into_iter()
            .map(|id| LockChange {
                lock: self.get(&id),
                id,
            })
            .collect()
    }

    /// Updates changes that could not be stored to the current state of their locks.
    pub(crate) fn refresh(&self, changes: &mut [LockChange]) {
        for change in changes {
            change.lock = self.get(&change.id);
        }
    }

    /// The locks of a client for which `matches` is true.
    pub(crate) fn of(&self, ip_key: IpKey, matches: impl Fn(&LockScope) -> bool) -> Vec<Lock> {
        let locks = self.shard(ip_key).locks.lock();
        let known = locks.get(&ip_key).into_iter().flatten();
        let matching = known.filter(|lock| matches(&lock.scope));
        matching.cloned().collect()
    }

    pub(crate) fn get(&self, id: &LockId) -> Option<Lock> {
        let locks = self.shard(id.ip).locks.lock();
        let mut known = locks.get(&id.ip)?.iter();
        known.find(|lock| lock.is_same(id)).cloned()
    }

    #[inline]
    fn shard(&self, ip_key: IpKey) -> &Shard {
        &self.shards[self.hasher.hash_one(ip_key.parent()) as usize % SHARDS]
    }

    /// Reserves an entry, beyond the capacity if `is_certain`.
    fn claim(&self, is_certain: bool) -> bool {
        let more = |len| (is_certain || len < self.capacity).then_some(len + 1);
        let claimed = self
            .len
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        claimed.is_ok()
    }

    /// Merges groups of automatic locks and returns whether there is room. After a pass that freed
    /// little, further passes are skipped for a while, so that additions to a full table stay
    /// cheap.
    ///
    /// `now` may be wrong, so only locks that ended before the last [`Locks::expire`] are freed.
    #[cold]
    fn make_room(&self, now: Timestamp) -> bool {
        let mut searched_at = self.searched_at.lock();
        if self.len() < self.capacity {
            return true;
        }
        if searched_at.is_some_and(|at| at <= now && now.since(at) < FULL_FOR) {
            return false;
        }
        let trusted_at = Timestamp::from_unix_millis(self.trusted_at.load(Ordering::Relaxed));
        self.free(|lock| trusted_at < lock.until);
        let wanted = (self.capacity / ROOM).max(1);
        let room = || self.capacity.saturating_sub(self.len());
        self.merge_families(wanted.saturating_sub(room()));
        *searched_at = (room() < wanted).then_some(now);
        room() > 0
    }

    /// Merges the largest families until `wanted` entries are free.
    fn merge_families(&self, wanted: usize) {
        let mut largest = Vec::new();
        for (at, shard) in self.shards.iter().enumerate() {
            let families = families(&shard.locks.lock());
            largest.extend(families.into_iter().map(|(id, members)| (members, at, id)));
        }
        largest.sort_unstable_by_key(|(members, ..)| Reverse(*members));
        let mut freed = 0;
        let is_needed = |(members, ..): &&(usize, usize, LockId)| {
            let is_needed = freed < wanted;
            freed += members - 1;
            is_needed
        };
        let needed = largest.iter().take_while(is_needed).count();
        largest.truncate(needed);
        largest.sort_unstable_by_key(|(_, at, _)| *at);
        for chosen in largest.chunk_by(|a, b| a.1 == b.1) {
            if let [(_, at, _), ..] = chosen {
                let ids: Vec<_> = chosen.iter().map(|(.., id)| id).collect();
                self.merge(&self.shards[*at], &ids);
            }
        }
    }

    /// Replaces each chosen family that still exists by one lock.
    fn merge(&self, shard: &Shard, chosen: &[&LockId]) {
        let mut locks = shard.locks.lock();
        let mut there = families(&locks);
        there.retain(|id, _| chosen.contains(&id));
        let mut members = self.retain(shard, &mut locks, |lock| {
            lock.is_manual() || !there.contains_key(&family(lock))
        });
        members.sort_by_cached_key(family);
        let mut changed = self.changed.lock();
        changed.extend(members.iter().map(Lock::id));
        for members in members.chunk_by(|a, b| family(a) == family(b)) {
            // The merged locks are fewer, so they fit.
            if let Some(merged) = merged(members) {
                changed.insert(merged.id());
                locks.entry(merged.ip).or_default().push(merged);
                self.len.fetch_add(1, Ordering::AcqRel);
                shard.len.fetch_add(1, Ordering::Release);
            }
        }
    }

    /// Removes and returns the locks of a shard for which `stay` is false.
    fn retain(
        &self,
        shard: &Shard,
        locks: &mut LocksOf,
        mut stay: impl FnMut(&Lock) -> bool,
    ) -> Vec<Lock> {
        let mut gone = Vec::new();
        locks.retain(|_, known| {
            gone.extend(known.extract_if(.., |lock| !stay(lock)));
            !known.is_empty()
        });
        shard.len.fetch_sub(gone.len(), Ordering::Release);
        self.len.fetch_sub(gone.len(), Ordering::AcqRel);
        gone
    }
}

impl Shard {
    #[cold]
    fn lock_status(
        &self,
        ip_key: IpKey,
        applies: impl Fn(&LockScope) -> bool,
        now: impl FnOnce() -> Timestamp,
    ) -> Option<Box<LockStatus>> {
        let locks = self.locks.lock();
        let parent = ip_key.parent();
        let own = locks.get(&ip_key);
        let around = locks.get(&parent).filter(|_| parent != ip_key);
        if own.is_none() && around.is_none() {
            return None;
        }
        let now = now();
        let mut lock_status = Box::<LockStatus>::default();
        for lock in own.into_iter().chain(around).flatten() {
            if lock.until <= now {
                continue;
            }
            let until = match (&lock.scope, &lock.cause) {
                (LockScope::Keyless, _) => &mut lock_status.keyless,
                (scope, _) if !applies(scope) => continue,
                (_, LockCause::Manual) => &mut lock_status.manual,
                (_, LockCause::IpLimit(_)) => &mut lock_status.limits,
                (_, LockCause::BadKeys | LockCause::MissingKeys) => &mut lock_status.auth_failures,
            };
            *until = (*until).max(Some(lock.until));
        }
        Some(lock_status)
    }
}

/// The id of the lock into which an automatic lock can be merged.
fn family(lock: &Lock) -> LockId {
    LockId {
        ip: lock.ip.parent(),
        ..lock.id()
    }
}

/// The mergeable families and their sizes.
fn families(locks: &LocksOf) -> HashMap<LockId, usize, RandomState> {
    let mut families = HashMap::<_, usize, RandomState>::default();
    for lock in locks.values().flatten().filter(|lock| !lock.is_manual()) {
        *families.entry(family(lock)).or_default() += 1;
    }
    families.retain(|_, members| *members >= FAMILY);
    families
}

/// The merged lock of a family: the latest end and the cause of highest rank.
fn merged(members: &[Lock]) -> Option<Lock> {
    let latest = members.iter().max_by_key(|lock| lock.until)?;
    let cause = members.iter().map(|lock| &lock.cause);
    Some(Lock {
        ip: latest.ip.parent(),
        cause: cause.max_by_key(|cause| cause.rank())?.clone(),
        since: members.iter().map(|lock| lock.since).min()?,
        ..latest.clone()
    })
}

#[cfg(test)]
mod tests;
