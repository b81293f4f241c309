//! The service that responds to requests for the admin API.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::request::Parts;
use http::{Extensions, Method, Request, Response, StatusCode};
use http_body::Body;

use super::admin_key::require_admin;
use super::dashboard::Dashboard;
use super::endpoint::{AdminRequest, Endpoint};
use super::endpoints;
use super::idempotency::acting_for;
use super::openapi::Documentation;
use super::operation::Operation;
use super::own_host::require_own_host;
use super::response::{AdminBody, AdminFuture};
use crate::http::body::read_body;
use crate::http::peer::{self, PeerSource};
use crate::http::problem::Problem;
use crate::http::response::HttpResult;
use crate::keyguard::KeyGuard;
use crate::net::ClientIp;

/// The admin API: endpoints under `/admin`, the dashboard at `/admin/ui` and, with the feature `openapi`,
/// the description of the endpoints at `/openapi.json` and Swagger UI at `/docs`.
///
/// Every request to an endpoint needs the admin key in the header field `X-Admin-Key`: that of
/// [`Config::admin_key`](crate::Config::admin_key) if it is set, else the one that
/// `keyguard admin-key` prints. The dashboard asks for it. An address that sends more than 10 wrong keys in a minute is locked
/// out of the API for 15 minutes; a client of a Unix socket never is.
///
/// As protection against DNS rebinding and cross-site requests, `Host` must be an IP address, `localhost`
/// or one of [`AdminService::hosts`], and `Origin`, if present, must equal it.
///
/// ```
/// use keyguard::KeyGuard;
/// use keyguard::http::AdminService;
///
/// fn admin(kg: KeyGuard) -> AdminService {
///     AdminService::new(kg).hosts(["admin.example.com"])
/// }
/// ```
///
/// It is a [`tower_service::Service`] and a [`hyper::service::Service`]. Commands block on disk I/O;
/// within a tokio runtime they run on its blocking threads.
#[derive(Clone, Debug)]
#[must_use]
pub struct AdminService {
    shared: Arc<Shared>,
    peer: PeerSource,
}

#[derive(Clone, Debug)]
struct Shared {
    guard: KeyGuard,
    hosts: BTreeSet<String>,
    prefix: String,
    max_body_bytes: usize,
    endpoints: Arc<[Endpoint]>,
    dashboard: Dashboard,
    documentation: Documentation,
}

impl AdminService {
    /// Creates a service that finds the address of the peer as [`KeyGuardLayer::new`] does.
    ///
    /// [`KeyGuardLayer::new`]: crate::http::KeyGuardLayer::new
    pub fn new(guard: KeyGuard) -> Self {
        Self::documenting(guard, &[])
    }

    /// Creates a service whose OpenAPI document contains `others` too.
    pub(crate) fn documenting(guard: KeyGuard, others: &[Operation]) -> Self {
        let endpoints = endpoints::all();
        let operations = endpoints.iter().map(|endpoint| &endpoint.operation);
        let documentation = Documentation::new(operations.chain(others));
        Self {
            shared: Arc::new(Shared {
                guard,
                hosts: BTreeSet::new(),
                prefix: String::new(),
                max_body_bytes: 64 << 10,
                endpoints: endpoints.into(),
                dashboard: Dashboard::new(),
                documentation,
            }),
            peer: PeerSource::default(),
        }
    }

    /// Adds names under which the service is reached, beside IP addresses and `localhost`. Default:
    /// none.
    pub fn hosts<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        let names = names
            .into_iter()
            .map(|name| name.into().to_ascii_lowercase());
        self.shared_mut().hosts.extend(names);
        self
    }

    /// Sets the path under which the service is mounted, such as `/internal`, if the requests that it
    /// gets still contain it. Default: none.
    pub fn prefix(mut self, path: impl Into<String>) -> Self {
        let path = path.into();
        self.shared_mut().prefix = path.trim_end_matches('/').to_owned();
        self
    }

    /// Sets the maximum length of a request body. Default: 64 KiB.
    pub fn max_body_bytes(mut self, bytes: usize) -> Self {
        self.shared_mut().max_body_bytes = bytes;
        self
    }

    /// Sets how the address of the peer is found, like
    /// [`KeyGuardLayer::peer_from`](crate::http::KeyGuardLayer::peer_from).
    pub fn peer_from(
        mut self,
        find: impl Fn(&Extensions) -> Option<ClientIp> + Send + Sync + 'static,
    ) -> Self {
        self.peer = PeerSource::Find(Arc::new(find));
        self
    }

    /// Returns a service for one connection, like
    /// [`KeyGuardLayer::for_peer`](crate::http::KeyGuardLayer::for_peer).
    pub fn for_peer(&self, peer: impl Into<ClientIp>) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            peer: PeerSource::Fixed(peer.into()),
        }
    }

    /// Checks `Host` and `Origin` of a request to another path of the same server.
    #[cfg(feature = "serve")]
    pub(crate) fn require_own_host(
        &self,
        headers: &http::HeaderMap,
        uri: &http::Uri,
    ) -> Result<(), Problem> {
        require_own_host(headers, uri, &self.shared.hosts)
    }

    /// The settings of this service; clones keep theirs.
    fn shared_mut(&mut self) -> &mut Shared {
        Arc::make_mut(&mut self.shared)
    }

    fn respond<B>(&self, request: Request<B>) -> AdminFuture
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let shared = Arc::clone(&self.shared);
        let peer = self.peer.address(request.extensions());
        AdminFuture::new(async move {
            let Some(peer) = peer else {
                return peer::unknown(&shared.guard);
            };
            let (parts, body) = request.into_parts();
            let result = async {
                let body = read_body(body, shared.max_body_bytes).await?;
                blocking(move || shared.respond(&parts, &body, peer)).await
            };
            result.await.unwrap_or_else(Problem::into_response)
        })
    }
}

/// Runs work that waits for the disk.
pub(crate) async fn blocking(work: impl FnOnce() -> HttpResult + Send + 'static) -> HttpResult {
    if tokio::runtime::Handle::try_current().is_err() {
        return work();
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| {
        let detail = "The request was not completed; try again.";
        let code = "unavailable";
        Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, detail))
    })
}

impl Shared {
    fn respond(&self, parts: &Parts, body: &[u8], peer: ClientIp) -> HttpResult {
        require_own_host(&parts.headers, &parts.uri, &self.hosts)?;
        let path = parts.uri.path();
        let path = path.strip_prefix(self.prefix.as_str()).unwrap_or_default();
        // The pages have no data, so they need no admin key.
        let (method, headers) = (&parts.method, &parts.headers);
        let dashboard = self.dashboard.respond(method, path, headers);
        let page = dashboard.or_else(|| self.documentation.respond(method, path, headers));
        if let Some(response) = page {
            return response;
        }
        if path == "/admin" || path.starts_with("/admin/") {
            let client = require_admin(&self.guard, parts, peer)?;
            let (endpoint, id) = self.endpoint(&parts.method, path)?;
            let admin = acting_for(&self.guard, parts, body, client)?;
            return endpoint.respond(&admin, &AdminRequest { parts, body, id });
        }
        Err(no_such_path())
    }

    /// Returns the endpoint at a path, and the id in the path.
    fn endpoint(&self, method: &Method, path: &str) -> Result<(&Endpoint, Option<u64>), Problem> {
        let at_path = || {
            let endpoints = self.endpoints.iter();
            endpoints.filter_map(|endpoint| Some((endpoint, endpoint.route().matches(path)?)))
        };
        let method = match method {
            &Method::HEAD => &Method::GET,
            method => method,
        };
        if let Some((endpoint, id)) =
            at_path().find(|(endpoint, _)| endpoint.route().method == method)
        {
            let id = id.map(str::parse).transpose();
            return Ok((endpoint, id.map_err(|_| no_such_path())?));
        }
        let mut allowed = at_path()
            .map(|(endpoint, _)| endpoint.route().method.as_str())
            .peekable();
        match allowed.peek() {
            None => Err(no_such_path()),
            Some(_) => Err(Problem::method_not_allowed(allowed)),
        }
    }
}

fn no_such_path() -> Problem {
    let detail = match cfg!(feature = "openapi") {
        true => "There is nothing at this path; `/openapi.json` lists all paths.",
        false => "There is nothing at this path.",
    };
    Problem::new(StatusCode::NOT_FOUND, "not_found", detail)
}

impl<B> tower_service::Service<Request<B>> for AdminService
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<AdminBody>;
    type Error = Infallible;
    type Future = AdminFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> AdminFuture {
        self.respond(request)
    }
}

impl<B> hyper::service::Service<Request<B>> for AdminService
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<AdminBody>;
    type Error = Infallible;
    type Future = AdminFuture;

    fn call(&self, request: Request<B>) -> AdminFuture {
        self.respond(request)
    }
}
