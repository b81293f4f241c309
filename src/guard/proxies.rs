//! Detection of proxies that the policy does not name.

use std::hash::{BuildHasher, Hash};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use crate::model::OrgId;
use crate::net::IpKey;
use crate::time::Moment;

const BUCKETS: usize = 1_024;

/// How long an address is observed after a failed authentication: as long as the failure counts.
const OBSERVED_FOR: Duration = Duration::from_secs(3_600);

/// How long an address counts as a proxy after its last failed authentication.
const PROXY_FOR: Duration = Duration::from_secs(24 * 3_600);

/// Minimum time between look-ups of keys from locked addresses.
const LOOKUP_INTERVAL: Duration = Duration::from_millis(10);

/// Addresses that were detected to be proxies. Failed authentications do not lock them out; limits per
/// address do.
///
/// A failed authentication with forwarding headers puts a peer under observation. The peer is a proxy as
/// soon as keys of two organizations were accepted from it, for different clients in the headers.
/// Headers alone prove nothing, and neither do the keys of one customer, so that forged headers do not
/// prevent a lock. A client that a trusted proxy names is never detected as a proxy.
///
/// Each address has one bucket, selected by a hash seeded per process. A new address replaces an old
/// one only if no key was accepted from the old one, so guesses from many addresses evict no proxy. An
/// organization occupies at most one bucket, the one in which its key was most recently the first
/// accepted key, so one customer cannot fill the table.
#[derive(Default)]
pub(super) struct Proxies {
    /// Allocated by the first observation.
    buckets: OnceLock<Box<[Bucket]>>,
    hasher: RandomState,
    /// When a key from a locked address may be looked up again, in nanoseconds.
    next_lookup: AtomicU64,
}

#[derive(Default)]
struct Bucket {
    /// The hash of the address under observation; 0 for none.
    observed: AtomicU64,
    suspect: Mutex<Option<Suspect>>,
    /// For the organizations whose hash selects this bucket: the index of the bucket that they occupy.
    kept: AtomicUsize,
}

struct Suspect {
    ip_key: IpKey,
    /// The first accepted key.
    first: Option<AcceptedKey>,
    is_proxy: bool,
    failed_at: Moment,
}

/// An accepted key: its organization, and a hash of the client in the headers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct AcceptedKey {
    pub(super) org: OrgId,
    pub(super) client: u64,
}

impl Suspect {
    fn new(ip_key: IpKey, failed_at: Moment) -> Self {
        Self {
            ip_key,
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
    pub(super) fn observe(&self, ip_key: IpKey, now: Moment) {
        let buckets = self.buckets.get_or_init(|| {
            std::iter::repeat_with(Bucket::default)
                .take(BUCKETS)
                .collect()
        });
        let hash = self.hash(ip_key);
        let bucket = &buckets[hash as usize % BUCKETS];
        let mut suspect = bucket.suspect.lock();
        match &mut *suspect {
            Some(known) if known.ip_key == ip_key && !known.is_over(now) => known.failed_at = now,
            Some(other) if other.first.is_some() && !other.is_over(now) => {}
            _ => {
                *suspect = Some(Suspect::new(ip_key, now));
                bucket.observed.store(hash, Ordering::Relaxed);
            }
        }
    }

    /// Whether the address is under observation.
    #[inline]
    pub(super) fn observes(&self, ip_key: impl FnOnce() -> Option<IpKey>) -> bool {
        match self.buckets.get() {
            None => false,
            Some(buckets) => ip_key().is_some_and(|ip_key| {
                let hash = self.hash(ip_key);
                buckets[hash as usize % BUCKETS]
                    .observed
                    .load(Ordering::Relaxed)
                    == hash
            }),
        }
    }

    /// Notes a key that was accepted from an address under observation. Returns whether this shows that
    /// the address is a proxy.
    #[cold]
    pub(super) fn note_accepted(&self, ip_key: IpKey, key: AcceptedKey, now: Moment) -> bool {
        let Some(buckets) = self.buckets.get() else {
            return false;
        };
        let index = self.index(ip_key);
        let bucket = &buckets[index];
        let mut suspect = bucket.suspect.lock();
        let Some(known) = suspect.as_mut().filter(|known| known.ip_key == ip_key) else {
            return false;
        };
        if known.is_over(now) {
            *suspect = None;
            bucket.observed.store(0, Ordering::Relaxed);
            return false;
        }
        let Some(first) = known.first else {
            known.first = Some(key);
            drop(suspect);
            self.occupy(buckets, index, key.org);
            return false;
        };
        let differs = first.org != key.org && first.client != key.client;
        if differs && !known.is_proxy {
            known.is_proxy = true;
            bucket.observed.store(0, Ordering::Relaxed);
            return true;
        }
        false
    }

    /// Frees the other bucket that an organization occupies.
    fn occupy(&self, buckets: &[Bucket], index: usize, org: OrgId) {
        let before = buckets[self.index(org)].kept.swap(index, Ordering::AcqRel);
        if before != index {
            let mut suspect = buckets[before].suspect.lock();
            let suspect = suspect.as_mut().filter(|known| !known.is_proxy);
            if let Some(known) = suspect {
                known.first.take_if(|first| first.org == org);
            }
        }
    }

    /// Whether an address was detected to be a proxy.
    pub(super) fn contains(&self, ip_key: IpKey, now: Moment) -> bool {
        let Some(buckets) = self.buckets.get() else {
            return false;
        };
        let suspect = buckets[self.index(ip_key)].suspect.lock();
        let known = suspect.as_ref().filter(|known| known.ip_key == ip_key);
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

    pub(super) fn hash(&self, value: impl Hash) -> u64 {
        self.hasher.hash_one(value).max(1)
    }

    fn index(&self, value: impl Hash) -> usize {
        self.hash(value) as usize % BUCKETS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Moment = Moment::from_nanos(1 << 60);

    fn ip_key(text: &str) -> IpKey {
        text.parse().unwrap()
    }

    fn key(org: u64, client: u64) -> AcceptedKey {
        let org = OrgId(org);
        AcceptedKey { org, client }
    }

    #[test]
    fn keys_of_two_organizations_for_two_clients_reveal_a_proxy() {
        let (proxies, peer) = (Proxies::default(), ip_key("203.0.113.7"));
        assert!(!proxies.note_accepted(peer, key(1, 1), START));
        proxies.observe(peer, START);
        assert!(proxies.observes(|| Some(peer)));
        // Any clients with one organization, any organizations with one client.
        for (org, client) in [(1, 1), (1, 2), (1, 3), (2, 1)] {
            assert!(!proxies.note_accepted(peer, key(org, client), START));
            assert!(!proxies.contains(peer, START));
        }
        assert!(proxies.note_accepted(peer, key(2, 2), START));
        assert!(proxies.contains(peer, START) && !proxies.observes(|| Some(peer)));
        assert!(!proxies.contains(ip_key("203.0.113.8"), START));
        // It remains a proxy for a day after its last failure.
        let later = START.plus(PROXY_FOR);
        assert!(!proxies.contains(peer, later));
        proxies.observe(peer, START.plus(OBSERVED_FOR));
        assert!(proxies.contains(peer, later));
    }

    #[test]
    fn an_observation_ends_an_hour_after_the_failure() {
        let (proxies, peer) = (Proxies::default(), ip_key("203.0.113.7"));
        proxies.observe(peer, START);
        proxies.note_accepted(peer, key(1, 1), START);
        let later = START.plus(OBSERVED_FOR);
        assert!(!proxies.note_accepted(peer, key(2, 2), later));
        assert!(!proxies.observes(|| Some(peer)));
    }

    #[test]
    fn guesses_from_many_addresses_evict_no_proxy() {
        let proxies = Proxies::default();
        let (peer, accepting) = (ip_key("203.0.113.7"), ip_key("203.0.113.8"));
        for (peer, accepted) in [(peer, 2), (accepting, 1)] {
            proxies.observe(peer, START);
            for at in 1..=accepted {
                proxies.note_accepted(peer, key(at, at), START);
            }
        }
        for i in 0..20_000_u32 {
            let [_, a, b, c] = i.to_be_bytes();
            proxies.observe(ip_key(&format!("10.{a}.{b}.{c}")), START);
        }
        assert!(proxies.contains(peer, START));
        assert!(proxies.note_accepted(accepting, key(9, 9), START));
    }

    /// Regression: one customer kept all buckets for an hour, by a key accepted from each of many addresses.
    #[test]
    fn keys_of_one_organization_keep_one_slot() {
        let proxies = Proxies::default();
        for i in 0..20_000_u32 {
            let [_, a, b, c] = i.to_be_bytes();
            let peer = ip_key(&format!("10.{a}.{b}.{c}"));
            proxies.observe(peer, START);
            proxies.note_accepted(peer, key(1, u64::from(i)), START);
        }
        let buckets = proxies.buckets.get().unwrap();
        let is_kept = |bucket: &&Bucket| {
            let suspect = bucket.suspect.lock();
            suspect.as_ref().is_some_and(|known| known.first.is_some())
        };
        assert_eq!(buckets.iter().filter(is_kept).count(), 1);
    }
}
