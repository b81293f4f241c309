//! One set of the table: a few networks, each with all of its windows.

use std::num::NonZeroU32;

use smallvec::SmallVec;

use super::super::{IpRule, LimitState, Receipt, is_shadow_denied};
use super::window::{Fullness, Window, empty_log};
use crate::net::IpKey;
use crate::time::Moment;

/// Networks in a set.
pub(super) const WAYS: usize = 8;

/// Windows in a set that more than one network is in. One that is alone has as many as there are
/// rules.
pub(super) const WINDOWS: usize = 8 * WAYS;

#[derive(Debug, Default)]
pub(super) struct Set {
    entries: Vec<Entry>,
    /// Of the networks that there was no room for.
    shared: Option<Box<Shared>>,
}

#[derive(Debug, Default)]
struct Shared(Vec<Window>);

#[derive(Debug)]
struct Entry {
    /// [`IpKey::to_bytes`], which is smaller.
    network: [u8; 17],
    windows: Windows,
}

/// Most networks have one window.
#[derive(Debug)]
enum Windows {
    One(Window),
    Several(Vec<Window>),
}

/// Where the windows of a network are, or go once they are recorded.
#[derive(Debug)]
pub(super) struct Place {
    network: [u8; 17],
    /// Whether windows that are not there yet are made in the network's own entry.
    has_room: bool,
    /// Entries that have to be evicted for that.
    victims: SmallVec<[[u8; 17]; WAYS]>,
}

impl Set {
    /// Finds room for the windows of a request. Evicts nothing yet.
    pub(super) fn place(
        &mut self,
        network: IpKey,
        rules: &[IpRule<'_>],
        cost: NonZeroU32,
        now: Moment,
    ) -> Place {
        let network = network.to_bytes();
        let (mut missing, mut fullness) = (0, Fullness::default());
        let mut own = self.entry(network);
        for rule in rules {
            let window = own.as_mut().and_then(|entry| entry.find(rule));
            let used = match window {
                Some(window) => {
                    window.follow(rule, cost);
                    window.log.used_at(now)
                }
                None => {
                    missing += 1;
                    0
                }
            };
            let used = u64::from(used) + u64::from(cost.get());
            fullness = fullness.max(Fullness::under(rule, used, cost));
        }
        self.room(network, missing, fullness, now)
    }

    /// Finds room for `missing` more windows of a network that is as full as that then.
    fn room(
        &mut self,
        network: [u8; 17],
        missing: usize,
        fullness: Fullness,
        now: Moment,
    ) -> Place {
        let mut place = Place {
            network,
            has_room: true,
            victims: SmallVec::new(),
        };
        if missing == 0 || self.fits(network, missing) {
            return place;
        }
        self.forget_idle(now);
        let own = self.entry(network).map(|entry| entry.fullness());
        let fullness = fullness.max(own.unwrap_or_default());
        let mut networks = self.entries.len() + usize::from(own.is_none());
        let mut windows = self.len() + missing;
        let others = self.entries.iter().filter(|e| e.network != network);
        let mut others: SmallVec<[_; WAYS]> = others
            .map(|other| (other.fullness(), other.windows.len(), other.network))
            .collect();
        // Of equals, the one that came first.
        others.sort_by_key(|(fullness, ..)| *fullness);
        for (fullness_there, windows_there, other) in others {
            let fits = networks <= WAYS && windows <= WINDOWS;
            if fits || fullness_there == Fullness::FULL || fullness_there > fullness {
                break;
            }
            place.victims.push(other);
            networks -= 1;
            windows -= windows_there;
        }
        place.has_room = networks <= WAYS && (windows <= WINDOWS || networks == 1);
        if !place.has_room {
            place.victims.clear();
        }
        place
    }

    fn fits(&mut self, network: [u8; 17], missing: usize) -> bool {
        let has_entry = self.entry(network).is_some();
        (has_entry || self.entries.len() < WAYS) && self.len() + missing <= WINDOWS
    }

    /// The state of a rule, when it has room for `cost`, and whether others share it.
    pub(super) fn level(
        &mut self,
        place: &Place,
        index: usize,
        rule: &IpRule<'_>,
        cost: NonZeroU32,
        now: Moment,
    ) -> (LimitState, Moment, bool) {
        let mut empty = empty_log(rule);
        let amount = rule.limit.amount.get();
        let (log, is_shared) = match self.find(place, rule) {
            Some((window, is_shared)) => (&mut window.log, is_shared),
            None => (&mut empty, !place.has_room),
        };
        let most = match is_shared {
            true => (amount * WAYS as u64).min(u32::MAX.into()),
            false => amount,
        };
        let left = most.saturating_sub(log.used_at(now).into());
        let level = LimitState {
            rule: index,
            at: now,
            remaining: left.min(amount),
            resets_at: log.oldest_leaves_at(now),
        };
        let retry_at = if amount < cost.get().into() {
            Moment::NEVER
        } else if left >= cost.get().into() {
            now
        } else {
            log.retry_at(now, most, cost)
        };
        (level, retry_at, is_shared)
    }

    /// Counts a request under all rules but those that were passed over.
    pub(super) fn record(
        &mut self,
        place: &Place,
        rules: &[IpRule<'_>],
        receipt: &Receipt,
        cost: NonZeroU32,
        now: Moment,
    ) {
        self.evict(place);
        for (index, rule) in rules.iter().enumerate() {
            if is_shadow_denied(receipt, index) {
                continue;
            }
            if self.find(place, rule).is_none() {
                self.push(place, Window::new(rule, cost), now);
            }
            if let Some((window, _)) = self.find(place, rule) {
                window.log.charge(now, cost.get().into());
            }
        }
    }

    /// Takes a window up that was stored.
    pub(super) fn add(&mut self, network: IpKey, window: Window, now: Moment) {
        let place = self.room(network.to_bytes(), 1, window.fullness(), now);
        self.evict(&place);
        if place.has_room {
            return self.push(&place, window, now);
        }
        let shared = &mut self.shared.get_or_insert_default().0;
        match shared.iter_mut().find(|known| known.is_counted_as(&window)) {
            Some(known) => known.log.restore(now, window.log.hits()),
            None => shared.push(window),
        }
    }

    pub(super) fn forget(&mut self, network: IpKey) {
        let network = network.to_bytes();
        self.entries.retain(|entry| entry.network != network);
    }

    /// The windows of networks that hold hits.
    pub(super) fn windows(&mut self, now: Moment) -> impl Iterator<Item = (IpKey, &Window)> {
        self.forget_idle(now);
        self.entries.iter().flat_map(|entry| {
            let network = IpKey::from_bytes(entry.network);
            let windows = entry.windows.as_slice().iter();
            windows.filter_map(move |window| Some((network?, window)))
        })
    }

    /// The window of a rule, and whether others share it.
    fn find(&mut self, place: &Place, rule: &IpRule<'_>) -> Option<(&mut Window, bool)> {
        let mut entries = self.entries.iter_mut();
        let own = entries.find(|entry| entry.network == place.network);
        if let Some(window) = own.and_then(|entry| entry.find(rule)) {
            return Some((window, false));
        }
        if place.has_room {
            return None;
        }
        let shared = self.shared.as_mut()?;
        let window = shared.0.iter_mut().find(|window| window.is_of(rule))?;
        Some((window, true))
    }

    fn evict(&mut self, place: &Place) {
        if !place.victims.is_empty() {
            self.entries
                .retain(|entry| !place.victims.contains(&entry.network));
        }
    }

    /// Adds a window where there is a place for it.
    fn push(&mut self, place: &Place, window: Window, now: Moment) {
        if !place.has_room {
            let shared = &mut self.shared.get_or_insert_default().0;
            shared.retain_mut(|window| window.log.used_at(now) > 0);
            shared.push(window);
        } else if let Some(entry) = self.entry(place.network) {
            entry.windows.push(window);
        } else {
            // By one: most sets hold few networks, and the flood that fills them all is what is
            // bounded.
            self.entries.reserve_exact(1);
            self.entries.push(Entry {
                network: place.network,
                windows: Windows::One(window),
            });
        }
    }

    /// Drops the windows without hits, and the networks without windows.
    fn forget_idle(&mut self, now: Moment) {
        self.entries.retain_mut(|entry| {
            let mut used = 0;
            for window in entry.windows.as_mut_slice() {
                used += usize::from(window.log.used_at(now) > 0);
            }
            if used > 0 && used < entry.windows.len() {
                entry.windows.retain_used();
            }
            used > 0
        });
    }

    fn entry(&mut self, network: [u8; 17]) -> Option<&mut Entry> {
        let mut entries = self.entries.iter_mut();
        entries.find(|entry| entry.network == network)
    }

    /// Windows of all networks.
    fn len(&self) -> usize {
        self.entries.iter().map(|entry| entry.windows.len()).sum()
    }
}

impl Entry {
    fn find(&mut self, rule: &IpRule<'_>) -> Option<&mut Window> {
        let mut windows = self.windows.as_mut_slice().iter_mut();
        windows.find(|window| window.is_of(rule))
    }

    /// That of its fullest window, as of when they were last looked at.
    fn fullness(&self) -> Fullness {
        let windows = self.windows.as_slice().iter();
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

    fn len(&self) -> usize {
        self.as_slice().len()
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

    fn retain_used(&mut self) {
        if let Self::Several(windows) = self {
            windows.retain(|window| window.used() > 0);
        }
    }
}

#[cfg(test)]
impl Set {
    pub(super) fn bytes_per_network() -> usize {
        size_of::<Entry>()
    }

    /// Each network with how full it is.
    pub(super) fn networks(&mut self, now: Moment) -> Vec<(IpKey, Fullness)> {
        self.forget_idle(now);
        let entries = self.entries.iter();
        let all = entries.filter_map(|e| Some((IpKey::from_bytes(e.network)?, e.fullness())));
        all.collect()
    }

    /// Windows of networks, and those that are shared.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.len(), self.shared.as_ref().map_or(0, |s| s.0.len()))
    }
}
