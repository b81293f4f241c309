//! Metrics in the recorder of the crate `metrics` (feature `metrics`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::metrics::{
    Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit,
    with_local_recorder,
};
use parking_lot::Mutex;

use crate::common::{Home, check, check_with, key_limited_to};
use keyguard::KeyGuard;

/// A recorder that keeps the last value of each counter and gauge, and all values of histograms.
#[derive(Default)]
struct Kept {
    counters: Mutex<BTreeMap<Key, Arc<AtomicU64>>>,
    gauges: Mutex<BTreeMap<Key, Arc<AtomicU64>>>,
    latencies: Arc<Values>,
    described: Mutex<BTreeMap<String, String>>,
}

#[derive(Default)]
struct Values(Mutex<Vec<f64>>);

impl HistogramFn for Values {
    fn record(&self, value: f64) {
        self.0.lock().push(value);
    }
}

impl Kept {
    fn describe(&self, name: &KeyName, help: &SharedString) {
        let described = (name.as_str().to_owned(), help.to_string());
        self.described.lock().extend([described]);
    }

    /// The value of the counter or gauge with this name and these values of labels.
    fn value(&self, name: &str, labels: &[&str]) -> f64 {
        let is_meant = |key: &Key| {
            let values = key.labels().map(|label| label.value());
            key.name() == name && values.eq(labels.iter().copied())
        };
        let found = |metrics: &Mutex<BTreeMap<Key, Arc<AtomicU64>>>| {
            let metrics = metrics.lock();
            let found = metrics.iter().find(|(key, _)| is_meant(key));
            found.map(|(_, value)| value.load(Ordering::Relaxed))
        };
        let counter = found(&self.counters).map(|count| count as f64);
        let gauge = || found(&self.gauges).map(f64::from_bits);
        counter
            .or_else(gauge)
            .unwrap_or_else(|| panic!("no {name} {labels:?}"))
    }

    fn collect(&self, kg: &KeyGuard) {
        kg.flush().unwrap();
        with_local_recorder(self, || kg.collect_metrics());
    }
}

impl Recorder for Kept {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(&name, &help);
    }

    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(&name, &help);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        assert_eq!(unit, Some(Unit::Seconds));
        self.describe(&name, &help);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let mut counters = self.counters.lock();
        Counter::from_arc(Arc::clone(counters.entry(key.clone()).or_default()))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let mut gauges = self.gauges.lock();
        Gauge::from_arc(Arc::clone(gauges.entry(key.clone()).or_default()))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        assert_eq!(key.name(), "keyguard_request_duration_seconds");
        Histogram::from_arc(Arc::clone(&self.latencies))
    }
}

#[test]
fn decisions_and_latencies_reach_the_recorder_once() {
    let home = Home::new();
    let kg = home.open();
    let key = key_limited_to(&kg, 3);
    let kept = Kept::default();
    for millis in [2, 2, 300] {
        let grant = check(&kg, &key).unwrap();
        home.clock.advance(Duration::from_millis(millis));
        grant.finish(200);
    }
    check(&kg, &key).unwrap_err();
    check_with(&kg, "nonsense").unwrap_err();
    for _ in 0..2 {
        kept.collect(&kg);
        let decisions = |labels| kept.value("keyguard_decisions_total", labels);
        assert_eq!(decisions(&["admitted", ""]), 3.0);
        assert_eq!(decisions(&["refused", "rate_limited"]), 1.0);
        assert_eq!(decisions(&["refused", "malformed_key"]), 1.0);
        assert_eq!(decisions(&["refused", "unknown_key"]), 0.0);
        assert_eq!(kept.value("keyguard_active_keys", &[]), 1.0);
        assert_eq!(kept.value("keyguard_ready", &[]), 1.0);
        assert_eq!(*kept.latencies.0.lock(), [0.002, 0.002, 0.3]);
    }
    let described = kept.described.lock();
    assert!(described["keyguard_data_file_bytes"].contains("data file"));
}

#[test]
fn counts_start_when_the_guard_is_opened() {
    let home = Home::new();
    let kg = home.open();
    let key = key_limited_to(&kg, 60);
    check(&kg, &key).unwrap().finish(200);
    kg.close().unwrap();

    let (kg, kept) = (home.open(), Kept::default());
    check(&kg, &key).unwrap().finish(200);
    kept.collect(&kg);
    assert_eq!(
        kept.value("keyguard_decisions_total", &["admitted", ""]),
        1.0
    );
    assert_eq!(kg.admin().stats().unwrap().requests, 2);
}

#[test]
fn replaced_policies_warnings_and_the_audit_log_are_counted() {
    let home = Home::new();
    let file = home.dir().join("policy.toml");
    std::fs::write(&file, "").unwrap();
    let kg = home.open_with(home.config().policy_file(&file));
    let kept = Kept::default();
    kg.admin().reload().unwrap();
    std::fs::write(&file, "nonsense = 1").unwrap();
    kg.admin().reload().unwrap_err();
    kg.admin().create_org("acme").unwrap();
    kept.collect(&kg);
    let reloads = |outcome| kept.value("keyguard_policy_reloads_total", &[outcome]);
    assert_eq!((reloads("applied"), reloads("rejected")), (1.0, 1.0));
    assert_eq!(kept.value("keyguard_warnings", &[]), 1.0);
    assert_eq!(kept.value("keyguard_audit_entries", &[]), 2.0);
    let size = std::fs::metadata(home.file()).unwrap().len();
    assert_eq!(kept.value("keyguard_data_file_bytes", &[]), size as f64);
}
