//! What axum notes among the extensions of a request.

use http::Extensions;

use crate::net::ClientIp;

/// The part of the path that routers of axum have taken away, for they nest the service behind.
#[cfg(feature = "axum")]
pub(super) fn nested_at(extensions: &Extensions) -> Option<String> {
    let pattern = extensions.get::<axum::extract::NestedPath>()?.as_str();
    let mut original = original_path(extensions).unwrap_or_default().split('/');
    let segments = pattern.trim_end_matches('/').split('/').map(|segment| {
        let original = original.next().unwrap_or_default();
        let is_capture = segment.contains('{');
        if is_capture { original } else { segment }
    });
    Some(segments.collect::<Vec<_>>().join("/"))
}

/// The path of the request that the outermost router of axum got.
#[cfg(feature = "axum")]
pub(super) fn original_path(extensions: &Extensions) -> Option<&str> {
    let original = extensions.get::<axum::extract::OriginalUri>()?;
    Some(original.0.path())
}

/// The peer of the connection.
#[cfg(feature = "axum")]
pub(super) fn peer(extensions: &Extensions) -> Option<ClientIp> {
    let info = extensions.get::<axum::extract::ConnectInfo<std::net::SocketAddr>>()?;
    Some(info.0.into())
}

#[cfg(not(feature = "axum"))]
pub(super) fn nested_at(_: &Extensions) -> Option<String> {
    None
}

#[cfg(not(feature = "axum"))]
pub(super) fn original_path(_: &Extensions) -> Option<&str> {
    None
}

#[cfg(not(feature = "axum"))]
pub(super) fn peer(_: &Extensions) -> Option<ClientIp> {
    None
}
