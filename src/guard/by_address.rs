//! The stages of the [decision](super::pipeline) that go by the address of the client.

use std::num::NonZeroU32;
use std::sync::Arc;

use smallvec::SmallVec;

use super::Inner;
use super::denial::Denial;
use super::pipeline::{Refusal, Stop, Want};
use super::request::{Headers, Request};
use super::visit::Visit;
use crate::access::{Place, RouteRules, Rulebook};
use crate::addresses::Addresses;
use crate::client_ip::ClientIp;
use crate::clock::Timestamp;
use crate::counter::Counts;
use crate::forwarded::{self, NamedClient, UnreadableClient};
use crate::ip_limit::IpLimit;
use crate::limit::Limit;
use crate::limiter::{NetworkRule, Outcome};
use crate::lockout::{LockScope, Refuses, Standing, Strike};
use crate::network::Network;
use crate::record::Reason;
use crate::rule::Rule;
use crate::waiting::Patience;

impl Inner {
    /// The client, if it may be another than the peer.
    #[inline(always)]
    pub(super) fn named_client<H: Headers + ?Sized>(
        &self,
        rulebook: &Rulebook,
        request: &Request<'_, H>,
    ) -> Result<Option<ClientIp>, Reason> {
        if !rulebook.names_clients() {
            return Ok(None);
        }
        let peer = rulebook.policy.nat64_prefixes.canonical(request.ip);
        let trusted = &rulebook.policy.trusted_proxies;
        if !trusted.contains(peer) {
            return Ok(Some(peer));
        }
        match self.client_by(trusted, rulebook, request.headers)? {
            Some(named) => Ok(Some(named.ip)),
            None => self.unnamed(rulebook, request.headers).map(|()| Some(peer)),
        }
    }

    /// Whether a trusted proxy may send a request that names no client.
    #[cold]
    fn unnamed<H: Headers + ?Sized>(&self, rulebook: &Rulebook, headers: &H) -> Result<(), Reason> {
        if rulebook.policy.require_client_ip {
            return Err(Reason::InvalidClientIp);
        }
        let has_key = || !matches!(self.presented(headers), Ok(None));
        let header = rulebook.policy.client_ip_header.name();
        self.lockouts.warn_of_unnamed(header, has_key);
        Ok(())
    }

    /// The client that a proxy names, which trusts others; `None` if it names none.
    pub(crate) fn client_by<H: Headers + ?Sized>(
        &self,
        trusted: &Addresses,
        rulebook: &Rulebook,
        headers: &H,
    ) -> Result<Option<NamedClient>, Reason> {
        let (nat64, header) = (
            &rulebook.policy.nat64_prefixes,
            &rulebook.policy.client_ip_header,
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

    pub(super) fn client_ip<H: Headers + ?Sized>(
        &self,
        request: &Request<'_, H>,
    ) -> Result<ClientIp, Denial> {
        let named = self.named_client(&self.rulebook(), request);
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
        visit: &mut Visit<'_, '_, H>,
    ) -> Result<(), Stop> {
        let Some(network) = Network::of(*visit.ip) else {
            return Ok(());
        };
        let rules = network_rules(visit.place);
        if rules.is_empty() {
            return Ok(());
        }
        let cost = u64::from(visit.cost.get());
        let refuses_always = |limit: Limit| !limit.shadow && limit.amount.get() < cost;
        if cost > 1 && rules.iter().any(|rule| refuses_always(rule.limit)) {
            return Err(Reason::CostAboveLimit.into());
        }
        if visit.is_dry_run() {
            let levels = self.limiter().network_levels(network, &rules, visit.cost);
            let rules: Vec<Rule> = limited(visit.place).map(|(_, rule)| rule.clone()).collect();
            visit.progress.is_counted = true;
            return match visit.look(rules.iter(), &levels) {
                Some(denial) => Err(denial.into()),
                None => Ok(()),
            };
        }
        let known = visit.address.take();
        let outcome = known.or_else(|| self.limiter().hit_now(network, &rules, visit.cost));
        let Some(outcome) = outcome else {
            return Err(Stop::Wanting(Want::AddressCount));
        };
        self.judge_address(visit, network, outcome)?;
        visit.progress.is_counted = true;
        Ok(())
    }

    pub(super) async fn count_address<H: ?Sized>(
        &self,
        visit: &Visit<'_, '_, H>,
    ) -> Option<Outcome> {
        let network = Network::of(*visit.ip)?;
        let rules = network_rules(visit.place);
        let patience = &visit.patience;
        let reply = self.limiter().hit(network, &rules, visit.cost, patience);
        Some(reply.get().await)
    }

    fn judge_address<H: Headers + ?Sized>(
        &self,
        visit: &mut Visit<'_, '_, H>,
        network: Network,
        outcome: Outcome,
    ) -> Result<(), Refusal> {
        let is_shared = matches!(outcome, Outcome::RefusedShared(..));
        match outcome {
            Outcome::Admitted(_, None) => Ok(()),
            Outcome::Admitted(_, Some(remarks)) => {
                let names: Vec<String> = remarks
                    .passed_over
                    .iter()
                    .filter_map(|index| limited(visit.place).nth(usize::from(*index)))
                    .map(|(_, rule)| rule.name())
                    .collect();
                visit.note().shadowed.extend(names);
                Ok(())
            }
            Outcome::Undecided => Err(Reason::Unavailable.into()),
            Outcome::Refused(level, room_at) | Outcome::RefusedShared(level, room_at) => {
                let Some((route, rule)) = limited(visit.place).nth(level.rule) else {
                    return Err(Reason::IpLimited.into());
                };
                let is_spared = is_shared || self.spares(visit.request, *visit.ip);
                let lockout = route.lockout.filter(|_| !is_spared);
                let consequence = (&*route.name, lockout, LockScope::Path);
                let locked_for = self.lockouts.exceeded(consequence, network, self.now());
                Err(Denial::exhausted(rule, level, room_at)
                    .and_locked(locked_for)
                    .into())
            }
        }
    }

    /// Counts a failed authentication; the one above the threshold locks. Returns whether this one
    /// did.
    pub(super) async fn strike(
        &self,
        strike: Strike,
        network: Network,
        patience: &Patience,
    ) -> bool {
        let rules = self.rulebook().policy.lockout.clone();
        let rule = [NetworkRule {
            counts: &Counts::Strikes(strike),
            limit: self.lockouts.threshold(&rules),
        }];
        let reply = self
            .limiter()
            .hit(network, &rule, NonZeroU32::MIN, patience);
        let is_above = matches!(reply.get().await, Outcome::Refused(..));
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
        standing: &Standing,
        request: &Request<'_, H>,
        ip: ClientIp,
    ) -> Result<(), Denial> {
        let automatic = match (standing.limits, standing.strikes) {
            (None, None) => None,
            _ if self.spares(request, ip) => None,
            (limits, Some(_)) if self.is_found_proxy(ip) => limits,
            (limits, strikes) => limits.max(strikes),
        };
        self.require_over(standing.manual.max(automatic))
    }

    /// Refuses a request without a key that is locked out until then for want of one.
    #[cold]
    pub(super) fn enforce_keyless<H: Headers + ?Sized>(
        &self,
        until: Option<Timestamp>,
        visit: &Visit<'_, '_, H>,
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
        let rulebook = self.rulebook();
        rulebook.spares(ip)
            || (rulebook.policy.trusted_proxies.is_empty() && self.lockouts.spares(request))
    }

    /// Whether a lock refuses requests for `path`, on routes or under limits that are so `named`.
    pub(super) fn is_refused<H: Headers + ?Sized>(
        &self,
        refuses: &Refuses,
        request: &Request<'_, H>,
        named: impl Fn(&str) -> bool,
    ) -> bool {
        match refuses {
            Refuses::All => true,
            Refuses::Keyless => false,
            Refuses::Path(locked) => request.may_mean(locked, self.rulebook().policy.ignore_case),
            Refuses::Route(name) => named(name),
        }
    }

    /// How the sender of a request stands that is checked against a limit of this name.
    fn standing_under<H: Headers + ?Sized>(
        &self,
        limit: &str,
        request: &Request<'_, H>,
        ip: ClientIp,
    ) -> Option<Box<Standing>> {
        let refused = |refuses: &Refuses| self.is_refused(refuses, request, |name| name == limit);
        self.lockouts.standing(&ip, refused, &self.clock)
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
        match self.standing_under(limit, request, ip) {
            Some(standing) => self.enforce(&standing, request, ip).map(|()| ip),
            None => Ok(ip),
        }
    }

    pub(crate) async fn check_ip<H: Headers + ?Sized>(
        &self,
        limit: &IpLimit,
        request: &Request<'_, H>,
    ) -> Result<ClientIp, Denial> {
        let ip = self.client_ip(request)?;
        let Some(network) = Network::of(ip) else {
            return Ok(ip);
        };
        let rulebook = self.rulebook();
        let standing = self.standing_under(&limit.name, request, ip);
        let denial = if rulebook.denies(ip) {
            Denial::new(Reason::IpDenied)
        } else if let Some(standing) = standing
            && let Err(denial) = self.enforce(&standing, request, ip)
        {
            denial
        } else {
            let rule = NetworkRule {
                counts: &Counts::Requests(Arc::clone(&limit.name)),
                limit: limit.limit,
            };
            let (rules, patience) = ([rule], Patience::default());
            let reply = self
                .limiter()
                .hit(network, &rules, NonZeroU32::MIN, &patience);
            match reply.get().await {
                Outcome::Admitted(..) => return Ok(ip),
                Outcome::Undecided => Denial::new(Reason::Unavailable),
                Outcome::RefusedShared(level, room_at) => {
                    Denial::exhausted(&limit.rule(), level, room_at)
                }
                Outcome::Refused(level, room_at) => {
                    let lockout = limit.lockout.filter(|_| !self.spares(request, ip));
                    let consequence = (&*limit.name, lockout, limit.scope);
                    let now = self.clock.timestamp();
                    let locked_for = self.lockouts.exceeded(consequence, network, now);
                    Denial::exhausted(&limit.rule(), level, room_at).and_locked(locked_for)
                }
            }
        };
        self.recorder().record_keyless(request, ip, denial.reason());
        Err(denial)
    }
}

/// The limits by address of the routes at a place.
fn limited<'a, 'p: 'a>(
    place: &'a Place<'p>,
) -> impl Iterator<Item = (&'p RouteRules, &'p Rule)> + 'a {
    let routes = place.routes.iter();
    routes.flat_map(|route| route.ip_rules.iter().map(move |rule| (*route, rule)))
}

fn network_rules<'p>(place: &Place<'p>) -> SmallVec<[NetworkRule<'p>; 4]> {
    let rules = limited(place).map(|(route, rule)| NetworkRule {
        counts: &route.counts,
        limit: rule.limit,
    });
    rules.collect()
}
