//! What is asked of the script `counters.lua`, and what it answers.

use std::num::NonZeroU32;

use super::link::Failed;
use crate::limit::Balance;
use crate::limit::{Limit, Period};
use crate::time::TimeZone;
use crate::time::{Clock, Moment, Timestamp};

/// For how long slots are a node's without its saying so again, in microseconds.
const LEASE: u64 = 4_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Admit,
    Look,
    Settle,
    Reset,
    Release,
    Renew,
    Extend,
    Forget,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Look => "look",
            Self::Settle => "settle",
            Self::Reset => "reset",
            Self::Release => "release",
            Self::Renew => "renew",
            Self::Extend => "extend",
            Self::Forget => "forget",
        }
    }
}

/// One run of the script over counters of one group.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) action: Action,
    /// Microseconds; 0 for the clock of the server.
    pub(super) now: u64,
    /// What is consumed, or settled: below zero to give back.
    pub(super) cost: i64,
    /// When what is settled was admitted, by the clock of the server.
    pub(super) admitted_at: u64,
    pub(super) counters: Vec<Counter>,
}

#[derive(Clone, Debug)]
pub(super) struct Counter {
    pub(super) key: String,
    kind: Kind,
    amount: u64,
    shadow: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Window {
        length: u64,
        grain: u64,
    },
    /// When the day or month ends, the next one, and that of what is settled.
    Quota {
        ends: [Timestamp; 3],
        seed: Balance,
    },
    Credits {
        amount: u64,
        millis: u64,
        seed: Balance,
    },
    Slots,
    /// The names of all counters, for so many microseconds.
    Index {
        length: u64,
    },
}

/// By which days and months quotas are counted.
#[derive(Clone, Copy)]
pub(super) struct Calendar<'a> {
    pub(super) now: Timestamp,
    pub(super) admitted_at: Timestamp,
    pub(super) zone: &'a TimeZone,
}

impl Counter {
    /// A counter, and its balance as far as this process knows.
    pub(super) fn new(key: String, limit: Limit, seed: Balance, calendar: Calendar<'_>) -> Self {
        let Calendar {
            now,
            admitted_at,
            zone,
        } = calendar;
        let kind = match limit.period {
            Period::Sliding(length) => Kind::Window {
                length: length.nanos().div_ceil(1_000),
                grain: length.grain_nanos().div_ceil(1_000),
            },
            Period::Day => {
                let end = zone.end_of_day(now);
                let ends = [end, zone.end_of_day(end), zone.end_of_day(admitted_at)];
                Kind::Quota { ends, seed }
            }
            Period::Month => {
                let end = zone.end_of_month(now);
                let ends = [end, zone.end_of_month(end), zone.end_of_month(admitted_at)];
                Kind::Quota { ends, seed }
            }
            Period::Credits(refill) => Kind::Credits {
                amount: refill.map_or(0, |refill| refill.amount.get().into()),
                millis: refill.map_or(1, |refill| refill.millis.get()),
                seed,
            },
            Period::Concurrent => Kind::Slots,
        };
        Self {
            key,
            kind,
            amount: limit.amount.get(),
            shadow: limit.shadow,
        }
    }

    /// One of requests in flight.
    pub(super) fn slots(key: String) -> Self {
        Self {
            key,
            kind: Kind::Slots,
            amount: 0,
            shadow: false,
        }
    }

    /// The names of the `others`.
    pub(super) fn index(key: String, others: &[Self]) -> Self {
        let lengths = others.iter().map(|counter| match counter.kind {
            Kind::Window { length, .. } => length,
            _ => 0,
        });
        Self {
            kind: Kind::Index {
                length: lengths.max().unwrap_or_default(),
            },
            ..Self::slots(key)
        }
    }

    pub(super) fn is_slots(&self) -> bool {
        self.kind == Kind::Slots
    }

    fn write(&self, run: &mut redis::Cmd) {
        let seed = |seed: Balance| format!("{}:{}:0", seed.used(), seed.at().unix_millis());
        let (kind, a, b, c, d) = match self.kind {
            Kind::Window { length, grain } => ("w", length, grain, String::new(), 0),
            Kind::Quota { ends, seed: from } => {
                let [end, next, admitted] = ends.map(Timestamp::unix_millis);
                ("q", end, next, seed(from), admitted)
            }
            Kind::Credits {
                amount,
                millis,
                seed: from,
            } => ("c", amount, millis, seed(from), 0),
            Kind::Slots => ("s", LEASE, 0, String::new(), 0),
            Kind::Index { length } => ("i", length, 0, String::new(), 0),
        };
        run.arg(kind).arg(self.amount).arg(u8::from(self.shadow));
        run.arg(a).arg(b).arg(c).arg(d);
    }
}

impl Call {
    pub(super) fn write(&self, script: &redis::Script, node: &str) -> redis::Cmd {
        let count = self.counters.len();
        let mut run = redis::Cmd::with_capacity(8 + 8 * count, 128 + 128 * count);
        run.arg("EVALSHA").arg(script.get_hash()).arg(count);
        for counter in &self.counters {
            run.arg(&counter.key);
        }
        run.arg(self.action.name()).arg(self.now).arg(self.cost);
        run.arg(node).arg(self.admitted_at);
        for counter in &self.counters {
            counter.write(&mut run);
        }
        run
    }

    /// The counters of requests in flight that an admission takes a slot of.
    pub(super) fn slots(&self) -> impl Iterator<Item = (usize, &str)> {
        let all = self.counters.iter().enumerate();
        all.filter(|(_, counter)| counter.is_slots())
            .map(|(index, counter)| (index, &*counter.key))
    }
}

/// What the script answers. Times are in microseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    /// By the clock of the server.
    pub(super) at: u64,
    pub(super) is_admitted: bool,
    pub(super) standings: Vec<CounterReply>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct CounterReply {
    pub(super) remaining: u64,
    /// `None` for never.
    pub(super) grows_in: Option<u64>,
    /// `None` for never; 0 if there was room.
    pub(super) room_in: Option<u64>,
    pub(super) balance: Balance,
}

impl CounterReply {
    pub(super) fn has_room(&self) -> bool {
        self.room_in == Some(0)
    }
}

impl Answer {
    /// Has a clock follow that of the server, which was asked at a moment.
    pub(super) fn lead(&self, clock: &Clock, asked: Moment) {
        clock.follow(Timestamp::from_unix_millis(self.at / 1_000), asked);
    }

    pub(super) fn read(values: &[i64]) -> Result<Self, Failed> {
        let [at, is_admitted, standings @ ..] = values else {
            return Err(Failed);
        };
        let unsigned = |value: i64| u64::try_from(value).ok();
        let standings = standings.chunks_exact(5).map(|values| {
            Some(CounterReply {
                remaining: unsigned(values[0])?,
                grows_in: unsigned(values[1]),
                room_in: unsigned(values[2]),
                balance: Balance::stored(
                    unsigned(values[3])?,
                    Timestamp::from_unix_millis(unsigned(values[4])?),
                ),
            })
        });
        Ok(Self {
            at: unsigned(*at).ok_or(Failed)?,
            is_admitted: *is_admitted == 1,
            standings: standings.collect::<Option<_>>().ok_or(Failed)?,
        })
    }
}

/// What a request takes of a counter, as the script counts it.
pub(super) fn signed(cost: NonZeroU32) -> i64 {
    cost.get().into()
}
