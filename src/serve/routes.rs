//! What is answered at which path.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io::ErrorKind;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::Service;

use super::settings::Settings;
use super::{check, forward_auth, metrics, readiness};
use crate::http::admin::{AdminService, require_own_host};
use crate::http::body::read_body;
use crate::http::problem::Problem;
use crate::http::response::json;
use crate::keyguard::KeyGuard;
use crate::net::CidrSet;
use crate::net::ClientIp;

pub(super) struct Routes {
    guard: KeyGuard,
    admin: AdminService,
    trusted: CidrSet,
    hosts: BTreeSet<String>,
    most_body_bytes: usize,
    deadline: Duration,
}

type Answered = Result<Response<Full<Bytes>>, Problem>;

impl Routes {
    pub(super) fn new(guard: KeyGuard, settings: &Settings) -> Self {
        let admin = AdminService::documenting(guard.clone(), &[check::operation()])
            .hosts(settings.hosts.iter().cloned())
            .max_body_bytes(settings.most_body_bytes);
        Self {
            guard,
            admin,
            trusted: settings.trusted.clone(),
            hosts: settings
                .hosts
                .iter()
                .map(|name| name.to_ascii_lowercase())
                .collect(),
            most_body_bytes: settings.most_body_bytes,
            deadline: settings.deadline,
        }
    }

    /// Says that connections cannot be accepted, unless it was the client that went away.
    pub(super) fn report_accept(&self, error: &std::io::Error) {
        if matches!(
            error.kind(),
            ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset
        ) {
            return;
        }
        self.guard.inner.warn(&format!(
            "clients had to wait: connections could not be accepted ({error}); raise the limit on \
             open files (`ulimit -n`), or lower `--max-connections`"
        ));
    }

    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        peer: ClientIp,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        // A body that never ends holds its connection no longer than a head.
        let answered = tokio::time::timeout(self.deadline, self.route(request, peer)).await;
        let timed_out = || {
            let detail = "The request did not arrive in time.";
            Err(Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                "timed_out",
                detail,
            ))
        };
        let answered = answered.unwrap_or_else(|_| timed_out());
        Ok(answered.unwrap_or_else(Problem::into_response))
    }

    async fn route(&self, request: Request<Incoming>, peer: ClientIp) -> Answered {
        let path = request.uri().path();
        match path {
            "/healthz" => {
                require_method(&request, &[Method::GET, Method::HEAD])?;
                Ok(json(
                    StatusCode::OK,
                    Bytes::from_static(br#"{"status":"ok"}"#),
                ))
            }
            "/readyz" => {
                require_method(&request, &[Method::GET, Method::HEAD])?;
                Ok(readiness::response(&self.guard))
            }
            "/metrics" => {
                require_method(&request, &[Method::GET, Method::HEAD])?;
                self.require_trusted(peer)?;
                require_own_host(request.headers(), request.uri(), &self.hosts)?;
                let guard = self.guard.clone();
                let text = tokio::task::spawn_blocking(move || metrics::text(&guard)).await;
                metrics::response(text)
            }
            "/v1/check" => {
                require_method(&request, &[Method::POST])?;
                self.require_trusted(peer)?;
                require_own_host(request.headers(), request.uri(), &self.hosts)?;
                let (parts, body) = request.into_parts();
                let body = read_body(body, self.most_body_bytes).await?;
                check::answer(&self.guard, &parts, &body).await
            }
            path if path == forward_auth::PATH || path.starts_with(forward_auth::BELOW) => {
                self.require_trusted(peer)?;
                let (parts, _) = request.into_parts();
                forward_auth::answer(&self.guard, &self.trusted, &parts).await
            }
            _ => {
                let Ok(response) = self.admin.peer_address(peer).call(request).await;
                Ok(response)
            }
        }
    }

    fn require_trusted(&self, peer: ClientIp) -> Result<(), Problem> {
        if self.trusted.contains(peer) {
            return Ok(());
        }
        let detail = "Only trusted peers may ask this; `keyguard serve --trust` names them.";
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
