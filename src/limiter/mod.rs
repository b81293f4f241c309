//! Storage of live counters, in memory or in Redis.

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod fixture;
mod memory;
#[cfg(feature = "redis")]
mod redis;

use std::num::NonZeroU32;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::counter::{CounterId, PlainRules, Rule, SavedCounter, SavedIpWindow, SubjectId};
use crate::model::{BackendHealth, Condition, OrgId};
use crate::net::IpKey;
use crate::store::StoreError;
use crate::sys::{Deadline, MaybeReady};
use crate::time::Moment;

pub(crate) use self::memory::{CounterSet, MemoryLimiter};
#[cfg(feature = "redis")]
pub(crate) use self::redis::RedisLimiter;
#[cfg(all(fuzzing, feature = "_fuzz"))]
pub use self::redis::fuzz::reply as fuzz_redis_reply;

/// The subjects, rules and cost of one decision.
#[derive(Clone, Copy)]
pub(crate) struct Demand<'a> {
    pub(crate) subjects: Subjects<'a>,
    pub(crate) rules: Rules<'a>,
    /// At most the amount of each enforced rule, unless nothing is consumed.
    pub(crate) cost: NonZeroU32,
}

impl<'a> Demand<'a> {
    /// A demand of cost 1.
    pub(crate) fn new(subjects: Subjects<'a>, rules: Rules<'a>) -> Self {
        Self {
            subjects,
            rules,
            cost: NonZeroU32::MIN,
        }
    }
}

/// The subjects that one decision limits together.
#[derive(Clone, Copy)]
pub(crate) enum Subjects<'a> {
    Key(CounterSets<'a>),
    Address(IpKey),
}

/// The counters of a key and of its organization.
#[derive(Clone, Copy)]
pub(crate) struct CounterSets<'a> {
    pub(crate) key: &'a Arc<CounterSet>,
    /// `None` if the organization has no limits.
    pub(crate) org: Option<&'a Arc<CounterSet>>,
    #[cfg_attr(not(feature = "redis"), allow(dead_code))]
    pub(crate) org_id: OrgId,
}

/// The rules of one decision. Borrowed lists of rules, so that nothing is copied.
pub(crate) type Rules<'a> = &'a [&'a [Rule]];

/// Returns the rule at an index that counts through all lists.
pub(crate) fn rule_at<'a>(rules: Rules<'a>, index: usize) -> Option<&'a Rule> {
    rules.iter().copied().flatten().nth(index)
}

#[inline(always)]
fn indexed<'a>(rules: Rules<'a>) -> impl Iterator<Item = (usize, &'a Rule)> {
    rules.iter().copied().flatten().enumerate()
}

/// Returns the rule without room that takes longest to have room; the first of equals.
#[inline(always)]
pub(crate) fn slowest(
    refusing: impl Iterator<Item = (LimitState, Moment)>,
) -> Option<(LimitState, Moment)> {
    refusing.reduce(|slowest, next| if next.1 > slowest.1 { next } else { slowest })
}

/// Storage of live counters: windows, balances and requests in flight.
///
/// [`Limiter::take_changed`] and [`Limiter::windows`] return the counters that the store keeps.
pub(crate) trait Limiter: Send + Sync + 'static {
    /// Returns the counters of a key or an organization, which live at least as long as the handle.
    /// Absent ones are created from their stored state, which `seed` reads.
    fn attach(
        &self,
        id: SubjectId,
        seed: &mut dyn FnMut() -> Result<Vec<SavedCounter>, StoreError>,
    ) -> Result<Arc<CounterSet>, AttachError>;

    /// Consumes the cost from every rule, or from none if an enforced rule has no room. Ready at
    /// once unless the limiter is remote.
    fn admit<'a>(&'a self, demand: Demand<'a>, deadline: &'a Deadline)
    -> MaybeReady<'a, Admission>;

    /// Like [`Limiter::admit`] by plain rules, for which the windows exist; else returns `None`.
    fn admit_plain(
        &self,
        _: CounterSets<'_>,
        _: &PlainRules,
        _cost: NonZeroU32,
    ) -> Option<Admission> {
        None
    }

    /// Returns the state of each rule, and when it has room for the cost if nothing is admitted
    /// meanwhile. Consumes nothing.
    fn states(&self, demand: Demand<'_>) -> Vec<(LimitState, Moment)>;

    /// Whether there is room to count a request that no rule refuses. Consumes nothing.
    fn has_room(&self, _: Demand<'_>) -> bool {
        true
    }

    /// Corrects the cost of a request that was admitted `at` a moment: refunds the difference to
    /// its `actual` cost, or charges it whether or not there is room.
    fn settle(&self, demand: Demand<'_>, at: Moment, receipt: &Receipt, actual: u64);

    /// Ends an admitted request: it is no longer in flight.
    fn release(&self, demand: Demand<'_>, receipt: &Receipt);

    /// Resets the counters of the given rules, or all counters of an address. Requests admitted
    /// before get no refund any more, in memory also those of the few other keys and organizations
    /// in the same shard.
    fn reset(&self, demand: Demand<'_>) -> Result<(), StoreError>;

    /// Returns the counter sets whose balances changed since the last call. They stay in memory
    /// while the handles live, so that no balance is seeded from a state that is about to be
    /// overwritten.
    fn take_changed(&self) -> Vec<Arc<CounterSet>>;

    /// Makes the next [`Limiter::take_changed`] return these sets again, as storing them failed.
    fn return_changed(&self, sets: Vec<Arc<CounterSet>>);

    /// Returns the windows that contain hits, in parts that are numbered from 0; `None` after the
    /// last part.
    fn windows(&self, part: usize) -> Option<SavedWindows>;

    /// Calls `each` with the counters of a key or an organization that is tracked, except those of requests in
    /// flight, and how much of each is used. Creates no counters.
    fn used(&self, id: SubjectId, each: &mut dyn FnMut(&CounterId, u64)) {
        let _ = (id, each);
    }

    /// Restores windows of addresses.
    fn restore(&self, saved: Vec<SavedIpWindow>);

    /// Whether decisions may wait for another server.
    #[cfg_attr(not(feature = "http"), allow(dead_code))]
    fn is_remote(&self) -> bool {
        false
    }

    fn status(&self) -> LimiterStatus {
        LimiterStatus::default()
    }

    /// Frees the memory of some counters that are all zero. Called regularly.
    fn sweep(&self);
}

/// The limiter of a guard.
pub(crate) enum AnyLimiter {
    Memory(MemoryLimiter),
    #[cfg(feature = "redis")]
    Redis(RedisLimiter),
}

impl AnyLimiter {
    /// [`Limiter::admit`] without a virtual call.
    #[inline(always)]
    pub(crate) fn admit<'a>(
        &'a self,
        demand: Demand<'a>,
        deadline: &'a Deadline,
    ) -> MaybeReady<'a, Admission> {
        match self {
            Self::Memory(limiter) => limiter.admit(demand, deadline),
            #[cfg(feature = "redis")]
            Self::Redis(limiter) => limiter.admit(demand, deadline),
        }
    }

    /// [`Limiter::admit_plain`] without a virtual call.
    #[inline(always)]
    pub(crate) fn admit_plain(
        &self,
        sets: CounterSets<'_>,
        rules: &PlainRules,
        cost: NonZeroU32,
    ) -> Option<Admission> {
        match self {
            Self::Memory(limiter) => limiter.admit_plain(sets, rules, cost),
            #[cfg(feature = "redis")]
            Self::Redis(limiter) => limiter.admit_plain(sets, rules, cost),
        }
    }
}

impl Deref for AnyLimiter {
    type Target = dyn Limiter;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::Memory(limiter) => limiter,
            #[cfg(feature = "redis")]
            Self::Redis(limiter) => limiter,
        }
    }
}

/// Windows to store before a restart.
#[derive(Default)]
pub(crate) struct SavedWindows {
    pub(crate) sets: Vec<(SubjectId, Vec<SavedCounter>)>,
    pub(crate) ip_windows: Vec<SavedIpWindow>,
}

/// The condition of a limiter.
#[derive(Default)]
pub(crate) struct LimiterStatus {
    /// Health of the remote server, if there is one.
    pub(crate) health: Option<BackendHealth>,
    /// What needs an administrator's attention.
    pub(crate) conditions: Vec<Condition>,
}

/// The decision about limits while the remote server is unavailable. Has no effect without the feature
/// `redis`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fallback {
    /// Each process enforces the limits by itself. Together they admit at most the limit times the
    /// number of processes.
    #[default]
    Local,
    /// Requests are refused with status 503.
    Deny,
    /// Requests are admitted without being counted.
    Allow,
}

#[derive(Debug)]
pub(crate) enum AttachError {
    /// The table is full, and no counter set in it is idle.
    Full,
    Seed(StoreError),
}

/// The outcome of [`Limiter::admit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Consumed from every rule except those the receipt lists; with the state, after that, of the
    /// tightest enforced rule.
    Admitted(LimitState, Receipt),
    /// Consumed from none; with the state of the rule that takes longest to have room, and when it
    /// has room if nothing is admitted meanwhile.
    Refused(LimitState, Moment),
    /// Like `Refused`, but by a window that several addresses share because the table is full. No
    /// reason for a lock.
    RefusedShared(LimitState, Moment),
    /// There is no room to count the request. Nothing is consumed.
    Full,
    /// The remote server is unavailable, and the fallback is [`Fallback::Deny`].
    #[cfg_attr(not(feature = "redis"), allow(dead_code))]
    Undecided,
}

/// Details of an admission that [`Limiter::settle`] and [`Limiter::release`] need. `None` for the
/// usual case: admitted in memory, consumed from every rule.
pub(crate) type Receipt = Option<Box<Remarks>>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Remarks {
    /// The indexes of the rules that consumed nothing: those in shadow mode that would have refused, and
    /// those for which there was no room.
    pub(crate) skipped: SmallVec<[u16; 8]>,
    /// When the remote server admitted the request, by its clock.
    pub(crate) remote_at: Option<u64>,
    /// Whether the request was admitted without being counted.
    pub(crate) is_uncounted: bool,
}

#[cold]
fn mark_skipped(receipt: &mut Receipt, index: usize) {
    let index = u16::try_from(index).unwrap_or(u16::MAX);
    receipt.get_or_insert_default().skipped.push(index);
}

#[inline]
fn is_skipped(receipt: &Receipt, index: usize) -> bool {
    let remarks = receipt.as_deref();
    remarks.is_some_and(|remarks| remarks.skipped.contains(&(index as u16)))
}

/// The state of one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LimitState {
    /// The index of the rule in the demand; [`LimitState::NONE`] if there is no rule.
    pub(crate) rule: usize,
    /// The time of this state.
    pub(crate) at: Moment,
    /// How much more the rule admits at that time.
    pub(crate) remaining: u64,
    /// When `remaining` next grows.
    pub(crate) resets_at: Moment,
}

impl LimitState {
    pub(crate) const NONE: usize = usize::MAX;

    /// The state for a request without limits.
    pub(crate) fn unlimited(at: Moment) -> Self {
        Self {
            rule: Self::NONE,
            at,
            remaining: u64::MAX,
            resets_at: at,
        }
    }

    /// Returns how long until `remaining` grows; `None` for never.
    pub(crate) fn resets_in(&self) -> Option<Duration> {
        (self.resets_at < Moment::NEVER).then(|| self.resets_at.since(self.at))
    }
}
