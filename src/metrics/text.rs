//! The text format of Prometheus (version 0.0.4).

use std::fmt::Write;

use super::family::{Family, Samples};
use crate::model::Latencies;

pub(crate) fn prometheus_text(families: &[Family]) -> String {
    let mut out = String::with_capacity(16_384);
    for family in families {
        // Writing to a `String` never fails.
        let _ = write(&mut out, family);
    }
    out
}

fn write(out: &mut String, family: &Family) -> std::fmt::Result {
    let Family { name, help, .. } = family;
    let kind = match &family.samples {
        Samples::Counter(_) => "counter",
        Samples::Gauge(_) => "gauge",
        Samples::Histogram(_) => "histogram",
    };
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
    match &family.samples {
        Samples::Counter(samples) | Samples::Gauge(samples) => {
            for (labels, value) in samples {
                writeln!(out, "{name}{} {value}", in_braces(labels, None))?;
            }
        }
        Samples::Histogram(samples) => {
            for (labels, latencies) in samples {
                write_histogram(out, name, labels, latencies)?;
            }
        }
    }
    Ok(())
}

fn write_histogram(
    out: &mut String,
    name: &str,
    labels: &[(&'static str, String)],
    latencies: &Latencies,
) -> std::fmt::Result {
    let (mut count, mut seconds) = (0_u64, 0.0);
    for (bound, bucket) in latencies.buckets() {
        count = count.saturating_add(bucket.count);
        seconds += bucket.seconds();
        let bound = match bound.is_finite() {
            true => bound.to_string(),
            false => "+Inf".to_owned(),
        };
        let labels = in_braces(labels, Some(&bound));
        writeln!(out, "{name}_bucket{labels} {count}")?;
    }
    let labels = in_braces(labels, None);
    writeln!(
        out,
        "{name}_sum{labels} {seconds}\n{name}_count{labels} {count}"
    )
}

/// Returns labels as `{name="value",…}`, followed by the bound of a bucket; nothing without labels.
fn in_braces(labels: &[(&'static str, String)], bound: Option<&str>) -> String {
    let labels = labels.iter().map(|(name, value)| (*name, value.as_str()));
    let labels = labels.chain(bound.map(|bound| ("le", bound)));
    let labels = labels.map(|(name, value)| format!("{name}=\"{}\"", escaped(value)));
    match labels.collect::<Vec<_>>().join(",") {
        labels if labels.is_empty() => labels,
        labels => format!("{{{labels}}}"),
    }
}

fn escaped(value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"");
    value.replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn histograms_are_cumulative() {
        let mut latencies = Latencies::default();
        for micros in [10, 20, 60, 20_000_000] {
            latencies.add(Duration::from_micros(micros));
        }
        let of = vec![("endpoint", "auth".to_owned())];
        let text = prometheus_text(&[Family::histograms("a_seconds", "A.", [(of, latencies)])]);
        for line in [
            "# TYPE a_seconds histogram",
            r#"a_seconds_bucket{endpoint="auth",le="0.000025"} 2"#,
            r#"a_seconds_bucket{endpoint="auth",le="0.00005"} 2"#,
            r#"a_seconds_bucket{endpoint="auth",le="0.0001"} 3"#,
            r#"a_seconds_bucket{endpoint="auth",le="10"} 3"#,
            r#"a_seconds_bucket{endpoint="auth",le="+Inf"} 4"#,
            r#"a_seconds_sum{endpoint="auth"} 20.00009"#,
            r#"a_seconds_count{endpoint="auth"} 4"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
        }
    }

    #[test]
    fn values_of_labels_are_escaped() {
        let labels = vec![("rule", "a\"\\\nb".to_owned())];
        let text = prometheus_text(&[Family::counters("a_total", "A.", [(labels, 1)])]);
        assert!(
            text.ends_with("\na_total{rule=\"a\\\"\\\\\\nb\"} 1\n"),
            "{text}"
        );
    }
}
