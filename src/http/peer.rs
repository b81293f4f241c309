//! The address of the peer of a connection, which the server knows.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{Extensions, Response, StatusCode};

use super::axum;
use super::problem::Problem;
use crate::keyguard::KeyGuard;
use crate::net::ClientIp;

/// Where the address of a peer is found.
#[derive(Clone, Default)]
pub(super) enum PeerSource {
    /// A [`ClientIp`], a [`SocketAddr`] or axum's `ConnectInfo` in the extensions of the request.
    #[default]
    Extensions,
    Find(Arc<Find>),
    Fixed(ClientIp),
}

type Find = dyn Fn(&Extensions) -> Option<ClientIp> + Send + Sync;

impl PeerSource {
    pub(super) fn address(&self, extensions: &Extensions) -> Option<ClientIp> {
        match self {
            Self::Extensions => extensions
                .get::<ClientIp>()
                .copied()
                .or_else(|| Some((*extensions.get::<SocketAddr>()?).into()))
                .or_else(|| axum::peer(extensions)),
            Self::Find(find) => find(extensions),
            Self::Fixed(ip) => Some(*ip),
        }
    }
}

impl fmt::Debug for PeerSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Extensions => "Extensions",
            Self::Find(_) => "Find",
            Self::Fixed(_) => "Fixed",
        })
    }
}

/// Warns and returns the response to a request from an unknown peer. An assumed address would make all
/// clients share its limits.
pub(super) fn unknown<B: From<String>>(guard: &KeyGuard) -> Response<B> {
    guard.inner.warnings().add(
        "requests get status 500 because the server does not provide the address of the peer: with \
         axum, enable the feature `axum` and serve the router with \
         `into_make_service_with_connect_info::<SocketAddr>()`; elsewhere call `peer_from` or `for_peer` \
         on the layer",
    );
    let detail = "The server does not provide the address of the peer. With axum, serve the router with \
         `into_make_service_with_connect_info::<SocketAddr>()`; elsewhere call `peer_from` or `for_peer` \
         on the layer.";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "peer_unknown", detail).into_response()
}
