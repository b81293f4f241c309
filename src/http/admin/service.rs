//! A service to mount anywhere.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts;
use http::{Extensions, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;

use super::endpoint::{Asked, Endpoint};
use super::operation::Operation;
use super::{access, docs, endpoints, openapi};
use crate::http::body::read_body;
use crate::http::peer::{self, Peer};
use crate::http::problem::Problem;
use crate::http::static_file::StaticFile;
use crate::keyguard::KeyGuard;
use crate::net::ClientIp;

/// The admin API: endpoints under `/admin`, their description at `/openapi.json`, and pages to read
/// and try it at `/docs`.
///
/// Every request under `/admin` needs the admin key in the field `X-Admin-Key`: that of
/// [`Config::admin_key`](crate::Config::admin_key) if it is set, else the one that
/// `keyguard admin-key` prints. An address that sends more than 10 wrong ones in a minute is locked
/// out of it for 15 minutes; a client of a Unix socket never is.
///
/// So that no page in a browser can reach it by a name of its own, `Host` has to be an address,
/// `localhost`, or one of [`AdminService::hosts`], and `Origin`, if a browser sends it, the same.
///
/// It is a [`tower_service::Service`] and a [`hyper::service::Service`]. Changes wait for the disk;
/// within a runtime of tokio they do so on its threads for blocking work.
#[derive(Clone, Debug)]
#[must_use]
pub struct AdminService {
    shared: Arc<Shared>,
    peer: Peer,
}

#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) guard: KeyGuard,
    pub(crate) hosts: BTreeSet<String>,
    prefix: String,
    most_bytes: usize,
    endpoints: Arc<[Endpoint]>,
    description: StaticFile,
    pages: Arc<docs::Pages>,
}

impl AdminService {
    /// The longest body that is read, in bytes.
    const MOST_BYTES: usize = 64 << 10;

    /// A service that finds the address of the peer as [`KeyGuardLayer::new`] says.
    ///
    /// [`KeyGuardLayer::new`]: crate::http::KeyGuardLayer::new
    pub fn new(guard: KeyGuard) -> Self {
        Self::describing(guard, &[])
    }

    /// A service that also describes operations beside it.
    pub(crate) fn describing(guard: KeyGuard, others: &[Operation]) -> Self {
        let endpoints = endpoints::all();
        let operations = endpoints.iter().map(|endpoint| &endpoint.operation);
        let description = openapi::describe(operations.chain(others));
        let description = description.to_string().into();
        let content_type = HeaderValue::from_static("application/json");
        let description = StaticFile::new(description, content_type);
        Self {
            shared: Arc::new(Shared {
                guard,
                hosts: BTreeSet::new(),
                prefix: String::new(),
                most_bytes: Self::MOST_BYTES,
                endpoints: endpoints.into(),
                description,
                pages: Arc::default(),
            }),
            peer: Peer::default(),
        }
    }

    /// Names by which the service is reached. Default: none but addresses and `localhost`.
    pub fn hosts<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Self {
        let names = names
            .into_iter()
            .map(|name| name.into().to_ascii_lowercase());
        self.change(|shared| shared.hosts.extend(names));
        self
    }

    /// The path under which it is mounted, such as `/internal`, if that is still part of the requests
    /// it gets. Default: none.
    pub fn prefix(mut self, path: impl Into<String>) -> Self {
        let path = path.into();
        self.change(|shared| shared.prefix = path.trim_end_matches('/').to_owned());
        self
    }

    /// The longest body that is read, in bytes. Default: 64 KiB.
    pub fn most_bytes(mut self, bytes: usize) -> Self {
        self.change(|shared| shared.most_bytes = bytes);
        self
    }

    /// As [`KeyGuardLayer::peer`](crate::http::KeyGuardLayer::peer).
    pub fn peer(
        mut self,
        find: impl Fn(&Extensions) -> Option<ClientIp> + Send + Sync + 'static,
    ) -> Self {
        self.peer = Peer::Found(Arc::new(find));
        self
    }

    /// As [`KeyGuardLayer::peer_address`](crate::http::KeyGuardLayer::peer_address).
    pub fn peer_address(&self, peer: impl Into<ClientIp>) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            peer: Peer::Known(peer.into()),
        }
    }

    /// Changes the settings of this service; its clones keep theirs.
    fn change(&mut self, change: impl FnOnce(&mut Shared)) {
        change(Arc::make_mut(&mut self.shared));
    }

    fn answer<B>(&self, request: Request<B>) -> Answer
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let shared = Arc::clone(&self.shared);
        let peer = self.peer.of(request.extensions());
        Box::pin(async move {
            let Some(peer) = peer else {
                return Ok(peer::unknown(&shared.guard));
            };
            let (parts, body) = request.into_parts();
            let answered = async {
                let bytes = read_body(body, shared.most_bytes).await?;
                blocking(move || shared.respond(&parts, &bytes, peer)).await
            };
            Ok(answered.await.unwrap_or_else(Problem::into_response))
        })
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send>>;

/// Work that waits for the disk.
async fn blocking(
    work: impl FnOnce() -> Result<Response<Full<Bytes>>, Problem> + Send + 'static,
) -> Result<Response<Full<Bytes>>, Problem> {
    if tokio::runtime::Handle::try_current().is_err() {
        return work();
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| {
        let detail = "The request could not be carried out to its end.";
        let code = "unavailable";
        Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, code, detail))
    })
}

impl Shared {
    fn respond(
        &self,
        parts: &Parts,
        body: &[u8],
        peer: ClientIp,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        access::require_own_name(&parts.headers, &parts.uri, &self.hosts)?;
        let path = parts.uri.path();
        let path = path.strip_prefix(self.prefix.as_str()).unwrap_or_default();
        let is_get = matches!(parts.method, Method::GET | Method::HEAD);
        match path {
            "/openapi.json" if is_get => Ok(self.description.answer(&parts.headers)),
            _ if is_get && (path == "/docs" || path.starts_with("/docs/")) => {
                self.pages.answer(path, &parts.headers)
            }
            _ if path == "/admin" || path.starts_with("/admin/") => {
                let client = access::require_admin(&self.guard, parts, peer)?;
                let (endpoint, id) = self.find(&parts.method, path)?;
                let admin = access::acting(&self.guard, parts, body, client)?;
                endpoint.answer(&admin, &Asked::new(parts, body, id))
            }
            "/openapi.json" | "/docs" => Err(Problem::not_allowed(["GET", "HEAD"].into_iter())),
            _ => Err(nothing_there()),
        }
    }

    /// The endpoint at a path, and the id in it.
    fn find(&self, method: &Method, path: &str) -> Result<(&Endpoint, u64), Problem> {
        let at_path = || {
            let endpoints = self.endpoints.iter();
            endpoints.filter_map(|endpoint| Some((endpoint, endpoint.operation.matches(path)?)))
        };
        let method = match method {
            &Method::HEAD => &Method::GET,
            method => method,
        };
        if let Some((endpoint, id)) =
            at_path().find(|(endpoint, _)| endpoint.operation.method == method)
        {
            let id = id.unwrap_or("0").parse();
            return Ok((endpoint, id.map_err(|_| nothing_there())?));
        }
        let mut allowed = at_path()
            .map(|(endpoint, _)| endpoint.operation.method.as_str())
            .peekable();
        match allowed.peek() {
            None => Err(nothing_there()),
            Some(_) => Err(Problem::not_allowed(allowed)),
        }
    }
}

fn nothing_there() -> Problem {
    let detail = "There is nothing at this path; /openapi.json lists what there is.";
    Problem::new(StatusCode::NOT_FOUND, "not_found", detail)
}

impl<B> tower_service::Service<Request<B>> for AdminService
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Answer {
        self.answer(request)
    }
}

impl<B> hyper::service::Service<Request<B>> for AdminService
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<B>) -> Answer {
        self.answer(request)
    }
}
