//! The layer that limits by IP address.

use std::sync::Arc;

use http::Extensions;
use http::request::Parts;
use tower_layer::Layer;

use super::paths::PathPrefix;
use super::service::KeyGuardService;
use super::{Admission, Admit, remove_identity};
use crate::guard;
use crate::http::grpc;
use crate::http::peer::{self, PeerSource};
use crate::keyguard::KeyGuard;
use crate::net::ClientIp;
use crate::policy::IpLimit;

/// Limits single routes by client address, with or without a key, like [`KeyGuard::check_ip`]: a login
/// form, a sign-up.
///
/// It inserts the address of the client into the extensions of the request as a [`LimitedClient`], with
/// which a handler can [`Admin::block`](crate::Admin::block) the client. It removes the header fields that
/// start with `X-KeyGuard-`.
///
/// ```
/// use keyguard::http::IpLimitLayer;
/// use keyguard::{IpLimit, KeyGuard};
///
/// fn login_layer(kg: KeyGuard) -> Result<IpLimitLayer, Box<dyn std::error::Error>> {
///     let limit = IpLimit::new("login", "3/min")?.lockout("5 minutes")?;
///     Ok(IpLimitLayer::new(kg, limit))
/// }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct IpLimitLayer {
    guard: KeyGuard,
    limit: Arc<IpLimit>,
    peer: PeerSource,
    prefix: PathPrefix,
}

/// The client address that an [`IpLimitLayer`] counted, in the extensions of a request.
///
/// Inner layers do not take it for the peer, because a trusted proxy may have named it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitedClient(pub ClientIp);

impl IpLimitLayer {
    /// Creates a layer that finds the address of the peer as
    /// [`KeyGuardLayer::new`](super::KeyGuardLayer::new) does.
    pub fn new(guard: KeyGuard, limit: IpLimit) -> Self {
        Self {
            guard,
            limit: Arc::new(limit),
            peer: PeerSource::default(),
            prefix: PathPrefix::default(),
        }
    }

    /// Sets the prefix that a router removes, like
    /// [`KeyGuardLayer::prefix`](super::KeyGuardLayer::prefix). Locks of a path are compared with the path
    /// including the prefix.
    pub fn prefix(mut self, path: impl AsRef<str>) -> Self {
        self.prefix = PathPrefix::new(path.as_ref());
        self
    }

    /// Sets how the address of the peer is found, like
    /// [`KeyGuardLayer::peer_from`](super::KeyGuardLayer::peer_from).
    pub fn peer_from(
        mut self,
        find: impl Fn(&Extensions) -> Option<ClientIp> + Send + Sync + 'static,
    ) -> Self {
        self.peer = PeerSource::Find(Arc::new(find));
        self
    }

    /// Returns a layer for one connection, like
    /// [`KeyGuardLayer::for_peer`](super::KeyGuardLayer::for_peer).
    pub fn for_peer(&self, peer: impl Into<ClientIp>) -> Self {
        Self {
            peer: PeerSource::Fixed(peer.into()),
            ..self.clone()
        }
    }
}

impl Admit for IpLimitLayer {
    fn may_wait(&self) -> bool {
        self.guard.inner.is_remote()
    }

    async fn admit(&self, head: &mut Parts) -> Admission {
        let Some(peer) = self.peer.address(&head.extensions) else {
            return Err(Box::new(peer::unknown(&self.guard)));
        };
        let paths = self.prefix.paths(head);
        let request = guard::Request::new(&head.headers, peer, &paths.first)
            .other_paths(&paths.others)
            .method(&head.method);
        let client = guard::check_ip(&self.guard.inner, &request, &self.limit).await;
        let refusal = |denial| Box::new(grpc::refusal(&denial, &head.headers));
        let client = client.map_err(refusal)?;
        remove_identity(&mut head.headers);
        head.extensions.insert(LimitedClient(client));
        Ok(None)
    }
}

impl<S> Layer<S> for IpLimitLayer {
    type Service = KeyGuardService<S, Self>;

    fn layer(&self, service: S) -> KeyGuardService<S, Self> {
        KeyGuardService::new(service, self.clone())
    }
}
