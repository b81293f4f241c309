//! One network of a set, with all of its windows.

use super::super::IpRule;
use super::window::{Fullness, Window};
use crate::time::Moment;

#[derive(Debug)]
pub(super) struct Entry {
    /// [`IpKey::to_bytes`], which is smaller.
    pub(super) network: [u8; 17],
    windows: Windows,
}

/// Most networks have one window.
#[derive(Debug)]
enum Windows {
    One(Window),
    Several(Vec<Window>),
}

impl Entry {
    pub(super) fn new(network: [u8; 17], window: Window) -> Self {
        Self {
            network,
            windows: Windows::One(window),
        }
    }

    pub(super) fn windows(&self) -> &[Window] {
        self.windows.as_slice()
    }

    pub(super) fn push(&mut self, window: Window) {
        self.windows.push(window);
    }

    /// Drops the windows without hits. Returns false, and drops none, if all are.
    pub(super) fn retain_used(&mut self, now: Moment) -> bool {
        let mut used = 0;
        for window in self.windows.as_mut_slice() {
            used += usize::from(window.log.used_at(now) > 0);
        }
        if let Windows::Several(windows) = &mut self.windows
            && used > 0
            && used < windows.len()
        {
            retain_used(windows, now);
        }
        used > 0
    }

    pub(super) fn find(&mut self, rule: &IpRule<'_>) -> Option<&mut Window> {
        let mut windows = self.windows.as_mut_slice().iter_mut();
        windows.find(|window| window.is_of(rule))
    }

    /// Its windows over requests.
    pub(super) fn len(&self) -> usize {
        count(self.windows())
    }

    /// That of its fullest window, as of when they were last looked at.
    pub(super) fn fullness(&self) -> Fullness {
        let windows = self.windows().iter();
        windows.map(Window::fullness).max().unwrap_or_default()
    }
}

impl Windows {
    fn as_slice(&self) -> &[Window] {
        match self {
            Self::One(window) => std::slice::from_ref(window),
            Self::Several(windows) => windows,
        }
    }

    fn as_mut_slice(&mut self) -> &mut [Window] {
        match self {
            Self::One(window) => std::slice::from_mut(window),
            Self::Several(windows) => windows,
        }
    }

    fn push(&mut self, window: Window) {
        match std::mem::replace(self, Self::Several(Vec::new())) {
            Self::One(first) => *self = Self::Several(vec![first, window]),
            Self::Several(mut windows) => {
                windows.push(window);
                *self = Self::Several(windows);
            }
        }
    }
}

/// How many of the windows count requests.
pub(super) fn count(windows: &[Window]) -> usize {
    let of_requests = windows.iter().filter(|window| window.is_of_requests());
    of_requests.count()
}

/// Drops the windows without hits, and memory that is mostly unused then.
pub(super) fn retain_used(windows: &mut Vec<Window>, now: Moment) {
    windows.retain_mut(|window| window.log.used_at(now) > 0);
    if windows.len() < windows.capacity() / 2 {
        windows.shrink_to_fit();
    }
}
