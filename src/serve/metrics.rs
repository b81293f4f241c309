//! `/metrics`

use std::sync::Arc;

use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

use super::decision_times::DecisionTimes;
use crate::http::problem::Problem;
use crate::http::response::{HttpResult, forbid_sniffing};
use crate::keyguard::KeyGuard;
use crate::metrics::{families, prometheus_text};

pub(super) async fn respond(guard: &KeyGuard, decision_times: &DecisionTimes) -> HttpResult {
    let guard = Arc::clone(&guard.inner);
    let measured = tokio::task::spawn_blocking(move || guard.measurements()).await;
    let measured = measured.map_err(|_| {
        let detail = "The metrics cannot be read; try again.";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
    })?;
    let mut families = families(&measured);
    families.push(decision_times.family());
    let mut response = Response::new(Full::from(prometheus_text(&families)));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    forbid_sniffing(response.headers_mut());
    Ok(response)
}
