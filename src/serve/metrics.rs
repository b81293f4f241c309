//! `/metrics`: counts in the text format of Prometheus (version 0.0.4).

use std::fmt::Write;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

use crate::admin::{AdminError, Stats};
use crate::http::problem::Problem;
use crate::keyguard::KeyGuard;
use crate::model::BackendHealth;

pub(super) fn text(guard: &KeyGuard) -> Result<String, AdminError> {
    let backends = guard.backends();
    let mut out = render_backends(&backends);
    match guard.admin().stats() {
        Ok(stats) => out += &render(&stats),
        // How the backends stand is to be seen most of all when they do not answer.
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
            "Whether the backend answers and keeps what it is told.",
            |backend| u64::from(backend.is_up),
        ),
        (
            "failures_total",
            "counter",
            "Calls that were not answered, or not in time.",
            |backend| backend.failures,
        ),
        (
            "fallbacks_total",
            "counter",
            "Decisions that were made without the backend.",
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
            "Requests recorded.",
            stats.requests,
        ),
        (
            "errors_total",
            "counter",
            "Requests answered with a status of 400 or above.",
            stats.errors,
        ),
        (
            "dropped_total",
            "counter",
            "Requests not recorded, as too many were waiting to be written.",
            stats.dropped,
        ),
        (
            "unlocked_total",
            "counter",
            "Clients not locked out, as there were too many locks.",
            stats.unlocked,
        ),
        (
            "sink_failures_total",
            "counter",
            "Failures of the sink that takes single requests.",
            stats.sink_failures,
        ),
        ("locks", "gauge", "Locks in force.", stats.locks),
        (
            "organizations",
            "gauge",
            "Organizations.",
            stats.organizations,
        ),
        ("keys", "gauge", "Keys, revoked ones too.", stats.total_keys),
        (
            "active_keys",
            "gauge",
            "Keys that are not revoked.",
            stats.active_keys,
        ),
    ] {
        head(&mut out, name, kind, help);
        let _ = writeln!(out, "keyguard_{name} {value}");
    }
    head(&mut out, "refused_total", "counter", "Refusals by reason.");
    for (reason, count) in &stats.refused {
        let _ = writeln!(out, "keyguard_refused_total{{reason=\"{reason}\"}} {count}");
    }
    head(
        &mut out,
        "shadowed_total",
        "counter",
        "What shadow mode would have refused.",
    );
    for (rule, count) in &stats.shadowed {
        let rule = rule.replace('\\', "\\\\").replace('"', "\\\"");
        let _ = writeln!(out, "keyguard_shadowed_total{{rule=\"{rule}\"}} {count}");
    }
    out
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(
        out,
        "# HELP keyguard_{name} {help}\n# TYPE keyguard_{name} {kind}"
    );
}

pub(super) fn response(
    text: Result<Result<String, AdminError>, tokio::task::JoinError>,
) -> Result<Response<Full<Bytes>>, Problem> {
    let unavailable = |_| {
        let detail = "The counts cannot be read now.";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
    };
    let text = text.map_err(unavailable)??;
    let mut response = Response::new(Full::from(text));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}
