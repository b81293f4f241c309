//! Calls of the script `counters.lua` and their replies.

use std::num::NonZeroU32;

use super::client::NoReply;
use crate::limit::{Balance, Limit, Period};
use crate::time::{Clock, Moment, TimeZone, Timestamp};

/// How long slots belong to a node after it last reported them, in microseconds.
const LEASE: u64 = 4_000_000;

/// The largest number that the script counts exactly.
const MAX_EXACT: i64 = 1 << 53;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Admit,
    Peek,
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
            Self::Peek => "peek",
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
pub(super) struct ScriptCall {
    pub(super) action: Action,
    /// The time of the call in microseconds; 0 to use the clock of the server.
    pub(super) now: u64,
    /// The amount to consume; to settle, the correction, below zero for a refund.
    pub(super) cost: i64,
    /// When the settled request was admitted, by the clock of the server.
    pub(super) admitted_at: u64,
    pub(super) counters: Vec<CounterArgs>,
}

impl ScriptCall {
    /// A call at the time of the server.
    pub(super) fn new(action: Action, cost: i64, counters: Vec<CounterArgs>) -> Self {
        Self {
            action,
            now: 0,
            cost: cost.min(MAX_EXACT),
            admitted_at: 0,
            counters,
        }
    }

    pub(super) fn command(&self, script: &redis::Script, node: &str) -> redis::Cmd {
        let count = self.counters.len();
        let mut command = redis::Cmd::with_capacity(8 + 8 * count, 128 + 128 * count);
        command.arg("EVALSHA").arg(script.get_hash()).arg(count);
        for counter in &self.counters {
            command.arg(&counter.key);
        }
        let name = self.action.name();
        command.arg(name).arg(self.now).arg(self.cost);
        command.arg(node).arg(self.admitted_at);
        for counter in &self.counters {
            counter.write(&mut command);
        }
        command
    }

    /// The keys of the counters of requests in flight.
    pub(super) fn slots(&self) -> impl Iterator<Item = &str> {
        let slots = self.counters.iter().filter(|counter| counter.is_slots());
        slots.map(|counter| &*counter.key)
    }

    /// The keys under which this admission took a slot.
    pub(super) fn taken_slots<'a>(
        &'a self,
        reply: &'a ScriptReply,
    ) -> impl Iterator<Item = &'a str> {
        let is_admitted = self.action == Action::Admit && reply.is_admitted;
        let all = self.counters.iter().zip(&reply.counters);
        all.filter(move |(args, reply)| is_admitted && args.is_slots() && reply.has_room())
            .map(|(args, _)| &*args.key)
    }
}

/// The arguments of one counter.
#[derive(Clone, Debug)]
pub(super) struct CounterArgs {
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
    /// The ends of this day or month, of the next one, and of that of the settled request.
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
    /// The keys of all counters of an address, kept for so many microseconds.
    Index {
        length: u64,
    },
}

/// Determines the days and months of quotas.
#[derive(Clone, Copy)]
pub(super) struct Calendar<'a> {
    pub(super) now: Timestamp,
    pub(super) admitted_at: Timestamp,
    pub(super) zone: &'a TimeZone,
}

impl CounterArgs {
    /// `seed` is the balance as this process knows it, for a counter that Redis does not have.
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

    /// A counter of requests in flight.
    pub(super) fn slots(key: String) -> Self {
        Self {
            key,
            kind: Kind::Slots,
            amount: 0,
            shadow: false,
        }
    }

    /// The index of the `others`.
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

    fn is_slots(&self) -> bool {
        self.kind == Kind::Slots
    }

    fn write(&self, command: &mut redis::Cmd) {
        let text = |seed: Balance| format!("{}:{}:0", seed.used(), seed.at().unix_millis());
        let (kind, a, b, c, d) = match self.kind {
            Kind::Window { length, grain } => ("w", length, grain, String::new(), 0),
            Kind::Quota { ends, seed } => {
                let [end, next, admitted] = ends.map(Timestamp::unix_millis);
                ("q", end, next, text(seed), admitted)
            }
            Kind::Credits {
                amount,
                millis,
                seed,
            } => ("c", amount, millis, text(seed), 0),
            Kind::Slots => ("s", LEASE, 0, String::new(), 0),
            Kind::Index { length } => ("i", length, 0, String::new(), 0),
        };
        command.arg(kind).arg(self.amount);
        command.arg(u8::from(self.shadow));
        command.arg(a).arg(b).arg(c).arg(d);
    }
}

/// The reply of the script. Times are in microseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct ScriptReply {
    /// By the clock of the server.
    pub(super) at: u64,
    pub(super) is_admitted: bool,
    pub(super) counters: Vec<CounterReply>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct CounterReply {
    pub(super) remaining: u64,
    /// `None` for never.
    pub(super) resets_in: Option<u64>,
    /// `None` for never; 0 if there was room.
    pub(super) retry_in: Option<u64>,
    pub(super) balance: Balance,
}

impl CounterReply {
    pub(super) fn has_room(&self) -> bool {
        self.retry_in == Some(0)
    }
}

impl ScriptReply {
    /// Adjusts a clock to that of the server, which was called at a moment.
    pub(super) fn sync(&self, clock: &Clock, called_at: Moment) {
        clock.follow(Timestamp::from_unix_millis(self.at / 1_000), called_at);
    }

    pub(super) fn parse(values: &[i64]) -> Result<Self, NoReply> {
        let [at, is_admitted, counters @ ..] = values else {
            return Err(NoReply);
        };
        let unsigned = |value: i64| u64::try_from(value).ok();
        let (counters, []) = counters.as_chunks::<5>() else {
            return Err(NoReply);
        };
        let counters = counters.iter().map(|values| {
            Some(CounterReply {
                remaining: unsigned(values[0])?,
                resets_in: unsigned(values[1]),
                retry_in: unsigned(values[2]),
                balance: Balance::stored(
                    unsigned(values[3])?,
                    Timestamp::from_unix_millis(unsigned(values[4])?),
                ),
            })
        });
        Ok(Self {
            at: unsigned(*at).ok_or(NoReply)?,
            is_admitted: match is_admitted {
                0 => false,
                1 => true,
                _ => return Err(NoReply),
            },
            counters: counters.collect::<Option<_>>().ok_or(NoReply)?,
        })
    }
}

/// Returns a cost in the numbers of the script.
pub(super) fn signed(cost: NonZeroU32) -> i64 {
    cost.get().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_replies_are_none() {
        let counter = [1, -1, 0, 1, 0];
        let reply = |head: &[i64], counters: &[i64]| ScriptReply::parse(&[head, counters].concat());
        assert!(reply(&[0, 1], &[]).is_ok());
        assert!(reply(&[0, 0], &[counter, counter].concat()).is_ok());
        let malformed: [(&[i64], &[i64]); 8] = [
            (&[], &[]),
            (&[0], &[]),
            (&[-1, 1], &counter),
            (&[0, 2], &counter),
            (&[0, 1], &counter[..4]),
            (&[0, 1], &[1, -1, 0, 1, 0, 7]),
            (&[0, 1], &[-1, -1, 0, 1, 0]),
            (&[0, 1], &[1, -1, 0, -1, 0]),
        ];
        for (head, counters) in malformed {
            assert!(reply(head, counters).is_err(), "{head:?} {counters:?}");
        }
    }
}
