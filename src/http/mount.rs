//! The paths that a request may have been sent for.
//!
//! Routers and other services in front of a layer remove prefixes from the path of a request, or rewrite
//! it. Known are the path that the outermost router of axum got (the original one), the prefix that
//! nested routers of axum removed (`nested`), the path that is left, and the prefix that the user gave to
//! the layer. They do not always tell in which order prefixes were removed, so there may be several
//! candidates.

use std::borrow::Cow;
use std::sync::Arc;

use http::request::Parts;

use super::axum;

/// The prefix that was removed from the paths of requests before they reach a layer.
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

    /// The paths that a request may have been sent for.
    pub(super) fn paths<'h>(&self, head: &'h Parts) -> Paths<'h> {
        let original = axum::original_path(&head.extensions);
        let nested = axum::nested_at(&head.extensions).unwrap_or_default();
        self.candidates(original, &nested, head.uri.path())
    }

    fn candidates<'h>(&self, original: Option<&str>, nested: &str, path: &'h str) -> Paths<'h> {
        let is_whole = original.is_none_or(|original| original == path);
        if is_whole && nested.is_empty() && self.prefix.is_empty() {
            return Paths::one(path);
        }
        let mut found = Candidates::default();
        let removed = original.and_then(|original| removed_from(original, path));
        if let Some((removed, rest)) = removed {
            self.add_seen(removed, rest, &mut found);
        }
        if removed.is_none_or(|(removed, _)| removed != nested) {
            // Rewritten, or something else than axum removed a prefix within one of its routers.
            self.add_seen(nested, path, &mut found);
            for at in boundaries(nested) {
                found.add([&nested[..at], &self.prefix, &nested[at..], path]);
            }
        }
        found.into()
    }

    /// Adds the candidates where `seen` was removed in front of `rest`, and the given prefix before
    /// that. The given prefix may name a part of `seen`, or all of it.
    fn add_seen(&self, seen: &str, rest: &str, found: &mut Candidates) {
        let prefix = &*self.prefix;
        let mut named = seen.match_indices(prefix);
        if named.any(|(at, _)| is_boundary(seen, at + prefix.len())) {
            found.add(["", "", seen, rest]);
        }
        for at in boundaries(seen) {
            // Both begin with a slash, so that whole segments are compared.
            if prefix.ends_with(&seen[..at]) {
                found.add(["", prefix, &seen[at..], rest]);
            }
        }
    }
}

/// The paths that a request may have been sent for, at least one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Paths<'h> {
    /// The one that is recorded.
    pub(super) first: Cow<'h, str>,
    pub(super) others: Vec<String>,
}

impl<'h> Paths<'h> {
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

#[derive(Default)]
struct Candidates(Vec<String>);

impl Candidates {
    /// Adds the path that consists of these parts, if it is new.
    fn add(&mut self, [start, middle, end, rest]: [&str; 4]) {
        let front = [start, middle, end].concat();
        let needs_slash = !(front.is_empty() || rest.is_empty() || rest.starts_with('/'));
        let path = [&*front, if needs_slash { "/" } else { "" }, rest].concat();
        if !self.0.contains(&path) {
            self.0.push(path);
        }
    }
}

impl From<Candidates> for Paths<'_> {
    fn from(found: Candidates) -> Self {
        let mut paths = found.0.into_iter();
        Self {
            first: paths.next().unwrap_or_default().into(),
            others: paths.collect(),
        }
    }
}

/// The prefix that was removed from a path, and what is left of it, if it ends with what is left.
fn removed_from<'a>(original: &'a str, left: &'a str) -> Option<(&'a str, &'a str)> {
    match original.strip_suffix(left) {
        Some(removed) => Some((removed, left)),
        // What axum leaves of `/api` in a router at `/api`, as of `/api/`.
        None => (left == "/").then_some((original, "")),
    }
}

/// The indices at which a segment of a prefix begins, and its end.
fn boundaries(prefix: &str) -> impl Iterator<Item = usize> {
    // The longest first: a prefix that names all is the likeliest.
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
            let paths = Mount::at(prefix).paths(&head);
            assert!(paths.iter().eq([path]), "{prefix} {target}: {paths:?}");
        }
    }

    #[test]
    fn candidates_follow_from_the_original_path_the_nested_routers_and_the_prefix() {
        for (prefix, original, nested, path, expected) in [
            // Routers of axum alone.
            ("", "/data", "", "/data", &["/data"] as &[&str]),
            ("", "/api/data", "/api", "/data", &["/api/data"]),
            ("", "/api", "/api", "/", &["/api"]),
            ("", "/api/", "/api", "/", &["/api/"]),
            // Something in front of them removes the prefix.
            ("/api", "/data", "", "/data", &["/api/data"]),
            ("/a", "/admin/data", "/admin", "/data", &["/a/admin/data"]),
            ("/api", "/api2/data", "/api2", "/data", &["/api/api2/data"]),
            // The prefix may name nested routers, or something in front removed the same.
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
            let paths = Mount::at(prefix).candidates(Some(original), nested, path);
            let mut found: Vec<&str> = paths.iter().collect();
            let mut expected = expected.to_vec();
            found.sort_unstable();
            expected.sort_unstable();
            assert_eq!(found, expected, "{prefix} {original} {nested} {path}");
        }
    }

    /// Something removes `outer`, then routers of axum and something else remove `first`, `inner` and
    /// `last`, in this order.
    #[test]
    fn the_path_that_was_sent_is_a_candidate_whoever_removes_which_prefix() {
        let parts = ["", "/a", "/api", "/api/v1", "/admin"];
        let rests = ["/data", "/", "/api", "/a/api"];
        for [outer, first, inner, last] in fourfold(parts) {
            for rest in rests {
                let original = [first, inner, last, rest].concat();
                let sent = [outer, &original].concat();
                let nested = [first, last].concat();
                let mut truthful = vec![outer.to_owned(), [outer, first].concat()];
                truthful.push([outer, first, inner, last].concat());
                if outer.is_empty() {
                    truthful.extend([inner.to_owned(), [first, inner].concat()]);
                }
                for prefix in truthful {
                    let mount = Mount::at(&prefix);
                    let paths = mount.candidates(Some(&original), &nested, rest);
                    let found = paths.iter().any(|path| path == sent);
                    assert!(found, "{sent} {prefix} {nested} {rest}: {paths:?}");
                }
            }
        }
    }

    fn fourfold<T: Copy, const N: usize>(of: [T; N]) -> impl Iterator<Item = [T; 4]> {
        (0..N.pow(4)).map(move |i| [0, 1, 2, 3].map(|place| of[i / N.pow(place) % N]))
    }
}
