//! The keys with the most requests.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

/// Ids and requests of the ten keys with the most requests of all time, most first; of equals the
/// lower id first.
///
/// The requests of a key only grow, so a key enters the list by a batch of its own: noting the keys of
/// each batch keeps the list exact.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TopKeys(pub(crate) Vec<(u64, u64)>);

impl TopKeys {
    const LEN: usize = 10;

    /// Notes that `key` has made `requests` requests in total.
    pub(in crate::store) fn note(&mut self, key: u64, requests: u64) {
        // Most keys end here.
        let last = self.0.last().filter(|_| self.0.len() == Self::LEN);
        if last.is_some_and(|&(last, least)| rank(key, requests) > rank(last, least)) {
            return;
        }
        match self.0.iter_mut().find(|(listed, _)| *listed == key) {
            Some(entry) => entry.1 = requests,
            None => self.0.push((key, requests)),
        }
        self.0
            .sort_unstable_by_key(|&(key, requests)| rank(key, requests));
        self.0.truncate(Self::LEN);
    }
}

fn rank(key: u64, requests: u64) -> (Reverse<u64>, u64) {
    (Reverse(requests), key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn top_keys_are_exact(steps in prop::collection::vec((0_u64..30, 1_u64..5), 0..400)) {
            let mut top = TopKeys::default();
            let mut all = std::collections::BTreeMap::new();
            for (key, more) in steps {
                let requests = all.entry(key).or_insert(0);
                *requests += more;
                top.note(key, *requests);
            }
            let mut naive: Vec<(u64, u64)> = all.into_iter().collect();
            naive.sort_by_key(|&(key, requests)| rank(key, requests));
            naive.truncate(TopKeys::LEN);
            prop_assert_eq!(top.0, naive);
        }
    }
}
