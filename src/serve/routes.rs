//! The paths of the server.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::Service;

use super::decision_times::{DecisionTimes, Endpoint};
use super::leaks::{self, LeakReports};
use super::otlp::{Tracer, trace_id};
use super::settings::Settings;
use super::webhooks::WebhookStatus;
use super::{check, forward_auth, metrics, readiness};
use crate::http::AdminService;
use crate::http::body::read_body;
use crate::http::problem::Problem;
use crate::http::response::{HttpResult, json};
use crate::keyguard::KeyGuard;
use crate::log::Event;
use crate::net::{CidrSet, ClientIp};

pub(super) struct Routes {
    guard: KeyGuard,
    admin: AdminService,
    trusted: CidrSet,
    decision_times: DecisionTimes,
    tracer: Tracer,
    /// `None` if no reports of leaked keys are accepted.
    leaks: Option<Arc<LeakReports>>,
    webhooks: Arc<WebhookStatus>,
    logs_requests: bool,
    max_body_bytes: usize,
    timeout: Duration,
}

impl Routes {
    pub(super) fn new(
        guard: KeyGuard,
        settings: &Settings,
        tracer: Tracer,
        leaks: Option<Arc<LeakReports>>,
        webhooks: Arc<WebhookStatus>,
    ) -> Self {
        let of_leaks = leaks.is_some().then(LeakReports::operation);
        let operations: Vec<_> = [check::operation()].into_iter().chain(of_leaks).collect();
        let admin = AdminService::documenting(guard.clone(), &operations)
            .hosts(settings.hosts.iter().cloned())
            .max_body_bytes(settings.max_body);
        Self {
            guard,
            admin,
            trusted: settings.trust.clone(),
            decision_times: DecisionTimes::new(),
            tracer,
            leaks,
            webhooks,
            logs_requests: settings.log_requests,
            max_body_bytes: settings.max_body,
            timeout: settings.timeout,
        }
    }

    pub(super) async fn respond(
        &self,
        request: Request<Incoming>,
        peer: ClientIp,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        if !self.logs_requests {
            return Ok(self.answer(request, peer).await);
        }
        let started = Instant::now();
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let trace_id = trace_id(request.headers()).map(str::to_owned);
        let response = self.answer(request, peer).await;
        self.guard.inner.log().emit(&Event::Request {
            peer,
            method: method.as_str(),
            // Queries are for no log.
            path: uri.path(),
            status: response.status().as_u16(),
            duration: started.elapsed(),
            trace_id: trace_id.as_deref(),
        });
        Ok(response)
    }

    async fn answer(&self, request: Request<Incoming>, peer: ClientIp) -> Response<Full<Bytes>> {
        let result = self.route(request, peer).await;
        result.unwrap_or_else(Problem::into_response)
    }

    async fn route(&self, request: Request<Incoming>, peer: ClientIp) -> HttpResult {
        const GET: &[Method] = &[Method::GET, Method::HEAD];

        if let Some(leaks) = &self.leaks
            && request.uri().path() == leaks::PATH
        {
            require_method(&request, &[Method::POST])?;
            let (parts, body) = request.into_parts();
            let body = self.read(body).await?;
            return leaks.respond(&parts, &body, peer).await;
        }
        match request.uri().path() {
            "/healthz" => {
                require_method(&request, GET)?;
                let body = Bytes::from_static(b"{\"status\":\"ok\"}\n");
                Ok(json(StatusCode::OK, body))
            }
            "/readyz" => {
                require_method(&request, GET)?;
                Ok(readiness::response(&self.guard))
            }
            "/metrics" => {
                require_method(&request, GET)?;
                self.require_trusted(peer)?;
                self.admin
                    .require_own_host(request.headers(), request.uri())?;
                metrics::respond(&self.guard, &self.decision_times, &self.webhooks).await
            }
            "/v1/check" => {
                require_method(&request, &[Method::POST])?;
                self.require_trusted(peer)?;
                self.admin
                    .require_own_host(request.headers(), request.uri())?;
                let (parts, body) = request.into_parts();
                let body = self.read(body).await?;
                let response = check::respond(&self.guard, &parts, &body);
                self.observed(Endpoint::Check, &parts, response).await
            }
            path if forward_auth::is_path(path) => {
                self.require_trusted(peer)?;
                let (parts, _) = request.into_parts();
                let response = forward_auth::respond(&self.guard, &self.trusted, &parts);
                self.observed(Endpoint::Auth, &parts, response).await
            }
            _ => {
                let (parts, body) = request.into_parts();
                let request = Request::from_parts(parts, Full::new(self.read(body).await?));
                let Ok(response) = self.admin.for_peer(peer).call(request).await;
                Ok(response.map(|body| body.0))
            }
        }
    }

    /// Measures a decision, and makes a span of it.
    async fn observed(
        &self,
        endpoint: Endpoint,
        parts: &Parts,
        response: impl Future<Output = HttpResult>,
    ) -> HttpResult {
        let span = self.tracer.begin(endpoint.span_name(), &parts.headers);
        let response = self.decision_times.timed(endpoint, response).await;
        let response = response.unwrap_or_else(Problem::into_response);
        if let Some(span) = span {
            self.tracer.end(span, &response);
        }
        Ok(response)
    }

    /// Reads a body. Only its arrival has a time limit: a change that was begun is carried out, whatever
    /// the response says.
    async fn read(&self, body: Incoming) -> Result<Bytes, Problem> {
        let body = tokio::time::timeout(self.timeout, read_body(body, self.max_body_bytes)).await;
        body.unwrap_or_else(|_| {
            let detail = "The request did not arrive in time.";
            let status = StatusCode::REQUEST_TIMEOUT;
            Err(Problem::new(status, "timed_out", detail))
        })
    }

    fn require_trusted(&self, peer: ClientIp) -> Result<(), Problem> {
        if self.trusted.contains(peer) {
            return Ok(());
        }
        let detail = "The peer is not trusted; list it in `keyguard serve --trust`, together with \
                      `127.0.0.0/8,::1,local` if these are still needed.";
        Err(Problem::new(
            StatusCode::FORBIDDEN,
            "untrusted_peer",
            detail,
        ))
    }
}

fn require_method(request: &Request<Incoming>, allowed: &[Method]) -> Result<(), Problem> {
    match allowed.contains(request.method()) {
        true => Ok(()),
        false => Err(Problem::method_not_allowed(
            allowed.iter().map(Method::as_str),
        )),
    }
}
