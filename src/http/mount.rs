//! Which path a request was sent for.

use std::borrow::Cow;
use std::sync::Arc;

use http::request::Parts;

use super::axum;

/// The path under which a layer is mounted, which is no longer part of the requests that it gets.
#[derive(Clone, Debug, Default)]
pub(super) struct Mount {
    /// Empty, or `/` and what follows, without a slash at its end.
    prefix: Arc<str>,
}

impl Mount {
    pub(super) fn at(prefix: &str) -> Self {
        let prefix = match prefix.trim_matches('/') {
            "" => String::new(),
            path => format!("/{path}"),
        };
        Self {
            prefix: prefix.into(),
        }
    }

    pub(super) fn prefix(&self) -> &Arc<str> {
        &self.prefix
    }

    /// The path as the client sent it: the one that axum notes, or that of the request behind the
    /// prefix.
    pub(super) fn path<'h>(&self, head: &'h Parts) -> Cow<'h, str> {
        if let Some(uri) = axum::original_uri(&head.extensions) {
            return uri.path().into();
        }
        let path = head.uri.path();
        if self.prefix.is_empty() {
            return path.into();
        }
        let slash = if path.starts_with('/') { "" } else { "/" };
        format!("{}{slash}{path}", self.prefix).into()
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn a_prefix_is_put_before_the_path_once() {
        for (prefix, target, path) in [
            ("", "/data?x", "/data"),
            ("/", "/data", "/data"),
            ("/api", "/data?x", "/api/data"),
            ("/api/", "/", "/api/"),
            ("api/v1", "//x", "/api/v1//x"),
            ("/api", "*", "/api/*"),
            ("/api", "http://h/data", "/api/data"),
        ] {
            let (head, ()) = Request::get(target).body(()).unwrap().into_parts();
            assert_eq!(Mount::at(prefix).path(&head), path, "{prefix} {target}");
        }
    }
}
