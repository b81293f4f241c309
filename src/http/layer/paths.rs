//! The paths that a client may have sent.
//!
//! Routers and other services in front of a layer remove prefixes from the path of a request, or rewrite
//! it. Four things are known: the path when it reached the outermost axum router (the original path), the
//! prefix that nested axum routers removed, the path that remains, and the prefix that was given to the
//! layer. They do not always tell in which order prefixes were removed, so there may be several
//! candidates.

use std::borrow::Cow;
use std::sync::Arc;

use http::request::Parts;

use crate::http::axum;

/// The prefix that is removed from request paths in front of a layer.
///
/// It is empty, or starts with `/` and does not end with it.
#[derive(Clone, Debug, Default)]
pub(super) struct PathPrefix(Arc<str>);

impl PathPrefix {
    pub(super) fn new(prefix: &str) -> Self {
        Self(match prefix.trim_matches('/') {
            "" => Arc::default(),
            path => format!("/{path}").into(),
        })
    }

    pub(super) fn as_arc(&self) -> &Arc<str> {
        &self.0
    }

    /// Returns the paths that the client may have sent.
    pub(super) fn paths<'h>(&self, head: &'h Parts) -> RequestPaths<'h> {
        let original = axum::original_path(&head.extensions);
        let nested = axum::nested_prefix(&head.extensions).unwrap_or_default();
        self.candidates(original, &nested, head.uri.path())
    }

    fn candidates<'h>(
        &self,
        original: Option<&str>,
        nested: &str,
        path: &'h str,
    ) -> RequestPaths<'h> {
        let is_whole = original.is_none_or(|original| original == path);
        if is_whole && nested.is_empty() && self.0.is_empty() {
            return RequestPaths::one(path);
        }
        let mut found = Vec::new();
        let removed = original.and_then(|original| removed_prefix(original, path));
        if let Some((removed, rest)) = removed {
            self.add_removed(removed, rest, &mut found);
        }
        if removed.is_none_or(|(removed, _)| removed != nested) {
            // The path was rewritten, or something other than axum removed a prefix within one of its
            // routers.
            self.add_removed(nested, path, &mut found);
            for at in boundaries(nested) {
                add([&nested[..at], &self.0, &nested[at..], path], &mut found);
            }
        }
        found.into()
    }

    /// Adds the candidates where `removed` was removed in front of `rest`, and the given prefix before
    /// that. The given prefix may contain a part of `removed`, or all of it.
    fn add_removed(&self, removed: &str, rest: &str, found: &mut Vec<String>) {
        let prefix = &*self.0;
        let mut occurrences = removed.match_indices(prefix);
        if occurrences.any(|(at, _)| is_boundary(removed, at + prefix.len())) {
            add(["", "", removed, rest], found);
        }
        for at in boundaries(removed) {
            // Both start with a slash, so whole segments are compared.
            if prefix.ends_with(&removed[..at]) {
                add(["", prefix, &removed[at..], rest], found);
            }
        }
    }
}

/// The paths that the client may have sent, at least one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RequestPaths<'h> {
    /// The path under which usage is recorded.
    pub(super) first: Cow<'h, str>,
    pub(super) others: Vec<String>,
}

impl<'h> RequestPaths<'h> {
    fn one(path: &'h str) -> Self {
        Self {
            first: path.into(),
            others: Vec::new(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&*self.first).chain(self.others.iter().map(String::as_str))
    }
}

impl From<Vec<String>> for RequestPaths<'_> {
    fn from(paths: Vec<String>) -> Self {
        let mut paths = paths.into_iter();
        Self {
            first: paths.next().unwrap_or_default().into(),
            others: paths.collect(),
        }
    }
}

/// Adds the path that consists of these parts, if it is new.
fn add([start, middle, end, rest]: [&str; 4], paths: &mut Vec<String>) {
    let front = [start, middle, end].concat();
    let needs_slash = !(front.is_empty() || rest.is_empty() || rest.starts_with('/'));
    let path = [&*front, if needs_slash { "/" } else { "" }, rest].concat();
    if !paths.contains(&path) {
        paths.push(path);
    }
}

/// Splits a path into the prefix that was removed and the rest, if it ends with the rest.
fn removed_prefix<'a>(original: &'a str, rest: &'a str) -> Option<(&'a str, &'a str)> {
    match original.strip_suffix(rest) {
        Some(removed) => Some((removed, rest)),
        // A router at `/api` passes `/api` on as `/`, like `/api/`.
        None => (rest == "/").then_some((original, "")),
    }
}

/// Returns the indices at which a segment of a prefix starts, and its end; the longest first, which
/// gives the likeliest candidate first.
fn boundaries(prefix: &str) -> impl Iterator<Item = usize> {
    (0..=prefix.len())
        .rev()
        .filter(|at| *at == 0 || is_boundary(prefix, *at))
}

fn is_boundary(prefix: &str, at: usize) -> bool {
    matches!(prefix.as_bytes().get(at), None | Some(b'/'))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn the_prefix_is_prepended_once() {
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
            let paths = PathPrefix::new(prefix).paths(&head);
            assert!(paths.iter().eq([path]), "{prefix} {target}: {paths:?}");
        }
    }

    #[test]
    fn candidates_combine_the_original_path_nested_routers_and_the_prefix() {
        for (prefix, original, nested, path, expected) in [
            // Only axum routers.
            ("", "/data", "", "/data", &["/data"] as &[&str]),
            ("", "/api/data", "/api", "/data", &["/api/data"]),
            ("", "/api", "/api", "/", &["/api"]),
            ("", "/api/", "/api", "/", &["/api/"]),
            // Something in front of them removes the prefix.
            ("/api", "/data", "", "/data", &["/api/data"]),
            ("/a", "/admin/data", "/admin", "/data", &["/a/admin/data"]),
            ("/api", "/api2/data", "/api2", "/data", &["/api/api2/data"]),
            // The prefix may be that of nested routers, or something in front removed the same prefix.
            (
                "/api",
                "/api/data",
                "/api",
                "/data",
                &["/api/data", "/api/api/data"],
            ),
            (
                "/v1/api",
                "/api/data",
                "/api",
                "/data",
                &["/v1/api/data", "/v1/api/api/data"],
            ),
            // Something within a nested router removes `/v1`, or rewrites the path.
            (
                "",
                "/api/v1/data",
                "/api",
                "/data",
                &["/api/v1/data", "/api/data"],
            ),
            (
                "/v1",
                "/api/v1/data",
                "/api",
                "/data",
                &["/api/v1/data", "/v1/api/v1/data", "/v1/api/data"],
            ),
            // Rewritten in front of the layer.
            ("", "/legacy/data", "", "/api/data", &["/api/data"]),
            ("", "/legacy/data", "", "/data", &["/legacy/data", "/data"]),
            ("/v1", "/api/x", "/api", "/y", &["/v1/api/y", "/api/v1/y"]),
        ] {
            let paths = PathPrefix::new(prefix).candidates(Some(original), nested, path);
            let mut found: Vec<&str> = paths.iter().collect();
            let mut expected = expected.to_vec();
            found.sort_unstable();
            expected.sort_unstable();
            assert_eq!(found, expected, "{prefix} {original} {nested} {path}");
        }
    }

    /// `outer` is removed first; then axum routers remove `first` and `last`, and another service removes
    /// `inner` in between.
    #[test]
    fn the_sent_path_is_always_a_candidate() {
        let parts = ["", "/a", "/api", "/api/v1", "/admin"];
        let rests = ["/data", "/", "/api", "/a/api"];
        for [outer, first, inner, last] in fourfold(parts) {
            for rest in rests {
                let original = [first, inner, last, rest].concat();
                let sent = [outer, &original].concat();
                let nested = [first, last].concat();
                let mut correct = vec![outer.to_owned(), [outer, first].concat()];
                correct.push([outer, first, inner, last].concat());
                if outer.is_empty() {
                    correct.extend([inner.to_owned(), [first, inner].concat()]);
                }
                for prefix in &correct {
                    let prefix = PathPrefix::new(prefix);
                    let paths = prefix.candidates(Some(&original), &nested, rest);
                    let found = paths.iter().any(|path| path == sent);
                    assert!(found, "{sent} {prefix:?} {nested} {rest}: {paths:?}");
                }
            }
        }
    }

    fn fourfold<T: Copy, const N: usize>(of: [T; N]) -> impl Iterator<Item = [T; 4]> {
        (0..N.pow(4)).map(move |i| [0, 1, 2, 3].map(|digit| of[i / N.pow(digit) % N]))
    }
}
