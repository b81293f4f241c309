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

    /// The path that was asked for: that of the request, behind what routers have taken away. A
    /// rewritten path counts as asked for.
    pub(super) fn path<'h>(&self, head: &'h Parts) -> Cow<'h, str> {
        let path = head.uri.path();
        let nested = axum::nested_at(&head.extensions).unwrap_or_default();
        if nested.is_empty() && self.prefix.is_empty() {
            return path.into();
        }
        let rest = match path {
            // What is left of `/api` in a router at `/api`, as of `/api/`.
            "/" if axum::original_path(&head.extensions) == Some(&nested) => "",
            path => path,
        };
        let slash = if rest.is_empty() || rest.starts_with('/') {
            ""
        } else {
            "/"
        };
        format!("{}{slash}{rest}", self.whole(&nested)).into()
    }

    /// The prefix that was given together with that of nested routers, which it may name too.
    fn whole<'a>(&'a self, nested: &'a str) -> Cow<'a, str> {
        let prefix = &*self.prefix;
        if nested.starts_with(prefix) {
            nested.into()
        } else if prefix.ends_with(nested) {
            prefix.into()
        } else {
            format!("{prefix}{nested}").into()
        }
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

    #[test]
    fn a_prefix_may_name_nested_routers_or_not() {
        for (prefix, nested, whole) in [
            ("", "/api", "/api"),
            ("/api", "", "/api"),
            ("/api", "/api", "/api"),
            ("/api", "/api/v1", "/api/v1"),
            ("/v1/api", "/api", "/v1/api"),
            ("/v1", "/api", "/v1/api"),
        ] {
            let found = Mount::at(prefix);
            assert_eq!(found.whole(nested), whole, "{prefix} {nested}");
        }
    }
}
