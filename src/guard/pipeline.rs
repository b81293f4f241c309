//! The decision, written once: what every request passes, in this order.
//!
//! | stage | rules |
//! |---|---|
//! | client IP | the address is that of the peer |
//! | route | every path is protected |
//! | lockout | the address is not locked out, of everything or of this path |
//! | IP limits | those that the server asks by [`Inner::check_ip`] |
//! | credential | one key, from its header or as a bearer token; none only from who is not locked out of that |
//! | key | known, active, unexpired, organization active, holds the scopes, affords the cost |
//! | limits | those of the key, all at once |

use std::sync::Arc;

use super::Inner;
use super::credential;
use super::decision::{Denial, Grant, RuleState, StoredPath, Verdict, holds, status};
use super::request::{Headers, Request};
use super::residents::{About, Caller};
use crate::client_ip::ClientIp;
use crate::clock::Timestamp;
use crate::ip_limit::IpLimit;
use crate::key::{self, HashedKey};
use crate::limiter::{AttachError, Counts, NetworkCounter, Outcome};
use crate::lockout::{Lock, LockCause, Strike};
use crate::network::Network;
use crate::path;
use crate::policy::Rule;
use crate::record::{KeyId, OrgStatus, Reason};
use crate::store::{Resolved, StoreError, UsageEvent};

/// Whom a request is decided for.
#[derive(Clone, Copy)]
pub(super) enum Subject {
    /// The key that its headers present.
    Presented,
    /// A key by its id, as an administrator asks.
    Key(KeyId),
}

/// A refusal before any limit was asked; with the key, if it is known.
struct Refusal {
    denial: Denial,
    caller: Option<Arc<Caller>>,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Denial::new(reason).into()
    }
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        Self {
            denial,
            caller: None,
        }
    }
}

impl Inner {
    #[inline]
    pub(super) fn decide<H: Headers + ?Sized>(
        &self,
        request: &Request<'_, H>,
    ) -> Result<Grant, Denial> {
        let caller = match self.authenticate(request, Subject::Presented) {
            Ok(caller) => caller,
            Err(refusal) => return Err(self.refuse(request, refusal)),
        };
        match self
            .limiter
            .admit(&caller.group, &caller.rules, request.cost)
        {
            Outcome::Admitted(level) => {
                let path = self.path_to_record(request.path);
                Ok(Grant::new(
                    caller,
                    level,
                    client_ip(request),
                    request.method,
                    path,
                ))
            }
            Outcome::Refused(level, room_at) => {
                let denial = Denial::exhausted(caller.rules[level.rule], level, room_at);
                self.record_refusal(request, &caller, denial.reason());
                Err(denial)
            }
        }
    }

    /// As [`Inner::decide`], but nothing is consumed nor recorded.
    pub(super) fn dry_run<H: Headers + ?Sized>(
        &self,
        request: &Request<'_, H>,
        subject: Subject,
    ) -> Verdict {
        let caller = match self.authenticate(request, subject) {
            Ok(caller) => caller,
            Err(refusal) => {
                return Verdict {
                    denial: Some(refusal.denial),
                    rules: Vec::new(),
                };
            }
        };
        let rules = &caller.rules;
        let levels = self.limiter.levels(&caller.group, rules, request.cost);
        let slowest = levels.iter().max_by_key(|(_, room_at)| room_at);
        Verdict {
            denial: slowest
                .filter(|(level, room_at)| *room_at > level.at)
                .map(|&(level, room_at)| Denial::exhausted(rules[level.rule], level, room_at)),
            rules: std::iter::zip(rules, &levels)
                .map(|(rule, (level, _))| RuleState::new(rule, *level))
                .collect(),
        }
    }

    /// Everything but the limits.
    #[inline]
    fn authenticate<H: Headers + ?Sized>(
        &self,
        request: &Request<'_, H>,
        subject: Subject,
    ) -> Result<Arc<Caller>, Refusal> {
        let standing = self
            .lockouts
            .standing(request.ip, request.path, &self.clock);
        if let Some(standing) = &standing {
            self.enforce(standing.locked.as_ref(), request)?;
        }
        let caller = match subject {
            Subject::Presented => {
                let Some(text) = credential::presented(request.headers, &self.key_header)? else {
                    let keyless = standing
                        .as_ref()
                        .and_then(|standing| standing.keyless.as_ref());
                    self.enforce(keyless, request)?;
                    return Err(Reason::MissingKey.into());
                };
                self.identify(text)?
            }
            Subject::Key(id) => self.load_by_id(id)?,
        };
        match self.objection(&caller, request) {
            None => Ok(caller),
            Some(reason) => Err(Refusal {
                denial: Denial::new(reason),
                caller: Some(caller),
            }),
        }
    }

    /// The key that `text` is, from memory or the store.
    #[inline]
    fn identify(&self, text: &[u8]) -> Result<Arc<Caller>, Reason> {
        let hash = self.hasher.hash(text);
        if let Some(caller) = self.residents.get(&hash)
            && caller.revision == self.revisions.of(caller.key_id, caller.org_id)
        {
            return Ok(caller);
        }
        self.load(hash, text)
    }

    #[cold]
    fn load(&self, hash: HashedKey, text: &[u8]) -> Result<Arc<Caller>, Reason> {
        // Whoever does not know how keys are formed does not make us read the file.
        if !key::is_well_formed(text) {
            return Err(Reason::MalformedKey);
        }
        let changes = self.revisions.all();
        let resolved = self
            .store
            .resolve(&hash)
            .map_err(unavailable)?
            .ok_or(Reason::UnknownKey)?;
        let caller = Arc::new(self.caller(hash, resolved)?);
        // What was read before a change must not be kept after it: the change has already told the
        // cache to forget.
        if self.revisions.all() == changes {
            self.residents.insert(Arc::clone(&caller));
        }
        Ok(caller)
    }

    fn load_by_id(&self, id: KeyId) -> Result<Arc<Caller>, Reason> {
        let resolved = self
            .store
            .resolve_id(id)
            .map_err(unavailable)?
            .ok_or(Reason::UnknownKey)?;
        Ok(Arc::new(self.caller(HashedKey([0; 32]), resolved)?))
    }

    fn caller(&self, hash: HashedKey, resolved: Resolved) -> Result<Caller, Reason> {
        let Resolved {
            key,
            org,
            credential_expires_at,
        } = resolved;
        let group = self
            .limiter
            .attach(crate::limiter::GroupId::Key(key.id), &mut || {
                self.store.quota(key.id)
            })
            .map_err(|error| match error {
                AttachError::Full => Reason::Overloaded,
                AttachError::Seed(error) => unavailable(error),
            })?;
        let per_minute = Rule::per_minute(key.rate_limit_per_minute);
        let monthly = key.monthly_limit.map(Rule::monthly);
        Ok(Caller {
            hash,
            revision: self.revisions.of(key.id, org.id),
            key_id: key.id,
            org_id: org.id,
            is_active: key.active,
            is_org_active: org.status == OrgStatus::Active,
            expires_at: [key.expires_at, credential_expires_at]
                .into_iter()
                .flatten()
                .min()
                .unwrap_or(Timestamp::MAX),
            group,
            rules: std::iter::once(per_minute).chain(monthly).collect(),
            recorder: Arc::clone(&self.recorder),
            about: Box::new(About { key, org }),
        })
    }

    /// Why a known key may not make this request, limits apart.
    #[inline]
    fn objection<H: ?Sized>(&self, caller: &Caller, request: &Request<'_, H>) -> Option<Reason> {
        if !caller.is_active {
            return Some(Reason::RevokedKey);
        }
        if caller.expires_at < Timestamp::MAX && self.clock.timestamp() >= caller.expires_at {
            return Some(Reason::ExpiredKey);
        }
        if !caller.is_org_active {
            return Some(Reason::SuspendedOrg);
        }
        let holds_scope = |scope: &&str| holds(&caller.about.key, scope);
        if !request.scopes.iter().all(holds_scope) {
            return Some(Reason::MissingScope);
        }
        let cost = u64::from(request.cost.get());
        if caller.rules.iter().any(|rule| cost > rule.limit) {
            return Some(Reason::CostAboveLimit);
        }
        None
    }

    /// Refuses a request because of a lock, unless the lock is not meant for it.
    #[cold]
    fn enforce<H: Headers + ?Sized>(
        &self,
        lock: Option<&Lock>,
        request: &Request<'_, H>,
    ) -> Result<(), Denial> {
        match lock {
            Some(lock) if lock.cause == LockCause::Manual || !self.lockouts.spares(request) => {
                Err(Denial::locked(lock.until.since(self.clock.timestamp())))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn check_ip(
        &self,
        limit: &IpLimit,
        ip: ClientIp,
        target: &str,
    ) -> Result<(), Denial> {
        let Some(network) = Network::of(ip) else {
            return Ok(());
        };
        let standing = self.lockouts.standing(ip, target, &self.clock);
        let now = || self.clock.timestamp();
        let denial = if let Some(lock) = standing.and_then(|standing| standing.locked) {
            Denial::locked(lock.until.since(now()))
        } else {
            let counts = Counts::Requests(&limit.name);
            match self
                .limiter
                .hit(NetworkCounter { network, counts }, limit.rule())
            {
                Outcome::Admitted(_) => return Ok(()),
                Outcome::Refused(level, room_at) => {
                    let locked_for = self.lockouts.exceeded(limit, network, target, now());
                    Denial::ip_limited(limit, level, room_at, locked_for)
                }
            }
        };
        self.recorder.count_refusal(denial.reason());
        Err(denial)
    }

    #[cold]
    fn refuse<H: Headers + ?Sized>(&self, request: &Request<'_, H>, refusal: Refusal) -> Denial {
        let reason = refusal.denial.reason();
        if let Some(strike) = Strike::of(reason) {
            self.lockouts
                .strike(strike, request, &*self.limiter, &self.clock);
        }
        match &refusal.caller {
            Some(caller) => self.record_refusal(request, caller, reason),
            None => self.recorder.count_refusal(reason),
        }
        refusal.denial
    }

    fn record_refusal<H: ?Sized>(&self, request: &Request<'_, H>, caller: &Caller, reason: Reason) {
        if !self.recorder.is_enabled() {
            return;
        }
        let path = path::stored(request.path).as_bytes();
        let event = UsageEvent {
            at: self.clock.timestamp(),
            key_id: caller.key_id,
            ip: client_ip(request),
            latency_micros: 0,
            status: status(reason),
            // Cut to 256 bytes before.
            path_len: path.len() as u16,
            method: request.method,
            refused: Some(reason),
        };
        self.recorder.record(event, path);
    }

    #[inline]
    fn path_to_record(&self, target: &str) -> StoredPath {
        if self.recorder.is_enabled() {
            StoredPath::from_slice(path::stored(target).as_bytes())
        } else {
            StoredPath::new()
        }
    }
}

/// The address a request is decided and recorded for: that of the peer.
fn client_ip<H: ?Sized>(request: &Request<'_, H>) -> ClientIp {
    request.ip
}

/// The client learns that the request could not be decided, the next flush or change says why.
fn unavailable(_: StoreError) -> Reason {
    Reason::Unavailable
}
