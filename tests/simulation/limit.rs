//! Limits and their counters, without any cleverness.

use keyguard::Reason;

use crate::calendar;
use crate::common::Random;

/// Nanoseconds in a millisecond and in a second.
pub(crate) const MILLI: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000 * MILLI;

/// A reading of the clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// Monotonic time in nanoseconds. It starts late enough for times before the start, and at a whole
    /// grain of every window.
    pub(crate) nanos: u64,
    /// Calendar time in milliseconds since the Unix epoch.
    pub(crate) unix: u64,
}

impl Now {
    /// The start of monotonic time: 400 days.
    pub(crate) const START: u64 = 400 * 86_400 * SECOND;

    /// Calendar time at another moment, by the present calendar.
    pub(crate) fn unix_at(self, nanos: u64) -> u64 {
        let whole_millis = |nanos: u64| match nanos.checked_sub(Self::START) {
            Some(after) => (after / MILLI) as i64,
            None => -(((Self::START - nanos) / MILLI) as i64),
        };
        let difference = whole_millis(nanos) - whole_millis(self.nanos);
        self.unix.saturating_add_signed(difference)
    }
}

/// What a limit counts. Limits of the same kind and mode share a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A window of this many nanoseconds.
    Window(u64),
    Day,
    Month,
    Credits,
    InFlight,
}

#[derive(Clone, Debug)]
pub(crate) struct Limit {
    pub(crate) text: String,
    pub(crate) amount: u64,
    kind: Kind,
    /// Of credits, the refilled amount and its period in milliseconds.
    refill: Option<(u64, u64)>,
    pub(crate) shadow: bool,
}

impl Limit {
    fn new(text: String, amount: u64, kind: Kind) -> Self {
        Self {
            text,
            amount,
            kind,
            refill: None,
            shadow: false,
        }
    }

    pub(crate) fn per_minute(amount: u64) -> Self {
        Self::new(String::new(), amount, Kind::Window(60 * SECOND))
    }

    /// A limit on failed authentications.
    pub(crate) fn per_hour(amount: u64) -> Self {
        Self::new(String::new(), amount, Kind::Window(3_600 * SECOND))
    }

    /// A limit that no world exhausts.
    pub(crate) fn many_per_hour() -> Self {
        let text = "1000000/hour".to_owned();
        Self::new(text, 1_000_000, Kind::Window(3_600 * SECOND))
    }

    /// At most as many limits as a key may have.
    pub(crate) fn random(random: &mut Random) -> Vec<Self> {
        let mut limits = Vec::new();
        for (unit, length) in [
            ("250ms", SECOND / 4),
            ("s", SECOND),
            ("min", 60 * SECOND),
            ("hour", 3_600 * SECOND),
            ("day", 86_400 * SECOND),
        ] {
            if random.one_in(4) {
                let amount = 1 + random.below(30);
                let text = format!("{amount}/{unit}");
                limits.push(Self::new(text, amount, Kind::Window(length)));
            }
        }
        for (name, kind) in [("daily", Kind::Day), ("monthly", Kind::Month)] {
            if random.one_in(4) {
                let amount = 1 + random.below(60);
                limits.push(Self::new(format!("{amount} {name}"), amount, kind));
            }
        }
        if random.one_in(3) {
            let amount = 1 + random.below(60);
            let (back, seconds) = (1 + random.below(5), random.pick(&[1, 7, 60]));
            let text = format!("{amount} credits +{back}/{seconds}s");
            limits.push(Self {
                refill: Some((back, seconds * 1_000)),
                ..Self::new(text, amount, Kind::Credits)
            });
        } else if random.one_in(6) {
            let amount = 50 + random.below(400);
            limits.push(Self::new(
                format!("{amount} credits"),
                amount,
                Kind::Credits,
            ));
        }
        if random.one_in(4) {
            let amount = 1 + random.below(3);
            let text = format!("{amount} concurrent");
            limits.push(Self::new(text, amount, Kind::InFlight));
        }
        limits.truncate(8);
        for limit in &mut limits {
            if random.one_in(6) {
                limit.shadow = true;
                limit.text += " shadow";
            }
        }
        limits
    }

    /// How much a request of this cost takes.
    pub(crate) fn takes(&self, cost: u64) -> u64 {
        match self.kind {
            Kind::InFlight => 1,
            _ => cost,
        }
    }

    /// Why a request is refused that finds no room.
    pub(crate) fn reason(&self) -> Reason {
        match self.kind {
            Kind::Window(_) => Reason::RateLimited,
            Kind::Day | Kind::Month => Reason::QuotaExhausted,
            Kind::Credits => Reason::CreditsExhausted,
            Kind::InFlight => Reason::TooManyConcurrent,
        }
    }

    /// Whether `remaining` of a grant may be that of this limit.
    pub(crate) fn is_shown(&self) -> bool {
        !self.shadow && self.kind != Kind::InFlight
    }

    pub(crate) fn counter(&self) -> CounterId {
        (self.kind, self.shadow)
    }
}

pub(crate) type CounterId = (Kind, bool);

#[derive(Clone, Debug)]
struct Hit {
    at: u64,
    count: u64,
    request: u64,
}

#[derive(Clone, Debug)]
struct Counter {
    id: CounterId,
    /// Of a window.
    hits: Vec<Hit>,
    /// The amount used of a quota or of credits, or the number of requests in flight.
    used: u64,
    /// The end of the day or month, or the start of the refill, in milliseconds since the Unix epoch.
    mark: u64,
    /// Whether nothing was taken since it was created or reset. It is not stored then.
    is_unused: bool,
}

impl Counter {
    /// The amount that counts now.
    fn used(&mut self, refill: Option<(u64, u64)>, now: Now) -> u64 {
        match self.id.0 {
            Kind::Window(length) => {
                // A hit counts from the end of its grain.
                self.hits
                    .retain(|hit| rounded(hit.at, length) + length > now.nanos);
                return self.hits.iter().map(|hit| hit.count).sum();
            }
            Kind::Day => self.follow(now, calendar::end_of_day, 26 * calendar::HOUR),
            Kind::Month => {
                let longest = 31 * calendar::DAY + 2 * calendar::HOUR;
                self.follow(now, calendar::end_of_month, longest);
            }
            Kind::Credits => {
                if let Some((back, every)) = refill {
                    // A start that lies ahead is from a wrong clock.
                    self.mark = self.mark.min(now.unix);
                    while self.used > 0 && self.mark + every <= now.unix {
                        self.mark += every;
                        self.used = self.used.saturating_sub(back);
                    }
                }
            }
            Kind::InFlight => {}
        }
        self.used
    }

    /// Starts another day or month, or corrects an end that a wrong clock has set.
    fn follow(&mut self, now: Now, end: fn(u64) -> u64, longest: u64) {
        if now.unix >= self.mark {
            self.used = 0;
            self.mark = end(now.unix);
        } else if self.mark > now.unix + longest {
            self.mark = end(now.unix);
        }
    }

    fn take(&mut self, now: Now, count: u64, request: u64) {
        self.is_unused = false;
        match self.id.0 {
            Kind::Window(_) => self.hits.push(Hit {
                at: now.nanos,
                count,
                request,
            }),
            Kind::Credits if self.used == 0 => {
                self.mark = now.unix;
                self.used = count;
            }
            _ => self.used += count,
        }
    }

    /// Corrects the cost of a request.
    fn settle(&mut self, refill: Option<(u64, u64)>, now: Now, admitted: Admitted, actual: u64) {
        let Admitted { at, cost, request } = admitted;
        let kind = self.id.0;
        self.used(refill, now);
        if kind == Kind::InFlight {
            return;
        }
        if actual > cost {
            return self.take(now, actual - cost, request);
        }
        let (less, then) = (cost - actual, now.unix_at(at));
        let still_counts = match kind {
            Kind::Day => calendar::end_of_day(then) >= self.mark,
            Kind::Month => calendar::end_of_month(then) >= self.mark,
            _ => true,
        };
        if still_counts {
            self.used = self.used.saturating_sub(less);
        }
        for hit in &mut self.hits {
            if hit.request == request {
                hit.count -= less;
            }
        }
        self.hits.retain(|hit| hit.count > 0);
    }
}

/// The end of the grain of a time in a window.
fn rounded(at: u64, length: u64) -> u64 {
    let grain = MILLI.max(length.div_ceil(60_000));
    at.div_ceil(grain) * grain
}

/// An admitted request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admitted {
    pub(crate) at: u64,
    pub(crate) cost: u64,
    pub(crate) request: u64,
}

/// The counters that a request took from, with the refills of their limits.
pub(crate) type Taken = Vec<(CounterId, Option<(u64, u64)>)>;

/// The hits of a window as they are stored: calendar times and counts.
type SavedHits = Vec<(u64, u64)>;

/// A key, an organization or an address, with its limits and counters.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subject {
    /// One for each counter.
    pub(crate) limits: Vec<Limit>,
    counters: Vec<Counter>,
    /// The windows that the last orderly stop has stored.
    saved: Vec<(CounterId, SavedHits)>,
}

impl Subject {
    /// Replaces the limits. Of limits with the same counter, the tightest is enforced.
    pub(crate) fn set_limits(&mut self, limits: impl IntoIterator<Item = Limit>) {
        self.limits.clear();
        for limit in limits {
            let mut known = self.limits.iter_mut();
            match known.find(|known| known.counter() == limit.counter()) {
                Some(known) if limit.amount < known.amount => *known = limit,
                Some(_) => {}
                None => self.limits.push(limit),
            }
        }
    }

    /// How much more each limit admits, in the order of the limits.
    pub(crate) fn remaining(&mut self, now: Now) -> Vec<u64> {
        let Self {
            limits, counters, ..
        } = self;
        let remaining = limits.iter().map(|limit| {
            let used = counter(counters, limit.counter()).used(limit.refill, now);
            limit.amount.saturating_sub(used)
        });
        remaining.collect()
    }

    /// Takes the cost of a request from every limit that has room.
    pub(crate) fn take(&mut self, now: Now, cost: u64, request: u64) -> Taken {
        let mut taken = Taken::new();
        let remaining = self.remaining(now);
        for (limit, remaining) in self.limits.iter().zip(remaining) {
            let count = limit.takes(cost);
            if count <= remaining {
                counter(&mut self.counters, limit.counter()).take(now, count, request);
                taken.push((limit.counter(), limit.refill));
            }
        }
        taken
    }

    pub(crate) fn settle(&mut self, now: Now, taken: &Taken, admitted: Admitted, actual: u64) {
        for &(id, refill) in taken {
            counter(&mut self.counters, id).settle(refill, now, admitted, actual);
        }
    }

    /// Ends a request in flight.
    pub(crate) fn release(&mut self, taken: &Taken) {
        for &(id, _) in taken
            .iter()
            .filter(|((kind, _), _)| *kind == Kind::InFlight)
        {
            counter(&mut self.counters, id).used -= 1;
        }
    }

    /// Resets the counters of the present limits, except requests in flight.
    pub(crate) fn reset(&mut self) {
        for limit in &self.limits {
            let counter = counter(&mut self.counters, limit.counter());
            if counter.id.0 != Kind::InFlight {
                (counter.used, counter.mark, counter.is_unused) = (0, 0, true);
                counter.hits.clear();
            }
        }
    }

    /// Forgets the windows that the last orderly stop has stored.
    pub(crate) fn forget_saved(&mut self) {
        self.saved.clear();
    }

    /// An orderly stop: stores the windows that count. Windows that were stored before and count nothing
    /// now stay stored while their hits are recent by the calendar.
    pub(crate) fn stop(&mut self, now: Now) {
        let mut saved = Vec::new();
        for counter in &mut self.counters {
            if let Kind::Window(length) = counter.id.0
                && counter.used(None, now) > 0
            {
                let hits = counter.hits.iter();
                let hits = hits.map(|hit| (now.unix_at(rounded(hit.at, length)), hit.count));
                saved.push((counter.id, hits.collect()));
            }
        }
        let is_recent = |((kind, _), hits): &(CounterId, SavedHits)| match (kind, hits.last()) {
            (Kind::Window(length), Some((at, _))) => {
                let length = length / MILLI;
                at + length > now.unix && *at <= now.unix + length
            }
            _ => false,
        };
        if !saved.is_empty() || !self.saved.iter().any(is_recent) {
            self.saved = saved;
        }
    }

    /// A start: windows are as the last orderly stop has stored them, and nothing is in flight.
    pub(crate) fn start(&mut self, now: Now) {
        for counter in &mut self.counters {
            counter.hits.clear();
            if counter.id.0 == Kind::InFlight {
                counter.used = 0;
            }
            if counter.is_unused {
                counter.mark = 0;
            }
        }
        for (id, hits) in &self.saved {
            let restored = hits.iter().map(|(at, count)| Hit {
                at: now
                    .nanos
                    .saturating_sub(now.unix.saturating_sub(*at) * MILLI),
                count: *count,
                request: u64::MAX,
            });
            counter(&mut self.counters, *id).hits = restored.collect();
        }
    }
}

fn counter(counters: &mut Vec<Counter>, id: CounterId) -> &mut Counter {
    let at = counters.iter().position(|counter| counter.id == id);
    let at = at.unwrap_or_else(|| {
        counters.push(Counter {
            id,
            hits: Vec::new(),
            used: 0,
            mark: 0,
            is_unused: true,
        });
        counters.len() - 1
    });
    &mut counters[at]
}
