//! The stages of the [decision](super::pipeline) that go by the address of the client.

use std::cell::Cell;

use smallvec::SmallVec;

use super::Guard;
use super::context::RequestContext;
use super::denial::Denial;
use super::lockouts::strike_rule;
use super::pipeline::{Refusal, Stop, Want};
use super::request::{Headers, Request};
use crate::counter::IpLimit;
use crate::counter::Rule;
use crate::limit::Limit;
use crate::limiter::{Admission, Demand, Subjects};
use crate::lockout::{AuthFailure, LockScope, LockStatus, Refuses};
use crate::model::Reason;
use crate::net::CidrSet;
use crate::net::ClientIp;
use crate::net::IpKey;
use crate::net::{NamedClient, UnreadableClient, forwarded};
use crate::policy::{CompiledPolicy, RouteMatch, RouteRules};
use crate::sys::{Deadline, MaybeReady};
use crate::time::Timestamp;

impl Guard {
    /// The client, if it may be another than the peer.
    #[inline(always)]
    pub(super) fn named_client<H: Headers + ?Sized>(
        &self,
        compiled: &CompiledPolicy,
        request: &Request<'_, H>,
    ) -> Result<Option<ClientIp>, Reason> {
        if !compiled.names_clients() {
            return Ok(None);
        }
        let peer = compiled.policy.nat64_prefixes.canonical(request.ip);
        let trusted = &compiled.policy.trusted_proxies;
        if !trusted.contains(peer) {
            return Ok(Some(peer));
        }
        match self.client_by(trusted, compiled, request.headers)? {
            Some(named) => Ok(Some(named.ip)),
            None => self.unnamed(compiled, request.headers).map(|()| Some(peer)),
        }
    }

    /// Whether a trusted proxy may send a request that names no client.
    #[cold]
    fn unnamed<H: Headers + ?Sized>(
        &self,
        compiled: &CompiledPolicy,
        headers: &H,
    ) -> Result<(), Reason> {
        if compiled.policy.require_client_ip {
            return Err(Reason::InvalidClientIp);
        }
        let has_key = || !matches!(self.presented(headers), Ok(None));
        let header = compiled.policy.client_ip_header.name();
        self.lockouts.warn_of_unnamed(header, has_key);
        Ok(())
    }

    /// The client that a proxy names, which trusts others; `None` if it names none.
    pub(crate) fn client_by<H: Headers + ?Sized>(
        &self,
        trusted: &CidrSet,
        compiled: &CompiledPolicy,
        headers: &H,
    ) -> Result<Option<NamedClient>, Reason> {
        let (nat64, header) = (
            &compiled.policy.nat64_prefixes,
            &compiled.policy.client_ip_header,
        );
        let values = headers.header_values(header.name());
        match forwarded::client(trusted, nat64, header, values) {
            Ok(Some(named)) => Ok(Some(named)),
            Ok(None) => {
                self.lockouts.note_other_fields(header.name(), headers);
                Ok(None)
            }
            Err(UnreadableClient) => {
                self.lockouts.warn_of_unreadable(header.name());
                Err(Reason::InvalidClientIp)
            }
        }
    }

    pub(crate) fn client_ip<H: Headers + ?Sized>(
        &self,
        request: &Request<'_, H>,
    ) -> Result<ClientIp, Denial> {
        let named = self.named_client(&self.compiled(), request);
        let named = named.map_err(|reason| self.refuse_unnamed(request, reason))?;
        Ok(named.unwrap_or(request.ip))
    }

    /// Refuses a request whose client cannot be told.
    #[cold]
    pub(crate) fn refuse_unnamed<H: ?Sized>(
        &self,
        request: &Request<'_, H>,
        reason: Reason,
    ) -> Denial {
        self.recorder().record_keyless(request, request.ip, reason);
        Denial::new(reason)
    }

    /// The limits of the routes by address.
    pub(super) fn limit_address<H: Headers + ?Sized>(
        &self,
        visit: &mut RequestContext<'_, '_, H>,
    ) -> Result<(), Stop> {
        let Some(network) = IpKey::of(*visit.ip) else {
            return Ok(());
        };
        let rules = address_rules(visit.place);
        if rules.is_empty() {
            return Ok(());
        }
        let cost = u64::from(visit.cost.get());
        let refuses_always = |limit: Limit| !limit.shadow && limit.amount.get() < cost;
        if cost > 1 && limited(visit.place).any(|(_, rule)| refuses_always(rule.limit)) {
            return Err(Reason::CostAboveLimit.into());
        }
        let demand = Demand {
            subjects: Subjects::Address(network),
            rules: &rules,
            cost: visit.cost,
        };
        if visit.is_dry_run() {
            let states = self.limiter().states(demand);
            visit.progress.is_counted = true;
            return match visit.look(limited(visit.place).map(|(_, rule)| rule), &states) {
                Some(denial) => Err(denial.into()),
                None if self.limiter().has_room(demand) => Ok(()),
                None => Err(Reason::Overloaded.into()),
            };
        }
        let outcome = match visit.address.take() {
            Some(outcome) => outcome,
            None if self.limiter().is_remote() => return Err(Stop::Wanting(Want::AddressCount)),
            None => match self.limiter().admit(demand, &visit.deadline) {
                MaybeReady::Now(outcome) => outcome,
                MaybeReady::Later(_) => return Err(Stop::Wanting(Want::AddressCount)),
            },
        };
        self.judge_address(visit, network, outcome)?;
        visit.progress.is_counted = true;
        Ok(())
    }

    pub(super) async fn count_address<H: ?Sized>(
        &self,
        visit: &RequestContext<'_, '_, H>,
    ) -> Option<Admission> {
        let network = IpKey::of(*visit.ip)?;
        let demand = Demand {
            subjects: Subjects::Address(network),
            rules: &address_rules(visit.place),
            cost: visit.cost,
        };
        let reply = self.limiter().admit(demand, &visit.deadline);
        Some(reply.get().await)
    }

    fn judge_address<H: Headers + ?Sized>(
        &self,
        visit: &mut RequestContext<'_, '_, H>,
        network: IpKey,
        outcome: Admission,
    ) -> Result<(), Refusal> {
        let is_shared = matches!(outcome, Admission::RefusedShared(..));
        match outcome {
            Admission::Admitted(_, None) => Ok(()),
            Admission::Admitted(_, Some(remarks)) => {
                let names: Vec<String> = remarks
                    .shadow_denied
                    .iter()
                    .filter_map(|index| limited(visit.place).nth(usize::from(*index)))
                    .map(|(_, rule)| rule.name())
                    .collect();
                visit.note().shadowed.extend(names);
                Ok(())
            }
            Admission::Full => Err(Reason::Overloaded.into()),
            Admission::Undecided => Err(Reason::Unavailable.into()),
            Admission::Refused(level, retry_at) | Admission::RefusedShared(level, retry_at) => {
                let Some((route, rule)) = limited(visit.place).nth(level.rule) else {
                    return Err(Reason::IpLimited.into());
                };
                let is_spared = is_shared || self.spares(visit.request, *visit.ip);
                let lockout = route.lockout.filter(|_| !is_spared);
                let consequence = (&*route.name, lockout, LockScope::Path);
                let locked_for = self.lockouts.exceeded(consequence, network, self.now());
                Err(Denial::exhausted(rule, level, retry_at)
                    .and_locked(locked_for)
                    .into())
            }
        }
    }

    /// Counts a failed authentication; the one above the threshold locks. Returns whether this one
    /// did.
    pub(super) async fn strike(
        &self,
        strike: AuthFailure,
        network: IpKey,
        deadline: &Deadline,
    ) -> bool {
        let rules = self.compiled().policy.lockout.clone();
        let rule = [strike_rule(strike, self.lockouts.threshold(&rules))];
        let lists = [&rule[..]];
        let demand = Demand::new(Subjects::Address(network), &lists);
        let reply = self.limiter().admit(demand, deadline);
        let is_above = matches!(reply.get().await, Admission::Refused(..));
        if is_above {
            self.lockouts
                .strike_out(strike, network, &rules, self.now());
        }
        is_above
    }

    /// Refuses a request that is locked out.
    #[cold]
    pub(super) fn enforce<H: Headers + ?Sized>(
        &self,
        lock_status: &LockStatus,
        request: &Request<'_, H>,
        ip: ClientIp,
    ) -> Result<(), Denial> {
        let automatic = match (lock_status.limits, lock_status.auth_failures) {
            (None, None) => None,
            _ if self.spares(request, ip) => None,
            (limits, Some(_)) if self.is_found_proxy(ip) => limits,
            (limits, strikes) => limits.max(strikes),
        };
        self.require_over(lock_status.manual.max(automatic))
    }

    /// Refuses a request without a key that is locked out until then for want of one.
    #[cold]
    pub(super) fn enforce_keyless<H: Headers + ?Sized>(
        &self,
        until: Option<Timestamp>,
        visit: &RequestContext<'_, '_, H>,
    ) -> Result<(), Denial> {
        let ip = *visit.ip;
        let is_spared = || self.spares(visit.request, ip) || self.is_found_proxy(ip);
        self.require_over(until.filter(|_| !is_spared()))
    }

    fn require_over(&self, until: Option<Timestamp>) -> Result<(), Denial> {
        match until {
            Some(until) => Err(Denial::locked(until.since(self.clock.timestamp()))),
            None => Ok(()),
        }
    }

    /// Whether neither strikes nor limits lock a client out.
    pub(super) fn spares<H: Headers + ?Sized>(
        &self,
        request: &Request<'_, H>,
        ip: ClientIp,
    ) -> bool {
        let compiled = self.compiled();
        compiled.is_exempt(ip)
            || (compiled.policy.trusted_proxies.is_empty() && self.lockouts.spares(request))
    }

    /// The locks of a client that refuse a request, on routes or under limits that are so `named`.
    ///
    /// # Errors
    /// [`Reason::UnreadablePath`] if it is locked out of a path, and that of the request may be any.
    #[inline(always)]
    pub(super) fn lock_status<H: Headers + ?Sized>(
        &self,
        request: &Request<'_, H>,
        ip: &ClientIp,
        named: impl Fn(&str) -> bool,
    ) -> Result<Option<Box<LockStatus>>, Reason> {
        let is_unreadable = Cell::new(false);
        let refused = |refuses: &Refuses| match refuses {
            Refuses::All => true,
            Refuses::Keyless => false,
            Refuses::Path(locked) => {
                let ignore_case = self.compiled().policy.ignore_case;
                request.may_mean(locked, ignore_case).unwrap_or_else(|| {
                    is_unreadable.set(true);
                    false
                })
            }
            Refuses::Route(name) => named(name),
        };
        let lock_status = self.lockouts.lock_status(ip, refused, &self.clock);
        if is_unreadable.get() {
            return Err(Reason::UnreadablePath);
        }
        Ok(lock_status)
    }

    /// Checks that the client is not locked out of the path or by the limit of this name. Keys are not
    /// looked at.
    #[cfg(feature = "http")]
    pub(crate) fn require_unlocked<H: Headers + ?Sized>(
        &self,
        limit: &str,
        request: &Request<'_, H>,
    ) -> Result<ClientIp, Denial> {
        let ip = self.client_ip(request)?;
        match self.lock_status(request, &ip, |name| name == limit) {
            Ok(Some(lock_status)) => self.enforce(&lock_status, request, ip).map(|()| ip),
            Ok(None) => Ok(ip),
            Err(reason) => Err(Denial::new(reason)),
        }
    }

    pub(crate) async fn check_ip<H: Headers + ?Sized>(
        &self,
        limit: &IpLimit,
        request: &Request<'_, H>,
    ) -> Result<ClientIp, Denial> {
        let ip = self.client_ip(request)?;
        let Some(network) = IpKey::of(ip) else {
            return Ok(ip);
        };
        let compiled = self.compiled();
        let enforced = match self.lock_status(request, &ip, |name| *name == *limit.name) {
            _ if compiled.denies(ip) => Err(Denial::new(Reason::IpDenied)),
            Ok(Some(lock_status)) => self.enforce(&lock_status, request, ip),
            Ok(None) => Ok(()),
            Err(reason) => Err(Denial::new(reason)),
        };
        let denial = if let Err(denial) = enforced {
            denial
        } else {
            let (rule, deadline) = ([limit.rule()], Deadline::default());
            let lists = [&rule[..]];
            let demand = Demand::new(Subjects::Address(network), &lists);
            match self.limiter().admit(demand, &deadline).get().await {
                Admission::Admitted(..) => return Ok(ip),
                Admission::Full => Denial::new(Reason::Overloaded),
                Admission::Undecided => Denial::new(Reason::Unavailable),
                Admission::RefusedShared(level, retry_at) => {
                    Denial::exhausted(&limit.rule(), level, retry_at)
                }
                Admission::Refused(level, retry_at) => {
                    let lockout = limit.lockout.filter(|_| !self.spares(request, ip));
                    let consequence = (&*limit.name, lockout, limit.scope);
                    let now = self.clock.timestamp();
                    let locked_for = self.lockouts.exceeded(consequence, network, now);
                    Denial::exhausted(&limit.rule(), level, retry_at).and_locked(locked_for)
                }
            }
        };
        self.recorder().record_keyless(request, ip, denial.reason());
        Err(denial)
    }
}

/// The limits by address of the routes at a place.
fn limited<'a, 'p: 'a>(
    place: &'a RouteMatch<'p>,
) -> impl Iterator<Item = (&'p RouteRules, &'p Rule)> + Clone + 'a {
    let routes = place.routes.iter();
    routes.flat_map(|route| route.ip_rules.iter().map(move |rule| (*route, rule)))
}

/// The same limits, as lists.
fn address_rules<'p>(place: &RouteMatch<'p>) -> SmallVec<[&'p [Rule]; 4]> {
    let lists = place.routes.iter().map(|route| &*route.ip_rules);
    lists.filter(|rules| !rules.is_empty()).collect()
}
