//! The metrics of a guard.

use super::family::{Family, Labels};
use crate::guard::Measurements;
use crate::model::{BackendHealth, Reason};

/// Returns the metrics of a guard. Counters start when the guard is opened.
pub(crate) fn families(measured: &Measurements) -> Vec<Family> {
    let mut families = state(measured);
    families.extend(decisions(measured));
    #[cfg(feature = "http")]
    families.push(Family::counter(
        "keyguard_admin_refused_total",
        "Requests with a wrong admin key.",
        measured.wrong_admin_keys,
    ));
    families.extend(usage(measured));
    families.extend(tables(measured));
    families.extend(stored(measured));
    families.extend(disk(measured));
    if !measured.backends.is_empty() {
        families.extend(backends(&measured.backends));
    }
    families
}

fn state(measured: &Measurements) -> Vec<Family> {
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    vec![
        Family::gauges(
            "keyguard_build_info",
            "Always 1; the label is the version of KeyGuard.",
            [(version, 1)],
        ),
        Family::gauge(
            "keyguard_ready",
            "1 if changes are durable and all backends respond, else 0; as /readyz.",
            u64::from(measured.is_ready),
        ),
        Family::gauge(
            "keyguard_warnings",
            "Warnings that `keyguard stats` lists.",
            number(measured.warnings),
        ),
        Family::counters(
            "keyguard_policy_reloads_total",
            "Replacements of the policy that were applied, or rejected because it was invalid.",
            [
                (labels([("outcome", "applied")]), measured.replaced_policies),
                (
                    labels([("outcome", "rejected")]),
                    measured.rejected_policies,
                ),
            ],
        ),
    ]
}

fn decisions(measured: &Measurements) -> Vec<Family> {
    let counts = &measured.decisions;
    let admitted = labels([("outcome", "admitted"), ("reason", "")]);
    let refused = Reason::ALL.iter().map(|reason| {
        let labels = labels([("outcome", "refused"), ("reason", reason.as_str())]);
        (labels, counts.refused[*reason as usize])
    });
    let shadow_denied = counts.shadow_denied.iter();
    vec![
        Family::counters(
            "keyguard_decisions_total",
            "Recorded decisions: requests admitted with a key, and all refusals by reason.",
            std::iter::once((admitted, counts.admitted)).chain(refused),
        ),
        Family::counters(
            "keyguard_shadow_denied_total",
            "Requests that limits and routes in shadow mode would have refused.",
            shadow_denied.map(|(rule, count)| (labels([("rule", rule.as_str())]), *count)),
        ),
    ]
}

fn usage(measured: &Measurements) -> Vec<Family> {
    vec![
        Family::gauge(
            "keyguard_usage_queue_requests",
            "Requests that wait to be stored.",
            number(measured.queued),
        ),
        Family::gauge(
            "keyguard_usage_queue_capacity",
            "The largest number of requests that wait to be stored; further ones are dropped.",
            number(measured.queue_capacity),
        ),
        Family::counter(
            "keyguard_usage_dropped_total",
            "Requests not recorded or not passed to the usage sink, because too many were waiting.",
            measured.decisions.dropped,
        ),
        Family::counter(
            "keyguard_usage_write_failures_total",
            "Failed attempts to store usage; they are repeated.",
            measured.decisions.write_failures,
        ),
        Family::counter(
            "keyguard_usage_sink_failures_total",
            "Failed writes to the usage sink; they are repeated.",
            measured.sink_failures,
        ),
    ]
}

fn tables(measured: &Measurements) -> Vec<Family> {
    vec![
        Family::gauge(
            "keyguard_locks",
            "Locks of addresses in force.",
            number(measured.locks),
        ),
        Family::gauge(
            "keyguard_locks_capacity",
            "The largest number of locks.",
            number(measured.lock_capacity),
        ),
        Family::counter(
            "keyguard_locks_rejected_total",
            "Locks that were not made because there were too many.",
            measured.rejected_locks,
        ),
        Family::gauge(
            "keyguard_key_cache_keys",
            "Keys in memory.",
            number(measured.cached_keys),
        ),
        Family::gauge(
            "keyguard_key_cache_capacity",
            "The largest number of keys in memory.",
            number(measured.key_cache_capacity),
        ),
        Family::counter(
            "keyguard_key_cache_misses_total",
            "Reads of keys that were not in memory, unknown keys included.",
            measured.key_cache_misses,
        ),
    ]
}

/// Records in the store, which all processes with the same database share.
fn stored(measured: &Measurements) -> Vec<Family> {
    let Some(stored) = &measured.stored else {
        return Vec::new();
    };
    vec![
        Family::gauge(
            "keyguard_organizations",
            "Organizations, including suspended ones.",
            stored.orgs,
        ),
        Family::gauge(
            "keyguard_keys",
            "Keys, including revoked ones.",
            stored.keys,
        ),
        Family::gauge(
            "keyguard_active_keys",
            "Keys that are neither revoked nor expired.",
            stored.active_keys,
        ),
        Family::gauge(
            "keyguard_audit_entries",
            "The number of the latest entry of the audit log.",
            stored.audit_entries,
        ),
    ]
}

fn disk(measured: &Measurements) -> Vec<Family> {
    let Some(space) = measured.file_space else {
        return Vec::new();
    };
    let size = "The size of the data file.";
    let mut families = vec![Family::gauge("keyguard_data_file_bytes", size, space.len)];
    if let Some(disk) = space.disk {
        let help = "Free space on the disk of the data file.";
        families.push(Family::gauge(
            "keyguard_disk_free_bytes",
            help,
            disk.available,
        ));
    }
    families
}

fn backends(backends: &[BackendHealth]) -> Vec<Family> {
    let of_each = |value: fn(&BackendHealth) -> u64| {
        let sample =
            move |backend: &BackendHealth| (labels([("server", backend.server)]), value(backend));
        backends.iter().map(sample)
    };
    vec![
        Family::gauges(
            "keyguard_backend_up",
            "1 if the backend responds and keeps its data, else 0.",
            of_each(|backend| u64::from(backend.is_up)),
        ),
        Family::counters(
            "keyguard_backend_failures_total",
            "Calls that failed or timed out.",
            of_each(|backend| backend.failures),
        ),
        Family::counters(
            "keyguard_backend_fallbacks_total",
            "Decisions made without the backend.",
            of_each(|backend| backend.fallbacks),
        ),
    ]
}

fn labels<const N: usize>(labels: [(&'static str, &str); N]) -> Labels {
    let owned = labels.map(|(name, value)| (name, value.to_owned()));
    owned.into()
}

fn number(count: usize) -> u64 {
    count as u64
}
