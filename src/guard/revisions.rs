//! Counters of changes, which tell whether a cached key is current.

use crate::model::{KeyId, OrgId};
use crate::sys::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The number of counters for all keys, and for all organizations.
const REVISIONS: usize = if cfg!(loom) { 2 } else { 4_096 };

/// Counts changes to keys and organizations, so that a state that was read before a change is known to
/// be outdated. Many ids share a counter: a change to one of them makes the others load again.
pub(super) struct Revisions {
    /// Counts every change twice, before and after the counter of its id.
    all: AtomicU64,
    keys: Box<[AtomicU32]>,
    orgs: Box<[AtomicU32]>,
}

/// The counters of one key and its organization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Revision {
    key: u32,
    org: u32,
}

/// The revision that a cached key was read at.
#[derive(Debug)]
pub(super) struct Freshness {
    /// The number of all changes when the key was last known to be current.
    checked_at: AtomicU64,
    revision: Revision,
}

impl Revisions {
    pub(super) fn new() -> Self {
        let counters = || (0..REVISIONS).map(|_| AtomicU32::new(0)).collect();
        Self {
            all: AtomicU64::new(0),
            keys: counters(),
            orgs: counters(),
        }
    }

    /// The number of all changes, begun and completed.
    pub(super) fn all(&self) -> u64 {
        self.all.load(Ordering::SeqCst)
    }

    fn of(&self, key: KeyId, org: OrgId) -> Revision {
        Revision {
            key: slot(&self.keys, key.0).load(Ordering::SeqCst),
            org: slot(&self.orgs, org.0).load(Ordering::SeqCst),
        }
    }

    /// Returns the freshness of a key that was read when [`Revisions::all`] was `read_at`. Valid only if
    /// that is still the number of all changes: an earlier change to the key is not noticed.
    pub(super) fn freshness(&self, read_at: u64, key: KeyId, org: OrgId) -> Freshness {
        Freshness {
            checked_at: AtomicU64::new(read_at),
            revision: self.of(key, org),
        }
    }

    /// Whether a key is as the last change left it. If nothing changed since this was last asked, one
    /// counter tells so, and the `ids` of the key and its organization are not read.
    #[inline(always)]
    pub(super) fn is_current(
        &self,
        freshness: &Freshness,
        ids: impl FnOnce() -> (KeyId, OrgId),
    ) -> bool {
        let all = self.all();
        freshness.checked_at.load(Ordering::Relaxed) == all
            || self.is_current_after_changes(freshness, all, ids)
    }

    /// The counter of a changed id is incremented before `all` for the second time. So if the counters of
    /// the key are unchanged, all changes until `all` concern others.
    #[cold]
    #[inline(never)]
    fn is_current_after_changes(
        &self,
        freshness: &Freshness,
        all: u64,
        ids: impl FnOnce() -> (KeyId, OrgId),
    ) -> bool {
        let (key, org) = ids();
        let is_current = freshness.revision == self.of(key, org);
        if is_current {
            freshness.checked_at.store(all, Ordering::Relaxed);
        }
        is_current
    }

    /// Commits a change to a key, and outdates the state before it. Once this has returned, that state is
    /// not current in any thread.
    pub(super) fn change_key<T, E>(
        &self,
        id: KeyId,
        commit: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let done = commit()?;
        self.key_changed(id);
        Ok(done)
    }

    /// Like [`Revisions::change_key`], for every key of an organization.
    pub(super) fn change_org<T, E>(
        &self,
        id: OrgId,
        commit: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let done = commit()?;
        self.org_changed(id);
        Ok(done)
    }

    /// Call once a change to the key is durable, before it is acknowledged.
    pub(super) fn key_changed(&self, id: KeyId) {
        self.changed(std::slice::from_ref(slot(&self.keys, id.0)));
    }

    /// Call once a change to the organization is durable, before it is acknowledged.
    pub(super) fn org_changed(&self, id: OrgId) {
        self.changed(std::slice::from_ref(slot(&self.orgs, id.0)));
    }

    /// Call once something has changed that concerns every key.
    pub(super) fn everything_changed(&self) {
        self.changed(&self.keys);
    }

    /// Increments `all` first, so that no thread sees a new counter and the old `all`, and last, so that
    /// no thread takes an old counter for current at the new `all`.
    fn changed(&self, counters: &[AtomicU32]) {
        self.all.fetch_add(1, Ordering::SeqCst);
        for counter in counters {
            counter.fetch_add(1, Ordering::SeqCst);
        }
        self.all.fetch_add(1, Ordering::SeqCst);
    }
}

#[inline]
fn slot(counters: &[AtomicU32], id: u64) -> &AtomicU32 {
    &counters[id as usize % REVISIONS]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_to_a_key_or_its_organization_is_seen_and_one_to_another_is_not() {
        let revisions = Revisions::new();
        let (key, org) = (KeyId(7), OrgId(8));
        let outdates = |change: &dyn Fn()| {
            let all = revisions.all();
            let freshness = revisions.freshness(all, key, org);
            assert!(revisions.is_current(&freshness, || (key, org)));
            change();
            assert_ne!(revisions.all(), all, "every change counts");
            let is_current = revisions.is_current(&freshness, || (key, org));
            assert_eq!(revisions.is_current(&freshness, || (key, org)), is_current);
            !is_current
        };
        assert!(outdates(&|| revisions.key_changed(key)));
        assert!(outdates(&|| revisions.org_changed(org)));
        assert!(outdates(&|| revisions.everything_changed()));
        assert!(!outdates(&|| revisions.key_changed(KeyId(8))));
        assert!(!outdates(&|| revisions.org_changed(OrgId(7))));
        // Ids may share a counter, which costs a reading and no change is missed.
        assert!(outdates(
            &|| revisions.key_changed(KeyId(7 + REVISIONS as u64))
        ));
        for id in [0, u64::MAX] {
            let freshness = revisions.freshness(revisions.all(), KeyId(id), org);
            revisions.key_changed(KeyId(id));
            assert!(!revisions.is_current(&freshness, || (KeyId(id), org)));
        }
    }

    #[test]
    fn a_key_that_was_read_before_a_change_is_outdated_after_it() {
        let revisions = Revisions::new();
        let (key, org) = (KeyId(1), OrgId(1));
        let read_at = revisions.all();
        revisions.key_changed(key);
        // The change was acknowledged between reading and caching: `all` tells.
        assert_ne!(revisions.all(), read_at);
        // A key that was checked while the change was under way is checked again.
        revisions.all.fetch_add(1, Ordering::SeqCst);
        let freshness = revisions.freshness(read_at, key, org);
        assert!(revisions.is_current(&freshness, || (key, org)));
        slot(&revisions.keys, key.0).fetch_add(1, Ordering::SeqCst);
        revisions.all.fetch_add(1, Ordering::SeqCst);
        assert!(!revisions.is_current(&freshness, || (key, org)));
    }

    #[test]
    fn changes_by_many_threads_are_all_counted() {
        let revisions = Revisions::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        revisions.key_changed(KeyId(1));
                        revisions.org_changed(OrgId(1));
                    }
                });
            }
        });
        let expected = Revision {
            key: 4_000,
            org: 4_000,
        };
        assert_eq!(revisions.of(KeyId(1), OrgId(1)), expected);
        assert_eq!(revisions.all(), 16_000);
    }
}
