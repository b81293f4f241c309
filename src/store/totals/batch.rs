//! The totals of one batch of usage.

use std::collections::BTreeMap;

use foldhash::quality::RandomState;
use hashbrown::HashMap;
use smallvec::SmallVec;

use super::{Count, Minute, Tally};
use crate::model::KeyId;
use crate::store::{UsageBatch, UsageEvent};
use crate::time::Timestamp;

/// The additions of a batch to the totals.
pub(in crate::store) struct BatchTotals {
    /// By id.
    pub(in crate::store) keys: Vec<(KeyId, KeyTotals)>,
    pub(in crate::store) minutes: BTreeMap<Minute, Tally>,
    /// The sum of all minutes.
    pub(in crate::store) all: Tally,
}

/// The additions of a batch to the totals of one key.
#[derive(Default)]
pub(in crate::store) struct KeyTotals {
    /// When the key was last admitted.
    pub(in crate::store) last_used_at: Option<Timestamp>,
    /// By hour, in order of occurrence. Nearly always one.
    pub(in crate::store) hours: SmallVec<[(u64, Count); 1]>,
}

impl BatchTotals {
    pub(in crate::store) fn new(batch: &UsageBatch) -> Self {
        let mut keys: HashMap<KeyId, KeyTotals, RandomState> = HashMap::default();
        let mut minutes: BTreeMap<Minute, Tally> = BTreeMap::new();
        // Runs of events in one minute look the minute up once.
        for events in batch.events.chunk_by(|a, b| a.at.minute() == b.at.minute()) {
            let Some(first) = events.first() else {
                continue;
            };
            let tally = minutes.entry(first.at.minute()).or_default();
            for event in events {
                let count = count_of(event);
                tally.count.add(count);
                if let Some(reason) = event.refused {
                    tally.refused[reason as usize] += 1;
                }
                keys.entry(event.key_id).or_default().add(event, count);
            }
        }
        for (minute, refused) in &batch.refusals {
            let requests = refused.iter().sum();
            minutes.entry(*minute).or_default().add(&Tally {
                count: Count {
                    requests,
                    errors: requests,
                },
                refused: *refused,
            });
        }
        let mut all = Tally::default();
        minutes.values().for_each(|tally| all.add(tally));
        // Neighbours share a page, and all processes lock rows in one order.
        let mut keys: Vec<_> = keys.into_iter().collect();
        keys.sort_unstable_by_key(|(key, _)| *key);
        Self { keys, minutes, all }
    }
}

impl KeyTotals {
    fn add(&mut self, event: &UsageEvent, count: Count) {
        if event.refused.is_none() {
            self.last_used_at = self.last_used_at.max(Some(event.at));
        }
        let hour = event.at.hour();
        match self.hours.iter_mut().find(|(of, _)| *of == hour) {
            Some((_, sum)) => sum.add(count),
            None => self.hours.push((hour, count)),
        }
    }

    /// The sum over all hours.
    #[cfg(feature = "postgres")]
    pub(in crate::store) fn sum(&self) -> Count {
        let mut sum = Count::default();
        self.hours.iter().for_each(|(_, count)| sum.add(*count));
        sum
    }
}

fn count_of(event: &UsageEvent) -> Count {
    Count {
        requests: 1,
        errors: u64::from(event.refused.is_some() || event.status >= 400),
    }
}

/// Returns the name under which a refusal in shadow mode is counted. Beyond 1,000 names, new ones are
/// counted as `others`.
pub(in crate::store) fn shadow_name(name: &str, is_known: bool, names: u64) -> &str {
    const MOST_NAMES: u64 = 1_000;
    match is_known || names < MOST_NAMES {
        true => name,
        false => "others",
    }
}
