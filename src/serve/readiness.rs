//! `/readyz`

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;

use crate::http::response::json_value;
use crate::keyguard::KeyGuard;

/// Returns status 200, or 503 with the problems.
pub(super) fn response(guard: &KeyGuard) -> Response<Full<Bytes>> {
    let readiness = guard.readiness();
    let (status, text) = match readiness.is_ready() {
        true => (StatusCode::OK, "ready"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
    };
    let body = serde_json::json!({ "status": text, "problems": readiness.problems });
    json_value(status, &body)
}
