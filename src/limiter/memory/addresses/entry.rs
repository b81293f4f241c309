//! One address of a set, with all of its windows.

use super::window::{AddressWindow, Fullness};
use crate::counter::Rule;
use crate::time::Moment;

#[derive(Debug)]
pub(super) struct AddressEntry {
    /// [`IpKey::to_bytes`], which is smaller.
    pub(super) address: [u8; 17],
    windows: WindowList,
}

/// Most addresses have one window.
#[derive(Debug)]
enum WindowList {
    One(AddressWindow),
    Several(Vec<AddressWindow>),
}

impl AddressEntry {
    pub(super) fn new(address: [u8; 17], window: AddressWindow) -> Self {
        Self {
            address,
            windows: WindowList::One(window),
        }
    }

    pub(super) fn windows(&self) -> &[AddressWindow] {
        self.windows.as_slice()
    }

    pub(super) fn push(&mut self, window: AddressWindow) {
        self.windows.push(window);
    }

    /// Removes windows without hits. Returns false, and removes none, if all are without hits.
    pub(super) fn retain_used(&mut self, now: Moment) -> bool {
        let mut used = 0;
        for window in self.windows.as_mut_slice() {
            used += usize::from(window.log.used_at(now) > 0);
        }
        if let WindowList::Several(windows) = &mut self.windows
            && used > 0
            && used < windows.len()
        {
            retain_used(windows, now);
        }
        used > 0
    }

    pub(super) fn find(&mut self, rule: &Rule) -> Option<&mut AddressWindow> {
        let mut windows = self.windows.as_mut_slice().iter_mut();
        windows.find(|window| window.is_for(rule))
    }

    /// The number of its windows of requests.
    pub(super) fn len(&self) -> usize {
        count(self.windows())
    }

    /// The fullness of its fullest window, when they were last used.
    pub(super) fn fullness(&self) -> Fullness {
        let windows = self.windows().iter();
        windows
            .map(AddressWindow::fullness)
            .max()
            .unwrap_or_default()
    }
}

impl WindowList {
    fn as_slice(&self) -> &[AddressWindow] {
        match self {
            Self::One(window) => std::slice::from_ref(window),
            Self::Several(windows) => windows,
        }
    }

    fn as_mut_slice(&mut self) -> &mut [AddressWindow] {
        match self {
            Self::One(window) => std::slice::from_mut(window),
            Self::Several(windows) => windows,
        }
    }

    fn push(&mut self, window: AddressWindow) {
        match std::mem::replace(self, Self::Several(Vec::new())) {
            Self::One(first) => *self = Self::Several(vec![first, window]),
            Self::Several(mut windows) => {
                windows.push(window);
                *self = Self::Several(windows);
            }
        }
    }
}

/// Returns the number of windows of requests.
pub(super) fn count(windows: &[AddressWindow]) -> usize {
    let of_requests = windows.iter().filter(|window| window.counts_requests());
    of_requests.count()
}

/// Removes windows without hits, and frees memory that is mostly unused then.
pub(super) fn retain_used(windows: &mut Vec<AddressWindow>, now: Moment) {
    windows.retain_mut(|window| window.log.used_at(now) > 0);
    if windows.len() < windows.capacity() / 2 {
        windows.shrink_to_fit();
    }
}
