//! Look-ups and loads of a key by one thread while another changes it: every interleaving, or those
//! with few preemptions, by loom.

use std::convert::Infallible;

use keyguard_test_support::loom::model::Builder;
use keyguard_test_support::loom::{model, thread};

use super::tests::{Keys, cache, fingerprint};
use super::*;
use crate::model::{KeyId, OrgId};
use crate::sys::block_on;

/// The states of the key.
const OLD: u32 = 0;
const NEW: u32 = 1;

/// A guard as far as keys are concerned.
struct World {
    keys: Keys,
    key_cache: KeyCache,
    stored: Mutex<u32>,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            keys: Keys::new(),
            key_cache: cache(1),
            stored: Mutex::new(OLD),
        })
    }

    /// Returns the state that a check uses.
    fn check(&self) -> u32 {
        let revisions = &self.keys.revisions;
        let cached = self.key_cache.get(&fingerprint(0), |key| {
            revisions.is_current(&key.freshness, || (key.key_id, key.org_id))
        });
        let key = cached.unwrap_or_else(|| self.load());
        key.record.key.label.parse().unwrap()
    }

    fn load(&self) -> Arc<CachedKey> {
        let read = async |read_at| {
            let state = *self.stored.lock();
            let key = self.keys.key_read_at(read_at, fingerprint(0), state);
            Ok::<_, Infallible>(Some(key))
        };
        let loaded = block_on(self.key_cache.load(&self.keys.revisions, read));
        loaded.unwrap().unwrap()
    }

    fn change(&self) {
        let commit = || {
            *self.stored.lock() = NEW;
            Ok::<_, Infallible>(())
        };
        self.keys.revisions.change_key(KeyId(1), commit).unwrap();
    }
}

/// Changes the key while another thread checks it. No check after the change uses the old state.
fn change_during_a_check(world: &Arc<World>) {
    let other = Arc::clone(world);
    let checking = thread::spawn(move || other.check());
    world.change();
    assert_eq!(world.check(), NEW);
    checking.join().unwrap();
    assert_eq!(world.check(), NEW);
}

#[test]
fn a_state_that_is_loaded_during_a_change_is_not_used_after_it() {
    model(|| {
        change_during_a_check(&World::new());
    });
}

#[test]
fn a_state_that_is_cached_before_a_change_is_not_used_after_it() {
    model(|| {
        let world = World::new();
        world.load();
        // The next check compares the revisions of this key.
        world.keys.revisions.org_changed(OrgId(2));
        change_during_a_check(&world);
    });
}

#[test]
fn a_change_to_another_key_hides_no_change() {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(|| {
        let world = World::new();
        world.load();
        let other = Arc::clone(&world);
        let changing = thread::spawn(move || {
            other.keys.revisions.key_changed(KeyId(2));
            other.check();
        });
        world.change();
        assert_eq!(world.check(), NEW);
        changing.join().unwrap();
        assert_eq!(world.check(), NEW);
    });
}
