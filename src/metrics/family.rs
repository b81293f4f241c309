//! Metrics of one name.

use crate::model::Latencies;

/// Metrics that differ in their labels only.
pub(crate) struct Family {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) samples: Samples,
}

pub(super) enum Samples {
    Counter(Vec<(Labels, u64)>),
    Gauge(Vec<(Labels, u64)>),
    Histogram(Vec<(Labels, Latencies)>),
}

/// Names and values.
pub(crate) type Labels = Vec<(&'static str, String)>;

/// The labels of a metric without any.
pub(super) const UNLABELLED: Labels = Labels::new();

impl Family {
    /// A family of one counter.
    pub(crate) fn counter(name: &'static str, help: &'static str, value: u64) -> Self {
        Self::counters(name, help, [(UNLABELLED, value)])
    }

    pub(crate) fn counters(
        name: &'static str,
        help: &'static str,
        samples: impl IntoIterator<Item = (Labels, u64)>,
    ) -> Self {
        let samples = Samples::Counter(samples.into_iter().collect());
        Self {
            name,
            help,
            samples,
        }
    }

    /// A family of one gauge.
    pub(crate) fn gauge(name: &'static str, help: &'static str, value: u64) -> Self {
        Self::gauges(name, help, [(UNLABELLED, value)])
    }

    pub(super) fn gauges(
        name: &'static str,
        help: &'static str,
        samples: impl IntoIterator<Item = (Labels, u64)>,
    ) -> Self {
        let samples = Samples::Gauge(samples.into_iter().collect());
        Self {
            name,
            help,
            samples,
        }
    }

    pub(crate) fn histograms(
        name: &'static str,
        help: &'static str,
        samples: impl IntoIterator<Item = (Labels, Latencies)>,
    ) -> Self {
        let samples = Samples::Histogram(samples.into_iter().collect());
        Self {
            name,
            help,
            samples,
        }
    }
}
