//! Distribution of latencies.

use std::time::Duration;

/// The upper bounds of the buckets, in microseconds.
const BOUNDS: [u64; 18] = [
    25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// A histogram of latencies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Latencies([Bucket; BOUNDS.len() + 1]);

/// The latencies above the bound of the bucket before, up to the bound of this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bucket {
    pub(crate) count: u64,
    /// The sum of the latencies.
    pub(crate) nanos: u64,
}

impl Latencies {
    #[inline]
    pub(crate) fn add(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let at = BOUNDS.partition_point(|bound| bound * 1_000 < nanos);
        self.0[at].add(Bucket { count: 1, nanos });
    }

    #[cfg(any(feature = "serve", test))]
    pub(crate) fn merge(&mut self, other: &Self) {
        for (bucket, more) in self.0.iter_mut().zip(other.0) {
            bucket.add(more);
        }
    }

    /// Returns the buckets, each with its upper bound in seconds; that of the last one is infinite.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (f64, Bucket)> {
        let bounds = BOUNDS.iter().map(|micros| *micros as f64 / 1e6);
        bounds.chain([f64::INFINITY]).zip(self.0)
    }
}

impl Bucket {
    fn add(&mut self, other: Self) {
        self.count = self.count.saturating_add(other.count);
        self.nanos = self.nanos.saturating_add(other.nanos);
    }

    /// The sum of the latencies in seconds.
    pub(crate) fn seconds(self) -> f64 {
        self.nanos as f64 / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let mut latencies = Latencies::default();
        for nanos in [0, 25_000, 25_001, 10_000_000_000, 10_000_000_001, u64::MAX] {
            latencies.add(Duration::from_nanos(nanos));
        }
        let filled = latencies.buckets().filter(|(_, bucket)| bucket.count > 0);
        let filled: Vec<_> = filled
            .map(|(bound, bucket)| (bound, bucket.count))
            .collect();
        let expected = [(25e-6, 2), (50e-6, 1), (10.0, 1), (f64::INFINITY, 2)];
        assert_eq!(filled, expected);
    }

    #[test]
    fn merging_adds_counts_and_sums() {
        let (mut one, mut both) = (Latencies::default(), Latencies::default());
        for millis in [1, 20, 300] {
            one.add(Duration::from_millis(millis));
            both.add(Duration::from_millis(millis));
            both.add(Duration::from_millis(millis));
        }
        let other = one.clone();
        one.merge(&other);
        assert_eq!(one, both);
        let sum: f64 = one.buckets().map(|(_, bucket)| bucket.seconds()).sum();
        assert!((sum - 0.642).abs() < 1e-9, "{sum}");
    }
}
