//! What axum notes among the extensions of a request.

use http::{Extensions, Uri};

use crate::client_ip::ClientIp;

/// The target that the client asked for: routers that are nested see a part of its path.
#[cfg(feature = "axum")]
pub(super) fn original_uri(extensions: &Extensions) -> Option<&Uri> {
    Some(&extensions.get::<axum::extract::OriginalUri>()?.0)
}

/// The peer of the connection.
#[cfg(feature = "axum")]
pub(super) fn peer(extensions: &Extensions) -> Option<ClientIp> {
    let info = extensions.get::<axum::extract::ConnectInfo<std::net::SocketAddr>>()?;
    Some(info.0.into())
}

#[cfg(not(feature = "axum"))]
pub(super) fn original_uri(_: &Extensions) -> Option<&Uri> {
    None
}

#[cfg(not(feature = "axum"))]
pub(super) fn peer(_: &Extensions) -> Option<ClientIp> {
    None
}
