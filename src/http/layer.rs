//! The layers.

use std::sync::Arc;

use http::request::Parts;
use http::{Extensions, HeaderMap, HeaderName, Method};
use smallvec::SmallVec;
use tower_layer::Layer;

use super::gated::{Gate, Gated, Passage};
use super::mount::{Mount, Paths};
use super::peer::{self, Peer};
use crate::counter::IpLimit;
use crate::guard::{self, Grant, GuardId};
use crate::keyguard::KeyGuard;
use crate::net::ClientIp;

/// Puts services behind a guard: [`KeyGuard::decide`] on every request.
#[derive(Clone, Debug)]
#[must_use]
pub struct KeyGuardLayer {
    guard: KeyGuard,
    peer: Peer,
    mount: Mount,
}

impl KeyGuardLayer {
    /// A layer that finds the address of the peer among the extensions of a request, as a
    /// [`ClientIp`], a [`SocketAddr`](std::net::SocketAddr) or, with the feature `axum`, axum's
    /// `ConnectInfo<SocketAddr>`. A request without any of them is refused with status 500, and
    /// [`Stats::warnings`](crate::Stats::warnings) says so.
    pub fn new(guard: KeyGuard) -> Self {
        Self {
            guard,
            peer: Peer::default(),
            mount: Mount::default(),
        }
    }

    /// The prefix that a router in front removes from the paths of requests, such as `/api`. Default:
    /// none.
    ///
    /// With the feature `axum`, prefixes that axum's own nested routers remove are known without it. A
    /// path that was rewritten before the layer counts as rewritten.
    ///
    /// In a router of axum the path that the client sent is not always certain: where something other
    /// than axum removes a prefix or rewrites the path within it, or where the prefix given here names
    /// what a nested router removes. Such a request is decided by every path that it may have been sent
    /// for: the policy protects it if it protects one of them, the rules of all routes that match one of
    /// them hold, and it is open or exempt only if all of them are. Usage is recorded under one of them.
    ///
    /// [`Stats::warnings`](crate::Stats::warnings) names what the policy protects outside of the
    /// prefixes of all layers of the guard: no request for it reaches them.
    pub fn prefix(mut self, path: impl AsRef<str>) -> Self {
        self.mount = Mount::at(path.as_ref());
        self
    }

    /// How the address of the peer is found among the extensions of a request.
    pub fn peer(
        mut self,
        find: impl Fn(&Extensions) -> Option<ClientIp> + Send + Sync + 'static,
    ) -> Self {
        self.peer = Peer::Found(Arc::new(find));
        self
    }

    /// The peer of all requests, where services are made for each connection.
    pub fn peer_address(&self, peer: impl Into<ClientIp>) -> Self {
        Self {
            guard: self.guard.clone(),
            peer: Peer::Known(peer.into()),
            mount: self.mount.clone(),
        }
    }
}

impl Gate for KeyGuardLayer {
    fn asks_others(&self) -> bool {
        self.guard.inner.asks_others()
    }

    async fn admit(&self, head: &mut Parts) -> Passage {
        let Some(peer) = self.peer.of(&head.extensions) else {
            return Err(Box::new(peer::unknown(&self.guard)));
        };
        let paths = self.mount.paths(head);
        let earlier = head.extensions.get::<Decisions>();
        let earlier = earlier.and_then(|made| made.find(&self.guard, &head.method, &paths));
        if let Some(grant) = earlier {
            head.extensions.insert(grant);
            return Ok(None);
        }
        let asked = guard::Request::new(&head.headers, peer, &paths.first)
            .other_paths(&paths.others)
            .method(head.method.as_str());
        let grant = self.guard.decide_async(asked).await;
        let grant = Arc::new(grant.map_err(|denial| Box::new(denial.response()))?);
        let decision = Decision {
            guard: self.guard.inner.id(),
            method: head.method.clone(),
            path: paths.first.as_bytes().into(),
            other_paths: paths.others,
            grant: Arc::clone(&grant),
        };
        remove_identity(&mut head.headers);
        let decisions: &mut Decisions = head.extensions.get_or_insert_default();
        decisions.0.push(decision);
        head.extensions.insert(Arc::clone(&grant));
        Ok(Some(grant))
    }
}

/// What the layers around a service have decided about one request. It is among the extensions,
/// which no client can reach.
#[derive(Clone, Default)]
struct Decisions(SmallVec<[Decision; 1]>);

#[derive(Clone)]
struct Decision {
    guard: GuardId,
    method: Method,
    path: SmallVec<[u8; 40]>,
    other_paths: Vec<String>,
    grant: Arc<Grant>,
}

impl Decision {
    fn is_for(&self, path: &str) -> bool {
        *self.path == *path.as_bytes() || self.other_paths.iter().any(|other| other == path)
    }
}

impl Decisions {
    /// The grant of this guard for the same method and all of these paths: a request that was rewritten
    /// in between is another one.
    fn find(&self, guard: &KeyGuard, method: &Method, paths: &Paths<'_>) -> Option<Arc<Grant>> {
        let is_the_same = |made: &&Decision| {
            made.guard == guard.inner.id()
                && made.method == method
                && paths.iter().all(|path| made.is_for(path))
        };
        let decision = self.0.iter().find(is_the_same)?;
        Some(Arc::clone(&decision.grant))
    }
}

/// Takes away what only a proxy of ours says. To some servers behind, `_` is `-` (CGI, WSGI).
fn remove_identity(headers: &mut HeaderMap) {
    const OURS: &[u8] = b"x-keyguard-";
    let is_ours = |name: &&HeaderName| {
        let start = name.as_str().as_bytes().get(..OURS.len());
        start.is_some_and(|start| {
            let mut bytes = start.iter().zip(OURS);
            bytes.all(|(byte, ours)| byte == ours || (*byte == b'_' && *ours == b'-'))
        })
    };
    while let Some(name) = headers.keys().find(is_ours).cloned() {
        headers.remove(name);
    }
}

impl<S> Layer<S> for KeyGuardLayer {
    type Service = Gated<S, Self>;

    fn layer(&self, service: S) -> Gated<S, Self> {
        self.guard.inner.mounts().add(self.mount.prefix());
        let gate = self.clone();
        Gated { service, gate }
    }
}

/// The client that an [`IpLimitLayer`] decided for, among the extensions of a request.
///
/// Layers behind do not take it for their peer: a trusted proxy may have named it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecidedClient(pub ClientIp);

/// Limits single routes by address, key or not, as [`KeyGuard::check_ip`] does: a login form, a
/// sign-up.
///
/// The address of the client that it decided for is then among the extensions of the request, as a
/// [`DecidedClient`]: with it a handler can [`Admin::block`] who asks. What a client sent in fields that
/// start with `X-KeyGuard-` is taken away.
#[derive(Clone, Debug)]
#[must_use]
pub struct IpLimitLayer {
    guard: KeyGuard,
    limit: Arc<IpLimit>,
    peer: Peer,
    mount: Mount,
}

impl IpLimitLayer {
    /// A layer that finds the address of the peer as [`KeyGuardLayer::new`] says.
    pub fn new(guard: KeyGuard, limit: IpLimit) -> Self {
        Self {
            guard,
            limit: Arc::new(limit),
            peer: Peer::default(),
            mount: Mount::default(),
        }
    }

    /// As [`KeyGuardLayer::prefix`]; locks of a path go by the whole of it.
    pub fn prefix(mut self, path: impl AsRef<str>) -> Self {
        self.mount = Mount::at(path.as_ref());
        self
    }

    /// As [`KeyGuardLayer::peer`].
    pub fn peer(
        mut self,
        find: impl Fn(&Extensions) -> Option<ClientIp> + Send + Sync + 'static,
    ) -> Self {
        self.peer = Peer::Found(Arc::new(find));
        self
    }

    /// As [`KeyGuardLayer::peer_address`].
    pub fn peer_address(&self, peer: impl Into<ClientIp>) -> Self {
        Self {
            peer: Peer::Known(peer.into()),
            ..self.clone()
        }
    }
}

impl Gate for IpLimitLayer {
    fn asks_others(&self) -> bool {
        self.guard.inner.asks_others()
    }

    async fn admit(&self, head: &mut Parts) -> Passage {
        let Some(peer) = self.peer.of(&head.extensions) else {
            return Err(Box::new(peer::unknown(&self.guard)));
        };
        let paths = self.mount.paths(head);
        let asked = guard::Request::new(&head.headers, peer, &paths.first);
        let asked = asked.other_paths(&paths.others);
        let client = self.guard.inner.check_ip(&self.limit, &asked).await;
        let client = client.map_err(|denial| Box::new(denial.response()))?;
        remove_identity(&mut head.headers);
        head.extensions.insert(DecidedClient(client));
        Ok(None)
    }
}

impl<S> Layer<S> for IpLimitLayer {
    type Service = Gated<S, Self>;

    fn layer(&self, service: S) -> Gated<S, Self> {
        let gate = self.clone();
        Gated { service, gate }
    }
}
