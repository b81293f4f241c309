//! Limits that are known to have no room, so that nobody needs to be asked about them.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

use foldhash::quality::RandomState;
use parking_lot::Mutex;

use super::Level;
use crate::clock::Moment;
use crate::limit::{Limit, Span};

/// How many are remembered at most.
const CAPACITY: usize = 65_536;

/// For how long a refusal is taken from memory: another node may make room before that is due.
const TRUSTED_FOR: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Exhausted {
    known: Mutex<HashMap<String, Known, RandomState>>,
}

#[derive(Clone, Copy)]
struct Known {
    amount: u64,
    cost: NonZeroU32,
    until: Moment,
    grows_at: Moment,
    room_at: Moment,
}

impl Exhausted {
    /// When a limit grows and when it has room, if it is known to have none for `cost` now.
    pub(super) fn find(
        &self,
        key: &str,
        limit: Limit,
        cost: NonZeroU32,
        now: Moment,
    ) -> Option<(Moment, Moment)> {
        let mut all = self.known.lock();
        let known = *all.get(key)?;
        if now >= known.until {
            all.remove(key);
            return None;
        }
        let refuses = limit.amount.get() == known.amount && cost == known.cost;
        refuses.then_some((known.grows_at, known.room_at))
    }

    /// Remembers a refusal. Only a limit that nothing is left of is remembered, so that what is shown
    /// of it stays true.
    pub(super) fn note(
        &self,
        key: &str,
        limit: Limit,
        cost: NonZeroU32,
        level: Level,
        room_at: Moment,
    ) {
        // A slot may be free again at any time.
        if limit.span == Span::Concurrent || level.remaining > 0 {
            return;
        }
        let known = Known {
            amount: limit.amount.get(),
            cost,
            until: room_at.min(level.grows_at).min(level.at.plus(TRUSTED_FOR)),
            grows_at: level.grows_at,
            room_at,
        };
        let mut all = self.known.lock();
        if all.len() >= CAPACITY {
            all.retain(|_, known| known.until > level.at);
        }
        if all.len() < CAPACITY {
            all.insert(key.to_owned(), known);
        }
    }

    /// Forgets all whose key starts so.
    pub(super) fn forget_all(&self, start: &str) {
        self.known.lock().retain(|key, _| !key.starts_with(start));
    }

    /// Something was given back.
    pub(super) fn forget(&self, key: &str) {
        self.known.lock().remove(key);
    }
}
