//! Detection of proxies that the policy does not name.

use std::hash::BuildHasher;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use crate::model::OrgId;
use crate::net::IpKey;
use crate::time::Moment;

const SLOTS: usize = 1_024;

/// How long an address is observed after a failed authentication: as long as the failure counts.
const OBSERVED_FOR: Duration = Duration::from_secs(3_600);

/// How long an address counts as a proxy after its last failed authentication.
const PROXY_FOR: Duration = Duration::from_secs(24 * 3_600);

/// How often a key from a locked address is looked up.
const LOOKUP_INTERVAL: Duration = Duration::from_millis(10);

/// Addresses that were detected to be proxies. Failed authentications do not lock them out; limits per
/// address do.
///
/// A failed authentication with forwarding headers puts a peer under observation. The peer is a proxy as
/// soon as keys of two organizations were accepted from it, for different clients in the headers.
/// Headers alone prove nothing, and neither do the keys of one customer, so that forged headers do not
/// prevent a lock. A client that a trusted proxy names is never detected as a proxy.
///
/// Each address has one slot, by a hash that is seeded per process. A new address replaces only one
/// without an accepted key, so that guesses from many addresses evict no proxy. The keys of one
/// organization occupy one slot, the last in which they were the first, so that they cannot fill the
/// table.
#[derive(Default)]
pub(super) struct Proxies {
    /// Allocated by the first observation.
    slots: OnceLock<Box<[Slot]>>,
    hasher: RandomState,
    /// When a key from a locked address may be looked up again, in nanoseconds.
    next_lookup: AtomicU64,
}

#[derive(Default)]
struct Slot {
    /// The hash of the address under observation; 0 for none.
    observed: AtomicU64,
    suspect: Mutex<Option<Suspect>>,
    /// For the organizations whose hash selects this slot: the index of the slot that they occupy.
    kept: AtomicUsize,
}

struct Suspect {
    network: IpKey,
    /// The first accepted key.
    first: Option<Vouched>,
    is_proxy: bool,
    failed_at: Moment,
}

/// An accepted key: its organization, and a hash of the client in the headers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Vouched {
    pub(super) org: OrgId,
    pub(super) client: u64,
}

impl Suspect {
    fn new(network: IpKey, failed_at: Moment) -> Self {
        Self {
            network,
            first: None,
            is_proxy: false,
            failed_at,
        }
    }

    fn is_over(&self, now: Moment) -> bool {
        let kept = if self.is_proxy {
            PROXY_FOR
        } else {
            OBSERVED_FOR
        };
        now.since(self.failed_at) >= kept
    }
}

impl Proxies {
    /// Starts or extends the observation of an address that failed to authenticate.
    #[cold]
    pub(super) fn observe(&self, network: IpKey, now: Moment) {
        let slots = self
            .slots
            .get_or_init(|| std::iter::repeat_with(Slot::default).take(SLOTS).collect());
        let hash = self.hash(network);
        let slot = slot(slots, hash);
        let mut suspect = slot.suspect.lock();
        match &mut *suspect {
            Some(known) if known.network == network && !known.is_over(now) => known.failed_at = now,
            Some(other) if other.first.is_some() && !other.is_over(now) => {}
            _ => {
                *suspect = Some(Suspect::new(network, now));
                slot.observed.store(hash, Ordering::Relaxed);
            }
        }
    }

    /// Whether the address is under observation.
    #[inline]
    pub(super) fn observes(&self, network: impl FnOnce() -> Option<IpKey>) -> bool {
        match self.slots.get() {
            None => false,
            Some(slots) => network().is_some_and(|network| {
                let hash = self.hash(network);
                slot(slots, hash).observed.load(Ordering::Relaxed) == hash
            }),
        }
    }

    /// Notes a key that was accepted from an address under observation. Returns whether this shows that
    /// the address is a proxy.
    #[cold]
    pub(super) fn vouch(&self, network: IpKey, vouched: Vouched, now: Moment) -> bool {
        let Some(slots) = self.slots.get() else {
            return false;
        };
        let hash = self.hash(network);
        let slot = slot(slots, hash);
        let mut suspect = slot.suspect.lock();
        let Some(known) = suspect.as_mut().filter(|known| known.network == network) else {
            return false;
        };
        if known.is_over(now) {
            *suspect = None;
            slot.observed.store(0, Ordering::Relaxed);
            return false;
        }
        let Some(first) = known.first else {
            known.first = Some(vouched);
            drop(suspect);
            self.occupy(slots, hash as usize % SLOTS, vouched.org);
            return false;
        };
        let differs = first.org != vouched.org && first.client != vouched.client;
        if differs && !known.is_proxy {
            known.is_proxy = true;
            slot.observed.store(0, Ordering::Relaxed);
            return true;
        }
        false
    }

    /// Frees the other slot that an organization occupies.
    fn occupy(&self, slots: &[Slot], index: usize, org: OrgId) {
        let before = slot(slots, self.hash(org))
            .kept
            .swap(index, Ordering::AcqRel);
        if before != index {
            let mut suspect = slots[before].suspect.lock();
            let suspect = suspect.as_mut().filter(|known| !known.is_proxy);
            if let Some(known) = suspect {
                known.first.take_if(|first| first.org == org);
            }
        }
    }

    /// Whether an address was detected to be a proxy.
    pub(super) fn contains(&self, network: IpKey, now: Moment) -> bool {
        let Some(slots) = self.slots.get() else {
            return false;
        };
        let suspect = slot(slots, self.hash(network)).suspect.lock();
        let known = suspect.as_ref().filter(|known| known.network == network);
        known.is_some_and(|known| known.is_proxy && !known.is_over(now))
    }

    /// Whether another key from a locked address may be looked up now.
    pub(super) fn may_look_up(&self, now: Moment) -> bool {
        let is_due = now.nanos() >= self.next_lookup.load(Ordering::Relaxed);
        if is_due {
            let next = now.plus(LOOKUP_INTERVAL);
            self.next_lookup.store(next.nanos(), Ordering::Relaxed);
        }
        is_due
    }

    pub(super) fn hash(&self, value: impl std::hash::Hash) -> u64 {
        self.hasher.hash_one(value).max(1)
    }
}

fn slot(slots: &[Slot], hash: u64) -> &Slot {
    &slots[hash as usize % SLOTS]
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Moment = Moment::from_nanos(1 << 60);

    fn network(text: &str) -> IpKey {
        text.parse().unwrap()
    }

    fn vouched(org: u64, client: u64) -> Vouched {
        let org = OrgId(org);
        Vouched { org, client }
    }

    #[test]
    fn keys_of_two_organizations_for_two_clients_reveal_a_proxy() {
        let (proxies, peer) = (Proxies::default(), network("203.0.113.7"));
        assert!(!proxies.vouch(peer, vouched(1, 1), START));
        proxies.observe(peer, START);
        assert!(proxies.observes(|| Some(peer)));
        // Any clients with one organization, any organizations with one client.
        for (org, client) in [(1, 1), (1, 2), (1, 3), (2, 1)] {
            assert!(!proxies.vouch(peer, vouched(org, client), START));
            assert!(!proxies.contains(peer, START));
        }
        assert!(proxies.vouch(peer, vouched(2, 2), START));
        assert!(proxies.contains(peer, START) && !proxies.observes(|| Some(peer)));
        assert!(!proxies.contains(network("203.0.113.8"), START));
        // It remains a proxy for a day after its last failure.
        let later = START.plus(PROXY_FOR);
        assert!(!proxies.contains(peer, later));
        proxies.observe(peer, START.plus(OBSERVED_FOR));
        assert!(proxies.contains(peer, later));
    }

    #[test]
    fn an_observation_ends_an_hour_after_the_failure() {
        let (proxies, peer) = (Proxies::default(), network("203.0.113.7"));
        proxies.observe(peer, START);
        proxies.vouch(peer, vouched(1, 1), START);
        let later = START.plus(OBSERVED_FOR);
        assert!(!proxies.vouch(peer, vouched(2, 2), later));
        assert!(!proxies.observes(|| Some(peer)));
    }

    #[test]
    fn guesses_from_many_addresses_evict_no_proxy() {
        let proxies = Proxies::default();
        let (peer, vouching) = (network("203.0.113.7"), network("203.0.113.8"));
        for (peer, vouches) in [(peer, 2), (vouching, 1)] {
            proxies.observe(peer, START);
            for at in 1..=vouches {
                proxies.vouch(peer, vouched(at, at), START);
            }
        }
        for i in 0..20_000_u32 {
            let [_, a, b, c] = i.to_be_bytes();
            proxies.observe(network(&format!("10.{a}.{b}.{c}")), START);
        }
        assert!(proxies.contains(peer, START));
        assert!(proxies.vouch(vouching, vouched(9, 9), START));
    }

    /// Once, one customer kept all slots for an hour, by a key accepted from each of many addresses.
    #[test]
    fn keys_of_one_organization_keep_one_slot() {
        let proxies = Proxies::default();
        for i in 0..20_000_u32 {
            let [_, a, b, c] = i.to_be_bytes();
            let peer = network(&format!("10.{a}.{b}.{c}"));
            proxies.observe(peer, START);
            proxies.vouch(peer, vouched(1, u64::from(i)), START);
        }
        let slots = proxies.slots.get().unwrap();
        let is_kept = |slot: &&Slot| {
            let suspect = slot.suspect.lock();
            suspect.as_ref().is_some_and(|known| known.first.is_some())
        };
        assert_eq!(slots.iter().filter(is_kept).count(), 1);
    }
}
