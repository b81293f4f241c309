//! `/readyz`, and lines on standard error when readiness changes.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use tokio::sync::watch;

use crate::http::response::json;
use crate::keyguard::KeyGuard;

const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Returns status 200, or 503 with the problems.
pub(super) fn response(guard: &KeyGuard) -> Response<Full<Bytes>> {
    let readiness = guard.readiness();
    let (status, text) = match readiness.is_ready() {
        true => (StatusCode::OK, "ready"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
    };
    let body = serde_json::json!({ "status": text, "problems": readiness.problems });
    json(status, body.to_string().into())
}

/// Writes a line whenever readiness changes, until `end` changes.
pub(super) async fn report(guard: KeyGuard, mut end: watch::Receiver<()>) {
    let mut was_ready = true;
    loop {
        tokio::select! {
            () = tokio::time::sleep(REPORT_INTERVAL) => {}
            _ = end.changed() => return,
        }
        let readiness = guard.readiness();
        let line = match (was_ready, readiness.is_ready()) {
            (true, false) => format!("not ready: {}\n", readiness.problems.join("; ")),
            (false, true) => "ready again\n".to_owned(),
            _ => String::new(),
        };
        // There is nowhere else to report that standard error is closed.
        let _ = std::io::stderr().write_all(line.as_bytes());
        was_ready = readiness.is_ready();
    }
}
