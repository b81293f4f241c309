//! One window over a network, and how full it is.

use std::num::NonZeroU32;

use super::super::IpRule;
use crate::counter::{Counts, SavedIpCounters, restore_hits, saved_hits};
use crate::limit::SlidingLog;
use crate::limit::WindowLength;
use crate::limit::{Limit, Period};
use crate::net::IpKey;
use crate::time::{Clock, Moment};

#[derive(Debug)]
pub(super) struct Window {
    counts: Counts,
    pub(super) log: SlidingLog,
    /// Hits from which on it is full: see [`full_at`].
    full_at: u32,
    is_shadow: bool,
}

/// Part of what makes a window full, in 65,536ths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fullness(u32);

impl Fullness {
    /// That of a window that must not be evicted.
    pub(super) const FULL: Self = Self(1 << 16);

    fn of(used: u64, full_at: u32) -> Self {
        let part = (used << 16) / u64::from(full_at.max(1));
        Self(u32::try_from(part).unwrap_or(u32::MAX)).min(Self::FULL)
    }

    /// That of the window of a rule that `used` hits are in.
    pub(super) fn under(rule: &IpRule<'_>, used: u64, cost: NonZeroU32) -> Self {
        if rule.limit.shadow {
            return Self::default();
        }
        Self::of(used, full_at(rule, cost))
    }
}

impl Window {
    pub(super) fn new(rule: &IpRule<'_>, cost: NonZeroU32) -> Self {
        Self {
            counts: rule.counts.clone(),
            log: empty_log(rule),
            full_at: full_at(rule, cost),
            is_shadow: rule.limit.shadow,
        }
    }

    pub(super) fn restored(saved: SavedIpCounters, now: Moment, clock: &Clock) -> Self {
        let mut log = SlidingLog::new(saved.length);
        restore_hits(&mut log, saved.hits, now, clock);
        Self {
            counts: saved.counts,
            log,
            full_at: saved.full_at,
            is_shadow: saved.is_shadow,
        }
    }

    pub(super) fn saved(&self, network: IpKey, clock: &Clock) -> SavedIpCounters {
        SavedIpCounters {
            network,
            counts: self.counts.clone(),
            length: self.log.length(),
            full_at: self.full_at,
            is_shadow: self.is_shadow,
            hits: saved_hits(&self.log, clock),
        }
    }

    pub(super) fn is_of(&self, rule: &IpRule<'_>) -> bool {
        self.is_shadow == rule.limit.shadow
            && self.log.length() == length_of(rule.limit)
            && self.counts == *rule.counts
    }

    /// Whether it counts requests, of which there are windows for as many rules as there are.
    pub(super) fn is_of_requests(&self) -> bool {
        is_of_requests(&self.counts)
    }

    pub(super) fn is_counted_as(&self, other: &Self) -> bool {
        self.is_shadow == other.is_shadow
            && self.log.length() == other.log.length()
            && self.counts == other.counts
    }

    /// Takes over what makes the window full from the rule as it is now.
    pub(super) fn follow(&mut self, rule: &IpRule<'_>, cost: NonZeroU32) {
        self.full_at = full_at(rule, cost);
    }

    /// Hits that counted when that was last looked at.
    pub(super) fn used(&self) -> u32 {
        self.log.used()
    }

    /// As of when its hits were last looked at. Rules in shadow mode refuse nobody, and weigh nothing.
    pub(super) fn fullness(&self) -> Fullness {
        if self.is_shadow {
            return Fullness::default();
        }
        Fullness::of(self.used().into(), self.full_at)
    }
}

/// Hits from which on the window of a rule must not be evicted: more than half as many failures as
/// are tolerated, or so many requests that the next one of this cost is refused.
fn full_at(rule: &IpRule<'_>, cost: NonZeroU32) -> u32 {
    let amount = u32::try_from(rule.limit.amount.get()).unwrap_or(u32::MAX);
    match rule.counts {
        Counts::Strikes(_) => amount / 2 + 1,
        _ => amount.saturating_sub(cost.get() - 1).max(1),
    }
}

pub(super) fn is_of_requests(counts: &Counts) -> bool {
    !matches!(counts, Counts::Strikes(_))
}

pub(super) fn empty_log(rule: &IpRule<'_>) -> SlidingLog {
    SlidingLog::new(length_of(rule.limit))
}

/// Networks are limited over intervals only.
fn length_of(limit: Limit) -> WindowLength {
    match limit.period {
        Period::Sliding(length) => length,
        _ => WindowLength::MINUTE,
    }
}
