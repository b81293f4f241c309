//! The seam behind which live counters are kept.

mod memory;
mod networks;

use std::num::NonZeroU32;
use std::sync::Arc;

use crate::clock::Moment;
use crate::lockout::Strike;
use crate::network::Network;
use crate::policy::Rule;
use crate::quota::QuotaUse;
use crate::record::KeyId;
use crate::store::StoreError;

pub(crate) use self::memory::{Group, MemoryLimiter};

/// Whose counters are decided together, under one lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum GroupId {
    Key(KeyId),
}

/// What is counted of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NetworkCounter<'a> {
    pub(crate) network: Network,
    pub(crate) counts: Counts<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Counts<'a> {
    Strikes(Strike),
    /// Requests under the rule of this name.
    Requests(&'a str),
}

/// Windows and quotas in use. Windows are lost when the process ends; the levels of quotas are
/// handed out by [`Limiter::take_consumed`] to be stored.
pub(crate) trait Limiter: Send + Sync + 'static {
    /// The counters of `id`, which live at least as long as the handle. Counters that are absent
    /// are made, their quota as `seed` reads it from where it is stored.
    fn attach(
        &self,
        id: GroupId,
        seed: &mut dyn FnMut() -> Result<QuotaUse, StoreError>,
    ) -> Result<Arc<Group>, AttachError>;

    /// Consumes `cost` from every rule, or, if one has no room, from none. There is a rule, and the
    /// limit of none is below `cost`.
    fn admit(&self, group: &Arc<Group>, rules: &[Rule], cost: NonZeroU32) -> Outcome;

    /// How each rule stands, consuming nothing, and when it has room for `cost` if nothing is
    /// admitted meanwhile.
    fn levels(&self, group: &Group, rules: &[Rule], cost: NonZeroU32) -> Vec<(Level, Moment)>;

    /// The groups whose quota was consumed from since the last call. They stay in memory while they
    /// are held, so that a quota is never seeded from a level that is still on its way to the store.
    fn take_consumed(&self) -> Vec<Arc<Group>>;

    /// Hands `groups` out again by the next [`Limiter::take_consumed`]: storing them has failed.
    fn return_consumed(&self, groups: Vec<Arc<Group>>);

    /// Consumes one from a sliding window over a network, or nothing if it has no room.
    fn hit(&self, counter: NetworkCounter<'_>, rule: Rule) -> Outcome;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Consumed from every rule; the level, after that, of the tightest.
    Admitted(Level),
    /// Consumed from none; the level of the rule that takes longest to have room, and when it will
    /// have if nothing is admitted meanwhile.
    Refused(Level, Moment),
}

/// How one rule stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level {
    /// Which of the rules that were asked about.
    pub(crate) rule: usize,
    /// When it stood so.
    pub(crate) at: Moment,
    /// How much more it admits then.
    pub(crate) remaining: u64,
    /// When `remaining` grows.
    pub(crate) grows_at: Moment,
}
