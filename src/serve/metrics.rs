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
    let families: [(&str, &str, &str, Value); 3] = [
        (
            "up",
            "gauge",
            "1 if the backend responds and keeps its data, else 0.",
            |backend| u64::from(backend.is_up),
        ),
        (
            "failures_total",
            "counter",
            "Calls that failed or timed out.",
            |backend| backend.failures,
        ),
        (
            "fallbacks_total",
            "counter",
            "Decisions made without the backend.",
            |backend| backend.fallbacks,
        ),
    ];
    for (name, kind, help, value) in families {
        head(&mut out, &format!("backend_{name}"), kind, help);
        for backend in backends {
            let (server, value) = (backend.server, value(backend));
            let _ = writeln!(
                out,
                "keyguard_backend_{name}{{server=\"{server}\"}} {value}"
            );
        }
    }
    out
}

fn render(stats: &Stats) -> String {
    let mut out = String::new();
    for (name, kind, help, value) in [
        (
            "requests_total",
            "counter",
            "Requests recorded since the data file was created, including refused ones.",
            stats.requests,
        ),
        (
            "errors_total",
            "counter",
            "Recorded requests with a status of 400 or above.",
            stats.errors,
        ),
        (
            "dropped_total",
            "counter",
            "Requests not recorded or not passed to the usage sink, because too many were pending.",
            stats.dropped,
        ),
        (
            "rejected_locks_total",
            "counter",
            "Locks not made since the process started, because there were too many.",
            stats.rejected_locks,
        ),
        (
            "sink_failures_total",
            "counter",
            "Failed writes to the usage sink since the process started.",
            stats.sink_failures,
        ),
        ("locks", "gauge", "Locks in force.", stats.locks),
        (
            "organizations",
            "gauge",
            "Organizations.",
            stats.organizations,
        ),
        (
            "keys",
            "gauge",
            "Keys, including revoked ones.",
            stats.total_keys,
        ),
        (
            "active_keys",
            "gauge",
            "Keys that are neither revoked nor expired.",
            stats.active_keys,
        ),
    ] {
        head(&mut out, name, kind, help);
        let _ = writeln!(out, "keyguard_{name} {value}");
    }
    head(
        &mut out,
        "refused_total",
        "counter",
        "Refused requests by reason.",
    );
    for (reason, count) in &stats.refused {
        let _ = writeln!(out, "keyguard_refused_total{{reason=\"{reason}\"}} {count}");
    }
    head(
        &mut out,
        "shadow_denied_total",
        "counter",
        "Requests that limits and routes in shadow mode would have refused.",
    );
    for (rule, count) in &stats.shadow_denied {
        let rule = rule.replace('\\', "\\\\").replace('"', "\\\"");
        let _ = writeln!(
            out,
            "keyguard_shadow_denied_total{{rule=\"{rule}\"}} {count}"
        );
    }
    out
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(
        out,
        "# HELP keyguard_{name} {help}\n# TYPE keyguard_{name} {kind}"
    );
}
