//! Locking clients out: strikes that become locks, and locks that are stored.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use parking_lot::{Mutex, MutexGuard};

use super::request::{Headers, Request};
use super::warnings::{About, Warnings};
use crate::counter::Events;
use crate::counter::{Rule, Subject};
use crate::limit::WindowLength;
use crate::limit::{Limit, Period};
use crate::limiter::{Demand, Limiter, Subjects};
use crate::lockout::{
    AuthFailure, Lock, LockCause, LockChange, LockScope, LockStatus, Locks, Refuses,
};
use crate::net::ClientIp;
use crate::net::IpKey;
use crate::net::{ClientIpHeader, forwarded};
use crate::policy::Lockout;
use crate::policy::path;
use crate::store::{AuditContext, Store, StoreError};
use crate::time::LockDuration;
use crate::time::TimeZone;
use crate::time::{Clock, Timestamp};

pub(crate) struct Lockouts {
    locks: Locks,
    /// How many strikes are borne, where the policy does not say.
    threshold: NonZeroU32,
    zone: TimeZone,
    /// Held while locks are stored, so that an older state never overwrites a newer one.
    storing: Mutex<()>,
    /// Locks for which there was no room.
    unlocked: AtomicU64,
    warnings: Arc<Warnings>,
}

impl Lockouts {
    /// None yet, in a table of at most `capacity`.
    pub(super) fn new(capacity: usize, threshold: NonZeroU32, zone: TimeZone) -> Self {
        Self {
            locks: Locks::new(capacity),
            threshold,
            zone,
            storing: Mutex::new(()),
            unlocked: AtomicU64::new(0),
            warnings: Arc::default(),
        }
    }

    /// Has each new warning logged.
    pub(super) fn logged_by(self, log: fn(&str)) -> Self {
        Self {
            warnings: Arc::new(Warnings::logged_by(log)),
            ..self
        }
    }

    /// Puts locks in force that are stored, those that last longest first, so that no ended one takes
    /// the room of one that is in force.
    pub(super) fn load(&self, mut locks: Vec<Lock>, now: Timestamp) {
        locks.sort_by_key(|lock| Reverse((lock.cause == LockCause::Manual, lock.until)));
        for lock in locks {
            self.add(lock, now);
        }
    }

    /// Puts in force the locks that are stored, and no others but those still to be stored.
    pub(super) fn apply_all(&self, stored: Vec<Lock>, now: Timestamp) {
        let ids: Vec<_> = stored.iter().map(Lock::id).collect();
        self.locks.keep(&ids);
        let changes = ids.into_iter().zip(stored).map(|(id, lock)| LockChange {
            id,
            lock: Some(lock),
        });
        self.apply(changes.collect(), now);
    }

    /// Puts in force what others have stored.
    pub(super) fn apply(&self, changes: Vec<LockChange>, now: Timestamp) {
        for change in changes {
            if !self.locks.apply(change, now) {
                self.unlocked.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// How the sender of a request stands; `None` for almost everybody.
    #[inline]
    pub(super) fn lock_status(
        &self,
        ip: &ClientIp,
        refused: impl Fn(&Refuses) -> bool,
        clock: &Clock,
    ) -> Option<Box<LockStatus>> {
        if self.locks.len() == 0 {
            return None;
        }
        let now = || clock.timestamp();
        self.locks.lock_status(IpKey::of(*ip)?, refused, now)
    }

    /// Whether an automatic lock is not to touch this request: many clients may be behind its
    /// address, none of whom we can tell apart.
    pub(super) fn spares<H: Headers + ?Sized>(&self, request: &Request<'_, H>) -> bool {
        let may_be_proxy = !request.is_named && is_private(request.ip);
        let Some(field) = forwarding_field(request.headers).filter(|_| may_be_proxy) else {
            return false;
        };
        self.warnings
            .add_once(About::PrivatePeer, (request.ip, field), || {
                Some(format!(
                    "requests come through a proxy on the private address {ip} that is not configured \
                     as trusted: failed authentications behind it lock nobody out. {line}",
                    ip = request.ip,
                    line = trust_line(request.ip, field),
                ))
            });
        true
    }

    /// Locks a network out that failed to authenticate once more than is borne.
    pub(super) fn strike_out(
        &self,
        strike: AuthFailure,
        network: IpKey,
        rules: &Lockout,
        now: Timestamp,
    ) {
        let lock = strike.lock(network, now);
        let before = self.locks.get(&lock.id());
        if before.as_ref().is_some_and(|lock| now < lock.until) {
            // Another thread was faster.
            return;
        }
        let lock = lock.escalated(before.as_ref(), &rules.steps, rules.decay);
        self.add(lock, now);
    }

    /// How many strikes are borne.
    pub(crate) fn threshold(&self, rules: &Lockout) -> Limit {
        let threshold = rules.threshold.and_then(NonZeroU32::new);
        Limit {
            period: Period::Sliding(WindowLength::HOUR),
            ..Limit::per_minute(threshold.unwrap_or(self.threshold))
        }
    }

    /// Locks out who went over a limit of this name, for a time if there is one; returns for how long.
    pub(super) fn exceeded(
        &self,
        (name, time, scope): (&str, Option<LockDuration>, LockScope),
        network: IpKey,
        now: Timestamp,
    ) -> Option<Duration> {
        let until = match time?.ends_at(now, &self.zone) {
            Ok(until) => until,
            Err(error) => {
                self.warn_once(("limit", name), || {
                    Some(format!("limit `{name}` locks nobody out: {error}"))
                });
                return None;
            }
        };
        let lock = Lock {
            network,
            refuses: match scope {
                LockScope::Global => Refuses::All,
                LockScope::Path => Refuses::Route(name.to_owned()),
            },
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
            self.unlocked.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// Stores a lock and puts it in force. Returns it as it is then, `None` if there is no room.
    pub(crate) fn block(
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
        let stored = LockChange {
            id,
            lock: Some(lock.clone()),
        };
        store.change_locks(&[stored], audit)?;
        self.locks.put(lock.clone(), audit.at);
        Ok(Some(lock))
    }

    /// Takes the locks of `network` away that are `meant`, in the store and then in force. Returns
    /// those that were in force.
    pub(crate) fn unblock(
        &self,
        store: &dyn Store,
        limiter: &dyn Limiter,
        network: IpKey,
        meant: impl Fn(&Refuses) -> bool,
        audit: &AuditContext,
    ) -> Result<Vec<Lock>, StoreError> {
        let _storing = self.storing.lock();
        let known = self.locks.of(network, &meant);
        let gone = known.iter().map(Lock::id);
        let changes: Vec<_> = gone.map(|id| LockChange { id, lock: None }).collect();
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        store.change_locks(&changes, audit)?;
        // What led to the locks must not lead to the next one at once. They end all the same if it
        // cannot be forgotten now.
        let _ = limiter.reset(Demand::new(Subjects::Address(network), &[]));
        let mut ended = self.locks.remove(network, meant);
        ended.retain(|lock| audit.at < lock.until);
        Ok(ended)
    }

    pub(crate) fn active(&self, now: Timestamp) -> Vec<Lock> {
        self.locks.active(now)
    }

    /// Brings back locks that lie ahead, and frees those that have ended. For a `now` that is relied
    /// on only: what is freed is gone for good.
    pub(super) fn expire(&self, now: Timestamp) {
        self.locks.bring_back(now);
        self.locks.expire(now);
    }

    /// To be held from [`Lockouts::take_changes`] until they are stored.
    pub(super) fn storing(&self) -> MutexGuard<'_, ()> {
        self.storing.lock()
    }

    pub(super) fn take_changes(&self) -> Vec<LockChange> {
        self.locks.take_changes()
    }

    pub(super) fn return_changes(&self, changes: Vec<LockChange>) {
        self.locks.return_changes(changes);
    }

    /// Locks that there was no room for since the guard was opened.
    pub(crate) fn unlocked(&self) -> u64 {
        self.unlocked.load(Ordering::Relaxed)
    }

    /// What an administrator should know.
    pub(crate) fn warnings(&self) -> &Arc<Warnings> {
        &self.warnings
    }

    /// Says that a trusted proxy sets another field than the one that names clients.
    #[cold]
    pub(super) fn note_other_fields<H: Headers + ?Sized>(&self, header: &str, headers: &H) {
        self.warn_once(("other fields", header), || {
            let other = forwarding_field(headers)?;
            Some(format!(
                "a trusted proxy sends no `{header}` and counts as the client itself, which is never \
                 locked out; if it names clients by `{other}`, write into the policy: \
                 client_ip_header = \"{other}\""
            ))
        });
    }

    /// Says that a trusted proxy hands on a request with a key and does not name the client.
    #[cold]
    pub(super) fn warn_of_unnamed(&self, header: &str, has_key: impl FnOnce() -> bool) {
        self.warn_once(("unnamed", header), || {
            has_key().then(|| {
                format!(
                    "a trusted proxy sends a request with a key and without `{header}`, and counts as \
                     the client itself, which is never locked out: some proxies remove a field that the \
                     client lists in `Connection`; if yours names the client of every request, write \
                     into the policy: require_client_ip = true"
                )
            })
        });
    }

    /// Says that a trusted proxy hands on what names no client.
    #[cold]
    pub(super) fn warn_of_unreadable(&self, header: &str) {
        self.warn_once(("unreadable", header), || {
            Some(format!(
                "a trusted proxy sends `{header}` that does not name a client by an address, and such \
                 requests are refused; have it set or extend the field on every request, or name the \
                 one that it sets as `client_ip_header` in the policy"
            ))
        });
    }

    fn warn_once(&self, cause: (&str, &str), text: impl FnOnce() -> Option<String>) {
        self.warnings.add_once(About::Guard, cause, text);
    }

    pub(super) fn warn(&self, warning: &str) {
        self.warnings.add(warning);
    }
}

/// The rule that counts failed authentications of a kind.
pub(crate) fn strike_rule(failure: AuthFailure, threshold: Limit) -> Rule {
    Rule {
        events: Events::AuthFailures(failure),
        ..Rule::new(threshold, Subject::Address)
    }
}

/// What a lock by hand refuses.
pub(crate) fn refuses(scope: LockScope, target: &str) -> Refuses {
    match scope {
        LockScope::Global => Refuses::All,
        LockScope::Path => Refuses::Path(path::normalised(target)),
    }
}

/// What to write into the policy for a proxy that names clients by `field`.
pub(super) fn trust_line(ip: ClientIp, field: &str) -> String {
    let proxy = ip.ip().map(|ip| IpNet::from(ip).to_string());
    let header = ClientIpHeader::default();
    let header = match field {
        _ if field == header.name() => String::new(),
        field => format!(" and client_ip_header = \"{field}\""),
    };
    format!(
        "Write into the policy: trusted_proxies = [\"{}\"]{header}",
        proxy.unwrap_or_else(|| ip.to_string())
    )
}

/// A field by which a proxy names the client, if there is one.
pub(super) fn forwarding_field<H: Headers + ?Sized>(headers: &H) -> Option<&'static str> {
    let mut names = forwarded::KNOWN_FIELDS.into_iter();
    names.find(|name| headers.header_values(name).next().is_some())
}

/// An address that a proxy of one's own has: of this machine, of a private network (RFC 1918,
/// RFC 4193) or one behind a carrier's translators (RFC 6598), or of the link.
fn is_private(ip: ClientIp) -> bool {
    match ip.ip() {
        None => false,
        Some(IpAddr::V4(ip)) => {
            let is_shared = matches!(ip.octets(), [100, 64..=127, ..]);
            ip.is_loopback() || ip.is_private() || ip.is_link_local() || is_shared
        }
        Some(IpAddr::V6(ip)) => {
            ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()
        }
    }
}
