//! Integration with axum: an extractor, and what its routers and servers insert into the extensions
//! of a request.

mod extract;

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, NestedPath, OriginalUri};
use http::Extensions;

pub use self::extract::{Authenticated, AuthenticatedRejection};
use crate::net::ClientIp;

/// Returns the prefix that nested routers have removed from the path.
pub(super) fn nested_prefix(extensions: &Extensions) -> Option<String> {
    let pattern = extensions.get::<NestedPath>()?.as_str();
    let mut original = original_path(extensions).unwrap_or_default().split('/');
    let segments = pattern.trim_end_matches('/').split('/').map(|segment| {
        let original = original.next().unwrap_or_default();
        let is_capture = segment.contains('{');
        if is_capture { original } else { segment }
    });
    Some(segments.collect::<Vec<_>>().join("/"))
}

/// Returns the path of the request when it reached the outermost router.
pub(super) fn original_path(extensions: &Extensions) -> Option<&str> {
    let OriginalUri(uri) = extensions.get()?;
    Some(uri.path())
}

/// Returns the peer of the connection.
pub(super) fn peer(extensions: &Extensions) -> Option<ClientIp> {
    let ConnectInfo(address) = extensions.get::<ConnectInfo<SocketAddr>>()?;
    Some((*address).into())
}
