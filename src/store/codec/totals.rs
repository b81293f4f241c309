//! Counts.

use serde::{Deserialize, Serialize};

use super::StoreError;
use super::record::{Record, decode, encode};
use crate::model::Reason;
use crate::store::totals::{Activity, Count, Lifetime, Running, Tally, TopKeys};
use crate::time::Timestamp;

/// The numbers of organizations and keys, and the last assigned ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordCounts {
    pub(crate) last_org_id: u64,
    pub(crate) last_key_id: u64,
    pub(crate) orgs: u64,
    pub(crate) keys: u64,
    pub(crate) active_keys: u64,
}

/// Records that are stored as they are, and how errors call them.
macro_rules! stored_as_is {
    ($($record:ty: $what:literal),+) => {$(
        impl Record for $record {
            fn encode(&self) -> Result<Vec<u8>, StoreError> {
                encode(self)
            }

            fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
                decode($what, bytes)
            }
        }
    )+};
}

stored_as_is!(
    RecordCounts: "the counts of records",
    TopKeys: "the list of top keys",
    Count: "a total of a key"
);

#[derive(Serialize, Deserialize)]
struct StoredActivity {
    last_used_at: Option<u64>,
    all_time: Count,
    hour: (u64, Count),
    day: (u64, Count),
}

impl Record for Activity {
    fn encode(&self) -> Result<Vec<u8>, StoreError> {
        encode(&StoredActivity {
            last_used_at: self.last_used_at.map(Timestamp::unix_millis),
            all_time: self.all_time,
            hour: (self.hour.period, self.hour.count),
            day: (self.day.period, self.day.count),
        })
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let stored: StoredActivity = decode("the activity of a key", bytes)?;
        let running = |(period, count)| Running { period, count };
        Ok(Self {
            last_used_at: stored.last_used_at.map(Timestamp::from_unix_millis),
            all_time: stored.all_time,
            hour: running(stored.hour),
            day: running(stored.day),
        })
    }
}

/// Holds only reasons that occurred, so that a new reason is no new format.
#[derive(Serialize, Deserialize)]
struct StoredTally {
    count: Count,
    refused: Vec<(u8, u64)>,
}

impl From<&Tally> for StoredTally {
    fn from(tally: &Tally) -> Self {
        let refused = (0..).zip(tally.refused).filter(|&(_, count)| count > 0);
        Self {
            count: tally.count,
            refused: refused.collect(),
        }
    }
}

impl TryFrom<StoredTally> for Tally {
    type Error = StoreError;

    fn try_from(stored: StoredTally) -> Result<Self, StoreError> {
        let mut refused = [0; Reason::COUNT];
        for (code, count) in stored.refused {
            *refused
                .get_mut(usize::from(code))
                .ok_or_else(|| StoreError::damaged("a total has an unknown reason"))? = count;
        }
        Ok(Self {
            count: stored.count,
            refused,
        })
    }
}

impl Record for Tally {
    fn encode(&self) -> Result<Vec<u8>, StoreError> {
        encode(&StoredTally::from(self))
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        decode::<StoredTally>("a total", bytes)?.try_into()
    }
}

impl Record for Lifetime {
    fn encode(&self) -> Result<Vec<u8>, StoreError> {
        encode(&(StoredTally::from(&self.tally), self.dropped))
    }

    fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let (tally, dropped): (StoredTally, u64) = decode("the total", bytes)?;
        Ok(Self {
            tally: tally.try_into()?,
            dropped,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_reason_reads_back() {
        let mut lifetime = Lifetime::default();
        lifetime.tally.refused[Reason::COUNT - 1] = 9;
        lifetime.dropped = 1 << 40;
        let bytes = lifetime.encode().unwrap();
        assert_eq!(Lifetime::decode(&bytes).unwrap(), lifetime);
    }

    proptest! {
        #[test]
        fn decoding_never_panics(body: Vec<u8>) {
            for bytes in [&body[..], &[&[1], &body[..]].concat()] {
                let _ = RecordCounts::decode(bytes);
                let _ = Activity::decode(bytes);
                let _ = Lifetime::decode(bytes);
                let _ = TopKeys::decode(bytes);
            }
        }
    }
}
