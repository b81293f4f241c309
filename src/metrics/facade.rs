//! Output to the recorder of the crate `metrics`.

use ::metrics::{Key, Label, Level, Metadata, Recorder, Unit, with_recorder};

use super::families::families;
use super::family::{Family, Labels, Samples, UNLABELLED};
use crate::keyguard::KeyGuard;

const METADATA: Metadata<'static> = Metadata::new("keyguard", Level::INFO, Some(module_path!()));

impl KeyGuard {
    /// Updates the metrics of this guard in the recorder of the crate `metrics` that is
    /// installed: counters and gauges to their current values, and the histogram
    /// `keyguard_request_duration_seconds` by the requests since the last call.
    ///
    /// Call it before the exporter renders its metrics or, for exporters that push them, regularly. It
    /// reads the store: in async code call it through the runtime's `spawn_blocking`. The guide lists all
    /// metrics. If a process has several guards, collect the metrics of one only: they have no label of
    /// the guard.
    ///
    /// ```
    /// # use keyguard::{Config, KeyGuard};
    /// # let dir = tempfile::tempdir()?;
    /// # let kg = KeyGuard::open(dir.path().join("keyguard.redb"), Config::new("a long random secret"))?;
    /// // let exporter = PrometheusBuilder::new().install_recorder()?;
    /// kg.collect_metrics();
    /// // respond(exporter.render())
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
    pub fn collect_metrics(&self) {
        let mut families = families(&self.inner.measurements());
        families.push(Family::histograms(
            "keyguard_request_duration_seconds",
            "Time from the admission of a request to its response.",
            [(UNLABELLED, self.inner.recorder().take_latencies())],
        ));
        with_recorder(|recorder| {
            for family in families {
                record(recorder, family);
            }
        });
    }
}

fn record(recorder: &dyn Recorder, family: Family) {
    let Family { name, help, .. } = family;
    let unit = unit(name);
    match family.samples {
        Samples::Counter(samples) => {
            recorder.describe_counter(name.into(), unit, help.into());
            for (labels, value) in samples {
                let counter = recorder.register_counter(&key(name, labels), &METADATA);
                counter.absolute(value);
            }
        }
        Samples::Gauge(samples) => {
            recorder.describe_gauge(name.into(), unit, help.into());
            for (labels, value) in samples {
                let gauge = recorder.register_gauge(&key(name, labels), &METADATA);
                gauge.set(value as f64);
            }
        }
        Samples::Histogram(samples) => {
            recorder.describe_histogram(name.into(), unit, help.into());
            for (labels, latencies) in samples {
                let histogram = recorder.register_histogram(&key(name, labels), &METADATA);
                let buckets = latencies.buckets().map(|(_, bucket)| bucket);
                for bucket in buckets.filter(|bucket| bucket.count > 0) {
                    // The mean of a bucket lies in it, and keeps the sum.
                    let mean = bucket.seconds() / bucket.count as f64;
                    let count = usize::try_from(bucket.count).unwrap_or(usize::MAX);
                    histogram.record_many(mean, count);
                }
            }
        }
    }
}

fn key(name: &'static str, labels: Labels) -> Key {
    let labels = labels.into_iter();
    let labels: Vec<Label> = labels
        .map(|(name, value)| Label::new(name, value))
        .collect();
    Key::from_parts(name, labels)
}

fn unit(name: &str) -> Option<Unit> {
    match name {
        _ if name.ends_with("_seconds") => Some(Unit::Seconds),
        _ if name.ends_with("_bytes") => Some(Unit::Bytes),
        _ => None,
    }
}
