use std::num::NonZeroU32;
use std::sync::LazyLock;

use super::*;
use crate::counter::{PlainRules, SubjectId};
use crate::guard::RateLimitHeaders;
use crate::guard::cached_key::{GrantBackends, KeyRecord};
use crate::guard::recorder::Recorder;
use crate::guard::revisions::Revisions;
use crate::limiter::{AnyLimiter, CounterSet, Limiter, MemoryLimiter};
use crate::model::{Key, KeyId, KeyStatus, Org, OrgId, OrgStatus};
use crate::net::CidrSet;
use crate::policy::ScopeSet;
use crate::time::{Clock, ManualClock, TimeZone, Timestamp};

/// Creates keys that differ only in fingerprint and state.
pub(super) struct Keys {
    pub(super) revisions: Revisions,
    counters: Arc<CounterSet>,
    backends: Arc<GrantBackends>,
}

impl Keys {
    pub(super) fn new() -> Self {
        let clock = Clock::from(ManualClock::starting_at(Timestamp::default()));
        let limiter = MemoryLimiter::new(clock.clone(), TimeZone::utc(), 1, 16);
        let seed = &mut || Ok(Vec::new());
        Self {
            revisions: Revisions::new(),
            counters: limiter.attach(SubjectId::key(KeyId(1)), seed).unwrap(),
            backends: Arc::new(GrantBackends {
                recorder: Arc::new(Recorder::new(clock, false, 1_024, false)),
                limiter: Arc::new(AnyLimiter::Memory(limiter)),
                rate_limit_headers: RateLimitHeaders::default(),
            }),
        }
    }

    fn key(&self, fingerprint: Fingerprint, state: u32) -> Arc<CachedKey> {
        Arc::new(self.key_read_at(0, fingerprint, state))
    }

    pub(super) fn key_read_at(
        &self,
        read_at: u64,
        fingerprint: Fingerprint,
        state: u32,
    ) -> CachedKey {
        let key = Key {
            id: KeyId(1),
            org_id: OrgId(1),
            label: state.to_string(),
            shown_prefix: String::new(),
            status: KeyStatus::Active,
            scopes: Vec::new(),
            rate_limit_per_minute: NonZeroU32::MIN,
            limits: Vec::new(),
            allowed_ips: CidrSet::default(),
            overrides: Vec::new(),
            created_at: Timestamp::default(),
            expires_at: None,
            last_used_at: None,
            old_text_until: None,
        };
        let org = Org {
            id: OrgId(1),
            name: String::new(),
            status: OrgStatus::Active,
            limits: Vec::new(),
            overrides: Vec::new(),
            created_at: Timestamp::default(),
        };
        CachedKey {
            fingerprint,
            freshness: self.revisions.freshness(read_at, key.id, org.id),
            key_id: key.id,
            org_id: org.id,
            is_permanent: true,
            refusals: [None; 2],
            expires_at: Timestamp::MAX,
            reload_at: Timestamp::MAX,
            counters: Arc::clone(&self.counters),
            org_counters: None,
            plain_rules: PlainRules::default(),
            rules: Box::default(),
            limits_concurrency: false,
            scope_set: ScopeSet::default(),
            is_ip_restricted: false,
            backends: Arc::clone(&self.backends),
            record: Box::new(KeyRecord {
                key,
                org,
                old_text_until: None,
            }),
        }
    }

    fn insert(&self, key_cache: &KeyCache, fingerprint: Fingerprint) {
        key_cache.insert(self.key(fingerprint, 0));
    }
}

/// That of a text as random as the text of a key; fingerprints of texts in sequence may share a set. The
/// same for the same number within a process.
pub(super) fn fingerprint(n: u64) -> Fingerprint {
    static FINGERPRINTER: LazyLock<Fingerprinter> =
        LazyLock::new(|| Fingerprinter::random().unwrap());
    let text = blake3::hash(&n.to_le_bytes());
    FINGERPRINTER.of(text.as_bytes()).unwrap()
}

/// One of the fingerprints that all belong into one set.
fn neighbour(n: u16) -> Fingerprint {
    Fingerprint([0, 0, 0, u64::from(n) << 48, 0])
}

pub(super) fn cache(capacity: usize) -> KeyCache {
    KeyCache::new(capacity, Fingerprinter::random().unwrap())
}

fn state(key_cache: &KeyCache, fingerprint: Fingerprint) -> Option<u32> {
    let key = get(key_cache, &fingerprint)?;
    assert_eq!(key.fingerprint, fingerprint);
    key.record.key.label.parse().ok()
}

fn get(key_cache: &KeyCache, fingerprint: &Fingerprint) -> Option<Arc<CachedKey>> {
    key_cache.get(fingerprint, |_| true)
}

fn occupied(key_cache: &KeyCache) -> usize {
    let keys = |set: &Set| set.0.lock().keys.iter().flatten().count();
    key_cache.sets.iter().map(keys).sum()
}

#[test]
fn nothing_is_found_before_it_is_inserted() {
    let key_cache = cache(16);
    // Its tag is that of an empty way.
    assert!(get(&key_cache, &Fingerprint::default()).is_none());
    assert!(get(&key_cache, &fingerprint(1)).is_none());
}

#[test]
fn a_key_that_is_not_current_is_not_found() {
    let (keys, key_cache) = (Keys::new(), cache(16));
    keys.insert(&key_cache, fingerprint(1));
    assert!(key_cache.get(&fingerprint(1), |_| false).is_none());
    assert!(get(&key_cache, &fingerprint(1)).is_some());
}

#[test]
fn every_key_is_found_far_below_the_capacity() {
    let (keys, key_cache) = (Keys::new(), cache(4_096));
    for n in 0..1_024 {
        keys.insert(&key_cache, fingerprint(n));
    }
    for n in 0..1_024 {
        assert_eq!(state(&key_cache, fingerprint(n)), Some(0), "key {n}");
    }
    assert!(get(&key_cache, &fingerprint(1_024)).is_none());
}

#[test]
fn keys_are_distinguished_by_the_whole_fingerprint() {
    let (keys, key_cache) = (Keys::new(), cache(16));
    let (mut one, mut other) = (fingerprint(1), fingerprint(1));
    one.0[0] = 1;
    other.0[0] = 2;
    keys.insert(&key_cache, one);
    assert!(get(&key_cache, &other).is_none());
    keys.insert(&key_cache, other);
    assert!(get(&key_cache, &one).is_some());
    assert!(get(&key_cache, &other).is_some());
}

#[test]
fn the_capacity_is_never_exceeded() {
    for capacity in [16, 17, 64, 100] {
        let (keys, key_cache) = (Keys::new(), cache(capacity));
        for n in 0..1_000 {
            keys.insert(&key_cache, fingerprint(n));
            let expected = capacity.min(n as usize + 1);
            // A set may be full before the cache is; the cache fills up nevertheless.
            assert!(occupied(&key_cache) <= expected, "{capacity}");
            assert_eq!(key_cache.len.load(Ordering::Relaxed), occupied(&key_cache));
            assert!(
                get(&key_cache, &fingerprint(n)).is_some(),
                "the newest one is there"
            );
        }
        assert_eq!(occupied(&key_cache), capacity);
    }
}

#[test]
fn a_full_set_evicts_the_least_recently_used_key() {
    const FULL: u16 = WAYS as u16;
    for idle in 0..FULL {
        let (keys, key_cache) = (Keys::new(), cache(4_096));
        for n in 0..FULL {
            keys.insert(&key_cache, neighbour(n));
        }
        for n in (0..FULL).filter(|n| *n != idle) {
            assert!(get(&key_cache, &neighbour(n)).is_some());
        }
        keys.insert(&key_cache, neighbour(FULL));
        for n in 0..=FULL {
            let found = get(&key_cache, &neighbour(n)).is_some();
            assert_eq!(found, n != idle, "key {n}, {idle} was idle");
        }
        assert_eq!(occupied(&key_cache), WAYS);
    }
}

#[test]
fn a_key_in_use_is_not_evicted() {
    let (keys, key_cache) = (Keys::new(), cache(4_096));
    keys.insert(&key_cache, neighbour(0));
    for n in 1..1_000 {
        assert!(get(&key_cache, &neighbour(0)).is_some(), "before key {n}");
        keys.insert(&key_cache, neighbour(n));
    }
}

#[test]
fn a_full_cache_evicts_an_idle_key_before_one_in_use() {
    let (keys, key_cache) = (Keys::new(), cache(WAYS + 1));
    for n in 0..WAYS as u16 {
        keys.insert(&key_cache, neighbour(n));
    }
    let mut elsewhere = neighbour(0);
    elsewhere.0[1] = 1;
    keys.insert(&key_cache, elsewhere);
    for n in 1..WAYS as u16 {
        assert!(get(&key_cache, &neighbour(n)).is_some());
    }
    keys.insert(&key_cache, neighbour(99));
    assert!(get(&key_cache, &neighbour(0)).is_none());
    assert_eq!(occupied(&key_cache), WAYS + 1);
}

#[test]
fn a_later_state_takes_the_place_of_an_earlier_one() {
    let (keys, key_cache) = (Keys::new(), cache(4_096));
    for n in 0..WAYS as u16 {
        keys.insert(&key_cache, neighbour(n));
    }
    for later in 1..=3 {
        key_cache.insert(keys.key(neighbour(5), later));
        assert_eq!(state(&key_cache, neighbour(5)), Some(later));
    }
    // Nothing was evicted.
    for n in (0..WAYS as u16).filter(|n| *n != 5) {
        assert_eq!(state(&key_cache, neighbour(n)), Some(0));
    }
    assert_eq!(key_cache.len.load(Ordering::Relaxed), WAYS);
}

#[test]
fn reinserting_a_key_evicts_nothing() {
    let (keys, key_cache) = (Keys::new(), cache(64));
    for n in 0..1_000 {
        keys.insert(&key_cache, fingerprint(n));
    }
    assert_eq!(occupied(&key_cache), 64);
    for later in 1..=10 {
        key_cache.insert(keys.key(fingerprint(999), later));
    }
    assert_eq!(occupied(&key_cache), 64);
}

#[test]
fn concurrent_inserts_and_lookups_return_whole_keys() {
    let (keys, key_cache) = (Keys::new(), cache(64));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (keys, key_cache) = (&keys, &key_cache);
            scope.spawn(move || {
                for n in 0..2_000 {
                    let n = (n * 7 + thread) % 200;
                    match get(key_cache, &fingerprint(n)) {
                        Some(key) => assert_eq!(key.fingerprint, fingerprint(n)),
                        None => keys.insert(key_cache, fingerprint(n)),
                    }
                }
            });
        }
    });
    assert_eq!(key_cache.len.load(Ordering::Relaxed), occupied(&key_cache));
    // Each of the threads may have found the last place free.
    assert!(occupied(&key_cache) <= 64 + 3);
}
