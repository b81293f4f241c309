//! One window of an address, and its fullness.

use std::num::NonZeroU32;

use crate::counter::{Events, Rule, SavedIpWindow, restore_hits, saved_hits};
use crate::limit::{Limit, Period, SlidingLog, WindowLength};
use crate::net::IpKey;
use crate::time::{Clock, Moment};

#[derive(Debug)]
pub(super) struct AddressWindow {
    events: Events,
    pub(super) log: SlidingLog,
    /// The number of hits from which the window is full: see [`full_at`].
    full_at: u32,
    is_shadow: bool,
}

/// The hits of a window as a fraction of a full one, in units of 1/65,536.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fullness(u32);

impl Fullness {
    /// The fullness of a window that must not be evicted.
    pub(super) const FULL: Self = Self(1 << 16);

    fn of(used: u64, full_at: u32) -> Self {
        let part = (used << 16) / u64::from(full_at.max(1));
        Self(u32::try_from(part).unwrap_or(u32::MAX)).min(Self::FULL)
    }

    /// Returns the fullness of the window of a rule with `used` hits.
    pub(super) fn under(rule: &Rule, used: u64, cost: NonZeroU32) -> Self {
        if rule.limit.shadow {
            return Self::default();
        }
        Self::of(used, full_at(rule, cost))
    }
}

impl AddressWindow {
    pub(super) fn new(rule: &Rule, cost: NonZeroU32) -> Self {
        Self {
            events: rule.events.clone(),
            log: empty_log(rule),
            full_at: full_at(rule, cost),
            is_shadow: rule.limit.shadow,
        }
    }

    pub(super) fn restored(saved: SavedIpWindow, now: Moment, clock: &Clock) -> Self {
        let mut log = SlidingLog::new(saved.length);
        restore_hits(&mut log, saved.hits, now, clock);
        Self {
            events: saved.events,
            log,
            full_at: saved.full_at,
            is_shadow: saved.is_shadow,
        }
    }

    pub(super) fn saved(&self, ip_key: IpKey, clock: &Clock) -> SavedIpWindow {
        SavedIpWindow {
            ip_key,
            events: self.events.clone(),
            length: self.log.length(),
            full_at: self.full_at,
            is_shadow: self.is_shadow,
            hits: saved_hits(&self.log, clock),
        }
    }

    pub(super) fn is_for(&self, rule: &Rule) -> bool {
        self.is_shadow == rule.limit.shadow
            && self.log.length() == length_of(rule.limit)
            && self.events == rule.events
    }

    /// Whether it counts requests. An address has a window for each rule then; for failures, one for
    /// each kind of failure.
    pub(super) fn counts_requests(&self) -> bool {
        are_requests(&self.events)
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.is_shadow == other.is_shadow
            && self.log.length() == other.log.length()
            && self.events == other.events
    }

    /// Adjusts the window to a changed rule.
    pub(super) fn update(&mut self, rule: &Rule, cost: NonZeroU32) {
        self.full_at = full_at(rule, cost);
    }

    /// The number of hits when the window was last used.
    pub(super) fn used(&self) -> u32 {
        self.log.used()
    }

    /// The fullness when the window was last used. 0 in shadow mode, which refuses nothing.
    pub(super) fn fullness(&self) -> Fullness {
        if self.is_shadow {
            return Fullness::default();
        }
        Fullness::of(self.used().into(), self.full_at)
    }
}

/// Returns the number of hits from which the window of a rule must not be evicted: more than half of
/// the tolerated failures, or so many requests that the next one of this cost is refused.
fn full_at(rule: &Rule, cost: NonZeroU32) -> u32 {
    let amount = u32::try_from(rule.limit.amount.get()).unwrap_or(u32::MAX);
    match rule.events {
        Events::AuthFailures(_) => amount / 2 + 1,
        _ => amount.saturating_sub(cost.get() - 1).max(1),
    }
}

pub(super) fn are_requests(events: &Events) -> bool {
    !matches!(events, Events::AuthFailures(_))
}

pub(super) fn empty_log(rule: &Rule) -> SlidingLog {
    SlidingLog::new(length_of(rule.limit))
}

/// Limits of addresses are over intervals only.
fn length_of(limit: Limit) -> WindowLength {
    match limit.period {
        Period::Sliding(length) => length,
        _ => WindowLength::MINUTE,
    }
}
