//! Which address a request comes from: what the server knows and HTTP does not say.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{Extensions, StatusCode};

use super::axum;
use super::problem::Problem;
use crate::keyguard::KeyGuard;
use crate::net::ClientIp;

/// Finds the address of a peer.
type Find = dyn Fn(&Extensions) -> Option<ClientIp> + Send + Sync;

/// How the address of a peer is found.
#[derive(Clone, Default)]
pub(super) enum Peer {
    /// As a [`ClientIp`], a [`SocketAddr`] or axum's `ConnectInfo` among the extensions of the
    /// request.
    #[default]
    Extension,
    Found(Arc<Find>),
    Known(ClientIp),
}

impl Peer {
    pub(super) fn of(&self, extensions: &Extensions) -> Option<ClientIp> {
        match self {
            Self::Extension => extensions
                .get::<ClientIp>()
                .copied()
                .or_else(|| Some((*extensions.get::<SocketAddr>()?).into()))
                .or_else(|| axum::peer(extensions)),
            Self::Found(find) => find(extensions),
            Self::Known(ip) => Some(*ip),
        }
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Extension => "Extension",
            Self::Found(_) => "Found",
            Self::Known(_) => "Known",
        })
    }
}

/// The answer to a request of whom nobody knows where it comes from: deciding it as if it came from
/// somewhere would limit all clients as one.
pub(super) fn unknown<B: From<String>>(guard: &KeyGuard) -> http::Response<B> {
    guard.inner.warn(
        "requests are refused, as the server does not say where they come from: give the layer a \
         `peer` or a `peer_address`; with axum, enable the feature `axum` and serve the router by \
         `into_make_service_with_connect_info`",
    );
    let detail = "The server does not know where the request comes from.";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "peer_unknown", detail).into_response()
}
