//! Stands in for the module `axum` without the feature of that name.

use http::Extensions;

use crate::net::ClientIp;

pub(super) fn nested_prefix(_: &Extensions) -> Option<String> {
    None
}

pub(super) fn original_path(_: &Extensions) -> Option<&str> {
    None
}

pub(super) fn peer(_: &Extensions) -> Option<ClientIp> {
    None
}
