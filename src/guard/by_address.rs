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
use crate::counter::Counts;
use crate::forwarded::{self, NamedClient, UnreadableClient};
use crate::ip_limit::IpLimit;
use crate::limit::Limit;
use crate::limiter::{NetworkRule, Outcome};
use crate::lockout::{Lock, LockCause, LockScope, Refuses, Standing, Strike};
use crate::network::Network;
use crate::path;
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
        let named = self.client_by(trusted, rulebook, request.headers)?;
        Ok(Some(named.map_or(peer, |named| named.ip)))
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
                let is_spared = is_shared || self.is_spared(visit);
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

    /// Refuses a request because of a lock, unless the lock is not meant for it.
    #[cold]
    pub(super) fn enforce<H: Headers + ?Sized>(
        &self,
        lock: Option<&Lock>,
        visit: &Visit<'_, '_, H>,
    ) -> Result<(), Denial> {
        match lock {
            Some(lock) if lock.cause == LockCause::Manual || !self.is_spared(visit) => {
                Err(Denial::locked(lock.until.since(self.clock.timestamp())))
            }
            _ => Ok(()),
        }
    }

    /// Whether strikes and automatic locks do not concern who asks.
    pub(super) fn is_spared<H: Headers + ?Sized>(&self, visit: &Visit<'_, '_, H>) -> bool {
        self.spares(visit.request, *visit.ip) || self.is_found_proxy(*visit.ip)
    }

    fn spares<H: Headers + ?Sized>(&self, request: &Request<'_, H>, ip: ClientIp) -> bool {
        let rulebook = self.rulebook();
        rulebook.spares(ip)
            || (rulebook.policy.trusted_proxies.is_empty() && self.lockouts.spares(request))
    }

    /// Whether a lock refuses requests for `path`, on routes or under limits that are so `named`.
    pub(super) fn is_refused(
        &self,
        refuses: &Refuses,
        path: &str,
        named: impl Fn(&str) -> bool,
    ) -> bool {
        match refuses {
            Refuses::All => true,
            Refuses::Keyless => false,
            Refuses::Path(locked) => {
                path::may_mean(path, locked, self.rulebook().policy.ignore_case)
            }
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
        let refused =
            |refuses: &Refuses| self.is_refused(refuses, request.path, |name| name == limit);
        self.lockouts.standing(&ip, refused, &self.clock)
    }

    /// That who asks is not locked out of a path or by the limit of this name, with or without a key.
    #[cfg(feature = "http")]
    pub(crate) fn require_unlocked<H: Headers + ?Sized>(
        &self,
        limit: &str,
        request: &Request<'_, H>,
    ) -> Result<ClientIp, Denial> {
        let ip = self.client_ip(request)?;
        let standing = self.standing_under(limit, request, ip);
        match standing.and_then(|standing| standing.locked) {
            Some(lock) if lock.cause == LockCause::Manual || !self.spares(request, ip) => {
                Err(Denial::locked(lock.until.since(self.clock.timestamp())))
            }
            _ => Ok(ip),
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
        let is_spared = self.spares(request, ip) || (!limit.is_strict && self.is_found_proxy(ip));
        let standing = self.standing_under(&limit.name, request, ip);
        let lock = standing.and_then(|standing| standing.locked);
        let now = || self.clock.timestamp();
        let denial = if rulebook.denies(ip) {
            Denial::new(Reason::IpDenied)
        } else if let Some(lock) = lock.filter(|lock| lock.cause == LockCause::Manual || !is_spared)
        {
            Denial::locked(lock.until.since(now()))
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
                    let lockout = limit.lockout.filter(|_| !is_spared);
                    let consequence = (&*limit.name, lockout, limit.scope);
                    let locked_for = self.lockouts.exceeded(consequence, network, now());
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
