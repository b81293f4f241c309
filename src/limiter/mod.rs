//! The seam behind which live counters are kept.

mod memory;
mod networks;

use std::num::NonZeroU32;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::clock::Moment;
use crate::counter::{Counts, SavedCounter, SavedNetwork};
use crate::limit::Limit;
use crate::network::Network;
use crate::rule::{GroupId, Rule};
use crate::store::StoreError;

pub(crate) use self::memory::{Group, MemoryLimiter};

/// The counters that one decision goes by.
#[derive(Clone, Copy)]
pub(crate) struct Groups<'a> {
    pub(crate) key: &'a Arc<Group>,
    /// Where the organization has limits of its own.
    pub(crate) org: Option<&'a Arc<Group>>,
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
pub(crate) struct NetworkRule<'a> {
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
        id: GroupId,
        seed: &mut dyn FnMut() -> Result<Vec<SavedCounter>, StoreError>,
    ) -> Result<Arc<Group>, AttachError>;

    /// Consumes `cost` from every rule, or, if one that is enforced has no room, from none. The
    /// amount of no enforced rule is below `cost`.
    fn admit(&self, groups: Groups<'_>, rules: Rules<'_>, cost: NonZeroU32) -> Outcome;

    /// How each rule stands, consuming nothing, and when it has room for `cost` if nothing is
    /// admitted meanwhile.
    fn levels(
        &self,
        groups: Groups<'_>,
        rules: Rules<'_>,
        cost: NonZeroU32,
    ) -> Vec<(Level, Moment)>;

    /// Gives back what an admitted request turned out to cost less than `reserved`, or charges what
    /// it cost more, whether or not there is room for it.
    fn settle(&self, groups: Groups<'_>, rules: Rules<'_>, admission: Admission<'_>, actual: u64);

    /// Ends an admitted request, of those in flight.
    fn release(&self, groups: Groups<'_>, rules: Rules<'_>, passed_over: &PassedOver);

    /// Forgets what the given rules have used. Nothing is given back any more of what was admitted
    /// before.
    fn reset(&self, groups: Groups<'_>, rules: Rules<'_>);

    /// The groups with balances that changed since the last call. They stay in memory while they are
    /// held, so that a balance is never seeded from a state that is still on its way to the store.
    fn take_changed(&self) -> Vec<Arc<Group>>;

    /// Hands `groups` out again by the next [`Limiter::take_changed`]: storing them has failed.
    fn return_changed(&self, groups: Vec<Arc<Group>>);

    /// The windows that hold hits, of a part of all groups, counted from 0; `None` for a part that
    /// there is not.
    fn windows(&self, part: usize) -> Option<Vec<(GroupId, Vec<SavedCounter>)>>;

    /// Consumes `cost` from windows over a network, or, if one that is enforced has no room, from
    /// none.
    fn hit(&self, network: Network, rules: &[NetworkRule<'_>], cost: NonZeroU32) -> Outcome;

    /// How each rule over a network stands, consuming nothing, and when it has room for `cost`.
    fn network_levels(
        &self,
        network: Network,
        rules: &[NetworkRule<'_>],
        cost: NonZeroU32,
    ) -> Vec<(Level, Moment)>;

    /// The windows over all networks that hold hits.
    fn network_windows(&self) -> Vec<SavedNetwork>;

    /// Takes windows over networks up where they were stored.
    fn restore_networks(&self, saved: Vec<SavedNetwork>);

    /// Forgets all that was counted of a network.
    fn forget(&self, network: Network);

    /// Frees the memory of some groups that no longer count anything; to be called regularly.
    fn sweep(&self);
}

#[derive(Debug)]
pub(crate) enum AttachError {
    /// There is no room, and every group is still counting.
    Full,
    Seed(StoreError),
}

/// What one call to [`Limiter::admit`] decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Consumed from every rule that was not passed over; the level, after that, of the tightest
    /// that is enforced.
    Admitted(Level, PassedOver),
    /// Consumed from none; the level of the rule that takes longest to have room, and when it will
    /// have if nothing is admitted meanwhile.
    Refused(Level, Moment),
}

/// The rules in shadow mode that would have refused, none for almost everybody. Nothing was consumed
/// from them.
pub(crate) type PassedOver = Option<Box<SmallVec<[u16; 12]>>>;

#[cold]
fn pass_over(passed_over: &mut PassedOver, index: usize) {
    let index = u16::try_from(index).unwrap_or(u16::MAX);
    passed_over.get_or_insert_default().push(index);
}

#[inline]
fn is_passed_over(passed_over: &PassedOver, index: usize) -> bool {
    let all = passed_over.as_deref();
    all.is_some_and(|all| all.contains(&(index as u16)))
}

/// What is known of a request that was admitted.
#[derive(Clone, Copy)]
pub(crate) struct Admission<'a> {
    pub(crate) at: Moment,
    pub(crate) cost: NonZeroU32,
    pub(crate) passed_over: &'a PassedOver,
}

/// How one rule stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level {
    /// Which of the rules that were asked about; [`Level::NONE`] if there was none.
    pub(crate) rule: usize,
    /// When it stood so.
    pub(crate) at: Moment,
    /// How much more it admits then.
    pub(crate) remaining: u64,
    /// When `remaining` grows.
    pub(crate) grows_at: Moment,
}

impl Level {
    pub(crate) const NONE: usize = usize::MAX;

    /// That of a request that no rule limits.
    pub(crate) fn unlimited(at: Moment) -> Self {
        Self {
            rule: Self::NONE,
            at,
            remaining: u64::MAX,
            grows_at: at,
        }
    }
}
