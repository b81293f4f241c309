//! The layers.

use std::sync::Arc;

use http::request::Parts;
use http::{Extensions, HeaderMap, HeaderName};
use tower_layer::Layer;

use super::gated::{Gate, Gated, Passage};
use super::peer::{self, Peer};
use crate::client_ip::ClientIp;
use crate::guard::{self, KeyGuard};
use crate::ip_limit::IpLimit;

/// Puts services behind a guard: [`KeyGuard::decide`] on every request.
#[derive(Clone, Debug)]
#[must_use]
pub struct KeyGuardLayer {
    guard: KeyGuard,
    peer: Peer,
}

impl KeyGuardLayer {
    /// A layer that finds the address of the peer among the extensions of a request, as a
    /// [`ClientIp`] or a [`SocketAddr`](std::net::SocketAddr). A request without either is refused
    /// with status 500, and [`Stats::warnings`](crate::Stats::warnings) says so.
    pub fn new(guard: KeyGuard) -> Self {
        Self {
            guard,
            peer: Peer::default(),
        }
    }

    /// How the address of the peer is found among the extensions of a request. With axum:
    /// `|extensions| Some(extensions.get::<ConnectInfo<SocketAddr>>()?.0.into())`.
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
        let asked =
            guard::Request::new(&head.headers, peer, head.uri.path()).method(head.method.as_str());
        let grant = self.guard.decide_async(asked).await;
        let grant = Arc::new(grant.map_err(|denial| Box::new(denial.response()))?);
        remove_identity(&mut head.headers);
        head.extensions.insert(Arc::clone(&grant));
        Ok(Some(grant))
    }
}

/// Takes away what only a proxy of ours says.
fn remove_identity(headers: &mut HeaderMap) {
    let is_ours = |name: &&HeaderName| name.as_str().starts_with("x-keyguard-");
    while let Some(name) = headers.keys().find(is_ours).cloned() {
        headers.remove(name);
    }
}

impl<S> Layer<S> for KeyGuardLayer {
    type Service = Gated<S, Self>;

    fn layer(&self, service: S) -> Gated<S, Self> {
        let gate = self.clone();
        Gated { service, gate }
    }
}

/// Limits single routes by address, key or not, as [`KeyGuard::check_ip`] does: a login form, a
/// sign-up.
///
/// The address of the client that it decided for is then among the extensions of the request, as a
/// [`ClientIp`]: with it a handler can [`KeyGuard::block`] who asks.
#[derive(Clone, Debug)]
#[must_use]
pub struct IpLimitLayer {
    guard: KeyGuard,
    limit: Arc<IpLimit>,
    peer: Peer,
}

impl IpLimitLayer {
    /// A layer that finds the address of the peer as [`KeyGuardLayer::new`] says.
    pub fn new(guard: KeyGuard, limit: IpLimit) -> Self {
        Self {
            guard,
            limit: Arc::new(limit),
            peer: Peer::default(),
        }
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
        let asked = guard::Request::new(&head.headers, peer, head.uri.path());
        let client = self.guard.inner.check_ip(&self.limit, &asked).await;
        let client = client.map_err(|denial| Box::new(denial.response()))?;
        head.extensions.insert(client);
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
