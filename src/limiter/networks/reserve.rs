//! The windows that sets may have beyond those that each has for itself.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::set::{Set, WAYS};

/// As many limits by address as few clients of a small table can be under at a time.
const LEAST: usize = 1_024;

/// Counts the windows that sets may still take: one for each network of the table, at least
/// [`LEAST`].
#[derive(Debug)]
pub(super) struct Reserve(AtomicUsize);

impl Reserve {
    pub(super) fn new(sets: usize) -> Self {
        Self((sets * WAYS).max(LEAST).into())
    }

    pub(super) fn lock<'a>(&'a self, set: &'a Mutex<Set>) -> Locked<'a> {
        let set = set.lock();
        let taken = set.beyond();
        Locked {
            set,
            reserve: self,
            taken,
        }
    }

    #[cfg(test)]
    pub(super) fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A set under its lock. Dropping it returns to the reserve what the set no longer needs.
pub(super) struct Locked<'a> {
    set: MutexGuard<'a, Set>,
    reserve: &'a Reserve,
    taken: usize,
}

impl Locked<'_> {
    /// Takes what the set needs to have `beyond` windows more than for itself. Returns false, and
    /// takes nothing, if fewer are left.
    pub(super) fn take(&mut self, beyond: usize) -> bool {
        let Some(wanted) = beyond.checked_sub(self.taken) else {
            return true;
        };
        let (relaxed, left) = (Ordering::Relaxed, |left: usize| left.checked_sub(wanted));
        let is_taken = self.reserve.0.fetch_update(relaxed, relaxed, left).is_ok();
        if is_taken {
            self.taken = beyond;
        }
        is_taken
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let beyond = self.set.beyond();
        debug_assert!(beyond <= self.taken, "windows that were not taken");
        if beyond < self.taken {
            let unused = self.taken - beyond;
            self.reserve.0.fetch_add(unused, Ordering::Relaxed);
        }
    }
}

impl Deref for Locked<'_> {
    type Target = Set;

    fn deref(&self) -> &Set {
        &self.set
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Set {
        &mut self.set
    }
}
