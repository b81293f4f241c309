//! One set of the table: a few addresses, each with all of its windows.

use std::num::NonZeroU32;

use smallvec::SmallVec;

use super::super::super::{Receipt, Rules, indexed, is_skipped, mark_skipped};
use super::entry::{AddressEntry, count, retain_used};
use super::window::{AddressWindow, Fullness, are_requests};
use crate::counter::Rule;
use crate::net::IpKey;
use crate::time::Moment;

/// Addresses in a set.
pub(super) const WAYS: usize = 8;

/// The number of windows of requests that each set has room for. A set exceeds it only if it has a
/// single address. Further windows come from the [reserve](super::reserve). Windows of failures always
/// have room: an address has one for each kind of failure.
pub(super) const WINDOWS: usize = 8 * WAYS;

#[derive(Debug, Default)]
pub(super) struct Set {
    entries: Vec<AddressEntry>,
    /// The windows of addresses without an entry. `None` if there are none.
    shared: Option<Box<SharedWindows>>,
}

#[derive(Debug, Default)]
struct SharedWindows(Vec<AddressWindow>);

/// Where absent windows of an address will be created.
#[derive(Debug)]
pub(super) struct Allocation {
    address: [u8; 17],
    /// Whether they are shared, as there is no room in an entry of the address.
    pub(super) is_shared: bool,
    /// Entries to evict before.
    victims: SmallVec<[[u8; 17]; WAYS]>,
}

impl Set {
    /// Finds room for the windows of a request. Evicts nothing yet.
    pub(super) fn allocate(
        &mut self,
        ip_key: IpKey,
        rules: Rules<'_>,
        cost: NonZeroU32,
        now: Moment,
    ) -> Allocation {
        let address = ip_key.to_bytes();
        let (mut absent, mut fullness) = (0, Fullness::default());
        let mut own = self.entry(address);
        for (_, rule) in indexed(rules) {
            let window = own.as_mut().and_then(|entry| entry.find(rule));
            let used = match window {
                Some(window) => {
                    window.update(rule, cost);
                    window.log.used_at(now)
                }
                None => {
                    absent += usize::from(are_requests(&rule.events));
                    0
                }
            };
            let used = u64::from(used) + u64::from(cost.get());
            fullness = fullness.max(Fullness::under(rule, used, cost));
        }
        self.allocate_windows(address, absent, fullness, now)
    }

    /// Finds room for `absent` windows of requests of an address that has this fullness then.
    fn allocate_windows(
        &mut self,
        address: [u8; 17],
        absent: usize,
        fullness: Fullness,
        now: Moment,
    ) -> Allocation {
        let mut victims = SmallVec::new();
        if self.fits(address, absent) {
            return Allocation {
                address,
                is_shared: false,
                victims,
            };
        }
        self.remove_idle(now);
        let own = self.entry(address).map(|entry| entry.fullness());
        let fullness = fullness.max(own.unwrap_or_default());
        let mut addresses = self.entries.len() + usize::from(own.is_none());
        let mut windows = self.len() + absent;
        let others = self.entries.iter().filter(|e| e.address != address);
        let mut others: SmallVec<[_; WAYS]> = others
            .map(|other| (other.fullness(), other.len(), other.address))
            .collect();
        // Among equals, the oldest entry comes first.
        others.sort_by_key(|(fullness, ..)| *fullness);
        let fit = |windows| absent == 0 || windows <= WINDOWS;
        for (other_fullness, other_windows, other) in others {
            let fits = addresses <= WAYS && fit(windows);
            if fits || other_fullness == Fullness::FULL || other_fullness > fullness {
                break;
            }
            victims.push(other);
            addresses -= 1;
            windows -= other_windows;
        }
        let is_shared = addresses > WAYS || !(fit(windows) || addresses == 1);
        if is_shared {
            victims.clear();
        }
        Allocation {
            address,
            is_shared,
            victims,
        }
    }

    fn fits(&mut self, address: [u8; 17], absent: usize) -> bool {
        let has_entry = self.entry(address).is_some();
        (has_entry || self.entries.len() < WAYS) && (absent == 0 || self.len() + absent <= WINDOWS)
    }

    /// The number of windows of requests in excess of [`WINDOWS`].
    pub(super) fn excess(&self) -> usize {
        (self.len() + self.shared_len()).saturating_sub(WINDOWS)
    }

    /// Returns [`Set::excess`] after the absent windows of a request are created.
    pub(super) fn excess_after(
        &mut self,
        allocation: &Allocation,
        rules: Rules<'_>,
        receipt: &Receipt,
    ) -> usize {
        if self.len() + self.shared_len() + indexed(rules).count() <= WINDOWS {
            return 0;
        }
        let is_absent = |(index, rule): &(usize, &Rule)| {
            are_requests(&rule.events)
                && !is_skipped(receipt, *index)
                && self.find(allocation, rule).is_none()
        };
        let absent = indexed(rules).filter(is_absent).count();
        self.excess_with(allocation, absent)
    }

    /// Returns [`Set::excess`] with `more` windows, and without the entries to evict.
    fn excess_with(&self, allocation: &Allocation, more: usize) -> usize {
        let evicted = self.entries.iter();
        let evicted = evicted.filter(|entry| allocation.victims.contains(&entry.address));
        let evicted: usize = evicted.map(AddressEntry::len).sum();
        (self.len() + self.shared_len() + more - evicted).saturating_sub(WINDOWS)
    }

    /// Adds the rules that `may_skip` selects and that have no window to the receipt.
    #[cold]
    pub(super) fn skip_absent(
        &mut self,
        allocation: &Allocation,
        rules: Rules<'_>,
        receipt: &mut Receipt,
        may_skip: fn(&Rule) -> bool,
    ) {
        for (index, rule) in indexed(rules) {
            let may_skip = may_skip(rule) && !is_skipped(receipt, index);
            if may_skip && self.find(allocation, rule).is_none() {
                mark_skipped(receipt, index);
            }
        }
    }

    /// Creates the absent windows of a request.
    pub(super) fn insert_absent(
        &mut self,
        allocation: &Allocation,
        rules: Rules<'_>,
        receipt: &Receipt,
        cost: NonZeroU32,
    ) {
        self.evict(allocation);
        for (index, rule) in indexed(rules) {
            if !is_skipped(receipt, index) && self.find(allocation, rule).is_none() {
                self.insert(allocation, AddressWindow::new(rule, cost));
            }
        }
    }

    /// Finds room for a stored window. Also returns [`Set::excess`] as it will be after the insertion.
    pub(super) fn allocate_restored(
        &mut self,
        ip_key: IpKey,
        window: &AddressWindow,
        now: Moment,
    ) -> (Allocation, usize) {
        let absent = usize::from(window.counts_requests());
        let allocation = self.allocate_windows(ip_key.to_bytes(), absent, window.fullness(), now);
        let is_new = !allocation.is_shared || self.find_shared(window).is_none();
        let excess = self.excess_with(&allocation, if is_new { absent } else { 0 });
        (allocation, excess)
    }

    pub(super) fn insert_restored(
        &mut self,
        allocation: &Allocation,
        window: AddressWindow,
        now: Moment,
    ) {
        self.evict(allocation);
        if allocation.is_shared
            && let Some(shared) = self.find_shared(&window)
        {
            shared.log.restore(now, window.log.hits());
        } else {
            self.insert(allocation, window);
        }
    }

    fn find_shared(&mut self, window: &AddressWindow) -> Option<&mut AddressWindow> {
        let mut shared = self.shared.as_mut()?.0.iter_mut();
        shared.find(|shared| shared.is_same(window))
    }

    pub(super) fn remove(&mut self, ip_key: IpKey) {
        let address = ip_key.to_bytes();
        self.entries.retain(|entry| entry.address != address);
    }

    /// Returns the windows of addresses with hits.
    pub(super) fn windows(&mut self, now: Moment) -> impl Iterator<Item = (IpKey, &AddressWindow)> {
        self.remove_idle(now);
        self.entries.iter().flat_map(|entry| {
            let address = IpKey::from_bytes(entry.address);
            let windows = entry.windows().iter();
            windows.filter_map(move |window| Some((address?, window)))
        })
    }

    /// Returns the window of a rule, and whether it is shared.
    pub(super) fn find(
        &mut self,
        allocation: &Allocation,
        rule: &Rule,
    ) -> Option<(&mut AddressWindow, bool)> {
        let mut entries = self.entries.iter_mut();
        let own = entries.find(|entry| entry.address == allocation.address);
        if let Some(window) = own.and_then(|entry| entry.find(rule)) {
            return Some((window, false));
        }
        if !allocation.is_shared {
            return None;
        }
        let mut shared = self.shared.as_mut()?.0.iter_mut();
        Some((shared.find(|window| window.is_for(rule))?, true))
    }

    fn evict(&mut self, allocation: &Allocation) {
        if !allocation.victims.is_empty() {
            self.entries
                .retain(|entry| !allocation.victims.contains(&entry.address));
        }
    }

    fn insert(&mut self, allocation: &Allocation, window: AddressWindow) {
        if allocation.is_shared {
            self.shared.get_or_insert_default().0.push(window);
        } else if let Some(entry) = self.entry(allocation.address) {
            entry.push(window);
        } else {
            // Grows by one entry: most sets contain few addresses, and a flood fills all sets.
            self.entries.reserve_exact(1);
            self.entries
                .push(AddressEntry::new(allocation.address, window));
        }
    }

    /// Removes windows without hits, and addresses without windows.
    pub(super) fn remove_idle(&mut self, now: Moment) {
        self.entries.retain_mut(|entry| entry.retain_used(now));
        if let Some(shared) = &mut self.shared {
            retain_used(&mut shared.0, now);
            if shared.0.is_empty() {
                self.shared = None;
            }
        }
    }

    fn entry(&mut self, address: [u8; 17]) -> Option<&mut AddressEntry> {
        let mut entries = self.entries.iter_mut();
        entries.find(|entry| entry.address == address)
    }

    /// The number of windows of requests of all addresses.
    fn len(&self) -> usize {
        self.entries.iter().map(AddressEntry::len).sum()
    }

    /// The number of shared windows of requests.
    fn shared_len(&self) -> usize {
        self.shared.as_ref().map_or(0, |shared| count(&shared.0))
    }
}

#[cfg(test)]
impl Set {
    pub(super) fn bytes_per_address() -> usize {
        size_of::<AddressEntry>()
    }

    /// Returns each address with its fullness.
    pub(super) fn addresses(&mut self, now: Moment) -> Vec<(IpKey, Fullness)> {
        self.remove_idle(now);
        let entries = self.entries.iter();
        let all = entries.filter_map(|e| Some((IpKey::from_bytes(e.address)?, e.fullness())));
        all.collect()
    }

    /// Returns the numbers of windows of addresses and of shared windows.
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.len(), self.shared_len())
    }
}
