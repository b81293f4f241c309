//! The decision, written once: what every request passes, in this order.
//!
//! | stage | rules |
//! |---|---|
//! | client IP | the address is that of the peer, or the one that a trusted proxy names readably |
//! | route | every way in which a server may read the path, which must not be too many; an exempt one goes no further |
//! | lockout | the policy accepts the address, and it is not locked out, of everything or of this path |
//! | IP limits | those of the routes that match, all at once |
//! | credential | a preflight request of a browser needs none; one key, from its header or as a bearer token; none only from who is not locked out of that |
//! | key | known, active, unexpired, organization active, accepted from here, holds the scopes, affords the cost |
//! | limits | those of the key, its organization and the routes, all at once |

use std::num::NonZeroU32;
use std::sync::Arc;

use super::Guard;
use super::context::{Progress, RequestContext, ShadowLog, is_above_a_limit, lists};
use super::credential;
use super::denial::{Denial, status};
use super::grant::{Extra, Grant, holds};
use super::key_cache::CachedKey;
use super::request::{Headers, Request};
use super::verdict::Verdict;
use crate::counter::SavedCounter;
use crate::counter::{Rule, SubjectId};
use crate::limiter::{Admission, AttachError, CounterSet, Demand, LimitState, Receipt, rule_at};
use crate::lockout::AuthFailure;
use crate::model::{HashedKey, key_text};
use crate::model::{KeyId, Method, Reason};
use crate::net::ClientIp;
use crate::net::IpKey;
use crate::policy::path;
use crate::policy::{Access, CompiledPolicy, RouteMatch};
use crate::store::{StoreError, UsageEvent};
use crate::sys::{Deadline, MaybeReady, block_on};
use crate::time::{Moment, Timestamp};

/// Whom a request is decided for.
#[derive(Clone, Copy)]
pub(crate) enum KeySource {
    /// The key that its headers present.
    Presented,
    /// A key by its id, as an administrator asks.
    Key(KeyId),
}

/// A refusal before any limit of a key was asked; with the key, if it is known.
pub(super) struct Refusal {
    denial: Denial,
    caller: Option<Arc<CachedKey>>,
}

/// Why a decision does not come to a grant at once.
pub(super) enum Stop {
    /// By the limits of the key, or for want of a client: nothing remains to be done.
    Denied(Denial),
    Refused(Refusal),
    Wanting(Want),
}

/// What a decision needs that may have to come from another server, or from the disk.
pub(super) enum Want {
    /// What the limits of the routes say of the address.
    AddressCount,
    Key(Unread),
    /// What the limits of the key say.
    Limits(Arc<CachedKey>),
}

/// A key that is not in memory.
pub(super) struct Unread {
    hash: HashedKey,
    /// By the Python package's hash, of a text that is not formed like one of our keys.
    legacy: Option<HashedKey>,
    /// Where it is unknown, the text was meant for the application.
    is_optional: bool,
}

impl<E: Into<Refusal>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
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

impl Guard {
    #[inline]
    pub(crate) fn decide<H: Headers + ?Sized>(
        &self,
        request: &Request<'_, H>,
        subject: KeySource,
    ) -> Result<Grant, Denial> {
        match self.decide_at_once(request, subject) {
            Ok(grant) => Ok(grant),
            Err((Stop::Denied(denial), _)) => Err(denial),
            Err((stop, progress)) => block_on(self.go_on(request, subject, stop, progress)),
        }
    }

    #[inline]
    pub(crate) async fn decide_async<H: Headers + ?Sized>(
        &self,
        request: &Request<'_, H>,
        subject: KeySource,
    ) -> Result<Grant, Denial> {
        match self.decide_at_once(request, subject) {
            Ok(grant) => Ok(grant),
            Err((Stop::Denied(denial), _)) => Err(denial),
            Err((stop, progress)) => self.go_on(request, subject, stop, progress).await,
        }
    }

    // In a box, a refusal would cost an allocation.
    #[allow(clippy::result_large_err)]
    #[inline(always)]
    fn decide_at_once<H: Headers + ?Sized>(
        &self,
        request: &Request<'_, H>,
        subject: KeySource,
    ) -> Result<Grant, (Stop, Progress)> {
        let loaded = self.policy_handle.load_unless_plain();
        let compiled = loaded
            .as_deref()
            .map_or(self.policy_handle.plain(), |compiled| compiled);
        let named = match self.named_client(compiled, request) {
            Ok(named) => named,
            Err(reason) => {
                let denial = self.refuse_unnamed(request, reason);
                return Err((Stop::Denied(denial), Progress::default()));
            }
        };
        let ip = named.as_ref().unwrap_or(&request.ip);
        let place = request.place(compiled);
        let mut visit = self.receive(compiled, request, ip, &place, Progress::default());
        let passed = self.pass(&mut visit, subject);
        passed.map_err(|stop| (stop, visit.progress))
    }

    /// Takes a decision to its end that has stopped.
    #[cold]
    async fn go_on<H: Headers + ?Sized>(
        &self,
        request: &Request<'_, H>,
        subject: KeySource,
        mut stop: Stop,
        progress: Progress,
    ) -> Result<Grant, Denial> {
        let compiled = self.policy_handle.load_full();
        let named = self.named_client(&compiled, request);
        let named = named.map_err(|reason| self.refuse_unnamed(request, reason))?;
        let ip = named.as_ref().unwrap_or(&request.ip);
        let place = request.place(&compiled);
        let mut visit = self.receive(&compiled, request, ip, &place, progress);
        loop {
            match stop {
                Stop::Denied(denial) => return Err(denial),
                Stop::Refused(refusal) => return Err(self.refuse(&visit, refusal).await),
                Stop::Wanting(Want::Limits(caller)) => {
                    let outcome = self.ask_limits(&visit, &caller).await;
                    return self.conclude(&mut visit, caller, outcome);
                }
                Stop::Wanting(want) => self.supply(&mut visit, want).await,
            }
            match self.pass(&mut visit, subject) {
                Ok(grant) => return Ok(grant),
                Err(next) => stop = next,
            }
        }
    }

    /// All stages, as far as nobody else has to be asked.
    #[inline(always)]
    fn pass<H: Headers + ?Sized>(
        &self,
        visit: &mut RequestContext<'_, '_, H>,
        subject: KeySource,
    ) -> Result<Grant, Stop> {
        let Some(caller) = self.authenticate(visit, subject)? else {
            return Ok(self.grant_anonymously(visit));
        };
        if self.limiter().is_remote() {
            return Err(Stop::Wanting(Want::Limits(caller)));
        }
        let outcome = match visit.place.limits_keys {
            false => self.admit_now(visit, &caller, &[&caller.rules]),
            true => self.admit_now(visit, &caller, &lists(&caller, visit.place)),
        };
        match outcome {
            Some(outcome) => self.conclude(visit, caller, outcome).map_err(Stop::Denied),
            None => Err(Stop::Wanting(Want::Limits(caller))),
        }
    }

    #[inline(always)]
    fn admit_now<H: ?Sized>(
        &self,
        visit: &RequestContext<'_, '_, H>,
        caller: &CachedKey,
        rules: &[&[Rule]],
    ) -> Option<Admission> {
        let demand = Demand {
            subjects: caller.subjects(),
            rules,
            cost: visit.cost,
        };
        match self.limiter().admit(demand, &visit.deadline) {
            MaybeReady::Now(outcome) => Some(outcome),
            MaybeReady::Later(_) => None,
        }
    }

    async fn ask_limits<H: ?Sized>(
        &self,
        visit: &RequestContext<'_, '_, H>,
        caller: &CachedKey,
    ) -> Admission {
        let rules = lists(caller, visit.place);
        let demand = Demand {
            subjects: caller.subjects(),
            rules: &rules,
            cost: visit.cost,
        };
        self.limiter().admit(demand, &visit.deadline).get().await
    }

    #[inline(always)]
    fn conclude<H: ?Sized>(
        &self,
        visit: &mut RequestContext<'_, '_, H>,
        caller: Arc<CachedKey>,
        outcome: Admission,
    ) -> Result<Grant, Denial> {
        match outcome {
            Admission::Admitted(level, receipt) => {
                let extra = self.extra(visit, &caller, receipt);
                let is_recorded = self.recorder().is_enabled();
                let path = if is_recorded {
                    path::stored(visit.request.path)
                } else {
                    ""
                };
                let (ip, method, cost) = (*visit.ip, visit.request.method, visit.cost);
                Ok(Grant::new(caller, level, ip, method, path, cost, extra))
            }
            // Only addresses can find no room: that of a key was made when it was attached.
            Admission::Full | Admission::Undecided => {
                self.record_refusal(visit, &caller, Reason::Unavailable);
                Err(Denial::new(Reason::Unavailable))
            }
            Admission::Refused(level, retry_at) | Admission::RefusedShared(level, retry_at) => {
                let denial = match caller.rules.get(level.rule) {
                    Some(rule) => Denial::exhausted(rule, level, retry_at),
                    None => exhausted_route(&lists(&caller, visit.place), level, retry_at),
                };
                self.record_refusal(visit, &caller, denial.reason());
                Err(denial)
            }
        }
    }

    /// As [`Guard::decide`], but nothing is consumed nor recorded.
    pub(crate) fn dry_run<H: Headers + ?Sized>(
        &self,
        request: &Request<'_, H>,
        subject: KeySource,
    ) -> Verdict {
        let compiled = self.compiled();
        let named = match self.named_client(&compiled, request) {
            Ok(named) => named,
            Err(reason) => return Verdict::refused(reason),
        };
        let ip = named.as_ref().unwrap_or(&request.ip);
        let progress = Progress {
            notes: Some(Box::new(ShadowLog::of_dry_run())),
            ..Progress::default()
        };
        let place = request.place(&compiled);
        let mut visit = self.receive(&compiled, request, ip, &place, progress);
        let is_open_for_now = place.access == Access::OpenForNow && !self.is_preflight(request);
        let (denial, key_checked) = loop {
            match self.authenticate(&mut visit, subject) {
                Ok(Some(caller)) => break (self.look_at_limits(&mut visit, &caller), true),
                Ok(None) => break (None, is_open_for_now),
                Err(Stop::Denied(denial)) => break (Some(denial), true),
                Err(Stop::Refused(Refusal { denial, caller })) => {
                    let is_of_address = matches!(
                        denial.reason(),
                        Reason::IpDenied
                            | Reason::IpLocked
                            | Reason::IpLimited
                            | Reason::CostAboveLimit
                            | Reason::UnreadablePath
                    );
                    break (Some(denial), caller.is_some() || !is_of_address);
                }
                Err(Stop::Wanting(want)) => block_on(self.supply(&mut visit, want)),
            }
        };
        let notes = *visit.progress.notes.unwrap_or_default();
        Verdict {
            denial,
            rules: notes.states.unwrap_or_default(),
            shadowed: notes.shadowed,
            key_checked,
        }
    }

    fn look_at_limits<H: ?Sized>(
        &self,
        visit: &mut RequestContext<'_, '_, H>,
        caller: &Arc<CachedKey>,
    ) -> Option<Denial> {
        let rules = lists(caller, visit.place);
        let states = self.limiter().states(Demand {
            subjects: caller.subjects(),
            rules: &rules,
            cost: visit.cost,
        });
        visit.look(rules.iter().flat_map(|list| list.iter()), &states)
    }

    /// Where the request comes from and where it goes to.
    #[inline(always)]
    fn receive<'p, 'r, H: Headers + ?Sized>(
        &self,
        compiled: &CompiledPolicy,
        request: &'r Request<'r, H>,
        ip: &'r ClientIp,
        place: &'r RouteMatch<'p>,
        progress: Progress,
    ) -> RequestContext<'p, 'r, H> {
        let mut visit = RequestContext {
            is_denied: compiled.has_lists() && compiled.denies(*ip),
            ip,
            request,
            place,
            cost: request.cost.unwrap_or(NonZeroU32::MIN),
            progress,
            deadline: Deadline::default(),
            address: None,
            found: None,
        };
        if request.cost.is_none() && !visit.place.routes.is_empty() {
            let enforced = visit.place.routes.iter().filter(|route| !route.shadow);
            let cost = enforced.filter_map(|route| route.cost).max();
            visit.cost = cost.unwrap_or(NonZeroU32::MIN);
        }
        visit
    }

    /// Everything but the limits of the key. `None` if no key is needed. Where it stops for want of
    /// something, it is called again once that is supplied.
    #[inline(always)]
    fn authenticate<H: Headers + ?Sized>(
        &self,
        visit: &mut RequestContext<'_, '_, H>,
        subject: KeySource,
    ) -> Result<Option<Arc<CachedKey>>, Stop> {
        match visit.place.access {
            Access::Exempt => return Ok(None),
            Access::Unreadable => return Err(Reason::UnreadablePath.into()),
            _ => {}
        }
        if visit.is_denied {
            return Err(Reason::IpDenied.into());
        }
        let (request, routes) = (visit.request, &visit.place.routes);
        let is_named = |name: &str| routes.iter().any(|route| *route.name == *name);
        let lock_status = self.lock_status(request, visit.ip, is_named)?;
        if let Some(lock_status) = &lock_status {
            self.enforce(lock_status, visit.request, *visit.ip)?;
        }
        if visit.place.limits_addresses && !visit.progress.is_counted {
            self.limit_address(visit)?;
        }
        let keyless = lock_status.and_then(|lock_status| lock_status.keyless);
        match visit.place.access {
            Access::Protected | Access::OpenForNow if self.is_preflight(visit.request) => Ok(None),
            Access::Protected => self.accept(visit, subject, keyless).map(Some),
            Access::OpenForNow => match self.accept(visit, subject, keyless) {
                Err(Stop::Refused(refusal)) if refusal.denial.status() != 503 => {
                    let routes = visit.place.routes.iter().filter(|route| route.requires_key);
                    let names: Vec<String> = routes.map(|route| route.name.to_string()).collect();
                    visit.note().shadowed.extend(names);
                    Ok(None)
                }
                accepted => accepted.map(Some),
            },
            Access::Open | Access::Exempt => Ok(None),
            Access::Unreadable => Err(Reason::UnreadablePath.into()),
        }
    }

    /// The key, if it may make the request.
    #[inline(always)]
    fn accept<H: Headers + ?Sized>(
        &self,
        visit: &mut RequestContext<'_, '_, H>,
        subject: KeySource,
        keyless: Option<Timestamp>,
    ) -> Result<Arc<CachedKey>, Stop> {
        let caller = match subject {
            _ if let Some(found) = visit.found.take() => match found? {
                Some(caller) => caller,
                // The text was not meant for us.
                None => {
                    self.enforce_keyless(keyless, visit)?;
                    return Err(Reason::MissingKey.into());
                }
            },
            KeySource::Presented => {
                let Some((text, is_optional)) = self.presented(visit.request.headers)? else {
                    self.enforce_keyless(keyless, visit)?;
                    return Err(Reason::MissingKey.into());
                };
                match self.recognise(text) {
                    Ok(caller) => caller,
                    Err(hash) => {
                        let unread = self.unread(hash, text, is_optional)?;
                        return Err(Stop::Wanting(Want::Key(unread)));
                    }
                }
            }
            KeySource::Key(id) => self.load_by_id(id)?,
        };
        match self.authorize(&caller, visit) {
            None => {
                if self.proxies.observes(|| IpKey::of(*visit.ip)) {
                    self.vouch(visit, &caller);
                }
                Ok(caller)
            }
            Some(reason) => Err(Stop::Refused(Refusal {
                denial: Denial::new(reason),
                caller: Some(caller),
            })),
        }
    }

    #[cold]
    async fn supply<H: Headers + ?Sized>(&self, visit: &mut RequestContext<'_, '_, H>, want: Want) {
        match want {
            Want::AddressCount => visit.address = self.count_address(visit).await,
            Want::Key(unread) => visit.found = Some(self.load(unread, &visit.deadline).await),
            Want::Limits(_) => {}
        }
    }

    /// The key that `text` is, if it is in memory; its hash if not.
    #[inline]
    pub(super) fn recognise(&self, text: &[u8]) -> Result<Arc<CachedKey>, HashedKey> {
        let hash = self.hasher.hash(text);
        if let Some(caller) = self.key_cache.get(&hash)
            && caller.revision == self.revisions.of(caller.key_id, caller.org_id)
            && (caller.reload_at == Timestamp::MAX || self.now() < caller.reload_at)
        {
            return Ok(caller);
        }
        Err(hash)
    }

    /// Whether a browser asks what a page of another origin may send (Fetch §3.2.2). Such a request
    /// carries no key by design, and the answer says no more than that.
    #[inline(always)]
    fn is_preflight<H: Headers + ?Sized>(&self, request: &Request<'_, H>) -> bool {
        let has = |name| request.headers.header_values(name).next().is_some();
        request.method == Method::Options
            && has("origin")
            && has("access-control-request-method")
            && matches!(self.presented(request.headers), Ok(None))
    }

    /// The text that is presented as a key, and whether it may be meant for the application instead.
    #[inline(always)]
    pub(super) fn presented<'a, H: Headers + ?Sized>(
        &'a self,
        headers: &'a H,
    ) -> Result<Option<(&'a [u8], bool)>, Reason> {
        match credential::presented(headers, &self.key_header)? {
            Some(text) => Ok(Some((text, false))),
            None => Ok(self.legacy_bearer(headers).map(|text| (text, true))),
        }
    }

    /// Whoever does not know how keys are formed does not make us read the store.
    #[cold]
    fn unread(&self, hash: HashedKey, text: &[u8], is_optional: bool) -> Result<Unread, Reason> {
        let legacy = match &self.legacy {
            _ if key_text::is_well_formed(text) => None,
            Some(hasher) => Some(hasher.hash(text)),
            None => return Err(Reason::MalformedKey),
        };
        Ok(Unread {
            hash,
            legacy,
            is_optional,
        })
    }

    /// The key, `None` if there is none and need not be.
    async fn load(
        &self,
        unread: Unread,
        deadline: &Deadline,
    ) -> Result<Option<Arc<CachedKey>>, Reason> {
        let hash = unread.hash;
        if let Some(caller) = self.load_stored(hash, &hash, deadline).await? {
            return Ok(Some(caller));
        }
        let Some(old) = unread.legacy else {
            return Err(Reason::UnknownKey);
        };
        match self.load_legacy(hash, old, deadline).await? {
            None if !unread.is_optional => Err(Reason::MalformedKey),
            found => Ok(found),
        }
    }

    /// The key that is stored under `stored`, kept in memory as the one whose text has `hash`.
    pub(super) async fn load_stored(
        &self,
        hash: HashedKey,
        stored: &HashedKey,
        deadline: &Deadline,
    ) -> Result<Option<Arc<CachedKey>>, Reason> {
        let changes = self.revisions.all();
        let resolved = self.store.resolve(stored, deadline).get().await;
        let Some(resolved) = resolved.map_err(unavailable)? else {
            return Ok(None);
        };
        let caller = Arc::new(self.caller(hash, resolved)?);
        // What was read before a change must not be kept after it: the change has already told the
        // cache to forget.
        if self.revisions.all() == changes {
            self.key_cache.insert(Arc::clone(&caller));
        }
        Ok(Some(caller))
    }

    fn load_by_id(&self, id: KeyId) -> Result<Arc<CachedKey>, Reason> {
        let resolved = self
            .store
            .resolve_id(id)
            .map_err(unavailable)?
            .ok_or(Reason::UnknownKey)?;
        let hash = HashedKey([0; 32]);
        Ok(Arc::new(self.caller(hash, resolved)?))
    }

    /// Begins with what is stored of the group: as `known` says, or else as the store does.
    pub(crate) fn attach(
        &self,
        id: SubjectId,
        known: Option<&[(SubjectId, Vec<SavedCounter>)]>,
    ) -> Result<Arc<CounterSet>, Reason> {
        let stored = |known: &[(SubjectId, Vec<SavedCounter>)]| {
            let mut groups = known.iter();
            let of_group = groups.find(|(group, _)| *group == id);
            Ok(of_group.map_or_else(Vec::new, |(_, saved)| saved.clone()))
        };
        let seed = &mut || known.map_or_else(|| self.store.counters(id), stored);
        self.limiter()
            .attach(id, seed)
            .map_err(|error| match error {
                AttachError::Full => Reason::Overloaded,
                AttachError::Seed(error) => unavailable(error),
            })
    }

    /// Why a known key may not make this request, limits apart.
    #[inline(always)]
    fn authorize<H: ?Sized>(
        &self,
        caller: &CachedKey,
        visit: &mut RequestContext<'_, '_, H>,
    ) -> Option<Reason> {
        if !caller.is_active {
            return Some(Reason::RevokedKey);
        }
        if caller.expires_at < Timestamp::MAX && self.clock.timestamp() >= caller.expires_at {
            return Some(Reason::ExpiredKey);
        }
        if !caller.is_org_active {
            return Some(Reason::SuspendedOrg);
        }
        if caller.is_bound && !caller.about.key.allowed_ips.contains(*visit.ip) {
            return Some(Reason::IpNotAllowed);
        }
        let holds_scope = |scope: &str| holds(&caller.about.key, scope);
        if !visit.request.scopes.iter().all(|scope| holds_scope(scope)) {
            return Some(Reason::MissingScope);
        }
        for route in &visit.place.routes {
            if route.scopes.iter().all(|scope| holds_scope(scope.as_str())) {
                continue;
            }
            if !route.shadow {
                return Some(Reason::MissingScope);
            }
            visit.note().shadowed.push(route.name.to_string());
        }
        // No limit is below 1.
        let is_above = visit.cost > NonZeroU32::MIN && is_above_a_limit(caller, visit);
        is_above.then_some(Reason::CostAboveLimit)
    }

    #[cold]
    fn grant_anonymously<H: ?Sized>(&self, visit: &mut RequestContext<'_, '_, H>) -> Grant {
        let shadowed = visit.take_shadowed();
        self.recorder().count_shadowed(&shadowed);
        let now = self.clock.now();
        Grant::anonymous(now, *visit.ip, visit.request.method, shadowed)
    }

    /// What a grant carries along for routes with limits and for shadow mode.
    #[inline]
    fn extra<H: ?Sized>(
        &self,
        visit: &mut RequestContext<'_, '_, H>,
        caller: &CachedKey,
        receipt: Receipt,
    ) -> Option<Box<Extra>> {
        if !visit.place.limits_keys && receipt.is_none() && visit.progress.notes.is_none() {
            return None;
        }
        self.rare_extra(visit, caller, receipt)
    }

    #[cold]
    fn rare_extra<H: ?Sized>(
        &self,
        visit: &mut RequestContext<'_, '_, H>,
        caller: &CachedKey,
        receipt: Receipt,
    ) -> Option<Box<Extra>> {
        let rules = lists(caller, visit.place);
        let mut shadowed = visit.take_shadowed();
        for index in receipt.iter().flat_map(|remarks| &remarks.shadow_denied) {
            let rule = rule_at(&rules, usize::from(*index));
            shadowed.extend(rule.map(Rule::name));
        }
        self.recorder().count_shadowed(&shadowed);
        Some(Box::new(Extra {
            route_rules: rules[1..].concat(),
            receipt,
            shadowed,
        }))
    }

    #[cold]
    async fn refuse<H: Headers + ?Sized>(
        &self,
        visit: &RequestContext<'_, '_, H>,
        refusal: Refusal,
    ) -> Denial {
        let reason = refusal.denial.reason();
        if let Some(strike) = AuthFailure::of(reason)
            && !self.spares(visit.request, *visit.ip)
            && let Some(network) = IpKey::of(*visit.ip)
        {
            self.observe(visit, network);
            if !self.is_found_proxy(*visit.ip)
                && self.strike(strike, network, &visit.deadline).await
            {
                self.warn_of_locked_proxy(visit);
            }
        }
        if reason == Reason::IpLocked {
            self.vouch_while_locked(visit).await;
        }
        let notes = visit.progress.notes.as_deref();
        self.recorder()
            .count_shadowed(notes.map_or(&[], |notes| &notes.shadowed));
        match &refusal.caller {
            Some(caller) => self.record_refusal(visit, caller, reason),
            None => {
                let (request, ip) = (visit.request, *visit.ip);
                self.recorder().record_keyless(request, ip, reason);
            }
        }
        refusal.denial
    }

    fn record_refusal<H: ?Sized>(
        &self,
        visit: &RequestContext<'_, '_, H>,
        caller: &CachedKey,
        reason: Reason,
    ) {
        if !self.recorder().is_enabled() {
            return;
        }
        let path = path::stored(visit.request.path).as_bytes();
        let event = UsageEvent {
            at: self.clock.timestamp(),
            key_id: caller.key_id,
            ip: *visit.ip,
            latency_micros: 0,
            status: status(reason),
            // Cut to 256 bytes before.
            path_len: path.len() as u16,
            method: visit.request.method,
            refused: Some(reason),
        };
        self.recorder().record(event, path);
    }
}

#[cold]
fn exhausted_route(rules: &[&[Rule]], level: LimitState, retry_at: Moment) -> Denial {
    match rule_at(rules, level.rule) {
        Some(rule) => Denial::exhausted(rule, level, retry_at),
        None => Denial::new(Reason::RateLimited),
    }
}

/// The client learns that the request could not be decided, the next flush or change says why.
pub(super) fn unavailable(_: StoreError) -> Reason {
    Reason::Unavailable
}
