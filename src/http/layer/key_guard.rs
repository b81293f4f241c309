//! The layer that requires keys.

use std::sync::Arc;

use http::Extensions;
use http::request::Parts;
use tower_layer::Layer;

use super::decisions::{Decision, Decisions};
use super::paths::PathPrefix;
use super::service::KeyGuardService;
use super::{Admission, Admit, remove_identity};
use crate::guard;
use crate::http::grpc;
use crate::http::peer::{self, PeerSource};
use crate::keyguard::KeyGuard;
use crate::net::ClientIp;

/// Protects a service: admits or refuses every request, like [`KeyGuard::decide`].
///
/// ```
/// use keyguard::KeyGuard;
/// use keyguard::http::{KeyGuardLayer, KeyGuardService};
/// use tower_layer::Layer;
///
/// fn protected<S>(kg: KeyGuard, service: S) -> KeyGuardService<S, KeyGuardLayer> {
///     KeyGuardLayer::new(kg).layer(service)
/// }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct KeyGuardLayer {
    guard: KeyGuard,
    peer: PeerSource,
    prefix: PathPrefix,
}

impl KeyGuardLayer {
    /// Creates a layer that finds the address of the peer in the extensions of a request: a
    /// [`ClientIp`], a [`SocketAddr`](std::net::SocketAddr) or, with the feature `axum`, axum's
    /// `ConnectInfo<SocketAddr>`. A request without any of them gets status 500, and a warning appears
    /// in [`Stats::warnings`](crate::Stats::warnings).
    pub fn new(guard: KeyGuard) -> Self {
        Self {
            guard,
            peer: PeerSource::default(),
            prefix: PathPrefix::default(),
        }
    }

    /// Sets the prefix that a router in front of the layer removes from request paths, such as `/api`.
    /// Default: none.
    ///
    /// With the feature `axum`, the prefixes that axum's nested routers remove are detected without this
    /// setting. A path that was rewritten before the layer is decided in its rewritten form.
    ///
    /// In an axum router the path that the client sent is sometimes ambiguous: where something other
    /// than axum removes a prefix or rewrites the path within the router, or where this prefix contains
    /// the path of a nested router. All possible paths are then decided together: the request needs a
    /// key if one of them does, the rules of all routes that match one of them apply, and the request is
    /// open or exempt only if all of them are. Usage is recorded under one of them.
    ///
    /// [`Stats::warnings`](crate::Stats::warnings) lists protected paths outside the prefixes of all
    /// layers of the guard: no request for them reaches a layer.
    pub fn prefix(mut self, path: impl AsRef<str>) -> Self {
        self.prefix = PathPrefix::new(path.as_ref());
        self
    }

    /// Sets how the address of the peer is found in the extensions of a request.
    pub fn peer_from(
        mut self,
        find: impl Fn(&Extensions) -> Option<ClientIp> + Send + Sync + 'static,
    ) -> Self {
        self.peer = PeerSource::Find(Arc::new(find));
        self
    }

    /// Returns a layer for one connection, all requests of which come from `peer`.
    pub fn for_peer(&self, peer: impl Into<ClientIp>) -> Self {
        Self {
            peer: PeerSource::Fixed(peer.into()),
            ..self.clone()
        }
    }
}

impl Admit for KeyGuardLayer {
    fn may_wait(&self) -> bool {
        self.guard.inner.is_remote()
    }

    async fn admit(&self, head: &mut Parts) -> Admission {
        let Some(peer) = self.peer.address(&head.extensions) else {
            return Err(Box::new(peer::unknown(&self.guard)));
        };
        let paths = self.prefix.paths(head);
        if let Some(grant) = Decisions::find(head, &self.guard, &paths) {
            head.extensions.insert(grant);
            return Ok(None);
        }
        let request = guard::Request::new(&head.headers, peer, &paths.first)
            .other_paths(&paths.others)
            .method(&head.method);
        let grant = self.guard.decide_async(request).await;
        let refusal = |denial| Box::new(grpc::refusal(&denial, &head.headers));
        let grant = Arc::new(grant.map_err(refusal)?);
        let decision = Decision::new(&self.guard, &head.method, paths, &grant);
        remove_identity(&mut head.headers);
        Decisions::add(head, decision);
        head.extensions.insert(Arc::clone(&grant));
        Ok(Some(grant))
    }
}

impl<S> Layer<S> for KeyGuardLayer {
    type Service = KeyGuardService<S, Self>;

    fn layer(&self, service: S) -> KeyGuardService<S, Self> {
        self.guard.inner.mounts().add(self.prefix.as_arc());
        KeyGuardService::new(service, self.clone())
    }
}
