//! Windows that sets may have in excess of their own number.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::set::{Set, WAYS};

/// The least size of the reserve: the limits of a few addresses of a small table.
const MIN_WINDOWS: usize = 1_024;

/// The number of windows that sets may still reserve: at first one for each address of the table,
/// and at least [`MIN_WINDOWS`].
#[derive(Debug)]
pub(super) struct Reserve(AtomicUsize);

impl Reserve {
    pub(super) fn new(sets: usize) -> Self {
        Self((sets * WAYS).max(MIN_WINDOWS).into())
    }

    pub(super) fn lock<'a>(&'a self, set: &'a Mutex<Set>) -> LockedSet<'a> {
        let set = set.lock();
        let reserved = set.excess();
        LockedSet {
            set,
            reserve: self,
            reserved,
        }
    }

    #[cfg(test)]
    pub(super) fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A locked set. Dropping it returns unused windows to the reserve.
pub(super) struct LockedSet<'a> {
    set: MutexGuard<'a, Set>,
    reserve: &'a Reserve,
    /// The windows reserved so far.
    reserved: usize,
}

impl LockedSet<'_> {
    /// Reserves windows for an excess of the set. Returns false, and reserves none, if fewer are
    /// left.
    pub(super) fn reserve(&mut self, excess: usize) -> bool {
        let Some(wanted) = excess.checked_sub(self.reserved) else {
            return true;
        };
        let (relaxed, left) = (Ordering::Relaxed, |left: usize| left.checked_sub(wanted));
        let is_reserved = self.reserve.0.fetch_update(relaxed, relaxed, left).is_ok();
        if is_reserved {
            self.reserved = excess;
        }
        is_reserved
    }
}

impl Drop for LockedSet<'_> {
    fn drop(&mut self) {
        let excess = self.set.excess();
        debug_assert!(excess <= self.reserved, "windows that were not reserved");
        if excess < self.reserved {
            let unused = self.reserved - excess;
            self.reserve.0.fetch_add(unused, Ordering::Relaxed);
        }
    }
}

impl Deref for LockedSet<'_> {
    type Target = Set;

    fn deref(&self) -> &Set {
        &self.set
    }
}

impl DerefMut for LockedSet<'_> {
    fn deref_mut(&mut self) -> &mut Set {
        &mut self.set
    }
}
