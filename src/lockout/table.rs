//! The locks that are in force, in memory.
//!
//! A network and the /24 or /48 around it share a shard, so that a look-up takes one lock, and none
//! where the shard is empty.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use foldhash::quality::RandomState;
use parking_lot::Mutex;

use super::{Lock, LockCause, LockId, Refuses};
use crate::net::IpKey;
use crate::time::Timestamp;

const SHARDS: usize = 256;

/// The smallest family that is merged: fewer do not tell that their whole /24 or /48 is hostile.
const FAMILY: usize = 8;

/// The part of the table that one search makes free, if it can, so that the cost of a search is
/// shared by many locks.
const ROOM: usize = 16;

/// The minimum time between two searches that make less room than that.
const FULL_FOR: Duration = Duration::from_secs(1);

/// A bounded table of locks. No lock is ever pushed out: when it is full, the largest families of
/// automatic locks that refuse the same to neighbours each become one lock of the network around
/// them. Manual locks are never merged, nor changed by merging.
#[derive(Debug)]
pub(crate) struct Locks {
    shards: Box<[Shard]>,
    len: AtomicUsize,
    capacity: usize,
    hasher: RandomState,
    /// The time of the last search that made little room. Held while searching.
    searched_at: Mutex<Option<Timestamp>>,
    /// The last time that was relied on, in milliseconds since the Unix epoch.
    relied_on: AtomicU64,
    /// Locks that changed since they were last stored.
    changed: Mutex<Vec<LockId>>,
    /// Those among them that were taken to be stored last.
    taken: Mutex<Vec<LockId>>,
}

#[derive(Debug, Default)]
struct Shard {
    len: AtomicUsize,
    locks: Mutex<LocksOf>,
}

/// The locks of each network of a shard.
type LocksOf = HashMap<IpKey, Vec<Lock>, RandomState>;

/// Until when the locks of a client refuse a request, by their cause; `None` for no lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LockStatus {
    pub(crate) manual: Option<Timestamp>,
    pub(crate) limits: Option<Timestamp>,
    pub(crate) strikes: Option<Timestamp>,
    /// Strikes that refuse it if it has no key.
    pub(crate) keyless: Option<Timestamp>,
}

/// A lock to be stored as it is, or not to be stored any longer.
#[derive(Clone, Debug)]
pub(crate) struct LockChange {
    pub(crate) id: LockId,
    pub(crate) lock: Option<Lock>,
}

impl Locks {
    /// A table of at most `capacity` locks.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            len: AtomicUsize::new(0),
            capacity,
            hasher: RandomState::default(),
            searched_at: Mutex::default(),
            relied_on: AtomicU64::new(0),
            changed: Mutex::default(),
            taken: Mutex::default(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// How `network` stands at the time that `now` reads, for a request that is `refused` by some
    /// locks. Both are called only for a network that has a lock.
    #[inline]
    pub(crate) fn lock_status(
        &self,
        network: IpKey,
        refused: impl Fn(&Refuses) -> bool,
        now: impl FnOnce() -> Timestamp,
    ) -> Option<Box<LockStatus>> {
        if self.len() == 0 {
            return None;
        }
        let shard = self.shard(network);
        if shard.len.load(Ordering::Acquire) == 0 {
            return None;
        }
        shard.lock_status(network, refused, now)
    }

    /// Adds a lock, [joined](Lock::joined) with the one that is there. Returns false if there is no
    /// room and no neighbours could be merged.
    pub(crate) fn add(&self, lock: Lock, now: Timestamp) -> bool {
        self.insert(lock, now, false, |id| self.changed.lock().push(id))
    }

    /// Whether there is room for a lock, or it is there already.
    pub(crate) fn has_room_for(&self, id: &LockId, now: Timestamp) -> bool {
        self.len() < self.capacity || self.get(id).is_some() || self.make_room(now)
    }

    /// Adds a lock that [there was room for](Locks::has_room_for), also if others took it meanwhile.
    pub(crate) fn put(&self, lock: Lock, now: Timestamp) {
        self.insert(lock, now, true, |id| self.changed.lock().push(id));
    }

    /// Does what somebody else has stored, so that it need not be stored again. Returns as
    /// [`Locks::add`].
    pub(crate) fn apply(&self, change: LockChange, now: Timestamp) -> bool {
        let LockChange { id, lock } = change;
        if let Some(lock) = lock {
            return self.insert(lock, now, false, |_| ());
        }
        let shard = self.shard(id.network);
        self.retain(shard, &mut shard.locks.lock(), |lock| lock.id() != id);
        true
    }

    /// Takes away every lock that is not among those that are `stored` and does not have to be stored
    /// yet.
    pub(crate) fn keep(&self, stored: &[LockId]) {
        let stored: HashSet<&LockId, RandomState> = stored.iter().collect();
        for shard in &self.shards {
            if shard.len.load(Ordering::Acquire) == 0 {
                continue;
            }
            let mut locks = shard.locks.lock();
            // What is added to this shard is noted under its lock.
            let mut pending = self.changed.lock().clone();
            pending.extend_from_slice(&self.taken.lock());
            self.retain(shard, &mut locks, |lock| {
                let id = lock.id();
                stored.contains(&id) || pending.contains(&id)
            });
        }
    }

    fn insert(&self, lock: Lock, now: Timestamp, is_certain: bool, note: impl Fn(LockId)) -> bool {
        let shard = self.shard(lock.network);
        let id = lock.id();
        loop {
            {
                let mut locks = shard.locks.lock();
                let known = locks.entry(lock.network).or_default();
                if let Some(found) = known.iter_mut().find(|known| known.is_same(&id)) {
                    let joined = lock.joined(found);
                    if joined != *found {
                        *found = joined;
                        note(id);
                    }
                    return true;
                }
                if self.claim(is_certain) {
                    known.push(lock);
                    shard.len.fetch_add(1, Ordering::Release);
                    note(id);
                    return true;
                }
                if known.is_empty() {
                    locks.remove(&lock.network);
                }
            }
            if !self.make_room(now) {
                return false;
            }
        }
    }

    /// Takes the locks of `network` away that are `meant`, and returns them.
    pub(crate) fn remove(&self, network: IpKey, meant: impl Fn(&Refuses) -> bool) -> Vec<Lock> {
        let shard = self.shard(network);
        let mut locks = shard.locks.lock();
        let removed = self.retain(shard, &mut locks, |lock| {
            lock.network != network || !meant(&lock.refuses)
        });
        self.changed.lock().extend(removed.iter().map(Lock::id));
        removed
    }

    /// Every lock that is in force, by network.
    pub(crate) fn policy_handle(&self, now: Timestamp) -> Vec<Lock> {
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

    /// Moves locks that start after `now`, see [`Lock::bring_back`].
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

    /// Frees the locks that have ended and are no longer remembered. For a `now` that is relied on
    /// only: what is freed is gone for good.
    pub(crate) fn expire(&self, now: Timestamp) {
        self.relied_on.store(now.unix_millis(), Ordering::Relaxed);
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

    /// What changed since the last call, as it is now.
    pub(crate) fn take_changes(&self) -> Vec<LockChange> {
        let mut ids = {
            let mut changed = self.changed.lock();
            self.taken.lock().clone_from(&changed);
            std::mem::take(&mut *changed)
        };
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter()
            .map(|id| LockChange {
                lock: self.get(&id),
                id,
            })
            .collect()
    }

    /// Hands `changes` out again by the next [`Locks::take_changes`]: storing them has failed.
    pub(crate) fn return_changes(&self, changes: impl IntoIterator<Item = LockChange>) {
        let ids = changes.into_iter().map(|change| change.id);
        self.changed.lock().extend(ids);
    }

    /// The locks of `network` that are `meant`.
    pub(crate) fn of(&self, network: IpKey, meant: impl Fn(&Refuses) -> bool) -> Vec<Lock> {
        let locks = self.shard(network).locks.lock();
        let known = locks.get(&network).into_iter().flatten();
        let meant = known.filter(|lock| meant(&lock.refuses));
        meant.cloned().collect()
    }

    pub(crate) fn get(&self, id: &LockId) -> Option<Lock> {
        let locks = self.shard(id.network).locks.lock();
        let mut known = locks.get(&id.network)?.iter();
        known.find(|lock| lock.is_same(id)).cloned()
    }

    #[inline]
    fn shard(&self, network: IpKey) -> &Shard {
        &self.shards[self.hasher.hash_one(network.parent()) as usize % SHARDS]
    }

    /// Takes a place in the table, beyond its capacity if that `is_certain`.
    fn claim(&self, is_certain: bool) -> bool {
        let more = |len| (is_certain || len < self.capacity).then_some(len + 1);
        let claimed = self
            .len
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        claimed.is_ok()
    }

    /// Merges families of automatic locks and returns whether there is room. A search that makes
    /// little is the only one for a while, so that newcomers to a full table cost no time.
    ///
    /// `now` may be wrong. Therefore no lock is freed by it, but only those that ended before the last
    /// call of [`Locks::expire`] and are merely remembered.
    #[cold]
    fn make_room(&self, now: Timestamp) -> bool {
        let mut searched_at = self.searched_at.lock();
        if self.len() < self.capacity {
            return true;
        }
        if searched_at.is_some_and(|at| at <= now && now.since(at) < FULL_FOR) {
            return false;
        }
        let relied_on = Timestamp::from_unix_millis(self.relied_on.load(Ordering::Relaxed));
        self.free(|lock| relied_on < lock.until);
        let wanted = (self.capacity / ROOM).max(1);
        let room = || self.capacity.saturating_sub(self.len());
        self.merge_families(wanted.saturating_sub(room()));
        *searched_at = (room() < wanted).then_some(now);
        room() > 0
    }

    /// Merges the largest families until `wanted` places are free or none is left.
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

    /// Puts one lock in the place of each of the families that are `chosen` and still there.
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
            // Fewer than there were, so that there is room.
            if let Some(merged) = merged(members) {
                changed.push(merged.id());
                locks.entry(merged.network).or_default().push(merged);
                self.len.fetch_add(1, Ordering::AcqRel);
                shard.len.fetch_add(1, Ordering::Release);
            }
        }
    }

    /// Keeps the locks of a shard that `stay`, and returns the others.
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
        network: IpKey,
        refused: impl Fn(&Refuses) -> bool,
        now: impl FnOnce() -> Timestamp,
    ) -> Option<Box<LockStatus>> {
        let locks = self.locks.lock();
        let parent = network.parent();
        let own = locks.get(&network);
        let around = locks.get(&parent).filter(|_| parent != network);
        if own.is_none() && around.is_none() {
            return None;
        }
        let now = now();
        let mut lock_status = Box::<LockStatus>::default();
        for lock in own.into_iter().chain(around).flatten() {
            if lock.until <= now {
                continue;
            }
            let until = match (&lock.refuses, &lock.cause) {
                (Refuses::Keyless, _) => &mut lock_status.keyless,
                (refuses, _) if !refused(refuses) => continue,
                (_, LockCause::Manual) => &mut lock_status.manual,
                (_, LockCause::IpLimit(_)) => &mut lock_status.limits,
                (_, LockCause::BadKeys | LockCause::MissingKeys) => &mut lock_status.strikes,
            };
            *until = (*until).max(Some(lock.until));
        }
        Some(lock_status)
    }
}

/// The id of the lock that an automatic lock and its neighbours are merged into.
fn family(lock: &Lock) -> LockId {
    LockId {
        network: lock.network.parent(),
        ..lock.id()
    }
}

/// The families that can be merged, and how many locks each has.
fn families(locks: &LocksOf) -> HashMap<LockId, usize, RandomState> {
    let mut families = HashMap::<_, usize, RandomState>::default();
    for lock in locks.values().flatten().filter(|lock| !lock.is_manual()) {
        *families.entry(family(lock)).or_default() += 1;
    }
    families.retain(|_, members| *members >= FAMILY);
    families
}

/// One lock for a family: as long as the longest one, and of the cause that spares fewest.
fn merged(members: &[Lock]) -> Option<Lock> {
    let latest = members.iter().max_by_key(|lock| lock.until)?;
    let cause = members.iter().map(|lock| &lock.cause);
    Some(Lock {
        network: latest.network.parent(),
        cause: cause.max_by_key(|cause| cause.rank())?.clone(),
        since: members.iter().map(|lock| lock.since).min()?,
        ..latest.clone()
    })
}

#[cfg(test)]
mod tests;
