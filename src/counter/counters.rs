//! The counters of a subject: windows, balances and requests in flight.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::counter::{Events, PlainRule, Rule};
use crate::limit::{Balance, Period, SlidingLog, WindowLength};
use crate::net::IpKey;
use crate::time::{Clock, Moment, TimeZone, Timestamp};

/// One reading of the clock, as a moment and as a calendar time.
#[derive(Clone, Copy)]
pub(crate) struct Time<'a> {
    pub(crate) now: Moment,
    pub(crate) clock: &'a Clock,
    /// The time zone of days and months.
    pub(crate) zone: &'a TimeZone,
}

impl Time<'_> {
    fn timestamp(self) -> Timestamp {
        self.clock.timestamp_at(self.now)
    }

    fn after(self, wait: Option<Duration>) -> Moment {
        wait.map_or(Moment::NEVER, |wait| self.now.plus(wait))
    }
}

/// The counters of a key or an organization. Most have one, which is stored inline.
#[derive(Debug)]
pub(crate) enum Counters {
    /// The window of a plain rule.
    One(SlidingLog),
    Several {
        /// The windows of plain rules.
        plain: Vec<SlidingLog>,
        other: Vec<(CounterId, Counter)>,
    },
}

/// Identifies a counter among those of a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CounterId {
    pub(crate) events: Events,
    pub(crate) period: Period,
    pub(crate) shadow: bool,
}

impl CounterId {
    /// The id for an enforced limit on all requests.
    pub(crate) fn plain(period: Period) -> Self {
        Self {
            events: Events::AllRequests,
            period,
            shadow: false,
        }
    }

    pub(crate) fn of(rule: &Rule) -> Self {
        Self {
            events: rule.events.clone(),
            period: rule.limit.period,
            shadow: rule.limit.shadow,
        }
    }

    /// Whether a counter of this id, a window, is that of a plain rule.
    fn is_of_plain_rule(&self) -> bool {
        self.events.is_all_requests() && !self.shadow
    }

    #[inline(always)]
    pub(crate) fn is_for(&self, rule: &Rule) -> bool {
        self.period.is_counted_as(rule.limit.period)
            && self.shadow == rule.limit.shadow
            && self.events == rule.events
    }
}

#[derive(Debug)]
pub(crate) enum Counter {
    Window(SlidingLog),
    Balance {
        balance: Balance,
        /// Whether it changed since it was last stored.
        changed: bool,
    },
    InFlight(u32),
}

/// A counter in the form that the store keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SavedCounter {
    pub(crate) id: CounterId,
    pub(crate) value: SavedValue,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SavedValue {
    /// The times of hits, rounded up to milliseconds, with their number; oldest first.
    Hits(Vec<(Timestamp, u32)>),
    Balance(Balance),
}

/// A window of an address in the form that the store keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SavedIpWindow {
    pub(crate) ip_key: IpKey,
    pub(crate) events: Events,
    pub(crate) length: WindowLength,
    /// The number of hits from which the window must not be evicted.
    pub(crate) full_at: u32,
    /// Whether the rule is in shadow mode.
    pub(crate) is_shadow: bool,
    /// Like [`SavedValue::Hits`].
    pub(crate) hits: Vec<(Timestamp, u32)>,
}

impl Default for Counters {
    fn default() -> Self {
        Self::One(SlidingLog::new(WindowLength::MINUTE))
    }
}

impl Counters {
    /// Restores stored counters.
    pub(crate) fn restored(saved: Vec<SavedCounter>, time: Time<'_>) -> Self {
        let mut counters = Self::default();
        for SavedCounter { id, value } in saved {
            let mut counter = Counter::over(id.period);
            match (&mut counter, value) {
                (Counter::Window(log), SavedValue::Hits(hits)) => {
                    restore_hits(log, hits, time.now, time.clock);
                }
                (Counter::Balance { balance, .. }, SavedValue::Balance(saved)) => *balance = saved,
                _ => continue,
            }
            counters.add(id, counter);
        }
        counters
    }

    /// Returns the counter for a rule, and creates it if it is absent. The search begins at `hint`,
    /// which is then set to the likely position of the next rule's counter.
    #[inline(always)]
    pub(crate) fn get(&mut self, rule: &Rule, hint: &mut usize) -> CounterMut<'_> {
        let at = match self.position(rule, *hint) {
            Some(at) => at,
            None => self.add(CounterId::of(rule), Counter::over(rule.limit.period)),
        };
        *hint = at + 1;
        let (plain, other) = self.lists();
        match at.checked_sub(plain.len()) {
            None => CounterMut::Window(&mut plain[at]),
            Some(at) => other[at].1.as_mut(),
        }
    }

    /// Returns the window of a plain rule if it is the only counter.
    #[inline(always)]
    pub(crate) fn only_window(&mut self, rule: PlainRule) -> Option<&mut SlidingLog> {
        match self {
            Self::One(log) if log.length() == rule.length => Some(log),
            _ => None,
        }
    }

    /// Returns the windows of plain rules, in their order; `None` if one of the rules has no window yet.
    #[inline(always)]
    pub(crate) fn windows_of(&mut self, rules: &[PlainRule]) -> Option<&mut [SlidingLog]> {
        let (plain, _) = self.lists();
        for (at, rule) in rules.iter().enumerate() {
            if plain.get(at)?.length() != rule.length {
                bring_forward(plain, at, rule.length)?;
            }
        }
        plain.get_mut(..rules.len())
    }

    /// The windows of plain rules, and the other counters. Positions count through both.
    #[inline(always)]
    fn lists(&mut self) -> (&mut [SlidingLog], &mut [(CounterId, Counter)]) {
        match self {
            Self::One(log) => (std::slice::from_mut(log), &mut []),
            Self::Several { plain, other } => (plain, other),
        }
    }

    #[inline(always)]
    fn position(&mut self, rule: &Rule, hint: usize) -> Option<usize> {
        let (plain, other) = self.lists();
        match rule.plain() {
            Some(rule) => position_from(hint, plain, |log| log.length() == rule.length),
            None => {
                let hint = hint.wrapping_sub(plain.len());
                let at = position_from(hint, other, |(id, _)| id.is_for(rule))?;
                Some(plain.len() + at)
            }
        }
    }

    /// Adds a counter, and returns its position.
    #[cold]
    fn add(&mut self, id: CounterId, counter: Counter) -> usize {
        let (mut plain, mut other) = match std::mem::take(self) {
            Self::One(log) if log.is_empty() => (Vec::new(), Vec::new()),
            Self::One(log) => (vec![log], Vec::new()),
            Self::Several { plain, other } => (plain, other),
        };
        let at = match counter {
            Counter::Window(log) if id.is_of_plain_rule() => {
                // A single one stays inline.
                if plain.is_empty() && other.is_empty() {
                    *self = Self::One(log);
                    return 0;
                }
                plain.push(log);
                plain.len() - 1
            }
            counter => {
                other.push((id, counter));
                plain.len() + other.len() - 1
            }
        };
        *self = Self::Several { plain, other };
        at
    }

    fn all(&mut self) -> impl Iterator<Item = CounterMut<'_>> {
        let (plain, other) = self.lists();
        let other = other.iter_mut().map(|(_, counter)| counter.as_mut());
        plain.iter_mut().map(CounterMut::Window).chain(other)
    }

    /// Whether the counters can be dropped without loss.
    pub(crate) fn is_idle(&mut self, now: Moment) -> bool {
        self.all().all(|mut counter| counter.is_idle(now))
    }

    /// Returns all balances for the store, and marks them as unchanged. Empty if none had changed.
    pub(crate) fn take_balances(&mut self) -> Vec<SavedCounter> {
        let mut any = false;
        let mut saved = Vec::new();
        for (id, counter) in self.lists().1 {
            if let Counter::Balance { balance, changed } = counter {
                any |= std::mem::take(changed);
                saved.push(SavedCounter {
                    id: id.clone(),
                    value: SavedValue::Balance(*balance),
                });
            }
        }
        if any { saved } else { Vec::new() }
    }

    /// Marks the balances as changed. Returns false if there are none, or one was already.
    pub(crate) fn return_balances(&mut self) -> bool {
        let (mut any, mut was_changed) = (false, false);
        for counter in self.all() {
            if let CounterMut::Balance(_, changed) = counter {
                was_changed |= std::mem::replace(changed, true);
                any = true;
            }
        }
        any && !was_changed
    }

    /// Calls `each` with the counters, except those of requests in flight, and how much of each is used.
    pub(crate) fn used(&mut self, time: Time<'_>, each: &mut dyn FnMut(&CounterId, u64)) {
        let (plain, other) = self.lists();
        for log in plain {
            let id = CounterId::plain(Period::Sliding(log.length()));
            each(&id, log.used_at(time.now).into());
        }
        for (id, counter) in other {
            match counter {
                Counter::Window(log) => each(id, log.used_at(time.now).into()),
                Counter::Balance { balance, .. } => {
                    // The decision itself begins another day or month.
                    let mut balance = *balance;
                    each(id, balance.used_at(time.timestamp(), id.period, time.zone));
                }
                Counter::InFlight(_) => {}
            }
        }
    }

    /// Returns the windows with hits, for the store.
    pub(crate) fn windows(&mut self, time: Time<'_>) -> Vec<SavedCounter> {
        let (plain, other) = self.lists();
        let plain = plain.iter_mut().map(|log| {
            let id = CounterId::plain(Period::Sliding(log.length()));
            (id, log)
        });
        let other = other.iter_mut().filter_map(|(id, counter)| match counter {
            Counter::Window(log) => Some((id.clone(), log)),
            _ => None,
        });
        let with_hits = plain
            .chain(other)
            .filter_map(|(id, log)| (log.used_at(time.now) > 0).then_some((id, log)));
        let saved = with_hits.map(|(id, log)| SavedCounter {
            id,
            value: SavedValue::Hits(saved_hits(log, time.clock)),
        });
        saved.collect()
    }
}

/// Returns the position of an item, which is probably that of the hint.
#[inline(always)]
fn position_from<T>(hint: usize, list: &[T], is_wanted: impl Fn(&T) -> bool) -> Option<usize> {
    match list.get(hint) {
        Some(item) if is_wanted(item) => Some(hint),
        _ => list.iter().position(is_wanted),
    }
}

/// Moves the window of a length from behind a position to it, so that later decisions find it there.
#[cold]
fn bring_forward(windows: &mut [SlidingLog], at: usize, length: WindowLength) -> Option<()> {
    let mut behind = windows[at..].iter();
    let behind = behind.position(|log| log.length() == length)?;
    windows.swap(at, at + behind);
    Some(())
}

/// Returns the hits of a window like those of [`SavedValue::Hits`].
pub(crate) fn saved_hits(log: &SlidingLog, clock: &Clock) -> Vec<(Timestamp, u32)> {
    let up = Duration::from_nanos(999_999);
    let saved = |(at, count): (Moment, u32)| (clock.timestamp_at(at.plus(up)), count);
    log.hits().map(saved).collect()
}

/// Restores the result of [`saved_hits`], as far as it still counts.
pub(crate) fn restore_hits(
    log: &mut SlidingLog,
    hits: Vec<(Timestamp, u32)>,
    now: Moment,
    clock: &Clock,
) {
    let today = clock.timestamp_at(now);
    let hits = hits.into_iter();
    let hits = hits.map(|(at, count)| (now.minus(today.since(at)), count));
    log.restore(now, hits);
}

impl Counter {
    fn over(period: Period) -> Self {
        match period {
            Period::Sliding(length) => Self::Window(SlidingLog::new(length)),
            Period::Concurrent => Self::InFlight(0),
            Period::Day | Period::Month | Period::Credits(_) => Self::Balance {
                balance: Balance::default(),
                changed: false,
            },
        }
    }
    #[inline(always)]
    fn as_mut(&mut self) -> CounterMut<'_> {
        match self {
            Self::Window(log) => CounterMut::Window(log),
            Self::Balance { balance, changed } => CounterMut::Balance(balance, changed),
            Self::InFlight(count) => CounterMut::InFlight(count),
        }
    }
}

/// A reference to a counter.
pub(crate) enum CounterMut<'a> {
    Window(&'a mut SlidingLog),
    /// A window that several subjects share, which together have the given multiple of each limit.
    SharedWindow(&'a mut SlidingLog, u64),
    Balance(&'a mut Balance, &'a mut bool),
    InFlight(&'a mut u32),
}

impl CounterMut<'_> {
    /// Brings a balance up to the time: starts another day or month, returns credits, corrects a time that
    /// a wrong clock has set. Returns the same as [`CounterMut::consume`], so that this is stored too:
    /// else every restart would begin with the wrong time again. A balance that was never used is not.
    #[inline(always)]
    pub(crate) fn refresh(&mut self, time: Time<'_>, rule: &Rule) -> bool {
        let Self::Balance(balance, changed) = self else {
            return false;
        };
        let before = **balance;
        balance.used_at(time.timestamp(), rule.limit.period, time.zone);
        let is_changed = **balance != before && before != Balance::default();
        is_changed && !std::mem::replace(*changed, true)
    }

    #[inline(always)]
    pub(crate) fn remaining(&mut self, time: Time<'_>, rule: &Rule) -> u64 {
        let amount = rule.limit.amount.get();
        let used = match self {
            Self::Window(log) => log.used_at(time.now).into(),
            Self::SharedWindow(log, factor) => {
                let used = u64::from(log.used_at(time.now));
                let remaining = shared_amount(amount, *factor).saturating_sub(used);
                return remaining.min(amount);
            }
            Self::Balance(balance, _) => {
                balance.used_at(time.timestamp(), rule.limit.period, time.zone)
            }
            Self::InFlight(count) => u64::from(**count),
        };
        amount.saturating_sub(used)
    }

    /// Consumes a cost that there is room for. Returns whether this is the first change of a balance
    /// since it was stored.
    #[inline(always)]
    pub(crate) fn consume(&mut self, time: Time<'_>, rule: &Rule, cost: NonZeroU32) -> bool {
        match self {
            Self::Window(log) | Self::SharedWindow(log, _) => log.consume(time.now, cost),
            Self::InFlight(count) => **count += 1,
            Self::Balance(balance, changed) => {
                balance.consume(time.timestamp(), rule.limit.period, cost.get().into());
                return !std::mem::replace(*changed, true);
            }
        }
        false
    }

    /// Consumes a cost of a window or a slot whether or not there is room for it.
    #[cfg(feature = "redis")]
    pub(crate) fn charge(&mut self, time: Time<'_>, cost: NonZeroU32) {
        match self {
            Self::Window(log) | Self::SharedWindow(log, _) => {
                log.charge(time.now, cost.get().into());
            }
            Self::InFlight(count) => **count += 1,
            Self::Balance(..) => {}
        }
    }

    /// Returns when `remaining` next grows.
    #[inline(always)]
    pub(crate) fn resets_at(&mut self, time: Time<'_>, rule: &Rule) -> Moment {
        match self {
            Self::Window(log) | Self::SharedWindow(log, _) => log.oldest_leaves_at(time.now),
            Self::Balance(balance, _) => {
                time.after(balance.resets_in(time.timestamp(), rule.limit.period))
            }
            Self::InFlight(_) => Moment::NEVER,
        }
    }

    /// Returns when there will be room for `cost`, which there is not now; [`Moment::NEVER`] if
    /// waiting does not help.
    pub(crate) fn retry_at(&mut self, time: Time<'_>, rule: &Rule, cost: NonZeroU32) -> Moment {
        let limit = rule.limit.amount.get();
        match self {
            Self::Window(log) => log.retry_at(time.now, limit, cost),
            Self::SharedWindow(..) if limit < cost.get().into() => Moment::NEVER,
            Self::SharedWindow(log, factor) => {
                log.retry_at(time.now, shared_amount(limit, *factor), cost)
            }
            Self::Balance(balance, _) => {
                let (now, cost) = (time.timestamp(), cost.get().into());
                time.after(balance.retry_in(now, rule.limit.period, limit, cost))
            }
            Self::InFlight(_) => Moment::NEVER,
        }
    }

    /// Corrects the cost of a request admitted at `at`. Returns the same as [`CounterMut::consume`].
    pub(crate) fn settle(
        &mut self,
        time: Time<'_>,
        rule: &Rule,
        at: Moment,
        reserved: u32,
        actual: u64,
    ) -> bool {
        let less = u64::from(reserved).saturating_sub(actual);
        let more = actual.saturating_sub(reserved.into());
        match self {
            Self::Window(log) | Self::SharedWindow(log, _) if less > 0 => {
                log.refund(time.now, at, less as u32);
            }
            Self::Window(log) | Self::SharedWindow(log, _) => log.charge(time.now, more),
            Self::InFlight(_) => {}
            Self::Balance(balance, changed) => {
                let (period, now) = (rule.limit.period, time.timestamp());
                balance.used_at(now, period, time.zone);
                let admitted = time.clock.timestamp_at(at);
                // A day or month that has ended gets no refund.
                if balance.includes(admitted, period, time.zone) {
                    balance.refund(less);
                }
                if more > 0 {
                    balance.consume(now, period, more);
                }
                return !std::mem::replace(*changed, true);
            }
        }
        false
    }

    /// Ends a request in flight.
    pub(crate) fn release(&mut self) {
        if let Self::InFlight(count) = self {
            **count = count.saturating_sub(1);
        }
    }

    /// Resets the counter, except that requests in flight remain. Returns the same as
    /// [`CounterMut::consume`].
    pub(crate) fn reset(&mut self) -> bool {
        match self {
            Self::Window(log) | Self::SharedWindow(log, _) => {
                **log = SlidingLog::new(log.length());
            }
            Self::InFlight(_) => {}
            Self::Balance(balance, changed) => {
                // The next use determines the end of the period.
                **balance = Balance::default();
                return !std::mem::replace(*changed, true);
            }
        }
        false
    }

    fn is_idle(&mut self, now: Moment) -> bool {
        match self {
            Self::Window(log) | Self::SharedWindow(log, _) => log.used_at(now) == 0,
            Self::Balance(_, changed) => !**changed,
            Self::InFlight(count) => **count == 0,
        }
    }
}

/// The amount of a window of `factor` subjects, as far as a log can count.
fn shared_amount(amount: u64, factor: u64) -> u64 {
    (amount * factor).min(u32::MAX.into())
}
