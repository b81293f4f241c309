//! The locks in force, and their way to the store.

use std::cmp::Reverse;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::config::Config;
use super::warnings::{WarningKind, Warnings};
use crate::counter::{Events, Rule, Subject};
use crate::limit::{Limit, Period, WindowLength};
use crate::limiter::{Demand, Limiter, Subjects};
use crate::lockout::{
    AuthFailure, Lock, LockCause, LockChange, LockId, LockScope, LockStatus, Locks,
};
use crate::net::{ClientIp, IpKey};
use crate::policy::Lockout;
use crate::store::webhooks::lock_event;
use crate::store::{AuditContext, Store, StoreError};
use crate::time::{Clock, LockDuration, TimeZone, Timestamp};

/// The locks in force. Manual locks are stored at once, automatic ones with the next batch of usage.
pub(crate) struct ActiveLocks {
    locks: Locks,
    /// Failed authentications in an hour that lock nobody out, unless the policy sets another number.
    threshold: NonZeroU32,
    zone: TimeZone,
    /// Held while locks are stored, so that an older state never overwrites a newer one.
    storing: Mutex<()>,
    /// The number of locks that did not fit into the table.
    rejected: AtomicU64,
    warnings: Arc<Warnings>,
}

impl ActiveLocks {
    pub(super) fn new(config: &Config, warnings: Arc<Warnings>) -> Self {
        Self {
            locks: Locks::new(config.max_locks),
            threshold: NonZeroU32::new(config.lockout_threshold).unwrap_or(NonZeroU32::MIN),
            zone: config.time_zone.clone(),
            storing: Mutex::new(()),
            rejected: AtomicU64::new(0),
            warnings,
        }
    }

    /// Replaces all locks but `except` by the stored ones, and keeps those that are not stored yet. Manual locks
    /// and then the longest come first, so that no ended lock takes the room of an active one.
    pub(super) fn replace_all(&self, mut stored: Vec<Lock>, except: Vec<LockId>, now: Timestamp) {
        stored.sort_by_key(|lock| Reverse((lock.cause == LockCause::Manual, lock.until)));
        let mut kept = except;
        kept.extend(stored.iter().map(Lock::id));
        self.locks.keep(&kept);
        self.apply(stored.into_iter().map(LockChange::put).collect(), now);
    }

    /// Applies changes that another process has stored.
    pub(super) fn apply(&self, changes: Vec<LockChange>, now: Timestamp) {
        for change in changes {
            if !self.locks.apply(change, now) {
                self.rejected.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Returns the locks of a client that apply to a request, as `applies` decides; `None` for almost
    /// every client.
    #[inline]
    pub(super) fn status(
        &self,
        ip: &ClientIp,
        applies: impl Fn(&LockScope) -> bool,
        clock: &Clock,
    ) -> Option<Box<LockStatus>> {
        if self.locks.len() == 0 {
            return None;
        }
        let now = || clock.timestamp();
        self.locks.lock_status(IpKey::of(*ip)?, applies, now)
    }

    /// Locks out an address with more failed authentications than the threshold.
    pub(super) fn lock_failing(
        &self,
        failure: AuthFailure,
        ip_key: IpKey,
        rules: &Lockout,
        now: Timestamp,
    ) {
        let lock = failure.lock(ip_key, now);
        let before = self.locks.get(&lock.id());
        if before.as_ref().is_some_and(|lock| now < lock.until) {
            // Another thread was faster.
            return;
        }
        let lock = lock.escalated(before.as_ref(), &rules.steps, rules.decay);
        self.add(lock, now);
    }

    /// The number of failed authentications above which an address is locked out, as a limit.
    pub(crate) fn threshold(&self, rules: &Lockout) -> Limit {
        let threshold = rules.threshold.and_then(NonZeroU32::new);
        Limit {
            period: Period::Sliding(WindowLength::HOUR),
            ..Limit::per_minute(threshold.unwrap_or(self.threshold))
        }
    }

    /// Locks out an address that exceeded the limit `name`; returns for how long.
    pub(super) fn lock_exceeding(
        &self,
        name: &str,
        duration: LockDuration,
        scope: LockScope,
        ip_key: IpKey,
        now: Timestamp,
    ) -> Option<Duration> {
        let until = match duration.ends_at(now, &self.zone) {
            Ok(until) => until,
            Err(error) => {
                self.warnings
                    .add_once(WarningKind::Guard, ("limit", name), || {
                        Some(format!("limit `{name}` cannot lock addresses: {error}"))
                    });
                return None;
            }
        };
        let lock = Lock {
            ip: ip_key,
            scope,
            cause: LockCause::IpLimit(name.to_owned()),
            since: now,
            until,
            step: 0,
            remembered_until: until,
        };
        self.add(lock, now);
        Some(until.since(now))
    }

    pub(super) fn add(&self, lock: Lock, now: Timestamp) {
        if !self.locks.add(lock, now) {
            self.rejected.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// Stores a lock, then adds it. Returns the resulting lock, `None` if there is no room.
    pub(crate) fn lock(
        &self,
        store: &dyn Store,
        lock: Lock,
        audit: &AuditContext,
    ) -> Result<Option<Lock>, StoreError> {
        let _storing = self.storing.lock();
        let id = lock.id();
        if !self.locks.has_room_for(&id, audit.at) {
            return Ok(None);
        }
        let lock = match self.locks.get(&id) {
            Some(known) => lock.joined(&known),
            None => lock,
        };
        let audit = audit.clone().announcing(lock_event(&lock));
        store.change_locks(&[LockChange::put(lock.clone())], &audit)?;
        self.locks.put(lock.clone(), audit.at);
        Ok(Some(lock))
    }

    /// Removes the matching locks of an address from the store, then from memory, and resets what was
    /// counted of the address. Returns the locks that were in force.
    pub(crate) fn unlock(
        &self,
        store: &dyn Store,
        limiter: &dyn Limiter,
        ip_key: IpKey,
        matches: impl Fn(&LockScope) -> bool,
        audit: &AuditContext,
    ) -> Result<Vec<Lock>, StoreError> {
        let _storing = self.storing.lock();
        let known = self.locks.of(ip_key, &matches);
        let changes: Vec<_> = known.iter().map(LockChange::delete).collect();
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        store.change_locks(&changes, audit)?;
        // Otherwise the next request could lock the address out again. The locks end even if the
        // counters cannot be reset now.
        let _ = limiter.reset(Demand::new(Subjects::Address(ip_key), &[]));
        let mut ended = self.locks.remove(ip_key, matches, &changes);
        ended.retain(|lock| audit.at < lock.until);
        Ok(ended)
    }

    /// Returns all locks in force, by address.
    pub(crate) fn list(&self, now: Timestamp) -> Vec<Lock> {
        self.locks.active(now)
    }

    /// Moves locks back that begin in the future, and removes those that have ended. The removal is
    /// final, so `now` must be reliable.
    pub(super) fn expire(&self, now: Timestamp) {
        self.locks.bring_back(now);
        self.locks.expire(now);
    }

    /// To be held from [`ActiveLocks::take_changes`] or [`ActiveLocks::refresh`] until the changes are stored.
    pub(super) fn storing(&self) -> MutexGuard<'_, ()> {
        self.storing.lock()
    }

    pub(super) fn take_changes(&self) -> Vec<LockChange> {
        self.locks.take_changes()
    }

    pub(super) fn refresh(&self, changes: &mut [LockChange]) {
        self.locks.refresh(changes);
    }

    /// The number of locks that did not fit into the table since the guard was opened.
    pub(crate) fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }
}

/// The rule that counts failed authentications of a kind.
pub(crate) fn auth_failure_rule(failure: AuthFailure, threshold: Limit) -> Rule {
    Rule {
        events: Events::AuthFailures(failure),
        ..Rule::new(threshold, Subject::Address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> ActiveLocks {
        ActiveLocks::new(&Config::default().max_locks(16), Arc::default())
    }

    /// 16 locks of addresses in different networks.
    fn locks(first_octet: u8, until: Timestamp) -> Vec<Lock> {
        let address = |i| std::net::IpAddr::from([first_octet, i, 0, 1]).into();
        let addresses = (0..16).filter_map(|i| IpKey::of(address(i)));
        let lock = |address| Lock {
            until,
            ..AuthFailure::BadKey.lock(address, Timestamp::default())
        };
        addresses.map(lock).collect()
    }

    /// Regression: every open stored all locks again.
    #[test]
    fn stored_locks_are_not_stored_again() {
        let (table, now) = (table(), Timestamp::from_unix_millis(1_000));
        table.replace_all(locks(10, Timestamp::MAX), Vec::new(), now);
        assert_eq!(table.list(now).len(), 16);
        assert!(table.take_changes().is_empty());
    }

    /// Regression: when another process reported all locks, ended ones could fill the table.
    #[test]
    fn ended_locks_take_no_room_of_active_ones() {
        let (table, now) = (table(), Timestamp::from_unix_millis(1_000));
        let mut stored = locks(10, now);
        stored.extend(locks(11, Timestamp::MAX));
        table.replace_all(stored, Vec::new(), now);
        assert_eq!(table.list(now).len(), 16);
    }
}
