//! Counts of decisions for metrics.

use std::collections::BTreeMap;

#[cfg(feature = "metrics")]
use crate::model::Latencies;
use crate::model::Reason;
use crate::store::{Minute, UsageBatch, UsageEvent};

/// The largest number of names of rules.
const MAX_RULES: usize = 1_000;

/// Decisions since the guard was opened.
#[derive(Clone, Debug, Default)]
pub(crate) struct DecisionCounts {
    pub(crate) admitted: u64,
    /// By the code of the reason.
    pub(crate) refused: [u64; Reason::COUNT],
    /// Refusals by rules in shadow mode, by the name of the rule. Beyond [`MAX_RULES`], further ones are
    /// counted as `others`.
    pub(crate) shadow_denied: BTreeMap<String, u64>,
    /// Requests that were not recorded or not passed to the sink.
    pub(crate) dropped: u64,
    /// Failed attempts to store usage.
    pub(crate) write_failures: u64,
    /// Times from admission to response, since they were last taken.
    #[cfg(feature = "metrics")]
    pub(super) latencies: Latencies,
}

impl DecisionCounts {
    /// Adds what the writer has collected.
    pub(super) fn add(&mut self, batch: &UsageBatch) {
        for event in &batch.events {
            match event.refused {
                Some(reason) => self.refused[reason as usize] += 1,
                None => self.add_admitted(event),
            }
        }
        self.add_counts(&batch.refusals, &batch.shadow_denied, batch.dropped);
    }

    /// Adds what was counted without an event.
    pub(super) fn add_counts(
        &mut self,
        refusals: &[(Minute, [u64; Reason::COUNT])],
        shadow_denied: &[(String, u64)],
        dropped: u64,
    ) {
        for (_, refused) in refusals {
            for (sum, more) in self.refused.iter_mut().zip(refused) {
                *sum += more;
            }
        }
        for (rule, more) in shadow_denied {
            let has_room = self.shadow_denied.len() < MAX_RULES;
            let name = match has_room || self.shadow_denied.contains_key(rule) {
                true => rule.as_str(),
                false => "others",
            };
            *self.shadow_denied.entry(name.to_owned()).or_default() += more;
        }
        self.dropped += dropped;
    }

    #[cfg_attr(not(feature = "metrics"), allow(unused_variables))]
    fn add_admitted(&mut self, event: &UsageEvent) {
        self.admitted += 1;
        #[cfg(feature = "metrics")]
        let latency = std::time::Duration::from_micros(event.latency_micros.into());
        #[cfg(feature = "metrics")]
        self.latencies.add(latency);
    }
}
