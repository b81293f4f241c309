//! `/metrics`, in the text format of Prometheus (version 0.0.4).

use std::fmt::Write;

use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

use crate::admin::{AdminError, Stats};
use crate::http::problem::Problem;
use crate::http::response::HttpResult;
use crate::keyguard::KeyGuard;
use crate::model::BackendHealth;

pub(super) async fn respond(guard: &KeyGuard) -> HttpResult {
    let guard = guard.clone();
    let text = tokio::task::spawn_blocking(move || text(&guard)).await;
    let text = text.map_err(|_| {
        let detail = "The metrics cannot be read; try again.";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
    })??;
    let mut response = Response::new(Full::from(text));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

fn text(guard: &KeyGuard) -> Result<String, AdminError> {
    let backends = guard.backends();
    let mut out = render_backends(&backends);
    match guard.admin().stats() {
        Ok(stats) => out += &render(&stats),
        // The metrics of the backends matter most while a backend is down.
        Err(_) if !backends.is_empty() => {}
        Err(error) => return Err(error),
    }
    Ok(out)
}

fn render_backends(backends: &[BackendHealth]) -> String {
    let mut out = String::new();
    if backends.is_empty() {
        return out;
    }
    type Value = fn(&BackendHealth) -> u64;
    let families: [(&str, &str, Value); 3] = [
        (
            "backend_up",
            "1 if the backend responds and keeps its data, else 0.",
            |backend| u64::from(backend.is_up),
        ),
        (
            "backend_failures_total",
            "Calls that failed or timed out.",
            |backend| backend.failures,
        ),
        (
            "backend_fallbacks_total",
            "Decisions made without the backend.",
            |backend| backend.fallbacks,
        ),
    ];
    for (name, help, value) in families {
        head(&mut out, name, help);
        for backend in backends {
            let (server, value) = (backend.server, value(backend));
            let _ = writeln!(out, "keyguard_{name}{{server=\"{server}\"}} {value}");
        }
    }
    out
}

fn render(stats: &Stats) -> String {
    let mut out = String::new();
    for (name, value, help) in [
        (
            "requests_total",
            stats.requests,
            "Requests recorded since the data file was created, including refused ones.",
        ),
        (
            "errors_total",
            stats.errors,
            "Recorded requests with a status of 400 or above.",
        ),
        (
            "dropped_total",
            stats.dropped,
            "Requests not recorded or not passed to the usage sink, because too many were pending.",
        ),
        (
            "rejected_locks_total",
            stats.rejected_locks,
            "Locks not made since the process started, because there were too many.",
        ),
        (
            "sink_failures_total",
            stats.sink_failures,
            "Failed writes to the usage sink since the process started.",
        ),
        ("locks", stats.locks, "Locks in force."),
        ("organizations", stats.organizations, "Organizations."),
        ("keys", stats.total_keys, "Keys, including revoked ones."),
        (
            "active_keys",
            stats.active_keys,
            "Keys that are neither revoked nor expired.",
        ),
    ] {
        head(&mut out, name, help);
        let _ = writeln!(out, "keyguard_{name} {value}");
    }
    head(&mut out, "refused_total", "Refused requests by reason.");
    for (reason, count) in &stats.refused {
        let _ = writeln!(out, "keyguard_refused_total{{reason=\"{reason}\"}} {count}");
    }
    let name = "shadow_denied_total";
    let help = "Requests that limits and routes in shadow mode would have refused.";
    head(&mut out, name, help);
    for (rule, count) in &stats.shadow_denied {
        let rule = rule.replace('\\', "\\\\").replace('"', "\\\"");
        let _ = writeln!(out, "keyguard_{name}{{rule=\"{rule}\"}} {count}");
    }
    out
}

/// Writes the head of a family. By convention, the names of counters, and only they, end in `_total`.
fn head(out: &mut String, name: &str, help: &str) {
    let kind = match name.ends_with("_total") {
        true => "counter",
        false => "gauge",
    };
    let _ = writeln!(
        out,
        "# HELP keyguard_{name} {help}\n# TYPE keyguard_{name} {kind}"
    );
}
