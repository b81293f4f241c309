//! `/metrics`

use std::sync::Arc;

use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

use super::decision_times::DecisionTimes;
use super::webhooks::WebhookStatus;
use crate::http::problem::Problem;
use crate::http::response::{HttpResult, forbid_sniffing};
use crate::keyguard::KeyGuard;
use crate::metrics::{families, prometheus_text};

pub(super) async fn respond(
    guard: &KeyGuard,
    decision_times: &DecisionTimes,
    webhooks: &WebhookStatus,
) -> HttpResult {
    let guard = Arc::clone(&guard.inner);
    let measured = tokio::task::spawn_blocking(move || {
        // Zeros while the file cannot be read.
        let outbox = guard.store().outbox_counts().unwrap_or_default();
        (guard.measurements(), outbox)
    });
    let (measured, outbox) = measured.await.map_err(|_| {
        let detail = "The metrics cannot be read; try again.";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
    })?;
    let mut families = families(&measured);
    families.push(decision_times.family());
    families.extend(webhooks.families(outbox));
    let mut response = Response::new(Full::from(prometheus_text(&families)));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    forbid_sniffing(response.headers_mut());
    Ok(response)
}
