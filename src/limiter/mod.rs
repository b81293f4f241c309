//! The seam behind which live counters are kept.

#[cfg(test)]
mod conformance;
#[cfg(feature = "redis")]
mod exhausted;
mod memory;
mod networks;
#[cfg(feature = "redis")]
mod redis;

use std::num::NonZeroU32;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::counter::{Counts, SavedCounter, SavedIpCounters};
use crate::counter::{Rule, SubjectId};
use crate::limit::Limit;
use crate::model::BackendHealth;
use crate::model::OrgId;
use crate::net::IpKey;
use crate::store::StoreError;
use crate::sys::{Deadline, MaybeReady};
use crate::time::Moment;

pub(crate) use self::memory::{CounterSet, MemoryLimiter};
#[cfg(feature = "redis")]
pub(crate) use self::redis::RedisLimiter;

/// The counters that one decision goes by.
#[derive(Clone, Copy)]
pub(crate) struct CounterSets<'a> {
    pub(crate) key: &'a Arc<CounterSet>,
    /// Where the organization has limits of its own.
    pub(crate) org: Option<&'a Arc<CounterSet>>,
    #[cfg_attr(not(feature = "redis"), allow(dead_code))]
    pub(crate) org_id: OrgId,
}

/// The rules that one decision asks about, in lists that were made beforehand.
pub(crate) type Rules<'a> = &'a [&'a [Rule]];

/// The rule at an index that counts through all lists.
pub(crate) fn rule_at<'a>(rules: Rules<'a>, mut index: usize) -> Option<&'a Rule> {
    for list in rules {
        match list.get(index) {
            Some(rule) => return Some(rule),
            None => index -= list.len(),
        }
    }
    None
}

/// One limit over what a network does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IpRule<'a> {
    pub(crate) counts: &'a Counts,
    /// Over an interval.
    pub(crate) limit: Limit,
}

/// Windows, balances and requests in flight. What of it is to be stored is handed out by
/// [`Limiter::take_changed`] and [`Limiter::windows`].
pub(crate) trait Limiter: Send + Sync + 'static {
    /// The counters of `id`, which live at least as long as the handle. Counters that are absent
    /// are made as `seed` reads them from where they are stored.
    fn attach(
        &self,
        id: SubjectId,
        seed: &mut dyn FnMut() -> Result<Vec<SavedCounter>, StoreError>,
    ) -> Result<Arc<CounterSet>, AttachError>;

    /// Consumes `cost` from every rule, or, if one that is enforced has no room, from none. The
    /// amount of no enforced rule is below `cost`. `None` if another server has to be asked, by
    /// [`Limiter::admit`].
    fn admit_now(
        &self,
        groups: CounterSets<'_>,
        rules: Rules<'_>,
        cost: NonZeroU32,
    ) -> Option<Admission>;

    /// As [`Limiter::admit_now`], whoever has to be asked.
    fn admit<'a>(
        &'a self,
        groups: CounterSets<'a>,
        rules: Rules<'a>,
        cost: NonZeroU32,
        deadline: &'a Deadline,
    ) -> MaybeReady<'a, Admission>;

    /// How each rule stands, consuming nothing, and when it has room for `cost` if nothing is
    /// admitted meanwhile.
    fn levels(
        &self,
        groups: CounterSets<'_>,
        rules: Rules<'_>,
        cost: NonZeroU32,
    ) -> Vec<(LimitState, Moment)>;

    /// Gives back what an admitted request turned out to cost less than `reserved`, or charges what
    /// it cost more, whether or not there is room for it.
    fn settle(
        &self,
        groups: CounterSets<'_>,
        rules: Rules<'_>,
        admission: AdmittedRequest<'_>,
        actual: u64,
    );

    /// Ends an admitted request, of those in flight.
    fn release(&self, groups: CounterSets<'_>, rules: Rules<'_>, receipt: &Receipt);

    /// Forgets what the given rules have used. Nothing is given back any more of what was admitted
    /// before.
    fn reset(&self, groups: CounterSets<'_>, rules: Rules<'_>) -> Result<(), StoreError>;

    /// The groups with balances that changed since the last call. They stay in memory while they are
    /// held, so that a balance is never seeded from a state that is still on its way to the store.
    fn take_changed(&self) -> Vec<Arc<CounterSet>>;

    /// Hands `groups` out again by the next [`Limiter::take_changed`]: storing them has failed.
    fn return_changed(&self, groups: Vec<Arc<CounterSet>>);

    /// The windows that hold hits, of a part of all groups, counted from 0; `None` for a part that
    /// there is not.
    fn windows(&self, part: usize) -> Option<Vec<(SubjectId, Vec<SavedCounter>)>>;

    /// Consumes `cost` from windows over a network, or, if one that is enforced has no room, from
    /// none. `None` if another server has to be asked, by [`Limiter::hit`].
    fn hit_now(&self, network: IpKey, rules: &[IpRule<'_>], cost: NonZeroU32) -> Option<Admission>;

    /// As [`Limiter::hit_now`], whoever has to be asked.
    fn hit<'a>(
        &'a self,
        network: IpKey,
        rules: &'a [IpRule<'a>],
        cost: NonZeroU32,
        deadline: &'a Deadline,
    ) -> MaybeReady<'a, Admission>;

    /// How each rule over a network stands, consuming nothing, and when it has room for `cost`.
    fn network_levels(
        &self,
        network: IpKey,
        rules: &[IpRule<'_>],
        cost: NonZeroU32,
    ) -> Vec<(LimitState, Moment)>;

    /// The windows over all networks that hold hits.
    fn network_windows(&self) -> Vec<SavedIpCounters>;

    /// Takes windows over networks up where they were stored.
    fn restore_networks(&self, saved: Vec<SavedIpCounters>);

    /// Forgets all that was counted of a network.
    fn forget(&self, network: IpKey) -> Result<(), StoreError>;

    /// Whether another server is asked.
    #[cfg_attr(not(feature = "http"), allow(dead_code))]
    fn asks_others(&self) -> bool {
        false
    }

    /// How the server stands that is asked.
    fn health(&self) -> Option<BackendHealth> {
        None
    }

    /// What an administrator should know.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Frees the memory of some groups that no longer count anything; to be called regularly.
    fn sweep(&self);
}

/// What decides about limits while the server that counts cannot be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fallback {
    /// Each process counts for itself: together, as many times the limit as there are processes are
    /// admitted at most.
    #[default]
    Local,
    /// Requests are refused with status 503.
    Deny,
    /// Requests are admitted without being counted.
    Allow,
}

#[derive(Debug)]
pub(crate) enum AttachError {
    /// There is no room, and every group is still counting.
    Full,
    Seed(StoreError),
}

/// What one call to [`Limiter::admit`] decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Consumed from every rule that was not passed over; the level, after that, of the tightest
    /// that is enforced.
    Admitted(LimitState, Receipt),
    /// Consumed from none; the level of the rule that takes longest to have room, and when it will
    /// have if nothing is admitted meanwhile.
    Refused(LimitState, Moment),
    /// As `Refused`, but by a window that several networks share because there was no room for one
    /// each: no reason to lock this one out.
    RefusedShared(LimitState, Moment),
    /// Whoever counts cannot be asked, and is not to be done without.
    #[cfg_attr(not(feature = "redis"), allow(dead_code))]
    Undecided,
}

/// What settling and ending an admitted request needs to know of it; `None` where it was admitted in
/// memory and every rule has consumed.
pub(crate) type Receipt = Option<Box<Remarks>>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Remarks {
    /// The rules in shadow mode that would have refused. Nothing was consumed from them.
    pub(crate) shadow_denied: SmallVec<[u16; 8]>,
    /// When another server admitted it, by the clock of that.
    pub(crate) remote_at: Option<u64>,
    /// Admitted without anybody counting it.
    pub(crate) is_uncounted: bool,
}

#[cold]
fn deny_in_shadow(receipt: &mut Receipt, index: usize) {
    let index = u16::try_from(index).unwrap_or(u16::MAX);
    receipt.get_or_insert_default().shadow_denied.push(index);
}

#[inline]
fn is_shadow_denied(receipt: &Receipt, index: usize) -> bool {
    let remarks = receipt.as_deref();
    remarks.is_some_and(|remarks| remarks.shadow_denied.contains(&(index as u16)))
}

/// What is known of a request that was admitted.
#[derive(Clone, Copy)]
pub(crate) struct AdmittedRequest<'a> {
    pub(crate) at: Moment,
    pub(crate) cost: NonZeroU32,
    pub(crate) receipt: &'a Receipt,
}

/// How one rule stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LimitState {
    /// Which of the rules that were asked about; [`LimitState::NONE`] if there was none.
    pub(crate) rule: usize,
    /// When it stood so.
    pub(crate) at: Moment,
    /// How much more it admits then.
    pub(crate) remaining: u64,
    /// When `remaining` grows.
    pub(crate) resets_at: Moment,
}

impl LimitState {
    pub(crate) const NONE: usize = usize::MAX;

    /// That of a request that no rule limits.
    pub(crate) fn unlimited(at: Moment) -> Self {
        Self {
            rule: Self::NONE,
            at,
            remaining: u64::MAX,
            resets_at: at,
        }
    }
}
