//! One set of the table: a few networks, each with all of its windows.

use std::num::NonZeroU32;

use smallvec::SmallVec;

use super::super::{IpRule, LimitState, Receipt, deny_in_shadow, is_shadow_denied};
use super::entry::{Entry, count, retain_used};
use super::window::{Fullness, Window, empty_log, is_of_requests};
use crate::net::IpKey;
use crate::time::Moment;

/// Networks in a set.
pub(super) const WAYS: usize = 8;

/// Windows over requests that a set has for itself, and the most of all its networks unless one is
/// alone. Further ones come from the [reserve](super::reserve). Windows over failures always have room:
/// a network has one for each kind of failure.
pub(super) const WINDOWS: usize = 8 * WAYS;

#[derive(Debug, Default)]
pub(super) struct Set {
    entries: Vec<Entry>,
    /// Of the networks that there was no room for.
    shared: Option<Box<Shared>>,
}

#[derive(Debug, Default)]
struct Shared(Vec<Window>);

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
                    missing += usize::from(is_of_requests(rule.counts));
                    0
                }
            };
            let used = u64::from(used) + u64::from(cost.get());
            fullness = fullness.max(Fullness::under(rule, used, cost));
        }
        self.room(network, missing, fullness, now)
    }

    /// Finds room for `missing` more windows over requests of a network that is as full as that then.
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
        if self.fits(network, missing) {
            return place;
        }
        self.forget_idle(now);
        let own = self.entry(network).map(|entry| entry.fullness());
        let fullness = fullness.max(own.unwrap_or_default());
        let mut networks = self.entries.len() + usize::from(own.is_none());
        let mut windows = self.len() + missing;
        let others = self.entries.iter().filter(|e| e.network != network);
        let mut others: SmallVec<[_; WAYS]> = others
            .map(|other| (other.fullness(), other.len(), other.network))
            .collect();
        // Of equals, the one that came first.
        others.sort_by_key(|(fullness, ..)| *fullness);
        let fit = |windows| missing == 0 || windows <= WINDOWS;
        for (fullness_there, windows_there, other) in others {
            let fits = networks <= WAYS && fit(windows);
            if fits || fullness_there == Fullness::FULL || fullness_there > fullness {
                break;
            }
            place.victims.push(other);
            networks -= 1;
            windows -= windows_there;
        }
        place.has_room = networks <= WAYS && (fit(windows) || networks == 1);
        if !place.has_room {
            place.victims.clear();
        }
        place
    }

    fn fits(&mut self, network: [u8; 17], missing: usize) -> bool {
        let has_entry = self.entry(network).is_some();
        (has_entry || self.entries.len() < WAYS)
            && (missing == 0 || self.len() + missing <= WINDOWS)
    }

    /// Windows over requests that it has beyond [`WINDOWS`].
    pub(super) fn beyond(&self) -> usize {
        (self.len() + self.shared_len()).saturating_sub(WINDOWS)
    }

    /// [`Set::beyond`] once a request is recorded.
    pub(super) fn beyond_after(
        &mut self,
        place: &Place,
        rules: &[IpRule<'_>],
        receipt: &Receipt,
    ) -> usize {
        if self.len() + self.shared_len() + rules.len() <= WINDOWS {
            return 0;
        }
        let mut missing = 0;
        for (index, rule) in rules.iter().enumerate() {
            let is_made = is_of_requests(rule.counts)
                && !is_shadow_denied(receipt, index)
                && self.find(place, rule).is_none();
            missing += usize::from(is_made);
        }
        self.beyond_with(place, missing)
    }

    /// [`Set::beyond`] with so many windows more, after those that have to be evicted are gone.
    fn beyond_with(&self, place: &Place, more: usize) -> usize {
        let evicted = self.entries.iter();
        let evicted = evicted.filter(|entry| place.victims.contains(&entry.network));
        let evicted: usize = evicted.map(Entry::len).sum();
        (self.len() + self.shared_len() + more - evicted).saturating_sub(WINDOWS)
    }

    /// Skips the rules that `is_meant` selects and that have no window yet, as if in shadow mode.
    #[cold]
    pub(super) fn deny_new_in_shadow(
        &mut self,
        place: &Place,
        rules: &[IpRule<'_>],
        receipt: &mut Receipt,
        meant: impl Fn(&IpRule<'_>) -> bool,
    ) {
        for (index, rule) in rules.iter().enumerate() {
            let is_meant = meant(rule) && !is_shadow_denied(receipt, index);
            if is_meant && self.find(place, rule).is_none() {
                deny_in_shadow(receipt, index);
            }
        }
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
                self.push(place, Window::new(rule, cost));
            }
            if let Some((window, _)) = self.find(place, rule) {
                window.log.charge(now, cost.get().into());
            }
        }
    }

    /// Finds room for a window that was stored, and says how far [`Set::beyond`] it is then.
    pub(super) fn place_stored(
        &mut self,
        network: IpKey,
        window: &Window,
        now: Moment,
    ) -> (Place, usize) {
        let missing = usize::from(window.is_of_requests());
        let place = self.room(network.to_bytes(), missing, window.fullness(), now);
        let is_made = place.has_room || self.find_shared(window).is_none();
        let beyond = self.beyond_with(&place, if is_made { missing } else { 0 });
        (place, beyond)
    }

    /// Takes a window up that was stored.
    pub(super) fn add(&mut self, place: &Place, window: Window, now: Moment) {
        self.evict(place);
        if !place.has_room
            && let Some(known) = self.find_shared(&window)
        {
            known.log.restore(now, window.log.hits());
        } else {
            self.push(place, window);
        }
    }

    fn find_shared(&mut self, window: &Window) -> Option<&mut Window> {
        let mut shared = self.shared.as_mut()?.0.iter_mut();
        shared.find(|known| known.is_counted_as(window))
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
            let windows = entry.windows().iter();
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
    fn push(&mut self, place: &Place, window: Window) {
        if !place.has_room {
            self.shared.get_or_insert_default().0.push(window);
        } else if let Some(entry) = self.entry(place.network) {
            entry.push(window);
        } else {
            // By one: most sets hold few networks, and the flood that fills them all is what is
            // bounded.
            self.entries.reserve_exact(1);
            self.entries.push(Entry::new(place.network, window));
        }
    }

    /// Drops the windows without hits, and the networks without windows.
    pub(super) fn forget_idle(&mut self, now: Moment) {
        self.entries.retain_mut(|entry| entry.retain_used(now));
        if let Some(shared) = &mut self.shared {
            retain_used(&mut shared.0, now);
            if shared.0.is_empty() {
                self.shared = None;
            }
        }
    }

    fn entry(&mut self, network: [u8; 17]) -> Option<&mut Entry> {
        let mut entries = self.entries.iter_mut();
        entries.find(|entry| entry.network == network)
    }

    /// Windows over requests of all networks.
    fn len(&self) -> usize {
        self.entries.iter().map(Entry::len).sum()
    }

    /// Windows over requests that networks share.
    fn shared_len(&self) -> usize {
        self.shared.as_ref().map_or(0, |shared| count(&shared.0))
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
        (self.len(), self.shared_len())
    }
}
